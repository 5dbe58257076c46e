package xds

import (
	"sync/atomic"

	"svc-wallet/config"
)

// Outcomes of updates.
const (
	accepted   = "accepted"    // a response that was put in force
	refusedOut = "refused"     // a response that was refused, each time that it came
	removed    = "removed"     // a resource that was taken away
	expired    = "expired"     // a resource that outlived its ttl
	rolledBack = "rolled_back" // an accepted response with a version that was in force before
	timedOut   = "timed_out"   // a resource that was asked for and did not come in time
	unexpected = "unexpected"  // a resource, or a response, that nobody asked for
)

const (
	typeSecret   = "secret"
	typeLastGood = "last_good" // refused: a file that was passed over
	typeOther    = "other"     // unexpected: a response of a type that was not asked for
)

// counter is what is counted.
type counter struct{ typ, outcome string }

func newCounts() map[counter]*atomic.Uint64 {
	counts := map[counter]*atomic.Uint64{}
	for _, typ := range (*Client)(nil).Types() {
		for _, outcome := range (*Client)(nil).Outcomes() {
			counts[counter{typ, outcome}] = new(atomic.Uint64)
		}
	}
	return counts
}

// Types are the types that Updates counts by.
func (*Client) Types() []string {
	return []string{config.XDSLimits, config.XDSRuntime, config.XDSCluster, config.XDSEndpoint, typeSecret, typeLastGood, typeOther}
}

// Outcomes are the outcomes that Updates counts by.
func (*Client) Outcomes() []string {
	return []string{accepted, refusedOut, removed, expired, rolledBack, timedOut, unexpected}
}

// Updates counts what came: responses that were accepted, refused or rolled_back (which are
// accepted ones too), and resources that were removed, expired, timed_out or unexpected. It is 0 for a
// type or outcome that there is not.
func (c *Client) Updates(typ, outcome string) uint64 {
	if n := c.counts[counter{typ, outcome}]; n != nil {
		return n.Load()
	}
	return 0
}

func (c *Client) count(typ, outcome string, n int) {
	c.counts[counter{typ, outcome}].Add(uint64(max(0, n)))
}
