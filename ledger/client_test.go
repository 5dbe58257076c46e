package ledger

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// scriptedNode is a node that answers what a test wants.
type scriptedNode struct {
	ledgerpb.UnimplementedLedgerNodeServer
	commit      func(context.Context, *ledgerpb.CommitRequest) (*ledgerpb.CommitResponse, error)
	lookup      func(context.Context, *ledgerpb.LookupRequest) (*ledgerpb.LookupResponse, error)
	transaction func(context.Context, *ledgerpb.TransactionRequest) (*ledgerpb.TransactionResponse, error)
	watch       func(ledgerpb.LedgerNode_WatchServer) error
}

func (n *scriptedNode) Commit(ctx context.Context, r *ledgerpb.CommitRequest) (*ledgerpb.CommitResponse, error) {
	return n.commit(ctx, r)
}

func (n *scriptedNode) Lookup(ctx context.Context, r *ledgerpb.LookupRequest) (*ledgerpb.LookupResponse, error) {
	return n.lookup(ctx, r)
}

func (n *scriptedNode) Transaction(ctx context.Context, r *ledgerpb.TransactionRequest) (*ledgerpb.TransactionResponse, error) {
	return n.transaction(ctx, r)
}

func (n *scriptedNode) Watch(s ledgerpb.LedgerNode_WatchServer) error { return n.watch(s) }

// serve runs the node on a Unix socket and returns a client of it, and what stops the node hard.
func (n *scriptedNode) serve(t *testing.T) (*Client, func()) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	ledgerpb.RegisterLedgerNodeServer(srv, n)
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(ln) }()
	c := dial(t, "unix:"+path, DialOptions{Now: clock})
	t.Cleanup(func() { srv.Stop(); <-served })
	return c, srv.Stop
}

