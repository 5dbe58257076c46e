package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"svc-wallet/config"
	"svc-wallet/filters"
	"svc-wallet/host"
	"svc-wallet/ledger"
	"svc-wallet/ledger/node"
	"svc-wallet/proxy"
	"svc-wallet/wallet"
)

// TestMain looks for goroutines that outlive the tests, except those of libraries that end late
// or never: fasthttp's clock and idle-worker sweep, hystrix-go's, ants's, and the half second that
// net/http sleeps on a connection whose request it did not read to the end.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
		goleak.IgnoreAnyFunction("github.com/afex/hystrix-go/hystrix.(*metricExchange).Monitor"),
		goleak.IgnoreAnyFunction("github.com/afex/hystrix-go/hystrix.(*poolMetrics).Monitor"),
		goleak.IgnoreAnyFunction("github.com/afex/hystrix-go/hystrix.(*StreamHandler).loop"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"),
	)
}

// clock is the wall clock of tests, moved by hand where a test needs it.
type clock struct{ ahead, skew atomic.Int64 }

func (c *clock) now() int64 { return time.Now().UnixNano() + c.ahead.Load() }

// Skew and Steps implement proxy.Clock.
func (c *clock) Skew() int64             { return c.skew.Load() }
func (c *clock) Steps() (uint64, uint64) { return 5, 3 }

// rig is a whole sidecar: TLS in front, a ledger client to a real node over a Unix socket behind.
type rig struct {
	t       testing.TB
	dir     string
	cfg     *config.Config
	clock   *clock
	live    *config.Live
	stack   *config.Stack
	keys    *filters.KeyRing
	engine  node.Engine
	ledger  *brokenLedger
	breaker *ledger.Breaker
	reader  *ledger.Reader
	server  *proxy.Server
	deps    proxy.Deps
	env     []string
	log     *logrus.Logger
	logged  *syncBuffer
	ca      *authority
	roots   *x509.CertPool
	stop    func() error // ends Run and returns what it returned
	ended   chan struct{}
	token   string
	node    func() // ends the node
	nonces  atomic.Uint64
}

// rigOptions vary a rig.
type rigOptions struct {
	env    []string // SVC_WALLET_…=…
	noKeys bool
	plane  proxy.ControlPlane
	noRun  bool // the test calls Run
	shut   bool // it does not become ready by itself
}

// brokenLedger is the client with a switch for each way a ledger can fail.
type brokenLedger struct {
	*ledger.Client
	commit atomic.Pointer[func([]wallet.Payment) error] // before the real commit
	read   atomic.Pointer[error]                        // of lookups and transactions
}

func (l *brokenLedger) Lookup(ctx context.Context, keys []wallet.BalanceKey, out []wallet.Balance) error {
	if err := l.read.Load(); err != nil {
		return *err
	}
	return l.Client.Lookup(ctx, keys, out)
}

func (l *brokenLedger) Transaction(ctx context.Context, txid wallet.TxID) (wallet.Receipt, uint64, error) {
	if err := l.read.Load(); err != nil {
		return wallet.Receipt{}, 0, *err
	}
	return l.Client.Transaction(ctx, txid)
}

func (l *brokenLedger) Payment(ctx context.Context, account wallet.Account, key wallet.IdemKey) (wallet.Receipt, uint64, error) {
	if err := l.read.Load(); err != nil {
		return wallet.Receipt{}, 0, *err
	}
	return l.Client.Payment(ctx, account, key)
}

