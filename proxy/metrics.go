package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"svc-wallet/filters"
	"svc-wallet/host"
	"svc-wallet/ledger"
	"svc-wallet/wallet"
)

// ledgerService is the value of the label svc for the ledger node.
const ledgerService = "ledger"

// Metrics is the registry and every series of CONTRACT §5. It is the only user of client_golang.
// All children are made at start, so that counting is an atomic addition without a lock, a lookup
// or an allocation, and a series that never counted is there with 0.
//
// It implements ledger.Observer: whoever makes the committer and the reader makes it first.
type Metrics struct {
	registry *prometheus.Registry

	inflight  [wallet.NumRoutes]atomic.Int64
	latency   [wallet.NumRoutes]prometheus.Observer
	responses [wallet.NumRoutes][]prometheus.Counter // by code
	busy      [wallet.NumRoutes]prometheus.Counter
	requests  []prometheus.Counter // by operation
	rejects   []prometheus.Counter // by code; nil for those that are no refusal
	replays   prometheus.Counter
	conflicts prometheus.Counter

	handshakes                                      prometheus.Counter
	handshakeCauses                                 [numHandshakeCauses]prometheus.Counter
	timeoutRead, timeoutWrite, timeoutIdle, timeTLS prometheus.Counter
	over                                            [numCaps][numOverCaps]prometheus.Counter
	overBudget                                      prometheus.Counter
	panics                                          atomic.Uint64
	shadows                                         [filters.NumShadows]atomic.Uint64

	callLatency [ledger.NumMethods]prometheus.Observer
	calls       [ledger.NumMethods][ledger.NumCallOutcomes]prometheus.Counter
	retries     [ledger.NumMethods]prometheus.Counter
	batches     prometheus.Observer
}

// NewMetrics makes the registry with the Go and process collectors and all series that count
// here. Server adds those that are read from other parts.
func NewMetrics() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.makeRequests()
	m.makeConnections()
	m.makeCalls()
	return m
}

// latencyBuckets are seconds: a cached read takes some 50 µs, a payment about a millisecond, and
// at 5 s the deadline ends it.
func latencyBuckets() []float64 {
	return []float64{50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5}
}

func (m *Metrics) makeRequests() {
	latency := m.histogram("request_latency_seconds", "Time from the handler's start to the end of the answer's encoding.",
		latencyBuckets(), "route", "method")
	responses := m.counter("http_requests_total", "Requests answered.", "route", "method", "status")
	busy := m.counter("busy_rejections_total", "Requests refused with BUSY.", "endpoint")
	requests := m.counter("wallet_requests_total", "Requests that reached the wallet's routes.", "op")
	rejects := m.counter("wallet_rejects_total", "Wallet requests refused or failed.", "reason")

	for id := range wallet.NumRoutes {
		route, method := id.Path(), id.Method()
		m.latency[id] = latency.WithLabelValues(route, method)
		m.busy[id] = busy.WithLabelValues(route)
		for _, code := range wallet.Codes() {
			method := method
			if code == wallet.MethodNotAllowed {
				method = wallet.NoRoute.Method()
			}
			m.responses[id] = append(m.responses[id], responses.WithLabelValues(route, method, strconv.Itoa(code.HTTP())))
		}
		m.gauge("inflight_requests", "Requests being served.", prometheus.Labels{"route": route},
			func() float64 { return float64(m.inflight[id].Load()) })
	}
	for op := wallet.NoOp; op <= wallet.Burn; op++ {
		m.requests = append(m.requests, nil)
		if op != wallet.NoOp {
			m.requests[op] = requests.WithLabelValues(op.String())
		}
	}
	for _, code := range wallet.Codes() {
		m.rejects = append(m.rejects, nil)
		if code.Outcome() != wallet.Applied {
			m.rejects[code] = rejects.WithLabelValues(reason(code))
		}
	}
	m.replays = m.counter("wallet_idem_replays_total", "Payments answered with the receipt of an earlier one.").WithLabelValues()
	m.conflicts = m.counter("wallet_nonce_conflicts_total", "Payments refused for their nonce.").WithLabelValues()
	for w := range filters.NumShadows {
		m.sum(shadowSeries, shadowHelp, prometheus.Labels{"limit": w.String()}, m.shadows[w].Load)
	}
}

