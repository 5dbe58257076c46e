package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"svc-wallet/bench/pki"
	"svc-wallet/filters"
	"svc-wallet/host"
)

// TestReload changes the configuration file and the root keys of a running sidecar and sends
// SIGHUP: what is good is in force for the next payment, what is bad changes nothing and is named.
func TestReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "w.toml")
	write := func(file, text string) {
		t.Helper()
		if err := host.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, "[limits]\nmax_amount_per_op = \"100\"\n")
	p := startPair(t, "--config", file, "--log-level", "info")
	nonce := 0
	issue := func(amount int) answer {
		nonce++
		return p.post(t, "/v1/issue", fmt.Sprintf("r%d", nonce), fmt.Sprintf(`{"to":"alice","asset":"ron","amount_minor":"%d","nonce":%d}`, amount, nonce))
	}
	reload := func(said string) string {
		t.Helper()
		p.side.signal(syscall.SIGHUP)
		return p.side.until(said)
	}
	want := func(a answer, status int) {
		t.Helper()
		if a.status != status {
			t.Fatalf("%s, want %d", a, status)
		}
	}

	want(issue(100), 200)
	want(issue(101), 403)
	write(file, "max_conns = 7\n[limits]\nmax_amount_per_op = \"200\"\n")
	if said := reload("reload_needs_restart"); !strings.Contains(said, "max_conns") {
		t.Errorf("does not name what waits for a restart: %s", said)
	}
	if said := p.side.until(`"event":"reloaded"`); !strings.Contains(said, `"keys":"limits.max_amount_per_op"`) {
		t.Errorf("does not name what has changed: %s", said)
	}
	want(issue(200), 200)

	write(file, "[limits]\nmax_amount_per_op = \"1\"\nqueue = 0\nno_such = 1\n")
	said := reload("reload_refused")
	for _, fault := range []string{"limits.queue", "limits.no_such", file} {
		if !strings.Contains(said, fault) {
			t.Errorf("the refusal does not name %s: %s", fault, said)
		}
	}
	want(issue(200), 200)

	// A new first key mints, the old one verifies until its line is gone.
	write(file, "[limits]\nmax_amount_per_op = \"200\"\n")
	keyFile := filepath.Join(filepath.Dir(p.caFile), "root.keys")
	old, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	fresh := "fresh " + hex.EncodeToString([]byte(strings.Repeat("k", 32))) + "\n"
	write(keyFile, fresh+string(old))
	reload(`"event":"reloaded"`)
	want(issue(1), 200)
	oldToken := p.token
	keys, err := filters.LoadKeys(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	p.token, err = filters.MintToken(keys, "t2", []string{fmt.Sprintf("exp = %d", time.Now().Add(time.Hour).Unix()), "actions = issue", "accounts = alice"})
	if err != nil {
		t.Fatal(err)
	}
	want(issue(1), 200)
	write(keyFile, fresh)
	reload(`"event":"reloaded"`)
	want(issue(1), 200)
	p.token = oldToken
	want(issue(1), 401)
	p.side.stop()
}

// toldWhyAway starts a sidecar whose ledger turns it away, or is turned away, and wants the log and /readyz to
// say why.
func (p *pair) toldWhyAway(t *testing.T, why string) {
	t.Helper()
	p.startSide()
	p.readiness(t, 503)
	eventually(t, "it is told: "+why, func() bool {
		for line := range strings.Lines(p.side.everything()) {
			var l struct{ Event, Level, Reason string }
			if json.Unmarshal([]byte(line), &l) == nil && l.Event == "ledger_away" && l.Level == "warning" && strings.Contains(l.Reason, why) {
				return true
			}
		}
		return false
	})
	eventually(t, "/readyz says: "+why, func() bool {
		resp, err := http.Get(p.admin + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("%d %s %v", resp.StatusCode, body, err)
		}
		return strings.Contains(string(body), why)
	})
	p.side.stop()
}

// TestMutualTLS runs the node on TCP, where both sides show certificates. Whoever is not known to the other
// side is refused, and log and /readyz say why; so is plain text.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	dir := filepath.Dir(p.caFile)
	addr := freePort(t)
	cert, key, _ := pki.Files(dir)
	p.ledgerArgs = []string{
		"ledger", "--data", filepath.Join(dir, "data"), "--listen", addr,
		"--tls-cert", cert, "--tls-key", key, "--client-ca", p.caFile,
	}
	p.serveArgs = append(p.serveArgs, "--ledger", addr)
	p.startNode()
	p.node.until("listening")

	const prefix = "SVC_WALLET_LEDGER_TLS_"
	strangers, elsewhere := pki.New(t), t.TempDir()
	strangers.Save(elsewhere, "localhost", strangers)
	theirCert, theirKey, theirCA := pki.Files(elsewhere)
	ours := []string{prefix + "CA_FILE=" + p.caFile, prefix + "CERT_FILE=" + cert, prefix + "KEY_FILE=" + key}
	for _, c := range []struct {
		env []string
		why string
	}{
		{nil, "error reading server preface"}, // plain text
		{ours[:1], "tls: certificate required"},
		{append([]string{prefix + "CERT_FILE=" + theirCert, prefix + "KEY_FILE=" + theirKey}, ours[0]), "tls: unknown certificate authority"},
		{append([]string{prefix + "CA_FILE=" + theirCA}, ours[1:]...), "x509: certificate signed by unknown authority"},
		{append([]string{prefix + "SERVER_NAME=ledger.mesh"}, ours...), "x509: certificate is valid for localhost, not ledger.mesh"},
	} {
		p.env = c.env
		p.toldWhyAway(t, c.why)
	}
	p.env = ours
	p.startSide()
	p.ready(t)
	if a := p.post(t, "/v1/issue", "k", `{"to":"alice","asset":"ron","amount_minor":"5","nonce":1}`); a.status != 200 {
		t.Error(a)
	}
	p.side.stop()
	p.node.stop()
}

