package xds

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/host"
)

// stream is the life of one stream. Its fields are its one goroutine's.
type stream struct {
	s             *server
	p             protocol
	responded     bool   // a response came
	onFirst       func() // told of the first one
	subscriptions map[anyType]*subscription
}

// subscription is what a stream has asked about one type.
type subscription struct {
	names   []string        // as asked last
	awaited map[string]bool // of these, the ones without an answer
	until   int64           // when they have timed out
	again   bool            // they were asked for again, and what is held of them is doubted
	nack    *nack           // one that waits for its time
}

type nack struct {
	nonce, reason string
	at            int64
}

func newStream(s *server, p protocol) *stream {
	return &stream{s: s, p: p, subscriptions: map[anyType]*subscription{}, onFirst: func() {}}
}

// run obeys the stream until it ends. cancel ends it.
func (st *stream) run(ctx context.Context, cancel context.CancelCauseFunc) (err error) {
	responses := make(chan *response)
	var broken error // the receiver's, until responses is closed
	var receiver sync.WaitGroup
	receiver.Go(func() {
		defer close(responses)
		broken = st.receive(ctx, responses)
	})
	defer func() { cancel(err); receiver.Wait() }()
	// A control plane that does not read would hold us for ever where we send.
	timeout := st.s.c.cfg.XDS.ResourceTimeout
	late := time.AfterFunc(timeout, func() { cancel(errStuck) })
	defer late.Stop()
	err = st.subscribe()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for err == nil {
		late.Stop()
		timer.Reset(st.untilTick())
		select {
		case r, open := <-responses:
			if !open {
				return broken
			}
			late.Reset(timeout)
			err = st.handle(r)
		case <-timer.C:
			late.Reset(timeout)
			err = st.tick()
		}
	}
	for range responses { // what still came is nobody's any more
	}
	if broken != nil { // why a send failed only the receiver is told
		return broken
	}
	return err
}