// The series of shadow limits; the queue's comes from the committer.
const (
	shadowSeries = "wallet_shadow_refusals_total"
	shadowHelp   = "Requests that a shadow limit would have refused, and the one in force did not."
)

// reason is a code as a label: its name in lower case, but an unknown outcome is told apart from
// a refusal of the same name.
func reason(code wallet.Code) string {
	if code == wallet.Uncertain {
		return "outcome_unknown"
	}
	return strings.ToLower(code.Name())
}

func (m *Metrics) makeConnections() {
	m.handshakes = m.counter("tls_handshake_failures_total", "TLS handshakes that failed.").WithLabelValues()
	causes := m.counter("tls_handshake_failure_causes_total", "TLS handshakes that failed, by why.", "cause")
	for h := range numHandshakeCauses {
		m.handshakeCauses[h] = causes.WithLabelValues(h.String())
	}
	timeouts := m.counter("io_timeouts_total", "Connections cut off because the client was too slow.", "op")
	m.timeTLS = timeouts.WithLabelValues("handshake")
	m.timeoutRead = timeouts.WithLabelValues("read")
	m.timeoutWrite = timeouts.WithLabelValues("write")
	m.timeoutIdle = timeouts.WithLabelValues("idle")
	over := m.counter("connections_over_cap_total", "Connections closed because as many were open as may be: one without a valid token (stranger) or an idle one (idle), to make room, or else the new one (refused).", "cap", "outcome")
	for c := capAddress; c < numCaps; c++ {
		for o := range numOverCaps {
			m.over[c][o] = over.WithLabelValues(c.String(), o.String())
		}
	}
	m.overBudget = m.counter("body_memory_refusals_total", "Requests refused because body_memory was in use.").WithLabelValues()
}

func (m *Metrics) watchConnections(counts func() (clients, strangers int)) {
	help := "Open connections to the wallet listener: of clients, which have shown a valid token, and of strangers."
	m.gauge("connections", help, prometheus.Labels{"of": "clients"}, func() float64 { n, _ := counts(); return float64(n) })
	m.gauge("connections", help, prometheus.Labels{"of": "strangers"}, func() float64 { _, n := counts(); return float64(n) })
}

func (m *Metrics) makeCalls() {
	latency := m.histogram("upstream_latency_seconds", "Time of a call, retries apart.", latencyBuckets(), "svc", "op")
	calls := m.counter("upstream_calls_total", "Calls by how they ended.", "svc", "op", "outcome")
	retries := m.counter("backoff_retries_total", "Calls repeated after a pause.", "svc", "op")
	for op := range ledger.NumMethods {
		m.callLatency[op] = latency.WithLabelValues(ledgerService, op.String())
		m.retries[op] = retries.WithLabelValues(ledgerService, op.String())
		for outcome := range ledger.NumCallOutcomes {
			m.calls[op][outcome] = calls.WithLabelValues(ledgerService, op.String(), outcome.String())
		}
	}
	m.batches = m.histogram("commit_batch_size", "Payments in one commit.", []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}).
		WithLabelValues()
}