// TestSocketOfAnotherUser: a sidecar that may not use the node's socket says that permission is denied.
// Method: root's socket, and a sidecar that is not root; where the tests are not root, a socket without a mode.
func TestSocketOfAnotherUser(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	p := newPair(t)
	p.startNode()
	p.node.until("listening")
	dir := filepath.Dir(p.caFile)
	if os.Getuid() != 0 {
		if err := os.Chmod(strings.TrimPrefix(p.ledgerAddr, "unix:"), 0); err != nil {
			t.Fatal(err)
		}
		p.toldWhyAway(t, "permission denied")
		return
	}
	cert, key, _ := pki.Files(dir)
	err := os.Chmod(filepath.Dir(binary), 0o755) // whoever we are shall run it
	for _, path := range []string{dir, cert, key, filepath.Join(dir, "root.keys")} {
		err = errors.Join(err, os.Chown(path, nobody, nobody))
	}
	if err != nil {
		t.Fatal(err)
	}
	p.user = nobody
	p.toldWhyAway(t, "permission denied")
}

// BenchmarkStart measures how long a sidecar takes to be ready before a healthy ledger.
func BenchmarkStart(b *testing.B) {
	p := startPair(b)
	for b.Loop() {
		b.StopTimer()
		p.side.stop()
		b.StartTimer()
		p.startSide()
		p.ready(b)
	}
}

// TestHangup sends SIGHUP to a node, which has nothing to reload: it goes on, and drains when told.
func TestHangup(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	p.node.signal(syscall.SIGHUP)
	if a := p.post(t, "/v1/issue", "k", `{"to":"alice","asset":"ron","amount_minor":"5","nonce":1}`); a.status != 200 {
		t.Error(a)
	}
	p.side.stop()
	p.node.stop()
}

// TestAmnesia lets a sidecar with amnesia pay, refuse, reload and log, and reads from the kernel
// how much it has written to any disk: nothing. The node, which must write, shows that the kernel
// counts.
func TestAmnesia(t *testing.T) {
	t.Parallel()
	p := startPair(t, "--amnesia", "--log-level", "debug")
	for i, want := range []int{200, 200, 409} { // paid, replayed, its nonce spent
		body := `{"to":"alice","asset":"ron","amount_minor":"5","nonce":1}`
		if a := p.post(t, "/v1/issue", fmt.Sprint("k", i/2), body); a.status != want {
			t.Errorf("%s, want %d", a, want)
		}
	}
	p.side.signal(syscall.SIGHUP)
	p.side.until(`"event":"reloaded"`)
	written := func(pid int) string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
		if err != nil {
			t.Skipf("no count of what is written: %v", err)
		}
		_, count, _ := strings.Cut(string(data), "\nwrite_bytes: ")
		count, _, _ = strings.Cut(count, "\n")
		return count
	}
	if written(p.node.cmd.Process.Pid) == "0" {
		t.Skip("the temporary folder is in memory, where nothing is counted")
	}
	if n := written(p.side.cmd.Process.Pid); n != "0" {
		t.Errorf("the sidecar wrote %s bytes", n)
	}
}

// TestDamagedStore stops a node, spoils a byte in the head of each segment of its journal, and starts it
// again: it says in one line what is wrong, ends with 1, and has changed nothing.
func TestDamagedStore(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	if a := p.post(t, "/v1/issue", "k", `{"to":"alice","asset":"ron","amount_minor":"5","nonce":1}`); a.status != 200 {
		t.Error(a)
	}
	p.side.stop()
	p.node.stop()
	data := filepath.Join(filepath.Dir(p.caFile), "data")
	tables, err := filepath.Glob(filepath.Join(data, "journal", "*.log"))
	if err != nil || len(tables) == 0 {
		t.Fatalf("no journal in %s: %v", data, err)
	}
	spoilt := map[string][]byte{}
	for _, table := range tables {
		text, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		text[20] ^= 0xff
		if err := os.WriteFile(table, text, 0o600); err != nil {
			t.Fatal(err)
		}
		spoilt[table] = text
	}
	p.startNode()
	select {
	case <-p.node.exited:
	case <-time.After(patience):
		t.Fatal("the node runs on a damaged store")
	}
	said := p.node.everything()
	if exit := p.node.cmd.ProcessState.ExitCode(); exit != 1 || strings.Count(said, "\n") != 1 ||
		!strings.HasPrefix(said, "svc-wallet: node: "+data+": the store is damaged: ") {
		t.Errorf("ended with %d after it said\n%s", exit, said)
	}
	for table, text := range spoilt {
		if now, err := os.ReadFile(table); err != nil || !bytes.Equal(now, text) {
			t.Errorf("%s is another one now: %v", table, err)
		}
	}
}
