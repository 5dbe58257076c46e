package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLedgerRestoredUnderASidecar puts an older copy of the ledger's folder, and then an empty one,
// under a running sidecar. It says so in /readyz, the log and a metric; it refuses payments, and
// repeats of payments that the copy lacks too, and every read, so nothing that it says contradicts what it
// has said before. POST /ledger/accept ends it, and then repeats are paid by the ledger.
func TestLedgerRestoredUnderASidecar(t *testing.T) {
	p := startPair(t)
	data := flagValue(t, p.ledgerArgs, "--data")
	copied := filepath.Join(t.TempDir(), "copy")
	first := `{"to":"alice","asset":"ron","amount_minor":"7","nonce":1}`
	lost := `{"to":"alice","asset":"ron","amount_minor":"5","nonce":2}`
	if a := p.post(t, "/v1/issue", "k1", first); a.status != 200 {
		t.Fatal(a)
	}
	p.node.stop()
	if err := os.CopyFS(copied, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	p.startNode()
	p.ready(t)
	paid := p.post(t, "/v1/issue", "k2", lost)
	if paid.status != 200 {
		t.Fatal(paid)
	}
	const balance, byKey = "/v1/balance?account=alice&asset=ron", "/v1/tx?account=alice&idem=k2"
	_, id, _ := strings.Cut(paid.body, `"txid":"`)
	receipt := "/v1/tx/" + id[:strings.IndexByte(id, '"')]

	for _, tc := range []struct{ reason, folder, has string }{
		{"behind", copied, `"amount_minor":"7"`}, {"other_ledger", filepath.Join(t.TempDir(), "empty"), `"amount_minor":"0"`},
	} {
		p.node.kill()
		p.ledgerArgs = withFlag(p.ledgerArgs, "--data", tc.folder)
		p.startNode()
		p.side.until(`"event":"ledger_went_back"`)
		status, ready := admin(t, p.client, http.MethodGet, "/readyz")
		if status != http.StatusServiceUnavailable || !strings.Contains(ready, `"missing":["ledger_ready"]`) || !strings.Contains(ready, "accept") {
			t.Errorf("%s: /readyz is %d %s", tc.reason, status, ready)
		}
		if n := p.metric(t, `ledger_went_back_total{reason="`+tc.reason+`"}`); n != 1 {
			t.Errorf("%s was counted %v times", tc.reason, n)
		}
		repeat, err := p.do(t.Context(), http.MethodPost, "/v1/issue", lost, "Idempotency-Key", "k2")
		if err != nil || repeat.code() != "RETRY_LATER" || strings.Contains(repeat.body, "unknown") {
			t.Errorf("%s: a repeat is told %s %v", tc.reason, repeat, err)
		}
		if !strings.Contains(ready, `"degraded":true`) {
			t.Errorf("%s: /readyz is %s", tc.reason, ready)
		}
		for _, path := range []string{balance, receipt, byKey} {
			for _, least := range []string{"0", "1000"} {
				a, err := p.do(t.Context(), http.MethodGet, path, "", "X-Min-Ledger-Seq", least)
				if err != nil || a.code() != "RETRY_LATER" || !strings.Contains(a.body, "went back") || strings.Contains(a.body, "details") {
					t.Errorf("%s: %s is %s %v", tc.reason, path, a, err)
				}
			}
		}
		if status, said := admin(t, p.client, http.MethodPost, "/ledger/accept"); status != http.StatusOK || !strings.Contains(said, `"version"`) {
			t.Fatalf("%s: accept is %d %s", tc.reason, status, said)
		}
		p.ready(t)
		eventually(t, "the ledger is read as it is", func() bool { return strings.Contains(p.get(t, balance).body, tc.has) })
		for _, path := range []string{receipt, byKey} {
			if a := p.get(t, path); a.status != http.StatusNotFound {
				t.Errorf("%s: %s is %s", tc.reason, path, a)
			}
		}
		if status, _ := admin(t, p.client, http.MethodPost, "/ledger/accept"); status != http.StatusConflict {
			t.Errorf("%s: accepted twice: %d", tc.reason, status)
		}
		again := p.post(t, "/v1/issue", "k2", lost)
		if again.status != 200 || again.header.Get("Idempotency-Replayed") != "" || again.body == paid.body {
			t.Errorf("%s: paid anew: %s", tc.reason, again)
		}
	}
}

// admin asks the admin listener.
func admin(t testing.TB, c *client, method, path string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.admin+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func flagValue(t testing.TB, args []string, name string) string {
	t.Helper()
	for i := range args {
		if args[i] == name {
			return args[i+1]
		}
	}
	t.Fatalf("no %s in %q", name, args)
	return ""
}

func withFlag(args []string, name, value string) []string {
	args = append([]string(nil), args...)
	for i := range args {
		if args[i] == name {
			args[i+1] = value
		}
	}
	return args
}
