package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"iter"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/host"
)

const (
	// idleBefore is how long a connection must have been quiet before a new one may take its
	// place, for how long a valid token vouches for what comes after it, and how long a handshake
	// may take during a drain.
	idleBefore = time.Second

	// acceptPause is the longest wait after a failed accept, which comes of a lack of file
	// descriptors or memory.
	acceptPause = time.Second

	// overCapPause is the pause between two lines that say that there are too many connections.
	overCapPause = time.Minute

	// The idle connections that reached their longest age are looked for ageSweeps times in that age.
	ageSweeps = 60
)

// bounds are what a listener takes at most.
type bounds struct {
	conns   int           // open at once
	perAddr int           // of these from one address; 0: as many as there may be
	age     time.Duration // of a connection; 0: any
}

// listener accepts connections for fasthttp within its bounds. Its own cap and books replace
// fasthttp's: those would answer an excess connection before its handshake, and its Shutdown
// serves connections again that outlast it.
//
// At the cap a stranger makes room, whatever it does: a connection on which no valid token has come,
// or none for a second of further requests (docs/decisions/027-strangers-pay-for-themselves.md). Where there is none, one that has been idle
// for a second at least does: a client that keeps connections for later must not lock out one that
// wants to pay now. Otherwise the new one is closed at once, which tells a client to try elsewhere
// sooner than a backlog that nobody takes from.
type listener struct {
	net.Listener
	certs   *certs      // nil: plain, in tests
	tls     *tls.Config // of certs
	bounds  bounds
	now     func() int64
	log     logrus.FieldLogger
	metrics *Metrics
	turns   turns     // of handshakes
	told    allowance // of lines of handshakes that failed

	done chan struct{} // closed by Close
	once sync.Once

	mu    sync.Mutex
	books books // mu
	said  int64 // when the log last said that there are too many, Unix nanoseconds; mu
}

func newListener(ln net.Listener, c *certs, b bounds, now func() int64, log logrus.FieldLogger, m *Metrics) *listener {
	l := &listener{
		Listener: ln, certs: c, bounds: b, now: now, log: log, metrics: m,
		turns: newTurns(), done: make(chan struct{}), books: newBooks(),
	}
	if c != nil {
		l.tls = host.PerHandshake(c.current.Load)
	}
	return l
}

// Accept returns the next connection within the cap, and io.EOF after Close. fasthttp would give
// up for ever on an error such as EMFILE, so that is waited out here.
func (l *listener) Accept() (net.Conn, error) {
	pauses := host.Backoff{First: 5 * time.Millisecond, Most: acceptPause}
	for failures := 0; ; {
		raw, err := l.Listener.Accept()
		if err == nil {
			failures = 0
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
		case <-time.After(pauses.Pause(failures)):
			failures++
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
	victim, over := l.makeRoom(c)
	if victim != nil {
		l.books.remove(victim)
	}
	if over == withinCap || victim != nil {
		l.books.add(c)
	}
	warn := over != withinCap && c.born-l.said >= int64(overCapPause)
	if warn {
		l.said = c.born
	}
	open, strangers := len(l.books.open), l.books.strange
	l.mu.Unlock()
	if warn {
		l.log.WithFields(logrus.Fields{"connections": open, "strangers": strangers, "cap": over.String()}).Warn("connections_over_cap")
	}
	switch {
	case over == withinCap:
		return c
	case victim == nil:
		l.metrics.overCap(over, connRefused)
		_ = raw.Close()
		return nil
	case victim.proven.Load():
		l.metrics.overCap(over, connIdle)
	default:
		l.metrics.overCap(over, connStranger)
	}
	_ = victim.raw.Close() // a farewell in TLS could hold up Accept
	return c
}

// connCap is a cap that a new connection met.
type connCap uint8

const (
	withinCap  connCap = iota
	capAddress         // of one address
	capAll             // of all
	numCaps
)

// String is the cap's name in metrics and the log.
func (c connCap) String() string { return [...]string{"none", "max_conns_per_addr", "max_conns"}[c] }

// makeRoom says which cap the new connection meets, and which other one it then replaces; nil is
// none. The caller holds mu and closes it.
func (l *listener) makeRoom(c *conn) (victim *conn, over connCap) {
	quiet := c.born - int64(idleBefore)
	if p := l.books.peers[origin(c.addr)]; p != nil && l.bounds.perAddr > 0 && p.conns() >= l.bounds.perAddr {
		if victim = p.stranger(l.books.chance); victim == nil {
			return quietest(p.elders(), quiet), capAddress
		}
		victim.phase.Store(retired)
		return victim, capAddress
	}
	if len(l.books.open) < l.bounds.conns {
		return nil, withinCap
	}
	if victim = l.books.stranger(); victim == nil {
		return quietest(l.books.elders(), quiet), capAll
	}
	victim.phase.Store(retired)
	return victim, capAll
}

// quietest retires the connection of these that has been idle longest, since before at least. The
// caller holds the listener's mu.
func quietest(conns iter.Seq[*conn], before int64) *conn {
	var oldest *conn
	since := before
	for c := range conns {
		if at := c.touched.Load(); at <= since && c.phase.Load() <= idle {
			oldest, since = c, at
		}
	}
	if oldest != nil && !oldest.retire() {
		return nil // a request has just come in
	}
	return oldest
}

// prove books a connection as one of a client; false where it was closed before.
func (l *listener) prove(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.books.prove(c) {
		return false
	}
	c.proven.Store(true)
	return true
}

// disown books a client's connection as a stranger's.
func (l *listener) disown(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.books.disown(c) {
		c.proven.Store(false)
	}
}

// count is how many connections are open.
func (l *listener) count() int {
	clients, strangers := l.counts()
	return clients + strangers
}

// counts are the open connections on which a valid token has come, and the others.
func (l *listener) counts() (clients, strangers int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.books.open) - l.books.strange, l.books.strange
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
	l.closeWhere(func(c *conn) bool {
		since := c.touched.Load()
		if c.phase.Load() == shaking {
			since += int64(idleBefore) // its client may send as soon as it is through
		}
		return since <= before && !c.unread() && c.retire()
	})
}

// closeAged closes the idle connections that have reached their longest age. A busy one says so in
// its answer.
func (l *listener) closeAged() {
	now := l.now()
	l.closeWhere(func(c *conn) bool {
		return c.aged(now) && !c.unread() && c.phase.CompareAndSwap(idle, retired)
	})
}

// closeWhere closes the connections that retire has retired, at once: a client that reads nothing holds
// up its own for 5 s.
func (l *listener) closeWhere(retire func(*conn) bool) {
	var farewells sync.WaitGroup
	l.mu.Lock()
	for c := range l.books.open {
		if retire(c) {
			l.books.remove(c)
			farewells.Go(func() { _ = c.Conn.Close() })
		}
	}
	l.mu.Unlock()
	farewells.Wait()
}

// run closes aged connections until ctx ends.
func (l *listener) run(ctx context.Context) {
	for l.bounds.age > 0 && host.Sleep(ctx, max(time.Second, l.bounds.age/ageSweeps)) {
		l.closeAged()
	}
}

// cutOff closes every connection, whatever it does.
func (l *listener) cutOff() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.books.open {
		_ = c.raw.Close() // not through TLS, whose farewell waits for a write under way
	}
}

// remove takes a closed connection off the books.
func (l *listener) remove(c *conn) {
	l.mu.Lock()
	l.books.remove(c)
	l.mu.Unlock()
}
