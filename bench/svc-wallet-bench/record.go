package main

import (
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// newHistogram counts microseconds up to a minute, to three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(time.Minute/time.Microsecond), 3)
}

// recorder counts answers, by kind and status, and by second.
type recorder struct {
	mu      sync.Mutex
	begun   time.Time
	routes  map[route]*hdrhistogram.Histogram
	reads   *hdrhistogram.Histogram // answers that clients wanted
	writes  *hdrhistogram.Histogram
	goods   uint64
	now     second // that goes on
	nowHist [2]*hdrhistogram.Histogram
	seconds []second
}

// route is a row of the result. status is 0 where there was no answer.
type route struct {
	kind   kind
	status int
}

// second is what was answered in one second of a run.
type second struct {
	At      float64   `json:"at"`       // seconds since the beginning
	Good    int       `json:"answered"` // as it should be
	Shed    int       `json:"shed"`     // 429 and 503
	Bad     int       `json:"bad"`      // all others
	Read99  float64   `json:"read_p99_ms"`
	Write99 float64   `json:"write_p99_ms"`
	CPU     []float64 `json:"cpu"` // cores: sidecar, node, generator
}

func newRecorder(begun time.Time) *recorder {
	return &recorder{
		begun: begun, routes: map[route]*hdrhistogram.Histogram{}, reads: newHistogram(), writes: newHistogram(),
		nowHist: [2]*hdrhistogram.Histogram{newHistogram(), newHistogram()},
	}
}

// wanted says whether the status is what a request of the kind is to get.
func (k kind) wanted(status int) bool {
	if k == oversized {
		return status == 413
	}
	return status == 200
}

func (r *recorder) add(k kind, status int, took time.Duration) {
	micros := max(1, took.Microseconds())
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.routes[route{k, status}]
	if h == nil {
		h = newHistogram()
		r.routes[route{k, status}] = h
	}
	_ = h.RecordValue(min(micros, h.HighestTrackableValue()))
	switch {
	case k.wanted(status):
		r.goods++
		r.now.Good++
		all, late := r.writes, r.nowHist[1]
		if k.isRead() {
			all, late = r.reads, r.nowHist[0]
		}
		_ = all.RecordValue(min(micros, all.HighestTrackableValue()))
		_ = late.RecordValue(min(micros, late.HighestTrackableValue()))
	case status == 429 || status == 503:
		r.now.Shed++
	default:
		r.now.Bad++
	}
}

// tick ends a second, of which cpu is what the processes used.
func (r *recorder) tick(at time.Time, cpu []float64) second {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.now
	s.At = at.Sub(r.begun).Seconds()
	s.Read99, s.Write99 = millis(r.nowHist[0], 99), millis(r.nowHist[1], 99)
	s.CPU = cpu
	r.seconds = append(r.seconds, s)
	r.now = second{}
	for _, h := range r.nowHist {
		h.Reset()
	}
	return s
}

func millis(h *hdrhistogram.Histogram, percentile float64) float64 {
	return float64(h.ValueAtPercentile(percentile)) / 1000
}

// latency is a summary of a histogram.
type latency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

func latencyOf(h *hdrhistogram.Histogram) latency {
	return latency{h.TotalCount(), millis(h, 50), millis(h, 95), millis(h, 99), millis(h, 99.9), float64(h.Max()) / 1000}
}

// routeResult is a row of the result.
type routeResult struct {
	Kind   string `json:"kind"`
	Status int    `json:"status"` // 0: no answer
	latency
}

func (r *recorder) rows() (rows []routeResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for route, h := range r.routes {
		rows = append(rows, routeResult{route.kind.String(), route.status, latencyOf(h)})
	}
	slices.SortFunc(rows, func(a, b routeResult) int { return int(b.Count - a.Count) })
	return rows
}

// point is a point of a percentile curve.
type point struct {
	Percentile float64 `json:"percentile"`
	Millis     float64 `json:"ms"`
}

func curve(h *hdrhistogram.Histogram) (points []point) {
	if h.TotalCount() == 0 {
		return nil
	}
	for _, p := range []float64{1, 10, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.75, 99.9, 99.95, 99.99, 99.999, 100} {
		points = append(points, point{p, millis(h, p)})
	}
	return points
}
