package xds

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	xdstype "github.com/cncf/xds/go/xds/type/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	runtime "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"svc-wallet/config"
	"svc-wallet/host"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come: far more than that takes on any machine, so
// that no test asks for a pace.
const patience = 3 * time.Minute

// await waits until ok, or fails.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: not in %s", what, patience)
		}
	}
}

// next receives what must come.
func next[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v, open := <-from:
		if !open {
			t.Fatalf("%s: ended", what)
		}
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not in %s", what, patience)
		panic("unreachable")
	}
}

// plane is a control plane that does what its test says, message by message, in both variants.
type plane struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	secretservice.UnimplementedSecretDiscoveryServiceServer
	addr    string
	streams chan *line
	server  *grpc.Server
}

// line is one stream of a plane.
type line struct {
	t     *testing.T
	ctx   context.Context
	delta bool
	reqs  chan asked
	send  func(any) error
	end   chan error
	nonce int
	kept  []asked // that came before the answer waited for last
}

// asked is what a sidecar sent, in either variant.
type asked struct {
	url, nonce, version string
	names, dropped      []string
	initial             map[string]string
	reason              string
	node                *core.Node
}

func startPlane(t *testing.T, opts ...grpc.ServerOption) *plane {
	t.Helper()
	return startPlaneAt(t, "unix:"+filepath.Join(shortDir(t), "xds.sock"), opts...)
}

// shortDir is a temporary folder whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "xds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func startPlaneAt(t *testing.T, addr string, opts ...grpc.ServerOption) *plane {
	t.Helper()
	p := &plane{streams: make(chan *line, 64), server: grpc.NewServer(opts...)}
	discovery.RegisterAggregatedDiscoveryServiceServer(p.server, p)
	secretservice.RegisterSecretDiscoveryServiceServer(p.server, p)
	p.addr = serve(t, p.server, addr)
	return p
}

// serve serves on unix:PATH or HOST:PORT until the test ends, and returns the address.
func serve(t *testing.T, s *grpc.Server, addr string) string {
	t.Helper()
	network, at := "tcp", addr
	if path, ok := cutUnix(addr); ok {
		network, at = "unix", path
	}
	ln, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	if network == "tcp" {
		addr = ln.Addr().String()
	}
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(ln) })
	t.Cleanup(func() { s.Stop(); serving.Wait() })
	return addr
}

func cutUnix(addr string) (string, bool) {
	if len(addr) > 5 && addr[:5] == "unix:" {
		return addr[5:], true
	}
	return "", false
}

func (p *plane) accept(ctx context.Context, delta bool, send func(any) error, recv func() (asked, error)) error {
	l := &line{ctx: ctx, delta: delta, reqs: make(chan asked, 1024), send: send, end: make(chan error, 1)}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(l.reqs)
		for {
			r, err := recv()
			if err != nil {
				return
			}
			select {
			case l.reqs <- r:
			case <-ctx.Done():
				return
			}
		}
	})
	select {
	case p.streams <- l:
	case <-ctx.Done():
	}
	select {
	case err := <-l.end:
		return err
	case <-ctx.Done():
		reading.Wait()
		return ctx.Err()
	}
}

func (p *plane) DeltaAggregatedResources(s grpc.BidiStreamingServer[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse]) error {
	return p.accept(s.Context(), true,
		func(m any) error { return s.Send(m.(*discovery.DeltaDiscoveryResponse)) },
		func() (asked, error) {
			m, err := s.Recv()
			return asked{
				url: m.GetTypeUrl(), nonce: m.GetResponseNonce(), names: m.GetResourceNamesSubscribe(),
				dropped: m.GetResourceNamesUnsubscribe(), initial: m.GetInitialResourceVersions(),
				reason: m.GetErrorDetail().GetMessage(), node: m.GetNode(),
			}, err
		})
}

func (p *plane) StreamAggregatedResources(s grpc.BidiStreamingServer[discovery.DiscoveryRequest, discovery.DiscoveryResponse]) error {
	return p.accept(s.Context(), false,
		func(m any) error { return s.Send(m.(*discovery.DiscoveryResponse)) },
		func() (asked, error) {
			m, err := s.Recv()
			return asked{
				url: m.GetTypeUrl(), nonce: m.GetResponseNonce(), names: m.GetResourceNames(), version: m.GetVersionInfo(),
				reason: m.GetErrorDetail().GetMessage(), node: m.GetNode(),
			}, err
		})
}

func (p *plane) StreamSecrets(s grpc.BidiStreamingServer[discovery.DiscoveryRequest, discovery.DiscoveryResponse]) error {
	return p.StreamAggregatedResources(s)
}

