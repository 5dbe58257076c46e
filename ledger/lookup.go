package ledger

import (
	"context"
	"errors"
	"time"

	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// lookup asks the ledger, again while its answers are too old and there is time. A silent one is not
// asked: that would take a place in flight, and what is in memory needs those.
func (r *Reader) lookup(
	key wallet.BalanceKey, l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
) (wallet.Balance, int64, wallet.Code) {
	begun := r.opts.Now()
	for n := 0; ; n++ {
		lost := r.ledgerIs().ctx
		if lost.Err() != nil {
			return r.fallBack(&key, minSeq, wallet.UpstreamUnavailable)
		}
		deadline = r.patience(deadline)
		p, mine := r.cache.join(key, origin, deadline)
		if mine {
			if _, code := r.queue.put(p, l.Queue); code != wallet.OK {
				r.cache.fail(p, code)
			}
		}
		code := r.await(lost, p, minSeq, deadline)
		if code != wallet.OK {
			return r.fallBack(&key, minSeq, code)
		}
		if !p.tooOld && p.figure.balance.Seq >= minSeq {
			if mine {
				return r.serve(&p.figure, cacheMiss)
			}
			return r.serve(&p.figure, cacheCoalesced)
		}
		if !p.tooOld { // below minSeq; without a stream only another lookup tells more
			deadline = min(deadline, begun+int64(outrunWait))
			if r.Healthy() && !r.reach(minSeq, l, deadline) {
				return r.outran(max(r.Seq(), p.figure.balance.Seq))
			}
		}
		wait := again.Pause(n)
		if r.opts.Now()+int64(wait) >= deadline {
			return r.outran(max(r.Seq(), p.figure.balance.Seq))
		}
		host.Sleep(lost, wait)
	}
}

// await waits for the end of a lookup. A read changes nothing, so one whose time runs out is
// refused, not uncertain. lost was taken before the lookup was begun. Where it ends, nothing more is
// hoped for that could be answered from memory, or of a ledger that is silent; one that is gone may
// still answer a lookup, so the others wait a little.
func (r *Reader) await(lost context.Context, p *pendingLookup, minSeq uint64, deadline int64) wallet.Code {
	for {
		t := time.NewTimer(time.Duration(deadline - r.opts.Now()))
		select {
		case <-p.done:
			t.Stop()
			return p.code
		case <-t.C:
			return wallet.UpstreamUnavailable
		case <-lost.Done():
			t.Stop()
		}
		if lost = r.ledgerIs().ctx; lost.Err() != nil {
			return wallet.UpstreamUnavailable
		}
		if _, ok := r.held(&p.key, minSeq); ok {
			return wallet.UpstreamUnavailable
		}
		deadline = r.patience(deadline)
	}
}

// held is the figure in memory that may be served while the ledger cannot be asked.
func (r *Reader) held(key *wallet.BalanceKey, minSeq uint64) (figure, bool) {
	f, ok := r.cache.get(key, r.lease.Load())
	return f, ok && f.balance.Seq >= minSeq && r.opts.Now()-f.asOf <= int64(r.opts.MaxStale)
}

// fallBack serves what is in memory, with its true age, where the ledger could not be asked.
func (r *Reader) fallBack(key *wallet.BalanceKey, minSeq uint64, code wallet.Code) (wallet.Balance, int64, wallet.Code) {
	if r.doubted() {
		return r.outran(minSeq)
	}
	if f, ok := r.held(key, minSeq); ok && (code == wallet.UpstreamUnavailable || code == wallet.Unreadable) {
		return r.serve(&f, cacheStale)
	}
	r.outcomes[cacheFailed].Add(1)
	return wallet.Balance{}, 0, code
}

// lookUp asks the ledger for a batch of figures.
func (r *Reader) lookUp(items []*pendingLookup) {
	b := lookupCall{
		keys: make([]wallet.BalanceKey, len(items)), origins: make([]wallet.Origin, len(items)), figures: make([]wallet.Balance, len(items)),
	}
	for i, p := range items {
		b.keys[i], b.origins[i], b.deadline = p.key, p.origin, max(b.deadline, p.deadline)
	}
	at, err := r.ask(&b, 0, len(items))
	alone := errors.Is(err, wire.ErrDamaged) && len(items) > 1
	for i, p := range items {
		if alone { // one row that cannot be read fails the whole call, so each balance is asked for by itself
			at, err = r.ask(&b, i, i+1)
		}
		if err != nil {
			r.cache.fail(p, unanswered(err))
			continue
		}
		r.cache.answer(p, &b.figures[i], at, r.lease.Load())
	}
}

// lookupCall is a batch as the ledger is asked for it.
type lookupCall struct {
	keys     []wallet.BalanceKey
	origins  []wallet.Origin
	figures  []wallet.Balance
	deadline int64 // the latest of the items'
}

// ask asks for some of the figures. at is when the last attempt began.
func (r *Reader) ask(b *lookupCall, from, to int) (at int64, err error) {
	ctx := withOrigins(context.Background(), b.origins[from:to])
	err = r.caller.do(ctx, methodLookup, b.deadline, func(ctx context.Context) error {
		at = r.opts.Now()
		return r.ledger.Lookup(ctx, b.keys[from:to], b.figures[from:to])
	})
	return at, err
}

// unanswered is the answer to a read whose call failed.
func unanswered(err error) wallet.Code {
	switch {
	case isDoubt(err):
		return wallet.RetryLater
	case errors.Is(err, wire.ErrDamaged):
		return wallet.Unreadable
	default:
		return wallet.UpstreamUnavailable
	}
}

// Transaction returns a receipt and a version that it holds, which is minSeq at least; or
// wallet.NotFound, RetryLater (the ledger has not reached minSeq, and the version is where it is; or it
// is in doubt), UpstreamUnavailable, Unreadable.
func (r *Reader) Transaction(
	txid wallet.TxID, l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
) (wallet.Receipt, uint64, wallet.Code) {
	return r.find(l, minSeq, origin, deadline, func(ctx context.Context) (wallet.Receipt, uint64, error) {
		return r.ledger.Transaction(ctx, txid)
	})
}

// Payment is Transaction by the nonce-bearing account and the key that it paid under.
func (r *Reader) Payment(
	account wallet.Account, key wallet.IdemKey, l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
) (wallet.Receipt, uint64, wallet.Code) {
	return r.find(l, minSeq, origin, deadline, func(ctx context.Context) (wallet.Receipt, uint64, error) {
		return r.ledger.Payment(ctx, account, key)
	})
}

// find asks the ledger for a receipt once it has reached minSeq.
func (r *Reader) find(
	l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
	ask func(context.Context) (wallet.Receipt, uint64, error),
) (receipt wallet.Receipt, seq uint64, code wallet.Code) {
	lost := r.ledgerIs().ctx
	switch deadline = r.patience(deadline); {
	case r.doubted():
		return wallet.Receipt{}, minSeq, wallet.RetryLater
	case lost.Err() != nil:
		return wallet.Receipt{}, minSeq, wallet.UpstreamUnavailable
	case !r.reach(minSeq, l, deadline):
		return wallet.Receipt{}, r.Seq(), wallet.RetryLater
	}
	code = wallet.OK
	ctx, cancel := context.WithCancel(withOrigins(context.Background(), []wallet.Origin{origin}))
	defer cancel()
	defer context.AfterFunc(lost, func() { r.linger(ctx); cancel() })()
	err := r.caller.do(ctx, methodTransaction, deadline, func(ctx context.Context) (err error) {
		receipt, seq, err = ask(ctx)
		if errors.Is(err, wallet.NotFound) {
			code = wallet.NotFound // which is an answer, not a failure
			return nil
		}
		return err
	})
	if err != nil {
		code = unanswered(err)
	}
	return receipt, max(seq, minSeq), code
}

// linger waits, once the ledger is lost, for as long as one that is not silent may still answer.
func (r *Reader) linger(ctx context.Context) {
	if r.ledgerIs().state != ledgerSilent {
		host.Sleep(ctx, brief)
	}
}
