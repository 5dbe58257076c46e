package control

import (
	"context"
	"sync"
	"sync/atomic"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxSubscribed bounds the names that one stream may subscribe to of one kind.
const maxSubscribed = 1024

// board holds what each group is served and who waits for a change of it. It is go-control-plane's
// cache.ConfigWatcher, in place of its SnapshotCache, for four reasons: that one packs every
// resource again for every stream; it sends a refused version again at once where the state of the
// world is spoken; it says nothing to a sidecar that asks for what is not there, which then could
// not tell a removal from a delay; and one stream that asks for many unknown types can block it.
//
// What a stream is sent goes by what it was sent before, which is part of its subscription, so a
// version is sent once to a stream, refused or not.
type board struct {
	fleet *fleet                 // is told what is on its way
	now   atomic.Pointer[groups] // written under mu

	mu   sync.Mutex
	open [numKinds]map[*watch]struct{}
}

// watch waits for something to say to one stream about one kind.
type watch struct {
	id, cluster string // of the node
	row         string // key of its sidecar
	sotw        bool
	answer      func(*resources) bool // says it, if there is something; never blocks

	// Guarded by the board's mutex.
	group string
	by    *router // that chose group
	seen  string  // version of the resources of which it had nothing to say
}

func newBoard(f *fleet) *board {
	b := &board{fleet: f}
	for k := range b.open {
		b.open[k] = map[*watch]struct{}{}
	}
	return b
}

// show puts new documents in force and tells whoever is concerned.
func (b *board) show(g *groups) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now.Store(g)
	for k := range numKinds {
		for w := range b.open[k] {
			if w.tell(g, k) {
				delete(b.open[k], w)
			}
		}
	}
}

// tell says what there is to say; false is nothing, as it still is of what was looked at before: a
// push changes one group and seldom more than one kind.
func (w *watch) tell(g *groups, k kind) bool {
	r := w.look(g, k)
	if w.seen == r.version {
		return false
	}
	w.seen = r.version
	return w.answer(r)
}

// look is what w may see.
func (w *watch) look(g *groups, k kind) *resources {
	if w.by != g.route {
		w.group, w.by = g.route.group(w.id, w.cluster), g.route
	}
	s := g.serves(w.group)
	if w.sotw {
		return &s.sotw[k]
	}
	return &s.delta[k]
}

// wait answers at once where there is something to say, and later where not.
func (b *board) wait(k kind, w *watch) (cancel func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.fleet.settled(w.row, k)
	if w.tell(b.now.Load(), k) {
		return func() {}
	}
	b.open[k][w] = struct{}{}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.open[k], w)
	}
}

// CreateWatch is called for each request of a stream of the state of the world, with a channel that
// has room for the one answer. A type that is not served is never answered: ending the stream over
// it would cost the sidecar all the others.
func (b *board) CreateWatch(req *cache.Request, sub cache.Subscription, out chan cache.Response) (func(), error) {
	k, served := kindOf(req.GetTypeUrl())
	if !served {
		return func() {}, nil
	}
	if len(sub.SubscribedResources()) > maxSubscribed {
		return nil, status.Errorf(codes.ResourceExhausted, "more than %d names of %s", maxSubscribed, k)
	}
	w := &watch{id: req.GetNode().GetId(), cluster: req.GetNode().GetCluster(), row: rowKey(req.GetNode()), sotw: true}
	w.answer = func(r *resources) bool {
		wanted := r.subscribed(sub)
		if !worthSaying(k, wanted, sub.ReturnedResources(), req.GetResponseNonce() == "") {
			return false
		}
		b.fleet.queued(w.row, k)
		out <- sotwResponse(req, r, wanted)
		return true
	}
	return b.wait(k, w), nil
}

// subscribed are the versions of what is there of what a stream asks for.
func (r *resources) subscribed(sub cache.Subscription) map[string]string {
	found := map[string]string{}
	for _, name := range r.names {
		if _, named := sub.SubscribedResources()[name]; named || sub.IsWildcard() {
			found[name] = r.byName[name].GetVersion()
		}
	}
	return found
}