func (l *brokenLedger) Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
	if f := l.commit.Load(); f != nil {
		if err := (*f)(batch); err != nil {
			return err
		}
	}
	return l.Client.Commit(ctx, batch, out)
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "rig") // t.TempDir's paths may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir, clock: &clock{}, live: &config.Live{}, keys: &filters.KeyRing{}, logged: &syncBuffer{}}
	r.ca = newAuthority(t, "rig CA")
	r.roots = r.ca.pool()
	r.ca.issue(t, filepath.Join(dir, "tls"), "one", nil)
	r.write("keys", "k1 "+strings.Repeat("5a", 32)+"\n", 0o600)
	r.write("client-ca.pem", string(r.ca.pem), 0o600)

	env := append([]string{
		"SVC_WALLET_BIND_ADDR=127.0.0.1:0", "SVC_WALLET_METRICS_ADDR=127.0.0.1:0",
		"SVC_WALLET_TLS_CERT_FILE=" + r.path("tls.crt"), "SVC_WALLET_TLS_KEY_FILE=" + r.path("tls.key"),
		"SVC_WALLET_AUTH_ROOT_KEYS_FILE=" + r.path("keys"), "SVC_WALLET_LEDGER_ADDR=unix:" + r.path("s"),
		"SVC_WALLET_LOG_LEVEL=debug",
		"SVC_WALLET_READ_TIMEOUT=1m", // a client that is cut off sends again, and its answer is a replay
	}, o.env...)
	r.env = env
	if r.cfg, err = config.Load(config.Sources{Env: env, CPUs: 2}); err != nil {
		t.Fatal(err)
	}
	r.stack = config.NewStack(r.cfg, r.live)
	keys, err := filters.LoadKeys(r.path("keys"))
	if err != nil {
		t.Fatal(err)
	}
	if !o.noKeys {
		r.keys.Store(keys)
	}
	r.token = r.mintWith(keys, "actions = read,issue,transfer,burn", "accounts = *", "assets = *")
	r.log = logrus.New()
	r.log.SetOutput(r.logged)
	r.log.SetLevel(logrus.DebugLevel)
	r.log.SetFormatter(&logrus.JSONFormatter{FieldMap: logrus.FieldMap{logrus.FieldKeyMsg: "event"}})
	r.start(o)
	return r
}

// start makes the node, the way to it and the server, and arranges their end in reverse.
func (r *rig) start(o rigOptions) {
	t := r.t
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	r.node = func() { cancel(); running.Wait() }
	var err error
	if r.engine, err = node.OpenMemory(node.Options{Now: r.clock.now}); err != nil {
		t.Fatal(err)
	}
	ln, err := host.Listen("unix:"+r.path("s"), host.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	running.Go(func() {
		if err := node.Serve(ctx, ln, r.engine, node.ServeOptions{Drain: 10 * time.Millisecond}); err != nil {
			t.Errorf("node: %v", err)
		}
	})
	client, err := ledger.Dial(r.cfg.Ledger.Addr, ledger.DialOptions{
		Now: r.clock.now, Timeout: func() time.Duration { return r.live.Load().LedgerTimeout },
	})
	if err != nil {
		t.Fatal(err)
	}
	r.ledger = &brokenLedger{Client: client}
	metrics := proxy.NewMetrics()
	r.breaker = ledger.NewBreaker(fmt.Sprintf("ledger-%s", filepath.Base(r.dir)), r.live, r.clock.now)
	r.reader = ledger.NewReader(r.ledger, r.breaker, r.live, ledger.ReaderOptions{
		Shards: 4, Entries: 1024, MaxStale: r.cfg.Wallet.MaxStale, Now: r.clock.now, Observer: metrics,
	})
	committer, err := ledger.NewCommitter(r.ledger, r.breaker, r.live, ledger.CommitterOptions{
		Workers: r.cfg.Workers, MaxQueue: 512, Now: r.clock.now, Observer: metrics, OnResult: r.reader.Learn,
	})
	if err != nil {
		t.Fatal(err)
	}
	reading, stopReading := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	readers.Go(func() { _ = r.reader.Run(reading) })

	r.deps = proxy.Deps{
		Live: r.live, Stack: r.stack, ControlPlane: o.plane, Keys: r.keys, Files: host.NewFiles(r.log, r.clock.now), Committer: committer, Reader: r.reader, Breaker: r.breaker, Metrics: metrics,
		Log: r.log, Now: r.clock.now, Clock: r.clock, Entropy: rand.Reader, Build: proxy.Build{Version: "test"}, OpenAPI: []byte("openapi: 3.1.0\n"),
	}
	if r.server, err = proxy.New(r.cfg, r.deps); err != nil {
		t.Fatal(err)
	}
	if err := r.server.Listen(); err != nil {
		t.Fatal(err)
	}
	serving, stopServing := context.WithCancel(context.Background())
	r.ended = make(chan struct{})
	var result error
	if !o.noRun {
		go func() {
			result = r.server.Run(serving)
			close(r.ended)
		}()
	}
	r.stop = func() error {
		stopServing()
		if o.noRun {
			return nil
		}
		<-r.ended
		return result
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		stopReading()
		readers.Wait()
		_ = client.Close()
		r.node()
		_ = r.engine.Close()
	})
	if !o.noRun {
		r.eventually("the sidecar is ready", func() bool {
			status, _ := r.adminGet("/readyz")
			return status == 200 || o.noKeys || o.shut && status != 0
		})
	}
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, text string, mode os.FileMode) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
}

