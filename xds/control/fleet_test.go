package control

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// rowsOf are the rows of one node id, as the API lists them.
func (r *rig) rowsOf(id string) (rows []sidecarView) {
	r.t.Helper()
	var out struct{ Sidecars []sidecarView }
	if got := r.call("GET", "/sidecars", ""); json.Unmarshal([]byte(got.body), &out) != nil {
		r.t.Fatal(got.body)
	}
	for _, s := range out.Sidecars {
		if s.ID == id {
			rows = append(rows, s)
		}
	}
	return rows
}

// TestTwoOfOneID: two sidecars that have one node id by mistake are two rows with an answer each, also on
// one Unix socket, where both have the same address. Once they are gone there is one.
func TestTwoOfOneID(t *testing.T) {
	dir, err := os.MkdirTemp("", "control") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, listen := range []string{"127.0.0.1:0", "unix:" + filepath.Join(dir, "xds")} {
		r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":5}`}, change: func(o *Options) { o.Listen = listen }})
		takes, refuses := r.connect("delta", "same", ""), r.connect("delta", "same", "")
		for _, p := range []*peer{takes, refuses} {
			p.subscribe(kindLimits, "svc-wallet.limits")
		}
		takes.ack(kindLimits, takes.next(kindLimits))
		refuses.nack(kindLimits, refuses.next(kindLimits), "svc-wallet.limits: limits.queue: no")
		r.eventually("both have answered", func() bool {
			states := ""
			for _, row := range r.rowsOf("same") {
				states += row.Types["limits"].State + " "
			}
			return states == "accepted refused " || states == "refused accepted "
		})
		takes.close()
		r.eventually("one is left", func() bool {
			rows := r.rowsOf("same")
			return len(rows) == 1 && rows[0].Types["limits"].State == "refused" && rows[0].GoneSince == ""
		})
		refuses.close()
		r.eventually("both are gone", func() bool { rows := r.rowsOf("same"); return len(rows) == 1 && rows[0].GoneSince != "" })
	}
}

// TestAcceptedNow: a sidecar that accepted a version, and after a restart refuses the same one, has not
// accepted it. Nothing is said of what it has before it answers.
func TestAcceptedNow(t *testing.T) {
	for _, protocol := range []string{"delta", "sotw"} {
		t.Run(protocol, func(t *testing.T) {
			r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":500}`}})
			limits := func() typeView { return r.sidecars()["wallet-1"].Types["limits"] }
			p := r.connect(protocol, "wallet-1", "")
			p.subscribe(kindLimits, "svc-wallet.limits")
			m := p.next(kindLimits)
			p.ack(kindLimits, m)
			r.eventually("accepted", func() bool { l := limits(); return l.State == "accepted" && l.Acked == m.version })
			p.close()
			r.eventually("gone", func() bool { return r.sidecars()["wallet-1"].GoneSince != "" && limits().State == "" })
			p = r.connect(protocol, "wallet-1", "")
			p.subscribe(kindLimits, "svc-wallet.limits")
			m = p.next(kindLimits)
			r.eventually("waiting", func() bool { l := limits(); return l.State == "waiting" && l.Served == m.version && l.Acked == "" })
			p.nack(kindLimits, m, "svc-wallet.limits: limits.queue: 500 is over ceilings.queue, 100")
			r.eventually("refused", func() bool { l := limits(); return l.State == "refused" && l.Acked == "" && l.Refused != nil })
			p.ack(kindLimits, m) // which is no answer to anything
			r.put("default", `{"queue":50}`)
			m = p.next(kindLimits)
			p.ack(kindLimits, m)
			r.eventually("accepted again", func() bool { l := limits(); return l.State == "accepted" && l.Acked == m.version && l.Refused != nil })
			p.nack(kindLimits, m, "svc-wallet.limits: too late") // an answer was given
			r.put("default", `{"queue":51}`)
			p.next(kindLimits)
			if l := limits(); l.Acked != m.version {
				t.Errorf("%+v", l)
			}
		})
	}
}

// TestGoneAreForgotten lets an hour pass by a clock of the test's own.
func TestGoneAreForgotten(t *testing.T) {
	var now atomic.Int64
	now.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	r := newRig(t, rigOptions{change: func(o *Options) { o.Now = now.Load }})
	stays, leaves := r.connect("delta", "stays", ""), r.connect("delta", "leaves", "")
	for _, p := range []*peer{stays, leaves} {
		p.subscribe(kindCluster)
		p.next(kindCluster)
	}
	leaves.close()
	r.eventually("gone", func() bool { return r.sidecars()["leaves"].GoneSince != "" })
	now.Add(int64(goneFor) - 1)
	if len(r.sidecars()) != 2 {
		t.Errorf("%+v", r.sidecars())
	}
	now.Add(1)
	if _, stays := r.sidecars()["stays"]; len(r.sidecars()) != 1 || !stays {
		t.Errorf("%+v", r.sidecars())
	}
}

// TestOneVersion follows a document's version from PUT by way of the group and the row of our own sidecar
// to its /config: it is the same for all types, and another one for another document.
func TestOneVersion(t *testing.T) {
	for _, protocol := range []string{"delta", "sotw"} {
		t.Run(protocol, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			w := startSidecar(t, r.plane.Addr(), protocol)
			versions := map[string]bool{}
			for _, document := range []string{
				`{"queue":7,"runtime":{"svc-wallet.inflight":9},"clusters":{"ledger":{"max_requests":33,"endpoints":["127.0.0.1:7000"]}}}`,
				`{"queue":8,"runtime":{"svc-wallet.inflight":9},"clusters":{"ledger":{"max_requests":33,"endpoints":["127.0.0.1:7000"]}}}`,
			} {
				got := r.call("PUT", "/limits/default?wait=60s", document)
				var put change
				if err := json.Unmarshal([]byte(got.body), &put); err != nil || put.Answers.Accepted != 1 || got.header.Get("ETag") != etag(put.Version) {
					t.Fatalf("%s %v", got.body, err)
				}
				versions[put.Version] = true
				for typ, view := range r.sidecars()["wallet-1"].Types {
					if view.Served != put.Version || view.Acked != put.Version {
						t.Errorf("%s: %+v, want %s", typ, view, put.Version)
					}
				}
				status, err := json.Marshal(w.client.Status())
				if n := strings.Count(string(status), `"version":"`+put.Version+`"`); err != nil || n != 4 {
					t.Errorf("%d times %s in %s", n, put.Version, status)
				}
			}
			if len(versions) != 2 {
				t.Errorf("%v", versions)
			}
		})
	}
}
