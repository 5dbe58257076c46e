// Package control is a control plane for teams that have no mesh: it tells sidecars over xDS what
// stands in a file or a folder, and takes changes over a small HTTP API.
//
// New reads the source, Listen binds, Run serves. A document gets to the sidecars only after all of
// it was checked, and what cannot be read as it should changes nothing: the last good document of
// that group stays in force.
//
// A change goes Plane.Reload → parseDocument → board.show → the streams that wait for it. fleet
// notes what each sidecar makes of it.
package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"svc-wallet/config"
	"svc-wallet/host"
)

// Options say what is served, and where. Source and Listen must be set.
type Options struct {
	Source      string             // file (the group default) or folder of GROUP.json, .yaml, .yml or .toml
	Listen      string             // for sidecars: unix:PATH or HOST:PORT
	Group       string             // may connect to Listen's Unix socket; "": the user alone
	API         string             // for operators, likewise; "": none
	TLS         func() *tls.Config // of both listeners, for each handshake a new one; without, they must be Unix sockets or on loopback
	ClientIDs   []string           // URI SANs, or globs of them, that may change limits where TLS is spoken
	BindNodes   []string           // URI SANs, one of which a sidecar's certificate must have; {id} and {cluster} stand for what it calls itself, * for any characters
	Names       Names
	MaxSidecars int  // that are known at once; 10,000 by default
	AllowEmpty  bool // a folder without a document is meant
	Log         *logrus.Logger
	Now         func() int64 // Unix nanoseconds; by default the wall clock
}

// Plane is the control plane.
type Plane struct {
	opts    Options
	source  source
	log     logrus.FieldLogger
	board   *board
	fleet   *fleet
	metrics *metrics
	timing  timing

	listener, api net.Listener // Listen's

	state atomic.Pointer[state]

	mu        sync.Mutex // one change at a time
	remembers bool       // which groups there are, from one run to the next
	known     []string   // as last remembered
}

// timing is how long things may take.
type timing struct {
	settle, settleMost time.Duration // from a change of a file to its reading
	poll               time.Duration // readings without any sign of a change
	silence            time.Duration // from the opening of a stream to its first request
	drain              time.Duration
}

// state is what the last reading left. It is immutable.
type state struct {
	groups map[string]group
	served *groups // those of groups that have a document
	failed error   // the source could not be read at all
}

// group is one file.
type group struct {
	file    string
	raw     []byte    // as read last
	doc     *document // in force; nil: there was no good one yet
	refused Faults    // of raw
	twins   bool      // there are two files
	gone    bool      // there is none any more; doc stays in force
}

// New reads the source. It refuses one with anything wrong in it: there is no last good yet. The
// error is Faults then.
func New(opts Options) (*Plane, error) {
	opts.Names = opts.Names.withDefaults()
	if opts.Log == nil {
		opts.Log = host.Silent()
	}
	if opts.Now == nil {
		opts.Now = func() int64 { return time.Now().UnixNano() } //nolint:forbidigo // the default of an injected clock
	}
	if len(opts.ClientIDs)+len(opts.BindNodes) > 0 && opts.TLS == nil {
		return nil, errors.New("client ids and bound nodes mean nothing without TLS")
	}
	none, err := newSnapshot(contents{names: opts.Names, version: versionOf(jsontext.Value("{}"))})
	if err != nil {
		return nil, err
	}
	p := &Plane{opts: opts, log: opts.Log, metrics: newMetrics(), timing: timing{
		settle: 50 * time.Millisecond, settleMost: time.Second, poll: 5 * time.Second, silence: 15 * time.Second, drain: time.Second,
	}}
	if p.source, err = openSource(opts.Source); err != nil {
		return nil, err
	}
	p.state.Store(&state{served: newGroups(nil, nil, none)})
	p.fleet = newFleet(opts.MaxSidecars, opts.Now, p.log, p.metrics)
	for _, rule := range opts.BindNodes {
		b, err := newBinding(rule)
		if err != nil {
			return nil, err
		}
		p.fleet.bindings = append(p.fleet.bindings, b)
	}
	p.board = newBoard(p.fleet)
	p.metrics.sidecarsFn = func() float64 { return float64(p.fleet.size()) }
	p.metrics.groupsFn = func() float64 { return float64(len(p.state.Load().served.docs)) }
	p.Reload()
	if err := p.state.Load().faults(); err != nil {
		return p, err
	}
	if faults := p.missing(); len(faults) > 0 && !opts.AllowEmpty {
		return p, faults
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remembers = p.source.dir
	p.remember(p.state.Load().served.docs)
	return p, nil
}

// faults are nil where there are none.
func (s *state) faults() error {
	if s.failed != nil {
		return s.failed
	}
	var all Faults
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		for _, f := range s.groups[name].refused {
			all = append(all, fmt.Sprintf("%s: %s", s.groups[name].file, f))
		}
	}
	if len(all) > 0 {
		return all
	}
	return nil
}

// Reload reads the source again and puts in force what is good and new.
func (p *Plane) Reload() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reload()
}

// reload is called under p.mu.
func (p *Plane) reload() {
	before := p.state.Load()
	files, err := p.source.read()
	if err != nil {
		p.state.Store(&state{groups: before.groups, served: before.served, failed: err})
		p.metrics.reloads[reloadRefused].Inc()
		if before.failed == nil || before.failed.Error() != err.Error() {
			p.log.WithError(err).Error("limits_unreadable")
		}
		return
	}
	next := map[string]group{}
	for name, f := range files {
		next[name] = p.judge(before.groups[name], f)
	}
	for name, g := range before.groups {
		if _, there := files[name]; !there && g.doc != nil {
			g.gone, g.twins, g.raw, g.refused = true, false, nil, Faults{goneFault}
			next[name] = g
		}
	}
	p.adopt(next)
}