// patience is how long a test waits for what must come: far more than that takes on any machine, so
// that no test asks for a pace.
const patience = 3 * time.Minute

// eventually waits for what another goroutine brings about.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-deadline:
			r.t.Fatalf("not within %v: %s", patience, what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func (r *rig) mintWith(keys *filters.Keys, caveats ...string) string {
	r.t.Helper()
	return r.mintNamed(keys, "t1", caveats...)
}

func (r *rig) mintNamed(keys *filters.Keys, id string, caveats ...string) string {
	r.t.Helper()
	exp := fmt.Sprintf("exp = %d", time.Now().Add(time.Hour).Unix())
	token, err := filters.MintToken(keys, id, append([]string{exp}, caveats...))
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

func (r *rig) mint(caveats ...string) string { return r.mintWith(r.keys.Load(), caveats...) }

// mintAs makes a token of another id than the rig's.
func (r *rig) mintAs(id string, caveats ...string) string {
	return r.mintNamed(r.keys.Load(), id, caveats...)
}

// clientTLS trusts the rig's CA.
func (r *rig) clientTLS() *tls.Config {
	return &tls.Config{RootCAs: r.roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}
}

// client is an HTTP client that keeps its connections until the test ends.
func (r *rig) client() *http.Client {
	tr := &http.Transport{TLSClientConfig: r.clientTLS(), MaxIdleConnsPerHost: 64}
	r.t.Cleanup(tr.CloseIdleConnections)
	checked := api().Transport(tr, func(err error) { r.t.Error(err) })
	return &http.Client{Transport: checked, Timeout: patience}
}

func tlsDialer(r *rig) *tls.Dialer { return &tls.Dialer{Config: r.clientTLS()} }

// another makes a second server on the rig's parts.
func (r *rig) another(env ...string) *proxy.Server {
	r.t.Helper()
	cfg, err := config.Load(config.Sources{Env: append(r.env, env...), CPUs: 2})
	if err != nil {
		r.t.Fatal(err)
	}
	deps := r.deps
	deps.Metrics, deps.Files = proxy.NewMetrics(), host.NewFiles(r.log, r.clock.now)
	s, err := proxy.New(cfg, deps)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// dial opens a raw TLS connection.
func (r *rig) dial() *tls.Conn {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.server.Addr().String(), r.clientTLS())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// answer is a response as a client sees it.
type answer struct {
	status int
	header http.Header
	body   []byte
	closed bool // the server asked to close
}

// problem is the error body.
type problem struct {
	Code      string         `json:"code"`
	HTTP      int            `json:"http"`
	Message   string         `json:"message"`
	Retryable bool           `json:"retryable"`
	CorrID    string         `json:"corr_id"`
	Details   map[string]any `json:"details"`
}

func (a answer) problem(t testing.TB) (p problem) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("%d %q is no error body: %v", a.status, a.body, err)
	}
	if p.HTTP != a.status || p.Message == "" || p.CorrID != a.header.Get("X-Corr-ID") {
		t.Fatalf("error body %s does not fit its response %d %v", a.body, a.status, a.header)
	}
	if (a.header.Get("Retry-After") != "") != p.Retryable {
		t.Fatalf("%s: Retry-After is %q", a.body, a.header.Get("Retry-After"))
	}
	return p
}

// send writes raw bytes on a fresh connection and reads one response.
func (r *rig) send(raw string) answer {
	r.t.Helper()
	c := r.dial()
	defer c.Close()
	return r.exchange(c, bufio.NewReader(c), raw)
}

func (r *rig) exchange(c net.Conn, br *bufio.Reader, raw string) answer {
	r.t.Helper()
	go func() { _, _ = io.WriteString(c, raw) }() // the answer may come before all is sent
	return r.receive(br, "GET")
}

func (r *rig) receive(br *bufio.Reader, method string) answer {
	r.t.Helper()
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		r.t.Fatalf("no response: %v", err)
	}
	return r.read(resp)
}

