package filters

import (
	"errors"
	"sync"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// Payload is the filter "payload": it decodes what is asked for, and lets nothing through that
// could be read in two ways. A payment's body is checked in this order: idempotency key,
// compression and sizes, then the JSON and its members from left to right, then what is missing.
type Payload struct {
	now       func() int64
	inflaters sync.Pool // of *inflater
	large     allowance
}

// NewPayload makes the filter "payload". now is Unix nanoseconds.
func NewPayload(now func() int64) *Payload {
	return &Payload{now: now, inflaters: sync.Pool{New: func() any { return newInflater(now) }}}
}

// Check fills x.Payment from a payment's body and key, x.TxID from x.TxText, x.Balance from
// x.Account and x.Asset, or x.Balance.Account and x.Idem from x.Account and x.IdemText; a read
// allocates nothing. It answers, with the rule in x.Detail, BadRequest or BodyTooLarge, and of a
// compressed body also Forbidden or Busy.
func (f *Payload) Check(x *Exchange) wallet.Code {
	switch {
	case x.Unfit != "":
		return x.Refuse(wallet.BadRequest, x.Unfit)
	case x.Op == wallet.NoOp:
		return wallet.BadRequest
	case x.Op == wallet.Read:
		return x.passOr(decodeRead(x))
	default:
		return f.decodeWrite(x)
	}
}

// passOr lets x pass where there is no error. The errors here are constant texts.
func (x *Exchange) passOr(err error) wallet.Code {
	switch {
	case err == nil:
		return wallet.Pass
	case errors.Is(err, errBodySize):
		return x.Refuse(wallet.BodyTooLarge, err.Error())
	case errors.Is(err, errGzipBusy), errors.Is(err, errGzipLate):
		return x.Refuse(wallet.Busy, err.Error())
	default:
		return x.Refuse(wallet.BadRequest, err.Error())
	}
}

func decodeRead(x *Exchange) (err error) {
	if x.TxText != nil {
		x.TxID, err = wallet.ParseTxID(x.TxText)
		return err
	}
	if x.Balance.Account, err = wallet.ParseAccount(x.Account); err != nil {
		return err
	}
	if x.ByKey {
		x.Idem, err = wallet.ParseIdemKey(x.IdemText)
		return err
	}
	x.Balance.Asset, err = wallet.ParseAsset(x.Asset)
	return err
}

func (f *Payload) decodeWrite(x *Exchange) wallet.Code {
	key, err := wallet.ParseIdemKey(x.Key)
	if err != nil {
		return x.passOr(err)
	}
	if len(x.Body) > x.Limits.MaxBodyBytes {
		return x.passOr(errBodySize)
	}
	x.Payment = wallet.Payment{Op: x.Op, Idem: key, Origin: x.Origin}
	if !x.Gzip {
		return x.passOr(decodeBody(&x.Payment, x.Body))
	}
	// Whether a compressed body is sound shows only by decompressing it, so scope comes before that
	// as far as it is known.
	if !x.Grant.coversSome(x.Op) {
		return x.Refuse(wallet.Forbidden, notThisAction)
	}
	return x.passOr(f.decodeGzip(x))
}

func (f *Payload) decodeGzip(x *Exchange) error {
	size, err := inflatedSize(x.Body, x.Limits.MaxBodyBytes, x.Limits.DecompressRatioCap)
	if err != nil {
		return err
	}
	if size > inflateFree && !f.large.take(size, f.now()) {
		return errGzipBusy
	}
	z := f.inflaters.Get().(*inflater)
	defer f.give(z)
	body, err := z.inflate(x.Body, size, x.Deadline)
	if err != nil {
		return err
	}
	x.inflated = len(body)
	return decodeBody(&x.Payment, body)
}

// Shadow implements Shadower. The edge judges what was sent, this what that became.
func (*Payload) Shadow(x *Exchange, l *config.Limits) (over ShadowSet) {
	over.set(ShadowBody, x.inflated > l.MaxBodyBytes)
	over.set(ShadowRatio, x.inflated > l.DecompressRatioCap*len(x.Body))
	return over
}

// give puts z back without the request's bytes.
func (f *Payload) give(z *inflater) {
	z.forget()
	f.inflaters.Put(z)
}
