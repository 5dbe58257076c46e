package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// machine is the two clocks of a machine, moved by hand.
type machine struct {
	wall    int64
	elapsed time.Duration
}

func (m *machine) read() (int64, time.Duration) { return m.wall, m.elapsed }

// pass lets time pass as a healthy machine does.
func (m *machine) pass(d time.Duration) {
	m.wall += int64(d)
	m.elapsed += d
}

// TestClock: a step of the wall clock that is too large to be right is not believed at once, in either
// direction; it is if it stands. Small ones are followed. Now never goes back, and the time of day is
// the right one again as soon as the machine's is. Method: a machine whose clocks are moved by hand,
// looked at every second.
func TestClock(t *testing.T) {
	const day = 24 * time.Hour
	type step struct {
		set, pass time.Duration // the wall clock is set by this, then both clocks run for that
		wrong     time.Duration // what the time of day then differs from the machine's wall clock by
	}
	for name, c := range map[string]struct {
		steps            []step
		doubted, adopted uint64
		lines            string // in order
	}{
		"runs well": {steps: []step{{0, 10 * day, 0}}},
		"a glitch of one second, 400 days ahead": {
			steps:   []step{{400 * day, time.Second, -400 * day}, {-400 * day, time.Second, 0}},
			doubted: 1, lines: "clock_doubted clock_believed_again",
		},
		"wrong for nearly a minute": {
			steps:   []step{{400 * day, 59 * time.Second, -400 * day}, {-400 * day, time.Second, 0}},
			doubted: 1, lines: "clock_doubted clock_believed_again",
		},
		"another wrong time every half minute": {
			steps:   []step{{day, 30 * time.Second, -day}, {day, 30 * time.Second, -2 * day}, {day, 30 * time.Second, -3 * day}},
			doubted: 3, lines: "clock_doubted",
		},
		"started in 1970, and corrected": {
			steps:   []step{{20000 * day, 59 * time.Second, -20000 * day}, {0, 2 * time.Second, 0}},
			doubted: 1, adopted: 1, lines: "clock_doubted clock_adopted",
		},
		"started 400 days ahead, and corrected": {
			steps:   []step{{-400 * day, 59 * time.Second, 400 * day}, {0, 2 * time.Second, 0}, {0, day, 0}},
			doubted: 1, adopted: 1, lines: "clock_doubted clock_adopted",
		},
		"wrong for an hour, then right": {
			steps:   []step{{400 * day, time.Hour, 0}, {-400 * day, 61 * time.Second, 0}},
			doubted: 2, adopted: 2, lines: "clock_doubted clock_adopted clock_doubted clock_adopted",
		},
		"set by minutes": {steps: []step{{4 * time.Minute, time.Second, 0}, {-4 * time.Minute, time.Second, 0}, {-5 * time.Minute, time.Second, 0}}},
		"set by a little, again and again": {
			steps:   []step{{4 * time.Minute, time.Second, 0}, {4 * time.Minute, time.Second, -4 * time.Minute}},
			doubted: 1, lines: "clock_doubted",
		},
		"set by a little once a week": {steps: []step{{4 * time.Minute, 7 * day, 0}, {4 * time.Minute, 7 * day, 0}, {4 * time.Minute, day, 0}}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log := logrus.New()
			log.SetOutput(&out)
			log.SetFormatter(&logrus.JSONFormatter{})
			m := &machine{wall: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC).UnixNano()}
			clock := startClock(log, m.read)
			last := clock.Now()
			for i, s := range c.steps {
				m.wall += int64(s.set)
				for passed := time.Duration(0); passed < s.pass; passed += time.Second {
					m.pass(time.Second)
					now := clock.Now()
					if now < last+int64(time.Second) {
						t.Fatalf("step %d: Now went from %d to %d in a second", i, last, now)
					}
					last = now
				}
				if wrong := time.Duration(clock.Wall() - m.wall); wrong != s.wrong {
					t.Fatalf("step %d: the time of day differs by %v, want %v", i, wrong, s.wrong)
				}
				if clock.Now()+clock.Skew() != clock.Wall() {
					t.Fatalf("step %d: Now %d and Skew %d are not Wall %d", i, clock.Now(), clock.Skew(), clock.Wall())
				}
			}
			var events []string
			for _, line := range strings.Split(out.String(), "\n") {
				if _, rest, ok := strings.Cut(line, `"msg":"`); ok {
					event, _, _ := strings.Cut(rest, `"`)
					events = append(events, event)
				}
			}
			doubted, adopted := clock.Steps()
			if got := strings.Join(events, " "); got != c.lines || doubted != c.doubted || adopted != c.adopted {
				t.Errorf("lines %q, %d doubted, %d adopted; want %q, %d, %d", got, doubted, adopted, c.lines, c.doubted, c.adopted)
			}
		})
	}
}

// TestMachineClock: the clock of a real machine is near its wall clock, and does not go back.
func TestMachineClock(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	clock := newClock(log)
	before := timeOfDay()
	wall, now := clock.Wall(), clock.Now()
	if wall < before-1e9 || wall > timeOfDay()+1e9 || clock.Now() < now {
		t.Errorf("the clock says %d, the machine %d", wall, before)
	}
}
