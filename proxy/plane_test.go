package proxy_test

import (
	"encoding/json"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"svc-wallet/config"
)

// plane is a control plane as operators see it.
type plane struct {
	connected atomic.Bool
	fetching  atomic.Bool
	unfetched atomic.Bool
	updates   atomic.Uint64 // of limits, accepted
}

func (p *plane) Fetching() bool  { return p.fetching.Load() }
func (p *plane) Unfetched() bool { return p.unfetched.Load() }

func (p *plane) Connected() bool { return p.connected.Load() }

func (p *plane) VersionAge() time.Duration {
	if p.Connected() {
		return 0
	}
	return 90 * time.Second
}

func (*plane) Types() []string    { return []string{"limits", "runtime"} }
func (*plane) Outcomes() []string { return []string{"accepted", "refused"} }

func (p *plane) Updates(typ, outcome string) uint64 {
	if typ == "limits" && outcome == "accepted" {
		return p.updates.Load()
	}
	return 0
}

func (*plane) Status() any {
	return []map[string]string{{"name": "svc-wallet.limits", "version": "v7"}}
}

// TestControlPlaneShown: /config shows each setting with the layer that it is from, a removal by its
// absence, and what the control plane says of its resources; the series follow it. Method: pushes
// onto the stack of a running sidecar, and one sidecar without a control plane.
func TestControlPlaneShown(t *testing.T) {
	p := &plane{}
	r := newRig(t, rigOptions{plane: p})
	type shown struct {
		Settings  []config.Effective
		Resources json.RawMessage
	}
	look := func(r *rig) (s shown) {
		t.Helper()
		status, body := r.adminGet("/config")
		if err := json.Unmarshal([]byte(body), &s); err != nil || status != 200 {
			t.Fatalf("%d %s: %v", status, body, err)
		}
		return s
	}
	queue := func() config.Effective {
		t.Helper()
		for _, e := range look(r).Settings {
			if e.Key == "limits.queue" {
				return e
			}
		}
		t.Fatal("limits.queue is not shown")
		return config.Effective{}
	}
	before := queue()
	if before.Source != "default" || before.Version != "" {
		t.Errorf("before a push: %+v", before)
	}
	push, err := config.ParsePush([]byte(`{"queue":7,"shadow":{"queue":3}}`))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := r.stack.Set(config.LayerLimits, push, config.Origin{Resource: "limits svc-wallet.limits", Version: "v7", At: at.UnixNano()}); err != nil {
		t.Fatal(err)
	}
	want := config.Effective{Key: "limits.queue", Value: "7", Source: "xds limits svc-wallet.limits", Version: "v7", Time: "2026-01-02T03:04:05Z"}
	if got := queue(); got != want {
		t.Errorf("after the push: %+v, want %+v", got, want)
	}
	if got := string(look(r).Resources); got != `[{"name":"svc-wallet.limits","version":"v7"}]` {
		t.Errorf("resources: %s", got)
	}
	if err := r.stack.Rebase(r.cfg); err != nil {
		t.Fatal(err)
	}
	if err := r.server.Reload(r.cfg); err != nil {
		t.Fatal(err)
	}
	if got := queue(); got != want {
		t.Errorf("after a reload: %+v, want %+v", got, want)
	}
	if err := r.stack.Set(config.LayerLimits, nil, config.Origin{}); err != nil {
		t.Fatal(err)
	}
	if got := queue(); got != before {
		t.Errorf("after the removal: %+v, want %+v", got, before)
	}

	p.updates.Store(3)
	series := func(want map[string]string) {
		t.Helper()
		for name, value := range want {
			if got := r.metric(name); got != value {
				t.Errorf("%s is %q, want %q", name, got, value)
			}
		}
	}
	series(map[string]string{
		`xds_updates_total{outcome="accepted",type="limits"}`: "3", `xds_updates_total{outcome="refused",type="runtime"}`: "0",
		"xds_connected": "0", "xds_version_age_seconds": "90",
	})
	p.connected.Store(true)
	series(map[string]string{"xds_connected": "1", "xds_version_age_seconds": "0"})

	alone := newRig(t, rigOptions{})
	if s := look(alone); s.Resources != nil || len(s.Settings) == 0 {
		t.Errorf("without a control plane: resources %s", s.Resources)
	}
	if _, text := alone.adminGet("/metrics"); strings.Contains(text, "xds_") {
		t.Error("there are series of a control plane that is not")
	}
}

// TestFetching: until the control plane has been heard once payments are refused, reads go on, and
// /readyz says what is missing; once it was waited for long enough, only that something is. Method: a
// control plane that says which of them it is.
func TestFetching(t *testing.T) {
	p := &plane{}
	r := newRig(t, rigOptions{plane: p})
	c := r.client()
	r.issueTo(c, "rich", 1000)
	nonce := uint64(0)
	check := func(what string, ready int, says string, payment, read int) {
		t.Helper()
		nonce++
		if a := r.call(c, "GET", "/readyz", ""); a.status != ready || !strings.Contains(string(a.body), says) {
			t.Errorf("%s: readyz: %d %s", what, a.status, a.body)
		}
		if a := r.call(c, "POST", "/v1/transfer", r.transfer("rich", "poor", 1, nonce), "Idempotency-Key", what); a.status != payment || (a.status == 503 && !strings.Contains(string(a.body), "waits for the limits that its control plane pushes")) {
			t.Errorf("%s: a payment: %d %s", what, a.status, a.body)
		}
		if a := r.call(c, "GET", "/v1/balance?account=rich&asset=ron", ""); a.status != read {
			t.Errorf("%s: a read: %d %s", what, a.status, a.body)
		}
	}
	p.fetching.Store(true)
	check("fetching", 503, `"degraded":false,"missing":["cfg_loaded"]`, 503, 200)
	p.fetching.Store(false)
	p.unfetched.Store(true)
	nonce = 0
	check("unfetched", 200, `"degraded":true,"missing":[]`, 200, 200)
	p.unfetched.Store(false)
	check("fetched", 200, `"degraded":false,"missing":[]`, 200, 200)
}
