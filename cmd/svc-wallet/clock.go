package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// clockBound is how far the machine's wall clock may move against its monotonic one and be
	// believed at once: healthy clocks are set by less.
	clockBound = 5 * time.Minute

	// clockPatience is how long a larger step must stand before it is believed. A glitch is over by
	// then; a correction of a wrong clock, and the sleep of a suspended machine, get through.
	clockPatience = time.Minute

	clockLook  = time.Second // how often the wall clock is looked at
	clockDrift = 1000        // one part in so many is what two healthy clocks differ by
)

// clock is the process's time, from the machine's two clocks: the monotonic one, which cannot be
// set, and the wall clock, which can be set wrong (docs/decisions/030). Between two looks at the
// wall clock it runs by the monotonic one.
//
// Now is for durations: it never goes back. Wall is for what is dated: commits and the times in
// tokens. It goes back where it was wrong, so that nothing is dated wrongly for longer than the
// machine's clock was wrong. As a rule the two are the same.
type clock struct {
	read func() (wall int64, elapsed time.Duration) // Unix nanoseconds; the monotonic clock since the start
	log  logrus.FieldLogger

	looked   atomic.Int64 // elapsed at the last look
	ahead    atomic.Int64 // Now is this and what has elapsed; it only grows
	believed atomic.Int64 // Wall is this and what has elapsed

	mu     sync.Mutex
	anchor int64         // what the wall clock is held against: it follows that only as fast as clocks drift
	doubt  int64         // what the wall clock would make of believed, where that is not believed
	since  time.Duration // when the doubt began; 0: there is none

	doubted, adopted atomic.Uint64
}

func newClock(log logrus.FieldLogger) *clock {
	start := time.Now()
	return startClock(log, func() (int64, time.Duration) {
		t := time.Now()
		return t.UnixNano(), t.Sub(start)
	})
}

// startClock believes the wall clock: at the start there is nothing to hold it against.
func startClock(log logrus.FieldLogger, read func() (int64, time.Duration)) *clock {
	c := &clock{read: read, log: log}
	wall, elapsed := read()
	c.anchor = wall - int64(elapsed)
	c.looked.Store(int64(elapsed))
	c.ahead.Store(c.anchor)
	c.believed.Store(c.anchor)
	return c
}

// Now is the time in Unix nanoseconds by a clock that never goes back.
func (c *clock) Now() int64 { return c.elapsed() + c.ahead.Load() }

// Wall is the time of day in Unix nanoseconds.
func (c *clock) Wall() int64 { return c.elapsed() + c.believed.Load() }

// Skew is what the time of day is ahead of Now: 0 as a rule, negative after a clock that was ahead.
func (c *clock) Skew() int64 { return c.believed.Load() - c.ahead.Load() }

// Steps counts the steps of the wall clock that were not believed at once, and those that were
// believed in the end.
func (c *clock) Steps() (doubted, adopted uint64) { return c.doubted.Load(), c.adopted.Load() }

// elapsed is the time since the start. Once a second it looks at the wall clock.
func (c *clock) elapsed() int64 {
	wall, elapsed := c.read()
	last := c.looked.Load()
	if int64(elapsed)-last >= int64(clockLook) && c.looked.CompareAndSwap(last, int64(elapsed)) {
		c.look(wall, elapsed, elapsed-time.Duration(last))
	}
	return int64(elapsed)
}

// look holds the wall clock against the monotonic one. The last look was this long ago.
func (c *clock) look(wall int64, elapsed, ago time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	offset := wall - int64(elapsed)
	switch step := time.Duration(offset - c.anchor).Abs(); {
	case step <= clockBound:
		drift := int64(min(step, ago/clockDrift))
		if offset < c.anchor {
			drift = -drift
		}
		c.anchor += drift
		if c.since != 0 {
			c.line(wall, elapsed).Warn("clock_believed_again")
		}
		c.believe(offset)
	case c.since == 0 || time.Duration(offset-c.doubt).Abs() > clockBound:
		c.doubted.Add(1)
		if c.since == 0 {
			c.line(wall, elapsed).Error("clock_doubted")
		}
		c.doubt, c.since = offset, elapsed
	case elapsed-c.since >= clockPatience:
		c.adopted.Add(1)
		c.line(wall, elapsed).Error("clock_adopted")
		c.anchor = offset
		c.believe(offset)
	}
}

func (c *clock) believe(offset int64) {
	c.since = 0
	c.ahead.Store(max(c.ahead.Load(), offset))
	c.believed.Store(offset)
}

// line is a log line on what the machine's clock says and what was believed until now.
func (c *clock) line(wall int64, elapsed time.Duration) *logrus.Entry {
	return c.log.WithFields(logrus.Fields{
		"machine":  time.Unix(0, wall).UTC().Format(time.RFC3339),
		"believed": time.Unix(0, c.believed.Load()+int64(elapsed)).UTC().Format(time.RFC3339),
	})
}

// timeOfDay is the clock of a command that ends at once, in Unix nanoseconds.
func timeOfDay() int64 { return time.Now().UnixNano() }
