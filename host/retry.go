package host

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is how long to wait before something is tried again: First, then twice as long each time up to
// Most, and each time up to Jitter more at random.
type Backoff struct{ First, Most, Jitter time.Duration }

// Pause is the wait after n others. It is 0 where n is below 0.
func (b Backoff) Pause(n int) time.Duration {
	d := b.Most
	switch {
	case n < 0:
		return 0
	case n < 63 && b.First <= b.Most>>n:
		d = b.First << n
	}
	return d + rand.N(b.Jitter+1) //nolint:gosec // jitter is no secret
}

// Sleep waits for d; false if ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
