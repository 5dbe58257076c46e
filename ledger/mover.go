package ledger

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/connectivity"

	"svc-wallet/host"
)

// pace is how fast Run moves.
type pace struct {
	look      time.Duration // between looks at the links
	lostAfter time.Duration // without a connection: then another endpoint may be used
	goodFor   time.Duration // that a preferred endpoint which was lost must have been there again
	warm      time.Duration // for an endpoint to prove itself, the connection not counted
	again     host.Backoff  // after a failure of an endpoint
}

var usualPace = pace{ //nolint:gochecknoglobals // a table
	look: 50 * time.Millisecond, lostAfter: 500 * time.Millisecond, goodFor: 5 * time.Second,
	warm: time.Second, again: host.Backoff{First: 100 * time.Millisecond, Most: 2 * time.Second},
}

// Run moves the client between its endpoints until ctx ends: to the first one in order that works
// and is of the same ledger. Moving, it connects to the new endpoint and has it prove itself first;
// calls under way end on the connection that they began on, and a Reader's stream goes on where it
// was. A lost endpoint is left for the next that works, and returned to once it has been there again
// for a while. The link in use at the end stays, until Close.
//
// What an endpoint must prove is by what the client's watch streams have told, so a client that
// moves needs a Reader.
func (c *Client) Run(ctx context.Context) error {
	m := mover{client: c}
	defer m.rest()
	clock := time.NewTicker(c.pace.look)
	defer clock.Stop()
	for {
		m.step(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-clock.C:
		}
	}
}

// mover is Run's state, and its goroutine's own.
type mover struct {
	client    *Client
	endpoints []*endpoint // preferred first
	lostAt    int64       // when the link in use was first seen without a connection; 0: it has one
	lost      bool        // it has had none for too long, or what is there is not the ledger
}

// endpoint is an address that the client may use.
type endpoint struct {
	EndpointState
	link    *link          // while it is warming or ready
	failed  EndpointStatus // the last failure, told to the log
	suspect bool           // was lost, so it is preferred only after a while
	goodAt  int64          // since when it is ready
	tryAt   int64          // not earlier
	fails   int            // in a row
}

// step looks at the links and makes at most one move.
func (m *mover) step(ctx context.Context) {
	m.follow()
	room := m.client.reap()
	m.watch()
	wanted := slices.ContainsFunc(m.endpoints, m.used)
	for i, e := range m.endpoints {
		if m.used(e) {
			if !m.lost {
				m.stand(m.endpoints[i+1:])
				break
			}
			continue
		}
		if room && ctx.Err() == nil && m.try(ctx, e, m.lost || !wanted) {
			break
		}
	}
	m.publish()
}

// follow takes the endpoints that are wanted, keeping what is known of those that were before.
func (m *mover) follow() {
	m.client.mu.Lock()
	wanted := m.client.wanted
	m.client.mu.Unlock()
	next := make([]*endpoint, len(wanted))
	for i, addr := range wanted {
		at := slices.IndexFunc(m.endpoints, func(e *endpoint) bool { return e.Addr == addr })
		if at < 0 {
			next[i] = &endpoint{EndpointState: EndpointState{Addr: addr}}
			continue
		}
		next[i] = m.endpoints[at]
	}
	for _, e := range m.endpoints {
		if !slices.Contains(next, e) {
			e.drop()
		}
	}
	m.endpoints = next
}

func (m *mover) used(e *endpoint) bool { return e.Addr == m.client.Endpoint() }

// watch sees whether the link in use has a connection.
func (m *mover) watch() {
	l, now := m.client.link.Load(), m.client.opts.Now()
	switch l.conn.GetState() {
	case connectivity.Ready:
		m.lostAt, m.lost = 0, m.client.doubt.Load() != nil // what went back is no better than what is lost
		return
	case connectivity.Idle:
		l.conn.Connect() // as its calls would
	default: // gRPC is connecting, or waits to
	}
	m.lostAt = cmp.Or(m.lostAt, now)
	m.lost = now-m.lostAt >= int64(m.client.pace.lostAfter)
}

