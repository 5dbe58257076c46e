package xds

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// assignmentOf is an EDS resource with Unix sockets.
func assignmentOf(name string, paths ...string) named {
	var list []string
	for _, p := range paths {
		list = append(list, `{"endpoint": {"address": {"pipe": {"path": "`+p+`"}}}}`)
	}
	m := new(endpoint.ClusterLoadAssignment)
	if err := protojson.Unmarshal([]byte(`{"cluster_name": "`+name+`", "endpoints": [{"lb_endpoints": [`+strings.Join(list, ",")+`]}]}`), m); err != nil {
		panic(err)
	}
	return named{name, pack(m)}
}

func ledgerAt(extra string, paths ...string) named {
	m := assignmentOf("ledger", paths...)
	cla := new(endpoint.ClusterLoadAssignment)
	if err := m.body.UnmarshalTo(cla); err != nil {
		panic(err)
	}
	text, err := protojson.Marshal(cla)
	if err != nil {
		panic(err)
	}
	return clusterOf(`{"name": "ledger", "type": "STATIC", "load_assignment": ` + string(text) + extra + `}`)
}

func ledgerSidecar(t *testing.T, protocol string) (*sidecar, *line) {
	t.Helper()
	p := startPlane(t)
	w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "cluster,endpoint"}})
	l := p.stream(t)
	if r := l.asks(clusterURL); protocol == "delta" && !slices.Equal(r.names, []string{"*"}) || protocol == "sotw" && len(r.names) != 0 {
		t.Errorf("asked for %v", r.names)
	}
	return w, l
}

// TestCluster: the ledger's cluster sets its limits and inline endpoints; the other clusters change
// nothing, and those that are not for us may be as they like; a removal falls back.
func TestCluster(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		w, l := ledgerSidecar(t, protocol)
		wide := `, "connect_timeout": "0.3s", "circuit_breakers": {"thresholds": [{"max_pending_requests": 77}]}`
		foreign := clusterOf(`{"name": "outbound|80||x", "type": "ORIGINAL_DST", "connect_timeout": "0s"}`)
		l.acked(l.push(clusterURL, "1", []named{ledgerAt(wide, "/a", "/b"), foreign, clusterOf(`{"name": "auth", "type": "STATIC"}`)}))
		n := w.live.Load()
		if n.Queue != 77 || n.LedgerConnectTimeout != 300*time.Millisecond || !slices.Equal(w.endpoints(), []string{"unix:/a", "unix:/b"}) {
			t.Errorf("queue %d, %v", n.Queue, w.endpoints())
		}
		states := map[string]string{}
		for _, r := range w.status().Resources {
			states[r.Name] = r.State
		}
		if states["ledger"] != "accepted" || states["auth"] != "accepted" || states["policy"] != "absent" || len(states) != 3 {
			t.Errorf("%v", states)
		}
		got := l.answer(l.push(clusterURL, "2", []named{clusterOf(`{"name": "policy", "circuit_breakers": {"thresholds": [{"max_requests": 0}]}}`)}))
		if got != "policy: limits.inflight: 0 (from push) is not in 1…1048576" {
			t.Error(got)
		}
		got = l.answer(l.push(clusterURL, "3", []named{ledgerAt(`, "circuit_breakers": {"thresholds": [{"max_pending_requests": 9000}]}`, "/x")}))
		if !strings.HasPrefix(got, "ledger: limits.queue: 9000 (from xds cluster ledger) is over ceilings.queue") || w.endpoints()[0] != "unix:/a" {
			t.Error(got, w.endpoints())
		}
		// None at all: the last ones stay.
		l.acked(l.push(clusterURL, "4", []named{ledgerAt("")}))
		if w.live.Load().Queue != 512 || !slices.Equal(w.endpoints(), []string{"unix:/a", "unix:/b"}) {
			t.Errorf("queue %d, %v", w.live.Load().Queue, w.endpoints())
		}
		var removed []string
		if protocol == "delta" {
			removed = []string{"ledger", "outbound|80||x"}
		}
		l.acked(l.push(clusterURL, "5", nil, removed...))
		if w.endpoints() != nil {
			t.Errorf("%v", w.endpoints())
		}
	})
}

