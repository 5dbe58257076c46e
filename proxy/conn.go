package proxy

import (
	"bytes"
	"cmp"
	"container/list"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

const (
	// lingerFor and lingerBytes bound what is read and thrown away after an early answer. Closing
	// with input unread makes the kernel send a reset, which takes the answer with it (RFC 9112
	// §9.6). Of a stranger less is read: the rest waits unread until the time is over.
	lingerFor     = time.Second
	lingerBytes   = 4 << 20
	lingerStrange = 256 << 10

	// tlsBytes is the most that a handshake takes of a client, and TLS for one answer to a read: a
	// record has up to 16 KiB, a handshake some 2 KiB and the client's certificates.
	tlsBytes = 32 << 10

	// A connection's longest age is shortened by up to a part in ageSpread, so that those that came
	// together do not leave together.
	ageSpread = 10
)

// Phases of a connection. Only one that serves no request may be retired, and a retired one serves
// nothing more: so no request that was read goes unanswered.
const (
	shaking uint32 = iota // the handshake is not over
	idle
	busy
	retired
)

// conn is one client connection, with all that is known of it once rather than for each request.
type conn struct {
	net.Conn // the TLS connection, or raw where there is none
	raw      net.Conn
	tls      *tls.Conn // nil without TLS
	listener *listener
	addr     netip.Addr
	phase    atomic.Uint32
	touched  atomic.Int64 // end of the last request, before one of the handshake, and before that the accept
	proven   atomic.Bool  // a client's and no stranger's; set under the listener's mu
	born     int64        // Unix nanoseconds
	due      int64        // when it has reached its longest age, Unix nanoseconds; 0: never

	// Of the listener's books.
	number uint64 // of its becoming a stranger, by its accept as a rule
	peerOf *peer
	entry  *list.Element // in one of the peer's lists

	// Of the goroutine that serves the connection.
	client clientCert
	shown  int64 // when a request with a valid token was last over, Unix nanoseconds
	turn   bool  // it holds one of the listener's turns
	meter  meter
	heads  heads
	text   []byte // the head under way as it came in; fasthttp keeps nothing of one that it refuses
	body   body
	ahead  []byte // what came in with the last read and is not used yet, within room
	room   []byte
	linger bool // input may be unread when the connection closes
	broken bool // a write failed: TLS cannot say farewell, and would wait 5 s for it

	once sync.Once
}

// meter bounds what TLS reads before it hands something out. A message of a handshake may be 64 KiB,
// and a client's certificates 256 KiB, which TLS keeps until they are complete, for any stranger.
type meter struct {
	net.Conn
	left int
}

func (m *meter) Read(b []byte) (int, error) {
	if m.left <= 0 {
		return 0, errTLSBytes
	}
	n, err := m.Conn.Read(b[:min(len(b), m.left)])
	m.left -= n
	return n, err
}

func newConn(raw net.Conn, l *listener) *conn {
	c := &conn{Conn: raw, raw: raw, listener: l}
	if a, ok := raw.RemoteAddr().(*net.TCPAddr); ok {
		c.addr = a.AddrPort().Addr().Unmap()
	}
	if l.tls != nil {
		c.meter = meter{Conn: raw, left: tlsBytes}
		c.tls = tls.Server(&turnstile{Conn: &c.meter, c: c}, l.tls)
		c.Conn = c.tls
	}
	c.born = l.now()
	if age := int64(l.bounds.age); age > 0 {
		c.due = c.born + age - rand.Int64N(age/ageSpread+1) //nolint:gosec // spreads reconnects and guards nothing
	}
	c.touched.Store(c.born)
	return c
}

// Handshake is called by fasthttp before anything else, under its read time-out.
func (c *conn) Handshake() error {
	if c.tls != nil {
		under := c.listener.certs.current.Load() // or a later one, by which it is judged again at the first request
		err := c.tls.Handshake()                 //nolint:noctx // bounded by the read deadline
		c.listener.turns.leave(&c.turn)
		if err != nil {
			c.listener.handshakeFailed(c, err)
			c.explain(err)
			return err
		}
		c.client = newClientCert(c.tls.ConnectionState(), under)
	}
	c.touched.Store(c.listener.now())
	c.phase.CompareAndSwap(shaking, idle)
	return nil
}

// plainAnswer is for a client that speaks HTTP without TLS, as a wrong scheme in a URL makes it.
const plainAnswer = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n" +
	"Content-Length: 49\r\n\r\nThis port speaks TLS: use https:// in its place.\n"

// explain answers a client that does not speak TLS but HTTP, which it shows by five bytes where TLS
// has the header of a record.
func (c *conn) explain(err error) {
	var odd tls.RecordHeaderError
	if !errors.As(err, &odd) || odd.Conn == nil || len(bytes.Trim(odd.RecordHeader[:3], "ABCDEFGHIJKLMNOPQRSTUVWXYZ")) > 0 {
		return
	}
	_ = c.raw.SetWriteDeadline(time.Now().Add(lingerFor)) //nolint:forbidigo // the runtime holds deadlines against its own clock
	_, _ = io.WriteString(c.raw, plainAnswer)
	c.linger = true // what else it sent is unread
}

// ConnectionState makes fasthttp see a TLS connection.
func (c *conn) ConnectionState() tls.ConnectionState {
	if c.tls == nil {
		return tls.ConnectionState{}
	}
	return c.tls.ConnectionState()
}

// Read hands fasthttp the head of the next request, as far as it has come in, and nothing behind
// it. What a refused request left of its body is skipped first.
func (c *conn) Read(b []byte) (n int, err error) {
	switch {
	case c.phase.Load() == shaking:
		return 0, net.ErrClosed // fasthttp goes on after a failed handshake; this makes it end in silence
	case c.heads.done:
		return 0, errHead
	}
	if err := c.skipBody(); err != nil {
		return 0, err
	}
	if n = copy(b, c.ahead); n > 0 {
		if !c.wake() {
			return 0, net.ErrClosed
		}
		n = c.scan(b[:n])
		c.ahead = c.ahead[n:]
		return n, nil
	}
	if n, err = c.receive(b); n == 0 || !c.wake() {
		return 0, cmp.Or(err, net.ErrClosed)
	}
	head := c.scan(b[:n])
	if head < n {
		c.room = append(c.room[:0], b[head:n]...)
		c.ahead = c.room
	}
	return head, err
}

// scan takes of b what belongs to the head under way, and keeps it.
func (c *conn) scan(b []byte) int {
	if c.heads.seen == 0 {
		c.text = c.text[:0]
	}
	n := c.heads.scan(b)
	c.text = append(c.text, b[:min(n, headerBytes-len(c.text))]...) // fasthttp takes no more in either
	return n
}

// head is the head that came in last, if it is complete: its request line, and the lines behind it.
func (c *conn) head() (first, lines []byte) {
	if !c.heads.done || c.heads.seen > len(c.text) {
		return nil, nil
	}
	first, lines, _ = bytes.Cut(c.text[c.heads.skipped:], []byte("\n"))
	return bytes.TrimSuffix(first, []byte("\r")), lines
}

// receive reads what has come in.
func (c *conn) receive(b []byte) (int, error) {
	c.meter.left = tlsBytes
	n, err := c.Conn.Read(b)
	if err != nil && isTimeout(err) {
		c.listener.metrics.timedOut(c.phase.Load() == idle)
	}
	return n, err
}

// refill reads on when all that came in is used.
func (c *conn) refill() error {
	if cap(c.room) < roomBytes {
		c.room = make([]byte, roomBytes)
	}
	n, err := c.receive(c.room[:cap(c.room)])
	c.ahead = c.room[:n]
	if n > 0 {
		return nil
	}
	return err
}

func (c *conn) Write(b []byte) (int, error) {
	if c.phase.Load() == shaking {
		return 0, net.ErrClosed // fasthttp's refusal of a connection too many, which would shake hands in Accept
	}
	n, err := c.Conn.Write(b)
	if err != nil {
		c.broken = true
		if isTimeout(err) {
			c.listener.metrics.writeTimedOut()
		}
	}
	return n, err
}

// judgeClient says whom the client's certificate names at the time now, and whether it no longer
// counts.
func (c *conn) judgeClient(now int64) (name string, gone bool) {
	if c.tls == nil {
		return "", false
	}
	return c.client.judge(c.listener.certs.current.Load(), now)
}

// Prove implements filters.Caller.
func (c *conn) Prove() bool { return c.proven.Load() || c.listener.prove(c) }

// served notes that a request is over. Only one with a valid token keeps the connection a client's: a
// token that was revoked or has expired would else hold its places for as long as its connections
// send anything at all.
func (c *conn) served(granted bool, now int64) {
	c.touched.Store(now)
	if granted {
		c.shown = now
	} else if now-c.shown >= int64(idleBefore) && c.proven.Load() {
		c.listener.disown(c)
	}
}

// aged says that the connection has reached its longest age.
func (c *conn) aged(now int64) bool { return c.due > 0 && now >= c.due }

// retire ends a connection that serves no request; false if one has just come in.
func (c *conn) retire() bool {
	return c.phase.CompareAndSwap(idle, retired) || c.phase.CompareAndSwap(shaking, retired)
}

// unread reports whether the client has sent something that nobody has read yet: on a busy machine
// a request can wait longer for its goroutine than a connection need be quiet. It asks the kernel,
// so what is under way on the network it cannot see; a client that sends just as its connection is
// closed has to retry (RFC 9112 §9.5).
func (c *conn) unread() bool {
	raw, ok := c.raw.(syscall.Conn)
	if !ok {
		return false
	}
	fd, err := raw.SyscallConn()
	if err != nil {
		return false
	}
	var n int
	err = fd.Control(func(fd uintptr) {
		n, _, _ = syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT) // an error is nothing to read
	})
	return err == nil && n > 0
}

