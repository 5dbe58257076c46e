package e2e

import (
	"context"
	crand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/host"
	"svc-wallet/ledger/node"
	"svc-wallet/wallet"
)

// TestKills pays with 32 clients at once through a sidecar and a node in processes of their own,
// and kills each of them -9 at random moments, 20 times, each time after some payments went through
// and until some client had to retry. Clients retry a key until they know what became of it. In the
// end every acknowledged receipt is there, no key was committed twice, and each balance is what the
// acknowledged payments make of it, to the last unit.
func TestKills(t *testing.T) {
	t.Parallel()
	const kills = 20
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	p := newPair(t)
	p.env = []string{"SVC_WALLET_BREAKER_OPEN=100ms"} // so that the test is about kills, not about waiting
	p.start()
	c := startCrowd(t, p, 32, seed)

	rnd := rand.New(rand.NewPCG(seed, 1<<32))
	killed := map[string]int{}
	for killed["node"] < kills || killed["side"] < kills {
		c.goesOn(t, 1+rnd.IntN(25))
		wait(t, time.Duration(rnd.IntN(20))*time.Millisecond)
		if killed["side"] >= kills || (killed["node"] < kills && rnd.IntN(2) == 0) {
			p.node.kill()
			c.falters(t)
			p.startNode()
			killed["node"]++
		} else {
			p.side.kill()
			c.falters(t)
			p.startSide()
			killed["side"]++
		}
	}
	c.audit(t, p)
}

// crowd is clients that pay one another until they are told that it is enough.
type crowd struct {
	payers       []*payer
	working      sync.WaitGroup
	enough       atomic.Bool
	paid, failed atomic.Int64 // receipts, and attempts without one
}

func startCrowd(t *testing.T, p *pair, size int, seed uint64) *crowd {
	c := &crowd{payers: make([]*payer, size)}
	for i := range c.payers {
		one := &payer{
			client: p.client, crowd: c, name: fmt.Sprintf("payer%d", i),
			rnd: rand.New(rand.NewPCG(seed, uint64(i))), receipts: map[string]string{}, delta: map[string]int64{},
		}
		c.payers[i] = one
		c.working.Go(func() { one.run(t.Context()) })
	}
	t.Cleanup(c.working.Wait)
	return c
}

// goesOn waits until n more payments were made.
func (c *crowd) goesOn(t testing.TB, n int) {
	t.Helper()
	before := c.paid.Load()
	eventually(t, "payments go on", func() bool { return c.paid.Load() >= before+int64(n) })
}

// falters waits until one more attempt has failed.
func (c *crowd) falters(t testing.TB) {
	t.Helper()
	before := c.failed.Load()
	eventually(t, "a client had to retry", func() bool { return c.failed.Load() > before })
}

// payer is one client with an account of its own: it makes one payment at a time and retries it
// until its outcome is known.
type payer struct {
	*client
	crowd    *crowd
	name     string
	rnd      *rand.Rand
	nonce    uint64
	receipts map[string]string // key → the acknowledged receipt
	delta    map[string]int64  // account → what the acknowledged payments moved
	faults   []string
}

func (p *payer) run(ctx context.Context) {
	p.settle(ctx, "/v1/issue", fmt.Sprintf(`{"to":%q,"asset":"ron","amount_minor":"100000","nonce":1}`, p.name), func() {
		p.delta[p.name] += 100000
	})
	for !p.crowd.enough.Load() && ctx.Err() == nil {
		pause(ctx, time.Duration(p.rnd.IntN(100))*time.Millisecond) // what dies and moves has the CPU to come back
		p.nonce++
		amount := int64(1 + p.rnd.IntN(50))
		if p.rnd.IntN(10) == 0 {
			p.settle(ctx, "/v1/burn", fmt.Sprintf(`{"from":%q,"asset":"ron","amount_minor":"%d","nonce":%d}`, p.name, amount, p.nonce), func() {
				p.delta[p.name] -= amount
			})
			continue
		}
		to := fmt.Sprintf("payer%d", p.rnd.IntN(len(p.crowd.payers)))
		if to == p.name {
			to = "till"
		}
		p.settle(ctx, "/v1/transfer", fmt.Sprintf(`{"from":%q,"to":%q,"asset":"ron","amount_minor":"%d","nonce":%d}`, p.name, to, amount, p.nonce), func() {
			p.delta[p.name] -= amount
			p.delta[to] += amount
		})
	}
}

