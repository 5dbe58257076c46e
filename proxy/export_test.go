package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"syscall"

	"github.com/valyala/fasthttp"

	"svc-wallet/filters"
	"svc-wallet/wallet"
)

// ServeConn serves one plain connection, as an accepted one after its handshake.
func (s *Server) ServeConn(c net.Conn) error {
	l := newListener(nil, nil, bounds{conns: 1}, s.deps.Now, s.deps.Log, s.metrics)
	return s.http.ServeConn(l.add(c))
}

// Handler returns a function that parses raw anew for each call and serves it without a
// connection, and the context that it uses.
func (s *Server) Handler(raw string, c net.Conn) (func(), *fasthttp.RequestCtx) {
	l := newListener(nil, nil, bounds{conns: 1}, s.deps.Now, s.deps.Log, s.metrics)
	conn := l.add(c)
	_ = conn.Handshake()
	ctx := &fasthttp.RequestCtx{}
	ctx.Init2(conn, nil, false)
	ctx.Response.Header.SetNoDefaultContentType(true)
	src := bytes.NewReader(nil)
	conn.Conn = onlyInput{c, src}
	br := bufio.NewReader(conn)
	text := []byte(raw)
	return func() {
		src.Reset(text)
		br.Reset(conn)
		ctx.Request.Reset()
		ctx.Response.Reset()
		if err := ctx.Request.Header.Read(br); err != nil {
			panic(err)
		}
		headOnly(&ctx.Request.Header)
		s.serve(ctx)
	}, ctx
}

// onlyInput is a connection of which only the input is used.
type onlyInput struct {
	net.Conn
	in *bytes.Reader
}

func (c onlyInput) Read(b []byte) (int, error) { return c.in.Read(b) }

// Input is the connection's buffer of what came in behind the head, a body as a rule.
func Input(ctx *fasthttp.RequestCtx) []byte { return ctx.Conn().(*conn).room }

// Replace puts f in the place of the last step of a path's route.
func (s *Server) Replace(path string, f func(*filters.Exchange) wallet.Code) {
	s.find([]byte(path)).last = f
}

// Connections counts the open ones.
func (s *Server) Connections() int { return s.listener.count() }

// Tend looks at the certificate files now, and rotates the ticket keys where that is due.
func (s *Server) Tend() {
	s.deps.Files.Look()
	if err := s.certs.rotate(); err != nil {
		panic(err)
	}
}

// Strangers counts the open connections on which no valid token has come.
func (s *Server) Strangers() int {
	s.listener.mu.Lock()
	defer s.listener.mu.Unlock()
	return s.listener.books.strange
}

// CloseAged closes the idle connections that have reached their longest age.
func (s *Server) CloseAged() { s.listener.closeAged() }

// SetWritable puts f in the place of what the filter "ready" asks.
func (s *Server) SetWritable(f func() bool) {
	for _, id := range []wallet.Route{wallet.RouteIssue, wallet.RouteTransfer, wallet.RouteBurn} {
		s.table[id].chain[0] = filters.Ready{Writable: f}
		s.table[id].head[0] = filters.Ready{Writable: f}
	}
}

// Idle counts the open connections that serve no request.
func (s *Server) Idle() (n int) {
	s.listener.mu.Lock()
	defer s.listener.mu.Unlock()
	for c := range s.listener.books.open {
		if c.phase.Load() == idle {
			n++
		}
	}
	return n
}

// AcceptFrom accepts one connection from ln as Run's listener does.
func (s *Server) AcceptFrom(ln net.Listener) (net.Conn, error) {
	return newListener(ln, nil, bounds{conns: 1}, s.deps.Now, s.deps.Log, s.metrics).Accept()
}

// AcceptIdle accepts one connection from ln that has been idle for ever, and returns it with what
// closes idle connections, as a drain does, and says whether this was one.
func (s *Server) AcceptIdle(ln net.Listener) (c net.Conn, closesIdle func() bool) {
	l := newListener(ln, nil, bounds{conns: 1}, s.deps.Now, s.deps.Log, s.metrics)
	c, err := l.Accept()
	if err != nil {
		panic(err)
	}
	Idle(c)
	c.(*conn).touched.Store(0)
	return c, func() bool {
		l.closeIdle(1)
		return l.count() == 0
	}
}

// Idle is what follows an answer.
func Idle(c net.Conn) { c.(*conn).phase.Store(idle) }

// DrainQuiet is how long a connection must be quiet during a drain.
const DrainQuiet = drainQuiet

// Between puts f between every two filters of a path's chain, before the first and after the last.
func (s *Server) Between(path string, f func()) {
	r := s.find([]byte(path))
	chain := filters.Chain{between(f)}
	for _, next := range r.chain {
		chain = append(chain, next, between(f))
	}
	r.chain = chain
}

// between is a filter that passes everything.
type between func()

func (f between) Check(*filters.Exchange) wallet.Code {
	f()
	return wallet.Pass
}

// ReadChunks reads a chunked coding that comes in in parts.
func ReadChunks(parts []string) (verdict, content string, used int) {
	var k chunks
	for _, part := range parts {
		for in := []byte(part); len(in) > 0 && k.at < chunksDone; {
			n, data := k.next(in)
			in, content, used = in[n:], content+string(data), used+n
		}
	}
	switch k.at {
	case chunksDone:
		return "done", content, used
	case chunksBad:
		return "bad", content, used
	default:
		return "more", content, used
	}
}

// ShrinkWriteBuffers lets the kernel keep little of what is written to connections from now on, so
// that a client that reads nothing is noticed after a few answers and not after megabytes of them.
func (s *Server) ShrinkWriteBuffers() {
	raw, err := s.listener.Listener.(*net.TCPListener).SyscallConn()
	if err != nil {
		panic(err)
	}
	var set error
	err = raw.Control(func(fd uintptr) { // connections inherit it
		set = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4<<10)
	})
	if err = errors.Join(err, set); err != nil {
		panic(err)
	}
}
