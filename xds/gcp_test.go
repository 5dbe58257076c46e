package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	xdstype "github.com/cncf/xds/go/xds/type/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/log"
	types3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	meshserver "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"svc-wallet/config"
	"svc-wallet/host"
)

// mesh is go-control-plane's own server on a snapshot cache, which nobody here wrote.
type mesh struct {
	t     *testing.T
	cache cache.SnapshotCache
	addr  string
	nacks atomic.Int64

	server *grpc.Server
}

func startMesh(t *testing.T) *mesh {
	t.Helper()
	return startMeshAt(t, "unix:"+shortDir(t)+"/xds.sock")
}

func startMeshAt(t *testing.T, addr string) *mesh {
	t.Helper()
	m := &mesh{t: t, cache: cache.NewSnapshotCache(true, cache.IDHash{}, log.NewDefaultLogger())}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s := meshserver.NewServer(ctx, m.cache, meshserver.CallbackFuncs{
		StreamRequestFunc: func(_ int64, r *discovery.DiscoveryRequest) error {
			if r.GetErrorDetail() != nil {
				m.nacks.Add(1)
			}
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, r *discovery.DeltaDiscoveryRequest) error {
			if r.GetErrorDetail() != nil {
				m.nacks.Add(1)
			}
			return nil
		},
	})
	g := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
	secretservice.RegisterSecretDiscoveryServiceServer(g, s)
	m.server, m.addr = g, serve(t, g, addr)
	return m
}

// set serves resources by type in a version.
func (m *mesh) set(version string, byType map[types3.Type][]named) {
	m.t.Helper()
	all := map[types3.Type][]types.Resource{}
	for typ, list := range byType {
		for _, n := range list {
			body, err := n.body.UnmarshalNew()
			if err != nil {
				m.t.Fatal(err)
			}
			all[typ] = append(all[typ], body)
		}
	}
	s, err := cache.NewSnapshot(version, all)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.cache.SetSnapshot(context.Background(), "wallet-1", s); err != nil {
		m.t.Fatal(err)
	}
}

// TestGoControlPlane follows go-control-plane's server through versions of all types, a refused one,
// removals and a restart of the stream, in both variants.
func TestGoControlPlane(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		m := startMesh(t)
		w := newSidecar(t, setup{flags: map[string]string{"xds.addr": m.addr, "xds.protocol": protocol, "xds.root_keys": "keys"}})
		resources := func(n int) map[types3.Type][]named {
			return map[types3.Type][]named{
				types3.ExtensionConfigType: limits(fmt.Sprintf(`{"max_amount_per_op": "%d"}`, n)),
				types3.RuntimeType:         {layer("svc-wallet.runtime", fmt.Sprintf(`{"svc-wallet.queue": %d}`, n))},
				types3.ClusterType:         {clusterOf(fmt.Sprintf(`{"name": "ledger", "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}, "circuit_breakers": {"thresholds": [{"max_requests": %d}]}}`, n))},
				types3.EndpointType:        {assignmentOf("ledger", fmt.Sprint("/", n))},
				types3.SecretType:          {textSecret("keys", fmt.Sprint("keys ", n))},
			}
		}
		follows := func(n int) {
			t.Helper()
			await(t, fmt.Sprint("version ", n), func() bool {
				l := w.live.Load()
				e := w.endpoints()
				return w.amount() == fmt.Sprint(n) && l.Queue == n && l.InFlight == n &&
					len(e) == 1 && e[0] == fmt.Sprint("unix:/", n) && w.secret("root_keys") == fmt.Sprint("keys ", n)
			})
		}
		for n := 1; n <= 5; n++ {
			m.set(fmt.Sprint("v", n), resources(n))
			follows(n)
		}
		if !w.Connected() {
			t.Error("not connected")
		}

		bad := resources(6)
		bad[types3.ExtensionConfigType] = limits(`{"queue": 0}`)
		m.set("v6", bad)
		await(t, "the NACK", func() bool { return m.nacks.Load() > 0 })
		await(t, "the others", func() bool { return w.live.Load().InFlight == 6 })
		if w.amount() != "5" {
			t.Errorf("%s in force", w.amount())
		}
		m.set("v7", resources(7))
		follows(7)

		gone := resources(8)
		delete(gone, types3.ClusterType)
		delete(gone, types3.EndpointType)
		m.set("v8", gone)
		await(t, "the removal", func() bool { return w.endpoints() == nil && w.live.Load().InFlight == 1024 })
		m.set("v9", resources(9))
		follows(9)
		m.set("v5", resources(5))
		follows(5)
		if w.Updates("limits", "refused") == 0 {
			t.Error("no refusal was counted")
		}
		if w.Updates("limits", "rolled_back") != 1 {
			t.Errorf("%v", w.counts("limits"))
		}
	})
}

