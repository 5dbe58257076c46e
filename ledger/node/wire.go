package node

import (
	"errors"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/wallet"
)

// What comes over the wire is hostile until a parser of package wallet has passed it. A transfer
// that does not parse becomes the zero Transfer, which every engine refuses as BadRequest.

// transferFromWire never fails: what is malformed in any way comes out as the zero Transfer.
func transferFromWire(p *ledgerpb.Transfer) wallet.Transfer {
	t := wallet.Transfer{
		Op:     opFromWire(p.GetOp()),
		Amount: amountFromWire(p.GetAmount()),
		Nonce:  p.GetNonce(),
		Rules:  rulesFromWire(p.GetRules()),
		Origin: originFromWire(p),
	}
	var errs [4]error
	if p.GetFrom() != "" {
		t.From, errs[0] = wallet.ParseAccount(p.GetFrom())
	}
	if p.GetTo() != "" {
		t.To, errs[1] = wallet.ParseAccount(p.GetTo())
	}
	t.Asset, errs[2] = wallet.ParseAsset(p.GetAsset())
	t.Idem, errs[3] = bareKey(p.GetIdempotencyKey())
	if errs != [4]error{} || len(p.GetFingerprint()) != len(t.Fingerprint) || !wellFormed(&t) {
		return wallet.Transfer{}
	}
	copy(t.Fingerprint[:], p.GetFingerprint())
	return t
}

// bareKey parses an idempotency key that is not in a header. wallet.ParseIdemKey takes a header's value, in which a leading
// quote starts the quoted form, so a bare key that starts with a quote goes there quoted.
func bareKey(s string) (wallet.IdemKey, error) {
	if s == "" || s[0] != '"' {
		return wallet.ParseIdemKey(s)
	}
	if len(s) > 64 {
		return wallet.IdemKey{}, wallet.ErrIdemKey
	}
	quoted := []byte{'"'}
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			quoted = append(quoted, '\\')
		}
		quoted = append(quoted, s[i])
	}
	return wallet.ParseIdemKey(append(quoted, '"'))
}

// originFromWire drops what is malformed: it only serves logs, and no payment fails for them.
func originFromWire(p *ledgerpb.Transfer) (o wallet.Origin) {
	o.Corr, _ = wallet.ParseCorrID(p.GetCorrId())
	o.Trace, _ = wallet.ParseTrace(p.GetTraceparent())
	return o
}

func rulesFromWire(p *ledgerpb.Rules) wallet.Rules {
	return wallet.Rules{
		DailyCeiling:    amountFromWire(p.GetDailyCeiling()),
		MaxAccountTotal: amountFromWire(p.GetMaxAccountTotal()),
		NonceStart:      p.GetNonceStart(),
		NonceMaxGap:     p.GetNonceMaxGap(),
	}
}

func amountFromWire(p *ledgerpb.Amount) wallet.Amount {
	return wallet.AmountFromBits(p.GetHi(), p.GetLo())
}

func opFromWire(op ledgerpb.Op) wallet.Op {
	switch op {
	case ledgerpb.Op_OP_ISSUE:
		return wallet.Issue
	case ledgerpb.Op_OP_TRANSFER:
		return wallet.Pay
	case ledgerpb.Op_OP_BURN:
		return wallet.Burn
	default:
		return wallet.NoOp
	}
}

var errKey = errors.New("a key names no balance")

func balanceKeyFromWire(p *ledgerpb.BalanceKey) (wallet.BalanceKey, error) {
	account, err1 := wallet.ParseAccount(p.GetAccount())
	asset, err2 := wallet.ParseAsset(p.GetAsset())
	if err1 != nil || err2 != nil {
		return wallet.BalanceKey{}, errKey
	}
	return wallet.BalanceKey{Account: account, Asset: asset}, nil
}

// names collects the texts of a message in one buffer, so that they cost one string together.
type names struct {
	buf  []byte
	ends []int
}

// add is generic because an identifier in an interface would be a copy on the heap.
func add[T interface{ Append([]byte) []byte }](n *names, text T) {
	n.buf = text.Append(n.buf)
	n.ends = append(n.ends, len(n.buf))
}

// cut yields the texts in the order they were added.
func (n *names) cut() func() string {
	all, begin, i := string(n.buf), 0, 0
	return func() string {
		text := all[begin:n.ends[i]]
		begin = n.ends[i]
		i++
		return text
	}
}

// resultMessages are the messages that one result needs, laid out together.
type resultMessages struct {
	result  ledgerpb.Result
	receipt ledgerpb.Receipt
	amount  ledgerpb.Amount
	day     ledgerpb.Amount
	txid    wallet.TxID
}

