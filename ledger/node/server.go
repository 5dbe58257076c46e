package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"svc-wallet/host"
	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// ServeOptions say how the node is served; the zero value serves in plain text, which Serve
// allows on a Unix socket and on a loopback address only.
type ServeOptions struct {
	TLS   func() *tls.Config // for each handshake, a new one with ClientCAs: client certificates are required and verified
	Log   logrus.FieldLogger // nothing is logged by default
	Drain time.Duration      // how long calls may finish after ctx ends; 5 s by default
}

// Bounds of the server.
const (
	maxConns       = 256
	maxStreams     = 256     // calls at once, a connection
	maxMessage     = 8 << 20 // bytes; MaxCommit results need 4 MB at most
	maxWatchChunk  = 1024    // balances a message of a watch
	handshakeLimit = 5 * time.Second
	drainLimit     = 5 * time.Second
	lastWord       = 100 * time.Millisecond // for a health watch to hear NOT_SERVING
)

// Serve serves ledger.v1.LedgerNode and grpc.health.v1.Health over e until ctx ends; then it
// reports NOT_SERVING, ends the watches, lets calls finish for opts.Drain and cuts off the rest.
// It closes ln and leaves e open.
func Serve(ctx context.Context, ln net.Listener, e Engine, opts ServeOptions) error {
	if opts.Log == nil {
		opts.Log = Options{}.withDefaults().Log
	}
	if opts.Drain <= 0 {
		opts.Drain = drainLimit
	}
	creds, err := transport(ln, opts.TLS)
	if err != nil {
		_ = ln.Close()
		return err
	}
	if opts.TLS != nil {
		creds = &doorkeeper{TransportCredentials: creds, engine: e, log: opts.Log}
	}
	srv := &server{engine: e, log: opts.Log, serving: ctx, identity: e.Identity()}
	g := grpc.NewServer(
		grpc.ForceServerCodecV2(ledgerpb.Codec()),
		grpc.Creds(host.Prove(creds)),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.ConnectionTimeout(handshakeLimit),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.UnaryInterceptor(srv.unary),
		grpc.StreamInterceptor(srv.stream),
	)
	alive := health.NewServer()
	alive.SetServingStatus(ledgerpb.LedgerNode_ServiceDesc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	ledgerpb.RegisterLedgerNodeServer(g, srv)
	grpc_health_v1.RegisterHealthServer(g, alive)

	served := make(chan error, 1)
	go func() { served <- g.Serve(host.Limit(ln, maxConns)) }()
	select {
	case err := <-served:
		g.Stop()
		return fmt.Errorf("node: serve: %w", err)
	case <-ctx.Done():
	}
	alive.Shutdown()
	stop(g, opts.Drain)
	if err := <-served; !errors.Is(err, grpc.ErrServerStopped) { // it says so where the end came before the start
		return err
	}
	return nil
}

// stop is graceful for at most drain, then hard. Both end only when every handler has returned.
func stop(g *grpc.Server, drain time.Duration) {
	hard := time.AfterFunc(drain, g.Stop)
	g.GracefulStop()
	hard.Stop()
}

var (
	errPlain     = errors.New("node: plain text is served on a Unix socket or a loopback address only; set TLS")
	errClientCAs = errors.New("node: TLS without ClientCAs would trust every public certificate")
)

func transport(ln net.Listener, current func() *tls.Config) (credentials.TransportCredentials, error) {
	if current == nil {
		if !host.AddrOf(ln.Addr()).IsLocal() {
			return nil, errPlain
		}
		return insecure.NewCredentials(), nil
	}
	if current().ClientCAs == nil {
		return nil, errClientCAs
	}
	return credentials.NewTLS(host.PerHandshake(func() *tls.Config {
		conf := current()
		if conf.ClientCAs == nil {
			conf.ClientCAs = x509.NewCertPool()
		}
		conf.ClientAuth = tls.RequireAndVerifyClientCert
		conf.MinVersion = tls.VersionTLS13
		return conf
	})), nil
}

type server struct {
	ledgerpb.UnimplementedLedgerNodeServer
	engine   Engine
	log      logrus.FieldLogger
	identity Identity        // of engine
	serving  context.Context //nolint:containedctx // Serve's own; ends when closing starts
}

// Commit hands the caller's context on: the engine does not begin what the caller has given up,
// and finishes what it took up. A sidecar that gave up asks again over the same connection, where
// the cancellation arrives first, so an attempt that was left behind cannot be applied after a
// later one was refused (docs/decisions/001). Over another connection there is no such order: there
// the call's own last moment bars it (docs/decisions/023).
func (s *server) Commit(ctx context.Context, req *ledgerpb.CommitRequest) (*ledgerpb.CommitResponse, error) {
	n := len(req.GetTransfers())
	if n > MaxCommit {
		return nil, status.Errorf(codes.InvalidArgument, "%d payments, at most %d", n, MaxCommit)
	}
	if last := req.GetClock(); last > 0 {
		if !bytes.Equal(req.GetHistory(), s.identity.Opening[:]) {
			return nil, s.status("commit", wire.ErrLate)
		}
		ctx = withFence(ctx, last)
	}
	clock := s.engine.Clock() // before it is taken up, so what has expired by it is never taken up later
	batch, out := make([]wallet.Payment, n), make([]wallet.Result, n)
	for i, p := range req.GetTransfers() {
		batch[i] = wire.DecodePayment(p)
	}
	if err := s.engine.Commit(ctx, batch, out); err != nil {
		return nil, s.status("commit", err)
	}
	if n > 0 && !slices.ContainsFunc(out, func(r wallet.Result) bool { return r.Code != wallet.Uncertain }) {
		return nil, s.status("commit", wire.ErrDamaged) // what none of them could be judged by
	}
	res := wire.EncodeResults(out)
	res.Clock = clock
	return res, nil
}

// Lookup refuses as a whole what holds a key that names nothing.
func (s *server) Lookup(ctx context.Context, req *ledgerpb.LookupRequest) (*ledgerpb.LookupResponse, error) {
	n := len(req.GetKeys())
	if n > MaxLookup {
		return nil, status.Errorf(codes.InvalidArgument, "%d keys, at most %d", n, MaxLookup)
	}
	keys, out := make([]wallet.BalanceKey, n), make([]wallet.Balance, n)
	for i, p := range req.GetKeys() {
		var ok bool
		if keys[i], ok = wire.DecodeKey(p); !ok {
			return nil, status.Errorf(codes.InvalidArgument, "key %d names no balance", i)
		}
	}
	if err := s.engine.Lookup(ctx, keys, out); err != nil {
		return nil, s.status("lookup", err)
	}
	return &ledgerpb.LookupResponse{Balances: wire.EncodeBalances(out)}, nil
}

// Transaction is Engine.Transaction, or Engine.Payment where an account and a key are given.
func (s *server) Transaction(ctx context.Context, req *ledgerpb.TransactionRequest) (*ledgerpb.TransactionResponse, error) {
	receipt, seq, err := s.transaction(ctx, req)
	if err != nil {
		return nil, s.status("transaction", err)
	}
	return wire.EncodeReceipt(&receipt, seq), nil
}

func (s *server) transaction(ctx context.Context, req *ledgerpb.TransactionRequest) (wallet.Receipt, uint64, error) {
	if req.GetAccount() == "" && req.GetIdempotencyKey() == "" {
		var id wallet.TxID
		if len(req.GetTxid()) != len(id) {
			return wallet.Receipt{}, 0, status.Error(codes.InvalidArgument, "txid must be 16 bytes")
		}
		copy(id[:], req.GetTxid())
		return s.engine.Transaction(ctx, id)
	}
	account, err1 := wallet.ParseAccount(req.GetAccount())
	key, err2 := wallet.IdemKeyFromText(req.GetIdempotencyKey())
	if err1 != nil || err2 != nil || len(req.GetTxid()) > 0 {
		return wallet.Receipt{}, 0, status.Error(codes.InvalidArgument, "either txid, or account and idempotency_key")
	}
	return s.engine.Payment(ctx, account, key)
}

// status maps an engine's error to the wire. What is our fault is logged and not told.
func (s *server) status(call string, err error) error {
	if _, ok := status.FromError(err); ok {
		return err // gRPC's own, of a stream
	}
	for _, told := range [...]struct {
		err  error
		code codes.Code
	}{
		{wire.ErrLate, codes.Aborted},
		{wire.ErrDamaged, codes.DataLoss}, // the engine counts and logs it
		{wire.ErrBacklog, codes.OutOfRange},
		{wire.ErrLagged, codes.ResourceExhausted},
	} {
		if errors.Is(err, told.err) {
			return status.Error(told.code, told.err.Error())
		}
	}
	switch {
	case errors.Is(err, wallet.NotFound):
		return status.Error(codes.NotFound, "no such transaction")
	case errors.Is(err, ErrClosed), errors.Is(err, ErrWatchers):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF):
		return status.FromContextError(err).Err()
	default:
		s.log.WithFields(logrus.Fields{"call": call, "reason": firstLine(err.Error())}).Error("ledger_call_failed")
		return status.Error(codes.Internal, "the engine failed")
	}
}

func (s *server) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (res any, err error) {
	defer s.recovered(&err)
	return next(ctx, req)
}

// stream also ends health watches when the server closes, after they have told NOT_SERVING;
// otherwise each would hold up the graceful stop to its limit.
func (s *server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer s.recovered(&err)
	if info.FullMethod == grpc_health_v1.Health_Watch_FullMethodName {
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(s.serving, func() { time.AfterFunc(lastWord, cancel) })()
		stream = endingStream{stream, ctx}
	}
	return next(srv, stream)
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // what gRPC's streams do
}

func (s endingStream) Context() context.Context { return s.ctx }

func (s *server) recovered(err *error) {
	if p := recover(); p != nil {
		s.logPanic(p)
		*err = status.Error(codes.Internal, "the node failed")
	}
}

func (s *server) logPanic(p any) {
	s.log.WithFields(logrus.Fields{"reason": fmt.Sprint(p), "stack": string(debug.Stack())}).Error("panic_served")
}
