package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// TestSwitchedOff: what an operator switches off gets 503 with its reason and all
// else goes on; /readyz stays 200 but says degraded. Method: one switch at a time,
// over TLS.
func TestSwitchedOff(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "rich", 1000)
	nonce := uint64(0)
	routes := map[string]func() answer{
		"balance":  func() answer { return r.call(c, "GET", "/v1/balance?account=rich&asset=ron", "") },
		"tx":       func() answer { return r.call(c, "GET", "/v1/tx/tx_01ARZ3NDEKTSV4RRFFQ69G5FAV", "") },
		"transfer": func() answer { return r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", 1, nonce)) },
		"issue": func() answer {
			return r.call(c, "POST", "/v1/issue", strings.ReplaceAll(r.transfer("", "rich", 1, 1000+nonce), `"from":"",`, ""))
		},
		"burn": func() answer {
			return r.call(c, "POST", "/v1/burn", strings.ReplaceAll(r.transfer("rich", "", 1, nonce), `"to":"",`, ""))
		},
	}
	for _, tc := range []struct {
		name string
		set  func(*config.Limits)
		off  string
	}{
		{"nothing", func(*config.Limits) {}, ""},
		{"writes", func(l *config.Limits) { l.WritesEnabled = 0 }, "issue transfer burn"},
		{"reads", func(l *config.Limits) { l.ReadsEnabled = 0 }, "balance tx"},
		{"issue", func(l *config.Limits) { l.RouteEnabled[wallet.RouteIssue] = 0 }, "issue"},
		{"tx", func(l *config.Limits) { l.RouteEnabled[wallet.RouteTx] = 0 }, "tx"},
		{"writes and balance", func(l *config.Limits) { l.WritesEnabled, l.RouteEnabled[wallet.RouteBalance] = 0, 0 }, "issue transfer burn balance"},
	} {
		r.limit(tc.set)
		for name, do := range routes {
			nonce++
			a := do()
			off := strings.Contains(" "+tc.off+" ", " "+name+" ")
			if off != (a.status == 503) {
				t.Errorf("%s are off: %s is %d %s", tc.name, name, a.status, a.body)
			}
			if off && !strings.Contains(a.problem(t).Message, "switched off") {
				t.Errorf("%s are off: %s says %s", tc.name, name, a.body)
			}
		}
		a := r.call(c, "GET", "/readyz", "")
		if degraded := strings.Contains(string(a.body), `"degraded":true`); a.status != 200 || degraded != (tc.off != "") {
			t.Errorf("%s are off: readyz is %d %s", tc.name, a.status, a.body)
		}
	}
}

// TestShareDrawnOnce: where half of the payments are let through, it is half of those too whose bodies
// come after their heads, although their heads are judged twice. Method: 300 draws and 6 standard
// deviations; a quarter would pass if chance decided twice.
func TestShareDrawnOnce(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.server.SetWritable(func() bool { return true }) // also where a busy machine makes the ledger look stalled
	r.limit(func(l *config.Limits) { l.WritesEnabled = config.Always / 2 })
	const draws = 300
	passed := 0
	for range draws {
		conn := r.dial()
		br := bufio.NewReader(conn)
		_, _ = io.WriteString(conn, r.postHead("k", "Expect: 100-continue\r\nContent-Length: 2\r\n"))
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusContinue {
			if a := r.exchange(conn, br, "{}"); a.status == 400 { // it was decoded
				passed++
			}
		}
		_ = conn.Close()
	}
	if share := fmt.Sprintf("%d of %d", passed, draws); passed < draws/2-52 || passed > draws/2+52 {
		t.Errorf("%s passed, want about half", share)
	}
}
