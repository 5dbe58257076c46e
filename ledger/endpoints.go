package ledger

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	maxEndpoints = 64
	maxRetired   = 8 // links whose last calls are awaited; no move is made while there are more

	// retireLimit is how long a retired link waits for its calls: the longest ledger.timeout. What
	// is cut off then is unknown, and repeated on the link in use.
	retireLimit = time.Minute
)

// EndpointStatus is what a client makes of an endpoint.
type EndpointStatus uint8

// The statuses.
const (
	endpointStandby     EndpointStatus = iota // not tried, because a preferred one is in use
	endpointWarming                           // is connected to and proves that it is of the same ledger
	endpointReady                             // has, and is watched for a while before it is used again
	endpointInUse                             // all new calls go there
	endpointRefused                           // answers, and is not of the same ledger or is behind
	endpointUnreachable                       // does not answer
	numEndpointStatuses
)

// String is the status as operators see it.
func (s EndpointStatus) String() string {
	return [numEndpointStatuses]string{
		endpointStandby: "standby", endpointWarming: "warming", endpointReady: "ready",
		endpointInUse: "in use", endpointRefused: "refused", endpointUnreachable: "unreachable",
	}[s]
}

// EndpointState is an endpoint and what the client makes of it.
type EndpointState struct {
	Addr   string
	Status EndpointStatus
	Reason string // why it is refused, unreachable or, in use, lost
}

// SetEndpoints names the addresses that the client may use, preferred first; nil is the one that
// Dial was given. Duplicates count once. It refuses as a whole, changing nothing, what Dial would
// refuse, and more than 64. It does not block: Run moves when it has warmed an endpoint, and what
// works is not given up for what does not.
func (c *Client) SetEndpoints(addrs []string) error {
	var wanted []string
	for _, a := range addrs {
		if _, err := parseAddr(a, c.opts.TLS != nil); err != nil {
			return err
		}
		if !slices.Contains(wanted, a) {
			if len(wanted) == maxEndpoints {
				return fmt.Errorf("more than %d ledger addresses, from %q on", maxEndpoints, a)
			}
			wanted = append(wanted, a)
		}
	}
	if len(wanted) == 0 {
		wanted = []string{c.dialled}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = wanted
	if c.giveUp != nil && !slices.Contains(wanted, c.warming) {
		c.giveUp(errNotWanted)
	}
	select {
	case c.wake <- struct{}{}:
	default: // Run has not come to the last change yet
	}
	return nil
}

// errNotWanted ends the warming of an endpoint that is not to be used any more.
var errNotWanted = errors.New("no longer wanted")

// Endpoint is the address in use.
func (c *Client) Endpoint() string { return c.link.Load().addr }

// Moves is how often the client has moved to another endpoint.
func (c *Client) Moves() uint64 { return c.moves.Load() }

// RefusedMoves is how often an endpoint that answers was refused for what it is.
func (c *Client) RefusedMoves() uint64 { return c.refused.Load() }

// EndpointStates are the endpoints, preferred first. One in use that is not among those set, for
// want of one that works, comes last.
func (c *Client) EndpointStates() []EndpointState { return slices.Clone(*c.states.Load()) }

// swap puts next in use and retires the link before it.
func (c *Client) swap(next *link, n *ledgerName) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("the client is closed")
	}
	if err := c.evidence.join(n); err != nil {
		return err
	}
	next.judged.Store(true)
	c.doubt.Store(nil)
	old := c.link.Swap(next)
	old.closeBy = c.opts.Now() + int64(retireLimit)
	old.retire()
	c.retired = append(c.retired, old)
	c.moves.Add(1)
	return nil
}

// reap closes the retired links whose calls have ended, and says whether there is room for more.
func (c *Client) reap() bool {
	var over []*link // closed without the lock, because gRPC may wait for a last frame to be written
	c.mu.Lock()
	now := c.opts.Now()
	c.retired = slices.DeleteFunc(c.retired, func(l *link) bool {
		done := now >= l.closeBy || l.calls.Load() == 0
		if done {
			over = append(over, l)
		}
		return done
	})
	room := len(c.retired) < maxRetired
	c.mu.Unlock()
	for _, l := range over {
		_ = l.conn.Close()
	}
	return room
}
