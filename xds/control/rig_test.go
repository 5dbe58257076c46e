package control

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// TestMain looks for goroutines that outlive their test.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitLimit is how long a test waits for what must come: far more than that takes on any machine.
const waitLimit = 3 * time.Minute

// rig is a control plane that runs, over a temporary folder.
type rig struct {
	t     *testing.T
	plane *Plane
	dir   string // of the documents
	stop  func() error
	log   *lines
	// client of the API
	http *http.Client
	base string
}

type rigOptions struct {
	files  map[string]string
	change func(*Options)
	timing func(*timing)
}

func newRig(t *testing.T, o rigOptions) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), log: &lines{}}
	for name, text := range o.files {
		r.write(name, text)
	}
	log := logrus.New()
	log.SetOutput(r.log)
	opts := Options{Source: r.dir, Listen: "127.0.0.1:0", API: "127.0.0.1:0", AllowEmpty: len(o.files) == 0, Log: log}
	if o.change != nil {
		o.change(&opts)
	}
	plane, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	plane.timing.settle = 5 * time.Millisecond
	plane.timing.poll = time.Hour
	if o.timing != nil {
		o.timing(&plane.timing)
	}
	if err := plane.Listen(); err != nil {
		t.Fatal(err)
	}
	r.plane = plane
	r.run(opts)
	return r
}

// run serves until the test ends or stop is called.
func (r *rig) run(opts Options) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.plane.Run(ctx) }()
	var stopped atomic.Bool
	r.stop = func() error {
		if stopped.Swap(true) {
			return nil
		}
		cancel()
		return <-ended
	}
	transport := &http.Transport{}
	if path, unix := strings.CutPrefix(opts.API, "unix:"); unix {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	r.http = &http.Client{Transport: transport, Timeout: waitLimit}
	r.base = "http://" + r.plane.APIAddr().String()
	if strings.HasPrefix(opts.API, "unix:") {
		r.base = "http://localhost"
	}
	r.t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := r.stop(); err != nil {
			r.t.Errorf("Run: %v", err)
		}
	})
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// write replaces a file in one step, as a careful editor does.
func (r *rig) write(name, text string) {
	r.t.Helper()
	tmp := r.path("." + name + ".new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(tmp, r.path(name)); err != nil {
		r.t.Fatal(err)
	}
}

// reply is what the API answered.
type reply struct {
	status int
	header http.Header
	body   string
}

// call sends a request; header is name, value, name, value …
func (r *rig) call(method, path, body string, header ...string) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.base+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := r.http.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text)}
}

func (r *rig) put(group, text string) {
	r.t.Helper()
	if got := r.call("PUT", "/limits/"+group, text); got.status/100 != 2 {
		r.t.Fatalf("PUT %s: %d %s", group, got.status, got.body)
	}
}

// sidecars asks the API.
func (r *rig) sidecars() map[string]sidecarView {
	r.t.Helper()
	var out struct{ Sidecars []sidecarView }
	got := r.call("GET", "/sidecars", "")
	if err := json.Unmarshal([]byte(got.body), &out); err != nil {
		r.t.Fatal(err, got.body)
	}
	byID := map[string]sidecarView{}
	for _, s := range out.Sidecars {
		byID[s.ID] = s
	}
	return byID
}

// eventually waits for what other goroutines do.
func (r *rig) eventually(what string, is func() bool) {
	r.t.Helper()
	limit := time.NewTimer(waitLimit)
	defer limit.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-limit.C:
			r.t.Fatalf("it never came to: %s\n%s", what, r.log)
		case <-tick.C:
		}
	}
}

