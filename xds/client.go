package xds

import (
	"cmp"
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
	sources []*source
	topics  []*topic // of all sources, those whose removal others depend on last
	log     *floodLog
	store   *store // nil: nothing is kept

	counts [numTypes][numOutcomes]atomic.Uint64

	fetchBy int64       // when the start has waited long enough
	fetched atomic.Bool // every type has been answered

	mu        sync.Mutex
	endpoints []string // the ledger's, as the target has them; nil: the static one
	secrets   applied
}

// timing are the periods and rates that do not come from the configuration.
type timing struct {
	reconnect         host.Backoff  // before a new stream, full jitter
	nack              host.Backoff  // before the NACK of what was refused already
	preferred         time.Duration // between attempts at the first address
	ping, pingTimeout time.Duration // of silence before a ping, and for its answer
	write             time.Duration // between two writes of the last good file
	rate, burst       int64         // bytes of responses a second, and at once
	jitter            func(n int64) int64
}

func realTiming() timing {
	return timing{
		reconnect: host.Backoff{First: 500 * time.Millisecond, Most: 30 * time.Second},
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
	c := &Client{cfg: cfg, to: to, opts: opts, timing: timing}
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

// build makes the topics and the sources that they come from.
func (c *Client) build() {
	x := &c.cfg.XDS
	add := func(k kind, names func() []string, put func(map[string]*held) error) *topic {
		t := &topic{kind: k, names: names, put: put, held: map[string]*held{}, missing: map[string]bool{}, gone: map[string]bool{}}
		c.topics = append(c.topics, t)
		return t
	}
	fixed := func(names ...string) func() []string { return func() []string { return names } }
	wants := func(name string) bool { return len(x.Addrs) > 0 && slices.Contains(x.Types, name) }

	now := c.opts.Now()
	plane := &source{c: c, name: "control plane", vouched: now, strict: map[string]bool{}, addrs: x.Addrs, tls: c.opts.TLS, open: openADS(x.Protocol)}
	if wants(config.XDSLimits) {
		plane.topics = append(plane.topics, add(limitsKind(), fixed(x.LimitsName), c.putLimits))
	}
	if wants(config.XDSRuntime) && len(x.RuntimeNames) > 0 {
		plane.topics = append(plane.topics, add(runtimeKind(), fixed(x.RuntimeNames...), c.putRuntime))
	}
	var clusters, endpoints *topic
	if wants(config.XDSCluster) {
		clusters = add(clusterKind(), fixed(ledgerCluster, authCluster, policyCluster),
			func(next map[string]*held) error { return c.putClusters(next, endpoints) })
		plane.topics = append(plane.topics, clusters)
	}
	if clusters != nil && wants(config.XDSEndpoint) {
		endpoints = add(endpointKind(), func() []string { return servicesOf(clusters.held) },
			func(next map[string]*held) error { return c.putEndpoints(next, clusters, endpoints) })
		plane.topics = append(plane.topics, endpoints)
	}
	agent := &source{c: c, name: "agent", vouched: now, strict: map[string]bool{}, addrs: []string{x.SDSAddr}, open: openSDS}
	if names := c.secretNames(); len(names) > 0 {
		from := plane
		if x.SDSAddr != "" {
			from = agent
		}
		from.topics = append(from.topics, add(secretKind(), fixed(names...), c.putSecrets))
	}
	for _, s := range []*source{plane, agent} {
		if len(s.topics) > 0 {
			c.sources = append(c.sources, s)
		}
	}
}

// Run obeys the control planes until ctx ends, and then returns nil. It is called once.
func (c *Client) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, s := range c.sources {
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
	if !slices.ContainsFunc(c.topics, func(t *topic) bool { return !t.answered && (t.wild || len(t.names()) > 0) }) {
		c.fetched.Store(true)
	}
}

// Connected reports whether each source has a stream that has brought a message.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected()
}

func (c *Client) connected() bool {
	return !slices.ContainsFunc(c.sources, func(s *source) bool { return !s.connected })
}

// VersionAge is how long nobody has vouched for what is in force; 0 while connected, but not once
// the answer to a ping is due.
func (c *Client) VersionAge() (age time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sources {
		age = max(age, s.age(c.opts.Now()))
	}
	return age
}

// Outcomes of updates.
const (
	accepted   = iota // a response that was put in force
	refusedOut        // a response that was refused, each time that it came
	removed           // a resource that was taken away
	rolledBack        // an accepted response with a version that was in force before
	timedOut          // a resource that was asked for and did not come in time
	unexpected        // a resource, or a response, that nobody asked for
	numOutcomes
)

const (
	typeLastGood = "last_good" // refused: a file that was passed over
	typeOther    = "other"     // unexpected: a response of a type that was not asked for
	numTypes     = 7
)

// Types are the types that Updates counts by.
func (c *Client) Types() []string { return allTypes() }

func allTypes() []string {
	return []string{config.XDSLimits, config.XDSRuntime, config.XDSCluster, config.XDSEndpoint, typeSecret, typeLastGood, typeOther}
}

// Outcomes are the outcomes that Updates counts by.
func (c *Client) Outcomes() []string { return allOutcomes() }

func allOutcomes() []string {
	return []string{"accepted", "refused", "removed", "rolled_back", "timed_out", "unexpected"}
}

// Updates counts what came: responses that were accepted, refused or rolled_back (which are
// accepted ones too), and resources that were removed, timed_out or unexpected. It is 0 for a type
// or outcome that there is not.
func (c *Client) Updates(typ, outcome string) uint64 {
	t, o := slices.Index(allTypes(), typ), slices.Index(allOutcomes(), outcome)
	if t < 0 || o < 0 {
		return 0
	}
	return c.counts[t][o].Load()
}

func (c *Client) count(typ string, outcome int, n int) {
	c.counts[slices.Index(allTypes(), typ)][outcome].Add(uint64(max(0, n)))
}

// take judges a response and puts it in force. The reason is "" where it was accepted, and else
// the NACK's, which is to wait so long.
func (c *Client) take(t *topic, r *response) (reason string, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.opts.Now()
	if f := &t.refused; f.known(r, r.digest, now, c.to.Stack.Config()) {
		f.times++
		f.shown = now
		c.count(t.name, refusedOut, 1)
		return f.reason, c.timing.nack.Pause(f.times - 2)
	}
	under := c.to.Stack.Config()
	ch, err := t.read(r, now)
	if err == nil {
		err = c.try(t, ch.next)
	}
	if err != nil {
		f := refused{sum: r.digest(), times: 1, version: r.version, reason: host.Cut(err.Error(), maxReason), at: now, shown: now, under: under}
		if f.sum == t.refused.sum {
			f.times += t.refused.times
		}
		t.refused = f
		c.count(t.name, refusedOut, 1)
		c.log.warn("xds_refused", logrus.Fields{"type": t.name, "version": host.Cut(r.version, 80), "reason": f.reason})
		return f.reason, c.timing.nack.Pause(f.times - 2)
	}
	c.accept(t, r, ch)
	return "", 0
}

// try puts a set in force.
func (c *Client) try(t *topic, next map[string]*held) error {
	err := t.put(next)
	if err == nil {
		return nil
	}
	var own config.Faults
	if errors.As(err, &own) && len(next) > 0 { // the stack names the key, and not yet the resource
		return fault(t.culprit(next), err)
	}
	return err
}

// culprit names the resource, or the resources, of which the stack takes one push.
func (t *topic) culprit(next map[string]*held) string {
	name := ""
	for _, n := range t.names() {
		if next[n] != nil && (name == "" || !t.wild) {
			name = n // of several layers the last one is on top
		}
	}
	return cmp.Or(name, t.name)
}

func (c *Client) accept(t *topic, r *response, ch change) {
	c.count(t.name, accepted, 1)
	c.count(t.name, removed, len(ch.removed))
	c.count(t.name, unexpected, ch.unexpected)
	if ch.rolledBack {
		c.count(t.name, rolledBack, 1)
	}
	fields := logrus.Fields{"type": t.name, "version": host.Cut(r.version, 80)}
	if len(ch.removed) > 0 {
		fields["removed"] = ch.removed
	}
	if ch.rolledBack {
		fields["rolled_back"] = true
	}
	c.log.info("xds_accepted", fields)
	t.adopt(r, ch)
	c.noteFetched()
	if c.store != nil && !t.secret {
		c.store.touch()
	}
}
