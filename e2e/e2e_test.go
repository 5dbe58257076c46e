package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"svc-wallet/bench/apicheck"
	"svc-wallet/bench/pki"
	"svc-wallet/filters"
)

// binary is the program under test; TestMain builds it.
var binary string

// api holds every response that any end-to-end test gets against docs/openapi.yaml.
var api = sync.OnceValue(func() *apicheck.Checker {
	c, err := apicheck.Load("../docs/openapi.yaml")
	if err != nil {
		panic(err)
	}
	return c
})

// patience is how long a test waits for what must come: far more than that takes on any machine, so
// that no test asks for a pace.
const patience = 3 * time.Minute

// raceOptions are those of the race detector for the programs that tests start: unless told not to, it
// has each sleep for a second when it ends.
func raceOptions() string { return os.Getenv("GORACE") + " atexit_sleep_ms=0" }

// TestMain builds the program as these tests are built, with the race detector where they have it, so
// that what they start, kill and stop is the real one and the build cache is shared.
func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "svc-wallet-e2e-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "svc-wallet")
	args := []string{"build", "-ldflags=-w", "-o", binary}
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" || s.Key == "-tags" {
			args = append(args, s.Key+"="+s.Value)
		}
	}
	if out, err := exec.Command("go", append(args, "svc-wallet/cmd/svc-wallet")...).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// program is one running process of ours.
type program struct {
	t      testing.TB
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of Wait; read after exited

	mu     sync.Mutex
	output bytes.Buffer // stdout and stderr
	lines  chan string  // each line once; dropped when nobody reads
}

// start runs the program. Its end is the test's: it is killed if it is still there.
func start(t testing.TB, args ...string) *program {
	t.Helper()
	return startWith(t, nil, args...)
}

// startWith starts it with more settings in its environment, as NAME=value.
func startWith(t testing.TB, env []string, args ...string) *program {
	t.Helper()
	return launch(t, env, exec.Command(binary, args...))
}

// launch starts a command that is or becomes the program.
func launch(t testing.TB, env []string, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{t: t, cmd: cmd, exited: make(chan struct{}), lines: make(chan string, 4096)}
	p.cmd.Env = slices.Concat(os.Environ(), []string{"GORACE=" + raceOptions()}, env)
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go p.read(pipe)
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("output of %v:\n%s", cmd.Args, p.tail())
		}
	})
	return p
}

func (p *program) read(pipe *os.File) {
	defer pipe.Close()
	scan := bufio.NewScanner(pipe)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		p.mu.Lock()
		p.output.WriteString(scan.Text() + "\n")
		p.mu.Unlock()
		select {
		case p.lines <- scan.Text():
		default:
		}
	}
	p.err = p.cmd.Wait()
	close(p.exited)
}

// tail is the last of the output.
func (p *program) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.output.String()
	if len(out) > 8000 {
		out = "…" + out[len(out)-8000:]
	}
	return out
}

// everything is all of the output.
func (p *program) everything() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// kill is kill -9, and waits for the end.
func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

func (p *program) signal(s syscall.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Errorf("signal %v: %v", s, err)
	}
}

// stop is SIGTERM, and demands exit code 0.
func (p *program) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		if p.err != nil {
			p.t.Errorf("after SIGTERM: %v\n%s", p.err, p.tail())
		}
	case <-time.After(patience):
		p.t.Errorf("still running %v after SIGTERM\n%s", patience, p.tail())
		p.kill()
	}
}

// until waits for a line of output that holds text.
func (p *program) until(text string) string {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line := <-p.lines:
			if strings.Contains(line, text) {
				return line
			}
		case <-p.exited:
			p.t.Fatalf("ended before it said %q: %v\n%s", text, p.err, p.tail())
		case <-deadline:
			p.t.Fatalf("did not say %q in %v\n%s", text, patience, p.tail())
		}
	}
}

// client is a client of one sidecar.
type client struct {
	url, admin, caFile, token string
	transport                 *http.Transport
	http                      *http.Client
}

// answer is a response in the hands of a test.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) code() string {
	var e struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal([]byte(a.body), &e)
	return e.Code
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, strings.TrimSpace(a.body)) }

// newClient makes a client that trusts caFile and checks each response against the API document.
func newClient(t testing.TB, url, admin, caFile, token string) *client {
	t.Helper()
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", caFile)
	}
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13},
		MaxIdleConnsPerHost: 64,
	}
	t.Cleanup(transport.CloseIdleConnections)
	checked := api().Transport(transport, func(err error) { t.Errorf("API document: %v", err) })
	return &client{url, admin, caFile, token, transport, &http.Client{Transport: checked, Timeout: patience}}
}

// do sends one request. header pairs override the defaults; an empty value removes one.
func (w *client) do(ctx context.Context, method, path, body string, header ...string) (answer, error) {
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, w.url+path, in)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(data)}, err
}

