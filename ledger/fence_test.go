package ledger

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"svc-wallet/config"
	"svc-wallet/ledger/node"
	"svc-wallet/wallet"
)

// hop stands between a client and a node. Armed, it closes the client's side upon the bytes that hold
// a text, keeps those bytes and the node's side, and sends them when it is told to.
type hop struct {
	mu   sync.Mutex
	text []byte // nil: not armed
	kept []byte
	to   net.Conn
}

func newHop(t *testing.T, node string) (h *hop, addr string) {
	t.Helper()
	addr = socket(t)
	ln, err := net.Listen("unix", strings.TrimPrefix(addr, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	h = new(hop)
	var running sync.WaitGroup
	var ends sync.Map
	running.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", strings.TrimPrefix(node, "unix:"))
			if err != nil {
				client.Close()
				continue
			}
			ends.Store(client, true)
			ends.Store(server, true)
			running.Go(func() { h.forward(server, client) })
			running.Go(func() { _, _ = io.Copy(client, server); client.Close() })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		ends.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		running.Wait()
	})
	return h, addr
}

func (h *hop) forward(server, client net.Conn) {
	buf := make([]byte, 1<<16)
	for {
		n, err := client.Read(buf)
		if err != nil {
			server.Close()
			return
		}
		h.mu.Lock()
		if h.text != nil && bytes.Contains(buf[:n], h.text) {
			h.kept, h.to, h.text = bytes.Clone(buf[:n]), server, nil
			h.mu.Unlock()
			client.Close()
			return
		}
		h.mu.Unlock()
		_, _ = server.Write(buf[:n])
	}
}

func (h *hop) arm(text string) {
	h.mu.Lock()
	h.text = []byte(text)
	h.mu.Unlock()
}

// release sends what was kept, and says whether anything was.
func (h *hop) release(t *testing.T) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept == nil {
		return false
	}
	if _, err := h.to.Write(h.kept); err != nil {
		t.Error(err)
	}
	return true
}

// verdicts is an engine that tells what became of each commit.
type verdicts struct {
	node.Engine
	refused atomic.Int64
	ends    chan error // of commits with the key that is watched
	key     wallet.IdemKey
}

func (v *verdicts) Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
	err := v.Engine.Commit(ctx, batch, out)
	if err == nil && out[0].Code == wallet.InsufficientFunds {
		v.refused.Add(1)
	}
	if batch[0].Idem == v.key {
		v.ends <- err
	}
	return err
}

// Goal: a payment that was refused for certain never comes true later, whatever the network held
// back. Method: a hop closes the sidecar's side upon the bytes of a commit and keeps them; the
// attempt that follows is refused for funds; the payer is credited; the bytes arrive. While the
// first attempt can still be taken up the outcome is unknown, and a repeat gets its receipt; once
// the node's clock has barred it, the refusal is certain, and the bytes do nothing.
func TestHeldCommitNeverBeliesARefusal(t *testing.T) {
	for _, expires := range []bool{false, true} {
		begun, ahead := time.Now(), new(atomic.Int64)
		elapsed := func() time.Duration { return time.Since(begun) + time.Duration(ahead.Load()) }
		inner, err := node.OpenMemory(node.Options{Now: clock, Elapsed: elapsed})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = inner.Close() })
		burn := issueTo(1, 1)
		burn.Op, burn.From, burn.To = wallet.Burn, burn.To, wallet.Account{}
		burn.Idem = wallet.Must(wallet.ParseIdemKey("the-held-payment"))
		burn.Fingerprint = burn.Hash()
		e := &verdicts{Engine: inner, ends: make(chan error, 100), key: burn.Idem}
		at, _ := serveBooks(t, e, socket(t))
		h, addr := newHop(t, at)
		m := move(t, addr)
		live := liveLimits(func(l *config.Limits) { l.LedgerTimeout, l.Retries, l.BreakerErrors = time.Minute, 10, 1<<20 })
		k := newTestCommitter(t, m.Client, newTestBreaker(live, clock), live, CommitterOptions{Workers: 1})
		until(t, "healthy", m.reader.Healthy)

		h.arm(burn.Idem.String())
		r := k.Submit(burn, live.Load(), clock()+int64(20*time.Second))
		if r.Code != wallet.Uncertain || e.refused.Load() == 0 {
			t.Fatalf("refused %d times, and the client is told %v", e.refused.Load(), r.Code)
		}
		want, version := wallet.Replayed, uint64(2)
		if expires {
			want, version = wallet.InsufficientFunds, 1
			ahead.Store(int64(time.Hour))
			if r := k.Submit(burn, live.Load(), soon()); r.Code != want {
				t.Errorf("when the first attempt has expired: %v", r.Code)
			}
		}
		for len(e.ends) > 0 {
			<-e.ends
		}
		pays(t, e.Engine, 1, 1) // credits the payer
		if !h.release(t) {
			t.Fatal("nothing was held")
		}
		if err := <-e.ends; (err == nil) == expires {
			t.Errorf("the held commit ended with %v", err)
		}
		if e.Seq() != version {
			t.Errorf("version %d, want %d", e.Seq(), version)
		}
		if !expires {
			if r := k.Submit(burn, live.Load(), soon()); r.Code != want {
				t.Errorf("a repeat: %v", r.Code)
			}
		}
		closeNow(t, k)
	}
}

