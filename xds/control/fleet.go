package control

import (
	"container/list"
	"context"
	"slices"
	"strings"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"svc-wallet/host"
)

// Bounds of what is known of sidecars.
const (
	maxSidecars    = 10_000 // by default
	streamsPerNode = 16     // one for each kind, twice while it reconnects
	typesPerStream = 32     // that are asked for, served or not
	maxReason      = 1024   // bytes of a NACK that are kept
)

// fleet knows the sidecars: who is connected, and what each has been sent, has taken and has
// refused. It is the callbacks of go-control-plane's server.
type fleet struct {
	most     int       // rows
	bindings []binding // of node ids to certificates; immutable
	now      func() int64
	log      logrus.FieldLogger
	metrics  *metrics

	mu      sync.Mutex
	rows    map[string]*sidecar // by node id
	gone    *list.List          // of *sidecar without a stream, the longest gone first
	streams map[streamKey]*stream
}

// sidecar is a row. Everything is guarded by the fleet's mutex.
type sidecar struct {
	id, cluster           string
	region, zone, subZone string
	delta                 bool
	since                 int64 // connected or gone since then, Unix nanoseconds
	streams               int
	place                 *list.Element // among those that are gone
	kinds                 [numKinds]progress
}

// progress is how far a sidecar is with one kind.
type progress struct {
	served, acked string // versions
	servedAt      int64
	waiting       bool // for an answer to served
	queued        bool // a response to it has been made and not been sent
	settling      bool // it has answered, and what it is told next has not been decided
	refuses       bool // its last answer was a NACK: it may refuse what it took while it did not want it
	refused       refusal
}

// refusal is the last NACK.
type refusal struct {
	version, reason string
	at              int64
}

// streamKey tells streams apart: go-control-plane numbers them for each protocol.
type streamKey struct {
	delta bool
	id    int64
}

type stream struct {
	url     string   // the one type of a stream that is not aggregated
	uris    []string // of its client's certificate
	row     *sidecar
	types   map[string]bool
	pending [numKinds]response
}

// response is one that was sent and has not been answered.
type response struct{ nonce, version string }

func newFleet(most int, now func() int64, log logrus.FieldLogger, m *metrics) *fleet {
	if most <= 0 {
		most = maxSidecars
	}
	return &fleet{
		most: most, now: now, log: log, metrics: m,
		rows: map[string]*sidecar{}, gone: list.New(), streams: map[streamKey]*stream{},
	}
}

// open takes a stream, unless there are too many. Whose it is, its first request says.
func (f *fleet) open(key streamKey, url string, uris []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.streams) >= 2*f.most {
		return status.Error(codes.ResourceExhausted, "too many streams")
	}
	f.streams[key] = &stream{url: url, uris: uris, types: map[string]bool{}}
	return nil
}

func (f *fleet) close(key streamKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.streams[key]
	delete(f.streams, key)
	if s == nil || s.row == nil {
		return
	}
	if s.row.streams--; s.row.streams > 0 {
		return
	}
	s.row.since = f.now()
	s.row.place = f.gone.PushBack(s.row)
	for k := range s.row.kinds {
		p := &s.row.kinds[k]
		p.waiting, p.queued, p.settling = false, false, false // nobody will answer
	}
}

// asked is what a request says, in either protocol.
type asked struct {
	node       *core.Node
	url, nonce string
	refused    bool   // it is a NACK
	reason     string // the NACK's
}

// request notes what a request tells. An error ends the stream.
func (f *fleet) request(key streamKey, r asked) error {
	id, k, refused, err := f.note(key, r)
	if refused != nil { // logged here, because a log that is slow must not hold up other streams
		f.metrics.nacks[k].Inc()
		f.log.WithFields(logrus.Fields{"node": id, "type": k.String(), "version": refused.version, "reason": refused.reason}).Warn("push_refused")
	}
	return err
}

