package xds

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// relay passes bytes on to a Unix socket, until it is frozen: then it takes connections and bytes, and
// passes nothing on, as a process that is stopped.
type relay struct {
	addr string
	gate sync.RWMutex // held to freeze
}

func startRelay(t *testing.T, to string) *relay {
	t.Helper()
	r := &relay{addr: "unix:" + filepath.Join(shortDir(t), "relay.sock")}
	accepting(t, r.addr, func(conn net.Conn) {
		path, _ := cutUnix(to)
		far, err := net.Dial("unix", path)
		if err != nil {
			return
		}
		var both sync.WaitGroup
		pass := func(dst, src net.Conn) {
			defer dst.Close()
			buf := make([]byte, 4096)
			for {
				n, err := src.Read(buf)
				r.gate.RLock()
				r.gate.RUnlock() //nolint:staticcheck // it waits while frozen
				if err != nil {
					return
				}
				if _, err := dst.Write(buf[:n]); err != nil {
					return
				}
			}
		}
		both.Go(func() { pass(far, conn) })
		both.Go(func() { pass(conn, far) })
		both.Wait()
	})
	return r
}

// accepting serves each connection in a goroutine until the test ends.
func accepting(t *testing.T, addr string, serve func(net.Conn)) {
	t.Helper()
	path, _ := cutUnix(addr)
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer conn.Close(); serve(conn) })
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
}

// TestFrozen: a control plane whose process is stopped is noticed by its silence to a ping, and the
// next address serves; until then what is in force ages. A relay that passes nothing on stands for it.
func TestFrozen(t *testing.T) {
	first, second := startPlane(t), startPlane(t)
	r := startRelay(t, first.addr)
	w := newSidecar(t, setup{
		flags: map[string]string{"xds.addr": r.addr + "," + second.addr, "xds.types": "limits"},
		timing: func(tm *timing) {
			tm.ping, tm.pingTimeout = 10*time.Second, time.Second // gRPC pings no more often
			tm.preferred = time.Hour
		},
	})
	l := first.stream(t)
	l.asks(extensionURL)
	l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)))
	r.gate.Lock()
	t.Cleanup(r.gate.Unlock)
	began := time.Now()
	l = second.stream(t)
	if age := w.VersionAge(); age < 10*time.Second || w.Connected() {
		t.Errorf("after %s the age is %s, connected %v", time.Since(began), age, w.Connected())
	}
	l.asks(extensionURL)
	l.acked(l.push(extensionURL, "2", limits(`{"max_amount_per_op": "8"}`)))
	if st := w.status().Sources[0]; w.amount() != "8" || st.Addr != second.addr || w.VersionAge() != 0 {
		t.Errorf("%s in force, %+v", w.amount(), st)
	}
}

// TestTooManyPings: a server that ends a connection over pings is sent them in the five minutes that
// gRPC's servers stand by default. It says GOAWAY to each request.
func TestTooManyPings(t *testing.T) {
	addr := "unix:" + filepath.Join(shortDir(t), "strict.sock")
	accepting(t, addr, func(conn net.Conn) {
		if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(conn, conn)
		if f.WriteSettings() != nil {
			return
		}
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			if frame.Header().Type == http2.FrameHeaders {
				_ = f.WriteGoAway(frame.Header().StreamID, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings"))
				return
			}
		}
	})
	w := newSidecar(t, setup{flags: map[string]string{"xds.addr": addr, "xds.types": "limits"}})
	await(t, "the end of a stream", func() bool { return strings.Contains(w.status().Sources[0].LastError, "too_many_pings") })
	w.stop()
	if s := w.servers[0]; !s.strict[addr] || s.conn.ping > strictPing {
		t.Errorf("pings every %s", s.conn.ping)
	}
}