// stream is the next stream that a sidecar opens.
func (p *plane) stream(t *testing.T) *line {
	t.Helper()
	l := next(t, "a stream", p.streams)
	l.t = t
	return l
}

// until gives do one stream after the other until it is content with one: a sidecar that is starved gives
// streams up when its time-out is short, and comes again.
func (p *plane) until(t *testing.T, do func(*line) bool) {
	t.Helper()
	for end := time.Now().Add(patience); !do(p.stream(t)); {
		if time.Now().After(end) {
			t.Fatalf("no stream did in %s", patience)
		}
	}
}

// asksFor waits for the first request about a type. It is false where the stream ends before.
func (l *line) asksFor(url string) bool {
	for r := range l.reqs {
		if r.url == url {
			return true
		}
	}
	return false
}

// acks sends a response and waits for its ACK. It is false where the stream ends before.
func (l *line) acks(url, version string, resources []named) bool {
	l.t.Helper()
	l.nonce++
	nonce := fmt.Sprint("n", l.nonce)
	if l.send(l.message(url, version, nonce, resources, nil)) != nil {
		return false
	}
	for r := range l.reqs {
		if r.nonce == nonce {
			if r.reason != "" {
				l.t.Errorf("%s: NACK: %s", nonce, r.reason)
			}
			return true
		}
	}
	return false
}

// named is a resource with its name, in a delta with its version; nil: only that it lives on.
type named struct {
	name string
	body *anypb.Any
}

// lasting are resources that live for so long.
func lasting(ttl time.Duration, resources ...named) (all []named) {
	for _, r := range resources {
		all = append(all, named{r.name, pack(&discovery.Resource{Name: r.name, Resource: r.body, Ttl: durationpb.New(ttl)})})
	}
	return all
}

// push sends a response and returns its nonce.
func (l *line) push(url, version string, resources []named, removed ...string) string {
	l.t.Helper()
	l.nonce++
	nonce := fmt.Sprint("n", l.nonce)
	if err := l.send(l.message(url, version, nonce, resources, removed)); err != nil {
		l.t.Fatalf("push: %v", err)
	}
	return nonce
}

func (l *line) message(url, version, nonce string, resources []named, removed []string) any {
	if !l.delta {
		m := &discovery.DiscoveryResponse{TypeUrl: url, VersionInfo: version, Nonce: nonce}
		for _, r := range resources {
			m.Resources = append(m.Resources, r.body)
		}
		return m
	}
	m := &discovery.DeltaDiscoveryResponse{TypeUrl: url, SystemVersionInfo: version, Nonce: nonce, RemovedResources: removed}
	for _, r := range resources {
		wrapped := &discovery.Resource{Name: r.name, Version: version, Resource: r.body}
		if r.body.GetTypeUrl() == wrapperURL {
			if err := r.body.UnmarshalTo(wrapped); err != nil {
				panic(err)
			}
			wrapped.Version = version
		}
		m.Resources = append(m.Resources, wrapped)
	}
	return m
}

// asks returns the next request about a type that answers no response. One that came just before the
// answer to the last one counts, because what a response names is asked for before it is acknowledged.
func (l *line) asks(url string) asked {
	l.t.Helper()
	for _, r := range l.kept {
		if r.url == url && r.reason == "" {
			l.kept = nil
			return r
		}
	}
	for {
		if r := next(l.t, "a request for "+url, l.reqs); r.url == url && r.reason == "" {
			return r
		}
	}
}

// answer returns the answer to a response: the reason of a NACK, or "".
func (l *line) answer(nonce string) string {
	l.t.Helper()
	l.kept = nil
	for {
		r := next(l.t, "an answer to "+nonce, l.reqs)
		if r.nonce == nonce {
			return r.reason
		}
		l.kept = append(l.kept, r)
	}
}

func (l *line) acked(nonce string) {
	l.t.Helper()
	if reason := l.answer(nonce); reason != "" {
		l.t.Fatalf("%s: NACK: %s", nonce, reason)
	}
}

// sidecar is a client with the configuration that it changes.
type sidecar struct {
	*Client
	t     *testing.T
	stack *config.Stack
	live  *config.Live
	dir   string
	stop  func()

	mu        sync.Mutex
	addrs     []string
	addrsErr  error
	secrets   map[string]string
	secretErr error
}

type setup struct {
	flags  map[string]string // settings by key, as environment variables
	timing func(*timing)
	opts   func(*Options)
	idle   bool // not run
}

// quick are timings with which a test need not wait.
func quick() timing {
	tm := realTiming()
	tm.reconnect = host.Backoff{First: time.Millisecond, Most: 20 * time.Millisecond}
	tm.nack = host.Backoff{First: 2 * time.Millisecond, Most: 10 * time.Millisecond}
	tm.preferred, tm.write = 5*time.Millisecond, time.Millisecond
	tm.jitter = func(n int64) int64 { return n - 1 }
	return tm
}