// note does it, and returns what it has to say of a NACK.
func (f *fleet) note(key streamKey, r asked) (id string, k kind, refused *refusal, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.streams[key]
	if s == nil {
		return "", 0, nil, status.Error(codes.Internal, "no such stream")
	}
	if s.row == nil {
		if err := f.join(s, key, r.node); err != nil {
			return "", 0, nil, err
		}
	}
	if r.node != nil { // what else it said is kept by nobody, and it cannot become another
		proto.Reset(r.node)
		r.node.Id, r.node.Cluster = s.row.id, s.row.cluster
	}
	if r.url == "" {
		r.url = s.url
	}
	if s.types[r.url] = true; len(s.types) > typesPerStream || len(r.url) > maxName {
		return "", 0, nil, status.Error(codes.ResourceExhausted, "too many types on one stream, or one with too long a name")
	}
	k, served := kindOf(r.url)
	if p := s.pending[k]; served && r.nonce != "" && r.nonce == p.nonce {
		s.pending[k] = response{}
		refused = f.answered(s.row, k, p.version, r)
	}
	return s.row.id, k, refused, nil
}

// join gives a stream its row.
func (f *fleet) join(s *stream, key streamKey, node *core.Node) error {
	id, cluster := node.GetId(), node.GetCluster()
	if !isName(id) || (cluster != "" && !isName(cluster)) {
		return status.Errorf(codes.InvalidArgument, "node.id and node.cluster are 1 to %d visible ASCII characters", maxName)
	}
	if !f.bound(s.uris, id, cluster) {
		return status.Error(codes.PermissionDenied, "the client certificate is not that of this node id and cluster")
	}
	row := f.rows[id]
	switch {
	case row == nil && len(f.rows) >= f.most && f.gone.Len() == 0:
		return status.Error(codes.ResourceExhausted, "too many sidecars")
	case row == nil && len(f.rows) >= f.most:
		oldest := f.gone.Remove(f.gone.Front()).(*sidecar) //nolint:forcetypeassert // the list holds nothing else
		delete(f.rows, oldest.id)
		fallthrough
	case row == nil:
		row = &sidecar{id: strings.Clone(id)}
		f.rows[row.id] = row
	case row.streams >= streamsPerNode:
		return status.Error(codes.ResourceExhausted, "too many streams of one node")
	case row.place != nil:
		f.gone.Remove(row.place)
		row.place = nil
	}
	if row.streams++; row.streams == 1 {
		row.since = f.now()
	}
	place := node.GetLocality()
	row.cluster, row.delta = strings.Clone(cluster), key.delta
	row.region, row.zone, row.subZone = host.Cut(place.GetRegion(), maxName), host.Cut(place.GetZone(), maxName), host.Cut(place.GetSubZone(), maxName)
	s.row = row
	return nil
}

// answered notes an ACK or a NACK of version; of a NACK it returns what is noted.
func (f *fleet) answered(row *sidecar, k kind, version string, r asked) *refusal {
	p := &row.kinds[k]
	now := f.now()
	p.settling = true
	if version == p.served {
		p.waiting = false
	}
	p.refuses = r.refused
	if !r.refused {
		p.acked = version
		f.metrics.acked(k, now-p.servedAt)
		return nil
	}
	p.refused = refusal{version, host.Cut(r.reason, maxReason), now}
	noted := p.refused
	return &noted
}

// sent notes a response.
func (f *fleet) sent(key streamKey, url, nonce, version string) {
	k, served := kindOf(url)
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.streams[key]
	if !served || s == nil || s.row == nil {
		return
	}
	s.pending[k] = response{nonce, version}
	p := &s.row.kinds[k]
	p.served, p.servedAt, p.waiting, p.queued = version, f.now(), true, false
	f.metrics.pushes[k].Inc()
}

// queued notes that there is a response for a sidecar. It is called before the response is handed
// over, since sent comes from another goroutine.
func (f *fleet) queued(id string, k kind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if row := f.rows[id]; row != nil {
		row.kinds[k].queued = true
	}
}

// settled notes that a request of a sidecar has been looked at, and what there was to say is queued.
func (f *fleet) settled(id string, k kind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if row := f.rows[id]; row != nil {
		row.kinds[k].settling = false
	}
}

// answers is what the connected sidecars of a group say to what they are served.
type answers struct {
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"` // GET /sidecars tells why
	Waiting  int `json:"waiting"` // have not answered yet
}

// answers counts them. The versions of endpoints are not compared, because a sidecar asks for those
// of the clusters that it was told of, and may be sent none; what is on its way counts.
func (f *fleet) answers(g *groups, group string) (a answers) {
	serves := g.serves(group)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, row := range f.rows {
		if row.streams == 0 || g.route.group(row.id, row.cluster) != group {
			continue
		}
		kinds := &serves.sotw
		if row.delta {
			kinds = &serves.delta
		}
		switch waiting, refused := row.answer(kinds); {
		case waiting:
			a.Waiting++
		case refused:
			a.Refused++
		default:
			a.Accepted++
		}
	}
	return a
}