// try warms e where it is due and moves there; false if it did not. In need, where the link in use
// is lost or not wanted, no endpoint waits until it has been good for a while.
func (m *mover) try(ctx context.Context, e *endpoint, need bool) bool {
	now := m.client.opts.Now()
	if e.link != nil && e.link.conn.GetState() != connectivity.Ready {
		m.fail(e, endpointUnreachable, errors.New("the connection was lost"))
	}
	watched := e.suspect && !need
	if now < e.tryAt || (e.link != nil && watched && now-e.goodAt < int64(m.client.pace.goodFor)) {
		return false
	}
	fresh := e.link == nil
	name, err := m.warm(ctx, e)
	switch {
	case errors.Is(err, errNotWanted) || ctx.Err() != nil:
		e.drop()
		return false
	case errors.Is(err, errUnfit):
		m.fail(e, endpointRefused, err)
		return false
	case err != nil:
		m.fail(e, endpointUnreachable, err)
		return false
	}
	e.Status, e.Reason, e.fails = endpointReady, "", 0
	if fresh && watched {
		e.goodAt = now
		return false
	}
	return m.take(e, name)
}

// warm connects to e and has it prove itself.
func (m *mover) warm(ctx context.Context, e *endpoint) (*ledgerName, error) {
	c := m.client
	if e.link == nil {
		var err error
		if e.link, err = connect(e.Addr, &c.opts); err != nil {
			return nil, err
		}
	}
	ctx, stop := context.WithTimeout(ctx, c.opts.connectTimeout()+c.pace.warm)
	defer stop()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	c.mu.Lock()
	c.warming, c.giveUp = e.Addr, giveUp
	if !slices.Contains(c.wanted, e.Addr) {
		giveUp(errNotWanted)
	}
	c.mu.Unlock()
	e.Status = endpointWarming
	m.publish()
	name, err := c.evidence.prove(ctx, e.link)
	c.mu.Lock()
	c.giveUp = nil
	c.mu.Unlock()
	if errors.Is(context.Cause(ctx), errNotWanted) {
		err = errNotWanted
	}
	return name, err
}

// take moves to e.
func (m *mover) take(e *endpoint, name *ledgerName) bool {
	from, down := m.client.Endpoint(), m.lostAt != 0
	if err := m.client.swap(e.link, name); err != nil {
		m.fail(e, endpointRefused, err)
		return false
	}
	for _, old := range m.endpoints {
		if old.Addr != from {
			continue
		}
		old.Status = endpointStandby
		if down {
			m.fail(old, endpointUnreachable, errors.New("the connection was lost"))
		}
	}
	e.link, e.Status, e.suspect = nil, endpointInUse, false // the link is the client's now
	m.lostAt, m.lost = 0, false
	m.client.opts.Log.WithFields(logrus.Fields{"upstream": e.Addr, "before": from}).Info("ledger_moved")
	m.client.up()
	return true
}

// fail notes that e cannot be used, and for how long it is let alone.
func (m *mover) fail(e *endpoint, s EndpointStatus, why error) {
	e.drop()
	if e.fails == 0 || e.failed != s { // not on every try
		m.client.opts.Log.WithFields(logrus.Fields{"upstream": e.Addr, "reason": why.Error()}).Warn("ledger_endpoint_" + s.String())
	}
	if s == endpointRefused {
		m.client.refused.Add(1)
	} else {
		e.suspect = true
	}
	e.Status, e.failed, e.Reason = s, s, why.Error()
	e.tryAt = m.client.opts.Now() + int64(m.client.pace.again.Pause(e.fails))
	e.fails++
}

// stand lets endpoints rest that are less preferred than the one in use.
func (m *mover) stand(rest []*endpoint) {
	for _, e := range rest {
		if e.drop(); e.Status == endpointReady {
			e.Status = endpointStandby
		}
	}
}

// drop closes the link of an endpoint that is not used.
func (e *endpoint) drop() {
	if e.link != nil {
		_ = e.link.conn.Close()
		e.link = nil
	}
}

// rest closes what the client does not use.
func (m *mover) rest() {
	for _, e := range m.endpoints {
		e.drop()
	}
}

// publish shows the states to other goroutines.
func (m *mover) publish() {
	states := make([]EndpointState, 0, len(m.endpoints)+1)
	use := EndpointState{Addr: m.client.Endpoint(), Status: endpointInUse}
	if d := m.client.doubt.Load(); d != nil {
		use.Reason = d.Error()
	} else if m.lost {
		use.Reason = "the connection is down"
	}
	shown := false
	for _, e := range m.endpoints {
		if m.used(e) {
			states, shown = append(states, use), true
			continue
		}
		states = append(states, e.EndpointState)
	}
	if !shown {
		states = append(states, use)
	}
	m.client.states.Store(&states)
}