// goneFault is said of a file that vanished. A folder that is not mounted, or was emptied by mistake,
// must not lift limits, kill switches and revocations.
const goneFault = "the file is gone; its last document stays in force until DELETE takes the group away, or PUT writes another one"

// forget takes a group away for good. It is called under p.mu.
func (p *Plane) forget(name string) {
	groups := maps.Clone(p.state.Load().groups)
	delete(groups, name)
	p.adopt(groups)
}

// reloadGroup is reload after the file of one group was written, where all have just been read: to
// read a thousand of them again would take longer than all else. It is called under p.mu.
func (p *Plane) reloadGroup(name string) {
	before := p.state.Load()
	f := file{path: p.source.file(name)}
	f.raw, f.err = readFile(f.path)
	next := maps.Clone(before.groups)
	next[name] = p.judge(before.groups[name], f)
	p.adopt(next)
}

// adopt puts in force what is good and new of what was read. It is called under p.mu.
func (p *Plane) adopt(groups map[string]group) {
	before := p.state.Load()
	next := &state{groups: groups, served: before.served}
	outcome := reloadUnchanged
	docs := map[string]*document{}
	for name, g := range groups {
		if g.doc != nil {
			docs[name] = g.doc
		}
		if len(g.refused) > 0 {
			outcome = reloadRefused
		}
		if !slices.Equal(g.refused, before.groups[name].refused) {
			p.log.WithFields(logrus.Fields{"group": name, "file": g.file, "reason": g.refused.Error()}).Warn("limits_refused")
		}
	}
	same := func(a, b *document) bool { return a.version == b.version }
	if before.groups == nil || !maps.EqualFunc(docs, before.served.docs, same) {
		outcome = max(outcome, reloadApplied)
		next.served = newGroups(docs, before.served, before.served.none)
		p.board.show(next.served)
		p.remember(docs)
		p.log.WithField("groups", len(docs)).Info("limits_applied")
	}
	p.state.Store(next)
	p.metrics.reloads[outcome].Inc()
}

// judge is a group after its file was read. Content that is as it was needs no second look.
func (p *Plane) judge(before group, f file) group {
	next := group{file: f.path, raw: f.raw, doc: before.doc, twins: f.twins}
	switch {
	case f.err != nil:
		next.refused = Faults{f.err.Error()}
		return next
	case before.raw != nil && before.file == f.path && bytes.Equal(before.raw, f.raw):
		next.refused = before.refused
		return next
	}
	doc, err := p.parse(f.path, f.raw)
	if err != nil {
		next.refused = err.(Faults) //nolint:errorlint,forcetypeassert // parse's only error
		return next
	}
	next.doc = doc
	return next
}

// Addr is where sidecars are served, in the form of Options.Listen.
func (p *Plane) Addr() string {
	return host.AddrOf(p.listener.Addr()).String()
}

// APIAddr is where the API is; nil where there is none.
func (p *Plane) APIAddr() net.Addr {
	if p.api == nil {
		return nil
	}
	return p.api.Addr()
}

// Listen binds. Nothing is answered until Run.
func (p *Plane) Listen() error {
	var err error
	if p.listener, err = host.Listen(p.opts.Listen, host.ListenOptions{Group: p.opts.Group, Remote: p.opts.TLS != nil}); err != nil {
		return err
	}
	if p.opts.API == "" {
		return nil
	}
	if p.api, err = host.Listen(p.opts.API, host.ListenOptions{Remote: p.opts.TLS != nil}); err != nil {
		return errors.Join(err, p.listener.Close())
	}
	return nil
}

// Close is for a Plane that listens and will not run.
func (p *Plane) Close() error {
	err := p.listener.Close()
	if p.api != nil {
		err = errors.Join(err, p.api.Close())
	}
	return err
}

// Metrics are what the API serves under /metrics.
func (p *Plane) Metrics() http.Handler { return p.metrics.handler() }

// Run serves until ctx ends, then ends the streams and waits for everything that it started.
func (p *Plane) Run(ctx context.Context) error {
	if p.opts.TLS != nil && len(p.opts.BindNodes) == 0 {
		p.log.WithField("reason", "whoever has a client certificate may call itself any node; --bind-node names whose is whose").Warn("node_ids_unbound")
	}
	if p.opts.TLS != nil && p.api != nil && len(p.opts.ClientIDs) == 0 {
		p.log.WithField("reason", "no client may change limits over the API; --client-id names who may").Warn("api_read_only")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	until := func(serve func(context.Context) error) {
		g.Go(func() error {
			defer cancel()
			return serve(ctx)
		})
	}
	until(p.serveSidecars)
	until(p.watch)
	if p.api != nil {
		until(p.serveAPI)
	}
	return g.Wait()
}

// parse reads a document in the form that path's extension names. The error is Faults. TOML cannot tell an empty
// document from a file that was cut off, as on a full disk, and the empty one lifts every limit; JSON and YAML say {}.
func (p *Plane) parse(path string, raw []byte) (*document, error) {
	text, err := config.ToJSON(filepath.Ext(path), raw)
	if err != nil {
		return nil, Faults{err.Error()}
	}
	doc, err := parseDocument(text, p.opts.Names)
	if err == nil && filepath.Ext(path) == ".toml" && string(doc.text) == "{}" {
		return nil, Faults{"there is no document: a file of TOML cannot say that it is meant to be empty; make it one of JSON or YAML with {}"}
	}
	return doc, err
}
