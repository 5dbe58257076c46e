package proxy_test

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// TestRefusedHandshakes makes handshakes fail in each way: every one is counted by its cause, and told at
// debug with who came and why, and at no other level.
func TestRefusedHandshakes(t *testing.T) {
	ca := newAuthority(t, "client CA")
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_TLS_CLIENT_AUTH=require", "SVC_WALLET_TLS_CLIENT_CA_FILE=" + writeFile(t, ca.pem)}, shut: true})
	shake := func(change func(*tls.Config)) func() {
		return func() {
			cfg := r.clientTLS()
			cfg.Certificates = []tls.Certificate{*cert(t, ca, "spiffe://mesh/client")}
			change(cfg)
			if st, err := r.dialWith(cfg); err == nil {
				t.Errorf("a connection: %v", st.Version)
			}
		}
	}
	send := func(text string) func() {
		return func() {
			c, err := net.Dial("tcp", r.server.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write([]byte(text))
			_ = c.Close()
		}
	}
	for cause, fail := range map[string]func(){
		"version":        shake(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }),
		"no_certificate": shake(func(c *tls.Config) { c.Certificates = nil }),
		"certificate": shake(func(c *tls.Config) {
			evil := cert(t, newAuthority(t, "evil"), "spiffe://mesh/client")
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return evil, nil }
		}),
		"refused_by_client": shake(func(c *tls.Config) { c.RootCAs = nil }),
		"not_tls":           send("GET / HTTP/1.1\r\n\r\n"),
		"closed":            send(""),
	} {
		for _, level := range []logrus.Level{logrus.DebugLevel, logrus.InfoLevel} {
			r.log.SetLevel(level)
			mark := len(r.logged.String())
			series := `tls_handshake_failure_causes_total{cause="` + cause + `"}`
			before := r.metric(series)
			fail()
			r.eventually(cause+" is counted", func() bool { return r.metric(series) != before })
			if level == logrus.DebugLevel {
				r.eventually(cause+" is told", func() bool { return strings.Contains(r.logged.String()[mark:], "handshake_refused") })
			}
			for line := range strings.Lines(r.logged.String()[mark:]) {
				var l struct{ Event, Cause, Reason, Level, Peer string }
				if err := json.Unmarshal([]byte(strings.Replace(line, "peer_addr", "peer", 1)), &l); err != nil {
					t.Fatal(err)
				}
				if l.Event == "handshake_refused" && (level != logrus.DebugLevel || l.Level != "debug" || l.Cause != cause || l.Reason == "" || l.Peer != "127.0.0.1") {
					t.Errorf("%s at %v: %s", cause, level, line)
				}
			}
		}
	}
}
