package node

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics tells how an engine and its process do, to Prometheus. All is read when it is scraped, so nothing
// costs a payment anything.
func Metrics(e Engine) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	sum := func(name, help string, outcome string, value func(*Stats) uint64) {
		labels := prometheus.Labels{}
		if outcome != "" {
			labels["outcome"] = outcome
		}
		registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels},
			func() float64 { s := e.Stats(); return float64(value(&s)) }))
	}
	const batches, store = "Checks of a batch that balances equal issues less burns.", "Checks of the whole store, beside its work."
	sum("node_conservation_checks_total", batches, "ok", func(s *Stats) uint64 { return s.ConservationOK })
	sum("node_conservation_checks_total", batches, "failed", func(s *Stats) uint64 { return s.ConservationFailed })
	sum("node_store_checks_total", store, "ok", func(s *Stats) uint64 { return s.StoreOK })
	sum("node_store_checks_total", store, "failed", func(s *Stats) uint64 { return s.StoreFailed })
	sum("node_damaged_reads_total", "Reads that met damage in the store.", "", func(s *Stats) uint64 { return s.Damaged })
	sum("node_watches_lagged_total", "Watches that were cut off for being too slow.", "", func(s *Stats) uint64 { return s.Lagged })
	gauge := func(name, help string, value func() float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("node_version", "The durable version of the ledger.", func() float64 { return float64(e.Seq()) })
	gauge("node_stalled", "1 while the disk has not answered for so long that commits time out.", func() float64 {
		if e.Stats().Stalled {
			return 1
		}
		return 0
	})
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