// wake marks the connection as serving a request; false if it was retired just before.
func (c *conn) wake() bool {
	return c.phase.CompareAndSwap(idle, busy) || c.phase.Load() == busy
}

// Close is called by fasthttp when it is done with the connection.
func (c *conn) Close() (err error) {
	c.once.Do(func() {
		c.phase.Store(retired)
		switch {
		case c.broken:
			err = c.raw.Close()
		case c.linger:
			c.drainInput()
			fallthrough
		default:
			err = c.Conn.Close()
		}
		c.listener.remove(c)
	})
	return err
}

func (c *conn) drainInput() {
	half, ok := c.raw.(interface{ CloseWrite() error })
	if !ok {
		return
	}
	if c.tls != nil {
		_ = c.tls.CloseWrite() // says that the answer is complete
	}
	if half.CloseWrite() != nil || c.raw.SetReadDeadline(time.Now().Add(lingerFor)) != nil { //nolint:forbidigo // the runtime holds deadlines against its own clock
		return
	}
	most := int64(lingerBytes)
	if !c.proven.Load() {
		most = lingerStrange
	}
	if n, _ := io.CopyN(io.Discard, c.raw, most); n == most {
		c.awaitEnd()
	}
}

// awaitEnd waits until the deadline, or until the connection is closed, and reads nothing.
func (c *conn) awaitEnd() {
	raw, ok := c.raw.(syscall.Conn)
	if !ok {
		return
	}
	if fd, err := raw.SyscallConn(); err == nil {
		_ = fd.Read(func(uintptr) bool { return false }) // again whenever something comes in
	}
}

// follow is fasthttp's ConnState hook: after an answer the connection is idle, unless the next
// request came in with the last one.
func follow(nc net.Conn, state fasthttp.ConnState) {
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	switch state {
	case fasthttp.StateIdle:
		if len(c.ahead) == 0 {
			c.phase.CompareAndSwap(busy, idle)
		}
	case fasthttp.StateActive:
		c.wake()
	default:
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