func (w *client) get(t testing.TB, path string) answer {
	t.Helper()
	a, err := w.do(t.Context(), http.MethodGet, path, "")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// found asks again where the ledger was away or did not answer, which says nothing about what is there.
func (w *client) found(t testing.TB, path string) (a answer) {
	t.Helper()
	eventually(t, path+" is answered", func() bool {
		a = w.get(t, path)
		return a.code() != "UPSTREAM_UNAVAILABLE"
	})
	return a
}

func (w *client) post(t testing.TB, path, key, body string) answer {
	t.Helper()
	a, err := w.patiently(t.Context(), http.MethodPost, path, body, "Idempotency-Key", key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// patiently sends again what was refused with RETRY_LATER, as clients do: on a machine so busy
// that ticks go unanswered for 120 ms, a healthy ledger looks stalled for a moment.
func (w *client) patiently(ctx context.Context, method, path, body string, header ...string) (a answer, err error) {
	for begin := time.Now(); time.Since(begin) < patience; pause(ctx, 10*time.Millisecond) {
		if a, err = w.do(ctx, method, path, body, header...); err != nil || a.code() != "RETRY_LATER" {
			break
		}
	}
	return a, err
}

// ready waits until the sidecar says so.
func (w *client) ready(t testing.TB) {
	t.Helper()
	w.readiness(t, http.StatusOK)
}

// readiness polls the admin listener for a status and returns how long it took.
func (w *client) readiness(t testing.TB, status int) time.Duration {
	t.Helper()
	begin := time.Now()
	var last string
	for time.Since(begin) < patience {
		resp, err := http.Get(w.admin + "/readyz")
		if err == nil {
			data, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode == status {
				return time.Since(begin)
			}
			last = string(data)
		} else {
			last = err.Error()
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("/readyz was not %d in %v: %s", status, patience, last)
	return 0
}

// devProcess is `dev` on a folder, and a client of it.
type devProcess struct {
	*program
	*client
	env map[string]string
}

// startDev starts it with more settings in its environment, as NAME=value.
func startDev(t testing.TB, dir string, env ...string) *devProcess {
	t.Helper()
	p := startWith(t, env, "dev", "--dir", dir, "--bind", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
	p.until("Ctrl-C drains and stops") // the banner's last line
	made := readEnv(t, filepath.Join(dir, "dev.env"))
	return &devProcess{p, newClient(t, made["WALLET_URL"], made["ADMIN_URL"], made["CA_FILE"], made["TOKEN"]), made}
}

func readEnv(t testing.TB, file string) map[string]string {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v", file, info.Mode())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(data)) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			t.Fatalf("%s: %q is no KEY=value", file, line)
		}
		env[k] = v
	}
	return env
}

// pair is a ledger node and a sidecar before it, in processes of their own.
type pair struct {
	t                     testing.TB
	ledgerAddr            string
	ledgerArgs, serveArgs []string
	env                   []string // of the sidecar, NAME=value
	group                 string   // the cgroup that the sidecar begins in; "" for the tests' own
	user                  uint32   // whom the sidecar runs as; 0 is whoever runs the tests
	node, side            *program
	*client
}

// newPair makes what both need; the sidecar has a fixed port, so that clients find it again after
// a kill. Nothing runs yet.
func newPair(t testing.TB, serveArgs ...string) *pair {
	t.Helper()
	dir, err := os.MkdirTemp("", "pair") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	authority := pki.New(t)
	authority.Save(dir, "localhost", authority)
	cert, key, ca := pki.Files(dir)
	keys := filepath.Join(dir, "root.keys")
	if err := os.WriteFile(keys, []byte("test "+strings.Repeat("6b", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wallet, admin, ledger := freePort(t), freePort(t), "unix:"+filepath.Join(dir, "l.sock")
	return &pair{
		t:          t,
		ledgerAddr: ledger,
		ledgerArgs: []string{"ledger", "--data", filepath.Join(dir, "data"), "--listen", ledger},
		serveArgs: append([]string{
			"serve", "--bind", wallet, "--metrics", admin, "--tls-cert", cert, "--tls-key", key,
			"--root-keys", keys, "--ledger", ledger, "--log-level", "warning",
			"--read-timeout", "1m", "--write-timeout", "1m", // no test asks for a pace of clients
		}, serveArgs...),
		client: newClient(t, "https://"+wallet, "http://"+admin, ca, mint(t, keys)),
	}
}

// mint makes a token that may do everything on every account for a day.
func mint(t testing.TB, keyFile string) string {
	t.Helper()
	keys, err := filters.LoadKeys(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	token, err := filters.MintToken(keys, "test", []string{
		fmt.Sprintf("exp = %d", time.Now().Add(24*time.Hour).Unix()), "actions = read,issue,transfer,burn", "accounts = *",
	})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// startPair starts both and waits until the sidecar is ready.
func startPair(t testing.TB, serveArgs ...string) *pair {
	t.Helper()
	p := newPair(t, serveArgs...)
	p.start()
	return p
}

func (p *pair) start() {
	p.t.Helper()
	p.startNode()
	p.startSide()
	p.ready(p.t)
}

func (p *pair) startNode() { p.node = start(p.t, p.ledgerArgs...) }

func (p *pair) startSide() {
	if p.group == "" {
		cmd := exec.Command(binary, p.serveArgs...)
		if p.user != 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: p.user, Gid: p.user}}
		}
		p.side = launch(p.t, p.env, cmd)
		return
	}
	shell := []string{"-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, p.group, binary}
	p.side = launch(p.t, p.env, exec.Command("sh", append(shell, p.serveArgs...)...))
}

// freePort finds a loopback address that nobody uses now.
func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// metric reads one sample of the admin listener's /metrics; 0 if it is not there.
func (w *client) metric(t testing.TB, sample string) float64 {
	t.Helper()
	resp, err := http.Get(w.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	scan := bufio.NewScanner(resp.Body)
	for scan.Scan() {
		if rest, ok := strings.CutPrefix(scan.Text(), sample+" "); ok {
			var v float64
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	if err := scan.Err(); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return 0
}