// dial connects to the sidecars' listener.
func (r *rig) dial(config *tls.Config) *grpc.ClientConn {
	r.t.Helper()
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(r.plane.Addr(), grpc.WithTransportCredentials(creds))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// peer is a sidecar as bare as can be.
type peer struct {
	t    *testing.T
	node *core.Node
	// one of them
	delta grpc.BidiStreamingClient[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse]
	sotw  grpc.BidiStreamingClient[discovery.DiscoveryRequest, discovery.DiscoveryResponse]
	names map[string][]string // sotw: by type
	has   map[string]string   // sotw: accepted versions by type
	close context.CancelFunc
}

// connect opens an aggregated stream for id@cluster.
func (r *rig) connect(protocol, id, cluster string) *peer {
	r.t.Helper()
	return r.connectOn(r.dial(nil), protocol, id, cluster)
}

func (r *rig) connectOn(conn *grpc.ClientConn, protocol, id, cluster string) *peer {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), waitLimit)
	r.t.Cleanup(cancel)
	p := &peer{t: r.t, node: &core.Node{Id: id, Cluster: cluster}, names: map[string][]string{}, has: map[string]string{}, close: cancel}
	client := discovery.NewAggregatedDiscoveryServiceClient(conn)
	var err error
	if protocol == "delta" {
		p.delta, err = client.DeltaAggregatedResources(ctx)
	} else {
		p.sotw, err = client.StreamAggregatedResources(ctx)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// told is a response of either protocol.
type told struct {
	kind           string
	nonce, version string
	resources      map[string][]byte // packed, by name ("" where the protocol does not say)
	versions       map[string]string // delta
	removed        []string
}

func (p *peer) send(url, nonce string, subscribe []string, initial map[string]string, reason string) {
	p.t.Helper()
	var problem *rpc.Status
	if reason != "" {
		problem = &rpc.Status{Code: 3, Message: reason}
	}
	var err error
	if p.delta != nil {
		err = p.delta.Send(&discovery.DeltaDiscoveryRequest{
			Node: p.node, TypeUrl: url, ResponseNonce: nonce, ResourceNamesSubscribe: subscribe, InitialResourceVersions: initial, ErrorDetail: problem,
		})
	} else {
		if subscribe != nil {
			p.names[url] = subscribe
		}
		err = p.sotw.Send(&discovery.DiscoveryRequest{
			Node: p.node, TypeUrl: url, ResponseNonce: nonce, ResourceNames: p.names[url], VersionInfo: p.has[url], ErrorDetail: problem,
		})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		p.t.Fatal(err)
	}
}

func (p *peer) subscribe(k kind, names ...string) {
	p.t.Helper()
	p.send(k.url(), "", names, nil, "")
}

func (p *peer) receive() (told, error) {
	out := told{resources: map[string][]byte{}, versions: map[string]string{}}
	if p.delta != nil {
		m, err := p.delta.Recv()
		if err != nil {
			return out, err
		}
		k, _ := kindOf(m.GetTypeUrl())
		out.kind, out.nonce, out.version, out.removed = k.String(), m.GetNonce(), m.GetSystemVersionInfo(), m.GetRemovedResources()
		for _, res := range m.GetResources() {
			out.resources[res.GetName()] = res.GetResource().GetValue()
			out.versions[res.GetName()] = res.GetVersion()
		}
		return out, nil
	}
	m, err := p.sotw.Recv()
	if err != nil {
		return out, err
	}
	k, _ := kindOf(m.GetTypeUrl())
	out.kind, out.nonce, out.version = k.String(), m.GetNonce(), m.GetVersionInfo()
	for i, res := range m.GetResources() {
		out.resources[fmt.Sprint(i)] = res.GetValue()
	}
	return out, nil
}

// next wants a response of kind k.
func (p *peer) next(k kind) told {
	p.t.Helper()
	m, err := p.receive()
	if err != nil {
		p.t.Fatalf("waiting for %s: %v", k, err)
	}
	if m.kind != k.String() {
		p.t.Fatalf("got %+v while waiting for %s", m, k)
	}
	return m
}

// until is next of a peer that acknowledges what comes of other kinds meanwhile.
func (p *peer) until(k kind) told {
	p.t.Helper()
	for {
		m, err := p.receive()
		if err != nil {
			p.t.Fatalf("waiting for %s: %v", k, err)
		}
		if m.kind == k.String() {
			return m
		}
		for other := range numKinds {
			if other.String() == m.kind {
				p.ack(other, m)
			}
		}
	}
}

func (p *peer) ack(k kind, m told) {
	p.t.Helper()
	p.has[k.url()] = m.version
	p.send(k.url(), m.nonce, nil, nil, "")
}

func (p *peer) nack(k kind, m told, reason string) {
	p.t.Helper()
	p.send(k.url(), m.nonce, nil, nil, reason)
}

// mentions says whether any resource contains text, which protobuf keeps as it is.
func (m told) mentions(text string) bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(m.resources)), func(b []byte) bool { return strings.Contains(string(b), text) })
}
