package wire

import (
	"fmt"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/wallet"
)

// EncodeCommit makes the request. The memory is fresh: gRPC may look at it after the call.
func EncodeCommit(batch []wallet.Payment) *ledgerpb.CommitRequest {
	const perPayment, bytes = 6, 22
	x := newTexts(perPayment*len(batch), bytes)
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
	messages := make([]struct { // of one payment, laid out together
		transfer               ledgerpb.Transfer
		rules                  ledgerpb.Rules
		amount, ceiling, total ledgerpb.Amount
	}, len(batch))
	req := &ledgerpb.CommitRequest{Transfers: make([]*ledgerpb.Transfer, len(batch))}
	for i := range batch {
		t, m := &batch[i], &messages[i]
		m.rules.DailyCeiling = encodeAmount(&m.ceiling, t.Rules.DailyCeiling)
		m.rules.MaxAccountTotal = encodeAmount(&m.total, t.Rules.MaxAccountTotal)
		m.rules.NonceStart, m.rules.NonceMaxGap = t.Rules.NonceStart, t.Rules.NonceMaxGap
		m.transfer.Op, m.transfer.Nonce = ops.encode(t.Op), t.Nonce
		m.transfer.From, m.transfer.To, m.transfer.Asset = next(), next(), next()
		m.transfer.IdempotencyKey, m.transfer.CorrId, m.transfer.Traceparent = next(), next(), next()
		m.transfer.Amount, m.transfer.Rules = encodeAmount(&m.amount, t.Amount), &m.rules
		m.transfer.Fingerprint = append([]byte(nil), t.Fingerprint[:]...)
		req.Transfers[i] = &m.transfer
	}
	return req
}

// DecodePayment never fails: what is malformed in any way comes out as the zero Payment. The origin
// only serves logs, and no payment fails for it.
func DecodePayment(m *ledgerpb.Transfer) wallet.Payment {
	t := wallet.Payment{Op: ops.decode(m.GetOp()), Nonce: m.GetNonce()}
	var errs [4]error
	t.From, errs[0] = decodeAccount(m.GetFrom())
	t.To, errs[1] = decodeAccount(m.GetTo())
	t.Asset, errs[2] = wallet.ParseAsset(m.GetAsset())
	t.Idem, errs[3] = wallet.IdemKeyFromText(m.GetIdempotencyKey())
	t.Amount, _ = decodeAmount(m.GetAmount())
	if errs != [4]error{} || len(m.GetFingerprint()) != len(t.Fingerprint) || !t.WellFormed() {
		return wallet.Payment{}
	}
	copy(t.Fingerprint[:], m.GetFingerprint())
	rules := m.GetRules()
	t.Rules.DailyCeiling, _ = decodeAmount(rules.GetDailyCeiling())
	t.Rules.MaxAccountTotal, _ = decodeAmount(rules.GetMaxAccountTotal())
	t.Rules.NonceStart, t.Rules.NonceMaxGap = rules.GetNonceStart(), rules.GetNonceMaxGap()
	t.Origin.Corr, _ = wallet.ParseCorrID(m.GetCorrId())
	t.Origin.Trace, _ = wallet.ParseTrace(m.GetTraceparent())
	return t
}

// EncodeResults makes the answer. A code that is no verdict, a bug of ours included, goes out as an
// unknown outcome.
func EncodeResults(out []wallet.Result) *ledgerpb.CommitResponse {
	const perReceipt, bytes = 4, 16
	x := newTexts(perReceipt*len(out), bytes)
	balances := make([]wallet.Balance, 0, 2*len(out))
	for i := range out {
		if r := &out[i].Receipt; out[i].Code.Outcome() == wallet.Applied {
			add(&x, r.From)
			add(&x, r.To)
			add(&x, r.Asset)
			add(&x, r.Idem)
		}
		balances = append(balances, touched(&out[i])...)
	}
	next, figures := x.cut(), EncodeBalances(balances)
	messages := make([]struct { // of one result, laid out together
		result                      ledgerpb.Result
		receipt                     ledgerpb.Receipt
		amount, dayTotal, remaining ledgerpb.Amount
		txid                        wallet.TxID
	}, len(out))
	res := &ledgerpb.CommitResponse{Results: make([]*ledgerpb.Result, len(out))}
	for i := range out {
		r, m := &out[i], &messages[i]
		p := &m.result
		p.Verdict, p.NextNonce = verdicts.encode(r.Code), r.NextNonce
		if r.Code.Outcome() == wallet.Applied {
			m.txid = r.Receipt.TxID
			m.receipt.Txid, m.receipt.Op, m.receipt.Amount = m.txid[:], ops.encode(r.Receipt.Op), encodeAmount(&m.amount, r.Receipt.Amount)
			m.receipt.From, m.receipt.To, m.receipt.Asset, m.receipt.IdempotencyKey = next(), next(), next(), next()
			m.receipt.Nonce, m.receipt.UnixMillis = r.Receipt.Nonce, r.Receipt.Millis
			p.Seq, p.Receipt = r.Seq, &m.receipt
		}
		if r.Code == wallet.OK && !r.DayTotal.IsZero() {
			p.DayTotal = encodeAmount(&m.dayTotal, r.DayTotal)
		}
		if r.Code == wallet.LimitsExceeded && r.Limit != wallet.NoLimit {
			p.Limit, p.Remaining, p.ResetsAtUnixMillis = limits.encode(r.Limit), encodeAmount(&m.remaining, r.Remaining), r.ResetsAt
		}
		k := len(touched(r))
		p.Balances, figures = figures[:k:k], figures[k:]
		res.Results[i] = p
	}
	return res
}

