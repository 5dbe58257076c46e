//go:build chaos

package main

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"svc-wallet/bench/link"
)

// TestChaos runs the write mix over a network that becomes slow and lossy, is cut, and is mended: breaker and
// readiness do not turn for lost packets, batches grow, latencies are bounded, a cut is noticed and so is its end,
// and the money adds up. Method: the real program over packets that are really lost, at a rate that leaves CPU.
func TestChaos(t *testing.T) {
	way, err := link.New()
	if link.Unavailable(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := way.Close(); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "svc-wallet")
	if out, err := exec.Command("go", "build", "-o", bin, "svc-wallet/cmd/svc-wallet").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	o := options{bin: bin, duration: 30 * time.Second, warmup: time.Second, rate: 500, connections: 64, accounts: 2000, quiet: true}
	rows, err := storm(t.Context(), &o, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		t.Error("nothing was judged")
	}
	for _, r := range rows {
		t.Logf("%s: %s, measured %s", r.figure, r.target, r.measured)
		if !r.pass {
			t.Errorf("%s: %s, want %s", r.figure, r.measured, r.target)
		}
	}
}