// TestGoControlPlaneComesBack: a control plane that was away and has nothing new is known to be
// there at once, though in a delta it has nothing to say.
func TestGoControlPlaneComesBack(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		dir := shortDir(t)
		m := startMeshAt(t, "unix:"+dir+"/a.sock")
		w := newSidecar(t, setup{flags: map[string]string{"xds.addr": m.addr, "xds.protocol": protocol, "xds.types": "limits"}})
		m.set("v1", map[types3.Type][]named{types3.ExtensionConfigType: limits(`{"max_amount_per_op": "7"}`)})
		await(t, "the limits", func() bool { return w.amount() == "7" })
		m.server.Stop()
		await(t, "the end", func() bool { return !w.Connected() })
		again := startMeshAt(t, m.addr)
		again.set("v1", map[types3.Type][]named{types3.ExtensionConfigType: limits(`{"max_amount_per_op": "7"}`)})
		await(t, "the connection", w.Connected)
		again.set("v2", map[types3.Type][]named{types3.ExtensionConfigType: limits(`{"max_amount_per_op": "8"}`)})
		await(t, "the limits", func() bool { return w.amount() == "8" })
	})
}

// TestGoControlPlaneRefusedLoop: the snapshot cache sends a refused version again at each NACK,
// thousands of times a second if it is let. The waits before the NACKs keep that down.
func TestGoControlPlaneRefusedLoop(t *testing.T) {
	m := startMesh(t)
	w := newSidecar(t, setup{
		flags:  map[string]string{"xds.addr": m.addr, "xds.protocol": "sotw", "xds.types": "limits,runtime"},
		timing: func(tm *timing) { tm.nack = host.Backoff{First: 100 * 1e6, Most: 1e12} },
	})
	m.set("bad", map[types3.Type][]named{types3.ExtensionConfigType: limits(`{"queue": 0}`)})
	await(t, "four refusals", func() bool { return w.Updates("limits", "refused") >= 4 }) // at 0, 0.1, 0.3, 0.7 s
	if n := m.nacks.Load(); n > 4 {
		t.Errorf("%d NACKs", n)
	}
	m.set("good", map[types3.Type][]named{
		types3.ExtensionConfigType: limits(`{"queue": 7}`),
		types3.RuntimeType:         {layer("svc-wallet.runtime", `{"svc-wallet.reads_enabled": false}`)},
	})
	await(t, "the other type", func() bool { return w.live.Load().ReadsEnabled == 0 })
	await(t, "the good version", func() bool { return w.live.Load().Queue == 7 })
}

// TestManyPushes: a thousand pushes in a row, half of them refused, end with the last good one in
// force, and each one is judged or superseded.
func TestManyPushes(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		rng := seeded(t)
		m := startMesh(t)
		w := newSidecar(t, setup{flags: map[string]string{"xds.addr": m.addr, "xds.protocol": protocol, "xds.types": "limits"}})
		for i := range 1000 {
			text := fmt.Sprintf(`{"max_amount_per_op": "%d"}`, i+1)
			if rng.IntN(2) == 0 {
				text = fmt.Sprintf(`{"queue": -%d}`, i+1)
			}
			m.set(fmt.Sprint(i), map[types3.Type][]named{types3.ExtensionConfigType: limits(text)})
		}
		m.set("last", map[types3.Type][]named{types3.ExtensionConfigType: limits(`{"max_amount_per_op": "5555"}`)})
		await(t, "the last one", func() bool { return w.amount() == "5555" })
	})
}