func newSidecar(t *testing.T, s setup) *sidecar {
	t.Helper()
	dir := shortDir(t)
	settings := map[string]string{
		"xds.last_good_file": filepath.Join(dir, "last-good.json"),
		"tls.cert_file":      "c", "tls.key_file": "k", "auth.root_keys_file": "r",
		"xds.node_id": "wallet-1",
	}
	for k, v := range s.flags {
		settings[k] = v
	}
	cfg := load(t, settings)
	w := &sidecar{t: t, live: new(config.Live), dir: dir, secrets: map[string]string{}}
	w.stack = config.NewStack(cfg, w.live)
	tm := quick()
	if s.timing != nil {
		s.timing(&tm)
	}
	log := logrus.New()
	log.SetOutput(testLog{t})
	opts := Options{Now: func() int64 { return time.Now().UnixNano() }, Log: log, Version: "test", Hostname: "host-1"}
	if s.opts != nil {
		s.opts(&opts)
	}
	var err error
	if w.Client, err = newClient(cfg, w.targets(), opts, tm); err != nil {
		t.Fatal(err)
	}
	if s.idle {
		w.stop = func() {}
		return w
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	w.stop = func() { cancel(); running.Wait() }
	t.Cleanup(w.stop)
	return w
}

// testLog writes to the test's log, which must not be written to after its end.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", p)
	return len(p), nil
}

func load(t *testing.T, settings map[string]string) *config.Config {
	t.Helper()
	var env []string
	for key, value := range settings {
		env = append(env, envName(key)+"="+value)
	}
	cfg, err := config.Load(config.Sources{Env: env, CPUs: 2})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func envName(key string) string {
	name := []byte("SVC_WALLET_")
	for _, c := range []byte(key) {
		switch {
		case c == '.':
			c = '_'
		case c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		}
		name = append(name, c)
	}
	return string(name)
}

func (w *sidecar) targets() Targets {
	secret := func(role string) func(text []byte) error {
		return func(text []byte) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.secretErr != nil && text != nil {
				return w.secretErr
			}
			w.secrets[role] = string(text)
			return nil
		}
	}
	return Targets{
		Stack: w.stack,
		Endpoints: func(addrs []string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.addrsErr != nil {
				return w.addrsErr
			}
			w.addrs = addrs
			return nil
		},
		Certificate: func(cert, key []byte) error { return secret("certificate")(append(cert, key...)) },
		ClientCA:    secret("client_ca"),
		RootKeys:    secret("root_keys"),
	}
}

func (w *sidecar) endpoints() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addrs
}

func (w *sidecar) secret(role string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.secrets[role]
}

// amount is the limit by which most tests tell what is in force.
func (w *sidecar) amount() string { return w.live.Load().MaxAmountPerOp.String() }

const staticAmount = "100000000000000000000"

// counts says what was counted, in words.
func (w *sidecar) counts(typ string) map[string]uint64 {
	m := map[string]uint64{}
	for _, o := range w.Outcomes() {
		if n := w.Updates(typ, o); n > 0 {
			m[o] = n
		}
	}
	return m
}

func (w *sidecar) status() Status { return w.Status().(Status) }

func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

func object(text string) *structpb.Struct {
	s := new(structpb.Struct)
	if err := protojson.Unmarshal([]byte(text), s); err != nil {
		panic(err)
	}
	return s
}

// limits is the resource of limits with these members.
func limits(text string) []named {
	return []named{{"svc-wallet.limits", pack(&core.TypedExtensionConfig{
		Name:        "svc-wallet.limits",
		TypedConfig: pack(&xdstype.TypedStruct{TypeUrl: "type.googleapis.com/svc_wallet.v1.Limits", Value: object(text)}),
	})}}
}

func layer(name, text string) named {
	return named{name, pack(&runtime.Runtime{Name: name, Layer: object(text)})}
}

func clusterOf(text string) named {
	m := new(cluster.Cluster)
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		panic(err)
	}
	return named{m.GetName(), pack(m)}
}

// protocols runs a test in both variants.
func protocols(t *testing.T, test func(t *testing.T, protocol string)) {
	for _, p := range []string{"delta", "sotw"} {
		t.Run(p, func(t *testing.T) { test(t, p) })
	}
}

// seeded is a random source whose seed the log tells.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// locked does what the client's lock guards.
func (w *sidecar) locked(do func()) {
	w.Client.mu.Lock()
	defer w.Client.mu.Unlock()
	do()
}
