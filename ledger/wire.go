package ledger

import (
	"errors"
	"fmt"
	"strconv"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/wallet"
)

// This file translates between the vocabulary and the node protocol. The node is not trusted to
// be well: every field of its answers is checked against the question, because a garbled answer
// that reads as paid is money lost. What is garbled is an error or wallet.Uncertain, never more.

// errWire wraps what is wrong with an answer.
var errWire = errors.New("garbled answer of the node")

// maxMillis is the last millisecond of the year 9999, which the format of receipts can show.
const maxMillis = 253402300799999

// texts collects the identifiers of a message in one buffer, so that a message costs one string.
type texts struct {
	buf  []byte
	ends []int
}

// add is generic because an identifier in an interface would be a copy on the heap.
func add[T interface{ Append([]byte) []byte }](x *texts, s T) {
	x.buf = s.Append(x.buf)
	x.ends = append(x.ends, len(x.buf))
}

// cut returns a function that yields the texts in the order they were added.
func (x *texts) cut() func() string {
	all, start, i := string(x.buf), 0, 0
	return func() string {
		s := all[start:x.ends[i]]
		start = x.ends[i]
		i++
		return s
	}
}

// traceText is a wallet.Trace that can be appended.
type traceText wallet.Trace

func (t traceText) Append(dst []byte) []byte { return append(dst, wallet.Trace(t).String()...) }

// transferMessages are the messages that one transfer needs, laid out together.
type transferMessages struct {
	transfer               ledgerpb.Transfer
	rules                  ledgerpb.Rules
	amount, ceiling, total ledgerpb.Amount
}

// encodeCommit makes the request. The memory is fresh: gRPC may look at it after the call.
func encodeCommit(batch []wallet.Transfer) *ledgerpb.CommitRequest {
	const perTransfer = 6
	x := texts{buf: make([]byte, 0, len(batch)*128), ends: make([]int, 0, len(batch)*perTransfer)}
	for i := range batch {
		t := &batch[i]
		add(&x, t.From)
		add(&x, t.To)
		add(&x, t.Asset)
		add(&x, t.Idem)
		add(&x, t.Origin.Corr)
		add(&x, traceText(t.Origin.Trace))
	}
	next := x.cut()
	messages := make([]transferMessages, len(batch))
	req := &ledgerpb.CommitRequest{Transfers: make([]*ledgerpb.Transfer, len(batch))}
	for i := range batch {
		t, m := &batch[i], &messages[i]
		m.amount.Hi, m.amount.Lo = t.Amount.Bits()
		m.ceiling.Hi, m.ceiling.Lo = t.Rules.DailyCeiling.Bits()
		m.total.Hi, m.total.Lo = t.Rules.MaxAccountTotal.Bits()
		m.rules.DailyCeiling, m.rules.MaxAccountTotal = &m.ceiling, &m.total
		m.rules.NonceStart, m.rules.NonceMaxGap = t.Rules.NonceStart, t.Rules.NonceMaxGap
		m.transfer.Op = wireOp(t.Op)
		m.transfer.From, m.transfer.To, m.transfer.Asset = next(), next(), next()
		m.transfer.IdempotencyKey, m.transfer.CorrId, m.transfer.Traceparent = next(), next(), next()
		m.transfer.Amount, m.transfer.Rules = &m.amount, &m.rules
		m.transfer.Nonce = t.Nonce
		m.transfer.Fingerprint = append([]byte(nil), t.Fingerprint[:]...)
		req.Transfers[i] = &m.transfer
	}
	return req
}

func wireOp(o wallet.Op) ledgerpb.Op {
	switch o {
	case wallet.Issue:
		return ledgerpb.Op_OP_ISSUE
	case wallet.Pay:
		return ledgerpb.Op_OP_TRANSFER
	case wallet.Burn:
		return ledgerpb.Op_OP_BURN
	default:
		return ledgerpb.Op_OP_UNSPECIFIED
	}
}

