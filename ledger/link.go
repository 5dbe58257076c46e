package ledger

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"svc-wallet/host"
	"svc-wallet/ledger/ledgerpb"
)

// connectLimit bounds the making of a connection where DialOptions do not say.
const connectLimit = time.Second

// link is one connection to one endpoint. A client has one in use; when it moves, the old one is
// retired: no call begins on it any more, those under way end on it, and its watches end.
type link struct {
	addr    string
	conn    *grpc.ClientConn
	node    ledgerpb.LedgerNodeClient
	carrier *carrier

	opening  atomic.Pointer[opening] // at its other end; nil: not told yet
	judged   atomic.Bool             // has just proved itself, so its first stream need not
	unproved atomic.Bool             // its stream was lost and none has told yet what came back; nothing is asked of it
	answered atomic.Int64            // when the newest tick was sent that a proved stream has answered; 0: none has

	calls   atomic.Int64       // under way; more only under Client.mu, and while the link is in use
	gone    context.Context    //nolint:containedctx // no call's: over when retired
	retire  context.CancelFunc // ends the watches
	closeBy int64              // of a retired link, Unix nanoseconds; guarded by Client.mu
}

// opening is what a stream tells of the opening of the ledger at its other end.
type opening struct {
	history []byte
	clock   uint64 // what its clock showed
	after   int64  // at a moment after this local time
}

// at is the most that the clock can show at the local time t.
func (o *opening) at(t int64) uint64 {
	return o.clock + uint64(max(0, t-o.after)/int64(time.Millisecond)) + 1
}

// proved says that what is at the other end has proved itself, or had nothing to prove: its stream is
// up, and has answered on the connection that there is now. gRPC makes a new one before the stream's
// goroutine sees that the old one is lost.
func (l *link) proved() bool {
	at := l.answered.Load()
	return !l.unproved.Load() && (at == 0 || l.carrier.dialled.Load() <= at)
}

// connect makes a link; gRPC makes its connection, now and whenever it is lost.
func connect(addr string, opts *DialOptions) (*link, error) {
	at, err := parseAddr(addr, opts.TLS != nil)
	if err != nil {
		return nil, err
	}
	target := addr
	if at.Path() == "" {
		target = "dns:///" + addr // gRPC tries each of a name's addresses
	}
	creds := insecure.NewCredentials()
	if opts.TLS != nil {
		creds = handshakes{opts.TLS}
	}
	w := new(carrier)
	conn, err := grpc.NewClient(
		target,
		grpc.WithTransportCredentials(creds),
		grpc.WithStatsHandler(sentHandler{}),
		grpc.WithContextDialer(w.dialer(at, opts)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           paceOf(at),
			MinConnectTimeout: opts.connectTimeout(), // handshakes included
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: deadAfter}),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage), grpc.ForceCodecV2(ledgerpb.Codec())),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, fmt.Errorf("ledger %s: %w", addr, err)
	}
	conn.Connect()
	l := &link{addr: addr, conn: conn, node: ledgerpb.NewLedgerNodeClient(conn), carrier: w}
	l.gone, l.retire = context.WithCancel(context.Background())
	return l, nil
}

// handshakes are TLS credentials by which each handshake goes by the configuration of its time. gRPC's
// own keep the one that they were made of, and a connection is made anew long after its link.
type handshakes struct{ current func() *tls.Config }

func (h handshakes) now() credentials.TransportCredentials { return credentials.NewTLS(h.current()) }

func (h handshakes) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return h.now().ClientHandshake(ctx, authority, raw)
}

func (h handshakes) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return h.now().ServerHandshake(raw)
}

func (h handshakes) Info() credentials.ProtocolInfo          { return h.now().Info() }
func (h handshakes) Clone() credentials.TransportCredentials { return h }
func (h handshakes) OverrideServerName(string) error {
	return errors.New("the server's name is the configuration's")
}

// paceOf is how soon a connection is tried again. On this machine a try costs next to nothing, and
// payments wait for it; over a network many sidecars must not storm a node that comes back.
func paceOf(at host.Addr) backoff.Config {
	if at.IsLocal() {
		return backoff.Config{BaseDelay: localPace, Multiplier: 1, Jitter: 0.2, MaxDelay: localPace}
	}
	return backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: time.Second}
}

// localPace is the pause between tries to connect on the same machine.
const localPace = 20 * time.Millisecond

// carrier is the connection that a link has at present.
type carrier struct {
	at      atomic.Pointer[kernel]
	dialled atomic.Int64 // when it was begun
}

// kernel is what the kernel tells of it; nil where it tells nothing.
func (w *carrier) kernel() kernel {
	if k := w.at.Load(); k != nil {
		return *k
	}
	return nil
}

// dialer obeys the connect time-out of the moment; gRPC's own is fixed when the link is made, and
// so it is the longest wait of that link. What the dialer is given is an address that gRPC has
// resolved; of a socket it is written in several ways, so there ours is taken.
func (w *carrier) dialer(at host.Addr, opts *DialOptions) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, resolved string) (net.Conn, error) {
		d, begun := net.Dialer{Timeout: opts.connectTimeout()}, opts.Now()
		network, to := "tcp", resolved
		if at.Path() != "" {
			network, to = "unix", at.Path()
		}
		c, err := d.DialContext(ctx, network, to)
		if err != nil {
			return nil, err
		}
		k := kernelOf(c)
		w.at.Store(&k)
		w.dialled.Store(begun)
		return c, nil
	}
}

func (o *DialOptions) connectTimeout() time.Duration {
	if o.ConnectTimeout == nil {
		return connectLimit
	}
	return o.ConnectTimeout()
}

// parseAddr reads the address of a node. What is not secure must not leave this machine.
func parseAddr(addr string, secure bool) (host.Addr, error) {
	at, err := host.ParseAddr(addr)
	if err != nil {
		return host.Addr{}, fmt.Errorf("ledger address %q: %w", addr, err)
	}
	if !secure && !at.IsLocal() {
		return host.Addr{}, fmt.Errorf("ledger address %q is not on this machine, so it needs TLS", addr)
	}
	return at, nil
}

// enter begins a call on the link in use; leave ends it.
func (c *Client) enter() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.link.Load()
	l.calls.Add(1)
	return l
}

func (l *link) leave() { l.calls.Add(-1) }

// errMoved ends a watch whose link is retired. Another one from the same version goes on.
var errMoved = errors.New("ledger watch: the client has moved to another endpoint")

// watching is ctx for a watch on the link: it ends with errMoved when the link is retired.
func (l *link) watching(ctx context.Context) (_ context.Context, cancel context.CancelCauseFunc) {
	ctx, cancel = context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.gone, func() { cancel(errMoved) })
	context.AfterFunc(ctx, func() { stop() })
	return ctx, cancel
}

// Await waits for d, but where the connection is down no longer than until it is up again; false if
// ctx ended first.
func (c *Client) Await(ctx context.Context, d time.Duration) bool {
	l := c.link.Load()
	if l.conn.GetState() == connectivity.Ready {
		return host.Sleep(ctx, d)
	}
	within, stopWaiting := context.WithTimeout(ctx, d)
	defer stopWaiting()
	within, cancel := l.watching(within)
	defer cancel(nil)
	for {
		s := l.conn.GetState()
		switch s {
		case connectivity.Ready:
			return true
		case connectivity.Idle:
			l.conn.Connect()
		default:
		}
		if !l.conn.WaitForStateChange(within, s) {
			return ctx.Err() == nil
		}
	}
}
