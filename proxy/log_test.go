package proxy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// lines are the request lines of the log since mark.
func (r *rig) lines(mark int) (all []map[string]any) {
	r.t.Helper()
	for line := range strings.Lines(r.logged.String()[mark:]) {
		m := map[string]any{}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			r.t.Fatalf("%q: %v", line, err)
		}
		if m["event"] == "request" {
			all = append(all, m)
		}
	}
	return all
}

// TestRequestLog sends a payment, a refused one, reads and a probe at each level, and checks which
// lines appear, what they hold and what they never hold.
func TestRequestLog(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_LOG_SAMPLE_READS=4"}})
	c := r.client()
	r.issueTo(c, "secret-account", 100)
	mark := len(r.logged.String())
	send := func() {
		mark = len(r.logged.String())
		n := r.nonces.Add(1)
		r.call(c, "POST", "/v1/transfer", r.transfer("secret-account", "x", 1, n), "X-Corr-ID", "paid")
		r.call(c, "POST", "/v1/transfer", r.transfer("secret-account", "x", 1000, n+1), "X-Corr-ID", "poor")
		r.call(c, "GET", "/v1/balance?account=secret-account&asset=ron", "", "X-Corr-ID", "read")
		r.call(c, "GET", "/healthz", "", "X-Corr-ID", "probe")
	}
	wait := func(n int) []map[string]any { // a line is written after its answer
		r.eventually("the lines", func() bool { return len(r.lines(mark)) >= n })
		return r.lines(mark)
	}
	send()
	all := wait(4)
	byID := map[string]map[string]any{}
	for _, l := range all {
		byID[l["corr_id"].(string)] = l
	}
	paid := byID["paid"]
	if paid["level"] != "debug" || paid["op"] != "transfer" || paid["route"] != "/v1/transfer" || paid["status"] != 200.0 || paid["amount_minor"] != "1" ||
		paid["asset"] != "ron" || paid["method"] != "POST" || paid["peer_addr"] != "127.0.0.1" || paid["reason"] != nil ||
		!strings.HasPrefix(paid["txid"].(string), "tx_") || len(paid["idem"].(string)) == 0 || paid["nonce"] == nil || paid["latency_ms"].(float64) <= 0 {
		t.Errorf("paid: %v", paid)
	}
	poor := byID["poor"]
	if poor["level"] != "info" || poor["reason"] != "insufficient_funds" || poor["status"] != 409.0 || poor["txid"] != nil {
		t.Errorf("poor: %v", poor)
	}
	if h := paid["account_hash"].(string); len(h) != 32 || h != poor["account_hash"] || h != byID["read"]["account_hash"] {
		t.Errorf("account_hash: %q", h)
	}
	if p := byID["probe"]; p["op"] != nil || p["route"] != "/healthz" {
		t.Errorf("probe: %v", p)
	}

	r.log.SetLevel(logrus.InfoLevel)
	send()
	if all := wait(1); len(all) != 1 || all[0]["corr_id"] != "poor" {
		t.Errorf("at info: %v", all)
	}
	for range 4 { // with the two reads above, six of which the fourth is told of
		r.call(c, "GET", "/v1/balance?account=secret-account&asset=ron", "")
	}
	if all := wait(2); len(all) != 2 || all[1]["op"] != "read" || all[1]["level"] != "info" {
		t.Errorf("sampled: %v", all)
	}
	r.log.SetLevel(logrus.ErrorLevel)
	send()
	if all := r.lines(mark); len(all) != 0 {
		t.Errorf("at error: %v", all)
	}
	text := r.logged.String()
	for _, secret := range []string{"secret-account", r.token, "Bearer", "5a5a5a"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}
