package node_test

import (
	"sync"
	"testing"
	"time"

	"svc-wallet/ledger/contract"
	"svc-wallet/ledger/node"
)

// clock is moved by tests only.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now.UnixNano()
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

const backlog = 256

func engineFixture(t *testing.T, open func(node.Options) (node.Engine, error)) contract.Fixture {
	c := newClock()
	e, err := open(node.Options{Now: c.Now, WatchBacklog: backlog, Fatal: func(err error) { t.Errorf("fatal: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if failed := e.Stats().ConservationFailed; failed > 0 {
			t.Errorf("%d checks of conservation failed", failed)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return contract.Fixture{Ledger: e, Clock: c, Backlog: backlog, DayTotal: true, TellsLimits: true}
}

// TestMemory: the memory engine keeps the contract.
func TestMemory(t *testing.T) {
	t.Parallel()
	contract.Run(t, func(t *testing.T) contract.Fixture {
		return engineFixture(t, node.OpenMemory)
	})
}

// TestPebble: the Pebble engine, on a real disk, keeps the contract.
func TestPebble(t *testing.T) {
	t.Parallel()
	contract.Run(t, func(t *testing.T) contract.Fixture {
		return engineFixture(t, func(o node.Options) (node.Engine, error) { return node.OpenPebble(t.TempDir(), o) })
	})
}