// decodeCommit fills out, which is as long as batch. A count that does not match is an error, and
// out is untouched: nobody can say which result is whose. A single garbled result is Uncertain.
func decodeCommit(batch []wallet.Transfer, res *ledgerpb.CommitResponse, out []wallet.Result) error {
	if len(res.GetResults()) != len(batch) {
		return fmt.Errorf("%w: %d results for %d transfers", errWire, len(res.GetResults()), len(batch))
	}
	var last uint64 // a batch is judged in order, so what it commits has growing versions
	for i := range batch {
		r := decodeResult(&batch[i], res.GetResults()[i])
		if r.Code == wallet.OK {
			if r.Seq > last {
				last = r.Seq
			} else {
				r = wallet.Result{}
			}
		}
		out[i] = r
	}
	return nil
}

// decodeResult reads the node's word on t. The zero Result, which is Uncertain, is for every word
// that contradicts itself or t.
func decodeResult(t *wallet.Transfer, r *ledgerpb.Result) wallet.Result {
	switch v := r.GetVerdict(); v {
	case ledgerpb.Verdict_VERDICT_APPLIED, ledgerpb.Verdict_VERDICT_REPLAYED:
		return decodeCommitted(t, r, v)
	case ledgerpb.Verdict_VERDICT_NONCE_CONFLICT:
		return refusal(r, wallet.Result{Code: wallet.NonceConflict, NextNonce: r.GetNextNonce()})
	case ledgerpb.Verdict_VERDICT_KEY_REUSED:
		return refusal(r, wallet.Result{Code: wallet.KeyReused})
	case ledgerpb.Verdict_VERDICT_LIMITS_EXCEEDED:
		return refusal(r, limitHit(t, r))
	case ledgerpb.Verdict_VERDICT_INSUFFICIENT_FUNDS:
		return refusal(r, wallet.Result{Code: wallet.InsufficientFunds})
	case ledgerpb.Verdict_VERDICT_INVALID:
		return refusal(r, wallet.Result{Code: wallet.BadRequest})
	case ledgerpb.Verdict_VERDICT_UNSPECIFIED:
		return wallet.Result{}
	default: // a verdict of a later protocol
		return wallet.Result{}
	}
}

// refusal is the answer, unless the node hands out a receipt for what it refuses.
func refusal(r *ledgerpb.Result, answer wallet.Result) wallet.Result {
	if r.GetReceipt() != nil || len(r.GetBalances()) != 0 {
		return wallet.Result{}
	}
	return answer
}

// limitHit reads which limit t ran into. The refusal stands whatever the node says of it; what
// cannot be so is left out.
func limitHit(t *wallet.Transfer, r *ledgerpb.Result) wallet.Result {
	hit := wallet.Result{Code: wallet.LimitsExceeded}
	remaining, told := decodeAmount(r.GetRemaining())
	limit := limitOf(r.GetLimit())
	if limit == wallet.NoLimit || !told || remaining.Cmp(t.Amount) >= 0 {
		return hit
	}
	hit.Limit, hit.Remaining = limit, remaining
	if at := r.GetResetsAtUnixMillis(); limit == wallet.DailyCeiling && at > 0 && at <= maxMillis {
		hit.ResetsAt = at
	}
	return hit
}

func limitOf(l ledgerpb.Limit) wallet.Limit {
	switch l {
	case ledgerpb.Limit_LIMIT_DAILY_CEILING:
		return wallet.DailyCeiling
	case ledgerpb.Limit_LIMIT_ACCOUNT_TOTAL:
		return wallet.AccountTotal
	case ledgerpb.Limit_LIMIT_SUPPLY:
		return wallet.SupplyTotal
	case ledgerpb.Limit_LIMIT_UNSPECIFIED:
		return wallet.NoLimit
	default: // a limit of a later protocol
		return wallet.NoLimit
	}
}

func decodeCommitted(t *wallet.Transfer, r *ledgerpb.Result, v ledgerpb.Verdict) wallet.Result {
	receipt, ok := receiptOf(t, r.GetReceipt())
	if !ok || r.GetSeq() == 0 {
		return wallet.Result{}
	}
	answer := wallet.Result{Code: wallet.Replayed, Seq: r.GetSeq(), Receipt: receipt}
	if v == ledgerpb.Verdict_VERDICT_APPLIED {
		answer.Code = wallet.OK
		if answer.Balances, ok = touched(t, r); !ok {
			return wallet.Result{}
		}
		if answer.DayTotal, ok = dayTotal(t, r); !ok {
			return wallet.Result{}
		}
	}
	return answer
}

