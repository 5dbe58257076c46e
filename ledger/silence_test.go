package ledger

import (
	"testing"
	"time"
)

// fakeKernel tells what a test wants.
type fakeKernel struct {
	waits bool          // something is unread
	holds bool          // the network, ticks or answers
	trip  time.Duration // there and back
	ran   time.Duration // of the node
	blind bool
}

func (k *fakeKernel) unread() bool                   { return k.waits }
func (k *fakeKernel) network() (bool, time.Duration) { return k.holds, k.trip }
func (k *fakeKernel) busy() (time.Duration, bool)    { return k.ran, !k.blind }

// Goal: only time counts as the node's silence in which this process and the node had a CPU: neither
// what a tick came late, nor what lies unread, nor what the node's process ran or waited to; nor while the
// network sends again what it has lost, and one round trip. A node
// that stands still is noticed all the same, and after a second nothing excuses it. Method: ten ticks
// without an answer, in each of these situations.
func TestSilenceIsNotStarvation(t *testing.T) {
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		kernel *fakeKernel
		gap    time.Duration // between ticks
		runs   time.Duration // the node's in a gap
		stalls bool          // within the ten
	}{
		"stopped, on a quiet machine":        {&fakeKernel{}, tickEvery, 0, true},
		"stopped, and nothing is known":      {nil, tickEvery, 0, true},
		"stopped, in another namespace":      {&fakeKernel{blind: true}, tickEvery, 0, true},
		"a disk that hangs":                  {&fakeKernel{}, tickEvery, ms, true},
		"this process gets no CPU":           {nil, 2 * tickEvery, 0, false},
		"this process did not read":          {&fakeKernel{waits: true}, tickEvery, 0, false},
		"the network loses packets":          {&fakeKernel{holds: true}, tickEvery, 0, false},
		"the network is slow":                {&fakeKernel{trip: 120 * ms}, tickEvery, 0, false},
		"stopped, on a slow network":         {&fakeKernel{trip: 80 * ms}, tickEvery, 0, true},
		"the node gets no CPU":               {&fakeKernel{}, tickEvery, tickEvery, false},
		"the node is busy on several CPUs":   {&fakeKernel{}, tickEvery, 4 * tickEvery, false},
		"excused for more than a second":     {&fakeKernel{}, 2 * tickEvery, 8 * tickEvery, false},
		"the node has next to no CPU at all": {&fakeKernel{}, tickEvery, 20 * ms, false},
	} {
		s := silence{}
		if tc.kernel != nil {
			s.kernel = tc.kernel
		}
		now := int64(1e18)
		look := func(answered, waiting bool) time.Duration {
			now += int64(tc.gap)
			if tc.kernel != nil {
				tc.kernel.ran += tc.runs
			}
			return s.look(now, answered, waiting)
		}
		if look(false, false); look(true, false) != 0 {
			t.Errorf("%s: silent while it answers", name)
		}
		var silent time.Duration
		for range 10 {
			silent = look(false, true)
		}
		if (silent >= StallAfter) != tc.stalls {
			t.Errorf("%s: %v of silence in %v", name, silent, 10*tc.gap)
		}
		for range int(excuseLimit / tc.gap) {
			silent = look(false, true)
		}
		if silent < excuseLimit {
			t.Errorf("%s: %v of silence after %v", name, silent, excuseLimit)
		}
		if silent = look(true, true); silent != 0 {
			t.Errorf("%s: %v of silence after an answer", name, silent)
		}
	}
}
