package proxy_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// from is a dialer of one of the loopback addresses, so that one machine can be several.
func from(addr string) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}, Timeout: 10 * time.Second}
}

// hello is a whole ClientHello, as crypto/tls sends it.
func hello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_ = tls.Client(theirs, cfg).HandshakeContext(context.Background())
		_ = theirs.Close()
	}()
	record := make([]byte, 5)
	if _, err := io.ReadFull(ours, record); err != nil {
		t.Fatal(err)
	}
	record = append(record, make([]byte, int(record[3])<<8|int(record[4]))...)
	if _, err := io.ReadFull(ours, record[5:]); err != nil {
		t.Fatal(err)
	}
	return record
}

// flood is strangers that come back whenever they are thrown out, until the test ends them.
type flood struct {
	wg      sync.WaitGroup
	done    chan struct{}
	dialing chan struct{} // how many dial at once
	mu      sync.Mutex
	open    map[net.Conn]struct{} // mu
}

// start begins n attackers from an address and waits until each has been there. The attacks, of which
// each has one, do their worst on a connection and return where that has ended.
func (f *flood) start(n int, addr, target string, attacks ...func(net.Conn)) {
	var arrived sync.WaitGroup
	arrived.Add(n)
	for i := range n {
		attack := attacks[i%len(attacks)]
		f.wg.Go(func() {
			for first := true; !f.over(); {
				f.dialing <- struct{}{}
				c, err := from(addr).Dial("tcp", target)
				<-f.dialing
				if err != nil {
					continue // a starved listener may not have taken it up in time
				}
				f.mu.Lock()
				f.open[c] = struct{}{}
				f.mu.Unlock()
				if first {
					first = false
					arrived.Done()
				}
				attack(c)
				_ = c.Close()
				f.mu.Lock()
				delete(f.open, c)
				f.mu.Unlock()
			}
		})
	}
	arrived.Wait()
}

func (f *flood) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// end closes what is open and waits for all. Who was just dialling is closed at a later look.
func (f *flood) end() {
	close(f.done)
	gone := make(chan struct{})
	go func() {
		f.wg.Wait()
		close(gone)
	}()
	for {
		f.mu.Lock()
		for c := range f.open {
			_ = c.Close()
		}
		f.mu.Unlock()
		select {
		case <-gone:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// attack is a way to hold a connection without a token.
type attack struct {
	name string
	do   func(net.Conn)
}

func (r *rig) attacks() []attack {
	first := hello(r.t, r.clientTLS())
	await := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	shaken := func(then func(*tls.Conn)) func(net.Conn) {
		return func(raw net.Conn) {
			c := tls.Client(raw, r.clientTLS())
			if c.HandshakeContext(context.Background()) == nil {
				then(c)
			}
		}
	}
	junk := strings.Replace(r.readRequest(), r.token, "junk", 1)
	return []attack{
		{"silent", await},
		{"half a hello", func(c net.Conn) { _, _ = c.Write(first[:len(first)/2]); await(c) }},
		{"a hello and no more", func(c net.Conn) { _, _ = c.Write(first); await(c) }},
		{"no TLS", func(c net.Conn) { _, _ = io.WriteString(c, ping); await(c) }},
		{"a handshake and no more", shaken(func(c *tls.Conn) { await(c) })},
		{"half a head", shaken(func(c *tls.Conn) { _, _ = io.WriteString(c, junk[:40]); await(c) })},
		{"a head byte by byte", shaken(func(c *tls.Conn) {
			for i := range junk[:40] {
				if _, err := io.WriteString(c, junk[i:i+1]); err != nil {
					return
				}
			}
			await(c)
		})},
		{"junk tokens in a loop", shaken(func(c *tls.Conn) {
			for br := bufio.NewReader(c); ; {
				if _, err := io.WriteString(c, junk); err != nil {
					return
				}
				resp, err := http.ReadResponse(br, nil)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})},
	}
}

// TestFloodsLockNobodyOut: more strangers than there is room for hold connections in every state
// that needs no token, and come back at once when they are thrown out. A client that was there
// before keeps its connection through all of it, and new clients are served, from the strangers' own
// address as well as from another one; a refused or broken connection attempt may be repeated.
// Method: real TLS, each kind by itself in a small listener, and all kinds in one of the default size.
func TestFloodsLockNobodyOut(t *testing.T) {
	few, many := 64, 1024
	if raceEnabled { // clients and server are several times slower, and share a core in the end
		many = 128
	}
	small := floodRig(t, few)
	kinds := small.attacks()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) { small.survive(t, few, kind.do) })
	}
	t.Run("all", func(t *testing.T) {
		big := floodRig(t, many)
		var all []func(net.Conn)
		for _, kind := range big.attacks() {
			all = append(all, kind.do)
		}
		big.survive(t, many, all...)
	})
	for outcome, none := range map[string]bool{"stranger": false, "idle": true, "refused": true} {
		n, _ := strconv.Atoi(small.metric(`connections_over_cap_total{cap="max_conns",outcome="` + outcome + `"}`))
		if (n == 0) != none {
			t.Errorf("%d connections were closed as %s", n, outcome)
		}
	}
}

// floodRig has no time-out that could end an attack.
func floodRig(t *testing.T, conns int) *rig {
	r := newRig(t, rigOptions{env: []string{
		"SVC_WALLET_MAX_CONNS=" + strconv.Itoa(conns), "SVC_WALLET_READ_TIMEOUT=5m", "SVC_WALLET_IDLE_TIMEOUT=1h",
	}})
	r.log.SetLevel(logrus.InfoLevel)
	r.issueTo(r.client(), "rich", 7)
	return r
}

// survive lets a tenth more strangers knock than there is room for.
func (r *rig) survive(t *testing.T, room int, attacks ...func(net.Conn)) {
	old, err := r.hold("127.0.0.1", r.clientTLS())
	if err != nil {
		t.Fatal(err)
	}
	served := func() {
		t.Helper()
		if status, closed := old.ask(r.readRequest()); status != 200 || closed {
			t.Fatalf("a client that was there before: %d, closed %v", status, closed)
		}
	}
	served()
	f := &flood{done: make(chan struct{}), dialing: make(chan struct{}, 2), open: map[net.Conn]struct{}{}}
	defer f.end()
	f.start(room+room/10, "127.0.0.2", r.server.Addr().String(), attacks...)
	r.clock.ahead.Add(int64(10 * time.Second)) // all have been idle for long, the client too
	for i := range 10 {
		if err := r.fresh([]string{"127.0.0.2", "127.0.0.3"}[i%2]); err != nil {
			t.Fatalf("new client %d: %v", i, err)
		}
		if i%2 > 0 {
			served()
		}
	}
	served()
	if n := r.server.Connections(); n > room {
		t.Errorf("%d connections are on the books", n)
	}
}

// fresh makes one request as a new client from an address, and dials again where that fails.
func (r *rig) fresh(addr string) (err error) {
	for range 1000 {
		if err = r.once(addr); err == nil {
			return nil
		}
	}
	return err
}

func (r *rig) once(addr string) error {
	c, err := (&tls.Dialer{NetDialer: from(addr), Config: r.clientTLS()}).Dial("tcp", r.server.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, r.readRequest()); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if a := r.read(resp); a.status != 200 {
		r.t.Fatalf("%d %s", a.status, a.body)
	}
	return nil
}
