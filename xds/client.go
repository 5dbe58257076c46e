package xds

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sirupsen/logrus"

	"svc-wallet/config"
	"svc-wallet/host"
)

// Targets is where what was accepted goes. Each method is all or nothing: an error leaves
// everything as it was, and is the reason of the NACK. They are called one at a time. A nil
// function takes what comes and does nothing.
type Targets struct {
	Stack *config.Stack
	// Endpoints takes the ledger's addresses, unix:PATH or HOST:PORT, the preferred one first.
	// nil: the static one again.
	Endpoints func(addrs []string) error
	// Certificate takes the wallet listener's. Both nil: that of the static files again.
	Certificate func(certPEM, keyPEM []byte) error
	// ClientCA takes what client certificates are verified against. nil: the static file again.
	ClientCA func(pem []byte) error
	// RootKeys takes the text of a root key file. nil: the static file again.
	RootKeys func(text []byte) error
}

// Options are what a Client has besides its configuration and targets.
type Options struct {
	TLS      func() *tls.Config // for each connection to a control plane, a new one; nil: plain
	Now      func() int64       // Unix nanoseconds, never backwards
	Today    func() int64       // the time of day, by which certificates are judged; Now by default
	Log      logrus.FieldLogger // a line for each change that was accepted or refused
	Version  string             // of the program, which control planes show
	Hostname string             // node id where xds.node_id is not set
}

// Client obeys the control planes of one configuration.
type Client struct {
	cfg     *config.Config
	to      Targets
	opts    Options
	timing  timing
	node    *core.Node
	servers []*server
	types   []anyType // of all servers, those whose removal others depend on last
	log     *floodLog
	store   *store // nil: nothing is kept

	clusters  *typed[*backend]   // nil: they are not asked for
	endpoints *typed[assignment] // likewise

	counts map[counter]*atomic.Uint64 // never written after New
	wake   chan struct{}              // capacity 1: what expires next may have changed

	fetchBy int64       // when the start has waited long enough
	fetched atomic.Bool // every type has been answered

	mu      sync.Mutex
	addrs   []string // the ledger's, as the target has them; nil: the static one
	secrets applied
}

// timing are the periods and rates that do not come from the configuration.
type timing struct {
	reconnect         host.Backoff  // before a new stream, full jitter
	nack              host.Backoff  // before a repeated NACK
	preferred         time.Duration // between attempts at the first address
	ping, pingTimeout time.Duration // of silence before a ping, and for its answer
	write             time.Duration // between two writes of the last good file
	rate, burst       int64         // bytes of responses a second, and at once
	jitter            func(n int64) int64
}

func realTiming() timing {
	return timing{
		reconnect: host.Backoff{First: 500 * time.Millisecond, Most: 30 * time.Second},
		// What corrects a refused version waits behind the NACK, in the state of the world.
		nack:      host.Backoff{First: time.Second, Most: 2 * time.Second},
		preferred: time.Minute,
		// Over the 30 s that go-control-plane's example server allows, and the 15 s of Istiod.
		ping: 35 * time.Second, pingTimeout: 10 * time.Second,
		write: 100 * time.Millisecond,
		rate:  4 << 20, burst: 16 << 20,
		jitter: rand.Int64N,
	}
}

// New makes the client of cfg.XDS and puts the last good file in force. Its error is an unreadable
// file of metadata.
func New(cfg *config.Config, to Targets, opts Options) (*Client, error) {
	return newClient(cfg, to, opts, realTiming())
}

func newClient(cfg *config.Config, to Targets, opts Options, timing timing) (*Client, error) {
	if opts.Today == nil {
		opts.Today = opts.Now
	}
	c := &Client{cfg: cfg, to: to, opts: opts, timing: timing, counts: newCounts(), wake: make(chan struct{}, 1)}
	c.log = &floodLog{log: opts.Log, now: opts.Now}
	var err error
	if c.node, err = nodeOf(cfg, opts); err != nil {
		return nil, err
	}
	if cfg.XDS.TLSCAFile != "" && opts.TLS == nil {
		return nil, errors.New("xds.tls_ca_file is set, and there are no certificates of it")
	}
	c.build()
	if cfg.XDS.LastGoodFile != "" && !cfg.Amnesia {
		c.store = newStore(cfg.XDS.LastGoodFile, timing.write)
		c.restore()
	}
	c.fetchBy = opts.Now() + int64(cfg.XDS.InitialFetchTimeout)
	c.noteFetched()
	return c, nil
}

// build makes the types of resource and the servers that they come from.
func (c *Client) build() {
	x := &c.cfg.XDS
	fixed := func(names ...string) func() []string { return func() []string { return names } }
	wants := func(name string) bool { return len(x.Addrs) > 0 && slices.Contains(x.Types, name) }
	plane := newServer(c, "control plane", x.Addrs, openADS(x.Protocol))
	plane.tls = c.opts.TLS
	if wants(config.XDSLimits) {
		plane.types = append(plane.types, newTyped(limitsType(), fixed(x.LimitsName), c.putLimits))
	}
	if wants(config.XDSRuntime) && len(x.RuntimeNames) > 0 {
		plane.types = append(plane.types, newTyped(runtimeType(), fixed(x.RuntimeNames...), c.putRuntime))
	}
	if wants(config.XDSCluster) {
		c.clusters = newTyped(clusterType(), fixed(ledgerCluster, authCluster, policyCluster), c.putClusters)
		plane.types = append(plane.types, c.clusters)
	}
	if c.clusters != nil && wants(config.XDSEndpoint) {
		c.endpoints = newTyped(endpointType(), func() []string { return servicesOf(c.clusters.values) }, c.putEndpoints)
		plane.types = append(plane.types, c.endpoints)
	}
	agent := newServer(c, "agent", []string{x.SDSAddr}, openSDS)
	if names := c.secretNames(); len(names) > 0 {
		from := plane
		if x.SDSAddr != "" {
			from = agent
		}
		from.types = append(from.types, newTyped(secretType(), fixed(names...), c.putSecrets))
	}
	for _, s := range []*server{plane, agent} {
		if len(s.types) > 0 {
			c.servers = append(c.servers, s)
			c.types = append(c.types, s.types...)
		}
	}
}