// watch adds the series that are read from other parts when they are scraped.
func (m *Metrics) watch(d *Deps, auth *filters.Auth, bodies *budget) {
	m.gauge("body_memory_bytes", "Memory of request bodies that body_memory bounds.", nil, func() float64 { return float64(bodies.used.Load()) })
	queue := prometheus.Labels{"queue": "work"}
	m.gauge("queue_depth", "Payments waiting for a worker.", queue, func() float64 { return float64(d.Committer.Depth()) })
	m.sum("queue_dropped_total", "Payments refused because the queue was full.", queue, d.Committer.Dropped)
	m.sum(shadowSeries, shadowHelp, prometheus.Labels{"limit": "queue"}, d.Committer.ShadowDropped)
	m.gauge("worker_inflight", "Workers that are committing.", nil, func() float64 { return float64(d.Committer.Running()) })

	breaker := prometheus.Labels{"svc": ledgerService}
	m.gauge("circuit_state", "0 closed, 1 half open, 2 open.", breaker, func() float64 { return float64(d.Breaker.State()) })
	m.sum("circuit_open_total", "Times that the breaker opened.", breaker, d.Breaker.Opened)

	checks := "Checks by the ledger node that balances equal issues less burns."
	m.sum("wallet_conservation_checks_total", checks, prometheus.Labels{"outcome": "ok"},
		func() uint64 { ok, _ := d.Reader.Conservation(); return ok })
	m.sum("wallet_conservation_checks_total", checks, prometheus.Labels{"outcome": "failed"},
		func() uint64 { _, failed := d.Reader.Conservation(); return failed })
	m.sum("bus_lagged_total", "Times that the stream of changes ran ahead of its reader.", prometheus.Labels{"bus": "watch"}, d.Reader.Lagged)

	steps := "Steps of the machine's clock that were not believed at once (doubted), and that were believed in the end (adopted)."
	m.sum("clock_steps_total", steps, prometheus.Labels{"outcome": "doubted"}, func() uint64 { doubted, _ := d.Clock.Steps(); return doubted })
	m.sum("clock_steps_total", steps, prometheus.Labels{"outcome": "adopted"}, func() uint64 { _, adopted := d.Clock.Steps(); return adopted })

	for _, w := range d.Files.Watched() {
		help := "Times that changed files of certificates or keys were put in force, or could not be used."
		m.sum("files_reloaded_total", help, prometheus.Labels{"files": w.Name(), "outcome": "applied"}, w.Applied)
		m.sum("files_reloaded_total", help, prometheus.Labels{"files": w.Name(), "outcome": "refused"}, w.Refused)
	}
	m.registry.MustRegister(&certificateEnds{
		prometheus.NewDesc("certificate_not_after_timestamp_seconds", "End of the certificate in force, Unix time.", []string{"files"}, nil), d.Files,
	})
	if d.ControlPlane != nil {
		m.watchControlPlane(d.ControlPlane)
	}
	if d.Endpoints != nil {
		m.sum("ledger_endpoint_moves_total", "Moves to another endpoint of the ledger.", nil, d.Endpoints.Moves)
		m.sum("ledger_endpoint_refused_total", "Endpoints that were not moved to, because they are another ledger or behind.", nil, d.Endpoints.RefusedMoves)
	}

	if d.Standing != nil {
		for k := range ledger.NumDoubts {
			m.sum("ledger_went_back_total", "Times that the ledger came back as an older one, or as another one.", prometheus.Labels{"reason": k.String()},
				func() uint64 { return d.Standing.Doubts(k) })
		}
	}

	restarts := "Parts that failed and went on: handler is a request whose handler panicked, watch a stream of changes that was opened anew."
	m.sum("service_restarts_total", restarts, prometheus.Labels{"kind": "handler"}, m.panics.Load)
	m.sum("service_restarts_total", restarts, prometheus.Labels{"kind": "watch"}, d.Reader.Reconnects)

	for o := range ledger.NumCacheOutcomes {
		m.sum("balance_cache_total", "Balances by how they were served.", prometheus.Labels{"outcome": o.String()},
			func() uint64 { return d.Reader.CacheCount(o) })
	}
	m.sum("auth_cache_total", "Tokens by whether they had been verified before.", prometheus.Labels{"outcome": "hit"}, auth.Hits.Load)
	m.sum("auth_cache_total", "Tokens by whether they had been verified before.", prometheus.Labels{"outcome": "miss"}, auth.Misses.Load)
	m.sum("auth_strangers_limited_total", "Requests without a valid token that got 429, because there were more than auth.strangers_per_second.", nil, auth.Limited.Load)
	for stage := range filters.NumAuthStages {
		m.sum("auth_failures_total", "Tokens refused, by the stage that refused.", prometheus.Labels{"stage": stage.String()}, auth.Failures[stage].Load)
	}
}

