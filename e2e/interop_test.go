//go:build interop

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestInterop runs the sidecar against the server that go-control-plane ships for testing Envoy
// (pkg/test/main), which nobody here wrote. It serves RTDS, ECDS, CDS and SDS over ADS and rolls on
// from v0 to v4, each time it believes that an Envoy has followed: this test answers on the
// listener's port in Envoy's place. Its runtime layer and clusters are followed from version to version
// (as deltas, what changes), what it sends as an extension is refused each time, and payments go on.
//
// Its certificate ended in 2019. As the state of the world it sends no secret unless all are asked for,
// so there each version of them is refused, and the certificate of the file goes on; as deltas the
// trust bundle alone is asked for, and taken.
func TestInterop(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "xdstest")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/envoyproxy/go-control-plane/pkg/test/main").CombinedOutput(); err != nil {
		t.Fatalf("build go-control-plane's test server: %v\n%s", err, out)
	}
	for _, c := range []struct{ mode, protocol string }{{"ads", "sotw"}, {"delta-ads", "delta"}} {
		t.Run(c.protocol, func(t *testing.T) { interop(t, binary, c.mode, c.protocol) })
	}
}

func interop(t *testing.T, binary, mode, protocol string) {
	envoy := echo(t)
	port := func() string { _, p, _ := net.SplitHostPort(freePort(t)); return p }
	xds := port()
	p := newPair(t, "--xds", "127.0.0.1:"+xds, "--amnesia", "--log-level", "info")
	p.env = []string{
		"SVC_WALLET_XDS_PROTOCOL=" + protocol, "SVC_WALLET_XDS_NODE_ID=test-id", "SVC_WALLET_XDS_RUNTIME_NAMES=runtime-0",
		"SVC_WALLET_XDS_LIMITS_NAME=extensionConfig-0", "SVC_WALLET_XDS_INITIAL_FETCH_TIMEOUT=0s", "SVC_WALLET_XDS_CLIENT_CA=rootsecret", "SVC_WALLET_TLS_CLIENT_AUTH=request",
	}
	if protocol == "sotw" {
		p.env = append(p.env, "SVC_WALLET_XDS_CERTIFICATE=tlssecret")
	}
	p.start()

	const versions = 5
	server := exec.Command(binary, "-xds", mode, "-port", xds, "-gateway", port(), "-als", port(), "-upstream", port(),
		"-base", envoy, "-tls", "-http", "1", "-scopedhttp", "0", "-vhdshttp", "0", "-tcp", "0", "-clusters", "4", "-runtimes", "1",
		"-u", fmt.Sprint(versions), "-r", "3", "-delay", "300ms", "-nodeID", "test-id")
	var said strings.Builder
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() {
		_ = server.Process.Kill()
		if t.Failed() {
			t.Logf("the server said:\n%s", said.String())
		}
	})

	nonce := 0
	for running := true; running; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("the server: %v", err)
			}
			running = false
		default:
			nonce++
			if a := p.post(t, "/v1/issue", fmt.Sprintf("%s-%d", protocol, nonce), fmt.Sprintf(`{"to":"a","asset":"ron","amount_minor":"1","nonce":%d}`, nonce)); a.status != 200 {
				t.Fatal(a)
			}
		}
	}
	log := p.side.everything()
	for v := range versions {
		if !regexp.MustCompile(fmt.Sprintf(`"event":"xds_accepted".*"type":"cluster","version":"v%d"`, v)).MatchString(log) {
			t.Errorf("v%d of the clusters was not taken", v)
		}
	}
	unchanging, secrets := 1.0, `xds_updates_total{outcome="accepted",type="secret"}` // as deltas, what is the same in every version comes once
	if protocol == "sotw" {
		unchanging, secrets = versions, `xds_updates_total{outcome="refused",type="secret"}`
	}
	for sample, least := range map[string]float64{
		`xds_updates_total{outcome="accepted",type="cluster"}`: versions,
		`xds_updates_total{outcome="accepted",type="runtime"}`: unchanging,
		secrets: unchanging,
		`xds_updates_total{outcome="refused",type="limits"}`: versions,
	} {
		if n := p.metric(t, sample); n < least {
			t.Errorf("%s is %v, want %v at least", sample, n, least)
		}
	}
	if !strings.Contains(said.String(), "passed!") {
		t.Error("the server did not come to its end")
	}
}

// echo answers in Envoy's place, and returns its port.
func echo(t *testing.T) (port string) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "Default message") }))
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(s.Listener.Addr().String())
	return port
}
