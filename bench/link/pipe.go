package link

import (
	"container/heap"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// mtu is the longest packet.
const mtu = 1500

// pipe is one direction: read takes packets in, write puts each out when it is due.
type pipe struct {
	settings *atomic.Pointer[Settings]
	in       io.Reader
	out      io.Writer

	passed, lost, overflowed atomic.Uint64

	wake chan struct{} // room for one: the first packet has changed
	over chan struct{} // closed by end
	once sync.Once

	mu    sync.Mutex
	queue packets
	fate  fate
}

func newPipe(s *atomic.Pointer[Settings], in io.Reader, out io.Writer) *pipe {
	return &pipe{
		settings: s, in: in, out: out, wake: make(chan struct{}, 1), over: make(chan struct{}),
		fate: fate{chance: rand.Float64},
	}
}

func (p *pipe) end() { p.once.Do(func() { close(p.over) }) }

// read ends when the device is closed.
func (p *pipe) read() {
	defer p.end()
	var memory [mtu]byte
	for {
		n, err := p.in.Read(memory[:])
		if err != nil {
			return
		}
		p.take(append([]byte(nil), memory[:n]...), time.Now())
	}
}

// take decides what becomes of a packet. One over the limit is dropped, like one at the end of a router's queue.
func (p *pipe) take(data []byte, now time.Time) {
	s := p.settings.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fate.loses(s) {
		p.lost.Add(1)
		return
	}
	if len(p.queue) >= s.limit() {
		p.overflowed.Add(1)
		return
	}
	due := p.fate.due(s, len(data), now)
	heap.Push(&p.queue, packet{due, p.passed.Add(1), data})
	select {
	case p.wake <- struct{}{}:
	default: // write has not looked yet
	}
}

// write puts packets out as they are due, until the pipe ends.
func (p *pipe) write() {
	clock := time.NewTimer(time.Hour)
	defer clock.Stop()
	for {
		data, wait := p.next(time.Now())
		if data != nil {
			_, _ = p.out.Write(data) // a device that is down takes nothing: the packet is lost, as elsewhere
			continue
		}
		clock.Reset(wait)
		select {
		case <-p.over:
			return
		case <-p.wake:
		case <-clock.C:
		}
	}
}

// next is the packet that is due, or else how long there is none.
func (p *pipe) next(now time.Time) (data []byte, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil, time.Hour
	}
	if wait := p.queue[0].due.Sub(now); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&p.queue).(packet).data, 0 //nolint:forcetypeassert // the heap holds no others
}

// fate is what chance and the line have in store for packets, as netem has it.
type fate struct {
	chance func() float64 // in [0, 1)
	last   float64        // drawn for jitter
	free   time.Time      // when the line has sent what it was given
}

func (f *fate) loses(s *Settings) bool { return s.Loss > 0 && f.chance() < s.Loss }

// due is when a packet comes out: it waits for the line, is sent at its rate, and then takes its delay.
func (f *fate) due(s *Settings, length int, now time.Time) time.Time {
	sent := now
	if s.Rate > 0 {
		if f.free.After(now) {
			sent = f.free
		}
		sent = sent.Add(time.Duration(float64(length) * 8 / float64(s.Rate) * float64(time.Second)))
		f.free = sent
	}
	delay := s.Delay
	if s.Jitter > 0 {
		f.last = f.chance()*(1-s.Correlation) + f.last*s.Correlation
		delay += time.Duration((2*f.last - 1) * float64(s.Jitter))
	}
	return sent.Add(max(0, delay))
}

type packet struct {
	due  time.Time
	at   uint64 // in the order of arrival
	data []byte
}

// packets is a heap, the next one that is due first.
type packets []packet

// Len implements heap.Interface.
func (q packets) Len() int { return len(q) }

// Less implements heap.Interface.
func (q packets) Less(i, j int) bool {
	if q[i].due.Equal(q[j].due) {
		return q[i].at < q[j].at
	}
	return q[i].due.Before(q[j].due)
}

// Swap implements heap.Interface.
func (q packets) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *packets) Push(x any) { *q = append(*q, x.(packet)) } //nolint:forcetypeassert // take pushes no others

// Pop implements heap.Interface.
func (q *packets) Pop() any {
	last := len(*q) - 1
	p := (*q)[last]
	(*q)[last] = packet{}
	*q = (*q)[:last]
	return p
}