func (m *Metrics) watchControlPlane(p ControlPlane) {
	for _, typ := range p.Types() {
		for _, outcome := range p.Outcomes() {
			m.sum("xds_updates_total", "Resources by what became of an update.", prometheus.Labels{"type": typ, "outcome": outcome},
				func() uint64 { return p.Updates(typ, outcome) })
		}
	}
	m.gauge("xds_connected", "1 while a control plane is connected.", nil, func() float64 {
		if p.Connected() {
			return 1
		}
		return 0
	})
	m.gauge("xds_version_age_seconds", "How long no control plane has vouched for what is in force; 0 while one is connected.", nil,
		func() float64 { return p.VersionAge().Seconds() })
}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(v)
	return v
}

func (m *Metrics) gauge(name, help string, labels prometheus.Labels, f func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f))
}

func (m *Metrics) sum(name, help string, labels prometheus.Labels, f func() uint64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
		func() float64 { return float64(f()) }))
}

// certificateEnds tells of each set of files that has a certificate in force when that ends. A set
// without one has no series: 0 would read as expired.
type certificateEnds struct {
	desc  *prometheus.Desc
	files *host.Files
}

// Describe implements prometheus.Collector.
func (c *certificateEnds) Describe(to chan<- *prometheus.Desc) { to <- c.desc }

// Collect implements prometheus.Collector.
func (c *certificateEnds) Collect(to chan<- prometheus.Metric) {
	for _, w := range c.files.Watched() {
		if end, ok := w.NotAfter(); ok {
			to <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(end.Unix()), w.Name())
		}
	}
}

// handler serves /metrics.
func (m *Metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

// begin counts a request in.
func (m *Metrics) begin(r wallet.Route) {
	m.inflight[r].Add(1)
	if op := r.Op(); op != wallet.NoOp {
		m.requests[op].Inc()
	}
}

// done counts a request out.
func (m *Metrics) done(r wallet.Route, code wallet.Code, nanos int64) {
	m.inflight[r].Add(-1)
	m.answered(r, code)
	m.latency[r].Observe(float64(nanos) / 1e9)
	if r.Op() == wallet.NoOp {
		return
	}
	if c := m.rejects[code]; c != nil {
		c.Inc()
	}
	switch code {
	case wallet.Replayed:
		m.replays.Inc()
	case wallet.NonceConflict:
		m.conflicts.Inc()
	default:
	}
}

// shadowed counts what the shadow limits would have refused.
func (m *Metrics) shadowed(set filters.ShadowSet) {
	for w := range filters.NumShadows {
		if set.Has(w) {
			m.shadows[w].Add(1)
		}
	}
}

// answered counts an answer by its status; those to what is no request are counted only here.
func (m *Metrics) answered(r wallet.Route, code wallet.Code) {
	m.responses[r][code].Inc()
	if code == wallet.Busy {
		m.busy[r].Inc()
	}
}

// Call implements ledger.Observer.
func (m *Metrics) Call(op ledger.Method, outcome ledger.CallOutcome, nanos int64) {
	m.calls[op][outcome].Inc()
	if outcome != ledger.CallRejected { // nothing was called
		m.callLatency[op].Observe(float64(nanos) / 1e9)
	}
}

// Retry implements ledger.Observer.
func (m *Metrics) Retry(op ledger.Method) { m.retries[op].Inc() }

// Batch implements ledger.Observer.
func (m *Metrics) Batch(payments int) { m.batches.Observe(float64(payments)) }

func (m *Metrics) handshakeFailed(cause handshakeCause) {
	m.handshakes.Inc()
	m.handshakeCauses[cause].Inc()
	if cause == causeTimeout {
		m.timeTLS.Inc()
	}
}

func (m *Metrics) timedOut(idle bool) {
	if idle {
		m.timeoutIdle.Inc()
		return
	}
	m.timeoutRead.Inc()
}

func (m *Metrics) writeTimedOut() { m.timeoutWrite.Inc() }

// overCap is which connection was closed because a new one met a cap.
type overCap uint8

const (
	connStranger overCap = iota
	connIdle
	connRefused
	numOverCaps
)

// String is the outcome's label.
func (o overCap) String() string { return [...]string{"stranger", "idle", "refused"}[o] }

func (m *Metrics) overCap(c connCap, o overCap) { m.over[c][o].Inc() }
func (m *Metrics) bodyRefused()                 { m.overBudget.Inc() }
func (m *Metrics) panicked()                    { m.panics.Add(1) }
