package xds

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"svc-wallet/config"
	"svc-wallet/host"
)

// source is one control plane by its addresses, or the local agent.
type source struct {
	c      *Client
	name   string
	addrs  []string           // the preferred one first
	tls    func() *tls.Config // nil: plain
	open   func(context.Context, *grpc.ClientConn, identity) (wire, error)
	topics []*topic
	strict map[string]bool // addresses that stand pings only every five minutes; run's

	// Client.mu guards these.
	addr      string        // the one that is in use or tried
	connected bool          // its stream has brought a message
	since     int64         // that it has been so
	vouched   int64         // when the last connection brought its last bytes; or what is in force is from
	heard     *atomic.Int64 // when this one last did
	ping      time.Duration // of silence after which this one is asked whether it is there
	lastError string
}

var (
	errSilent    = errors.New("the stream brought nothing in time")
	errFrozen    = errors.New("the control plane does not answer pings")
	errStuck     = errors.New("a response could not be answered in time")
	errPreferred = errors.New("the preferred address answers again")
)

// run keeps one stream until ctx ends.
func (s *source) run(ctx context.Context) {
	at, failures := 0, 0
	for ctx.Err() == nil {
		spoke, err := s.visit(ctx, at)
		if strings.Contains(err.Error(), "too_many_pings") { // of a GOAWAY
			s.strict[s.addrs[at]] = true
		}
		s.ended(err)
		switch {
		case errors.Is(err, errPreferred):
			at, failures = 0, 0
			continue
		case errors.Is(err, errFrozen): // it would take a connection, and then say nothing
			at, failures = (at+1)%len(s.addrs), 1
		case spoke: // it broke after it had worked: the preferred one first, and soon
			at, failures = 0, 1
		case errors.Is(err, errSilent): // it took its time already
			at, failures = (at+1)%len(s.addrs), 1
		default:
			at, failures = (at+1)%len(s.addrs), failures+1
		}
		t := &s.c.timing
		host.Sleep(ctx, time.Duration(t.jitter(int64(t.reconnect.Pause(failures-1)))))
	}
}

// visit is the life of one stream to an address. It reports whether the stream brought a message.
func (s *source) visit(ctx context.Context, at int) (spoke bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(s.c.cfg.XDS.ResourceTimeout, func() { cancel(errSilent) })
	defer silence.Stop()
	s.c.mu.Lock()
	s.addr = s.addrs[at]
	s.c.mu.Unlock()

	heard := new(atomic.Int64)
	ping := s.c.timing.ping
	if s.strict[s.addrs[at]] {
		ping = strictPing
	}
	conn, err := s.dial(s.addrs[at], ping, heard)
	if err != nil {
		return false, err
	}
	defer conn.Close() //nolint:errcheck // nothing is left to do
	w, err := s.open(ctx, conn, identity{s.c.node})
	if err != nil {
		return false, cause(ctx, err)
	}
	s.c.mu.Lock()
	s.heard, s.ping = heard, ping
	s.c.mu.Unlock()
	n := newSession(s, w)
	n.spoke = func() { silence.Stop(); s.spoke() }
	if at > 0 {
		scouting := s.scout(ctx, cancel)
		defer func() { cancel(nil); <-scouting }()
	}
	err = n.run(ctx, cancel)
	if ctx.Err() == nil && n.heard && s.c.opts.Now()-heard.Load() >= int64(s.c.timing.pingTimeout) {
		err = errFrozen
	}
	return n.heard, cause(ctx, err)
}

// cause is why ctx ended, where it did, and else err.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// scout looks for the preferred address while another one serves, and ends that one's session once
// the preferred one has brought a message: what is in force stays meanwhile, so nothing is lost.
func (s *source) scout(ctx context.Context, cancel context.CancelCauseFunc) (ended chan struct{}) {
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			host.Sleep(ctx, s.c.timing.preferred)
			if ctx.Err() == nil && s.answers(ctx) {
				cancel(errPreferred)
			}
		}
	}()
	return ended
}

// answers reports whether the preferred address brings a message in time.
func (s *source) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, s.c.cfg.XDS.ResourceTimeout)
	defer cancel()
	conn, err := s.dial(s.addrs[0], strictPing, new(atomic.Int64))
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // nothing is left to do
	w, err := s.open(ctx, conn, identity{s.c.node})
	if err != nil {
		return false
	}
	if newSession(s, w).subscribe() != nil {
		return false
	}
	_, err = w.recv()
	return err == nil
}