// settle sends one payment until it is acknowledged or certainly refused. Some acknowledged ones
// are sent once more: the answer must be the same receipt.
func (p *payer) settle(ctx context.Context, path, body string, applied func()) {
	key := fmt.Sprintf("%s-%d-%s", p.name, p.nonce, path[len("/v1/"):])
	for try := 0; ctx.Err() == nil; try++ {
		a, err := p.do(ctx, http.MethodPost, path, body, "Idempotency-Key", key)
		switch {
		case err != nil || a.status == 503 || a.status == 429:
			p.crowd.failed.Add(1)
			pause(ctx, time.Duration(1+p.rnd.IntN(50))*time.Millisecond)
		case a.status == 200:
			if first, ok := p.receipts[key]; !ok {
				p.receipts[key] = a.body
				applied()
				p.crowd.paid.Add(1)
			} else if first != a.body {
				p.faults = append(p.faults, fmt.Sprintf("%s replayed as\n%s\nafter\n%s", key, a.body, first))
			}
			if len(p.receipts)%8 != 0 || a.header.Get("Idempotency-Replayed") != "" {
				return
			}
		case a.code() == "INSUFFICIENT_FUNDS" && p.receipts[key] == "":
			return // certain; the nonce was not used up, but gaps are allowed
		default:
			p.faults = append(p.faults, fmt.Sprintf("%s (try %d) was answered %s", key, try, a))
			return
		}
	}
}

// audit ends the payments, once each has a known outcome, and holds the ledger against what the payers
// know.
func (c *crowd) audit(t *testing.T, p *pair) {
	t.Helper()
	c.enough.Store(true)
	c.settled(t)
	want := map[string]int64{}
	txids := map[string]string{}
	for _, payer := range c.payers {
		for _, f := range payer.faults {
			t.Error(f)
		}
		for account, d := range payer.delta {
			want[account] += d
		}
		for key, receipt := range payer.receipts {
			var r struct{ TxID, Idem string }
			if err := json.Unmarshal([]byte(receipt), &r); err != nil || r.Idem != key {
				t.Fatalf("%s has the receipt %s (%v)", key, receipt, err)
			}
			if other, twice := txids[r.TxID]; twice {
				t.Errorf("%s and %s share a transaction", key, other)
			}
			txids[r.TxID] = key
			if a := p.found(t, "/v1/tx/"+r.TxID); a.status != 200 || a.body != receipt {
				t.Errorf("receipt of %s is\n%s\nbut the ledger has %s", key, receipt, a)
			}
		}
	}
	for account, sum := range want {
		a := p.found(t, "/v1/balance?account="+account+"&asset=ron")
		if !strings.Contains(a.body, fmt.Sprintf(`"amount_minor":"%d"`, sum)) {
			t.Errorf("%s should have %d, the ledger says %s", account, sum, a)
		}
	}
	t.Logf("%d receipts, %d retries", len(txids), c.failed.Load())
	conserved(t, p)
}

// settled waits for the payments under way.
func (c *crowd) settled(t testing.TB) {
	t.Helper()
	done := make(chan struct{})
	go func() { c.working.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("some payment has no known outcome")
	}
}

// conserved reads the counters of the node's checks of each batch, stops it, reads its whole store, in
// which every key, balance and sum must be right, and starts it again.
func conserved(t *testing.T, p *pair) {
	t.Helper()
	eventually(t, "conservation was checked", func() bool { return p.metric(t, `wallet_conservation_checks_total{outcome="ok"}`) > 0 })
	if n := p.metric(t, `wallet_conservation_checks_total{outcome="failed"}`); n != 0 {
		t.Errorf("%v conservation checks failed", n)
	}
	p.node.stop()
	report, err := node.VerifyPebble(t.Context(), p.ledgerArgs[2], func(int64, int64) {})
	if err != nil || report.Faults > 0 {
		t.Errorf("the store: %v, %+v", err, report)
	}
	p.startNode()
	p.ready(t)
}

