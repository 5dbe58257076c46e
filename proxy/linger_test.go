package proxy

import (
	"net"
	"testing"
	"time"
)

// endless is a client that never stops sending.
type endless struct {
	net.Conn
	read int
}

func (e *endless) Read(b []byte) (int, error) {
	e.read += len(b)
	return len(b), nil
}

func (e *endless) CloseWrite() error               { return nil }
func (e *endless) SetReadDeadline(time.Time) error { return nil }

// TestLingerIsBounded: of what a refused client goes on to send a bounded part is read and thrown away,
// of a stranger's a sixteenth of it. Method: a client that never stops.
func TestLingerIsBounded(t *testing.T) {
	for proven, want := range map[bool]int{true: lingerBytes, false: lingerStrange} {
		e := &endless{}
		c := &conn{raw: e}
		c.proven.Store(proven)
		c.drainInput()
		if e.read != want {
			t.Errorf("proven %v: %d bytes were read, want %d", proven, e.read, want)
		}
	}
}
