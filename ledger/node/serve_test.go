package node_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	logrustest "github.com/sirupsen/logrus/hooks/test"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"svc-wallet/host"
	"svc-wallet/ledger"
	"svc-wallet/ledger/contract"
	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/ledger/node"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// TestClientOverUnix: the client keeps the contract in front of the memory engine, over a socket.
func TestClientOverUnix(t *testing.T) {
	t.Parallel()
	contract.Run(t, func(t *testing.T) contract.Fixture {
		f := engineFixture(t, node.OpenMemory)
		return dialled(t, f, "unix:"+filepath.Join(t.TempDir(), "node.sock"), nil, nil)
	})
}

// TestClientOverTLS: the client keeps the contract in front of Pebble, over TCP with certificates
// of both sides.
func TestClientOverTLS(t *testing.T) {
	t.Parallel()
	server, client := certificates(t)
	contract.Run(t, func(t *testing.T) contract.Fixture {
		f := engineFixture(t, func(o node.Options) (node.Engine, error) { return node.OpenPebble(t.TempDir(), o) })
		return dialled(t, f, "127.0.0.1:0", server.Clone, client.Clone)
	})
}

// dialled puts a server and a client before the fixture's engine.
func dialled(t *testing.T, f contract.Fixture, addr string, server, client func() *tls.Config) contract.Fixture {
	t.Helper()
	ln := serve(t, f.Ledger.(node.Engine), addr, node.ServeOptions{TLS: server})
	if addr[0] != 'u' {
		addr = ln.Addr().String()
	}
	c, err := ledger.Dial(addr, ledger.DialOptions{TLS: client, Now: f.Clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	for ctx := within(t); c.Lookup(ctx, nil, nil) != nil; { // the client does not wait for a node
		if ctx.Err() != nil {
			t.Fatal("the client does not reach the node")
		}
		runtime.Gosched()
	}
	f.Ledger = c
	return f
}

// serve runs a server until the test ends.
func serve(t *testing.T, e node.Engine, addr string, opts node.ServeOptions) net.Listener {
	t.Helper()
	ln, err := host.Listen(addr, host.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- node.Serve(ctx, ln, e, opts) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return ln
}

// certificates makes an authority and a certificate of it for each side.
func certificates(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	caKey, ca := certificate(t, &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true}, nil, nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	leaf := func(usage x509.ExtKeyUsage) tls.Certificate {
		key, cert := certificate(t, &x509.Certificate{
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		}, caKey, ca)
		return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
	}
	server = &tls.Config{Certificates: []tls.Certificate{leaf(x509.ExtKeyUsageServerAuth)}, ClientCAs: pool}
	client = &tls.Config{Certificates: []tls.Certificate{leaf(x509.ExtKeyUsageClientAuth)}, RootCAs: pool, MinVersion: tls.VersionTLS13}
	return server, client
}

func certificate(t *testing.T, c *x509.Certificate, signer *ecdsa.PrivateKey, parent *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(1), pkix.Name{CommonName: "test"}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if signer == nil {
		signer, parent = key, c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

// stub is an engine that a test scripts; calls without a script panic.
type stub struct {
	node.Engine
	commit func(context.Context, []wallet.Payment, []wallet.Result) error
	lookup func(context.Context) error
	watch  func(context.Context, uint64, func(wallet.Change)) error
	seq    atomic.Uint64
}

func (*stub) Clock() uint64 { return 1 }

func (*stub) Identity() node.Identity {
	return node.Identity{Ledger: [16]byte{1}, Opening: [16]byte{2}}
}

func (s *stub) Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
	return s.commit(ctx, batch, out)
}

func (s *stub) Lookup(ctx context.Context, _ []wallet.BalanceKey, _ []wallet.Balance) error {
	return s.lookup(ctx)
}

func (s *stub) Watch(ctx context.Context, from uint64, on func(wallet.Change)) error {
	return s.watch(ctx, from, on)
}

func (s *stub) Seq() uint64       { return s.seq.Load() }
func (s *stub) Stats() node.Stats { return node.Stats{ConservationOK: 5, ConservationFailed: 2} }

// TestCommitOfUnreadRows: a batch of which nothing could be judged is answered as damage, which no
// caller takes for a failing node; one of which something could is answered with what there is.
func TestCommitOfUnreadRows(t *testing.T) {
	for _, judged := range []int{0, 1} {
		e := &stub{commit: func(_ context.Context, _ []wallet.Payment, out []wallet.Result) error {
			for i := range judged {
				out[i].Code = wallet.InsufficientFunds
			}
			return nil
		}}
		client := ledgerpb.NewLedgerNodeClient(raw(t, e, node.ServeOptions{}))
		res, err := client.Commit(within(t), &ledgerpb.CommitRequest{Transfers: []*ledgerpb.Transfer{good(), good()}})
		switch {
		case judged == 0 && status.Code(err) != codes.DataLoss:
			t.Errorf("nothing was judged: %v, %v", res, err)
		case judged == 1 && (err != nil || res.GetResults()[0].GetVerdict() != ledgerpb.Verdict_VERDICT_INSUFFICIENT_FUNDS ||
			res.GetResults()[1].GetVerdict() != ledgerpb.Verdict_VERDICT_UNSPECIFIED):
			t.Errorf("one was judged: %v, %v", res, err)
		}
	}
}

// inMemory is an engine on a folder in memory.
func inMemory(t *testing.T, opts node.Options) node.Engine {
	t.Helper()
	e, err := node.OpenMemory(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// raw serves e on a socket and returns a plain connection to it.
func raw(t *testing.T, e node.Engine, opts node.ServeOptions) *grpc.ClientConn {
	t.Helper()
	ln := serve(t, e, "unix:"+filepath.Join(t.TempDir(), "node.sock"), opts)
	return plain(t, "unix:"+ln.Addr().String())
}

func plain(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// within bounds a call that must come to its end by itself: far more than that takes on any machine.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// good is a transfer that passes, as a message.
func good() *ledgerpb.Transfer {
	return &ledgerpb.Transfer{
		Op: ledgerpb.Op_OP_ISSUE, To: "alice", Asset: "ron", Amount: &ledgerpb.Amount{Lo: 5}, Nonce: 1,
		IdempotencyKey: "k", Fingerprint: make([]byte, 32), CorrId: "c", Traceparent: "not a trace",
		Rules: &ledgerpb.Rules{
			DailyCeiling: &ledgerpb.Amount{Hi: 1}, MaxAccountTotal: &ledgerpb.Amount{Hi: 1}, NonceMaxGap: 1,
		},
	}
}

// TestHostileTransfers: a transfer that is malformed in any way is VERDICT_INVALID by itself; what
// is absent of its rules refuses it; the others of the batch are judged.
func TestHostileTransfers(t *testing.T) {
	type T = ledgerpb.Transfer
	conn := raw(t, inMemory(t, node.Options{Now: newClock().Now}), node.ServeOptions{})
	req := &ledgerpb.CommitRequest{}
	var want []ledgerpb.Verdict
	add := func(v ledgerpb.Verdict, spoil func(*T)) {
		p := good()
		spoil(p)
		req.Transfers, want = append(req.Transfers, p), append(want, v)
	}
	const invalid = ledgerpb.Verdict_VERDICT_INVALID
	add(invalid, func(p *T) { proto.Reset(p) })
	add(invalid, func(p *T) { p.Op = 0 })
	add(invalid, func(p *T) { p.Op = 99 })
	add(invalid, func(p *T) { p.From = "bob" })
	add(invalid, func(p *T) { p.To = "" })
	add(invalid, func(p *T) { p.To = "-alice" })
	add(invalid, func(p *T) { p.To = strings.Repeat("a", 65) })
	add(invalid, func(p *T) { p.Op, p.From = ledgerpb.Op_OP_TRANSFER, "al ice" })
	add(invalid, func(p *T) { p.Op, p.From = ledgerpb.Op_OP_TRANSFER, "alice" })
	add(invalid, func(p *T) { p.Asset = "RON" })
	add(invalid, func(p *T) { p.Asset = "" })
	add(invalid, func(p *T) { p.Amount = nil })
	add(invalid, func(p *T) { p.Nonce = 0 })
	add(invalid, func(p *T) { p.IdempotencyKey = "" })
	add(invalid, func(p *T) { p.IdempotencyKey = "a b" })
	add(invalid, func(p *T) { p.IdempotencyKey = `"` + strings.Repeat("a", 64) })
	add(invalid, func(p *T) { p.IdempotencyKey = "\"\x01" })
	add(invalid, func(p *T) { p.Fingerprint = nil })
	add(invalid, func(p *T) { p.Fingerprint = make([]byte, 33) })
	add(ledgerpb.Verdict_VERDICT_NONCE_CONFLICT, func(p *T) { p.Rules = nil })
	add(ledgerpb.Verdict_VERDICT_LIMITS_EXCEEDED, func(p *T) { p.Rules.DailyCeiling = nil })
	add(ledgerpb.Verdict_VERDICT_LIMITS_EXCEEDED, func(p *T) { p.Rules.MaxAccountTotal = nil })
	add(ledgerpb.Verdict_VERDICT_INSUFFICIENT_FUNDS, func(p *T) { p.Op, p.From, p.To = ledgerpb.Op_OP_BURN, "alice", "" })
	add(ledgerpb.Verdict_VERDICT_APPLIED, func(*T) {})
	add(ledgerpb.Verdict_VERDICT_REPLAYED, func(*T) {})
	add(ledgerpb.Verdict_VERDICT_KEY_REUSED, func(p *T) { p.Fingerprint[0] = 1 })
	add(ledgerpb.Verdict_VERDICT_APPLIED, func(p *T) { p.Nonce, p.IdempotencyKey = 2, `"\` })
	res, err := ledgerpb.NewLedgerNodeClient(conn).Commit(within(t), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range res.GetResults() {
		if r.GetVerdict() != want[i] {
			t.Errorf("%v: %v, want %v", req.GetTransfers()[i], r.GetVerdict(), want[i])
		}
		if shown := r.GetReceipt() != nil; shown != (want[i] == ledgerpb.Verdict_VERDICT_APPLIED || want[i] == ledgerpb.Verdict_VERDICT_REPLAYED) {
			t.Errorf("%v comes with %v", want[i], r.GetReceipt())
		}
	}
	if got := res.GetResults()[len(want)-1].GetReceipt().GetIdempotencyKey(); got != `"\` {
		t.Errorf("the key came back as %q", got)
	}
}

// TestHostileRequests: a request that is malformed as a whole is INVALID_ARGUMENT.
func TestHostileRequests(t *testing.T) {
	conn := raw(t, inMemory(t, node.Options{Now: newClock().Now}), node.ServeOptions{})
	c := ledgerpb.NewLedgerNodeClient(conn)
	ctx := within(t)
	many := &ledgerpb.CommitRequest{}
	keys := &ledgerpb.LookupRequest{}
	for range node.MaxCommit + 1 {
		many.Transfers = append(many.Transfers, &ledgerpb.Transfer{})
		keys.Keys = append(keys.Keys, &ledgerpb.BalanceKey{Account: "a", Asset: "b"})
	}
	_, commit := c.Commit(ctx, many)
	_, lookup := c.Lookup(ctx, keys)
	_, key := c.Lookup(ctx, &ledgerpb.LookupRequest{Keys: []*ledgerpb.BalanceKey{{Account: "a", Asset: "b"}, {Account: "a"}}})
	_, id := c.Transaction(ctx, &ledgerpb.TransactionRequest{Txid: []byte("short")})
	_, half := c.Transaction(ctx, &ledgerpb.TransactionRequest{Account: "a"})
	_, both := c.Transaction(ctx, &ledgerpb.TransactionRequest{Txid: make([]byte, 16), Account: "a", IdempotencyKey: "k"})
	stream, err := c.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_Tick{Tick: 1}}); err != nil {
		t.Fatal(err)
	}
	_, watch := stream.Recv()
	for name, err := range map[string]error{"commit": commit, "lookup": lookup, "key": key, "id": id, "half": half, "both": both, "watch": watch} {
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if stream, err = c.Watch(ctx); err != nil {
		t.Fatal(err)
	}
	_ = stream.CloseSend() // says nothing and goes
	if _, err := stream.Recv(); err == nil {
		t.Error("a watch that asked for nothing got something")
	}
}

// TestEngineErrors: each error of an engine has its status, and what is our fault is logged, not
// told; a panic is served as an error.
func TestEngineErrors(t *testing.T) {
	log, hook := logrustest.NewNullLogger()
	e := &stub{}
	conn := raw(t, e, node.ServeOptions{Log: log})
	c := ledgerpb.NewLedgerNodeClient(conn)
	for _, x := range []struct {
		err  error
		want codes.Code
		logs bool
	}{
		{wire.ErrBacklog, codes.OutOfRange, false},
		{wire.ErrLagged, codes.ResourceExhausted, false},
		{node.ErrClosed, codes.Unavailable, false},
		{node.ErrWatchers, codes.Unavailable, false},
		{fmt.Errorf("secret: %w", wire.ErrDamaged), codes.DataLoss, false},
		{context.DeadlineExceeded, codes.DeadlineExceeded, false},
		{errors.New("secret"), codes.Internal, true},
	} {
		e.commit = func(context.Context, []wallet.Payment, []wallet.Result) error { return x.err }
		e.lookup = func(context.Context) error { return x.err }
		e.watch = func(context.Context, uint64, func(wallet.Change)) error { return x.err }
		hook.Reset()
		_, commit := c.Commit(within(t), &ledgerpb.CommitRequest{})
		_, lookup := c.Lookup(within(t), &ledgerpb.LookupRequest{})
		stream, err := c.Watch(within(t))
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_From{From: 3}})
		_, watch := stream.Recv()
		for _, err := range []error{commit, lookup, watch} {
			if status.Code(err) != x.want || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v is %v", x.err, err)
			}
		}
		if logged := len(hook.AllEntries()) == 3; logged != x.logs {
			t.Errorf("%v: logs %v", x.err, hook.AllEntries())
		}
	}

	e.lookup = func(context.Context) error { panic("bug") }
	e.watch = func(context.Context, uint64, func(wallet.Change)) error { panic("bug") }
	hook.Reset()
	_, lookup := c.Lookup(within(t), &ledgerpb.LookupRequest{})
	_, missing := c.Transaction(within(t), &ledgerpb.TransactionRequest{Txid: make([]byte, 16)}) // the stub has none
	stream, err := c.Watch(within(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_From{From: 3}})
	_, watch := stream.Recv()
	for _, err := range []error{lookup, missing, watch} {
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "bug") {
			t.Errorf("a panic is %v", err)
		}
	}
	if len(hook.AllEntries()) < 3 {
		t.Error("panics are not logged")
	}
}

// TestAbandonedCommit: an attempt whose caller gave up is not applied after a later attempt of the
// same payment was refused, or a client would be told of a refusal and be debited all the same. The
// first attempt is held up before the engine, in whose place a SIGSTOP of the node would hold it.
func TestAbandonedCommit(t *testing.T) {
	inner := inMemory(t, node.Options{Now: newClock().Now})
	entered, leave, late := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var calls atomic.Int64
	conn := raw(t, &stub{commit: func(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
		if calls.Add(1) > 1 {
			return inner.Commit(ctx, batch, out)
		}
		close(entered)
		<-leave
		err := inner.Commit(ctx, batch, out)
		late <- err
		return err
	}}, node.ServeOptions{})
	c := ledgerpb.NewLedgerNodeClient(conn)
	burn, issue := good(), good()
	burn.Op, burn.From, burn.To = ledgerpb.Op_OP_BURN, issue.To, ""
	issue.IdempotencyKey = "other"
	once := func(ctx context.Context, p *ledgerpb.Transfer) (ledgerpb.Verdict, error) {
		res, err := c.Commit(ctx, &ledgerpb.CommitRequest{Transfers: []*ledgerpb.Transfer{p}})
		if err != nil {
			return 0, err
		}
		return res.GetResults()[0].GetVerdict(), nil
	}
	ctx, cancel := context.WithCancel(within(t))
	go func() { <-entered; cancel() }()
	if _, err := once(ctx, burn); status.Code(err) != codes.Canceled {
		t.Errorf("the caller that gave up got %v", err)
	}
	if v, err := once(within(t), burn); err != nil || v != ledgerpb.Verdict_VERDICT_INSUFFICIENT_FUNDS {
		t.Fatalf("the second attempt: %v %v", v, err)
	}
	if v, err := once(within(t), issue); err != nil || v != ledgerpb.Verdict_VERDICT_APPLIED {
		t.Fatalf("the issue: %v %v", v, err)
	}
	close(leave)
	if err := <-late; !errors.Is(err, context.Canceled) {
		t.Errorf("the first attempt was taken up in the end: %v", err)
	}
	if v, err := once(within(t), burn); err != nil || v != ledgerpb.Verdict_VERDICT_APPLIED {
		t.Errorf("the refused payment, asked for once more: %v %v, want its first commit", v, err)
	}
}

// TestHeartbeats: a tick is answered when every change that was durable at its receipt has been
// sent, and not before; it waits for nothing else, and large changes come in pieces that end with
// their version.
func TestHeartbeats(t *testing.T) {
	changes := make(chan wallet.Change)
	e := &stub{watch: func(ctx context.Context, _ uint64, on func(wallet.Change)) error {
		for {
			select {
			case c := <-changes:
				on(c)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}}
	e.seq.Store(7)
	conn := raw(t, e, node.ServeOptions{})
	stream, err := ledgerpb.NewLedgerNodeClient(conn).Watch(within(t))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *ledgerpb.WatchRequest) {
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	next := func() *ledgerpb.WatchResponse {
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	ask(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_From{From: 7}})
	ask(&ledgerpb.WatchRequest{}) // of a later version of the protocol
	ask(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_Tick{Tick: 11}})
	id := e.Identity()
	if r := next(); string(r.GetLedger()) != string(id.Ledger[:]) || string(r.GetHistory()) != string(id.Opening[:]) ||
		r.GetHeartbeat().GetTick() != 11 || r.GetSeq() != 7 || r.GetHeartbeat().GetConservationOk() != 5 || r.GetHeartbeat().GetConservationFailed() != 2 {
		t.Fatalf("idle: %v", r)
	}

	e.seq.Store(9) // durable, but not yet with the watch
	ask(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_Tick{Tick: 12}})
	changes <- wallet.Change{Seq: 8, Balances: make([]wallet.Balance, 1)}
	if r := next(); r.GetHeartbeat() != nil || r.GetSeq() != 8 || r.GetLedger() != nil || r.GetHistory() != nil {
		t.Fatalf("a beat came too early: %v", r)
	}
	changes <- wallet.Change{Seq: 9, Balances: make([]wallet.Balance, 2500)}
	for i, want := range []struct {
		seq uint64
		n   int
	}{{8, 1024}, {8, 1024}, {9, 452}} {
		if r := next(); r.GetSeq() != want.seq || len(r.GetBalances()) != want.n || r.GetHeartbeat() != nil {
			t.Fatalf("piece %d has version %d, %d balances", i, r.GetSeq(), len(r.GetBalances()))
		}
	}
	if r := next(); r.GetHeartbeat().GetTick() != 12 || r.GetSeq() != 9 {
		t.Fatalf("after the change: %v", r)
	}
	for tick := range uint64(100) { // a flood: the newest is answered, no more than each once
		ask(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_Tick{Tick: 100 + tick}})
	}
	for last := uint64(0); last < 199; {
		r := next().GetHeartbeat()
		if r.GetTick() <= last {
			t.Fatalf("tick %d after %d", r.GetTick(), last)
		}
		last = r.GetTick()
	}
}

// TestHealthAndDrain: SERVING while it serves; when its context ends, watches of health hear
// NOT_SERVING, ledger watches end as unavailable, calls finish, and a call that does not is cut
// off at the bound.
func TestHealthAndDrain(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	e := &stub{
		commit: func(context.Context, []wallet.Payment, []wallet.Result) error { close(entered); <-leave; return nil },
		watch:  func(ctx context.Context, _ uint64, _ func(wallet.Change)) error { <-ctx.Done(); return ctx.Err() },
	}
	ln, err := host.Listen("unix:"+filepath.Join(t.TempDir(), "s"), host.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- node.Serve(ctx, ln, e, node.ServeOptions{Drain: 300 * time.Millisecond}) }()
	conn := plain(t, "unix:"+ln.Addr().String())
	beats, err := grpc_health_v1.NewHealthClient(conn).Watch(within(t), &grpc_health_v1.HealthCheckRequest{Service: "ledger.v1.LedgerNode"})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := beats.Recv(); err != nil || r.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatal(r, err)
	}
	watch, err := ledgerpb.NewLedgerNodeClient(conn).Watch(within(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = watch.Send(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_From{From: 1}})
	stuck := make(chan error, 1)
	go func() {
		_, err := ledgerpb.NewLedgerNodeClient(conn).Commit(within(t), &ledgerpb.CommitRequest{})
		stuck <- err
	}()
	<-entered

	cancel()
	if r, err := beats.Recv(); err != nil || r.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Error(r, err)
	}
	if _, err := beats.Recv(); err == nil {
		t.Error("the watch of health goes on")
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the watch ended with %v", err)
	}
	if err := <-stuck; status.Code(err) != codes.Unavailable {
		t.Errorf("the stuck call ended with %v", err)
	}
	close(leave) // Serve waits for the handler even so
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestTransport: plain text off the machine, TLS that would trust anybody, and clients without a
// certificate or without TLS are refused, and each refused handshake is told once, with who came and why.
func TestTransport(t *testing.T) {
	e := inMemory(t, node.Options{Now: newClock().Now})
	everywhere, err := host.Listen("0.0.0.0:0", host.ListenOptions{Remote: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Serve(context.Background(), everywhere, e, node.ServeOptions{}); err == nil || !strings.Contains(err.Error(), "plain text") {
		t.Errorf("plain text on every address: %v", err)
	}
	ln, err := host.Listen("127.0.0.1:0", host.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Serve(context.Background(), ln, e, node.ServeOptions{TLS: func() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS13} }}); err == nil || !strings.Contains(err.Error(), "ClientCAs") {
		t.Errorf("TLS without ClientCAs: %v", err)
	}
	server, client := certificates(t)
	log, hook := logrustest.NewNullLogger()
	addr := serve(t, e, "127.0.0.1:0", node.ServeOptions{TLS: server.Clone, Log: log}).Addr().String()
	_, stranger := certificates(t)
	stranger.RootCAs = client.RootCAs
	nobody := client.Clone()
	nobody.Certificates = nil
	for name, conf := range map[string]*tls.Config{"nobody": nobody, "stranger": stranger, "plain": nil, "known": client} {
		creds := insecure.NewCredentials()
		if conf != nil {
			creds = credentials.NewTLS(conf)
		}
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		_, err = ledgerpb.NewLedgerNodeClient(conn).Lookup(within(t), &ledgerpb.LookupRequest{})
		if (err == nil) != (name == "known") {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.Close()
	}
	// A client may know of its refusal before the server has logged it.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for waiting := within(t); len(hook.AllEntries()) < 3 && waiting.Err() == nil; {
		<-tick.C
	}
	told := map[string]int{}
	for _, l := range hook.AllEntries() {
		if l.Message != "handshake_refused" || l.Level.String() != "info" || l.Data["peer_addr"] != "127.0.0.1" {
			t.Errorf("%s: %v", l.Message, l.Data)
			continue
		}
		told[l.Data["reason"].(string)]++
	}
	for _, why := range []string{"didn't provide a certificate", "unknown authority", "first record does not look like a TLS handshake"} {
		n := 0
		for reason, lines := range told {
			if strings.Contains(reason, why) {
				n += lines
			}
		}
		if n != 1 {
			t.Errorf("%q was told %d times: %v", why, n, told)
		}
	}
}

// TestSilentCrowd: connections that say nothing keep no sidecar out, and drive none away. Method: twice as many
// as the node holds before a client comes, and again behind it.
func TestSilentCrowd(t *testing.T) {
	server, client := certificates(t)
	addr := serve(t, inMemory(t, node.Options{Now: newClock().Now}), "127.0.0.1:0", node.ServeOptions{TLS: server.Clone}).Addr().String()
	var dials atomic.Int32
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(client)), grpc.WithContextDialer(
		func(ctx context.Context, addr string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 {
		for range 600 {
			silent, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer silent.Close()
		}
		if _, err := ledgerpb.NewLedgerNodeClient(conn).Lookup(within(t), &ledgerpb.LookupRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("the client had to connect %d times", n)
	}
}

// TestServeEndsAtOnce: a context that has ended, before or while the server starts, is no error, and
// the listener is closed. Many times, because it is a race.
func TestServeEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e := inMemory(t, node.Options{Now: newClock().Now})
	for range 200 {
		addr := "unix:" + filepath.Join(t.TempDir(), "n")
		ln, err := host.Listen(addr, host.ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := node.Serve(ctx, ln, e, node.ServeOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("the listener is open: %v", err)
		}
	}
}

// TestServeFails: a listener that breaks ends Serve with its error.
func TestServeFails(t *testing.T) {
	ln, err := host.Listen("127.0.0.1:0", host.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if err := node.Serve(context.Background(), ln, &stub{}, node.ServeOptions{}); err == nil {
		t.Error("served on a closed listener")
	}
}
