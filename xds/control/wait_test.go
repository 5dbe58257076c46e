package control

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestWait puts with wait: the answer comes once each connected sidecar of the group has answered, or
// when the wait is over, and counts what they said. Method: bare sidecars of both protocols, each of
// which takes, refuses or ignores what it is sent.
func TestWait(t *testing.T) {
	const takes, refuses, ignores = "takes", "refuses", "ignores"
	for _, tc := range []struct {
		name     string
		sidecars []string
		query    string
		want     *tally
	}{
		{name: "nobody connected", query: "wait=20s", want: &tally{}},
		{name: "accepted", sidecars: []string{takes}, query: "wait=20s", want: &tally{Accepted: 1}},
		{name: "refused", sidecars: []string{refuses}, query: "wait=20s", want: &tally{Refused: 1}},
		{name: "one of each", sidecars: []string{takes, refuses, takes}, query: "wait=20s", want: &tally{Accepted: 2, Refused: 1}},
		{name: "never answers", sidecars: []string{ignores, takes}, query: "wait=50ms", want: &tally{Accepted: 1, Waiting: 1}},
		{name: "no wait", sidecars: []string{ignores}, query: "wait=0s"},
		{name: "not asked for", sidecars: []string{ignores}},
		{name: "dry run", sidecars: []string{ignores}, query: "wait=20s&dry_run=true"},
	} {
		for _, protocol := range []string{"delta", "sotw"} {
			t.Run(tc.name+"/"+protocol, func(t *testing.T) {
				r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":5}`, "other.json": `{"match":{"ids":["other"]},"queue":5}`}})
				r.answering(protocol, "other", ignores) // of another group: nobody waits for it
				for i, what := range tc.sidecars {
					r.answering(protocol, string(rune('a'+i)), what)
				}
				got := r.call("PUT", "/limits/default?"+tc.query, `{"queue":6}`)
				var body struct{ Answers *answers }
				if err := json.Unmarshal([]byte(got.body), &body); err != nil || got.status != 200 {
					t.Fatalf("%d %s: %v", got.status, got.body, err)
				}
				if (body.Answers == nil) != (tc.want == nil) || (tc.want != nil && body.Answers.tally != *tc.want) {
					t.Errorf("%s, want %+v", got.body, tc.want)
				}
			})
		}
	}
}

// answering connects a sidecar that has taken its limits, and that from then on does what says.
func (r *rig) answering(protocol, id, what string) {
	r.t.Helper()
	p := r.connect(protocol, id, "")
	p.subscribe(kindLimits, "svc-wallet.limits")
	p.ack(kindLimits, p.next(kindLimits))
	r.eventually(id+" has taken its limits", func() bool {
		s := r.sidecars()[id].Types["limits"]
		return s.Served != "" && s.Acked == s.Served
	})
	if what == "ignores" {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m, err := p.receive()
		switch {
		case err != nil: // the test is over
		case what == "takes":
			p.ack(kindLimits, m)
		default:
			p.nack(kindLimits, m, "svc-wallet.limits: limits.queue: no")
		}
	}()
	r.t.Cleanup(func() { p.close(); <-done })
}

// TestWaitEndpoints pushes endpoints that our sidecar refuses, at first and in place of others, many
// times: the wait must not be over before the sidecar has answered to the endpoints too, which it asks
// for only once it knows the cluster.
func TestWaitEndpoints(t *testing.T) {
	for _, protocol := range []string{"delta", "sotw"} {
		t.Run(protocol, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			w := startSidecar(t, r.plane.Addr(), protocol)
			r.eventually("connected", func() bool { return r.sidecars()["wallet-1"].Types["cluster"].Acked != "" })
			for i := range 40 {
				for document, want := range map[string]string{
					`{"clusters":{"ledger":{"endpoints":["127.0.0.1:%d"]}}}`: `"answers":{"accepted":1,"refused":0,"waiting":0,"types":{"cluster":{"accepted":1,"refused":0,"waiting":0},"endpoint":{"accepted":1,"refused":0,"waiting":0},`,
					`{"clusters":{"ledger":{"endpoints":["10.0.0.1:%d"]}}}`:  `"answers":{"accepted":0,"refused":1,"waiting":0,"types":{"cluster":{"accepted":1,"refused":0,"waiting":0},"endpoint":{"accepted":0,"refused":1,"waiting":0},`,
				} {
					got := r.call("PUT", "/limits/default?wait=20s", fmt.Sprintf(document, i+1))
					if !strings.Contains(got.body, want) {
						t.Fatalf("round %d: %s\nwant %s", i, got.body, want)
					}
					if at := fmt.Sprintf("127.0.0.1:%d", i+1); strings.HasPrefix(want, `"answers":{"accepted":1`) && !slices.Equal(w.endpoints(), []string{at}) {
						t.Fatalf("round %d: endpoints %q, want %s", i, w.endpoints(), at)
					}
				}
				r.put("default", `{"queue":5}`) // without the cluster, and without waiting for it
			}
		})
	}
}

// TestWaitRefused: what is no wait changes nothing.
func TestWaitRefused(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":5}`}})
	for _, wait := range []string{"soon", "5", "-1s", "61s", "1m1ns", "9999999h"} {
		got := r.call("PUT", "/limits/default?wait="+wait, `{"queue":6}`)
		if want := `{"code":"BAD_REQUEST","message":"wait is a duration such as 5s, at most 1m0s"}` + "\n"; got.status != 400 || got.body != want {
			t.Errorf("%s: %d %s", wait, got.status, got.body)
		}
	}
	if got := r.call("GET", "/limits/default", ""); got.body != "{\n  \"queue\": 5\n}\n" {
		t.Errorf("afterwards %s", got.body)
	}
}

// TestWaitEnds has a control plane end while a client waits: both are done at once.
func TestWaitEnds(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":5}`}, timing: func(tm *timing) { tm.drain = 10 * time.Millisecond }})
	r.answering("delta", "a", "ignores")
	ended := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, r.base+"/limits/default?wait=60s", strings.NewReader(`{"queue":6}`))
		if err == nil {
			var resp *http.Response
			if resp, err = r.http.Do(req); err == nil {
				resp.Body.Close()
			}
		}
		ended <- err
	}()
	r.eventually("the change is served", func() bool { return strings.Contains(r.call("GET", "/limits/default", "").body, "6") })
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	<-ended
}

// TestClose gives up a Plane that listens and was not run: both addresses are free again.
func TestClose(t *testing.T) {
	dir, err := os.MkdirTemp("", "control") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, api := range []string{"", "unix:" + filepath.Join(dir, "api")} {
		for range 2 {
			p, err := New(Options{Source: t.TempDir(), Listen: "unix:" + filepath.Join(dir, "xds"), API: api, AllowEmpty: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Listen(); err != nil {
				t.Fatal(err)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if _, err := net.Dial("unix", filepath.Join(dir, "xds")); err == nil {
				t.Error("somebody listens")
			}
		}
	}
}