// TestStall stops the node as a whole (SIGSTOP) and lets it go on: readiness turns, writes are refused
// with Retry-After, reads go on with an honest and growing stale_ms, and all of it recovers. That it
// turns within 200 ms is for the ledger's tests, whose clock does not depend on the machine.
func TestStall(t *testing.T) {
	p := startPair(t)
	issue := `{"to":"alice","asset":"ron","amount_minor":"7","nonce":1}`
	if a := p.post(t, "/v1/issue", "k1", issue); a.status != 200 {
		t.Fatal(a)
	}
	balance := func() (stale int) {
		a := p.get(t, "/v1/balance?account=alice&asset=ron")
		var b struct {
			Amount  string `json:"amount_minor"`
			StaleMS int    `json:"stale_ms"`
		}
		if err := json.Unmarshal([]byte(a.body), &b); err != nil || a.status != 200 || b.Amount != "7" {
			t.Fatalf("balance: %s", a)
		}
		return b.StaleMS
	}
	fresh := func() bool { return balance() <= 250 }
	var asked time.Time
	eventually(t, "a balance of a healthy ledger is fresh", func() bool { asked = time.Now(); return fresh() })
	p.node.signal(syscall.SIGSTOP)
	t.Logf("/readyz turned %v after the stop", p.readiness(t, http.StatusServiceUnavailable))
	again := strings.Replace(issue, `:1}`, `:2}`, 1)
	a, err := p.do(t.Context(), http.MethodPost, "/v1/issue", again, "Idempotency-Key", "k2")
	if err != nil {
		t.Fatal(err)
	}
	if a.status != 503 || a.code() != "RETRY_LATER" || a.header.Get("Retry-After") == "" || strings.Contains(a.body, "unknown") {
		t.Errorf("a payment to a stalled ledger: %s %v", a, a.header)
	}
	for _, path := range []string{"/v1/tx/tx_01ARZ3NDEKTSV4RRFFQ69G5FAV", "/v1/tx?account=alice&idem=k1", "/v1/balance?account=bob&asset=ron"} {
		if a := p.get(t, path); a.code() != "UPSTREAM_UNAVAILABLE" || !strings.Contains(a.body, "the ledger is stalled; nothing was found out, ask again") {
			t.Errorf("%s of a stalled ledger: %s", path, a)
		}
	}
	first := balance()
	wait(t, 300*time.Millisecond)
	second, since := balance(), time.Since(asked)
	if second < first+250 || time.Duration(second)*time.Millisecond > since+250*time.Millisecond {
		t.Errorf("stale_ms went from %d to %d, %v after a fresh balance was asked for", first, second, since)
	}

	p.node.signal(syscall.SIGCONT)
	p.ready(t)
	eventually(t, "a balance is fresh after the stall", fresh)
	if a := p.post(t, "/v1/issue", "k2", again); a.status != 200 {
		t.Errorf("after the stall: %s", a)
	}
}

// TestDrain stops a sidecar with SIGTERM while 32 clients pay and read: each request that was
// sent is answered, and the process ends with 0. A client whose connection ends before its request
// went out (the dial is refused, or the kernel resets what was never accepted) knows that nothing
// happened. As in proxy's TestDrainUnderLoad, a client that this machine starves for longer than a
// connection need be quiet may send just as it is closed.
func TestDrain(t *testing.T) {
	t.Parallel()
	const drainQuiet = 250 * time.Millisecond // proxy's
	p := startPair(t)
	ctx := t.Context()
	var answered, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for n := 1; ctx.Err() == nil && refused.Load() < 200; n++ { // else they would come again for as long as it listens
				var a answer
				var err error
				var sent atomic.Bool   // on the connection of the last attempt
				var quiet atomic.Int64 // since when nothing was asked on it
				traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
					GetConn:      func(string) { sent.Store(false); quiet.Store(time.Now().UnixNano()) },
					GotConn:      func(c httptrace.GotConnInfo) { quiet.Add(-int64(c.IdleTime)) },
					WroteHeaders: func() { sent.Store(true) },
				})
				if n%2 == 0 {
					a, err = p.do(traced, http.MethodGet, fmt.Sprintf("/v1/balance?account=d%d&asset=ron", i), "")
				} else {
					body := fmt.Sprintf(`{"to":"d%d","asset":"ron","amount_minor":"1","nonce":%d}`, i, n)
					a, err = p.do(traced, http.MethodPost, "/v1/issue", body, "Idempotency-Key", fmt.Sprintf("d%d-%d", i, n))
				}
				if err != nil {
					if since := time.Duration(time.Now().UnixNano() - quiet.Load()); sent.Load() && since < drainQuiet {
						t.Errorf("no answer %v after the request before: %v", since, err)
					}
					return // the listener is closed
				}
				answered.Add(1)
				if a.code() == "RETRY_LATER" {
					refused.Add(1)
				} else if a.status != 200 {
					t.Errorf("during the drain: %s", a)
				}
			}
		})
	}
	eventually(t, "clients are served", func() bool { return answered.Load() > 500 })
	p.side.stop()
	wg.Wait()
	p.startSide()
	p.ready(t)
	conserved(t, p)
}