// Goal: a refusal is certain exactly where no lost attempt of the payment can come true any more.
// Method: a table of what was lost and what was answered.
func TestLostAttempts(t *testing.T) {
	const second = int64(time.Second)
	x, y := []byte("x"), []byte("y")
	batch := []wallet.Payment{*payment(1, 1), *payment(1, 2)}
	for name, tc := range map[string]struct {
		lost    []*attempt
		answer  *attempt
		at      int64
		certain bool
	}{
		"nothing lost":                        {nil, &attempt{history: x, clock: 1}, 1, true},
		"the clock has not passed":            {[]*attempt{{history: x, last: 10, until: 2 * second}}, &attempt{history: x, clock: 10}, 3 * second, false},
		"the clock has passed":                {[]*attempt{{history: x, last: 10, until: 2 * second}}, &attempt{history: x, clock: 11}, 1, true},
		"another opening, soon":               {[]*attempt{{history: x, last: 10, until: 2 * second}}, &attempt{history: y, clock: 99}, 2 * second, false},
		"another opening, late":               {[]*attempt{{history: x, last: 10, until: 2 * second}}, &attempt{history: y, clock: 99}, 2*second + 1, true},
		"no clock":                            {[]*attempt{{}}, &attempt{}, 30 * second, false},
		"no clock, long ago":                  {[]*attempt{{}}, &attempt{}, int64(lostLimit) + 1, true},
		"two, one of which may come":          {[]*attempt{{history: x, last: 10, until: 2 * second}, {history: x, last: 20, until: 3 * second}}, &attempt{history: x, clock: 11}, 1, false},
		"two openings, the clock of one":      {[]*attempt{{history: x, last: 10, until: 2 * second}, {history: y, last: 5, until: 3 * second}}, &attempt{history: x, clock: 11}, second, false},
		"two openings, late":                  {[]*attempt{{history: x, last: 10, until: 2 * second}, {history: y, last: 5, until: 3 * second}}, &attempt{history: x, clock: 11}, 4 * second, true},
		"fenced, and the answer has no clock": {[]*attempt{{history: x, last: 10, until: 2 * second}}, &attempt{}, second, false},
	} {
		var l lost
		for i := range tc.lost {
			l.add(batch[:1], tc.lost[i], 0)
		}
		out := []wallet.Result{{Code: wallet.InsufficientFunds}, {Code: wallet.InsufficientFunds}}
		l.doubt(batch, out, tc.answer, tc.at)
		if (out[0].Code == wallet.InsufficientFunds) != tc.certain || out[1].Code != wallet.InsufficientFunds {
			t.Errorf("%s: %v, and of another payment %v", name, out[0].Code, out[1].Code)
		}
		out[0] = wallet.Result{Code: wallet.Replayed, Seq: 1}
		if l.doubt(batch, out, tc.answer, tc.at); out[0].Code != wallet.Replayed {
			t.Errorf("%s: a receipt is in doubt", name)
		}
	}
}

// Goal: what is remembered of lost attempts is bounded, and where there is no room every refusal is
// unknown until it is over. Method: more lost payments than fit, and a clock that goes on.
func TestLostAttemptsAreBounded(t *testing.T) {
	var l lost
	a := &attempt{history: []byte("x"), last: 10, until: 1}
	for i := range maxLost + 10 {
		l.add([]wallet.Payment{*payment(i, 1)}, a, 0)
	}
	stranger := []wallet.Payment{*payment(maxLost+50, 1)}
	refused := func(now int64) wallet.Code {
		out := []wallet.Result{{Code: wallet.NonceConflict}}
		l.doubt(stranger, out, &attempt{history: []byte("x"), clock: 11}, now)
		return out[0].Code
	}
	if len(l.calls) != maxLost || refused(1) != wallet.Uncertain {
		t.Errorf("%d remembered, a stranger is told %v", len(l.calls), refused(1))
	}
	if refused(2) != wallet.NonceConflict {
		t.Error("still in doubt when all is over")
	}
	if refused(3 * int64(lostLimit)); len(l.calls) != 0 || l.any.Load() {
		t.Errorf("%d still remembered", len(l.calls))
	}
}
