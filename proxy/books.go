package proxy

import (
	"container/heap"
	"container/list"
	"iter"
	"math/rand/v2"
	"net/netip"
)

// books are the open connections of a listener, by the address that they are from. A connection is
// a stranger until a valid token has come on it, and again when it goes on without one. The listener's mu guards them.
//
// All that an accept costs is bounded: a logarithm of the number of addresses, or a look at
// eldersSeen connections.
type books struct {
	open     map[*conn]struct{}
	peers    map[netip.Prefix]*peer
	crowd    crowd  // the same peers, the one with the most strangers first
	strange  int    // strangers among open
	accepted uint64 // and disowned: the next stranger's number
	chance   func(n int) int
}

// peer is one client address and its connections. One that has none is not in the books.
type peer struct {
	from      netip.Prefix
	strangers list.List // of *conn, by number
	proven    list.List // of *conn
	at        int       // in crowd
}

func (p *peer) conns() int { return p.strangers.Len() + p.proven.Len() }

// first is the stranger that has been there longest, nil for none.
func first(p *peer) *conn { return p.stranger(func(int) int { return 0 }) }

// stranger is one of the strangers that have been there longest, nil for none. Which one is chance:
// were it the oldest, a flood that comes in faster than a handshake takes would push out every
// newcomer of its address before he can show his token.
func (p *peer) stranger(chance func(n int) int) *conn {
	e := p.strangers.Front()
	if e == nil {
		return nil
	}
	for range chance(min(eldersSeen, p.strangers.Len())) {
		e = e.Next()
	}
	return e.Value.(*conn) //nolint:forcetypeassert // the list holds no others
}

// eldersSeen is how many connections are looked at to find one that can make room.
const eldersSeen = 64

func newBooks() books {
	return books{open: map[*conn]struct{}{}, peers: map[netip.Prefix]*peer{}, chance: rand.IntN}
}

// origin is what counts as one address: of IPv6 the /64 that one subscriber has at least (RFC 6177).
func origin(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	from, _ := addr.Prefix(bits) // fails only for the zero Addr, whose prefix is the zero one
	return from
}

// peer returns the peer of an address, and makes it.
func (b *books) peer(addr netip.Addr) *peer {
	from := origin(addr)
	p := b.peers[from]
	if p == nil {
		p = &peer{from: from}
		b.peers[from] = p
		heap.Push(&b.crowd, p)
	}
	return p
}

// add books a new connection, which is a stranger.
func (b *books) add(c *conn) {
	b.accepted++
	c.number = b.accepted
	c.peerOf = b.peer(c.addr)
	b.open[c] = struct{}{}
	c.entry = c.peerOf.strangers.PushBack(c)
	b.strange++
	heap.Fix(&b.crowd, c.peerOf.at)
}

// prove books a stranger as proven; false if it is not on the books any more.
func (b *books) prove(c *conn) bool {
	if _, there := b.open[c]; !there {
		return false
	}
	c.peerOf.strangers.Remove(c.entry)
	c.entry = c.peerOf.proven.PushBack(c)
	b.strange--
	heap.Fix(&b.crowd, c.peerOf.at)
	return true
}

// disown books a proven connection as a stranger, the newest of all, as far as it is on the books.
func (b *books) disown(c *conn) bool {
	if _, there := b.open[c]; !there {
		return false
	}
	b.accepted++
	c.number = b.accepted
	c.peerOf.proven.Remove(c.entry)
	c.entry = c.peerOf.strangers.PushBack(c)
	b.strange++
	heap.Fix(&b.crowd, c.peerOf.at)
	return true
}

// remove takes a connection off the books, where it is on them.
func (b *books) remove(c *conn) {
	if _, there := b.open[c]; !there {
		return
	}
	delete(b.open, c)
	p := c.peerOf
	if c.proven.Load() {
		p.proven.Remove(c.entry)
	} else {
		p.strangers.Remove(c.entry)
		b.strange--
	}
	heap.Fix(&b.crowd, p.at)
	if p.conns() == 0 {
		heap.Remove(&b.crowd, p.at)
		delete(b.peers, p.from)
	}
}

// stranger is one to go first, of the address that has the most. Whoever knocks from
// one address thereby pushes out his own, and not the one newcomer from elsewhere.
func (b *books) stranger() *conn {
	if len(b.crowd) == 0 {
		return nil
	}
	return b.crowd[0].stranger(b.chance)
}

// elders are some of all connections, chosen at random, as ranging over a map does.
func (b *books) elders() iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		n := 0
		for c := range b.open {
			if n++; n > eldersSeen || !yield(c) {
				return
			}
		}
	}
}

// elders are some of the address's proven connections, others at each call.
func (p *peer) elders() iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for range min(eldersSeen, p.proven.Len()) {
			e := p.proven.Front()
			p.proven.MoveToBack(e)
			if !yield(e.Value.(*conn)) { //nolint:forcetypeassert // the list holds no others
				return
			}
		}
	}
}

// crowd is a heap of peers by the strangers that they have; of two that have as many the one whose
// oldest is older comes first.
type crowd []*peer

// Len implements heap.Interface.
func (c crowd) Len() int { return len(c) }

// Less implements heap.Interface.
func (c crowd) Less(i, j int) bool {
	n, m := c[i].strangers.Len(), c[j].strangers.Len()
	if n != m || n == 0 {
		return n > m
	}
	return first(c[i]).number < first(c[j]).number
}

// Swap implements heap.Interface.
func (c crowd) Swap(i, j int) {
	c[i], c[j] = c[j], c[i]
	c[i].at, c[j].at = i, j
}

// Push implements heap.Interface.
func (c *crowd) Push(x any) {
	p := x.(*peer) //nolint:forcetypeassert // heap.Push is given no others
	p.at = len(*c)
	*c = append(*c, p)
}

// Pop implements heap.Interface.
func (c *crowd) Pop() any {
	old := *c
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*c = old[:len(old)-1]
	return last
}