// TestQueueFull holds every commit in the node, until two batches run and exactly as many payments
// wait as the queue holds. The next one is told BUSY at once, and those that waited are all paid in the end.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	const workers, queue = 2, 128
	p := newPair(t)
	p.env = []string{
		fmt.Sprintf("WALLET_WORKERS=%d", workers), fmt.Sprintf("SVC_WALLET_LIMITS_QUEUE=%d", queue),
		"SVC_WALLET_LIMITS_REQUEST_DEADLINE=2m", "SVC_WALLET_LEDGER_TIMEOUT=1m",
	}
	held := &heldEngine{Engine: memoryEngine(t), gate: make(chan struct{})}
	serveEngine(t, p.ledgerAddr, held)
	open := sync.OnceFunc(func() { close(held.gate) })
	t.Cleanup(open)
	p.startSide()
	p.ready(t)

	issue := func(i int) answer {
		body := fmt.Sprintf(`{"to":"q%d","asset":"ron","amount_minor":"1","nonce":1}`, i)
		return p.post(t, "/v1/issue", fmt.Sprintf("q%d", i), body)
	}
	var wg sync.WaitGroup
	var paid atomic.Int64
	send := func(from, to int) {
		for i := from; i < to; i++ {
			wg.Go(func() {
				if a := issue(i); a.status == 200 {
					paid.Add(1)
				} else {
					t.Errorf("payment %d: %s", i, a)
				}
			})
		}
	}
	for i := range workers {
		send(i, i+1)
		eventually(t, "the next batch runs", func() bool { return held.running.Load() == int64(i+1) })
	}
	for n := 16; n <= queue; n += 16 { // not all handshakes at once, on two cores
		send(workers+n-16, workers+n)
		eventually(t, fmt.Sprintf("%d payments wait", n), func() bool { return p.metric(t, `queue_depth{queue="work"}`) == float64(n) })
	}

	a := issue(workers + queue)
	if a.status != 429 || a.code() != "BUSY" || a.header.Get("Retry-After") == "" {
		t.Errorf("one more: %s", a)
	}
	open()
	wg.Wait()
	if paid.Load() != workers+queue {
		t.Errorf("%d of %d were paid", paid.Load(), workers+queue)
	}
	if n := p.metric(t, `queue_dropped_total{queue="work"}`); n != 1 {
		t.Errorf("queue_dropped_total is %v", n)
	}
}

// TestDiskStall serves an engine that says that its disk hangs: the sidecar is not ready until it
// is over, so payments are refused for certain instead of timing out.
func TestDiskStall(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	e := &hungEngine{Engine: memoryEngine(t)}
	serveEngine(t, p.ledgerAddr, e)
	p.startSide()
	p.ready(t)
	e.hangs.Store(true)
	p.readiness(t, http.StatusServiceUnavailable)
	a, err := p.do(t.Context(), http.MethodPost, "/v1/issue", `{"to":"a","asset":"ron","amount_minor":"1","nonce":1}`, "Idempotency-Key", "k")
	if err != nil || a.code() != "RETRY_LATER" || strings.Contains(a.body, "unknown") {
		t.Errorf("a payment while the disk hangs: %s %v", a, err)
	}
	e.hangs.Store(false)
	p.ready(t)
}

