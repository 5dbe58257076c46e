package ledger

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/ledger/node"
	"svc-wallet/wallet"
)

// quick is a pace for tests.
var quick = pace{
	look: 2 * time.Millisecond, lostAfter: 20 * time.Millisecond, goodFor: 5 * time.Second,
	warm: 200 * time.Millisecond, again: host.Backoff{First: time.Millisecond, Most: 10 * time.Millisecond},
}

// serveBooks serves e at addr until stop, and tells where.
func serveBooks(t *testing.T, e node.Engine, addr string) (at string, stop func()) {
	t.Helper()
	ln, err := host.Listen(addr, host.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if at = addr; !strings.HasPrefix(addr, "unix:") {
		at = ln.Addr().String()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := node.Serve(ctx, ln, e, node.ServeOptions{Drain: 10 * time.Millisecond}); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return at, stop
}

func memoryBooks(t *testing.T) node.Engine {
	t.Helper()
	e, err := node.OpenMemory(node.Options{Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func pebbleBooks(t *testing.T, dir string) node.Engine {
	t.Helper()
	e, err := node.OpenPebble(dir, node.Options{Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// socket is the address of a socket that nobody serves yet.
func socket(t *testing.T) string { return "unix:" + filepath.Join(t.TempDir(), "node") }

// moving is a client that moves, and a reader over it.
type moving struct {
	*Client
	reader *Reader
	live   *config.Live
}

func move(t *testing.T, addr string) *moving {
	t.Helper()
	return moveWith(t, addr, DialOptions{Now: clock})
}

func moveWith(t *testing.T, addr string, opts DialOptions) *moving {
	t.Helper()
	c := dial(t, addr, opts)
	c.pace = quick
	live := liveLimits(func(l *config.Limits) { l.LedgerTimeout = 5 * time.Second; l.BreakerErrors = 1 << 20 })
	m := &moving{c, NewReader(c, newTestBreaker(live, clock), live, ReaderOptions{Shards: 4, Entries: 1000, MaxStale: time.Minute, Now: clock}), live}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = m.reader.Run(ctx) })
	running.Go(func() { _ = c.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return m
}

// patience is how long a test waits for what must come: far more than that takes on any machine, so
// that no test asks for a pace.
const patience = 3 * time.Minute

// until waits for what other goroutines bring about.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for start := clock(); !is(); runtime.Gosched() {
		if clock()-start > int64(patience) {
			t.Fatalf("not %s after %v", what, patience)
		}
	}
}

func (m *moving) set(t *testing.T, addrs ...string) {
	t.Helper()
	if err := m.SetEndpoints(addrs); err != nil {
		t.Fatal(err)
	}
}

func (m *moving) arrives(t *testing.T, addr string) {
	t.Helper()
	until(t, "at "+addr, func() bool { return m.Endpoint() == addr })
}

func (m *moving) shows(t *testing.T, addr string, s EndpointStatus, reason string) {
	t.Helper()
	until(t, fmt.Sprintf("%s %v, %s", addr, s, reason), func() bool {
		return slices.ContainsFunc(m.EndpointStates(), func(e EndpointState) bool {
			return e.Addr == addr && e.Status == s && strings.Contains(e.Reason, reason)
		})
	})
}

// issueTo is payment(i, n) with rules that a node accepts.
func issueTo(i int, n uint64) *wallet.Payment {
	t := payment(i, n)
	t.Rules = wallet.Rules{
		DailyCeiling: wallet.MaxAmount(), MaxAccountTotal: wallet.MaxAmount(), NonceStart: 1, NonceMaxGap: 1,
	}
	return t
}

// pays commits one payment over l.
func pays(t *testing.T, l interface {
	Commit(context.Context, []wallet.Payment, []wallet.Result) error
}, i int, n uint64,
) {
	t.Helper()
	var out [1]wallet.Result
	var err error
	until(t, "what came back has proved itself", func() bool { // at the latest by its next heartbeat
		err = l.Commit(t.Context(), []wallet.Payment{*issueTo(i, n)}, out[:])
		return !errors.Is(err, errUnproved)
	})
	if err != nil || out[0].Code != wallet.OK {
		t.Fatalf("payment %d: %v, %v", n, out[0].Code, err)
	}
}

// Goal: 50 moves under load lose, double and refuse nothing, the reader's copy goes on across them,
// and health does not flicker. Method: three nodes before one set of books, on two sockets and a
// port; 32 payers whose every result must be the ledger's own; then the books are compared.
func TestMoveUnderLoad(t *testing.T) {
	e := memoryBooks(t)
	var addrs []string
	for _, a := range []string{socket(t), socket(t), "127.0.0.1:0"} {
		at, _ := serveBooks(t, e, a)
		addrs = append(addrs, at)
	}
	m := move(t, addrs[0])
	committer := newTestCommitter(t, m.Client, newTestBreaker(m.live, clock), m.live, CommitterOptions{Workers: 4, OnResult: m.reader.Learn})
	until(t, "healthy", m.reader.Healthy)

	const payers, flips = 32, 50
	var done atomic.Bool
	var paid atomic.Uint64
	var running sync.WaitGroup
	for i := range payers {
		running.Go(func() {
			n := uint64(1)
			for ; !done.Load(); n++ {
				// On a starved machine an attempt may be lost and repeated: a replay is paid, and tells no balance.
				r := committer.Submit(issueTo(i, n), m.live.Load(), clock()+int64(patience))
				if r.Code.Outcome() != wallet.Applied || r.Code == wallet.OK && r.Balances[0].Amount != wallet.Minor(n) {
					t.Errorf("payer %d, payment %d: %v, %+v", i, n, r.Code, r.Balances[0])
				}
				poor := issueTo(i, n)
				poor.Op, poor.From, poor.To, poor.Amount = wallet.Burn, poor.To, wallet.Account{}, wallet.MaxAmount()
				poor.Nonce, poor.Idem, poor.Fingerprint = 1, wallet.Must(wallet.ParseIdemKey("poor")), poor.Hash()
				if r := committer.Submit(poor, m.live.Load(), clock()+int64(patience)); r.Code != wallet.InsufficientFunds {
					t.Errorf("payer %d is poor: %v", i, r.Code)
				}
				if b, _, code := m.reader.Balance(ronOf(i), m.live.Load(), 0, wallet.Origin{}, clock()+int64(patience)); code != wallet.OK || b.Amount != wallet.Minor(n) {
					t.Errorf("payer %d reads %v after payment %d: %v", i, b.Amount, n, code)
				}
			}
			paid.Add(n - 1)
		})
	}
	until(t, "past version 0, from which a copy starts afresh", func() bool { return m.reader.Seq() > 0 })
	for flip := range flips {
		next := (flip + 1) % len(addrs)
		m.set(t, addrs[next], addrs[(next+1)%len(addrs)])
		m.arrives(t, addrs[next])
	}
	done.Store(true)
	running.Wait()
	closeNow(t, committer)

	var out [payers]wallet.Balance
	keys := make([]wallet.BalanceKey, payers)
	for i := range keys {
		keys[i] = ronOf(i)
	}
	if err := m.Lookup(t.Context(), keys, out[:]); err != nil {
		t.Fatal(err)
	}
	var sum wallet.Amount
	for i := range out {
		sum, _ = sum.Add(out[i].Amount)
	}
	if s := e.Stats(); s.ConservationOK == 0 || s.ConservationFailed != 0 || e.Seq() != paid.Load() || sum != wallet.Minor(paid.Load()) {
		t.Errorf("%d payments made %v and version %d; %+v", paid.Load(), sum, e.Seq(), s)
	}
	until(t, "healthy", m.reader.Healthy)
	if m.Moves() < flips || m.RefusedMoves() != 0 || m.reader.Reconnects() != 0 || m.reader.lease.Load().epoch != 1 {
		t.Errorf("%d moves, %d refused, %d reconnects, copy %d", m.Moves(), m.RefusedMoves(), m.reader.Reconnects(), m.reader.lease.Load().epoch)
	}
	until(t, "all old links closed", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.retired) == 0 })
}

// Goal: what is not of the process's ledger, or lacks what was acknowledged, is never used, whatever
// is preferred; what works is not given up for it. Method: stores that are another ledger, a copy
// made before a payment, and such a copy that has since gone its own way; an address without a node.
func TestUnfitEndpoints(t *testing.T) {
	home, old := t.TempDir(), filepath.Join(t.TempDir(), "old")
	before := pebbleBooks(t, home)
	pays(t, before, 1, 1)
	if err := errors.Join(before.Close(), os.CopyFS(old, os.DirFS(home))); err != nil {
		t.Fatal(err)
	}
	at, _ := serveBooks(t, pebbleBooks(t, home), socket(t))
	m := move(t, at)
	until(t, "healthy", m.reader.Healthy)
	pays(t, m, 1, 2)

	other := memoryBooks(t)
	for n := range uint64(5) {
		pays(t, other, 1, n+1)
	}
	otherAt, _ := serveBooks(t, other, socket(t))
	stale := pebbleBooks(t, old)
	staleAt, _ := serveBooks(t, stale, socket(t))
	nobody := socket(t)
	m.set(t, nobody, otherAt, staleAt, at)
	m.shows(t, nobody, endpointUnreachable, "no such file")
	m.shows(t, otherAt, endpointRefused, "another ledger")
	m.shows(t, staleAt, endpointRefused, "at version 1, 2 was committed")
	m.shows(t, at, endpointInUse, "")
	for n := range uint64(3) {
		pays(t, stale, 2, n+1)
	}
	m.shows(t, staleAt, endpointRefused, "lacks the acknowledged payment")

	m.set(t, nobody, otherAt) // the one in use is not wanted, but there is none better
	m.shows(t, at, endpointInUse, "")
	until(t, "last", func() bool { s := m.EndpointStates(); return len(s) == 3 && s[2].Addr == at })
	pays(t, m, 1, 3)
	if m.Moves() != 0 || m.RefusedMoves() < 3 || m.Endpoint() != at {
		t.Errorf("%d moves, %d refused, at %s", m.Moves(), m.RefusedMoves(), m.Endpoint())
	}
	m.set(t)
	until(t, "alone", func() bool { return len(m.EndpointStates()) == 1 })
}

// Goal: a lost endpoint is left for the next that works, and is returned to only after it has been
// there for a while without a break; payments go on. Method: the preferred node of three is killed
// and started again under a clock that is moved by hand; the second one never was.
func TestFailover(t *testing.T) {
	e, clk := memoryBooks(t), newHandClock()
	nobody := socket(t)
	first, stop := serveBooks(t, e, socket(t))
	second, _ := serveBooks(t, e, socket(t))
	var told atomic.Uint64
	m := moveWith(t, first, DialOptions{Now: clk.now, OnUp: func() { told.Add(1) }})
	becomes := func(addr string, s EndpointStatus) { // while little time passes
		t.Helper()
		until(t, fmt.Sprintf("%s %v", addr, s), func() bool {
			clk.advance(time.Microsecond)
			return slices.ContainsFunc(m.EndpointStates(), func(e EndpointState) bool { return e.Addr == addr && e.Status == s })
		})
	}
	m.set(t, first, nobody, second)
	until(t, "healthy", m.reader.Healthy)
	pays(t, m, 1, 1)
	becomes(second, endpointStandby)
	stop()
	becomes(second, endpointInUse)
	pays(t, m, 1, 2)
	becomes(first, endpointUnreachable)
	becomes(nobody, endpointUnreachable)
	until(t, "healthy again", m.reader.Healthy)

	_, stop = serveBooks(t, e, first)
	becomes(first, endpointReady)
	stop() // too early: the while begins anew
	becomes(first, endpointUnreachable)
	serveBooks(t, e, first)
	becomes(first, endpointReady)
	clk.advance(m.pace.goodFor / 2)
	becomes(first, endpointReady)
	if m.Moves() != 1 {
		t.Errorf("%d moves", m.Moves())
	}
	clk.advance(m.pace.goodFor)
	becomes(first, endpointInUse)
	pays(t, m, 1, 3)
	until(t, "told", func() bool { return told.Load() >= 2 })
	if m.Moves() != 2 || e.Seq() != 3 {
		t.Errorf("%d moves, version %d", m.Moves(), e.Seq())
	}
}

// reopened is a set of books under another opening.
type reopened struct {
	node.Engine
	id node.Identity
}

func (r reopened) Identity() node.Identity { return r.id }

// Goal: another opening of the same ledger is moved to; the copy starts afresh there, at once and
// without a flicker of health; and a node that tells no ledger is moved to within one history only.
// Method: nodes before one set of books that tell different names.
func TestMoveBetweenOpenings(t *testing.T) {
	e := memoryBooks(t)
	id := e.Identity()
	other := id
	other.Opening[0]++
	first, _ := serveBooks(t, e, socket(t))
	second, _ := serveBooks(t, reopened{e, other}, socket(t))
	m := move(t, first)
	until(t, "healthy", m.reader.Healthy)
	for n := range uint64(4) {
		pays(t, m, 1, n+1)
		if b, _, code := m.reader.Balance(ronOf(1), m.live.Load(), n+1, wallet.Origin{}, soon()); code != wallet.OK || b.Amount != wallet.Minor(n+1) {
			t.Errorf("%v, %+v", code, b)
		}
		next, was := []string{second, first}[n%2], m.reader.lease.Load().epoch
		m.set(t, next)
		m.arrives(t, next)
		until(t, "a new copy", func() bool { l := m.reader.lease.Load(); return l.epoch > was && l.seq == n+1 })
	}
	until(t, "healthy", m.reader.Healthy)
	if m.reader.Reconnects() != 0 {
		t.Errorf("%d reconnects", m.reader.Reconnects())
	}
}

// Goal: a name that is not told is nobody's. Method: a table of what two endpoints tell.
func TestLedgerNames(t *testing.T) {
	name := func(ledger, history string) *ledgerName { return &ledgerName{[]byte(ledger), []byte(history)} }
	for _, tc := range []struct {
		a, b *ledgerName
		want bool
	}{
		{name("L", "1"), name("L", "1"), true},
		{name("L", "1"), name("L", "2"), true},
		{name("L", "1"), name("M", "1"), false},
		{name("L", "1"), name("", "1"), true},
		{name("L", "1"), name("", "2"), false},
		{name("L", ""), name("", ""), false},
		{name("", "1"), name("", "1"), true},
		{name("", "1"), name("", "2"), false},
		{name("", ""), name("", ""), false},
	} {
		if tc.a.same(tc.b) != tc.want || tc.b.same(tc.a) != tc.want {
			t.Errorf("%s and %s", tc.a, tc.b)
		}
	}
}

// Goal: what was seen of a ledger counts until an operator accepts another; then that is the one that
// others must be of. Method: the evidence alone.
func TestStandingAdopts(t *testing.T) {
	var s evidence
	one, two := &ledgerName{ledger: []byte("1")}, &ledgerName{ledger: []byte("2")}
	s.named(one)
	s.committed([]wallet.Result{{Code: wallet.InsufficientFunds}, {Code: wallet.OK, Seq: 7, Receipt: wallet.Receipt{TxID: wallet.TxID{7}}}, {Code: wallet.Replayed, Seq: 3}})
	if s.seen != 7 || s.last != (commit{7, wallet.TxID{7}}) || s.join(one) != nil || !errors.Is(s.join(two), errUnfit) {
		t.Errorf("seen %d, last %v", s.seen, s.last)
	}
	s.adopt(two, 3)
	if s.seen != 3 || s.last != (commit{}) || s.join(two) != nil || s.join(one) == nil {
		t.Errorf("adopted, seen %d, last %v", s.seen, s.last)
	}
	var nameless evidence
	nameless.named(&ledgerName{})
	if nameless.join(&ledgerName{}) == nil {
		t.Error("a nameless ledger")
	}
}

// Goal: where no ledger is known yet the first that answers is the one; unless a payment may have
// gone to another. Method: a client of an address without a node; one with a payment that was sent.
func TestFirstLedger(t *testing.T) {
	e := memoryBooks(t)
	at, _ := serveBooks(t, e, socket(t))
	m := move(t, socket(t))
	m.set(t, at)
	m.arrives(t, at)
	until(t, "healthy", m.reader.Healthy)
	pays(t, m, 1, 1)

	m = move(t, socket(t))
	m.evidence.committed(nil)
	m.set(t, at)
	m.shows(t, at, endpointRefused, "has not told its name")
	if m.Moves() != 0 {
		t.Error("moved")
	}
}

// Goal: endpoints that Dial would refuse are refused as a whole, naming the address; duplicates count
// once and 64 is the most. Method: a table, on a client whose Run is not there.
func TestSetEndpoints(t *testing.T) {
	c := dial(t, "unix:/here", DialOptions{Now: clock})
	many := make([]string, maxEndpoints)
	for i := range many {
		many[i] = fmt.Sprintf("127.0.0.1:%d", i+1)
	}
	good := []string{"unix:/there", "127.0.0.1:7000", "unix:/there"}
	for _, tc := range []struct {
		addrs []string
		want  []string
		err   string
	}{
		{nil, []string{"unix:/here"}, ""},
		{good, good[:2], ""},
		{[]string{"unix:/there", "10.0.0.1:7000"}, good[:2], `"10.0.0.1:7000"`},
		{[]string{"unix:"}, good[:2], `"unix:"`},
		{[]string{"http://ledger"}, good[:2], `"http://ledger"`},
		{[]string{""}, good[:2], `""`},
		{[]string{"a\x00b:\xff"}, good[:2], "a\\x00b"},
		{append(slices.Clone(many), "unix:/one-more"), good[:2], "unix:/one-more"},
		{append(slices.Clone(many), many...), many, ""},
		{[]string{}, []string{"unix:/here"}, ""},
	} {
		err := c.SetEndpoints(tc.addrs)
		if (err == nil) != (tc.err == "") || (err != nil && !strings.Contains(err.Error(), tc.err)) || !slices.Equal(c.wanted, tc.want) {
			t.Errorf("%.80q: %v, wanted %.80q", tc.addrs, err, c.wanted)
		}
	}
	if c.Endpoint() != "unix:/here" || c.EndpointStates()[0] != (EndpointState{Addr: "unix:/here", Status: endpointInUse}) {
		t.Errorf("%s, %v", c.Endpoint(), c.EndpointStates())
	}
	names := map[string]bool{}
	for s := range numEndpointStatuses {
		names[s.String()] = true
	}
	if len(names) != int(numEndpointStatuses) || names[""] {
		t.Errorf("statuses %v", names)
	}
}

// namedNode is a scripted node that tells its history, and whose commits wait at a gate.
func namedNode(history string, gate <-chan struct{}) *scriptedNode {
	return &scriptedNode{
		commit: func(_ context.Context, req *ledgerpb.CommitRequest) (*ledgerpb.CommitResponse, error) {
			<-gate
			return &ledgerpb.CommitResponse{Results: make([]*ledgerpb.Result, len(req.GetTransfers()))}, nil
		},
		watch: func(s ledgerpb.LedgerNode_WatchServer) error {
			if err := s.Send(&ledgerpb.WatchResponse{Seq: 7, History: []byte(history)}); err != nil {
				return err
			}
			return answerTicks(s, 7)
		},
	}
}

// answerTicks answers every tick at version seq until the stream ends.
func answerTicks(s ledgerpb.LedgerNode_WatchServer, seq uint64) error {
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if m.GetTick() == 0 {
			continue
		}
		if err := s.Send(&ledgerpb.WatchResponse{Seq: seq, Heartbeat: &ledgerpb.Heartbeat{Tick: m.GetTick()}}); err != nil {
			return err
		}
	}
}

func serveNode(t *testing.T, n *scriptedNode) (addr string, stop func()) {
	t.Helper()
	addr = socket(t)
	ln, err := net.Listen("unix", strings.TrimPrefix(addr, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	ledgerpb.RegisterLedgerNodeServer(srv, n)
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(ln) }()
	stop = sync.OnceFunc(func() { srv.Stop(); <-served })
	t.Cleanup(stop)
	return addr, stop
}

// Goal: a call under way ends on the connection that it began on, and the old connection then; a
// call that does not end is cut off at the limit, and moves wait while too many are left. Method:
// nodes of one history whose commits wait at a gate, and a clock that is moved.
func TestRetiredLinks(t *testing.T) {
	gate, entered := make(chan struct{}), make(chan struct{}, 100)
	var ahead atomic.Int64
	addrs := make([]string, maxRetired+2)
	for i := range addrs {
		n := namedNode("h", gate)
		inner := n.commit
		n.commit = func(ctx context.Context, r *ledgerpb.CommitRequest) (*ledgerpb.CommitResponse, error) {
			entered <- struct{}{}
			return inner(ctx, r)
		}
		addrs[i], _ = serveNode(t, n)
	}
	m := moveWith(t, addrs[0], DialOptions{Now: func() int64 { return clock() + ahead.Load() }})
	until(t, "named", func() bool { return m.evidence.now().seen == 7 })
	ends := make(chan error, len(addrs))
	for i, addr := range addrs[1:] {
		go func() {
			ends <- m.Commit(context.Background(), []wallet.Payment{*payment(1, uint64(i+1))}, make([]wallet.Result, 1))
		}()
		<-entered
		m.set(t, addr)
		if i < maxRetired {
			m.arrives(t, addr)
		}
	}
	m.shows(t, addrs[len(addrs)-1], endpointStandby, "") // known, and not tried
	if m.Moves() != maxRetired {
		t.Errorf("%d moves", m.Moves())
	}
	ahead.Store(int64(retireLimit)) // the old links are cut off, and so the last move is made
	for range maxRetired {
		if err := <-ends; status.Code(errors.Unwrap(err)) != codes.Canceled || errors.Is(err, ErrNotSent) {
			t.Errorf("cut off: %v", err)
		}
	}
	m.arrives(t, addrs[len(addrs)-1])
	close(gate) // the last call is answered on its own link, which then closes
	if err := <-ends; err != nil {
		t.Errorf("under way: %v", err)
	}
	until(t, "closed", func() bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.retired) == 0 })
}

// Goal: an endpoint that connects and says nothing is not used, and one that is no longer wanted is
// not waited for. Method: a node whose stream is silent, and a warming time that never ends.
func TestSilentEndpoint(t *testing.T) {
	e := memoryBooks(t)
	at, _ := serveBooks(t, e, socket(t))
	silent, _ := serveNode(t, &scriptedNode{watch: func(s ledgerpb.LedgerNode_WatchServer) error { <-s.Context().Done(); return nil }})
	var more atomic.Int64
	m := moveWith(t, at, DialOptions{Now: clock, ConnectTimeout: func() time.Duration { return time.Second + time.Duration(more.Load()) }})
	until(t, "healthy", m.reader.Healthy)
	m.set(t, silent, at)
	m.shows(t, silent, endpointUnreachable, "deadline")

	next, _ := serveBooks(t, e, socket(t))
	m.set(t, at)
	until(t, "alone", func() bool { return len(m.EndpointStates()) == 1 })
	more.Store(int64(time.Hour))
	m.set(t, silent, at)
	m.shows(t, silent, endpointWarming, "")
	m.set(t, next, at)
	m.arrives(t, next)
	pays(t, m, 1, 1)
}

// Goal: a client that is closed while it moves takes no new link, and a connection is waited for no
// longer than is said. Method: a swap after Close; a dialer without time.
func TestClosedClientStays(t *testing.T) {
	at, _ := serveBooks(t, memoryBooks(t), socket(t))
	c := dial(t, socket(t), DialOptions{Now: clock})
	l, err := connect(at, &c.opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.conn.Close() }()
	_ = c.Close()
	if err := c.swap(l, &ledgerName{}); err == nil || c.Moves() != 0 {
		t.Errorf("swapped: %v", err)
	}
	var timeout net.Error
	hasty := DialOptions{Now: clock, ConnectTimeout: func() time.Duration { return 1 }}
	if _, err := new(carrier).dialer(host.Addr{}, &hasty)(t.Context(), "127.0.0.1:1"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("without time: %v", err)
	}
}