// TestEndpoints: a cluster of type EDS has its assignment asked for; until it comes, and while it
// names nobody, the endpoints in use stay; one that is taken away falls back.
func TestEndpoints(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		w, l := ledgerSidecar(t, protocol)
		l.acked(l.push(clusterURL, "1", []named{ledgerAt("", "/static")}))
		eds := func(service string) []named {
			return []named{clusterOf(`{"name": "ledger", "type": "EDS", "eds_cluster_config": {"service_name": "` + service + `"}}`)}
		}
		l.acked(l.push(clusterURL, "2", eds("one")))
		if r := l.asks(endpointURL); !slices.Equal(r.names, []string{"one"}) || w.endpoints()[0] != "unix:/static" {
			t.Errorf("asked for %v, in use %v", r.names, w.endpoints())
		}
		l.acked(l.push(endpointURL, "1", []named{assignmentOf("one", "/1", "/2")}))
		if !slices.Equal(w.endpoints(), []string{"unix:/1", "unix:/2"}) {
			t.Errorf("%v", w.endpoints())
		}
		l.acked(l.push(endpointURL, "2", []named{assignmentOf("one")}))
		if !slices.Equal(w.endpoints(), []string{"unix:/1", "unix:/2"}) {
			t.Errorf("%v", w.endpoints())
		}
		l.acked(l.push(clusterURL, "3", eds("two")))
		if r := l.asks(endpointURL); !slices.Equal(r.names, []string{"two"}) || (protocol == "delta" && !slices.Equal(r.dropped, []string{"one"})) {
			t.Errorf("asked for %v, dropped %v", r.names, r.dropped)
		}
		l.acked(l.push(endpointURL, "3", []named{assignmentOf("two", "/3")}))
		if n := w.Updates("endpoint", "unexpected"); n != 0 || !slices.Equal(w.endpoints(), []string{"unix:/3"}) {
			t.Errorf("%v", w.endpoints())
		}
		l.acked(l.push(endpointURL, "4", []named{assignmentOf("one", "/4")})) // no longer asked for
		if n := w.Updates("endpoint", "unexpected"); n != 1 || !slices.Equal(w.endpoints(), []string{"unix:/3"}) {
			t.Errorf("%v", w.endpoints())
		}
		if protocol == "delta" {
			l.acked(l.push(endpointURL, "5", nil, "two"))
			if w.endpoints() != nil {
				t.Errorf("%v", w.endpoints())
			}
		}
	})
}

// TestEndpointsRefused: what the ledger client refuses is refused as a whole, limits included.
func TestEndpointsRefused(t *testing.T) {
	w, l := ledgerSidecar(t, "delta")
	l.acked(l.push(clusterURL, "1", []named{ledgerAt("", "/a")}))
	w.mu.Lock()
	w.addrsErr = errors.New("another ledger")
	w.mu.Unlock()
	narrow := `, "circuit_breakers": {"thresholds": [{"max_pending_requests": 7}]}`
	if got := l.answer(l.push(clusterURL, "2", []named{ledgerAt(narrow, "/b")})); got != "ledger: endpoints: another ledger" {
		t.Error(got)
	}
	if w.live.Load().Queue != 512 || w.endpoints()[0] != "unix:/a" {
		t.Errorf("queue %d, %v", w.live.Load().Queue, w.endpoints())
	}
	l.acked(l.push(clusterURL, "3", []named{ledgerAt(narrow, "/a")})) // the same endpoints: nobody is asked
	l.acked(l.push(clusterURL, "4", []named{clusterOf(`{"name": "ledger", "type": "EDS"}`)}))
	l.asks(endpointURL)
	if got := l.answer(l.push(endpointURL, "1", []named{assignmentOf("ledger", "/b")})); got != "ledger: endpoints: another ledger" {
		t.Error(got)
	}
	w.mu.Lock()
	w.addrsErr = nil
	w.mu.Unlock()
	far := `{"name": "ledger", "type": "STATIC", "load_assignment": {"endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "10.0.0.7", "port_value": 7000}}}}]}]}}`
	if got := l.answer(l.push(clusterURL, "5", []named{clusterOf(far)})); !strings.Contains(got, "10.0.0.7:7000 is neither a Unix socket nor a loopback address, so it needs ledger.tls_ca_file") {
		t.Error(got)
	}
	near := strings.ReplaceAll(far, "10.0.0.7", "127.0.0.2")
	l.acked(l.push(clusterURL, "6", []named{clusterOf(near)}))
	var many []string
	for i := range maxEndpoints + 1 {
		many = append(many, "/"+strings.Repeat("x", i+1))
	}
	if got := l.answer(l.push(clusterURL, "7", []named{ledgerAt("", many...)})); got != "ledger: load_assignment.endpoints: there are more than 64" {
		t.Error(got)
	}
	l.acked(l.push(clusterURL, "8", []named{ledgerAt("", many[1:]...)}))
}

// TestUnlimited: the largest number of all, by which a mesh says that there is no limit, is as high as
// the ceiling, before and after a restart, and refuses nothing else of the push.
func TestUnlimited(t *testing.T) {
	w, l := ledgerSidecar(t, "delta")
	most := &w.stack.Config().Ceilings
	l.acked(l.push(clusterURL, "1", []named{ledgerAt(`, "connect_timeout": "0.3s", "circuit_breakers": {"thresholds": [{"max_pending_requests": 4294967295, "max_requests": 4294967295}]}`, "/a")}))
	if n := w.live.Load(); n.Queue != most.Queue || n.InFlight != most.InFlight || n.LedgerConnectTimeout != 300*time.Millisecond {
		t.Errorf("queue %d, in flight %d, %s", n.Queue, n.InFlight, n.LedgerConnectTimeout)
	}
	w.stop()
	again := newSidecar(t, setup{idle: true, flags: map[string]string{"xds.addr": "unix:/nowhere", "xds.types": "cluster,endpoint", "xds.last_good_file": w.store.path}})
	if n := again.live.Load(); n.Queue != most.Queue || n.InFlight != most.InFlight {
		t.Errorf("after a restart: queue %d, in flight %d", n.Queue, n.InFlight)
	}
}

