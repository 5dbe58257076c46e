package proxy

import (
	"net"
	"runtime"
)

// turns bound how many handshakes compute at once, to half the CPUs. A handshake takes some hundred
// microseconds of key exchange and signature for a few hundred bytes that anybody can send; a
// thousand at once would have every request wait behind all of them. A handshake that waits for its
// client takes no turn.
type turns chan struct{}

func newTurns() turns { return make(turns, max(1, runtime.GOMAXPROCS(0)/2)) }

// enter waits for a turn, which held says that there already is.
func (t turns) enter(held *bool) {
	if !*held {
		t <- struct{}{}
		*held = true
	}
}

// leave gives a turn back, where there is one.
func (t turns) leave(held *bool) {
	if *held {
		*held = false
		<-t
	}
}

// turnstile is a connection under crypto/tls. In the handshake it holds a turn from the end of a
// read, which brings what is to be computed, to the next read or write, which may block.
type turnstile struct {
	net.Conn
	c *conn
}

// Read implements net.Conn.
func (s *turnstile) Read(b []byte) (int, error) {
	if s.c.phase.Load() != shaking {
		return s.Conn.Read(b)
	}
	t, held := s.c.listener.turns, &s.c.turn
	t.leave(held)
	n, err := s.Conn.Read(b)
	if n > 0 {
		t.enter(held)
		if s.c.phase.Load() == retired { // evicted while it waited: not worth the work
			return 0, net.ErrClosed
		}
	}
	return n, err
}

// Write implements net.Conn.
func (s *turnstile) Write(b []byte) (int, error) {
	s.c.listener.turns.leave(&s.c.turn)
	return s.Conn.Write(b)
}
