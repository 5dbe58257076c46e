package host

import (
	"container/list"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/credentials"
)

// Limited is a listener with a bound on the connections that are open at once. Where one more comes, the
// connection that has least to do with its place makes room: the first one that nothing was read from,
// else the first that sent nothing whole, else the one that has been idle longest. So strangers who
// connect and say nothing lock nobody out. Where all are busy the new one is closed, which tells a client
// sooner than a backlog that nobody takes from.
//
// What is whole the server says: ServeRequests for HTTP, Prove for gRPC.
type Limited struct {
	net.Listener
	most int

	mu      sync.Mutex
	open    int             // mu
	waiting [busy]list.List // of *limitedConn by stage, who came to it first in front; mu
}

// stage is what a connection has to do with its place.
type stage int

const (
	silent stage = iota // nothing was read from it
	begun               // something was, but nothing whole
	idle                // between requests
	busy                // never makes room
	gone
)

// Limit is ln with at most most connections.
func Limit(ln net.Listener, most int) *Limited { return &Limited{Listener: ln, most: most} }

// Accept returns the next connection that there is room for.
func (l *Limited) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &limitedConn{Conn: raw, of: l}
		victim := l.add(c)
		if victim != nil {
			_ = victim.Conn.Close()
		}
		if victim != c {
			return c, nil
		}
	}
}

// add counts a new connection, and says which one is to be closed for it, which may be itself.
func (l *Limited) add(c *limitedConn) (victim *limitedConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.most {
		if victim = l.first(); victim == nil {
			return c
		}
		l.set(victim, gone)
	}
	l.open++
	c.place = l.waiting[silent].PushBack(c)
	return victim
}

// first is the connection that makes room first, nil where all are busy. The caller holds mu.
func (l *Limited) first() *limitedConn {
	for i := range l.waiting {
		if e := l.waiting[i].Front(); e != nil {
			return e.Value.(*limitedConn) //nolint:forcetypeassert // the list holds no others
		}
	}
	return nil
}

// set moves a connection to a stage. The caller holds mu.
func (l *Limited) set(c *limitedConn, to stage) {
	if c.stage == gone {
		return
	}
	if c.place != nil {
		l.waiting[c.stage].Remove(c.place)
		c.place = nil
	}
	c.stage = to
	switch to {
	case gone:
		l.open--
	case busy:
	default:
		c.place = l.waiting[to].PushBack(c)
	}
}

// limitedConn is a connection of a Limited.
type limitedConn struct {
	net.Conn
	of    *Limited
	heard bool // something was read; the reader's

	stage stage         // of.mu
	place *list.Element // in the list of stage, if that has one; of.mu
}

func (c *limitedConn) set(to stage) {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.set(c, to)
}

// Read is called by one goroutine at a time.
func (c *limitedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard {
		c.heard = true
		c.set(begun)
	}
	return n, err
}

// Close gives the place back.
func (c *limitedConn) Close() error {
	c.set(gone)
	return c.Conn.Close()
}

// ServeRequests makes s, which is to serve a Limited, with or without TLS over it, say which of its
// connections are busy: those on which a request is served that has come whole.
func ServeRequests(s *http.Server) {
	type key struct{}
	s.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if under, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
			conn = under.NetConn()
		}
		return context.WithValue(ctx, key{}, conn)
	}
	next := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(key{}).(*limitedConn); ok {
			defer c.set(idle)
			if r.ContentLength == 0 {
				c.set(busy)
			} else {
				r.Body = &awaited{r.Body, c}
			}
		}
		next.ServeHTTP(w, r)
	})
}

// awaited is a body with whose end a request is whole.
type awaited struct {
	io.ReadCloser
	conn *limitedConn
}

func (a *awaited) Read(b []byte) (int, error) {
	n, err := a.ReadCloser.Read(b)
	if errors.Is(err, io.EOF) {
		a.conn.set(busy)
	}
	return n, err
}

// Prove is creds for a gRPC server on a Limited: a connection is busy, for good, from the moment that its
// handshake succeeded and the preface of HTTP/2 came.
func Prove(creds credentials.TransportCredentials) credentials.TransportCredentials {
	return proof{creds}
}

type proof struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (p proof) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := p.TransportCredentials.ServerHandshake(raw)
	if over, ok := raw.(*limitedConn); ok && err == nil {
		conn = &proving{conn, over, len(http2.ClientPreface)}
	}
	return conn, info, err
}

type proving struct {
	net.Conn
	over *limitedConn
	left int // bytes of the preface that are still to come; the reader's
}

// Read is called by one goroutine at a time.
func (p *proving) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if p.left > 0 && n > 0 {
		if p.left -= n; p.left <= 0 {
			p.over.set(busy)
		}
	}
	return n, err
}
