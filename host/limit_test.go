package host

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"svc-wallet/bench/pki"
)

// limitRig is an HTTP server on a Limited of few places. A request for /hold is answered when held is closed.
type limitRig struct {
	*Limited
	accepted chan *limitedConn // in the order of their coming; closed ones, too
	entered  chan struct{}     // a request for /hold is served
	held     chan struct{}
}

// Accept tells the test of each connection.
func (r *limitRig) Accept() (net.Conn, error) {
	conn, err := r.Limited.Accept()
	if c, ok := conn.(*limitedConn); ok {
		r.accepted <- c
	}
	return conn, err
}

func newLimitRig(t *testing.T, most int) *limitRig {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &limitRig{Limit(ln, most), make(chan *limitedConn, 100), make(chan struct{}, 100), make(chan struct{})}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if _, err := io.ReadAll(q.Body); err == nil && q.URL.Path == "/hold" {
			r.entered <- struct{}{}
			<-r.held
		}
	})}
	ServeRequests(s)
	served := make(chan error, 1)
	go func() { served <- s.Serve(r) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-served); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return r
}

// dial connects, sends text and waits until the server has accepted.
func (r *limitRig) dial(t *testing.T, text string) (net.Conn, *limitedConn) {
	t.Helper()
	conn, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return conn, <-r.accepted
}

// become waits until a connection has come to a stage.
func (c *limitedConn) become(t *testing.T, want stage) {
	t.Helper()
	for c.now() != want {
		select {
		case <-t.Context().Done():
			t.Fatalf("it is at stage %d, not at %d", c.now(), want)
		default:
		}
	}
}

func (c *limitedConn) now() stage {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	return c.stage
}

func answered(t *testing.T, conn net.Conn) {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%+v, %v", res, err)
	}
	_ = res.Body.Close()
}

const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// TestWhoMakesRoom: at the cap the connection with the least to do makes room, the oldest of its kind
// first: one that said nothing, then one with half a head or half a body, then an idle one; one whose request
// is being served never does, and where there are only such the new one is closed.
func TestWhoMakesRoom(t *testing.T) {
	r := newLimitRig(t, 5)
	conn, idler := r.dial(t, get)
	answered(t, conn)
	idler.become(t, idle)
	_, half := r.dial(t, "GET / HT")
	half.become(t, begun)
	_, body := r.dial(t, "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
	body.become(t, begun)
	_, first := r.dial(t, "")
	_, second := r.dial(t, "")
	for i, next := range []*limitedConn{first, second, half, body, idler} {
		if now := next.now(); now == gone {
			t.Fatalf("number %d went before its turn", i)
		}
		_, c := r.dial(t, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
		<-r.entered
		c.become(t, busy)
		if now := next.now(); now != gone {
			t.Fatalf("number %d is at stage %d and should have made room", i, now)
		}
	}
	refused, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := refused.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("one too many was answered")
	}
	close(r.held)
	_ = refused.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open != 5 {
		t.Errorf("%d are counted, 5 are open", r.open)
	}
}

// TestSilentCrowd: with many more silent connections than places, and new ones before each request, every
// request is answered.
func TestSilentCrowd(t *testing.T) {
	r := newLimitRig(t, 8)
	for range 10 {
		for range 20 {
			r.dial(t, "")
		}
		conn, _ := r.dial(t, get)
		answered(t, conn)
	}
}

// pair is a TLS configuration for either side, which asks for the other's certificate.
func pair(t *testing.T, ca *pki.Authority) *tls.Config {
	t.Helper()
	cert, err := tls.X509KeyPair(ca.Issue("one of ours"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: "localhost",
		Certificates: []tls.Certificate{cert}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
}

// TestSilentCrowdAtAGRPCServer: connections that said nothing, or finished no handshake, make room for clients;
// a client that has finished it keeps its place however many come. Method: a server of two places over TLS
// with client certificates, whose health a client asks for.
func TestSilentCrowdAtAGRPCServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &limitRig{Limited: Limit(ln, 2), accepted: make(chan *limitedConn, 100)}
	ca := pki.New(t)
	server, client := pair(t, ca), pair(t, ca)
	g := grpc.NewServer(grpc.Creds(Prove(credentials.NewTLS(server))))
	grpc_health_v1.RegisterHealthServer(g, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- g.Serve(r) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	crowd := func() {
		for range 5 {
			r.dial(t, "")
			r.dial(t, "\x16\x03\x01")
		}
	}
	crowd()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(client)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	healthy := func() {
		t.Helper()
		if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	healthy()
	own := <-r.accepted
	own.become(t, busy)
	crowd()
	healthy()
	if now := own.now(); now != busy {
		t.Errorf("the client's connection is at stage %d", now)
	}
}
