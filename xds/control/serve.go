package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"time"

	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	extensionservice "github.com/envoyproxy/go-control-plane/envoy/service/extension/v3"
	runtimeservice "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	delta "github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	sotw "github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	xdsserver "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"svc-wallet/host"
)

// Bounds of the sidecars' listener. A thousand sidecars must not cost much memory, so buffers are
// small: a push is some kilobytes.
const (
	connStreams  = 16        // one for each type, and more
	maxRequest   = 256 << 10 // bytes
	maxHeaders   = 16 << 10
	idleLimit    = 5 * time.Minute // of a connection without a stream
	handshakeMax = 5 * time.Second
	ioBuffer     = 8 << 10
)

// serveSidecars serves xDS until ctx ends.
func (p *Plane) serveSidecars(ctx context.Context) error {
	g := p.newServer(ctx)
	served := make(chan error, 1)
	go func() { served <- g.Serve(host.Limit(p.listener, 2*p.fleet.most)) }()
	select {
	case err := <-served:
		g.Stop()
		return fmt.Errorf("serve sidecars: %w", err)
	case <-ctx.Done(): // which ended the streams' handlers, but one that waits for a slow reader
	}
	hard := time.AfterFunc(p.timing.drain, g.Stop)
	g.GracefulStop()
	hard.Stop()
	if err := <-served; !errors.Is(err, grpc.ErrServerStopped) { // as it is where ctx ended before Serve began
		return err
	}
	return nil
}

func (p *Plane) newServer(ctx context.Context) *grpc.Server {
	creds := insecure.NewCredentials()
	if p.opts.TLS != nil {
		creds = credentials.NewTLS(p.tls("h2"))
	}
	g := grpc.NewServer(
		grpc.Creds(host.Prove(creds)),
		grpc.MaxConcurrentStreams(connStreams),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxSendMsgSize(maxResponse),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(handshakeMax),
		grpc.ReadBufferSize(ioBuffer), grpc.WriteBufferSize(ioBuffer),
		// Windows that never grow: else gRPC measures the way with a ping for each ACK.
		grpc.StaticStreamWindowSize(maxRequest), grpc.StaticConnWindowSize(maxRequest),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: idleLimit}),
		grpc.StreamInterceptor(p.stream),
	)
	s := xdsserver.NewServerAdvanced(noFetch{}, sotw.NewServer(ctx, p.board, p.fleet), delta.NewServer(ctx, p.board, p.fleet))
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
	clusterservice.RegisterClusterDiscoveryServiceServer(g, s)
	endpointservice.RegisterEndpointDiscoveryServiceServer(g, s)
	extensionservice.RegisterExtensionConfigDiscoveryServiceServer(g, s)
	runtimeservice.RegisterRuntimeDiscoveryServiceServer(g, s)
	return g
}

// stream bounds how long a stream may stay silent at first, and outlives a panic.
func (p *Plane) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			p.log.WithField("stack", string(debug.Stack())).WithField("reason", fmt.Sprint(v)).Error("stream_panicked")
			err = status.Error(codes.Internal, "the control plane failed")
		}
	}()
	return next(srv, &promptStream{ServerStream: stream, limit: p.timing.silence})
}

// promptStream fails where the first message does not come in time.
type promptStream struct {
	grpc.ServerStream
	limit time.Duration
	begun bool // RecvMsg's
}

// RecvMsg is called by one goroutine at a time. The one that it starts ends with the stream.
func (s *promptStream) RecvMsg(m any) error {
	if s.begun {
		return s.ServerStream.RecvMsg(m)
	}
	s.begun = true
	got := make(chan error, 1)
	go func() { got <- s.ServerStream.RecvMsg(m) }()
	timer := time.NewTimer(s.limit)
	defer timer.Stop()
	select {
	case err := <-got:
		return err
	case <-timer.C:
		return status.Error(codes.DeadlineExceeded, "the first request did not come") // m is left to the goroutine
	}
}

// secured is ln with TLS where it is spoken.
func (p *Plane) secured(ln net.Listener, protocol string) net.Listener {
	if p.opts.TLS == nil {
		return ln
	}
	return tls.NewListener(ln, p.tls(protocol))
}

// tls is for a listener of one protocol.
func (p *Plane) tls(protocol string) *tls.Config {
	return host.PerHandshake(func() *tls.Config {
		conf := p.opts.TLS()
		conf.NextProtos = []string{protocol}
		return conf
	})
}
