package xds

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/host"
)

// session is the life of one stream. Its fields are its one goroutine's.
type session struct {
	s     *source
	w     wire
	heard bool   // a message came
	spoke func() // told of the first message
	asked map[*topic]*question
}

// question is what a stream has asked about one topic.
type question struct {
	names   []string        // as asked last
	awaited map[string]bool // of these, the ones without an answer
	until   int64           // when they have timed out
	nack    *nack           // one that waits for its time
}

type nack struct {
	nonce, reason string
	at            int64
}

func newSession(s *source, w wire) *session {
	return &session{s: s, w: w, asked: map[*topic]*question{}, spoke: func() {}}
}

// run obeys the stream until it ends. cancel ends it.
func (n *session) run(ctx context.Context, cancel context.CancelCauseFunc) (err error) {
	messages := make(chan *response)
	var broken error // the receiver's, until messages is closed
	var receiver sync.WaitGroup
	receiver.Go(func() {
		defer close(messages)
		broken = n.receive(ctx, messages)
	})
	defer func() { cancel(err); receiver.Wait() }()
	late := time.AfterFunc(n.s.c.cfg.XDS.ResourceTimeout, func() { cancel(errStuck) })
	defer late.Stop()
	if err := n.guarded(late, n.subscribe); err != nil {
		return n.why(messages, &broken, err)
	}
	timer := time.NewTimer(n.nextTimer())
	defer timer.Stop()
	for {
		timer.Reset(n.nextTimer())
		select {
		case r, open := <-messages:
			if !open {
				return broken
			}
			if err := n.guarded(late, func() error { return n.handle(r) }); err != nil {
				return n.why(messages, &broken, err)
			}
		case <-timer.C:
			if err := n.guarded(late, n.tick); err != nil {
				return n.why(messages, &broken, err)
			}
		}
	}
}

// why is the reason for which a send failed: only recv tells it.
func (n *session) why(messages chan *response, broken *error, err error) error {
	for open := true; open; { // what still came is nobody's any more
		_, open = <-messages
	}
	if *broken != nil {
		return *broken
	}
	return err
}

// guarded puts in force and sends, and has late end the stream where that takes too long: a control
// plane that does not read would hold us for ever.
func (n *session) guarded(late *time.Timer, do func() error) error {
	late.Reset(n.s.c.cfg.XDS.ResourceTimeout)
	defer late.Stop()
	return do()
}

// receive hands over one message at a time, no faster than the budget has it: what the control
// plane sends beyond that waits on its side.
func (n *session) receive(ctx context.Context, messages chan<- *response) error {
	b := budget{rate: n.s.c.timing.rate, burst: n.s.c.timing.burst, now: n.s.c.opts.Now}
	for {
		r, err := n.w.recv()
		if err != nil {
			return err
		}
		select {
		case messages <- r:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		host.Sleep(ctx, b.spend(int64(r.size)))
		if ctx.Err() != nil { // recv would still hand out what had come by then
			return context.Cause(ctx)
		}
	}
}

// subscribe asks for what each topic wants now and the stream has not asked for yet.
func (n *session) subscribe() error {
	c := n.s.c
	provoke := len(n.asked) == 0
	for _, t := range n.s.topics {
		q := n.asked[t]
		c.mu.Lock()
		names := t.asks()
		if q != nil && slices.Equal(q.names, names) {
			c.mu.Unlock()
			continue
		}
		claim, awaits := t.claim(provoke && len(t.held) > 0), t.awaits()
		provoke = provoke && len(t.held) == 0
		c.mu.Unlock()
		if q == nil && len(names) == 0 && !t.wild {
			continue // to ask for nothing first would be to ask for everything
		}
		if err := n.w.ask(t.url, claim); err != nil {
			return err
		}
		if q == nil {
			q = &question{}
			n.asked[t] = q
		}
		before := q.names
		q.names = names
		n.await(q, without(awaits, before), awaits)
	}
	return nil
}

// await starts the time for names that were asked for anew.
func (n *session) await(q *question, fresh, all []string) {
	waiting := map[string]bool{}
	for _, name := range all {
		if q.awaited[name] || slices.Contains(fresh, name) {
			waiting[name] = true
		}
	}
	if len(fresh) > 0 {
		q.until = n.s.c.opts.Now() + int64(n.s.c.cfg.XDS.ResourceTimeout)
	}
	q.awaited = waiting
}

// handle answers one response.
func (n *session) handle(r *response) error {
	if !n.heard {
		n.heard = true
		n.spoke()
	}
	c := n.s.c
	i := slices.IndexFunc(n.s.topics, func(t *topic) bool { return t.url == r.url })
	if i < 0 || n.asked[n.s.topics[i]] == nil {
		// To answer would be to subscribe to it.
		c.count(typeOther, unexpected, 1)
		c.log.warn("xds_unexpected", logrus.Fields{"source": n.s.name, "type": host.Plain(r.url)})
		return nil
	}
	t := n.s.topics[i]
	q := n.asked[t]
	q.answered(r)
	reason, wait := c.take(t, r)
	q.nack = nil // a later response takes its place
	if wait > 0 {
		q.nack = &nack{r.nonce, reason, c.opts.Now() + int64(wait)}
		return nil
	}
	if reason == "" { // what was accepted may name other resources, which are asked for before it is
		// acknowledged: so the control plane can tell that not everything has been answered yet
		if err := n.subscribe(); err != nil {
			return err
		}
	}
	return n.answer(t, r.nonce, reason)
}

// answered takes what a response is about from the names that are awaited.
func (q *question) answered(r *response) {
	delete(q.awaited, everything)
	for i := range r.bodies {
		delete(q.awaited, r.bodies[i].name)
	}
	for _, name := range r.removed {
		delete(q.awaited, name)
	}
}

func (n *session) answer(t *topic, nonce, reason string) error {
	n.s.c.mu.Lock()
	claim := claim{names: n.asked[t].names, wild: t.wild, version: t.version}
	n.s.c.mu.Unlock()
	return n.w.answer(t.url, nonce, claim, reason)
}

// nextTimer is how long until tick has something to do.
func (n *session) nextTimer() time.Duration {
	now := n.s.c.opts.Now()
	next := now + int64(time.Minute)
	for _, q := range n.asked {
		if q.nack != nil {
			next = min(next, q.nack.at)
		}
		if len(q.awaited) > 0 {
			next = min(next, q.until)
		}
	}
	return time.Duration(max(0, next-now))
}

// tick sends the NACKs whose time has come, and gives up waiting for resources.
func (n *session) tick() error {
	c := n.s.c
	now := c.opts.Now()
	for t, q := range n.asked {
		if len(q.awaited) > 0 && now >= q.until {
			c.expire(t, q.awaited)
			q.awaited = nil
		}
		if q.nack == nil || now < q.nack.at {
			continue
		}
		late := q.nack
		q.nack = nil
		if err := n.answer(t, late.nonce, late.reason); err != nil {
			return err
		}
	}
	return nil
}

// expire notes the resources that did not come in time. What is in force stays.
func (c *Client) expire(t *topic, names map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range names {
		if h := t.held[name]; (h != nil && !h.disk) || t.refused.times > 0 {
			continue // it came
		}
		t.missing[name] = true
		c.count(t.name, timedOut, 1)
		c.log.warn("xds_timed_out", logrus.Fields{"type": t.name, "resource": name})
	}
}
