package control

import (
	"slices"
	"strings"
	"testing"

	xdstype "github.com/cncf/xds/go/xds/type/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	runtimeservice "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// everything has a resource of each kind.
const everything = `{
  "max_amount_per_op": "5000000000000000000000",
  "runtime": {"svc-wallet.queue": 256, "svc-wallet.route.issue.enabled": {"numerator": 25}},
  "clusters": {"ledger": {"connect_timeout": "250ms", "max_requests": 7, "consecutive_errors": 9, "base_ejection_time": "5s",
    "endpoints": ["unix:/run/ledger.sock", "10.0.0.7:7000"]}, "auth": {"max_pending_requests": 5}}
}`

// TestPush takes one change to a sidecar and its answer to the API, in both protocols and for each
// kind.
func TestPush(t *testing.T) {
	for _, protocol := range []string{"delta", "sotw"} {
		t.Run(protocol, func(t *testing.T) {
			r := newRig(t, rigOptions{files: map[string]string{"default.json": everything}})
			p := r.connect(protocol, "wallet-1", "payments")
			for k, want := range map[kind]string{
				kindLimits: "5000000000000000000000", kindRuntime: "svc-wallet.queue", kindCluster: "ledger", kindEndpoint: "/run/ledger.sock",
			} {
				names := map[kind][]string{
					kindLimits: {"svc-wallet.limits"}, kindRuntime: {"svc-wallet.runtime"}, kindEndpoint: {"ledger"},
				}[k]
				p.subscribe(k, names...)
				m := p.next(k)
				if !m.mentions(want) {
					t.Fatalf("%s: %+v", k, m)
				}
				p.ack(k, m)
			}
			r.put("default", strings.Replace(everything, `"5000000000000000000000"`, `"42"`, 1))
			m := p.until(kindLimits)
			if !m.mentions("42") {
				t.Fatalf("%+v", m)
			}
			r.eventually("lag", func() bool {
				limits := r.sidecars()["wallet-1"].Types["limits"]
				return limits.Served == m.version && limits.Acked != m.version
			})
			p.ack(kindLimits, m)
			r.eventually("ack", func() bool {
				s := r.sidecars()["wallet-1"]
				limits := s.Types["limits"]
				return limits.Acked == m.version && limits.LagMS == 0 && limits.Refused == nil && len(s.Types) == 4 &&
					s.Group == "default" && s.Cluster == "payments" && s.Protocol == protocol && s.ConnectedSince != "" && s.GoneSince == ""
			})
			p.close()
			r.eventually("gone", func() bool { return r.sidecars()["wallet-1"].GoneSince != "" })
		})
	}
}

// TestResources reads what is pushed back with Envoy's own types.
func TestResources(t *testing.T) {
	d, err := parseDocument([]byte(everything), Names{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	limits := new(core.TypedExtensionConfig)
	value := new(xdstype.TypedStruct)
	if err := d.serves.delta[kindLimits].byName["svc-wallet.limits"].GetResource().UnmarshalTo(limits); err != nil {
		t.Fatal(err)
	}
	if err := limits.GetTypedConfig().UnmarshalTo(value); err != nil {
		t.Fatal(err)
	}
	if limits.GetName() != "svc-wallet.limits" || value.GetTypeUrl() != limitsURL || value.GetValue().AsMap()["max_amount_per_op"] != "5000000000000000000000" {
		t.Error(limits, value)
	}
	for k, want := range map[kind]string{kindCluster: "auth ledger", kindEndpoint: "ledger", kindRuntime: "svc-wallet.runtime"} {
		if got := strings.Join(d.serves.delta[k].names, " "); got != want {
			t.Errorf("%s: %s", k, got)
		}
		for _, name := range d.serves.delta[k].names {
			m, err := d.serves.delta[k].byName[name].GetResource().UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			if v, ok := m.(interface{ ValidateAll() error }); !ok || v.ValidateAll() != nil {
				t.Errorf("%s: Envoy would refuse %v", name, m)
			}
		}
	}
	again, err := parseDocument([]byte(everything), Names{}.withDefaults())
	if err != nil || !proto.Equal(again.serves.delta[kindRuntime].byName["svc-wallet.runtime"], d.serves.delta[kindRuntime].byName["svc-wallet.runtime"]) {
		t.Error("equal documents differ", err)
	}
}

// TestRemoval takes away what a sidecar has, part by part and then the group.
func TestRemoval(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": everything, "seven.json": `{"match":{"ids":["wallet-7*"]},"queue":7}`}})
	p := r.connect("delta", "wallet-70", "payments")
	p.subscribe(kindLimits, "svc-wallet.limits")
	m := p.next(kindLimits)
	p.ack(kindLimits, m)
	if m.mentions("5000000000000000000000") || !m.mentions("queue") {
		t.Fatalf("%+v", m)
	}
	r.put("seven", `{"match":{"ids":["wallet-7*"]}}`)
	if m = p.next(kindLimits); !slices.Equal(m.removed, []string{"svc-wallet.limits"}) {
		t.Fatalf("%+v", m)
	}
	p.ack(kindLimits, m)
	if got := r.call("DELETE", "/limits/seven", ""); got.status != 204 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if m = p.next(kindLimits); !m.mentions("5000000000000000000000") {
		t.Fatalf("the sidecar did not fall back to default: %+v", m)
	}
	p.ack(kindLimits, m)
	if got := r.call("DELETE", "/limits/default", ""); got.status != 204 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if m = p.next(kindLimits); !slices.Equal(m.removed, []string{"svc-wallet.limits"}) {
		t.Fatalf("%+v", m)
	}
}

// TestRemovalSotw has the state of the world say by emptiness what it cannot say by absence, but
// for clusters.
func TestRemovalSotw(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": everything}})
	p := r.connect("sotw", "wallet-1", "")
	p.subscribe(kindCluster)
	p.subscribe(kindLimits, "svc-wallet.limits")
	p.subscribe(kindRuntime, "svc-wallet.runtime")
	took := func(wantLimits, wantRuntime bool, wantClusters int) {
		t.Helper()
		for range 3 {
			m, err := p.receive()
			if err != nil {
				t.Fatal(err)
			}
			k := map[string]kind{"cluster": kindCluster, "limits": kindLimits, "runtime": kindRuntime}[m.kind]
			switch k {
			case kindLimits:
				if len(m.resources) != 1 || m.mentions("5000000000000000000000") != wantLimits {
					t.Errorf("%+v", m)
				}
			case kindRuntime:
				if len(m.resources) != 1 || m.mentions("svc-wallet.queue") != wantRuntime {
					t.Errorf("%+v", m)
				}
			default:
				if len(m.resources) != wantClusters {
					t.Errorf("%+v", m)
				}
			}
			p.ack(k, m)
		}
	}
	took(true, true, 2)
	r.put("default", `{}`)
	took(false, false, 0)
	r.put("default", everything)
	took(true, true, 2)
}

// TestAbsence asks for what is not there: a sidecar that starts from its last good must hear that.
func TestAbsence(t *testing.T) {
	r := newRig(t, rigOptions{})
	p := r.connect("delta", "wallet-1", "")
	p.send(kindLimits.url(), "", []string{"svc-wallet.limits", "other"}, map[string]string{"svc-wallet.limits": "old"}, "")
	m := p.next(kindLimits)
	slices.Sort(m.removed)
	if !slices.Equal(m.removed, []string{"other", "svc-wallet.limits"}) {
		t.Fatalf("%+v", m)
	}
	p.ack(kindLimits, m)
	r.put("default", `{"queue":5}`)
	if m = p.next(kindLimits); !m.mentions("queue") || len(m.removed) != 0 {
		t.Fatalf("%+v", m)
	}
}

// TestRefused has a sidecar refuse a version: the API shows why, and the version is not sent to
// that stream again, however often it is refused or asked for, until there is another one.
func TestRefused(t *testing.T) {
	for _, protocol := range []string{"delta", "sotw"} {
		t.Run(protocol, func(t *testing.T) {
			r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":1}`}})
			p := r.connect(protocol, "wallet-1", "")
			p.subscribe(kindLimits, "svc-wallet.limits")
			m := p.next(kindLimits)
			reason := "svc-wallet.limits: limits.queue: 1 (from push) is over nothing \x1b[31m" + strings.Repeat("ä", 5000)
			for range 1000 {
				p.nack(kindLimits, m, reason)
			}
			r.eventually("refused", func() bool {
				limits := r.sidecars()["wallet-1"].Types["limits"]
				return limits.Refused != nil && limits.Refused.Version == m.version && limits.Acked == "" && limits.LagMS == 0 &&
					strings.HasPrefix(limits.Refused.Reason, "svc-wallet.limits: limits.queue: 1") && strings.HasSuffix(limits.Refused.Reason, "ä…") && len(limits.Refused.Reason)-maxReason <= len("…") && len(limits.Refused.Reason) > maxReason
			})
			// Were it sent again, it would come before this answer.
			p.subscribe(kindCluster)
			p.ack(kindCluster, p.next(kindCluster))
			got := r.call("GET", "/metrics", "").body
			for _, want := range []string{`control_nacks_total{type="limits"} 1`, `control_pushes_total{type="limits"} 1`, `control_sidecars 1`, `control_groups 1`} {
				if !strings.Contains(got, want+"\n") {
					t.Errorf("the metrics lack %s", want)
				}
			}
			r.put("default", `{"queue":2}`)
			m = p.next(kindLimits)
			p.ack(kindLimits, m)
			r.eventually("taken", func() bool {
				limits := r.sidecars()["wallet-1"].Types["limits"]
				return limits.Acked == m.version && limits.Refused != nil
			})
		})
	}
}

// TestRestart brings the same content up again: a sidecar that says what it has is greeted and sent
// nothing, and is known to be up to date once it has answered.
func TestRestart(t *testing.T) {
	files := map[string]string{"default.json": everything}
	first := newRig(t, rigOptions{files: files})
	p := first.connect("delta", "wallet-1", "")
	p.subscribe(kindLimits, "svc-wallet.limits")
	m := p.next(kindLimits)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	second := newRig(t, rigOptions{files: files})
	p = second.connect("delta", "wallet-1", "")
	p.send(kindLimits.url(), "", []string{"svc-wallet.limits"}, m.versions, "")
	greeting := p.next(kindLimits)
	if len(greeting.resources)+len(greeting.removed) != 0 || greeting.version != m.version {
		t.Errorf("%+v", greeting)
	}
	p.ack(kindLimits, greeting)
	second.eventually("recognised", func() bool {
		limits := second.sidecars()["wallet-1"].Types["limits"]
		return limits.Acked == m.version && limits.Served == m.version
	})
	p = second.connect("delta", "wallet-2", "")
	p.send(kindLimits.url(), "", []string{"svc-wallet.limits"}, map[string]string{"svc-wallet.limits": "another"}, "")
	if again := p.next(kindLimits); again.versions["svc-wallet.limits"] != m.versions["svc-wallet.limits"] {
		t.Errorf("%+v", again)
	}
}

// TestRegroup moves sidecars between groups while they are connected. No stream ends for it.
func TestRegroup(t *testing.T) {
	for _, protocol := range []string{"delta", "sotw"} {
		t.Run(protocol, func(t *testing.T) {
			r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"max_amount_per_op":"11111"}`}})
			p := r.connect(protocol, "wallet-1", "payments")
			p.subscribe(kindLimits, "svc-wallet.limits")
			want := func(text, group string) {
				t.Helper()
				m := p.next(kindLimits)
				if !m.mentions(text) {
					t.Fatalf("%+v", m)
				}
				p.ack(kindLimits, m)
				if got := r.sidecars()["wallet-1"].Group; got != group {
					t.Fatalf("it is in %s", got)
				}
			}
			want("11111", "default")
			r.put("a", `{"match":{"clusters":["pay*"]},"max_amount_per_op":"22222"}`)
			want("22222", "a")
			r.put("b", `{"match":{"clusters":["payments"]},"max_amount_per_op":"33333"}`)
			want("33333", "b")
			r.put("c", `{"match":{"ids":["wallet-*"]},"max_amount_per_op":"44444"}`)
			want("44444", "c")
			r.put("d", `{"match":{"ids":["wallet-1"]},"max_amount_per_op":"55555"}`)
			want("55555", "d")
			if got := r.call("GET", "/limits", "").body; !strings.Contains(got, `"group":"d","file":"`+r.path("d.json")+`","version":`) || !strings.Contains(got, `"sidecars":1},{"group":"default"`) {
				t.Error(got)
			}
			for _, group := range []string{"d", "c", "b", "a"} {
				r.call("DELETE", "/limits/"+group, "")
				want(map[string]string{"d": "44444", "c": "33333", "b": "22222", "a": "11111"}[group], map[string]string{"d": "c", "c": "b", "b": "a", "a": "default"}[group])
			}
		})
	}
}

// TestPlainServices speaks the services of one type, in which the type need not be named.
func TestPlainServices(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": everything}})
	conn := r.dial(nil)
	node := &core.Node{Id: "envoy-1"}
	clusters, err := clusterservice.NewClusterDiscoveryServiceClient(conn).DeltaClusters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := clusters.Send(&discovery.DeltaDiscoveryRequest{Node: node}); err != nil {
		t.Fatal(err)
	}
	if m, err := clusters.Recv(); err != nil || len(m.GetResources()) != 2 {
		t.Fatal(m, err)
	}
	layers, err := runtimeservice.NewRuntimeDiscoveryServiceClient(conn).StreamRuntime(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := layers.Send(&discovery.DiscoveryRequest{Node: node, ResourceNames: []string{"svc-wallet.runtime"}}); err != nil {
		t.Fatal(err)
	}
	if m, err := layers.Recv(); err != nil || len(m.GetResources()) != 1 {
		t.Fatal(m, err)
	}
	if len(r.sidecars()["envoy-1"].Types) != 2 {
		t.Error(r.sidecars())
	}
	_, err = clusterservice.NewClusterDiscoveryServiceClient(conn).FetchClusters(t.Context(), &discovery.DiscoveryRequest{Node: node})
	if status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}
}

// TestOrder has a sidecar hear of a cluster before its endpoints, because it asks for those by the
// clusters that it knows.
func TestOrder(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{}`}})
	p := r.connect("delta", "wallet-1", "")
	p.subscribe(kindEndpoint, "ledger")
	p.ack(kindEndpoint, p.next(kindEndpoint))
	p.subscribe(kindCluster)
	p.ack(kindCluster, p.next(kindCluster))
	p.send("some.other.Type", "", nil, nil, "") // answered by nobody, and in nobody's way
	p.subscribe(kindLimits, "svc-wallet.limits")
	p.next(kindLimits) // the requests before were dealt with
	r.put("default", everything)
	p.next(kindCluster)
	if m := p.next(kindEndpoint); !m.mentions("10.0.0.7") {
		t.Errorf("%+v", m)
	}
}
