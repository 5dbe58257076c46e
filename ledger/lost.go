package ledger

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"svc-wallet/wallet"
)

const (
	maxLost = 1 << 14 // payments that lost remembers by name

	// lostMargin is what two machines' clocks may differ by while one attempt lasts.
	lostMargin = time.Second

	// lostLimit is how long an attempt stays lost that nothing fences, be it that the node tells no
	// clock: the longest ledger.timeout.
	lostLimit = time.Minute
)

// attempt is what a Client tells of one call of Commit, by its context.
type attempt struct {
	sent atomic.Bool // handed to the connection

	// The fence that the call was sent with: the opening that it is meant for, and the last moment
	// of its clock at which it may be taken up. last 0: it has none.
	history []byte
	last    uint64

	clock uint64 // that opening's when the answered call came in; 0: not told
	until int64  // local time after which the call is over, by a clock as fast as ours; 0: not told
}

type attemptKey struct{}

// lost remembers the payments of attempts that were sent and not answered, for as long as one of
// them may still reach the ledger. What the ledger refuses meanwhile may come true after all, so it
// is unknown (docs/decisions/023). The zero value remembers nothing.
//
// It holds up to maxLost payments. While it is full every refusal is unknown.
type lost struct {
	any atomic.Bool // something is remembered

	mu    sync.Mutex
	calls map[lostName]lostCall
	all   int64 // until then every payment may be among the lost
	next  int64 // when to forget what is over
}

// lostName tells a payment from others, as the ledger does.
type lostName struct {
	holder wallet.Account
	key    wallet.IdemKey
}

// lostCall is the attempt of a payment that may be taken up last.
type lostCall struct {
	history []byte
	last    uint64 // 0: no fence bars it
	until   int64
}

// add notes that the attempt a of batch was sent at the local time now or before, and not answered.
func (l *lost) add(batch []wallet.Payment, a *attempt, now int64) {
	c := lostCall{a.history, a.last, a.until}
	if c.last == 0 || c.until == 0 {
		c = lostCall{until: now + int64(lostLimit)}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(now)
	l.any.Store(true)
	if l.calls == nil {
		l.calls = make(map[lostName]lostCall)
	}
	for i := range batch {
		name := lostName{batch[i].Holder(), batch[i].Idem}
		old, known := l.calls[name]
		if !known && len(l.calls) >= maxLost {
			l.all = max(l.all, c.until)
			continue
		}
		l.calls[name] = old.and(c)
	}
}

// and is what holds for both: only within one opening does one fence stand for two.
func (c lostCall) and(d lostCall) lostCall {
	switch {
	case c.until == 0:
		return d
	case c.last == 0 || d.last == 0 || !bytes.Equal(c.history, d.history):
		return lostCall{until: max(c.until, d.until)}
	default:
		return lostCall{c.history, max(c.last, d.last), max(c.until, d.until)}
	}
}

// doubt makes those refusals among the results of batch unknown that a lost attempt may still
// belie. a is the attempt that was answered, now the local time before it was sent.
func (l *lost) doubt(batch []wallet.Payment, out []wallet.Result, a *attempt, now int64) {
	if !l.any.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range out {
		if out[i].Code.Outcome() != wallet.Refused {
			continue
		}
		c, known := l.calls[lostName{batch[i].Holder(), batch[i].Idem}]
		if (known && !c.over(a, now)) || now <= l.all {
			out[i] = wallet.Result{} // Uncertain
		}
	}
	l.forget(now)
}

// over says that the lost call was not taken up before the answered one, and never will be. Within
// one opening its clock proves it. Of another opening nothing is known, so there it is only that the
// call's time is long over.
func (c *lostCall) over(a *attempt, now int64) bool {
	if c.last > 0 && a.clock > 0 && bytes.Equal(c.history, a.history) {
		return a.clock > c.last
	}
	return now > c.until
}

// forget drops what is over, at most once in the time that an attempt takes. Under mu.
func (l *lost) forget(now int64) {
	if now < l.next {
		return
	}
	l.next = now + int64(lostMargin)
	for name, c := range l.calls {
		if now > c.until+int64(lostLimit) { // by then also where the clocks run at different paces
			delete(l.calls, name)
		}
	}
	l.any.Store(len(l.calls) > 0 || now <= l.all)
}
