package control

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
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
	connStreams  = 16
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

// listen listens on unix:PATH, with mode 0600, or HOST:PORT. In plain text it must be out of reach
// of other machines.
func listen(addr string, secure bool) (net.Listener, error) {
	path, unix := strings.CutPrefix(addr, "unix:")
	if !unix {
		if _, _, err := net.SplitHostPort(addr); err != nil { // else "" would be every address
			return nil, fmt.Errorf("listen on %q: want unix:PATH or HOST:PORT: %w", addr, err)
		}
		ln, err := net.Listen("tcp", addr) //nolint:noctx // binding does not block
		if err != nil {
			return nil, fmt.Errorf("listen on %q: %w", addr, err)
		}
		if tcp, ok := ln.Addr().(*net.TCPAddr); !secure && (!ok || !tcp.IP.IsLoopback()) {
			err := fmt.Errorf("listen on %q: only loopback may be served without TLS", addr)
			return nil, errors.Join(err, ln.Close())
		}
		return ln, nil
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %q: %w", addr, err)
	}
	ln, err := net.Listen("unix", path) //nolint:noctx // binding does not block
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", addr, err)
	}
	// Between these lines the file has the umask's mode, but nobody is accepted on it yet.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %q: %w", addr, err), ln.Close())
	}
	return ln, nil
}

// removeStale removes a socket that nobody answers on, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("the file exists and is no socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second) //nolint:noctx // it has a limit
	if err == nil {
		return errors.Join(errors.New("another process answers on it"), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("the socket is in use or out of reach: %w", err)
	}
	return os.Remove(path)
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
