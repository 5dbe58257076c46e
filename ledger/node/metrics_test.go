package node_test

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"svc-wallet/ledger/node"
)

// told is an engine of which only what it tells of itself is asked.
type told struct {
	node.Engine
	stats node.Stats
}

func (t *told) Stats() node.Stats { return t.stats }
func (*told) Seq() uint64         { return 7 }

// TestMetrics: each figure that an engine tells is a series of its own, and no two are mixed up.
func TestMetrics(t *testing.T) {
	e := &told{stats: node.Stats{ConservationOK: 1, ConservationFailed: 2, StoreOK: 3, StoreFailed: 4, Damaged: 5, Lagged: 6}}
	metrics := node.Metrics(e)
	scrape := func() string {
		w := httptest.NewRecorder()
		metrics.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
		text, err := io.ReadAll(w.Result().Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	text := scrape()
	for _, want := range []string{
		`node_conservation_checks_total{outcome="ok"} 1`, `node_conservation_checks_total{outcome="failed"} 2`,
		`node_store_checks_total{outcome="ok"} 3`, `node_store_checks_total{outcome="failed"} 4`,
		"node_damaged_reads_total 5", "node_watches_lagged_total 6", "node_version 7", "node_stalled 0", "go_goroutines ", "process_open_fds ",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	e.stats.Stalled = true
	if text := scrape(); !strings.Contains(text, "\nnode_stalled 1\n") {
		t.Error(text)
	}
}