// receive hands over one response at a time, no faster than the budget has it: what the control
// plane sends beyond that waits on its side.
func (st *stream) receive(ctx context.Context, responses chan<- *response) error {
	b := budget{rate: st.s.c.timing.rate, burst: st.s.c.timing.burst, now: st.s.c.opts.Now}
	for {
		r, err := st.p.recv()
		if err != nil {
			return err
		}
		select {
		case responses <- r:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		host.Sleep(ctx, b.spend(int64(r.size)))
		if ctx.Err() != nil { // recv would still hand out what had come by then
			return context.Cause(ctx)
		}
	}
}

// subscribe asks for what each type wants now and the stream has not asked for yet.
func (st *stream) subscribe() error {
	c := st.s.c
	provoke := len(st.subscriptions) == 0
	for _, t := range st.s.types {
		ts, sub := t.state(), st.subscriptions[t]
		c.mu.Lock()
		names := ts.subscribes()
		if (sub != nil && slices.Equal(sub.names, names)) || (sub == nil && len(names) == 0 && !ts.wildcard) {
			c.mu.Unlock() // to ask for nothing first would be to ask for everything
			continue
		}
		req, awaits := ts.request(provoke && len(ts.held) > 0), ts.awaits()
		provoke = provoke && len(ts.held) == 0
		c.mu.Unlock()
		if err := st.p.subscribe(ts.url, req); err != nil {
			return err
		}
		if sub == nil {
			sub = &subscription{}
			st.subscriptions[t] = sub
		}
		fresh := without(awaits, sub.names)
		sub.names = names
		st.await(sub, fresh, awaits)
	}
	return nil
}

// await starts the time for names that were asked for anew, and forgets those that are not in all.
func (st *stream) await(sub *subscription, fresh, all []string) {
	waiting := map[string]bool{}
	for _, name := range all {
		if sub.awaited[name] || slices.Contains(fresh, name) {
			waiting[name] = true
		}
	}
	if len(fresh) > 0 {
		sub.until = st.s.c.opts.Now() + int64(st.s.c.cfg.XDS.ResourceTimeout)
	}
	sub.awaited, sub.again = waiting, false
}

// handle answers one response.
func (st *stream) handle(r *response) error {
	if !st.responded {
		st.responded = true
		st.onFirst()
	}
	c := st.s.c
	i := slices.IndexFunc(st.s.types, func(t anyType) bool { return t.state().url == r.url })
	if i < 0 || st.subscriptions[st.s.types[i]] == nil {
		// To answer would be to subscribe to it.
		c.count(typeOther, unexpected, 1)
		c.log.warn("xds_unexpected", logrus.Fields{"source": st.s.name, "type": host.Plain(r.url)})
		return nil
	}
	t := st.s.types[i]
	sub := st.subscriptions[t]
	sub.answered(r)
	reason, wait, stale := c.take(t, r)
	sub.nack = nil // a later response takes its place
	if wait > 0 {
		sub.nack = &nack{r.nonce, reason, c.opts.Now() + int64(wait)}
		return nil
	}
	if reason == "" { // what was accepted may name other resources, which are asked for before it is
		// acknowledged: so the control plane can tell that not everything has been answered yet
		if err := st.subscribe(); err != nil {
			return err
		}
	}
	if err := st.answer(t, r.nonce, reason); err != nil {
		return err
	}
	return st.askAgain(t, r, stale)
}

// answered takes what a response is about from the names that are awaited.
func (sub *subscription) answered(r *response) {
	delete(sub.awaited, wildcard)
	for i := range r.bodies {
		delete(sub.awaited, r.bodies[i].name)
	}
	for _, name := range r.removed {
		delete(sub.awaited, name)
	}
}

func (st *stream) answer(t anyType, nonce, reason string) error {
	st.s.c.mu.Lock()
	req := request{names: st.subscriptions[t].names, wildcard: t.state().wildcard, version: t.state().version}
	st.s.c.mu.Unlock()
	return st.p.answer(t.state().url, nonce, req, reason)
}

// askAgain subscribes anew to what a delta leaves in doubt: what lives on and is not here (stale), and
// what is here where the response has nothing in it at all. So Istiod says that a resource of limits is
// gone, of which it sends no removal. What is not told of then stays in force, and /config says that it
// is unconfirmed (docs/decisions/034). Until then nothing more is asked for again, so two that misunderstand
// do not spin.
func (st *stream) askAgain(t anyType, r *response, stale []string) error {
	c, ts, sub := st.s.c, t.state(), st.subscriptions[t]
	c.mu.Lock()
	names := slices.Clone(stale)
	for _, name := range sub.names {
		if !r.full && len(r.bodies)+len(r.removed) == 0 && ts.held[name] != nil {
			names = append(names, name)
		}
	}
	c.mu.Unlock()
	if len(names) == 0 || ts.wildcard || len(sub.awaited) > 0 {
		return nil
	}
	if err := st.p.subscribeAgain(ts.url, names); err != nil {
		return err
	}
	st.await(sub, names, names)
	sub.again = true
	return nil
}

// untilTick is how long until tick has something to do.
func (st *stream) untilTick() time.Duration {
	now := st.s.c.opts.Now()
	next := now + int64(time.Minute)
	for _, sub := range st.subscriptions {
		if sub.nack != nil {
			next = min(next, sub.nack.at)
		}
		if len(sub.awaited) > 0 {
			next = min(next, sub.until)
		}
	}
	return time.Duration(max(0, next-now))
}

// tick sends the NACKs whose time has come, gives up waiting for resources, and asks for what the end
// of another one has made wanted.
func (st *stream) tick() error {
	c := st.s.c
	now := c.opts.Now()
	for t, sub := range st.subscriptions {
		if len(sub.awaited) > 0 && now >= sub.until {
			c.giveUp(t.state(), sub)
			sub.awaited = nil
		}
		if sub.nack == nil || now < sub.nack.at {
			continue
		}
		late := sub.nack
		sub.nack = nil
		if err := st.answer(t, late.nonce, late.reason); err != nil {
			return err
		}
	}
	return st.subscribe()
}

// giveUp notes the resources that did not come in time. What is in force stays.
func (c *Client) giveUp(ts *typeState, sub *subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range sub.awaited {
		if h := ts.held[name]; (h != nil && !h.disk && !sub.again) || ts.refused.times > 0 {
			continue // it came
		}
		ts.missing[name] = true
		c.count(ts.name, timedOut, 1)
		c.log.warn("xds_timed_out", logrus.Fields{"type": ts.name, "resource": name})
	}
}