// Run obeys the control planes until ctx ends, and then returns nil. It is called once.
func (c *Client) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { c.expire(ctx) })
	for _, s := range c.servers {
		all.Go(func() { s.run(ctx) })
	}
	if c.store != nil {
		all.Go(func() { c.store.run(ctx, c.snapshot, c.log) })
	}
	<-ctx.Done()
	all.Wait()
	if c.store != nil {
		c.store.flush(c.snapshot, c.log)
	}
	return nil
}

// Fetching reports whether the start still waits for the first answer of a type. Until it is in, or
// the last good file has it, a limit or a revocation may be missing.
func (c *Client) Fetching() bool { return !c.fetched.Load() && c.opts.Now() < c.fetchBy }

// Unfetched reports whether that wait has run out, and nobody has told of a type to this day.
func (c *Client) Unfetched() bool {
	return !c.fetched.Load() && c.cfg.XDS.InitialFetchTimeout > 0 && c.opts.Now() >= c.fetchBy
}

// noteFetched looks whether every type has been answered. Client.mu is held, or nothing runs yet.
func (c *Client) noteFetched() {
	if !slices.ContainsFunc(c.types, func(t anyType) bool { return t.state().unanswered() }) {
		c.fetched.Store(true)
	}
}

// Connected reports whether each server has a stream that has brought a message.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected()
}

func (c *Client) connected() bool {
	return !slices.ContainsFunc(c.servers, func(s *server) bool { return !s.connected })
}

// VersionAge is how long nobody has vouched for what is in force; 0 while connected, but not once
// the answer to a ping is due.
func (c *Client) VersionAge() (age time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.servers {
		age = max(age, s.age(c.opts.Now()))
	}
	return age
}

// take judges a response and puts it in force. The reason is "" where it was accepted, and else
// the NACK's, which is to wait so long. The names of stale live on, and are not in force.
func (c *Client) take(t anyType, r *response) (reason string, wait time.Duration, stale []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, now, under := t.state(), c.opts.Now(), c.to.Stack.Config()
	if f := &st.refused; f.known(r, now, under) {
		f.times++
		f.shown = now
		c.count(st.name, refusedOut, 1)
		return f.reason, c.timing.nack.Pause(f.times - 2), nil
	}
	ch, err := t.read(r, now)
	if err == nil {
		err = ch.apply()
	}
	if err != nil {
		f := refused{sum: r.digest(), times: 1, version: r.version, reason: host.Cut(err.Error(), maxReason), at: now, shown: now, under: under}
		if f.sum == st.refused.sum {
			f.times += st.refused.times
		}
		st.refused = f
		c.count(st.name, refusedOut, 1)
		c.log.warn("xds_refused", logrus.Fields{"type": st.name, "version": host.Cut(r.version, 80), "reason": f.reason})
		return f.reason, c.timing.nack.Pause(f.times - 2), nil
	}
	st.noteAnswer(r, ch)
	c.noteAccepted(st, r, ch)
	return "", 0, ch.stale
}

// noteAccepted tells of a response that is in force.
func (c *Client) noteAccepted(st *typeState, r *response, ch *change) {
	c.noteFetched()
	c.count(st.name, accepted, 1)
	c.count(st.name, removed, len(ch.removed))
	c.count(st.name, unexpected, ch.unexpected)
	fields := logrus.Fields{"type": st.name, "version": host.Cut(r.version, 80)}
	if len(ch.removed) > 0 {
		fields["removed"] = ch.removed
	}
	if ch.rolledBack {
		c.count(st.name, rolledBack, 1)
		fields["rolled_back"] = true
	}
	if !ch.heartbeat {
		c.log.info("xds_accepted", fields)
	}
	c.changed(st)
}

// changed has what is in force of a type written to the last good file, and its end looked at.
func (c *Client) changed(st *typeState) {
	select {
	case c.wake <- struct{}{}:
	default:
	}
	if c.store != nil && !st.secret {
		c.store.touch()
	}
}

// expire takes away what has outlived its time, also while no control plane is there, until ctx ends.
func (c *Client) expire(ctx context.Context) {
	for ctx.Err() == nil {
		timer := time.NewTimer(c.expireNow())
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// expireNow takes away what has outlived its time, and returns how long until the next one will have.
// What the targets refuse to give up is tried again in a minute.
func (c *Client) expireNow() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.opts.Now()
	next := now + int64(time.Minute)
	for _, t := range c.types {
		st := t.state()
		names, first := st.expired(now)
		if first > 0 {
			next = min(next, first)
		}
		if len(names) == 0 {
			continue
		}
		fields := logrus.Fields{"type": st.name, "resources": names}
		if err := t.without(names).apply(); err != nil {
			fields["reason"] = host.Cut(err.Error(), maxReason)
			c.log.warn("xds_not_expired", fields)
			continue
		}
		for _, name := range names {
			st.gone[name] = "expired"
		}
		c.count(st.name, expired, len(names))
		c.log.info("xds_expired", fields)
		c.changed(st)
	}
	return time.Duration(next - now)
}
