package proxy_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"svc-wallet/config"
	"svc-wallet/ledger"
	"svc-wallet/wallet"
)

// contractMetrics are CONTRACT §5's names with their labels.
const contractMetrics = `
request_latency_seconds method route
http_requests_total method route status
inflight_requests route
upstream_latency_seconds op svc
upstream_calls_total op outcome svc
circuit_open_total svc
circuit_state svc
backoff_retries_total op svc
busy_rejections_total endpoint
queue_depth queue
queue_dropped_total queue
worker_inflight
commit_batch_size
wallet_requests_total op
wallet_rejects_total reason
wallet_idem_replays_total
wallet_nonce_conflicts_total
wallet_conservation_checks_total outcome
balance_cache_total outcome
auth_cache_total outcome
auth_failures_total stage
tls_handshake_failures_total
io_timeouts_total op
bus_lagged_total bus
service_restarts_total kind
`

// TestMetricNames reads /metrics of a sidecar that nobody has used yet: each series of CONTRACT §5
// is there, with its labels and no others, so that dashboards and alerts find it before the first
// fault; and every name that could hold what a client sends is missing.
func TestMetricNames(t *testing.T) {
	r := newRig(t, rigOptions{})
	_, text := r.adminGet("/metrics")
	labels := map[string][]string{}
	for line := range strings.Lines(text) {
		if line[0] == '#' || strings.HasPrefix(line, "go_") { // comments, and the Go collector's own
			continue
		}
		name, rest, _ := strings.Cut(strings.Fields(line)[0], "{")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		var keys []string
		for pair := range strings.SplitSeq(strings.TrimSuffix(rest, "}"), `",`) {
			if key, _, ok := strings.Cut(pair, "="); ok && key != "le" {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		if seen, ok := labels[name]; ok && !slices.Equal(seen, keys) {
			t.Errorf("%s has the labels %v and %v", name, seen, keys)
		}
		labels[name] = keys
	}
	for line := range strings.Lines(strings.TrimSpace(contractMetrics)) {
		want := strings.Fields(line)
		if got, ok := labels[want[0]]; !ok || !slices.Equal(got, want[1:]) {
			t.Errorf("%s is there: %v, with the labels %v, want %v", want[0], ok, got, want[1:])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		for _, free := range []string{"account", "txid", "key", "token", "peer", "corr_id", "path"} {
			if slices.Contains(labels[name], free) {
				t.Errorf("%s has the label %s, which nothing bounds", name, free)
			}
		}
	}
}

// TestMetricsCount makes each series move that no other test looks at: by payments and reads that
// go well, are refused, wait, are repeated, and break the breaker.
func TestMetricsCount(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{
		"SVC_WALLET_LEDGER_RETRIES=1", "SVC_WALLET_BREAKER_ERRORS=3", "SVC_WALLET_BREAKER_OPEN=1m",
		"SVC_WALLET_LEDGER_TIMEOUT=1m", "SVC_WALLET_LIMITS_REQUEST_DEADLINE=1m", // for the payment that is held
	}})
	c := r.client()
	r.issueTo(c, "rich", 100)
	expect := func(series, want string) {
		t.Helper()
		r.eventually(series+" is "+want, func() bool { return r.metric(series) == want })
	}
	read := func() { r.call(c, "GET", "/v1/balance?account=never&asset=ron", "") }
	pay := func(amount, nonce uint64) answer {
		return r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", amount, nonce))
	}

	read()
	read()
	expect(`balance_cache_total{outcome="miss"}`, "1")
	expect(`balance_cache_total{outcome="hit"}`, "1")
	expect(`auth_cache_total{outcome="miss"}`, "1")
	expect(`auth_cache_total{outcome="hit"}`, "2")
	expect(`upstream_latency_seconds_count{op="lookup",svc="ledger"}`, "1")
	r.call(c, "GET", "/v1/balance?account=never&asset=ron", "", "Authorization", "Bearer AAAA")
	expect(`auth_failures_total{stage="decode"}`, "1")
	expect(`wallet_rejects_total{reason="unauthorized"}`, "1")

	pay(1, 1)
	pay(1000, 2)
	pay(1, 1)
	expect(`commit_batch_size_count`, "4")
	expect(`commit_batch_size_sum`, "4")
	expect(`upstream_latency_seconds_count{op="commit",svc="ledger"}`, "4")
	expect(`wallet_rejects_total{reason="insufficient_funds"}`, "1")
	expect(`wallet_rejects_total{reason="nonce_conflict"}`, "1")
	expect(`wallet_nonce_conflicts_total`, "1")
	r.eventually("conservation was checked", func() bool {
		n := r.metric(`wallet_conservation_checks_total{outcome="ok"}`)
		return n != "0" && n != ""
	})

	r.limit(func(l *config.Limits) { l.InFlight = 0 })
	pay(1, 3)
	r.live.Store(r.cfg.Limits())
	expect(`busy_rejections_total{endpoint="/v1/transfer"}`, "1")
	expect(`http_requests_total{method="POST",route="/v1/transfer",status="429"}`, "1")

	begun, proceed := make(chan struct{}), make(chan struct{})
	hold := func([]wallet.Payment) error { close(begun); <-proceed; return nil }
	r.ledger.commit.Store(&hold)
	held := make(chan answer, 1)
	go func() { held <- pay(1, 3) }()
	<-begun
	expect(`worker_inflight`, "1")
	expect(`inflight_requests{route="/v1/transfer"}`, "1")
	close(proceed)
	if a := <-held; a.status != 200 {
		t.Errorf("the payment that was held: %d %s", a.status, a.body)
	}
	expect(`worker_inflight`, "0")
	expect(`inflight_requests{route="/v1/transfer"}`, "0")

	r.failCommits(ledger.ErrNotSent)
	pay(1, 4)
	expect(`backoff_retries_total{op="commit",svc="ledger"}`, "1")
	expect(`upstream_calls_total{op="commit",outcome="not_sent",svc="ledger"}`, "2")
	expect(`circuit_state{svc="ledger"}`, "0")
	r.failCommits(context.DeadlineExceeded)
	pay(1, 4)
	expect(`upstream_calls_total{op="commit",outcome="timeout",svc="ledger"}`, "1")
	expect(`circuit_open_total{svc="ledger"}`, "1")
	expect(`circuit_state{svc="ledger"}`, "2")
	pay(1, 4)
	r.eventually("a call was rejected", func() bool {
		return r.metric(`upstream_calls_total{op="commit",outcome="rejected",svc="ledger"}`) != "0"
	})
	expect(`wallet_rejects_total{reason="outcome_unknown"}`, "1")
	expect(`wallet_rejects_total{reason="upstream_unavailable"}`, "2")
}
