package control

import (
	"cmp"
	"container/list"
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"svc-wallet/host"
)

// Bounds of what is known of sidecars.
const (
	maxSidecars    = 10_000    // by default
	typesPerStream = 32        // that are asked for, served or not
	maxReason      = 1024      // bytes of a NACK that are kept
	goneFor        = time.Hour // that a row without a stream is kept
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
	rows    map[string]*sidecar // by their keys
	byID    map[string][]*sidecar
	gone    *list.List // of *sidecar without a stream, the longest gone first
	joined  uint64     // rows so far
	streams map[streamKey]*stream
}

// sidecar is a row: a node on a connection, since two that have one node id by mistake are two. Everything
// is guarded by the fleet's mutex.
type sidecar struct {
	key                   string   // tells rows apart
	conn                  net.Addr // of the client: the same pointer for all streams of one connection
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
	served, acked string // versions on this connection; acked is what it has in force, as far as it has said
	servedAt      int64
	waiting       bool // for an answer to served
	queued        bool // a response to it has been made and not been sent
	settling      bool // it has answered, and what it is told next has not been decided
	refuses       bool // its last answer was a NACK
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
	url     string // the one type of a stream that is not aggregated
	conn    net.Addr
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
		rows: map[string]*sidecar{}, byID: map[string][]*sidecar{}, gone: list.New(), streams: map[streamKey]*stream{},
	}
}

// open takes a stream, unless there are too many. Whose it is, its first request says.
func (f *fleet) open(ctx context.Context, key streamKey, url string) error {
	conn, uris := caller(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.streams) >= 2*f.most {
		return status.Error(codes.ResourceExhausted, "too many streams")
	}
	f.streams[key] = &stream{url: url, conn: conn, uris: uris, types: map[string]bool{}}
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
	if len(f.byID[s.row.id]) > 1 { // it is there on another connection, or somebody else has its id
		f.remove(s.row)
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
		r.node.Id, r.node.Cluster, r.node.UserAgentName = s.row.id, s.row.cluster, s.row.key // see rowKey
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
	f.forget()
	row := f.find(id, s.conn)
	switch {
	case row == nil && len(f.rows) >= f.most && f.gone.Len() == 0:
		return status.Error(codes.ResourceExhausted, "too many sidecars")
	case row == nil:
		if len(f.rows) >= f.most {
			f.remove(f.gone.Front().Value.(*sidecar)) //nolint:forcetypeassert // the list holds nothing else
		}
		row = f.add(id)
	case row.place != nil:
		f.gone.Remove(row.place)
		row.place = nil
		for k := range row.kinds { // it may be another process by now: what it has it will say
			row.kinds[k] = progress{refused: row.kinds[k].refused}
		}
	}
	row.conn = s.conn
	if row.streams++; row.streams == 1 {
		row.since = f.now()
	}
	place := node.GetLocality()
	row.cluster, row.delta = strings.Clone(cluster), key.delta
	row.region, row.zone, row.subZone = host.Cut(place.GetRegion(), maxName), host.Cut(place.GetZone(), maxName), host.Cut(place.GetSubZone(), maxName)
	s.row = row
	return nil
}

// find is the row of a node on a connection, or one of that node that is gone.
func (f *fleet) find(id string, conn net.Addr) *sidecar {
	for _, row := range f.byID[id] {
		if row.conn == conn || row.place != nil {
			return row
		}
	}
	return nil
}

func (f *fleet) add(id string) *sidecar {
	f.joined++
	row := &sidecar{key: strconv.FormatUint(f.joined, 10), id: strings.Clone(id)}
	f.rows[row.key], f.byID[row.id] = row, append(f.byID[row.id], row)
	return row
}

// remove takes a row without a stream away.
func (f *fleet) remove(row *sidecar) {
	if row.place != nil {
		f.gone.Remove(row.place)
	}
	delete(f.rows, row.key)
	if f.byID[row.id] = slices.DeleteFunc(f.byID[row.id], func(r *sidecar) bool { return r == row }); len(f.byID[row.id]) == 0 {
		delete(f.byID, row.id)
	}
}

// forget takes those away that are gone for long.
func (f *fleet) forget() {
	for e := f.gone.Front(); e != nil; e = f.gone.Front() {
		row := e.Value.(*sidecar) //nolint:forcetypeassert // the list holds nothing else
		if f.now()-row.since < int64(goneFor) {
			return
		}
		f.remove(row)
	}
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
	if p.acked == version { // it took that once, before a restart say, and does not any more
		p.acked = ""
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

// queued notes that there is a response for the row of that key. It is called before the response is
// handed over, since sent comes from another goroutine.
func (f *fleet) queued(key string, k kind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if row := f.rows[key]; row != nil {
		row.kinds[k].queued = true
	}
}

// settled notes that a request of the row of that key has been looked at, and what there was to say is
// queued.
func (f *fleet) settled(key string, k kind) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if row := f.rows[key]; row != nil {
		row.kinds[k].settling = false
	}
}

// rowKey is the key of the row of a request that note has seen.
func rowKey(node *core.Node) string { return node.GetUserAgentName() }

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

// list is a copy of all rows, by id, and those of one id in the order of their coming.
func (f *fleet) list() []sidecar {
	f.mu.Lock()
	f.forget()
	rows := make([]sidecar, 0, len(f.rows))
	for _, row := range f.rows {
		rows = append(rows, *row)
	}
	f.mu.Unlock()
	slices.SortFunc(rows, func(a, b sidecar) int {
		return cmp.Or(strings.Compare(a.id, b.id), cmp.Compare(len(a.key), len(b.key)), strings.Compare(a.key, b.key))
	})
	return rows
}
