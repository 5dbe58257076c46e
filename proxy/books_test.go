package proxy

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestBooks: whoever is to go first is the oldest stranger of the address that has the most
// strangers, and every count is right. Method: arbitrary comings, proofs and goings against a list
// that is searched whole.
func TestBooks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBooks()
		b.chance = func(int) int { return 0 } // the oldest
		var model []*conn                     // on the books, the one that has been a stranger longest first
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			pick := func() *conn { return model[rapid.IntRange(0, len(model)-1).Draw(t, "which")] }
			switch step := rapid.IntRange(0, 5).Draw(t, "step"); {
			case step < 2 || len(model) == 0:
				c := &conn{addr: netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "addr") % 5})}
				b.add(c)
				model = append(model, c)
			case step == 2:
				if c := pick(); !c.proven.Load() {
					if !b.prove(c) {
						t.Fatal("an open connection was not proven")
					}
					c.proven.Store(true)
				}
			case step == 5:
				if c := pick(); c.proven.Load() {
					if !b.disown(c) {
						t.Fatal("an open connection was not disowned")
					}
					c.proven.Store(false)
					model = append(slices.DeleteFunc(model, func(o *conn) bool { return o == c }), c)
				}
			case step == 3:
				c := pick()
				b.remove(c)
				b.remove(c) // as Close does after an eviction
				model = slices.DeleteFunc(model, func(o *conn) bool { return o == c })
				if b.prove(c) || b.disown(c) {
					t.Fatal("a closed connection was booked")
				}
			default:
				if c := b.stranger(); c != nil {
					b.remove(c)
					model = slices.DeleteFunc(model, func(o *conn) bool { return o == c })
				}
			}
			checkBooks(t, &b, model)
		}
	})
}

func checkBooks(t *rapid.T, b *books, model []*conn) {
	count, all, strange := map[netip.Addr]int{}, map[netip.Addr]int{}, 0
	for _, c := range model {
		all[c.addr]++
		if !c.proven.Load() {
			count[c.addr]++
			strange++
		}
	}
	var want *conn
	for _, c := range model {
		if !c.proven.Load() && (want == nil || count[c.addr] > count[want.addr]) {
			want = c
		}
	}
	if got := b.stranger(); got != want {
		t.Fatalf("the first to go is %+v, want %+v", got, want)
	}
	if len(b.open) != len(model) || b.strange != strange || len(b.peers) != len(all) || len(b.crowd) != len(all) {
		t.Fatalf("%d open, %d strangers, %d and %d peers; want %d, %d, %d", len(b.open), b.strange, len(b.peers), len(b.crowd), len(model), strange, len(all))
	}
	for addr, n := range all {
		if p := b.peers[origin(addr)]; p.conns() != n {
			t.Fatalf("%v has %d connections, want %d", addr, p.conns(), n)
		}
	}
}

// TestOrigin: what counts as one address. Method: a table.
func TestOrigin(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.7":            "192.0.2.7/32",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::1": "2001:db8:1:2::/64",
		"2001:db8:1:3::1":      "2001:db8:1:3::/64",
		"fe80::1%eth0":         "fe80::/64",
		"::1":                  "::/64",
	} {
		if got := origin(netip.MustParseAddr(addr)); got != netip.MustParsePrefix(want) {
			t.Errorf("%s counts as %v, want %s", addr, got, want)
		}
	}
	if got := origin(netip.Addr{}); got.IsValid() {
		t.Errorf("no address counts as %v", got)
	}
}

// TestEldersAreBounded: however many proven connections there are, a new one looks at a bounded
// number of them, and at others the next time. Method: count.
func TestEldersAreBounded(t *testing.T) {
	b := newBooks()
	for range 10 * eldersSeen {
		c := &conn{}
		b.add(c)
		b.prove(c)
		c.proven.Store(true)
	}
	seen := map[*conn]bool{}
	for range 10 {
		n := 0
		for range b.elders() {
			n++
		}
		if n != eldersSeen {
			t.Errorf("looked at %d, want %d", n, eldersSeen)
		}
		for c := range b.peers[netip.Prefix{}].elders() {
			seen[c] = true
		}
	}
	if len(seen) != 10*eldersSeen {
		t.Errorf("%d of %d were looked at", len(seen), 10*eldersSeen)
	}
}

// TestTurns: no more handshakes compute at once than there are turns; one that waits for its client
// holds none; and one that was evicted while it waited for a turn does not compute. Method: all turns
// taken by hand, and a connection whose bytes are there.
func TestTurns(t *testing.T) {
	l := &listener{turns: make(turns, 1)}
	read := func(phase uint32) (*conn, chan error) {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { _ = ours.Close(); _ = theirs.Close() })
		c := &conn{listener: l}
		s, done := &turnstile{Conn: ours, c: c}, make(chan error, 1)
		go func() {
			_, err := s.Read(make([]byte, 1))
			c.phase.CompareAndSwap(shaking, phase)
			done <- err
		}()
		if _, err := theirs.Write([]byte{22}); err != nil { // Read has it when this returns
			t.Fatal(err)
		}
		return c, done
	}
	var held bool
	l.turns.enter(&held)
	waiting, done := read(shaking)
	gone, goneDone := read(shaking)
	gone.phase.Store(retired)
	select {
	case <-done:
		t.Fatal("a handshake computes without a turn")
	case <-goneDone:
		t.Fatal("a handshake ended without a turn")
	default:
	}
	l.turns.leave(&held)
	for range 2 { // in whatever order
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			l.turns.leave(&waiting.turn) // as the next read does
		case err := <-goneDone:
			if err == nil {
				t.Error("an evicted handshake goes on")
			}
			l.turns.leave(&gone.turn) // as Handshake's end does
		}
	}
	if len(l.turns) != 0 {
		t.Error("a turn was lost")
	}
}

// BenchmarkMakeRoom is what a new connection costs the books at the cap: with strangers to replace,
// from one address and from as many as there are connections, and with none.
func BenchmarkMakeRoom(b *testing.B) {
	addr := func(i int) netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	}
	for _, bc := range []struct {
		name   string
		conns  int
		addrs  int
		proven bool
	}{
		{"1024 strangers of one address", 1024, 1, false},
		{"1024 strangers of 1024 addresses", 1024, 1024, false},
		{"100000 strangers of 100000 addresses", 100_000, 100_000, false},
		{"1024 proven and busy", 1024, 64, true},
		{"100000 proven and busy", 100_000, 64, true},
	} {
		b.Run(bc.name, func(b *testing.B) {
			l := &listener{bounds: bounds{conns: bc.conns}, books: newBooks()}
			for i := range bc.conns {
				c := &conn{addr: addr(i % bc.addrs)}
				l.books.add(c)
				if bc.proven {
					l.books.prove(c)
					c.proven.Store(true)
					c.phase.Store(busy)
				}
			}
			c := &conn{born: int64(time.Hour)}
			for i := 0; b.Loop(); i++ {
				c.addr = addr(i % bc.addrs)
				if victim, _ := l.makeRoom(c); victim != nil {
					l.books.remove(victim)
					victim.addr = c.addr
					l.books.add(victim)
				}
			}
		})
	}
}
