package proxy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/valyala/fasthttp"
)

const (
	// lingerFor and lingerBytes bound what is read and thrown away after an early answer. Closing
	// with input unread makes the kernel send a reset, which takes the answer with it (RFC 9112
	// §9.6).
	lingerFor   = time.Second
	lingerBytes = 4 << 20

	// tlsBytes is the most that a handshake takes of a client, and TLS for one answer to a read: a
	// record has up to 16 KiB, a handshake some 2 KiB and the client's certificates.
	tlsBytes = 32 << 10

	// idleBefore is how long a connection must have been quiet before a new one may take its
	// place, and how long a handshake may take during a drain.
	idleBefore = time.Second

	// acceptPause is the longest wait after a failed accept, which comes of a lack of file
	// descriptors or memory.
	acceptPause = time.Second
)

// listener accepts connections for fasthttp, at most max at once. Its own cap and books replace
// fasthttp's: those would answer an excess connection before its handshake, and its Shutdown
// serves connections again that outlast it.
//
// At the cap the connection that has been idle longest, if for a second at least, makes room: a
// client that keeps connections for later must not lock out one that wants to pay now. If none is
// idle the new one is closed at once, which tells a client to try elsewhere sooner than a backlog
// that nobody takes from.
type listener struct {
	net.Listener
	tls     *tls.Config // nil: plain, in tests
	max     int
	now     func() int64
	log     logrus.FieldLogger
	metrics *Metrics

	done chan struct{} // closed by Close
	once sync.Once

	mu   sync.Mutex
	open map[*conn]struct{} // mu
}

func newListener(ln net.Listener, cfg *tls.Config, limit int, now func() int64, log logrus.FieldLogger, m *Metrics) *listener {
	return &listener{
		Listener: ln, tls: cfg, max: limit, now: now, log: log, metrics: m,
		done: make(chan struct{}), open: map[*conn]struct{}{},
	}
}

// Accept returns the next connection within the cap, and io.EOF after Close. fasthttp would give
// up for ever on an error such as EMFILE, so that is waited out here.
func (l *listener) Accept() (net.Conn, error) {
	pause := 5 * time.Millisecond
	for {
		raw, err := l.Listener.Accept()
		if err == nil {
			pause = 5 * time.Millisecond
			if c := l.add(raw); c != nil {
				return c, nil
			}
			continue
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		l.log.WithError(err).Error("accept_failed")
		select {
		case <-l.done:
			return nil, io.EOF
		case <-time.After(pause):
			pause = min(2*pause, acceptPause)
		}
	}
}

// Close ends Accept. Open connections stay.
func (l *listener) Close() (err error) {
	l.once.Do(func() {
		close(l.done)
		err = l.Listener.Close()
	})
	return err
}

func (l *listener) closed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// add books a new connection, or closes it and returns nil.
func (l *listener) add(raw net.Conn) *conn {
	c := newConn(raw, l)
	l.mu.Lock()
	if l.closed() { // accepted just before; nothing was asked on it
		l.mu.Unlock()
		_ = raw.Close()
		return nil
	}
	var victim *conn
	if len(l.open) >= l.max {
		if victim = l.quietest(c.touched.Load() - int64(idleBefore)); victim == nil {
			l.mu.Unlock()
			l.metrics.connRefused()
			_ = raw.Close()
			return nil
		}
		delete(l.open, victim)
	}
	l.open[c] = struct{}{}
	l.mu.Unlock()
	if victim != nil {
		l.metrics.connEvicted()
		_ = victim.raw.Close() // a farewell in TLS could hold up Accept
	}
	return c
}

// quietest retires the connection that has been idle longest, since before at least. The caller
// holds mu and closes it.
func (l *listener) quietest(before int64) *conn {
	for {
		var oldest *conn
		since := before
		for c := range l.open {
			if at := c.touched.Load(); at <= since && c.phase.Load() <= idle {
				oldest, since = c, at
			}
		}
		if oldest == nil || oldest.retire() {
			return oldest
		}
	}
}

// count is how many connections are open.
func (l *listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// drain closes every connection that has been idle for quiet, and then the rest as they fall
// idle. It goes on accepting until none is open, or until four fifths of its time are over, so
// that the last ones accepted can still be answered; ctx's end cuts off what then remains.
func (l *listener) drain(ctx context.Context, within, quiet time.Duration) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	last := time.NewTimer(within / 5 * 4)
	defer last.Stop()
	for l.count() > 0 {
		l.closeIdle(l.now() - int64(quiet))
		select {
		case <-ctx.Done():
			l.cutOff()
			return
		case <-last.C:
			_ = l.Close()
		case <-tick.C:
		}
	}
	_ = l.Close()
	if l.count() > 0 { // one came in between the last look and Close
		l.drain(ctx, 0, quiet)
	}
}

func (l *listener) closeIdle(before int64) {
	l.mu.Lock()
	var gone []*conn
	for c := range l.open {
		since := c.touched.Load()
		if c.phase.Load() == shaking {
			since += int64(idleBefore) // its client may send as soon as it is through
		}
		if since <= before && !c.unread() && c.retire() {
			gone = append(gone, c)
			delete(l.open, c)
		}
	}
	l.mu.Unlock()
	var farewells sync.WaitGroup // at once, as a client that reads nothing holds up its own for 5 s
	for _, c := range gone {
		farewells.Go(func() { _ = c.Conn.Close() })
	}
	farewells.Wait()
}

// cutOff closes every connection, whatever it does.
func (l *listener) cutOff() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		_ = c.raw.Close() // not through TLS, whose farewell waits for a write under way
	}
}

// remove takes a closed connection off the books.
func (l *listener) remove(c *conn) {
	l.mu.Lock()
	delete(l.open, c)
	l.mu.Unlock()
}

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

	// Of the goroutine that serves the connection.
	peer   string // URI SAN of the verified client certificate
	meter  meter
	heads  heads
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
		c.tls = tls.Server(&c.meter, l.tls)
		c.Conn = c.tls
	}
	c.touched.Store(l.now())
	return c
}

// Handshake is called by fasthttp before anything else, under its read time-out.
func (c *conn) Handshake() error {
	if c.tls != nil {
		if err := c.tls.Handshake(); err != nil { //nolint:noctx // bounded by the read deadline
			c.listener.metrics.handshakeFailed(isTimeout(err))
			c.explain(err)
			return err
		}
		c.peer = peerName(c.tls.ConnectionState())
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
		n = c.heads.scan(b[:n])
		c.ahead = c.ahead[n:]
		return n, nil
	}
	if n, err = c.receive(b); n == 0 || !c.wake() {
		return 0, cmp.Or(err, net.ErrClosed)
	}
	head := c.heads.scan(b[:n])
	if head < n {
		c.room = append(c.room[:0], b[head:n]...)
		c.ahead = c.room
	}
	return head, err
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
	n, err := c.Conn.Write(b)
	if err != nil {
		c.broken = true
		if isTimeout(err) {
			c.listener.metrics.writeTimedOut()
		}
	}
	return n, err
}

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
	_, _ = io.CopyN(io.Discard, c.raw, lingerBytes)
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
