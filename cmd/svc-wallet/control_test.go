package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestControlUsage walks command lines that start no control plane.
func TestControlUsage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bad.json"), []byte(`{"queue":0,"quue":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for _, tc := range []struct {
		args string
		code int
		want string // on either stream
	}{
		{"--help", exitOK, "--limits"},
		{"", exitUsage, "--limits is needed"},
		{"--limits " + empty, exitUsage, "--listen is needed"},
		{"--limits " + empty + " --listen 127.0.0.1:0 extra", exitUsage, "no command or argument"},
		{"--nope", exitUsage, "unknown flag: --nope"},
		{"--limits " + empty + " --listen 127.0.0.1:0 --log-level loud", exitUsage, "log level"},
		{"--limits " + empty + " --listen 127.0.0.1:0 --tls-cert a", exitUsage, "go together"},
		{"--limits " + empty + " --listen 127.0.0.1:0 --client-id a", exitUsage, "mean nothing without --tls-ca"},
		{"--limits " + empty + " --listen 127.0.0.1:0 --bind-node {id}", exitUsage, "mean nothing without --tls-ca"},
		{"--limits " + empty + "/none --listen 127.0.0.1:0", exitError, "no such file"},
		{"--limits " + empty + " --listen 127.0.0.1:0", exitError, "there is no document"},
		{"--limits " + empty + " --allow-empty --listen 0.0.0.0:0", exitError, "only loopback may be served without TLS"},
		{"--limits " + empty + " --allow-empty --listen nowhere", exitError, "want unix:PATH or HOST:PORT"},
		{"--limits " + dir + " --listen 127.0.0.1:0", exitError, "quue: unknown key (from push); "},
	} {
		var out bytes.Buffer
		code := run(append([]string{"control"}, strings.Fields(tc.args)...), strings.NewReader(""), &out, &out)
		if code != tc.code || !strings.Contains(out.String(), tc.want) {
			t.Errorf("%s: %d %s", tc.args, code, &out)
		}
		if code == exitError && strings.Count(out.String(), "svc-wallet: ") != 1 {
			t.Errorf("%s: %s", tc.args, &out)
		}
	}
}

// TestControlRuns starts the command, changes a document over its API and one by hand with a
// SIGHUP, and ends it.
func TestControlRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sock := func(name string) string { return filepath.Join(dir, name) }
	limits := sock("limits")
	if err := os.Mkdir(limits, 0o700); err != nil {
		t.Fatal(err)
	}
	hup := make(chan os.Signal, 1)
	root := newRoot(hup)
	root.SetArgs([]string{"control", "--limits", limits, "--allow-empty", "--listen", "unix:" + sock("xds"), "--api", "unix:" + sock("api")})
	root.SetErr(io.Discard)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()

	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sock("api"))
	}}
	defer transport.CloseIdleConnections()
	call := func(method, path, body string) string {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://control"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return string(text)
	}
	eventually(t, func() bool {
		select {
		case err := <-ended:
			t.Fatal(err)
		default:
		}
		return strings.Contains(call("GET", "/healthz", ""), `"ok"`)
	})
	if got := call("PUT", "/limits/default", `{"queue":5}`); !strings.Contains(got, `"version"`) {
		t.Error(got)
	}
	if err := os.WriteFile(filepath.Join(limits, "default.json"), []byte(`{"queue":6}`), 0o600); err != nil {
		t.Fatal(err)
	}
	hup <- syscall.SIGHUP
	eventually(t, func() bool { return strings.Contains(call("GET", "/limits/default", ""), `"queue": 6`) })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestControlPage: the flags of the command line in docs/xds.md are there.
func TestControlPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/xds.md")
	if err != nil {
		t.Fatal(err)
	}
	_, line, found := strings.Cut(string(page), "\nsvc-wallet ")
	line, _, _ = strings.Cut(line, "\n```")
	cmd, args, err := newRoot(nil).Find(strings.Fields(strings.ReplaceAll(line, "\\\n", " ")))
	if err != nil || !found || cmd.Name() != "control" {
		t.Fatalf("%q: %v", line, err)
	}
	if err := cmd.ParseFlags(args); err != nil || len(cmd.Flags().Args()) > 0 {
		t.Errorf("%q: %v, %q", line, err, cmd.Flags().Args())
	}
}

// eventually polls until is; the tests' own time-out is its bound.
func eventually(t *testing.T, is func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-tick.C:
		}
	}
}