func (r *rig) read(resp *http.Response) answer {
	r.t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	a := answer{resp.StatusCode, resp.Header, body, resp.Close}
	if a.header.Get("X-Corr-ID") == "" || a.header.Get("Content-Type") != "application/json" ||
		a.header.Get("Cache-Control") != "no-store" || a.header.Get("Server") != "" {
		r.t.Fatalf("headers of %d %s: %v", a.status, body, a.header)
	}
	return a
}

// call is one request by a well-behaved client.
func (r *rig) call(c *http.Client, method, path, body string, header ...string) answer {
	r.t.Helper()
	a, err := r.try(c, method, path, body, header...)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *rig) try(c *http.Client, method, path, body string, header ...string) (answer, error) {
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, "https://"+r.server.Addr().String()+path, rd)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", fmt.Sprintf("key-%d", r.nonces.Add(1)))
	}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	return r.read(resp), nil
}

// issueTo gives an account money.
func (r *rig) issueTo(c *http.Client, account string, amount uint64) answer {
	r.t.Helper()
	a := r.call(c, "POST", "/v1/issue", fmt.Sprintf(`{"to":%q,"asset":"ron","amount_minor":"%d","nonce":%d}`,
		account, amount, r.nonces.Add(1)))
	if a.status != 200 {
		r.t.Fatalf("issue: %d %s", a.status, a.body)
	}
	return a
}

func (r *rig) transfer(from, to string, amount, nonce uint64) string {
	return fmt.Sprintf(`{"from":%q,"to":%q,"asset":"ron","amount_minor":"%d","nonce":%d}`, from, to, amount, nonce)
}

func (r *rig) adminURL(path string) string { return "http://" + r.server.AdminAddr().String() + path }

func (r *rig) adminDo(method, path, body string, header ...string) (int, string, http.Header) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.adminURL(path), strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(text), resp.Header
}

func (r *rig) adminGet(path string) (int, string) {
	r.t.Helper()
	status, body, _ := r.adminDo("GET", path, "")
	return status, body
}

// metric is the value of a series, named as it is exposed.
func (r *rig) metric(series string) string {
	r.t.Helper()
	_, text := r.adminGet("/metrics")
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue writes base.crt and base.key, each by renaming, for localhost under the given name.
func (a *authority) issue(t testing.TB, base, name string, uris []string) tls.Certificate {
	t.Helper()
	certPEM, keyPEM := a.sign(t, name, uris, -time.Hour, time.Hour)
	for path, data := range map[string][]byte{base + ".crt": certPEM, base + ".key": keyPEM} {
		if err := os.WriteFile(path+".new", data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// sign makes a certificate that is valid between two moments, counted from now.
func (a *authority) sign(t testing.TB, name string, uris []string, from, until time.Duration) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:   time.Now().Add(from), NotAfter: time.Now().Add(until),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		tmpl.URIs = append(tmpl.URIs, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}
