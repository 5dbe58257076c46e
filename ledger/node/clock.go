package node

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/ledger/wire"
)

const (
	// clockSlack is how far the last commit may lie ahead of the clock and still be right: clocks
	// are set by so much in a healthy network. Commit times then stand still until the clock has
	// caught up, so that a jitter around midnight gives nobody a second day.
	clockSlack = 5 * time.Minute

	// longIdle is a gap between the last commit and the clock of a start that an operator should
	// look at: the ledger was idle for long, or the clock has gone ahead.
	longIdle = 7 * 24 * time.Hour
)

// commitMillis is the time of a commit at the time now after one at the time last, in Unix
// milliseconds. Where the last one lies further ahead than clocks differ, its clock was wrong and
// the present one is believed, or the wrong time would last until it has come. The days of daily
// ceilings then count by the right time again.
//
// Why the present one, which may be the wrong one as well: whatever hands out the time has looked
// twice at such a step before it believed it (docs/decisions/030), and this ledger cannot know
// better.
func commitMillis(now, last int64) int64 {
	now = max(now, 0)
	if last-now > clockSlack.Milliseconds() {
		return now
	}
	return max(now, last)
}

// checkClock tells the operator at a start where clock and last commit do not go together.
func (o *Options) checkClock(h head) {
	now := o.Now() / 1e6
	gap := time.Duration(now-h.millis) * time.Millisecond
	switch {
	case h.seq == 0:
	case gap < -clockSlack:
		clockLine(o.Log, h.millis, now).Error("ledger_clock_behind_last_commit")
	case gap > longIdle:
		clockLine(o.Log, h.millis, now).Warn("ledger_clock_far_ahead_of_last_commit")
	}
}

// clockLine is a log line on two times that do not go together, Unix milliseconds.
func clockLine(log logrus.FieldLogger, last, now int64) *logrus.Entry {
	return log.WithFields(logrus.Fields{
		"last_commit": time.UnixMilli(last).UTC().Format(time.RFC3339), "clock": time.UnixMilli(now).UTC().Format(time.RFC3339),
	})
}

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