// looped is a stream that brings the same pushes by turns, each as bytes that are decoded anew, and
// encodes and drops what is sent: what gRPC does but for its transport.
type looped struct {
	discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	pushes [][]byte
	next   int
	left   int // until the stream ends
	sent   []byte
}

func (l *looped) Recv() (*discovery.DeltaDiscoveryResponse, error) {
	if l.left--; l.left < 0 {
		return nil, io.EOF
	}
	m := new(discovery.DeltaDiscoveryResponse)
	err := proto.Unmarshal(l.pushes[l.next%len(l.pushes)], m)
	l.next++
	return m, err
}

func (l *looped) Send(m *discovery.DeltaDiscoveryRequest) (err error) {
	l.sent, err = proto.MarshalOptions{}.MarshalAppend(l.sent[:0], m)
	return err
}

// BenchmarkPush is a small push from the bytes of its response to those of its ACK, without the network:
// decoded, checked, in force and answered. "protobuf" is what decoding the messages costs alone.
func BenchmarkPush(b *testing.B) {
	stream := &looped{}
	for i, text := range []string{`{"max_amount_per_op": "7", "rate_per_second": 5, "rate_burst": 6}`, `{"max_amount_per_op": "8", "rate_per_second": 6, "rate_burst": 7}`} {
		m := &discovery.DeltaDiscoveryResponse{TypeUrl: extensionURL, Nonce: fmt.Sprint(i), SystemVersionInfo: fmt.Sprint(i)}
		for _, n := range limits(text) {
			m.Resources = append(m.Resources, &discovery.Resource{Name: n.name, Version: fmt.Sprint("b3:", i), Resource: n.body})
		}
		raw, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		stream.pushes = append(stream.pushes, raw)
	}
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		stream.left = math.MaxInt
		for b.Loop() {
			m, err := stream.Recv()
			if err != nil {
				b.Fatal(err)
			}
			e, s := new(core.TypedExtensionConfig), new(xdstype.TypedStruct)
			if m.GetResources()[0].GetResource().UnmarshalTo(e) != nil || e.GetTypedConfig().UnmarshalTo(s) != nil {
				b.Fatal("not decoded")
			}
		}
	})
	b.Run("push", func(b *testing.B) {
		cfg, err := config.Load(config.Sources{CPUs: 2, Env: []string{
			"SVC_WALLET_TLS_CERT_FILE=c", "SVC_WALLET_TLS_KEY_FILE=k", "SVC_WALLET_AUTH_ROOT_KEYS_FILE=r",
			"SVC_WALLET_XDS_ADDR=unix:/nowhere", "SVC_WALLET_AMNESIA=true",
		}})
		if err != nil {
			b.Fatal(err)
		}
		now, live := int64(1), new(config.Live)
		c, err := New(cfg, Targets{Stack: config.NewStack(cfg, live)}, Options{Now: func() int64 { now += 1e9; return now }, Log: discardLogger()})
		if err != nil {
			b.Fatal(err)
		}
		n := newStream(c.servers[0], &delta{stream, identity{c.node}, map[string][]string{}})
		ctx, cancel := context.WithCancelCause(b.Context())
		stream.left = b.N
		b.ReportAllocs()
		b.ResetTimer()
		if err := n.run(ctx, cancel); !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
		if got := c.Updates("limits", "accepted"); got != uint64(b.N) || live.Load().RateBurst > 7 || len(stream.sent) == 0 {
			b.Fatalf("%d of %d pushes accepted", got, b.N)
		}
	})
}

// TestFaultsAreBounded: a response with faults without end has a NACK of bounded size.
func TestFaultsAreBounded(t *testing.T) {
	p := startPlane(t)
	newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.types": "limits"}})
	l := p.stream(t)
	l.asks(extensionURL)
	var many []named
	for range 10000 {
		many = append(many, limits(`{"queue": 0}`)...)
	}
	got := l.answer(l.push(extensionURL, "1", many))
	if len(got) > maxReason+8 || !strings.HasPrefix(got, "svc-wallet.limits: limits.queue: 0") {
		t.Errorf("%d bytes: %s", len(got), host.Cut(got, 100))
	}
}
