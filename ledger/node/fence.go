package node

import (
	"context"
	"time"

	"svc-wallet/ledger/wire"
)

// openingClock is an opening's own clock (ledger.proto, Heartbeat.clock). It is not the wall clock,
// which may be set: what has expired by it stays expired.
type openingClock struct{ elapsed func() time.Duration }

func (c openingClock) millis() uint64 { return uint64(c.elapsed().Milliseconds()) + 1 } //nolint:gosec // since the opening

// sinceNow measures by the machine's monotonic clock.
func sinceNow() func() time.Duration {
	start := time.Now()                                          //nolint:forbidigo // no wall clock may move a fence
	return func() time.Duration { return time.Now().Sub(start) } //nolint:forbidigo,staticcheck // as above
}

type fenceKey struct{}

// withFence says until which moment of the opening's clock a call may be taken up.
func withFence(ctx context.Context, last uint64) context.Context {
	return context.WithValue(ctx, fenceKey{}, last)
}

// barred says why a call must not be taken up now: its caller has gone, or its last moment has
// passed. An engine asks in the very step that takes the call up, because a call that waited longer
// may be one that its caller takes for lost.
func (c openingClock) barred(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if last, fenced := ctx.Value(fenceKey{}).(uint64); fenced && c.millis() > last {
		return wire.ErrLate
	}
	return nil
}
