package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestAdmin walks the admin listener: each path answers what CONTRACT §4 says, and what a web page
// in an operator's browser could send is refused.
func TestAdmin(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, tc := range []struct {
		method, path, body string
		header             []string
		status             int
		want               string
	}{
		{"GET", "/healthz", "", nil, 200, `"ok"`},
		{"GET", "/readyz", "", nil, 200, `"ready":true`},
		{"GET", "/version", "", nil, 200, `"version":"test"`},
		{"GET", "/config", "", nil, 200, `{"key":"tls.cert_file","value":"` + r.path("tls.crt") + `","source":`},
		{"GET", "/openapi.yaml", "", nil, 200, "openapi: 3.1.0"},
		{"GET", "/metrics", "", nil, 200, "go_goroutines"},
		{"GET", "/metrics", "", nil, 200, "process_open_fds"},
		{"GET", "/debug/pprof/", "", nil, 200, "goroutine"},
		{"GET", "/debug/pprof/cmdline", "", nil, 200, ""},
		{"GET", "/debug/pprof/goroutine?debug=1", "", nil, 200, "goroutine profile"},
		{"GET", "/log-level", "", nil, 200, `{"level":"debug"}`},
		{"PUT", "/log-level", "info", nil, 200, `{"level":"info"}`},
		{"PUT", "/log-level", `{"level":"debug"}`, nil, 200, `{"level":"debug"}`},
		{"PUT", "/log-level", "warn", nil, 200, `{"level":"warning"}`},
		{"PUT", "/log-level", "trace", nil, 400, "one of"},
		{"PUT", "/log-level", "loud", nil, 400, "one of"},
		{"PUT", "/log-level", strings.Repeat("x", 2000), nil, 413, ""},
		{"GET", "/drain", "", nil, 405, ""},
		{"POST", "/metrics", "", nil, 405, ""},
		{"GET", "/", "", nil, 404, ""},
		{"POST", "/drain", "", []string{"Origin", "https://evil.example"}, 403, ""},
		{"POST", "/drain", "", []string{"Sec-Fetch-Site", "cross-site"}, 403, ""},
		{"GET", "/config", "", []string{"Host", "evil.example"}, 403, "localhost"},
		{"GET", "/healthz", "", []string{"Host", "localhost"}, 200, ""},
		{"GET", "/healthz", "", []string{"Host", "[::1]:9090"}, 200, ""},
	} {
		status, body, _ := r.adminDo(tc.method, tc.path, tc.body, tc.header...)
		if status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s %s %q %v: %d %.300s, want %d %s", tc.method, tc.path, tc.body, tc.header, status, body, tc.status, tc.want)
		}
	}
	if status, body := r.adminGet("/config"); status != 200 || strings.Contains(body, "5a5a5a") {
		t.Error("/config shows a root key")
	}
}

// TestAdminAnswersNoOtherOrigin: whatever a page of another origin has an operator's browser ask for is
// refused, on every path and for every method; the listener's own pages, a browser's address line, curl
// and Prometheus are answered. Method: each path with what browsers send.
func TestAdminAnswersNoOtherOrigin(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
	} {
		for _, path := range []string{
			"/metrics", "/healthz", "/readyz", "/version", "/config", "/drain", "/ledger/accept", "/log-level", "/hystrix.stream",
			"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine", "/debug/pprof/profile", "/debug/pprof/trace", "/nope",
		} {
			for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT"} {
				if status, body, _ := r.adminDo(method, path, "", header...); status != 403 {
					t.Errorf("%s %s %v: %d %.100s", method, path, header, status, body)
				}
			}
		}
	}
	for _, header := range [][]string{
		nil, {"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Origin", "http://" + r.server.AdminAddr().String()},
	} {
		if status, body, _ := r.adminDo("GET", "/config", "", header...); status != 200 {
			t.Errorf("%v: %d %.100s", header, status, body)
		}
	}
}

// TestStream reads one event of the breaker stream and leaves.
func TestStream(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get(r.adminURL("/hystrix.stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%d %v %q %v", resp.StatusCode, resp.Header, line, err)
	}
}

// TestAdminAnswersBehindASilentCrowd: connections that say nothing, or half a head, keep no scrape out.
// Method: three times as many as the admin listener holds, then a scrape on a connection of its own.
func TestAdminAnswersBehindASilentCrowd(t *testing.T) {
	r := newRig(t, rigOptions{})
	for i := range 200 {
		conn, err := net.Dial("tcp", r.server.AdminAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 0 {
			_, _ = io.WriteString(conn, "GET /readyz HT") // it may have made room already
		}
	}
	if status, body := r.adminGet("/healthz"); status != 200 {
		t.Errorf("%d %s", status, body)
	}
}