func resultsToWire(out []wallet.Result) *ledgerpb.CommitResponse {
	n := names{buf: make([]byte, 0, 64*len(out)), ends: make([]int, 0, 4*len(out))}
	balances := make([]wallet.Balance, 0, 2*len(out))
	for i := range out {
		if r := &out[i].Receipt; told(&out[i]) {
			add(&n, r.From)
			add(&n, r.To)
			add(&n, r.Asset)
			add(&n, r.Idem)
		}
		balances = append(balances, touched(&out[i])...)
	}
	next, figures := n.cut(), balancesToWire(balances)
	messages := make([]resultMessages, len(out))
	res := &ledgerpb.CommitResponse{Results: make([]*ledgerpb.Result, len(out))}
	for i := range out {
		r, m := &out[i], &messages[i]
		p := &m.result
		p.Verdict, p.NextNonce = verdictToWire(r.Code), r.NextNonce
		if told(r) {
			m.txid = r.Receipt.TxID
			m.amount.Hi, m.amount.Lo = r.Receipt.Amount.Bits()
			m.receipt.Txid, m.receipt.Op, m.receipt.Amount = m.txid[:], opToWire(r.Receipt.Op), &m.amount
			m.receipt.From, m.receipt.To, m.receipt.Asset, m.receipt.IdempotencyKey = next(), next(), next(), next()
			m.receipt.Nonce, m.receipt.UnixMillis = r.Receipt.Nonce, r.Receipt.Millis
			p.Seq, p.Receipt = r.Seq, &m.receipt
		}
		if r.Code == wallet.OK && !r.DayTotal.IsZero() {
			m.day.Hi, m.day.Lo = r.DayTotal.Bits()
			p.DayTotal = &m.day
		}
		if r.Code == wallet.LimitsExceeded && r.Limit != wallet.NoLimit {
			p.Limit, p.Remaining, p.ResetsAtUnixMillis = limitToWire(r.Limit), amountToWire(r.Remaining), r.ResetsAt
		}
		k := len(touched(r))
		p.Balances, figures = figures[:k:k], figures[k:]
		res.Results[i] = p
	}
	return res
}

// told says whether a result has a receipt to tell.
func told(r *wallet.Result) bool { return r.Code == wallet.OK || r.Code == wallet.Replayed }

// touched are the balances that the result uses.
func touched(r *wallet.Result) []wallet.Balance {
	n := 0
	for n < len(r.Balances) && !r.Balances[n].Key.Account.IsZero() {
		n++
	}
	return r.Balances[:n]
}

func balancesToWire(in []wallet.Balance) []*ledgerpb.Balance {
	type messages struct {
		balance ledgerpb.Balance
		amount  ledgerpb.Amount
	}
	n := names{buf: make([]byte, 0, 32*len(in)), ends: make([]int, 0, 2*len(in))}
	for i := range in {
		add(&n, in[i].Key.Account)
		add(&n, in[i].Key.Asset)
	}
	next, all, out := n.cut(), make([]messages, len(in)), make([]*ledgerpb.Balance, len(in))
	for i := range in {
		m := &all[i]
		m.amount.Hi, m.amount.Lo = in[i].Amount.Bits()
		m.balance.Account, m.balance.Asset = next(), next()
		m.balance.Amount, m.balance.Nonce, m.balance.Seq = &m.amount, in[i].Nonce, in[i].Seq
		out[i] = &m.balance
	}
	return out
}

// verdictToWire maps what has no verdict, a bug of ours included, to an unknown outcome.
func verdictToWire(c wallet.Code) ledgerpb.Verdict {
	switch c {
	case wallet.OK:
		return ledgerpb.Verdict_VERDICT_APPLIED
	case wallet.Replayed:
		return ledgerpb.Verdict_VERDICT_REPLAYED
	case wallet.KeyReused:
		return ledgerpb.Verdict_VERDICT_KEY_REUSED
	case wallet.NonceConflict:
		return ledgerpb.Verdict_VERDICT_NONCE_CONFLICT
	case wallet.LimitsExceeded:
		return ledgerpb.Verdict_VERDICT_LIMITS_EXCEEDED
	case wallet.InsufficientFunds:
		return ledgerpb.Verdict_VERDICT_INSUFFICIENT_FUNDS
	case wallet.BadRequest:
		return ledgerpb.Verdict_VERDICT_INVALID
	default:
		return ledgerpb.Verdict_VERDICT_UNSPECIFIED
	}
}

func limitToWire(l wallet.Limit) ledgerpb.Limit {
	switch l {
	case wallet.DailyCeiling:
		return ledgerpb.Limit_LIMIT_DAILY_CEILING
	case wallet.AccountTotal:
		return ledgerpb.Limit_LIMIT_ACCOUNT_TOTAL
	case wallet.SupplyTotal:
		return ledgerpb.Limit_LIMIT_SUPPLY
	default:
		return ledgerpb.Limit_LIMIT_UNSPECIFIED
	}
}

func receiptToWire(r *wallet.Receipt) *ledgerpb.Receipt {
	return &ledgerpb.Receipt{
		Txid: append([]byte(nil), r.TxID[:]...), Op: opToWire(r.Op), From: r.From.String(), To: r.To.String(),
		Asset: r.Asset.String(), Amount: amountToWire(r.Amount), Nonce: r.Nonce,
		IdempotencyKey: r.Idem.String(), UnixMillis: r.Millis,
	}
}

func opToWire(op wallet.Op) ledgerpb.Op {
	switch op {
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

func amountToWire(a wallet.Amount) *ledgerpb.Amount {
	hi, lo := a.Bits()
	return &ledgerpb.Amount{Hi: hi, Lo: lo}
}
