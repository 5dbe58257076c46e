package control

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// reloadOutcome is the label of control_reloads_total.
type reloadOutcome uint8

const (
	reloadUnchanged reloadOutcome = iota
	reloadApplied
	reloadRefused // at least one file was
	numReloadOutcomes
)

// metrics is the registry and every series. It is the only user of client_golang here.
type metrics struct {
	registry             *prometheus.Registry
	pushes, acks, nacks  [numKinds]prometheus.Counter
	lag                  [numKinds]prometheus.Observer
	reloads              [numReloadOutcomes]prometheus.Counter
	sidecarsFn, groupsFn func() float64 // set before the first scrape
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	pushes := counter("control_pushes_total", "Responses sent to sidecars.", "type")
	acks := counter("control_acks_total", "Responses that a sidecar took.", "type")
	nacks := counter("control_nacks_total", "Responses that a sidecar refused.", "type")
	reloads := counter("control_reloads_total", "Times that the limits were read again.", "outcome")
	lag := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "control_push_lag_seconds", Help: "Time from a response to its ACK.",
		Buckets: []float64{1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 5, 30},
	}, []string{"type"})
	for k := range numKinds {
		m.pushes[k], m.acks[k] = pushes.WithLabelValues(k.String()), acks.WithLabelValues(k.String())
		m.nacks[k], m.lag[k] = nacks.WithLabelValues(k.String()), lag.WithLabelValues(k.String())
	}
	for o, name := range [numReloadOutcomes]string{"unchanged", "applied", "refused"} {
		m.reloads[o] = reloads.WithLabelValues(name)
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		pushes, acks, nacks, reloads, lag,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "control_sidecars", Help: "Sidecars that are connected."},
			func() float64 { return m.sidecarsFn() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "control_groups", Help: "Groups with a document in force."},
			func() float64 { return m.groupsFn() }),
	)
	return m
}

func counter(name, help, label string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
}

// acked counts an ACK that took lag nanoseconds.
func (m *metrics) acked(k kind, lag int64) {
	m.acks[k].Inc()
	m.lag[k].Observe(time.Duration(lag).Seconds())
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}