// hungEngine is a real engine whose disk seems to hang.
type hungEngine struct {
	node.Engine
	hangs atomic.Bool
}

func (e *hungEngine) Stats() node.Stats {
	s := e.Engine.Stats()
	s.Stalled = e.hangs.Load()
	return s
}

// heldEngine is a real engine whose commits wait at a gate.
type heldEngine struct {
	node.Engine
	gate    chan struct{}
	running atomic.Int64
}

func (e *heldEngine) Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
	e.running.Add(1)
	defer e.running.Add(-1)
	<-e.gate
	return e.Engine.Commit(ctx, batch, out)
}

func memoryEngine(t testing.TB) node.Engine {
	t.Helper()
	e, err := node.OpenMemory(node.Options{Now: func() int64 { return time.Now().UnixNano() }, Entropy: crand.Reader, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// serveEngine serves an engine in this process until the test ends.
func serveEngine(t testing.TB, addr string, e node.Engine) {
	t.Helper()
	ln, err := host.Listen(addr, host.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- node.Serve(ctx, ln, e, node.ServeOptions{Log: quiet()}) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, e.Close()); err != nil {
			t.Error(err)
		}
	})
}

// eventually polls for what another process will do.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for begin := time.Now(); !is(); {
		if time.Since(begin) > patience {
			t.Fatalf("it never came about that %s", what)
		}
		wait(t, 2*time.Millisecond)
	}
}

// TestNoSecretIsTold does everything that touches a secret, with the log at debug, and then looks
// for the secrets, whole and in part, in everything that came out but dev.env.
func TestNoSecretIsTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := startDev(t, dir)
	setLogLevel(t, d, "debug")
	keys, err := os.ReadFile(d.env["ROOT_KEYS_FILE"])
	if err != nil {
		t.Fatal(err)
	}
	rootKey := strings.Fields(string(keys))[1]

	const account = "canary_account"
	body := `{"to":"` + account + `","asset":"ron","amount_minor":"5","nonce":1}`
	good := d.token
	forged := good[:len(good)-8] + "CANARY__"
	for _, token := range []string{good, forged, "CANARY__" + good, "canary+/=token", good + "!"} {
		d.token = token
		for _, path := range []string{"/v1/balance?account=" + account + "&asset=ron", "/v1/balance?account=", "/v1/tx/tx_01ARZ3NDEKTSV4RRFFQ69G5FAV"} {
			d.get(t, path)
		}
		d.post(t, "/v1/issue", "key-"+fmt.Sprint(len(token)), body)
		d.post(t, "/v1/issue", "bad key", body)
		d.post(t, "/v1/issue", "k", `{"to":`)
	}
	d.token = good
	var told strings.Builder
	for _, path := range []string{"/metrics", "/config", "/readyz", "/version", "/debug/pprof/goroutine?debug=2", "/debug/pprof/cmdline", "/nothing"} {
		resp, err := http.Get(d.admin + path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		told.Write(data)
	}
	d.stop()
	told.WriteString(d.everything())

	out := strings.ReplaceAll(told.String(), "Bearer $TOKEN", "") // of the banner's lines to paste
	if !strings.Contains(out, `"level":"debug"`) || !strings.Contains(out, "account_hash") {
		t.Errorf("the log has no debug line of a request:\n%s", d.tail())
	}
	for name, secret := range map[string]string{
		"the token": good[:40], "the token's end": good[len(good)-20:], "the root key": rootKey[:16],
		"a forged token": "CANARY__", "a junk token": "canary+/", "an Authorization header": "Bearer", "an account": account,
	} {
		if i := strings.Index(strings.ToLower(out), strings.ToLower(secret)); i >= 0 {
			t.Errorf("%s was told: …%s…", name, out[max(0, i-100):min(len(out), i+60)])
		}
	}
}

func setLogLevel(t testing.TB, d *devProcess, level string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, d.admin+"/log-level", strings.NewReader(level))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("PUT /log-level: %s", resp.Status)
	}
}

// wait lets a random or stated moment pass; it is no substitute for an event.
func wait(t testing.TB, d time.Duration) {
	t.Helper()
	pause(t.Context(), d)
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