func dial(t *testing.T, addr string, opts DialOptions) *Client {
	t.Helper()
	c, err := Dial(addr, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Goal: an address is taken as it is meant or refused with the reason; plain TCP goes to this
// machine only. Method: a table.
func TestDialAddresses(t *testing.T) {
	for addr, fine := range map[string]bool{
		"unix:/run/ledger.sock": true, "unix:relative": true, "127.0.0.1:7000": true, "[::1]:7000": true,
		"localhost:7000": true, "unix:": false, "ledger:7000": false, "10.0.0.1:7000": false,
		"ledger": false, ":7000": false, "": false, "http://ledger": false,
	} {
		c, err := Dial(addr, DialOptions{Now: clock})
		if (err == nil) != fine {
			t.Errorf("%q: %v", addr, err)
		}
		if err == nil {
			_ = c.Close()
		}
	}
	c, err := Dial("ledger:7000", DialOptions{Now: clock, TLS: func() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} }})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// Goal: ErrNotSent is told exactly where no payment can have left: no node, no time, a message too
// large; and not where a node had it, be it that it hangs, fails, dies or answers nonsense. Method:
// a table of nodes that do each.
func TestNotSent(t *testing.T) {
	batch, out := []wallet.Payment{*payment(1, 1)}, make([]wallet.Result, 1)
	t.Run("no node", func(t *testing.T) {
		c := dial(t, "unix:"+filepath.Join(t.TempDir(), "nobody"), DialOptions{Now: clock})
		if err := c.Commit(t.Context(), batch, out); !errors.Is(err, ErrNotSent) {
			t.Fatal(err)
		}
	})
	var stop func()
	for _, tc := range []struct {
		name string
		node func(context.Context) (*ledgerpb.CommitResponse, error)
		late bool
	}{
		{"hangs", func(ctx context.Context) (*ledgerpb.CommitResponse, error) { <-ctx.Done(); return nil, ctx.Err() }, true},
		{"fails", func(context.Context) (*ledgerpb.CommitResponse, error) {
			return nil, status.Error(codes.Unavailable, "later")
		}, false},
		{"dies", func(ctx context.Context) (*ledgerpb.CommitResponse, error) {
			go stop()
			<-ctx.Done()
			return nil, ctx.Err()
		}, false},
		{"answers nonsense", func(context.Context) (*ledgerpb.CommitResponse, error) { return &ledgerpb.CommitResponse{}, nil }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := &scriptedNode{commit: func(ctx context.Context, _ *ledgerpb.CommitRequest) (*ledgerpb.CommitResponse, error) {
				return tc.node(ctx)
			}}
			var c *Client
			c, stop = n.serve(t)
			wait := patience
			if tc.late {
				wait = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			err := c.Commit(ctx, batch, out)
			if err == nil || errors.Is(err, ErrNotSent) || errors.Is(err, context.DeadlineExceeded) != tc.late {
				t.Fatalf("err %v", err)
			}
			if out[0].Code != wallet.Uncertain {
				t.Fatalf("out was written: %v", out[0].Code)
			}
		})
	}
	t.Run("no time", func(t *testing.T) {
		c, _ := (&scriptedNode{}).serve(t)
		c.opts.Timeout = func() time.Duration { return 0 }
		if err := c.Lookup(context.Background(), nil, nil); !errors.Is(err, ErrNotSent) {
			t.Fatal(err)
		}
	})
	t.Run("too large", func(t *testing.T) {
		c, _ := (&scriptedNode{}).serve(t)
		big := make([]wallet.Payment, 120_000)
		for i := range big {
			big[i] = batch[0]
		}
		if err := c.Commit(t.Context(), big, make([]wallet.Result, len(big))); !errors.Is(err, ErrNotSent) {
			t.Fatal(err)
		}
	})
}

// Goal: a lookup names the requests that it serves, at most sixteen, and one trace. Method: the
// node's metadata.
func TestOriginsOnTheWire(t *testing.T) {
	var got metadata.MD
	c, _ := (&scriptedNode{lookup: func(ctx context.Context, _ *ledgerpb.LookupRequest) (*ledgerpb.LookupResponse, error) {
		got, _ = metadata.FromIncomingContext(ctx)
		return &ledgerpb.LookupResponse{}, nil
	}}).serve(t)
	o := wallet.Origin{
		Corr:  wallet.Must(wallet.ParseCorrID("corr")),
		Trace: wallet.Must(wallet.ParseTrace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
	}
	origins := make([]wallet.Origin, 20)
	for i := range origins {
		origins[i] = o
	}
	origins[0] = wallet.Origin{}
	if err := c.Lookup(withOrigins(t.Context(), origins), nil, nil); err != nil {
		t.Fatal(err)
	}
	if len(got["x-corr-id"]) != 15 || got["x-corr-id"][0] != "corr" || len(got["traceparent"]) != 1 || got["traceparent"][0] != o.Trace.String() {
		t.Fatalf("metadata %v", got)
	}
}

// say sends one message of a watch.
func say(seq uint64, tick uint64, balances ...*ledgerpb.Balance) *ledgerpb.WatchResponse {
	m := &ledgerpb.WatchResponse{Seq: seq, Balances: balances}
	if tick != 0 {
		m.Heartbeat = &ledgerpb.Heartbeat{Tick: tick}
	}
	return m
}

func wireBalance(seq uint64) *ledgerpb.Balance {
	return &ledgerpb.Balance{Account: "acc_1", Asset: "ron", Amount: &ledgerpb.Amount{Lo: seq}, Seq: seq}
}

// Goal: a watch that contradicts itself ends with an error and tells the watcher nothing false: a
// version that goes back, a figure that is none or is of a version never reached, an answer to a
// tick that was not sent or was answered. Method: a table of what a node says after version 5.
func TestWatchHostile(t *testing.T) {
	for name, tc := range map[string]struct {
		say   func(tick uint64) []*ledgerpb.WatchResponse
		want  error
		beats int
	}{
		"goes back": {func(uint64) []*ledgerpb.WatchResponse { return []*ledgerpb.WatchResponse{say(4, 0)} }, wire.ErrBacklog, 0},
		"no account": {func(uint64) []*ledgerpb.WatchResponse {
			return []*ledgerpb.WatchResponse{say(6, 0, &ledgerpb.Balance{Asset: "ron", Amount: &ledgerpb.Amount{}})}
		}, wire.ErrMalformed, 0},
		"no amount": {func(uint64) []*ledgerpb.WatchResponse {
			return []*ledgerpb.WatchResponse{say(6, 0, &ledgerpb.Balance{Account: "a", Asset: "ron"})}
		}, wire.ErrMalformed, 0},
		"unknown tick":   {func(t uint64) []*ledgerpb.WatchResponse { return []*ledgerpb.WatchResponse{say(6, t-1)} }, wire.ErrMalformed, 0},
		"future tick":    {func(t uint64) []*ledgerpb.WatchResponse { return []*ledgerpb.WatchResponse{say(6, t+1e12)} }, wire.ErrMalformed, 0},
		"answered twice": {func(t uint64) []*ledgerpb.WatchResponse { return []*ledgerpb.WatchResponse{say(6, t), say(6, t)} }, wire.ErrMalformed, 1},
		"figure ahead": {func(t uint64) []*ledgerpb.WatchResponse {
			return []*ledgerpb.WatchResponse{say(5, 0, wireBalance(9)), say(6, t)}
		}, wire.ErrBacklog, 0},
		"in parts": {func(t uint64) []*ledgerpb.WatchResponse {
			return []*ledgerpb.WatchResponse{say(5, 0, wireBalance(9)), say(9, 0, wireBalance(9)), say(9, t), say(1, 0)}
		}, wire.ErrBacklog, 1},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := (&scriptedNode{watch: func(s ledgerpb.LedgerNode_WatchServer) error {
				if m, err := s.Recv(); err != nil || m.GetFrom() != 5 {
					return status.Error(codes.InvalidArgument, "no from")
				}
				m, err := s.Recv()
				if err != nil {
					return err
				}
				for _, r := range tc.say(m.GetTick()) {
					if err := s.Send(r); err != nil {
						return err
					}
				}
				<-s.Context().Done()
				return nil
			}}).serve(t)
			beats := 0
			before := clock()
			err := c.WatchBeat(t.Context(), 5, func(c wallet.Change) {}, func(b Beat) {
				beats++
				if b.AsOf < before || b.AsOf > clock() {
					t.Errorf("as of %d", b.AsOf)
				}
			}, nil)
			if !errors.Is(err, tc.want) || beats != tc.beats {
				t.Fatalf("%v after %d beats", err, beats)
			}
		})
	}
}

