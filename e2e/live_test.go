package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"svc-wallet/filters"
)

// controlPlane is a `control` process, or the one inside `dev`.
type controlPlane struct {
	*program
	xds, api, limits string
}

// newControlPlane chooses where it will be; start begins it, also again after a kill.
func newControlPlane(t testing.TB) *controlPlane {
	t.Helper()
	dir, err := os.MkdirTemp("", "control") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	limits := filepath.Join(dir, "limits.d")
	if err := os.Mkdir(limits, 0o700); err != nil {
		t.Fatal(err)
	}
	return &controlPlane{xds: "unix:" + filepath.Join(dir, "x.sock"), api: freePort(t), limits: limits}
}

func (c *controlPlane) start(t testing.TB) {
	t.Helper()
	c.program = start(t, "control", "--limits", c.limits, "--allow-empty", "--listen", c.xds, "--api", c.api, "--log-level", "warning")
	eventually(t, "the control plane answers", func() bool {
		resp, err := http.Get("http://" + c.api + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// put pushes a document and waits until every sidecar has answered. All must have accepted it.
func (c *controlPlane) put(t testing.TB, document string) {
	t.Helper()
	if said, err := c.tryPut(t.Context(), document); err != nil || said.Accepted != 1 || said.Refused+said.Waiting > 0 {
		t.Fatalf("PUT %s: %+v %v", document, said, err)
	}
}

// answers is how many sidecars said what to a push.
type answers struct{ Accepted, Refused, Waiting int }

func (c *controlPlane) tryPut(ctx context.Context, document string) (said answers, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+c.api+"/limits/default?wait=20s", strings.NewReader(document))
	if err != nil {
		return said, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return said, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return said, err
	}
	if resp.StatusCode/100 != 2 {
		return said, fmt.Errorf("%s: %s", resp.Status, data)
	}
	var body struct{ Answers answers }
	err = json.Unmarshal(data, &body)
	return body.Answers, err
}

// controlOf is the control plane inside dev.
func controlOf(d *devProcess) *controlPlane {
	return &controlPlane{api: strings.TrimPrefix(d.env["CONTROL_URL"], "http://")}
}

// once sends a payment and does not try again.
func (w *client) once(t testing.TB, path, key, body string) answer {
	t.Helper()
	a, err := w.do(t.Context(), http.MethodPost, path, body, "Idempotency-Key", key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestLiveLimits tells the issue's story on `dev`: a lower cap, a kill switch, a revoked token and
// a shadow limit are in force for the very next request; what is taken away falls back; what
// is over a ceiling is refused with the reason, and /config tells where each value is from.
func TestLiveLimits(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir())
	plane := controlOf(d)
	nonce := 1
	if a := d.post(t, "/v1/issue", "fund", `{"to":"alice","asset":"ron","amount_minor":"1000","nonce":1}`); a.status != 200 {
		t.Fatal(a)
	}
	pay := func(amount, status int, code string) {
		t.Helper()
		send := d.post
		if code == "RETRY_LATER" {
			send = d.once
		}
		a := send(t, "/v1/transfer", fmt.Sprintf("pay-%d", nonce), fmt.Sprintf(`{"from":"alice","to":"bob","asset":"ron","amount_minor":"%d","nonce":%d}`, amount, nonce))
		if a.status != status || a.code() != code {
			t.Fatalf("a payment of %d: %s, want %d %s", amount, a, status, code)
		}
		if status == 200 {
			nonce++
		}
	}
	read := func(status int) {
		t.Helper()
		if a := d.get(t, "/v1/balance?account=alice&asset=ron"); a.status != status {
			t.Fatalf("balance: %s, want %d", a, status)
		}
	}

	pay(101, 200, "")
	plane.put(t, `{"max_amount_per_op":"100"}`)
	pay(101, 403, "LIMITS_EXCEEDED")
	pay(100, 200, "")
	plane.put(t, `{"runtime":{"svc-wallet.max_amount_per_op":"50"},"max_amount_per_op":"100"}`) // a knob over the limits
	pay(51, 403, "LIMITS_EXCEEDED")
	if s := d.setting(t, "limits.max_amount_per_op"); s.Value != "50" || !strings.Contains(s.Source, "svc-wallet.runtime") || s.Version == "" || s.Time == "" {
		t.Errorf("/config says %+v", s)
	}

	plane.put(t, `{"writes_enabled":false}`)
	pay(1, 503, "RETRY_LATER")
	read(200)
	plane.put(t, `{"runtime":{"svc-wallet.route.balance.enabled":false}}`)
	read(503)
	pay(1, 200, "")

	inspected := inspect(t, d.token)
	read(503)
	plane.put(t, fmt.Sprintf(`{"revoked_tokens":[%q]}`, inspected))
	read(401) // although the token was verified a moment ago
	plane.put(t, `{"revoked_keys":["dev"]}`)
	read(401)

	plane.put(t, `{"shadow":{"max_amount_per_op":"10"}}`)
	read(200)
	pay(11, 200, "")
	if n := d.metric(t, `wallet_shadow_refusals_total{limit="max_amount_per_op"}`); n != 1 {
		t.Errorf("%v payments would have been refused, want 1", n)
	}

	if _, err := plane.tryPut(t.Context(), `{"max_amount_per_op":0,"quue":1}`); err == nil || !strings.Contains(err.Error(), "quue") || !strings.Contains(err.Error(), "max_amount_per_op") {
		t.Errorf("a document with two faults: %v", err)
	}
	said, err := plane.tryPut(t.Context(), `{"rate_per_second":100000000}`) // only the sidecar knows its ceilings
	if err != nil || said != (answers{Refused: 1}) {
		t.Errorf("a limit over the ceiling: %+v %v", said, err)
	}
	if n := d.metric(t, `xds_updates_total{outcome="refused",type="limits"}`); n == 0 {
		t.Error("no update was counted as refused")
	}
	pay(11, 200, "")

	plane.put(t, `{}`)
	pay(101, 200, "")
	if s := d.setting(t, "limits.max_amount_per_op"); s.Source != "default" {
		t.Errorf("/config says %+v after all was taken away", s)
	}
	d.stop()
}

// inspect is the id of a token.
func inspect(t testing.TB, token string) string {
	t.Helper()
	i, err := filters.InspectToken(token, nil, time.Now().UnixNano())
	if err != nil {
		t.Fatal(err)
	}
	return i.TokenID
}

// setting reads one setting of the admin listener's /config.
func (w *client) setting(t testing.TB, key string) (s struct{ Key, Value, Source, Version, Time string }) {
	t.Helper()
	resp, err := http.Get(w.admin + "/config")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var all struct {
		Settings []struct{ Key, Value, Source, Version, Time string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&all); err != nil {
		t.Fatal(err)
	}
	for _, s := range all.Settings {
		if s.Key == key {
			return s
		}
	}
	t.Fatalf("/config has no %s", key)
	return s
}

// TestPushesUnderLoad pushes two documents in turn, as often as 1,000 times, while requests come
// at a constant rate. Under one of them issues are switched on and 50 is over the cap, under the
// other they are switched off and it is not; so a request that saw the switch of the one and the
// cap of the other would issue money. Everything else must succeed throughout.
func TestPushesUnderLoad(t *testing.T) {
	rate, pushes := 2000, 1000
	if raceEnabled { // program and driver are several times slower, and share two cores
		rate, pushes = 150, 100
	}
	documents := [2]string{
		`{"max_amount_per_op":"10","issue_enabled":true}`,
		`{"max_amount_per_op":"1000","issue_enabled":false}`,
	}
	plane := newControlPlane(t)
	plane.start(t)
	p := startPair(t, "--xds", plane.xds, "--amnesia")
	for i := range 64 {
		if a := p.post(t, "/v1/issue", fmt.Sprintf("fund%d", i), fmt.Sprintf(`{"to":"w%d","asset":"ron","amount_minor":"1000000","nonce":1}`, i)); a.status != 200 {
			t.Fatal(a)
		}
	}
	eventually(t, "the sidecar follows the control plane", func() bool {
		said, err := plane.tryPut(t.Context(), documents[0])
		return err == nil && said.Accepted == 1
	})

	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	l := &load{client: p.unchecked(t), ctx: ctx, done: make(chan struct{})}
	l.run(64, rate)
	begin := time.Now()
	pushed := 0
	for pushed < pushes || !l.proves() {
		pushed++
		if said, err := plane.tryPut(ctx, documents[pushed%2]); err != nil || said.Accepted != 1 {
			t.Fatalf("push %d: %+v %v", pushed, said, err)
		}
	}
	took := time.Since(begin)
	close(l.done)
	l.workers.Wait()
	t.Logf("%d pushes in %v; %d reads, %d transfers (%d told to retry), issues: %d over the cap, %d switched off",
		pushed, took, l.reads.Load(), l.transfers.Load(), l.retried.Load(), l.overCap.Load(), l.switchedOff.Load())
	for _, f := range l.faults {
		t.Error(f)
	}
	if v := p.metric(t, `xds_updates_total{outcome="accepted",type="limits"}`); v < float64(pushes) {
		t.Errorf("%v updates were accepted, want %d at least", v, pushes)
	}
	conserved(t, p)
}

// load is requests at a constant rate, whatever the answers take.
type load struct {
	*client
	ctx     context.Context
	done    chan struct{}
	workers sync.WaitGroup

	reads, transfers, retried, overCap, switchedOff atomic.Int64

	mu     sync.Mutex
	faults []string
}

// proves says whether enough has happened to prove anything.
func (l *load) proves() bool {
	return l.overCap.Load() > 5 && l.switchedOff.Load() > 5 && l.transfers.Load() > 50 && l.reads.Load() > 200
}

// run starts workers that share the rate, each with an account of its own.
func (l *load) run(workers, rate int) {
	for i := range workers {
		l.workers.Go(func() {
			tick := time.NewTicker(time.Second * time.Duration(workers) / time.Duration(rate))
			defer tick.Stop()
			for n := 2; ; n++ {
				select {
				case <-l.done:
					return
				case <-tick.C:
					l.request(i, n)
				}
			}
		})
	}
}

func (l *load) request(worker, n int) {
	switch rand.IntN(10) {
	case 0:
		l.issue(worker, n)
	case 1, 2:
		l.transfer(worker, n)
	default:
		a, err := l.do(l.ctx, http.MethodGet, fmt.Sprintf("/v1/balance?account=w%d&asset=ron", worker), "")
		l.reads.Add(1)
		if err != nil || a.status != 200 {
			l.fault("a read: %s %v", a, err)
		}
	}
}

// issue asks for 50, which neither document allows, each for another reason.
func (l *load) issue(worker, n int) {
	body := fmt.Sprintf(`{"to":"w%d","asset":"ron","amount_minor":"50","nonce":%d}`, worker, n)
	a, err := l.do(l.ctx, http.MethodPost, "/v1/issue", body, "Idempotency-Key", fmt.Sprintf("i%d-%d", worker, n))
	switch {
	case err == nil && a.code() == "LIMITS_EXCEEDED":
		l.overCap.Add(1)
	case err == nil && a.code() == "RETRY_LATER":
		l.switchedOff.Add(1)
	default:
		l.fault("an issue that mixes two versions of the limits: %s %v", a, err)
	}
}

// transfer pays 1, which both documents allow. It repeats what a ledger that seems to stall on a
// busy machine refuses, see client.patiently.
func (l *load) transfer(worker, n int) {
	body := fmt.Sprintf(`{"from":"w%d","to":"till","asset":"ron","amount_minor":"1","nonce":%d}`, worker, n)
	for {
		a, err := l.do(l.ctx, http.MethodPost, "/v1/transfer", body, "Idempotency-Key", fmt.Sprintf("t%d-%d", worker, n))
		if err == nil && a.code() == "RETRY_LATER" && !strings.Contains(a.body, "this operation is switched off") {
			l.retried.Add(1)
			pause(l.ctx, 10*time.Millisecond)
			continue
		}
		l.transfers.Add(1)
		if err != nil || a.status != 200 {
			l.fault("a transfer: %s %v", a, err)
		}
		return
	}
}

func (l *load) fault(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.faults) < 20 {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

// unchecked is the client without the check against the API document, which takes longer than the
// request.
func (w *client) unchecked(t testing.TB) *client {
	c := *w
	c.http = &http.Client{Transport: c.transport, Timeout: time.Minute}
	return &c
}

// TestControlPlaneAway starts a sidecar while the control plane is away: what it said last is in
// force, from the disk. It comes back with something else, which is then in force without a
// restart; and is killed again, which changes nothing but the age that is told.
func TestControlPlaneAway(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"delta", "sotw"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			plane := newControlPlane(t)
			p := newPair(t, "--xds", plane.xds)
			p.env = []string{
				"SVC_WALLET_XDS_PROTOCOL=" + protocol,
				"SVC_WALLET_XDS_LAST_GOOD_FILE=" + filepath.Join(filepath.Dir(plane.limits), "last-good.json"),
				"SVC_WALLET_XDS_INITIAL_FETCH_TIMEOUT=500ms",
			}
			p.startNode()
			p.startSide()
			p.ready(t) // nobody has ever heard of the control plane
			if _, text := admin(t, p.client, http.MethodGet, "/readyz"); !strings.Contains(text, `"degraded":true`) {
				t.Errorf("/readyz says %s", text)
			}
			amount := func(n int) answer {
				return p.post(t, "/v1/issue", fmt.Sprintf("%s-%d", protocol, n), fmt.Sprintf(`{"to":"alice","asset":"ron","amount_minor":"%d","nonce":%d}`, n, n))
			}
			capIs := func(cap string) func() bool {
				return func() bool { return p.setting(t, "limits.max_amount_per_op").Value == cap }
			}
			if a := amount(1); a.status != 200 {
				t.Fatal(a)
			}

			plane.start(t)
			eventually(t, "the sidecar is connected", func() bool { return p.metric(t, "xds_connected") == 1 })
			plane.put(t, `{"max_amount_per_op":"100"}`)
			if a := amount(101); a.code() != "LIMITS_EXCEEDED" {
				t.Fatal(a)
			}

			p.side.stop()
			plane.kill()
			p.startSide()
			p.ready(t)
			if s := p.setting(t, "limits.max_amount_per_op"); s.Value != "100" || !strings.HasPrefix(s.Source, "last good") {
				t.Errorf("/config says %+v", s)
			}
			if a := amount(102); a.code() != "LIMITS_EXCEEDED" {
				t.Fatal(a)
			}
			if p.metric(t, "xds_connected") != 0 {
				t.Error("connected to a control plane that is not there")
			}
			age := p.metric(t, "xds_version_age_seconds")
			eventually(t, "the age grows", func() bool { return p.metric(t, "xds_version_age_seconds") > age })

			if err := os.WriteFile(filepath.Join(plane.limits, "default.json"), []byte(`{"max_amount_per_op":"200"}`), 0o600); err != nil {
				t.Fatal(err)
			}
			plane.start(t)
			eventually(t, "the sidecar has heard of the change", capIs("200"))
			if a := amount(150); a.status != 200 {
				t.Fatal(a)
			}
			plane.kill()
			eventually(t, "the sidecar knows that it is alone", func() bool { return p.metric(t, "xds_connected") == 0 })
			if a := amount(151); a.status != 200 {
				t.Fatal(a)
			}
			p.side.stop()
		})
	}
}

// TestRevokedBeforeTheStart starts a sidecar that has no last good file before its control plane, which
// has revoked the client's token: the sidecar is not ready, and no payment of it goes through, neither
// before the control plane answers nor after.
func TestRevokedBeforeTheStart(t *testing.T) {
	t.Parallel()
	plane := newControlPlane(t)
	p := newPair(t, "--xds", plane.xds, "--amnesia")
	p.env = []string{"SVC_WALLET_XDS_INITIAL_FETCH_TIMEOUT=5m"}
	p.startNode()
	p.startSide()
	eventually(t, "only the control plane's answer is missing", func() bool {
		resp, err := http.Get(p.admin + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(text), `"missing":["cfg_loaded"]`)
	})
	issue := `{"to":"alice","asset":"ron","amount_minor":"1","nonce":1}`
	if a := p.once(t, "/v1/issue", "early", issue); a.code() != "RETRY_LATER" {
		t.Errorf("before the control plane: %v", a)
	}
	document := fmt.Sprintf(`{"revoked_tokens":[%q]}`, inspect(t, p.token))
	if err := os.WriteFile(filepath.Join(plane.limits, "default.json"), []byte(document), 0o600); err != nil {
		t.Fatal(err)
	}
	plane.start(t)
	eventually(t, "the token is refused", func() bool {
		a := p.once(t, "/v1/issue", "early", issue)
		if a.status == http.StatusOK {
			t.Fatalf("a payment of a revoked token: %v", a)
		}
		return a.status == http.StatusUnauthorized
	})
	p.ready(t)
}

// TestPushedAmnesia obeys a control plane and writes no file.
func TestPushedAmnesia(t *testing.T) {
	t.Parallel()
	plane := newControlPlane(t)
	plane.start(t)
	file := filepath.Join(filepath.Dir(plane.limits), "last-good.json")
	p := newPair(t, "--xds", plane.xds, "--amnesia")
	p.env = []string{"SVC_WALLET_XDS_LAST_GOOD_FILE=" + file}
	p.start()
	eventually(t, "the sidecar follows the control plane", func() bool {
		said, err := plane.tryPut(t.Context(), `{"max_amount_per_op":"100"}`)
		return err == nil && said.Accepted == 1
	})
	p.side.stop()
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("%s was written: %v", file, err)
	}
}

// TestEndpointsMove moves the ledger's endpoint to and fro between two ways to one node while 16
// clients pay, then to another ledger, which must not be used: every payment is known in the end,
// and no money is made or lost.
func TestEndpointsMove(t *testing.T) {
	t.Parallel()
	plane := newControlPlane(t)
	plane.start(t)
	p := newPair(t, "--xds", plane.xds, "--amnesia", "--log-level", "info")
	p.startNode()
	detour := relay(t, strings.TrimPrefix(p.ledgerAddr, "unix:"))
	stranger := "unix:" + filepath.Join(filepath.Dir(plane.limits), "s.sock")
	serveEngine(t, stranger, memoryEngine(t))
	p.startSide()
	p.ready(t)
	eventually(t, "the sidecar is connected", func() bool { return p.metric(t, "xds_connected") == 1 })

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := startCrowd(t, p, 16, seed)
	cluster := func(addrs ...string) string {
		list, err := json.Marshal(addrs)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"clusters":{"ledger":{"endpoints":%s}}}`, list)
	}
	const moves = 20
	for i := range moves {
		to := []string{p.ledgerAddr, detour}[(i+1)%2]
		plane.put(t, cluster(to))
		eventually(t, "the ledger is reached by "+to, func() bool { return p.metric(t, "ledger_endpoint_moves_total") == float64(i+1) })
		c.goesOn(t, 20)
	}
	plane.put(t, cluster(stranger))
	eventually(t, "the other ledger is refused", func() bool { return p.metric(t, "ledger_endpoint_refused_total") > 0 })
	if n := p.metric(t, "ledger_endpoint_moves_total"); n != moves {
		t.Errorf("moved %v times, want %d: the last endpoint is another ledger", n, moves)
	}
	c.audit(t, p)
}

// relay is another way to a Unix socket, until the test ends.
func relay(t testing.TB, to string) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", to)
			if err != nil {
				in.Close()
				continue
			}
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
	return ln.Addr().String()
}
