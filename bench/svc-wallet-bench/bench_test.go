package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMixes: the scenarios hold to the contract's shares, and a mix of one's own is read or refused.
func TestMixes(t *testing.T) {
	for name, phases := range scenarios() {
		time := 0.0
		for _, p := range phases {
			time += p.share
			count := map[bool]int{}
			for range 10_000 {
				count[p.mix.pick().isRead()]++
			}
			if share := float64(count[true]) / 10_000; name != "read_heavy" && (share < .66 || share > .74) || name == "read_heavy" && share != 1 {
				t.Errorf("%s, %s: %.2f are reads", name, p.name, share)
			}
		}
		if time < .999 || time > 1.001 {
			t.Errorf("%s takes %v of its time", name, time)
		}
	}
	for text, want := range map[string]string{"balance=90,tx=5,transfer=5": "", "balance": "is no share", "walk=1": "no kind", "burn=-1": "is no share", "burn=0": "is no share", "burn=NaN": "is no share"} {
		if _, err := parseMix(text); (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestInflated: a compressed body becomes eight to ten times as long, and holds the payment.
func TestInflated(t *testing.T) {
	p := newPool(10)
	for range 100 {
		m := p.next(gzipped, p.any())
		z, err := gzip.NewReader(bytes.NewReader(m.body))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(z)
		if ratio := float64(len(text)) / float64(len(m.body)); err != nil || ratio < 8 || ratio > 10 || !strings.Contains(string(text), `"nonce":`) {
			t.Fatalf("ratio %.2f, %v: %s", ratio, err, bytes.TrimSpace(text))
		}
	}
}

// TestRecorder: a latency is counted by kind and status, and only wanted answers are in the summaries.
func TestRecorder(t *testing.T) {
	begun := time.Now()
	r := newRecorder(begun)
	for range 99 {
		r.add(balance, 200, time.Millisecond)
	}
	r.add(balance, 200, time.Second)
	r.add(transfer, 429, time.Hour)
	r.add(oversized, 413, 2*time.Millisecond)
	r.add(burn, 0, time.Millisecond)
	s := r.tick(begun.Add(time.Second), nil)
	if s.Good != 101 || s.Shed != 1 || s.Bad != 1 || s.At != 1 {
		t.Errorf("%+v", s)
	}
	if l := latencyOf(r.reads); l.Count != 100 || l.P50 != 1 || l.P99 != 1 || l.Max < 999 || l.Max > 1001 {
		t.Errorf("%+v", l)
	}
	if rows := r.rows(); len(rows) != 4 || rows[0].Kind != "balance" || rows[0].Count != 100 {
		t.Errorf("%+v", rows)
	}
}

// TestMoney: what does not add up is an error.
func TestMoney(t *testing.T) {
	for _, tc := range []struct {
		m    money
		want string
	}{
		{money{Issued: 10, Burned: 3, Balances: 7}, ""},
		{money{Issued: 10, Burned: 3, Balances: 8}, "money was made or lost"},
		{money{Issued: 10, Burned: 3, Balances: 7, Faults: 1}, "1 faults"},
	} {
		if err := tc.m.err(); (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v", tc.m, err)
		}
	}
}

// TestRuns runs each scenario for a moment on the real program: the money adds up, every kind of request is
// answered as the contract says, and both forms of the result hold what was measured.
func TestRuns(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "svc-wallet")
	if out, err := exec.Command("go", "build", "-o", bin, "svc-wallet/cmd/svc-wallet").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Run("growth", func(t *testing.T) {
		var out strings.Builder
		o := options{bin: bin, duration: 2 * time.Second, connections: 8, accounts: 100, quiet: true, closed: true}
		if err := growOld(t.Context(), &o, 2, &out); err != nil {
			t.Fatal(err)
		}
		if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); len(lines) != 5 || strings.Fields(lines[4])[0] <= strings.Fields(lines[3])[0] {
			t.Errorf("no two parts of one run:\n%s", &out)
		}
	})
	for _, scenario := range scenarioNames() {
		t.Run(scenario, func(t *testing.T) {
			o := options{bin: bin, scenario: scenario, duration: 2 * time.Second, rate: 200, connections: 8, accounts: 500, quiet: true}
			if len(scenarios()[scenario]) > 1 {
				o.duration = 6 * time.Second // a share of it each
			}
			result, err := measure(t.Context(), &o)
			if err != nil {
				t.Fatal(err)
			}
			if m := result.Money; m.Issued-m.Burned != m.Balances || m.Payments < 50 {
				t.Errorf("%+v", m)
			}
			for i := range result.Phases {
				for _, row := range result.Phases[i].Routes {
					if k := kindNamed(row.Kind); !k.wanted(row.Status) && row.Status != 429 && row.Status != 503 {
						t.Errorf("%s: %+v", result.Phases[i].Name, row)
					}
				}
			}
			dir := t.TempDir()
			if err := result.write(filepath.Join(dir, "r.json"), filepath.Join(dir, "r.html")); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(dir, "r.json"))
			var back Result
			if err != nil || json.Unmarshal(text, &back) != nil || back.Money != result.Money {
				t.Errorf("%v: %s", err, text)
			}
			page, err := os.ReadFile(filepath.Join(dir, "r.html"))
			if err != nil || strings.Count(string(page), "<svg") < 3 || !strings.Contains(string(page), `class="sound"`) || strings.Contains(string(page), "http") {
				t.Errorf("%v: %s", err, page)
			}
			if err := result.against(filepath.Join(dir, "r.json")); err != nil {
				t.Error(err)
			}
		})
	}
}

func kindNamed(name string) kind {
	for k := range kinds {
		if k.String() == name {
			return k
		}
	}
	return numKinds
}
