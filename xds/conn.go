package xds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"svc-wallet/config"
	"svc-wallet/host"
)

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
// found out too.
func (s *server) dial(addr string, ping time.Duration) (*conn, error) {
	c := &conn{ping: ping}
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
			raw, err := at.Dial(ctx, dialer())
			return &heardConn{raw, &c.heard, s.c.opts.Now}, err
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
	if c.ClientConn, err = grpc.NewClient("passthrough:///"+addr, opts...); err != nil {
		return nil, fmt.Errorf("xds %s: %w", host.Plain(addr), err)
	}
	return c, nil
}

// dialer makes connections that find a dead peer by TCP's own means within a minute.
func dialer() *net.Dialer {
	return &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
}

// conn is a connection to a server.
type conn struct {
	*grpc.ClientConn
	ping  time.Duration // of silence after which the server is asked whether it is there
	heard atomic.Int64  // when it last brought something; 0: not yet
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

// openProtocol opens a stream.
type openProtocol func(context.Context, *grpc.ClientConn, identity) (protocol, error)

// openADS opens the one stream for all types of a control plane.
func openADS(p config.XDSProtocol) openProtocol {
	return func(ctx context.Context, conn *grpc.ClientConn, self identity) (protocol, error) {
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
func openSDS(ctx context.Context, conn *grpc.ClientConn, self identity) (protocol, error) {
	stream, err := secretservice.NewSecretDiscoveryServiceClient(conn).StreamSecrets(ctx)
	return &sotw{stream, self, map[string]string{}}, err
}