// receiptOf reads the receipt of t. What it says of the payment must be what was asked, so only
// the id and the time are taken from it.
func receiptOf(t *wallet.Transfer, r *ledgerpb.Receipt) (wallet.Receipt, bool) {
	id, idOK := decodeTxID(r.GetTxid())
	amount, amountOK := decodeAmount(r.GetAmount())
	ok := idOK && amountOK && amount == t.Amount && r.GetOp() == wireOp(t.Op) && r.GetNonce() == t.Nonce &&
		isAccount(t.From, r.GetFrom()) && isAccount(t.To, r.GetTo()) && isAsset(t.Asset, r.GetAsset()) &&
		isKey(t.Idem, r.GetIdempotencyKey()) && r.GetUnixMillis() > 0 && r.GetUnixMillis() <= maxMillis
	if !ok {
		return wallet.Receipt{}, false
	}
	return wallet.Receipt{
		TxID: id, Op: t.Op, From: t.From, To: t.To, Asset: t.Asset, Amount: t.Amount,
		Nonce: t.Nonce, Idem: t.Idem, Millis: r.GetUnixMillis(),
	}, true
}

// touched reads the balances of t's accounts after its commit: each one once, in either order,
// first the debited one.
func touched(t *wallet.Transfer, r *ledgerpb.Result) (out [2]wallet.Balance, ok bool) {
	var want [2]wallet.Account
	n := 0
	for _, a := range [2]wallet.Account{t.From, t.To} {
		if !a.IsZero() {
			want[n] = a
			n++
		}
	}
	if len(r.GetBalances()) != n {
		return out, false
	}
	for i, account := range want[:n] {
		b := r.GetBalances()[i]
		if n == 2 && !isAccount(account, b.GetAccount()) {
			b = r.GetBalances()[1-i]
		}
		out[i], ok = balanceOf(wallet.BalanceKey{Account: account, Asset: t.Asset}, b)
		if !ok || out[i].Seq < r.GetSeq() || (account == t.From && out[i].Nonce < t.Nonce) {
			return [2]wallet.Balance{}, false
		}
	}
	return out, true
}

// dayTotal reads what t's daily ceiling bounds, zero where the node does not tell it. It includes t,
// and what t may not bring it to.
func dayTotal(t *wallet.Transfer, r *ledgerpb.Result) (total wallet.Amount, ok bool) {
	total, told := decodeAmount(r.GetDayTotal())
	return total, !told || (total.Cmp(t.Amount) >= 0 && total.Cmp(t.Rules.DailyCeiling) <= 0)
}

// balanceOf reads the balance that was asked for as key.
func balanceOf(key wallet.BalanceKey, b *ledgerpb.Balance) (wallet.Balance, bool) {
	amount, ok := decodeAmount(b.GetAmount())
	if !ok || !isAccount(key.Account, b.GetAccount()) || !isAsset(key.Asset, b.GetAsset()) {
		return wallet.Balance{}, false
	}
	return wallet.Balance{Key: key, Amount: amount, Nonce: b.GetNonce(), Seq: b.GetSeq()}, true
}

func encodeLookup(keys []wallet.BalanceKey) *ledgerpb.LookupRequest {
	x := texts{buf: make([]byte, 0, len(keys)*48), ends: make([]int, 0, len(keys)*2)}
	for i := range keys {
		add(&x, keys[i].Account)
		add(&x, keys[i].Asset)
	}
	next := x.cut()
	messages := make([]ledgerpb.BalanceKey, len(keys))
	req := &ledgerpb.LookupRequest{Keys: make([]*ledgerpb.BalanceKey, len(keys))}
	for i := range messages {
		messages[i].Account, messages[i].Asset = next(), next()
		req.Keys[i] = &messages[i]
	}
	return req
}

// decodeLookup fills out, which is as long as keys, or touches nothing of it.
func decodeLookup(keys []wallet.BalanceKey, res *ledgerpb.LookupResponse, out []wallet.Balance) error {
	if len(res.GetBalances()) != len(keys) {
		return fmt.Errorf("%w: %d balances for %d keys", errWire, len(res.GetBalances()), len(keys))
	}
	figures := make([]wallet.Balance, len(keys))
	for i, key := range keys {
		var ok bool
		if figures[i], ok = balanceOf(key, res.GetBalances()[i]); !ok {
			return fmt.Errorf("%w: balance %d is not the one asked for", errWire, i)
		}
	}
	copy(out, figures)
	return nil
}