// TestIgnored: /config names the fields of a cluster and of an assignment that change nothing here,
// and none of those that do.
func TestIgnored(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		w, l := ledgerSidecar(t, protocol)
		l.acked(l.push(clusterURL, "1", []named{clusterOf(`{"name": "ledger", "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}, "service_name": "one"},
			"connect_timeout": "0.3s", "lb_policy": "RANDOM", "common_lb_config": {"healthy_panic_threshold": {"value": 1}},
			"circuit_breakers": {"thresholds": [{"max_requests": 9, "max_retries": 3}, {"priority": "HIGH", "max_requests": 9}], "per_host_thresholds": [{"max_connections": 1}]},
			"outlier_detection": {"consecutive_5xx": 5, "enforcing_consecutive_5xx": 100, "interval": "1s"}}`)}))
		l.asks(endpointURL)
		m := new(endpoint.ClusterLoadAssignment)
		if err := protojson.Unmarshal([]byte(`{"cluster_name": "one", "policy": {"drop_overloads": [{"category": "x"}], "overprovisioning_factor": 140}, "endpoints": [
			{"priority": 1, "load_balancing_weight": 3, "locality": {"zone": "z"}, "lb_endpoints": [{"health_status": "HEALTHY", "load_balancing_weight": 2, "endpoint": {"hostname": "h", "address": {"pipe": {"path": "/a"}}}}]}]}`), m); err != nil {
			t.Fatal(err)
		}
		l.acked(l.push(endpointURL, "1", []named{{"one", pack(m)}}))
		want := map[string][]string{
			"ledger": {"circuit_breakers.per_host_thresholds", "circuit_breakers.thresholds.max_retries", "common_lb_config.healthy_panic_threshold.value", "lb_policy", "outlier_detection.interval"},
			"one":    {"endpoints.lb_endpoints.endpoint.hostname", "endpoints.lb_endpoints.load_balancing_weight", "endpoints.load_balancing_weight", "endpoints.locality.zone", "policy.drop_overloads", "policy.overprovisioning_factor"},
		}
		for _, r := range w.status().Resources {
			if !slices.Equal(r.Ignored, want[r.Name]) {
				t.Errorf("%s: %q, want %q", r.Name, r.Ignored, want[r.Name])
			}
		}
	})
}

// TestClusterWhole: of a cluster whose endpoints are good and whose limits are not, or the other way
// round, nothing is in force, and the sidecar is what it was before; several resources of a response
// likewise.
func TestClusterWhole(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		w, l := ledgerSidecar(t, protocol)
		l.acked(l.push(clusterURL, "1", []named{ledgerAt(`, "connect_timeout": "0.3s"`, "/a")}))
		before := w.stack.Config()
		refused := func(resources ...named) {
			t.Helper()
			if l.answer(l.push(clusterURL, "bad", resources)) == "" || w.stack.Config() != before || !slices.Equal(w.endpoints(), []string{"unix:/a"}) {
				t.Errorf("%v in use", w.endpoints())
			}
		}
		refused(ledgerAt(`, "circuit_breakers": {"thresholds": [{"max_requests": 600, "max_pending_requests": 9000}]}`, "/b"))
		refused(ledgerAt(`, "circuit_breakers": {"thresholds": [{"max_requests": 600}]}`, "/b"), clusterOf(`{"name": "policy", "type": "ORIGINAL_DST"}`))
		w.mu.Lock()
		w.addrsErr = errors.New("another ledger")
		w.mu.Unlock()
		refused(ledgerAt(`, "circuit_breakers": {"thresholds": [{"max_requests": 600}]}`, "/b"))
	})
}

// TestNotAnswered: clusters that nobody has answered for are waiting, whatever was answered for other types.
func TestNotAnswered(t *testing.T) {
	p := startPlane(t)
	w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.types": "limits,cluster"}})
	l := p.stream(t)
	l.asks(extensionURL)
	l.acked(l.push(extensionURL, "1", limits(`{"queue": 5}`)))
	for _, r := range w.status().Resources {
		if want := map[bool]string{true: "accepted", false: "waiting"}[r.Type == "limits"]; r.State != want {
			t.Errorf("%+v, not %s", r, want)
		}
	}
	l.acked(l.push(clusterURL, "1", nil))
	for _, r := range w.status().Resources {
		if want := map[bool]string{true: "accepted", false: "absent"}[r.Type == "limits"]; r.State != want {
			t.Errorf("%+v, not %s", r, want)
		}
	}
}
