package control

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/config"
	"svc-wallet/xds"
)

// sidecar is the client that a sidecar has.
type ownSidecar struct {
	client *xds.Client
	live   *config.Live

	mu    sync.Mutex
	addrs []string
}

func (w *ownSidecar) amount() string { return w.live.Load().MaxAmountPerOp.String() }

func (w *ownSidecar) endpoints() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addrs
}

// startSidecar runs one until the test ends.
func startSidecar(t *testing.T, addr, protocol string, settings ...string) *ownSidecar {
	t.Helper()
	env := append([]string{
		"SVC_WALLET_XDS_ADDR=" + addr, "SVC_WALLET_XDS_PROTOCOL=" + protocol, "SVC_WALLET_XDS_NODE_ID=wallet-1",
		"SVC_WALLET_AMNESIA=true", "SVC_WALLET_TLS_CERT_FILE=c", "SVC_WALLET_TLS_KEY_FILE=k", "SVC_WALLET_AUTH_ROOT_KEYS_FILE=r",
	}, settings...)
	cfg, err := config.Load(config.Sources{Env: env, CPUs: 2})
	if err != nil {
		t.Fatal(err)
	}
	w := &ownSidecar{live: new(config.Live)}
	log := logrus.New()
	log.SetOutput(&lines{})
	w.client, err = xds.New(cfg, xds.Targets{Stack: config.NewStack(cfg, w.live), Endpoints: func(addrs []string) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.addrs = addrs
		return nil
	}}, xds.Options{Now: func() int64 { return time.Now().UnixNano() }, Log: log, Version: "test", Hostname: "host"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.client.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

// TestOwnSidecar has our sidecar obey our control plane: each kind of resource, a refusal over a
// ceiling, a removal, another group, and a restart, in both protocols.
func TestOwnSidecar(t *testing.T) {
	for _, protocol := range []string{"delta", "sotw"} {
		t.Run(protocol, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "control") // short enough for a socket
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			listen := func(o *Options) { o.Listen = "unix:" + filepath.Join(dir, "xds") }
			r := newRig(t, rigOptions{change: listen})
			w := startSidecar(t, r.plane.Addr(), protocol)
			static := w.amount()
			r.put("default", `{"max_amount_per_op":"7","runtime":{"svc-wallet.writes_enabled":false,"svc-wallet.queue":256},
				"clusters":{"ledger":{"connect_timeout":"250ms","max_requests":33,"endpoints":["unix:/run/a.sock","127.0.0.1:7000"]}}}`)
			r.eventually("in force", func() bool {
				l := w.live.Load()
				return w.amount() == "7" && l.WritesEnabled == 0 && l.Queue == 256 && l.InFlight == 33 && l.LedgerConnectTimeout == 250*time.Millisecond &&
					slices.Equal(w.endpoints(), []string{"unix:/run/a.sock", "127.0.0.1:7000"})
			})
			r.eventually("acknowledged", func() bool {
				s := r.sidecars()["wallet-1"]
				return len(s.Types) == 4 && !slices.ContainsFunc([]string{"limits", "runtime", "cluster", "endpoint"}, func(k string) bool {
					return s.Types[k].Acked != s.Types[k].Served
				})
			})
			r.put("default", `{"max_amount_per_op":"10000000000000000000000000"}`)
			r.eventually("refused", func() bool {
				refused := r.sidecars()["wallet-1"].Types["limits"].Refused
				return refused != nil && strings.HasPrefix(refused.Reason, "svc-wallet.limits: limits.max_amount_per_op: 10000000000000000000000000")
			})
			if w.amount() != "7" {
				t.Errorf("in force: %s", w.amount())
			}
			r.put("vip", `{"match":{"ids":["wallet-*"]},"max_amount_per_op":"9"}`)
			r.eventually("moved", func() bool { return w.amount() == "9" && len(w.endpoints()) == 0 && w.live.Load().Queue != 256 })
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			accepted := w.client.Updates("limits", "accepted")
			again := newRig(t, rigOptions{files: map[string]string{"default.json": `{"max_amount_per_op":"9"}`}, change: listen})
			again.eventually("back", func() bool { return w.client.Connected() && w.client.Updates("limits", "accepted") > accepted })
			if w.amount() != "9" {
				t.Errorf("in force: %s", w.amount())
			}
			if got := again.call("DELETE", "/limits/default", ""); got.status != 204 {
				t.Fatal(got)
			}
			again.eventually("fallen back", func() bool { return w.amount() == static && w.live.Load().WritesEnabled == config.Always })
		})
	}
}

// TestUpToDate keeps a sidecar that has everything already: that nothing comes to it is no silence.
func TestUpToDate(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"max_amount_per_op":"7"}`}})
	w := startSidecar(t, r.plane.Addr(), "delta", "SVC_WALLET_XDS_TYPES=limits")
	r.eventually("connected", func() bool { return w.client.Connected() && w.amount() == "7" })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	again := newRig(t, rigOptions{files: map[string]string{"default.json": `{"max_amount_per_op":"7"}`}, change: func(o *Options) { o.Listen = r.plane.Addr() }})
	again.eventually("connected again", func() bool {
		limits := again.sidecars()["wallet-1"].Types["limits"]
		return w.client.Connected() && limits.Acked != "" && limits.Acked == limits.Served
	})
	if w.client.Updates("limits", "removed") != 0 || w.amount() != "7" {
		t.Error(w.amount())
	}
}
