package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestAdminListeners: a node and a control plane answer operators where --metrics says, as a sidecar does,
// and end as they did without it. Method: both commands, each path, and an address that is taken.
func TestAdminListeners(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ args, metric string }{
		{"ledger --engine memory --listen unix:DIR/ledger", "node_conservation_checks_total{outcome=\"failed\"} 0"},
		{"control --limits DIR --allow-empty --listen unix:DIR/xds --api unix:DIR/api", "control_sidecars 0"},
	} {
		args := strings.Fields(strings.ReplaceAll(tc.args, "DIR", t.TempDir()))
		ctx, cancel := context.WithCancel(t.Context())
		log, said := io.Pipe()
		root := newRoot(nil)
		root.SetArgs(append(args, "--metrics", "127.0.0.1:0"))
		root.SetErr(said)
		ended := make(chan error, 1)
		go func() {
			ended <- root.ExecuteContext(ctx)
			said.Close()
		}()
		var line struct {
			Event     string
			AdminAddr string `json:"admin_addr"`
		}
		for lines := bufio.NewScanner(log); line.Event != "listening" && lines.Scan(); {
			if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
				t.Fatal(err)
			}
		}
		go func() { _, _ = io.Copy(io.Discard, log) }()
		for path, want := range map[string]string{
			"/metrics": tc.metric, "/healthz": `"ok"`, "/version": `"version"`, "/debug/pprof/goroutine?debug=1": "goroutine profile",
		} {
			res, err := http.Get("http://" + line.AdminAddr + path)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
				t.Errorf("%s %s: %d %v %.300s", args[0], path, res.StatusCode, err, body)
			}
		}
		taken := strings.Fields(strings.ReplaceAll(tc.args, "DIR", t.TempDir()))
		if code := run(append(taken, "--metrics", line.AdminAddr), nil, io.Discard, io.Discard); code != exitError {
			t.Errorf("%s --metrics of another: %d", args[0], code)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", args[0], err)
		}
	}
}