// answer says whether an answer to what is served is still awaited, and whether one refuses it.
func (s *sidecar) answer(serves *[numKinds]resources) (waiting, refused bool) {
	for k := range numKinds {
		p := &s.kinds[k]
		waiting = waiting || p.queued || p.settling
		if p.served == "" { // it does not ask for these, or not yet
			continue
		}
		waiting = waiting || p.waiting || (k != kindEndpoint && p.served != serves[k].version)
		refused = refused || (p.refuses && p.refused.version == p.served)
	}
	return waiting, refused
}

// size is how many sidecars are connected.
func (f *fleet) size() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.rows) - f.gone.Len()
}

// connected counts them by group.
func (f *fleet) connected(route *router) map[string]int {
	f.mu.Lock()
	nodes := make([]struct{ id, cluster string }, 0, len(f.rows))
	for _, row := range f.rows {
		if row.streams > 0 {
			nodes = append(nodes, struct{ id, cluster string }{row.id, row.cluster})
		}
	}
	f.mu.Unlock()
	byGroup := map[string]int{}
	for _, n := range nodes {
		byGroup[route.group(n.id, n.cluster)]++
	}
	return byGroup
}

// list is a copy of all rows, by id.
func (f *fleet) list() []sidecar {
	f.mu.Lock()
	rows := make([]sidecar, 0, len(f.rows))
	for _, row := range f.rows {
		rows = append(rows, *row)
	}
	f.mu.Unlock()
	slices.SortFunc(rows, func(a, b sidecar) int { return strings.Compare(a.id, b.id) })
	return rows
}

// OnStreamOpen and the methods below are go-control-plane's server.Callbacks.
func (f *fleet) OnStreamOpen(ctx context.Context, id int64, url string) error {
	return f.open(streamKey{false, id}, url, callerURIs(ctx))
}

// OnStreamClosed ends a stream of the state of the world.
func (f *fleet) OnStreamClosed(id int64, _ *core.Node) { f.close(streamKey{false, id}) }

// OnStreamRequest notes a request of the state of the world.
func (f *fleet) OnStreamRequest(id int64, r *discovery.DiscoveryRequest) error {
	err := f.request(streamKey{false, id}, asked{node: r.GetNode(), url: r.GetTypeUrl(), nonce: r.GetResponseNonce(), refused: r.GetErrorDetail() != nil, reason: r.GetErrorDetail().GetMessage()})
	r.ErrorDetail = nil // the watch keeps the request
	return err
}

// OnStreamResponse notes a response of the state of the world.
func (f *fleet) OnStreamResponse(_ context.Context, id int64, _ *discovery.DiscoveryRequest, r *discovery.DiscoveryResponse) {
	f.sent(streamKey{false, id}, r.GetTypeUrl(), r.GetNonce(), r.GetVersionInfo())
}

// OnDeltaStreamOpen begins a stream of deltas.
func (f *fleet) OnDeltaStreamOpen(ctx context.Context, id int64, url string) error {
	return f.open(streamKey{true, id}, url, callerURIs(ctx))
}

// OnDeltaStreamClosed ends a stream of deltas.
func (f *fleet) OnDeltaStreamClosed(id int64, _ *core.Node) { f.close(streamKey{true, id}) }

// OnStreamDeltaRequest notes a request of a stream of deltas.
func (f *fleet) OnStreamDeltaRequest(id int64, r *discovery.DeltaDiscoveryRequest) error {
	err := f.request(streamKey{true, id}, asked{
		node: r.GetNode(), url: r.GetTypeUrl(), nonce: r.GetResponseNonce(),
		refused: r.GetErrorDetail() != nil, reason: r.GetErrorDetail().GetMessage(),
	})
	r.ErrorDetail = nil
	return err
}

// OnStreamDeltaResponse notes a response of a stream of deltas.
func (f *fleet) OnStreamDeltaResponse(id int64, _ *discovery.DeltaDiscoveryRequest, r *discovery.DeltaDiscoveryResponse) {
	f.sent(streamKey{true, id}, r.GetTypeUrl(), r.GetNonce(), r.GetSystemVersionInfo())
}