// spoke notes the first message of a stream.
func (s *source) spoke() {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.connected, s.since, s.lastError = true, c.opts.Now(), ""
	c.log.info("xds_connected", logrus.Fields{"source": s.name, "peer_addr": s.addr})
}

// pingGrace is what a ping and its answer may take before nobody vouches any more.
const pingGrace = 2 * time.Second

// age is how long the source has said nothing, where that is longer than a live one would. Client.mu
// is held.
func (s *source) age(now int64) time.Duration {
	if !s.connected {
		return time.Duration(max(0, now-s.vouched))
	}
	if age := time.Duration(now - s.heard.Load()); age > s.ping+pingGrace {
		return age
	}
	return 0
}

// ended notes the end of a stream.
func (s *source) ended(err error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.connected {
		s.vouched = s.heard.Load()
	}
	s.connected, s.since = false, c.opts.Now()
	if !errors.Is(err, context.Canceled) {
		s.lastError = host.Cut(err.Error(), maxReason)
		c.log.warn("xds_disconnected", logrus.Fields{"source": s.name, "peer_addr": s.addr, "reason": s.lastError})
	}
}

const (
	// maxMessage bounds a response. gRPC ends the stream of one that is larger.
	maxMessage = 4 << 20
	// readBuffer is what a connection with TLS holds while nothing comes, as most of the time: pushes
	// are some kilobytes. What is larger is read in several steps.
	readBuffer = 8 << 10
	// window is what the control plane may send before it is read. It never grows: else gRPC measures
	// the way with a ping for each push. A larger message gets the room that it needs.
	window = 1 << 20
	// strictPing is between pings to a server that has ended a connection over more of them: a gRPC
	// server stands one in five minutes where its program does not say otherwise.
	strictPing = 5*time.Minute + 30*time.Second
)

// dial makes a connection, by the certificates of now. It does not wait for it. Where it brings
// nothing for as long as ping it is asked whether it is there, so that a process that is stopped is
// found out too; heard is when it last brought something.
func (s *source) dial(addr string, ping time.Duration, heard *atomic.Int64) (*grpc.ClientConn, error) {
	at, err := host.ParseAddr(addr)
	if err != nil {
		return nil, fmt.Errorf("xds %s: %w", host.Plain(addr), err)
	}
	name, authority := at.Host(), addr
	if at.Path() != "" {
		name, authority = "localhost", "localhost"
	}
	opts := []grpc.DialOption{
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			conn, err := at.Dial(ctx, dialer())
			if err != nil {
				return nil, err
			}
			heard.Store(s.c.opts.Now())
			return &heardConn{conn, heard, s.c.opts.Now}, nil
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: ping, Timeout: s.c.timing.pingTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithReadBufferSize(readBuffer),
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	}
	if s.tls == nil {
		opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(authority))
	} else {
		cfg := expecting(&s.c.cfg.XDS, s.tls(), s.c.opts.Today)
		cfg.ServerName = cmp.Or(cfg.ServerName, name) // gRPC takes it for the authority too
		opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		return nil, fmt.Errorf("xds %s: %w", host.Plain(addr), err)
	}
	return conn, nil
}

// dialer makes connections that find a dead peer by TCP's own means within a minute.
func dialer() *net.Dialer {
	return &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
}

// heardConn notes when the peer last said anything, its end included. gRPC tells nobody of the
// answers to its pings.
type heardConn struct {
	net.Conn
	at  *atomic.Int64
	now func() int64
}

// Read implements net.Conn.
func (c *heardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if !errors.Is(err, net.ErrClosed) { // by us
		c.at.Store(c.now())
	}
	return n, err
}

// openADS opens the one stream for all types of a control plane.
func openADS(p config.XDSProtocol) func(context.Context, *grpc.ClientConn, identity) (wire, error) {
	return func(ctx context.Context, conn *grpc.ClientConn, self identity) (wire, error) {
		ads := discovery.NewAggregatedDiscoveryServiceClient(conn)
		if p == config.XDSSotW {
			stream, err := ads.StreamAggregatedResources(ctx)
			return &sotw{stream, self, map[string]string{}}, err
		}
		stream, err := ads.DeltaAggregatedResources(ctx)
		return &delta{stream, self, map[string][]string{}}, err
	}
}

// openSDS opens the stream for secrets of a local agent, which speaks the state of the world.
func openSDS(ctx context.Context, conn *grpc.ClientConn, self identity) (wire, error) {
	stream, err := secretservice.NewSecretDiscoveryServiceClient(conn).StreamSecrets(ctx)
	return &sotw{stream, self, map[string]string{}}, err
}
