package xds

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"svc-wallet/config"
)

// source is one control plane by its addresses, or the local agent.
type source struct {
	c      *Client
	name   string
	addrs  []string           // the preferred one first
	tls    func() *tls.Config // nil: plain
	open   func(context.Context, *grpc.ClientConn, identity) (wire, error)
	topics []*topic

	// Client.mu guards these.
	addr      string // the one that is in use or tried
	connected bool   // its stream has brought a message
	since     int64  // that it has been so
	lastError string
}

var (
	errSilent    = errors.New("the stream brought nothing in time")
	errStuck     = errors.New("a response could not be answered in time")
	errPreferred = errors.New("the preferred address answers again")
)

// run keeps one stream until ctx ends.
func (s *source) run(ctx context.Context) {
	at, failures := 0, 0
	for ctx.Err() == nil {
		spoke, err := s.visit(ctx, at)
		s.ended(err)
		switch {
		case errors.Is(err, errPreferred):
			at, failures = 0, 0
			continue
		case spoke: // it broke after it had worked: the preferred one first, and soon
			at, failures = 0, 1
		case errors.Is(err, errSilent): // it took its time already
			at, failures = (at+1)%len(s.addrs), 1
		default:
			at, failures = (at+1)%len(s.addrs), failures+1
		}
		t := &s.c.timing
		pause(ctx, time.Duration(t.jitter(int64(doubled(t.backoff, failures-1, t.backoffTop)))))
	}
}

// pause waits for d, or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
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

	conn, err := s.dial(s.addrs[at])
	if err != nil {
		return false, err
	}
	defer conn.Close() //nolint:errcheck // nothing is left to do
	w, err := s.open(ctx, conn, identity{s.c.node})
	if err != nil {
		return false, cause(ctx, err)
	}
	n := newSession(s, w)
	n.spoke = func() { silence.Stop(); s.spoke() }
	if at > 0 {
		scouting := s.scout(ctx, cancel)
		defer func() { cancel(nil); <-scouting }()
	}
	err = n.run(ctx, cancel)
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
			pause(ctx, s.c.timing.preferred)
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
	conn, err := s.dial(s.addrs[0])
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

// ended notes the end of a stream.
func (s *source) ended(err error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connected() {
		c.vouched = c.opts.Now()
	}
	s.connected, s.since = false, c.opts.Now()
	if !errors.Is(err, context.Canceled) {
		s.lastError = cut(err.Error(), maxReason)
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
)

// dial makes a connection, by the certificates of now. It does not wait for it. gRPC's
// own pings stay off: a server that expects none, as is the default, ends a connection over them.
func (s *source) dial(addr string) (*grpc.ClientConn, error) {
	host, _, _ := net.SplitHostPort(addr)
	authority := addr
	if strings.HasPrefix(addr, "unix:") {
		host, authority = "localhost", "localhost"
	}
	opts := []grpc.DialOption{
		grpc.WithContextDialer(connect),
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
		cfg.ServerName = cmp.Or(cfg.ServerName, host) // gRPC takes it for the authority too
		opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		return nil, fmt.Errorf("xds %s: %w", plain(addr), err)
	}
	return conn, nil
}

// connect finds a dead peer by TCP's own means within a minute.
func connect(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return d.DialContext(ctx, "unix", path)
	}
	return d.DialContext(ctx, "tcp", addr)
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
