package ledger

import (
	"context"
	"errors"
	"testing"
	"time"

	"svc-wallet/host"
)

// Goal: calls that the caller gave up do not open the breaker, and their error is not its cause; calls that ran
// out of time or failed do. Where it is half open, one that was given up is a bad probe, since its round waits for
// an answer. Method: twenty calls of each kind, the breaker's threshold.
func TestGivenUp(t *testing.T) {
	now := newHandClock()
	b := newTestBreaker(liveLimits(nil), now.now)
	c := newCaller(b, b.live, now.now, nil, host.Backoff{})
	deadline := now.now() + int64(time.Minute)
	givenUp, giveUp := context.WithCancel(t.Context())
	giveUp()
	hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for range 100 {
		if err := c.do(givenUp, methodTransaction, deadline, hangs); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if b.State() != BreakerClosed || b.Cause() != "" {
		t.Errorf("%v: %s", b.State(), b.Cause())
	}
	for range 20 {
		_ = c.try(t.Context(), methodTransaction, deadline, func(context.Context) error { return errors.New("broken") })
	}
	if b.State() != BreakerOpen || b.Cause() != "broken" {
		t.Fatalf("%v: %s", b.State(), b.Cause())
	}
	now.advance(5 * time.Second)
	_ = c.try(givenUp, methodTransaction, now.now()+int64(time.Minute), hangs)
	if b.State() != BreakerOpen || b.Opened() != 2 {
		t.Errorf("%v, opened %d times", b.State(), b.Opened())
	}
}