// Goal: the ends of a watch are told apart. Method: a node that ends it with each status.
func TestWatchEnds(t *testing.T) {
	for _, tc := range []struct {
		end  error
		want error
		text string
	}{
		{status.Error(codes.OutOfRange, "gone"), wire.ErrBacklog, "gone"},
		{status.Error(codes.ResourceExhausted, "slow"), wire.ErrLagged, "slow"},
		{status.Error(codes.Internal, "oops"), nil, "oops"},
		{nil, nil, "ended the stream"},
	} {
		c, _ := (&scriptedNode{watch: func(ledgerpb.LedgerNode_WatchServer) error { return tc.end }}).serve(t)
		err := c.Watch(t.Context(), 0, func(wallet.Change) {})
		if err == nil || !strings.Contains(err.Error(), tc.text) || (tc.want != nil && !errors.Is(err, tc.want)) {
			t.Errorf("%v: %v", tc.end, err)
		}
	}
	c := dial(t, "unix:"+filepath.Join(t.TempDir(), "nobody"), DialOptions{Now: clock})
	if err := c.Watch(t.Context(), 0, nil); status.Code(errors.Unwrap(err)) != codes.Unavailable {
		t.Errorf("no node: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WatchBeat(ctx, 0, nil, func(Beat) {}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
}

// Goal: unanswered ticks are counted and bounded, and one answer covers those before it. Method:
// the ticks alone, under a clock that stands still.
func TestTicks(t *testing.T) {
	ts := ticks{now: func() int64 { return 1000 }}
	for i := range int64(10) {
		if tick, due, answered := ts.next(); tick != 1000+i || due != int(i) || answered {
			t.Fatalf("tick %d with %d due, answered %v", tick, due, answered)
		}
	}
	if _, ok := ts.answered(999); ok {
		t.Fatal("a tick from before")
	}
	if asOf, ok := ts.answered(1007); !ok || asOf != 1007 {
		t.Fatalf("as of %d, %v", asOf, ok)
	}
	if _, ok := ts.answered(1006); ok {
		t.Fatal("a tick that was covered")
	}
	if _, due, answered := ts.next(); due != 2 || !answered {
		t.Fatalf("%d due, answered %v", due, answered)
	}
	for len(ts.due) < maxTicks {
		ts.next()
	}
	told := false
	if err := ts.send(t.Context(), nil, func(time.Duration) { told = true }); err == nil || !told {
		t.Fatalf("%v, told %v", err, told)
	}
}

// Goal: a node that is there again after a restart is found within a second. Method: a client of a
// socket on which nobody listens until later.
func TestClientFindsRestartedNode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node")
	c := dial(t, "unix:"+path, DialOptions{Now: clock})
	key := []wallet.BalanceKey{ronOf(1)}
	var out [1]wallet.Balance
	if err := c.Lookup(t.Context(), key, out[:]); !errors.Is(err, ErrNotSent) {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	ledgerpb.RegisterLedgerNodeServer(srv, &scriptedNode{
		lookup: func(context.Context, *ledgerpb.LookupRequest) (*ledgerpb.LookupResponse, error) {
			return &ledgerpb.LookupResponse{Balances: []*ledgerpb.Balance{wireBalance(3)}}, nil
		},
	})
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(ln) }()
	defer func() { srv.Stop(); <-served }()
	for start := clock(); ; {
		err := c.Lookup(t.Context(), key, out[:])
		if err == nil {
			break
		}
		if clock()-start > int64(patience) {
			t.Fatalf("still not found: %v", err)
		}
	}
	if out[0].Amount != wallet.Minor(3) {
		t.Fatalf("figure %v", out[0])
	}
}
