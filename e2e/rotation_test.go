package e2e

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"svc-wallet/bench/pki"
	"svc-wallet/filters"
)

// mount is a folder of certificate, key and authorities that changes as a Secret of Kubernetes does: all
// files at once, behind a symbolic link.
type mount struct {
	t       testing.TB
	dir     string
	version int
}

func newMount(t testing.TB) *mount {
	t.Helper()
	m := &mount{t: t, dir: t.TempDir()}
	for _, path := range m.files() {
		if err := os.Symlink(filepath.Join("..data", filepath.Base(path)), path); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *mount) files() []string {
	cert, key, ca := pki.Files(m.dir)
	return []string{cert, key, ca}
}

// flags are the files behind flags of these names.
func (m *mount) flags(names ...string) (args []string) {
	for i, path := range m.files() {
		if i < len(names) {
			args = append(args, names[i], path)
		}
	}
	return args
}

// change fills a new version by fill, and puts it in the place of the last one.
func (m *mount) change(fill func(dir string)) {
	m.t.Helper()
	m.version++
	next, link := fmt.Sprintf("..%d", m.version), filepath.Join(m.dir, "..data")
	if err := os.Mkdir(filepath.Join(m.dir, next), 0o700); err != nil {
		m.t.Fatal(err)
	}
	fill(filepath.Join(m.dir, next))
	if err := os.Symlink(next, link+"_tmp"); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(link+"_tmp", link); err != nil {
		m.t.Fatal(err)
	}
}

// mesh is a ledger node, a control plane and a sidecar, each with certificates of its own.
type mesh struct {
	*pair
	t       *testing.T
	mounts  map[string]*mount
	plane   *program
	control []string // its command line
	applied map[string]float64
}

// newMesh starts all three, with certificates of ca. Clients trust all of known.
func newMesh(t *testing.T, ca *pki.Authority, known ...*pki.Authority) *mesh {
	t.Helper()
	m := &mesh{t: t, mounts: map[string]*mount{}, applied: map[string]float64{}}
	for _, name := range []string{"listener", "ledger", "xds", "node", "control"} {
		m.mounts[name] = newMount(t)
	}
	m.issue(ca, "1", ca)
	xdsAddr := freePort(t)
	set := func(section string, from *mount) {
		for i, name := range []string{"CERT", "KEY", "CA"} {
			t.Setenv("SVC_WALLET_"+section+"_TLS_"+name+"_FILE", from.files()[i])
		}
	}
	set("LEDGER", m.mounts["ledger"])
	set("XDS", m.mounts["xds"])
	t.Setenv("SVC_WALLET_XDS_TYPES", "limits")
	m.pair = newPair(t, append(m.mounts["listener"].flags("--tls-cert", "--tls-key"), "--xds", xdsAddr, "--amnesia")...)
	m.withoutFirst("--tls-cert", "--tls-key", "--ledger")
	m.ledgerAddr = freePort(t)
	m.serveArgs = append(m.serveArgs, "--ledger", m.ledgerAddr)
	m.ledgerArgs = append([]string{"ledger", "--data", t.TempDir(), "--listen", m.ledgerAddr},
		m.mounts["node"].flags("--tls-cert", "--tls-key", "--client-ca")...)
	m.control = append([]string{"control", "--limits", t.TempDir(), "--allow-empty", "--listen", xdsAddr, "--api", ""},
		m.mounts["control"].flags("--tls-cert", "--tls-key", "--tls-ca")...)

	bundle := filepath.Join(t.TempDir(), "bundle")
	var text []byte
	for _, a := range known {
		text = append(text, a.PEM...)
	}
	if err := os.WriteFile(bundle, text, 0o600); err != nil {
		t.Fatal(err)
	}
	m.client = newClient(t, m.url, m.admin, bundle, m.token)
	m.startBelow()
	m.startSide()
	m.whole()
	return m
}

// withoutFirst takes the first of each flag away, and its value.
func (m *mesh) withoutFirst(names ...string) {
	for _, name := range names {
		for i, arg := range m.serveArgs {
			if arg == name {
				m.serveArgs = append(m.serveArgs[:i:i], m.serveArgs[i+2:]...)
				break
			}
		}
	}
}

func (m *mesh) startBelow() {
	m.startNode()
	m.plane = start(m.t, m.control...)
}

// issue gives every party another certificate.
func (m *mesh) issue(by *pki.Authority, version string, trusted ...*pki.Authority) {
	m.t.Helper()
	for name, mount := range m.mounts {
		mount.change(func(dir string) { by.Save(dir, name+" "+version, trusted...) })
	}
}

// trust leaves the certificates, and changes who is trusted.
func (m *mesh) trust(trusted ...*pki.Authority) {
	m.t.Helper()
	for _, mount := range m.mounts {
		before := filepath.Join(mount.dir, "..data")
		mount.change(func(dir string) {
			trusted[0].Trust(dir, trusted...)
			for _, name := range []string{"tls.crt", "tls.key"} {
				text, err := os.ReadFile(filepath.Join(before, name))
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
				}
				if err != nil {
					m.t.Fatal(err)
				}
			}
		})
	}
}

// noticed waits until all three have read the files again, by themselves.
func (m *mesh) noticed(sets ...string) {
	m.t.Helper()
	for _, set := range sets {
		m.applied[set]++
		eventually(m.t, "the sidecar reads the files of "+set, func() bool {
			return m.metric(m.t, `files_reloaded_total{files="`+set+`",outcome="applied"}`) >= m.applied[set]
		})
	}
	m.node.until("files_reloaded")
	m.plane.until("files_reloaded")
}