// touched are the balances that the result uses.
func touched(r *wallet.Result) []wallet.Balance {
	n := 0
	for n < len(r.Balances) && !r.Balances[n].Key.Account.IsZero() {
		n++
	}
	return r.Balances[:n]
}

// DecodeCommit fills out, which is as long as batch. A count that does not match is an error, and
// out is untouched: nobody can say which result is whose. A single malformed result is Uncertain.
func DecodeCommit(batch []wallet.Payment, res *ledgerpb.CommitResponse, out []wallet.Result) error {
	if len(res.GetResults()) != len(batch) {
		return fmt.Errorf("%w: %d results for %d payments", ErrMalformed, len(res.GetResults()), len(batch))
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
// that contradicts itself or t, and for a verdict of a later protocol.
func decodeResult(t *wallet.Payment, m *ledgerpb.Result) (r wallet.Result) {
	r.Code = verdicts.decode(m.GetVerdict())
	ok := false
	switch r.Code.Outcome() {
	case wallet.Applied:
		ok = decodeApplied(t, m, &r)
	case wallet.Refused:
		ok = m.GetReceipt() == nil && len(m.GetBalances()) == 0
	default:
	}
	switch {
	case !ok:
		return wallet.Result{}
	case r.Code == wallet.NonceConflict:
		r.NextNonce = m.GetNextNonce()
	case r.Code == wallet.LimitsExceeded:
		decodeLimit(t, m, &r)
	}
	return r
}

// decodeLimit reads which limit t ran into. The refusal stands whatever the node says of it; what
// cannot be so is left out.
func decodeLimit(t *wallet.Payment, m *ledgerpb.Result, r *wallet.Result) {
	remaining, told := decodeAmount(m.GetRemaining())
	limit := limits.decode(m.GetLimit())
	if limit == wallet.NoLimit || !told || remaining.Cmp(t.Amount) >= 0 {
		return
	}
	r.Limit, r.Remaining = limit, remaining
	if at := m.GetResetsAtUnixMillis(); limit == wallet.DailyCeiling && at > 0 && at <= maxMillis {
		r.ResetsAt = at
	}
}

// decodeApplied reads a receipt, which must be t's, and after a first commit what t left behind.
func decodeApplied(t *wallet.Payment, m *ledgerpb.Result, r *wallet.Result) (ok bool) {
	r.Seq = m.GetSeq()
	if r.Receipt, ok = decodeReceipt(m.GetReceipt()); !ok || r.Seq == 0 || r.Receipt != t.Receipt(r.Receipt.TxID, r.Receipt.Millis) {
		return false
	}
	if r.Code == wallet.Replayed {
		return true
	}
	// The day's total may be missing. It includes t, and is what t may bring it to.
	total, told := decodeAmount(m.GetDayTotal())
	if told && (total.Cmp(t.Amount) < 0 || total.Cmp(t.Rules.DailyCeiling) > 0) {
		return false
	}
	r.DayTotal = total
	return decodeTouched(t, m, &r.Balances)
}

// decodeTouched reads the balances of t's accounts after its commit: each one once, in either order,
// first the debited one.
func decodeTouched(t *wallet.Payment, m *ledgerpb.Result, out *[2]wallet.Balance) (ok bool) {
	n := 0
	for _, a := range [2]wallet.Account{t.From, t.To} {
		if !a.IsZero() {
			out[n].Key = wallet.BalanceKey{Account: a, Asset: t.Asset}
			n++
		}
	}
	told := m.GetBalances()
	if len(told) != n {
		return false
	}
	for i := range n {
		key := out[i].Key
		if out[i], ok = decodeBalance(told[i]); n == 2 && out[i].Key != key {
			out[i], ok = decodeBalance(told[1-i])
		}
		if !ok || out[i].Key != key || out[i].Seq < m.GetSeq() || (key.Account == t.From && out[i].Nonce < t.Nonce) {
			return false
		}
	}
	return true
}