// worthSaying says whether a response tells a stream of the state of the world anything. Of
// clusters the absence counts, so the first response comes even where there are none.
func worthSaying(k kind, wanted, told map[string]string, first bool) bool {
	for name, version := range wanted {
		if told[name] != version {
			return true
		}
	}
	return k == kindCluster && (first || len(wanted) != len(told))
}

func sotwResponse(req *cache.Request, r *resources, wanted map[string]string) cache.Response {
	out := &discovery.DiscoveryResponse{VersionInfo: r.version, TypeUrl: req.GetTypeUrl()}
	for _, name := range r.names {
		if _, ok := wanted[name]; ok {
			out.Resources = append(out.Resources, r.byName[name].GetResource())
		}
	}
	return &cache.PassthroughResponse{Request: req, DiscoveryResponse: out, ReturnedResources: wanted}
}

// absent is the version of a resource that a stream was told not to be there. No hash looks so.
const absent = "-"

// CreateDeltaWatch is CreateWatch for a stream of deltas. All its kinds share the channel, which
// has room for more answers than can be under way: one of each kind.
func (b *board) CreateDeltaWatch(req *cache.DeltaRequest, sub cache.Subscription, out chan cache.DeltaResponse) (func(), error) {
	k, served := kindOf(req.GetTypeUrl())
	if !served {
		return func() {}, nil
	}
	if len(sub.SubscribedResources()) > maxSubscribed || len(sub.ReturnedResources()) > maxSubscribed {
		return nil, status.Errorf(codes.ResourceExhausted, "more than %d names of %s", maxSubscribed, k)
	}
	w := &watch{id: req.GetNode().GetId(), cluster: req.GetNode().GetCluster(), row: rowKey(req.GetNode())}
	w.answer = func(r *resources) bool {
		response, told := deltaResponse(r, sub)
		// The first response comes even where it is empty: whoever asks for everything waits for it,
		// and a sidecar that has everything already learns that somebody is there, and vouches for it.
		hello := req.GetResponseNonce() == ""
		if len(response.GetResources()) == 0 && len(response.GetRemovedResources()) == 0 && !hello {
			return false
		}
		response.TypeUrl = req.GetTypeUrl()
		b.fleet.queued(w.row, k)
		out <- &cache.DeltaPassthroughResponse{DeltaRequest: req, DeltaDiscoveryResponse: response, NextVersionMap: told}
		return true
	}
	return b.wait(k, w), nil
}

// deltaResponse is what changed since a stream was told last, and what it has been told with it.
// A resource that was asked for by name and is not there is removed, once.
func deltaResponse(r *resources, sub cache.Subscription) (*discovery.DeltaDiscoveryResponse, map[string]string) {
	out := &discovery.DeltaDiscoveryResponse{SystemVersionInfo: r.version}
	before, told := sub.ReturnedResources(), map[string]string{}
	for _, name := range r.names {
		if _, named := sub.SubscribedResources()[name]; !named && !sub.IsWildcard() {
			continue
		}
		told[name] = r.byName[name].GetVersion()
		if before[name] != told[name] {
			out.Resources = append(out.Resources, r.byName[name])
		}
	}
	gone := func(name string) {
		if _, there := told[name]; there {
			return
		}
		told[name] = absent
		if before[name] != absent {
			out.RemovedResources = append(out.RemovedResources, name)
		}
	}
	for name := range sub.SubscribedResources() {
		gone(name)
	}
	if sub.IsWildcard() {
		for name := range before {
			gone(name)
		}
	}
	return out, told
}

// noFetch answers the unary calls of the discovery services.
type noFetch struct{}

// Fetch refuses.
func (noFetch) Fetch(context.Context, *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	return nil, status.Error(codes.Unimplemented, "open a stream")
}