// whole waits until the sidecar reaches both.
func (m *mesh) whole() {
	m.t.Helper()
	m.ready(m.t)
	eventually(m.t, "the control plane is heard", func() bool { return m.metric(m.t, "xds_connected") == 1 })
}

// shows is the name in the listener's certificate, to a new connection.
func (m *mesh) shows() string {
	m.t.Helper()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(m.url, "https://"), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
}

// load pays until the returned function is called. No payment may fail.
func (m *mesh) load(made *atomic.Int64) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var payers sync.WaitGroup
	for i := range 2 {
		payers.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				body := fmt.Sprintf(`{"to":"payee_%d","asset":"ron","amount_minor":"1","nonce":%d}`, i, n)
				a, err := m.patiently(context.Background(), http.MethodPost, "/v1/issue", body, "Idempotency-Key", fmt.Sprintf("r-%d-%d", i, n))
				if err != nil || a.status != http.StatusOK {
					m.t.Errorf("payment %d of %d: %v, %v", n, i, a, err)
					return
				}
				made.Add(1)
			}
		})
	}
	return func() { cancel(); payers.Wait() }
}

// TestCertificatesRotateWithoutASignal rotates authority and certificates of the listener, the ledger
// link, the node, the control plane and its client while payments go on: in order, which no payment
// notices, and then all at once, after which the sidecar is whole again once node and control plane were
// started anew. Nobody sends a signal, and the sidecar is never restarted.
func TestCertificatesRotateWithoutASignal(t *testing.T) {
	first, second, third := pki.New(t), pki.New(t), pki.New(t)
	m := newMesh(t, first, first, second, third)
	var made atomic.Int64
	stop := m.load(&made)
	goesOn := func() {
		t.Helper()
		from := made.Load()
		eventually(t, "payments go on", func() bool { return made.Load() > from+10 || t.Failed() })
	}
	goesOn()
	m.trust(first, second)
	m.noticed("ledger", "xds")
	goesOn()
	m.issue(second, "2", first, second)
	m.noticed("listener", "ledger", "xds")
	if got := m.shows(); got != "listener 2" {
		t.Errorf("the listener shows %q", got)
	}
	goesOn()
	m.trust(second)
	m.noticed("ledger", "xds")
	goesOn()
	stop()
	m.node.stop()
	m.plane.stop()
	m.startBelow()
	m.whole()

	m.issue(third, "3", third)
	m.noticed("listener", "ledger", "xds")
	m.node.kill()
	m.plane.kill()
	m.startBelow()
	m.whole()
	if a := m.post(t, "/v1/issue", "after", `{"to":"alice","asset":"ron","amount_minor":"1","nonce":1}`); a.status != http.StatusOK {
		t.Error(a)
	}

	listener := m.mounts["listener"]
	listener.change(func(dir string) {
		third.Save(dir, "listener 4", third)
		_, key, _ := pki.Files(dir)
		if err := os.Truncate(key, 60); err != nil {
			t.Fatal(err)
		}
	})
	refused := func() float64 { return m.metric(t, `files_reloaded_total{files="listener",outcome="refused"}`) }
	eventually(t, "the half-written key is refused", func() bool { return refused() > 0 })
	if got := m.shows(); got != "listener 3" {
		t.Errorf("the listener shows %q", got)
	}
	if n := strings.Count(m.side.everything(), "files_refused"); n != 1 {
		t.Errorf("said %d times", n)
	}
	m.side.stop()
}

// TestRootKeysFollowTheirFile changes the root keys of a running sidecar without a signal: tokens of a key
// that is gone are refused, those of a new one verify, and a file that others can read, is half written or
// is away changes nothing.
func TestRootKeysFollowTheirFile(t *testing.T) {
	p := startPair(t)
	var file string
	for i, arg := range p.serveArgs {
		if arg == "--root-keys" {
			file = p.serveArgs[i+1]
		}
	}
	replace := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	line := "next " + hex.EncodeToString([]byte(strings.Repeat("k", 32))) + "\n"
	reloads := func(outcome string) float64 {
		return p.metric(t, `files_reloaded_total{files="root_keys",outcome="`+outcome+`"}`)
	}
	status := func() int { return p.get(t, "/v1/balance?account=alice&asset=ron").status }
	if got := status(); got != http.StatusOK {
		t.Fatal(got)
	}
	for i, bad := range []func(){
		func() { replace(line, 0o644) },
		func() { replace(line[:40], 0o600) },
		func() { _ = os.Remove(file) },
	} {
		bad()
		eventually(t, "the file is refused", func() bool { return reloads("refused") == float64(i+1) })
		if got := status(); got != http.StatusOK {
			t.Errorf("after bad file %d the token in force gets %d", i+1, got)
		}
	}
	replace(line, 0o600)
	eventually(t, "the keys are in force", func() bool { return reloads("applied") == 1 })
	if got := status(); got != http.StatusUnauthorized {
		t.Errorf("a token of the key that is gone gets %d", got)
	}
	keys, err := filters.LoadKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	if p.token, err = filters.MintToken(keys, "t", []string{"aud = svc-wallet", "exp = 9999999999", "actions = read", "accounts = *"}); err != nil {
		t.Fatal(err)
	}
	if got := status(); got != http.StatusOK {
		t.Errorf("a token of the new key gets %d", got)
	}
	if n := strings.Count(p.side.everything(), "files_refused"); n != 3 {
		t.Errorf("three faults were said %d times", n)
	}
	p.side.stop()
}
