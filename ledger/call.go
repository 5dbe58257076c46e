package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/ledger/wire"
)

var (
	// errRejected: the breaker was open, so nothing was sent.
	errRejected = fmt.Errorf("breaker open: %w", ErrNotSent)

	// errUndecided: the node answered, and no payment's outcome is in the answer. The node has failed,
	// and asking again would turn its first answers into replays.
	errUndecided = errors.New("the answer decides no payment")
)

// caller makes idempotent calls of the ledger node: behind the breaker, each attempt with its own
// time-out, again after a pause while that may help. All fields are immutable.
type caller struct {
	breaker  *Breaker
	live     *config.Live
	now      func() int64
	observer Observer
	backoff  host.Backoff
}

// newCaller takes CONTRACT §7's waits where wait is the zero value.
func newCaller(b *Breaker, live *config.Live, now func() int64, o Observer, wait host.Backoff) caller {
	if o == nil {
		o = silent{}
	}
	if wait == (host.Backoff{}) {
		wait = host.Backoff{First: 50 * time.Millisecond, Most: time.Second, Jitter: 20 * time.Millisecond}
	}
	return caller{breaker: b, live: live, now: now, observer: o, backoff: wait}
}

// do returns nil once an attempt was answered. Of the error, errors.Is(err, ErrNotSent) means
// that no attempt left this process; otherwise at least one may have taken effect.
func (c *caller) do(ctx context.Context, m Method, deadline int64, call func(context.Context) error) error {
	var lost error // of an attempt that may have taken effect
	for attempt := 0; ; attempt++ {
		err := c.try(ctx, m, deadline, call)
		if err == nil || errors.Is(err, errUndecided) || errors.Is(err, wire.ErrDamaged) {
			return err
		}
		if !errors.Is(err, ErrNotSent) {
			lost = err
		}
		wait := c.backoff.Pause(attempt)
		if attempt >= c.live.Load().Retries || errors.Is(err, errRejected) || isDoubt(err) ||
			c.now()+int64(wait) >= deadline || !host.Sleep(ctx, wait) {
			if lost != nil {
				return lost
			}
			return err
		}
		c.observer.Retry(m)
	}
}

// try makes one attempt. Whatever is no answer counts against the breaker, a panic too; but not what the
// caller gave up: reads are given up together where a heartbeat is late, and would open it for one packet that
// was lost.
func (c *caller) try(ctx context.Context, m Method, deadline int64, call func(context.Context) error) error {
	permit, ok := c.breaker.Allow()
	if !ok {
		c.observer.Call(m, CallRejected, 0)
		return errRejected
	}
	answered, outer := false, ctx
	defer func() {
		if !answered && outer.Err() != nil {
			permit.Withdraw()
			return
		}
		permit.Done(answered)
	}()

	start := c.now()
	ctx, cancel := context.WithTimeout(ctx, min(c.live.Load().LedgerTimeout, time.Duration(deadline-start)))
	defer cancel()
	err := call(ctx)
	// A doubted ledger is there: that it is the wrong one is no business of the breaker.
	if answered = err == nil || errors.Is(err, wire.ErrDamaged) || isDoubt(err); !answered && outer.Err() == nil {
		c.breaker.blame(err)
	}
	c.observer.Call(m, outcome(err), c.now()-start)
	return err
}

func outcome(err error) CallOutcome {
	switch {
	case err == nil:
		return CallOK
	case errors.Is(err, ErrNotSent):
		return CallNotSent
	case errors.Is(err, context.DeadlineExceeded):
		return CallTimeout
	default:
		return CallError
	}
}

// silent observes nothing.
type silent struct{}

func (silent) Call(Method, CallOutcome, int64) {}

func (silent) Retry(Method) {}

func (silent) Batch(int) {}

// Method is what is called of the ledger node.
type Method uint8

// The methods.
const (
	methodCommit Method = iota
	methodLookup
	methodTransaction
	NumMethods
)

// String is the value of the label op.
func (m Method) String() string {
	return [NumMethods]string{methodCommit: "commit", methodLookup: "lookup", methodTransaction: "transaction"}[m]
}

// CallOutcome is how a call to the ledger node ended, for metrics.
type CallOutcome uint8

// The outcomes of a call.
const (
	CallOK       CallOutcome = iota // answered; a payment's refusal is an answer
	CallError                       // failed after it may have been sent: its effect is unknown
	CallTimeout                     // as CallError, by deadline
	CallNotSent                     // failed before anything left
	CallRejected                    // the breaker was open
	NumCallOutcomes
)

// String is the value of the label outcome.
func (o CallOutcome) String() string {
	return [NumCallOutcomes]string{
		CallOK: "ok", CallError: "error", CallTimeout: "timeout", CallNotSent: "not_sent", CallRejected: "rejected",
	}[o]
}

// Observer is told of what the package does, so that it needs no metrics library. Its methods
// neither block nor allocate.
type Observer interface {
	Call(m Method, outcome CallOutcome, nanos int64)
	Retry(m Method)
	Batch(payments int)
}
