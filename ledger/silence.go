package ledger

import "time"

// StallAfter is how long a ledger may leave ticks unanswered before it counts as stalled, where
// ReaderOptions do not say.
const StallAfter = 150 * time.Millisecond

// excuseLimit is the silence that nothing excuses. By then calls run into their time-outs anyway.
const excuseLimit = time.Second

// silence measures how long the node has left ticks unanswered, and does not count the time in which
// somebody had no CPU (docs/decisions/025): what a tick came late is this process's lateness; where an
// answer lies unread, that is this process's too; and while the node's process runs or waits to run,
// which the kernel tells of one on this machine, it is slow and not stalled. Nor does it count what the
// network takes (docs/decisions/039): the time in which it holds up ticks or answers while others get
// through, and one round trip, without which nothing lost can come again. So what is
// counted is the time in which everybody could have gone on and the node did not.
//
// It belongs to the goroutine that sends the ticks.
type silence struct {
	kernel kernel

	last    int64         // when the last look was
	answer  int64         // when an answer was last seen to have come
	counted time.Duration // since then
	trip    time.Duration // there and back, at the last look
	busy    time.Duration // of the node's process, at the last look
	known   bool          // busy is
}

// kernel is what this machine's kernel tells of the connection. A nil one tells nothing.
type kernel interface {
	unread() bool // something has come in that this process has not read

	// network: it holds something up, and goes on; and how long a round trip takes.
	network() (holds bool, roundTrip time.Duration)
	busy() (ns time.Duration, ok bool) // how long the node's threads have run, or waited to, together
}

// look is called at each tick, before it is sent; answered says that an answer came since the last
// look, waiting that ticks are unanswered. It returns the silence so far.
func (s *silence) look(now int64, answered, waiting bool) time.Duration {
	if s.last == 0 || answered || !waiting {
		s.last, s.answer, s.counted, s.known = now, now, 0, false
		return 0
	}
	gap := time.Duration(now - s.last)
	s.last = now
	s.counted += max(0, min(gap, 2*tickEvery-gap)-s.excuse())
	if whole := time.Duration(now - s.answer); whole >= excuseLimit {
		return whole
	}
	return max(0, s.counted-s.trip)
}

// excuse is how much of the time since the last look the kernel excuses.
func (s *silence) excuse() time.Duration {
	if s.kernel == nil {
		return 0
	}
	var holds bool
	if holds, s.trip = s.kernel.network(); holds || s.kernel.unread() {
		return tickEvery
	}
	before, known := s.busy, s.known
	if s.busy, s.known = s.kernel.busy(); !s.known || !known {
		return 0
	}
	return max(0, s.busy-before) // a thread that has ended takes its time along
}