// decodeReceipt reads a receipt that stands for itself; asked says whether it is the one asked for.
func decodeReceipt(res *ledgerpb.TransactionResponse, asked func(*wallet.Receipt) bool) (wallet.Receipt, uint64, error) {
	m := res.GetReceipt()
	var t wallet.Transfer
	var errs [5]error
	t.Op = opOf(m.GetOp())
	if t.Op != wallet.Issue {
		t.From, errs[0] = wallet.ParseAccount(m.GetFrom())
	}
	if t.Op != wallet.Burn {
		t.To, errs[1] = wallet.ParseAccount(m.GetTo())
	}
	t.Asset, errs[2] = wallet.ParseAsset(m.GetAsset())
	t.Idem, errs[3] = parseBareKey(m.GetIdempotencyKey())
	t.Nonce = m.GetNonce()
	t.Amount, _ = decodeAmount(m.GetAmount())
	r, ok := receiptOf(&t, m)
	if !ok || t.Op == wallet.NoOp || t.From == t.To || t.Nonce == 0 || t.Amount.IsZero() || !asked(&r) || res.GetSeq() == 0 {
		errs[4] = errors.New("not a receipt of that transaction")
	}
	if err := errors.Join(errs[:]...); err != nil {
		return wallet.Receipt{}, 0, fmt.Errorf("%w: %w", errWire, err)
	}
	return r, res.GetSeq(), nil
}

// parseBareKey reads a key's text, which may begin with a quote: ParseIdemKey takes that for the
// quoted form, so it is given the quoted form.
func parseBareKey(s string) (wallet.IdemKey, error) {
	if len(s) > 0 && s[0] == '"' {
		s = strconv.Quote(s)
	}
	return wallet.ParseIdemKey(s)
}

func opOf(o ledgerpb.Op) wallet.Op {
	for _, op := range [...]wallet.Op{wallet.Issue, wallet.Pay, wallet.Burn} {
		if wireOp(op) == o {
			return op
		}
	}
	return wallet.NoOp
}

// decodeChange reads a step of the stream after version at. A node may send a large step as
// several messages, of which all but the last bear the version before it; so a figure may be of a
// later version than its message.
func decodeChange(at uint64, m *ledgerpb.WatchResponse) (wallet.Change, error) {
	if m.GetSeq() < at {
		// Not the history that the copy was made of: the ledger was restored, or is another one.
		return wallet.Change{}, fmt.Errorf("%w: version went back from %d to %d", ErrBacklog, at, m.GetSeq())
	}
	c := wallet.Change{Seq: m.GetSeq()}
	if len(m.GetBalances()) > 0 {
		c.Balances = make([]wallet.Balance, len(m.GetBalances()))
	}
	for i, b := range m.GetBalances() {
		account, err1 := wallet.ParseAccount(b.GetAccount())
		asset, err2 := wallet.ParseAsset(b.GetAsset())
		figure, ok := balanceOf(wallet.BalanceKey{Account: account, Asset: asset}, b)
		if err1 != nil || err2 != nil || !ok {
			return wallet.Change{}, fmt.Errorf("%w: balance %d of step %d", errWire, i, m.GetSeq())
		}
		c.Balances[i] = figure
	}
	return c, nil
}

func decodeAmount(a *ledgerpb.Amount) (wallet.Amount, bool) {
	return wallet.AmountFromBits(a.GetHi(), a.GetLo()), a != nil
}

func decodeTxID(b []byte) (id wallet.TxID, ok bool) {
	copy(id[:], b)
	return id, len(b) == len(id) && !id.IsZero()
}

// isAccount, isAsset and isKey say whether s is the text of want. A text that does not parse is
// that of no identifier, not even of the zero one, whose text is empty.
func isAccount(want wallet.Account, s string) bool {
	got, _ := wallet.ParseAccount(s)
	return got == want && want.IsZero() == (s == "")
}

func isAsset(want wallet.Asset, s string) bool {
	got, _ := wallet.ParseAsset(s)
	return got == want && want.IsZero() == (s == "")
}

func isKey(want wallet.IdemKey, s string) bool {
	got, _ := parseBareKey(s)
	return got == want && want.IsZero() == (s == "")
}
