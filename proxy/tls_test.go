package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const ping = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

// dialWith opens a connection with cfg and makes one request, by which session tickets arrive.
func (r *rig) dialWith(cfg *tls.Config) (tls.ConnectionState, error) {
	c, err := tls.Dial("tcp", r.server.Addr().String(), cfg)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte(ping)); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := bufio.NewReader(c).ReadByte(); err != nil { // in TLS 1.3 a refused client learns of it here
		return tls.ConnectionState{}, err
	}
	return c.ConnectionState(), nil
}

// TestRotation swaps the certificate under a client that resumes sessions: before the swap it
// must resume, after it it must see the new certificate, at once and when resuming again. Then
// bad files must change nothing, and ticket keys must age.
func TestRotation(t *testing.T) {
	r := newRig(t, rigOptions{})
	cfg := r.clientTLS()
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	dial := func(name string, resumed bool) {
		t.Helper()
		st, err := r.dialWith(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := st.PeerCertificates[0].Subject.CommonName; got != name || st.DidResume != resumed {
			t.Fatalf("certificate %s, resumed %v; want %s, %v", got, st.DidResume, name, resumed)
		}
	}
	dial("one", false)
	dial("one", true)
	r.server.Tend() // nothing is due
	dial("one", true)

	r.ca.issue(t, r.path("tls"), "two", nil)
	r.server.Tend()
	dial("two", false)
	dial("two", true)

	if err := r.server.Reload(r.cfg); err != nil { // SIGHUP, the same files
		t.Fatal(err)
	}
	dial("two", true)

	r.write("tls.crt", "no certificate", 0o600)
	r.server.Tend()
	r.server.Tend() // said once
	if err := r.server.Reload(r.cfg); err == nil {
		t.Error("a bad certificate was taken")
	}
	dial("two", true)
	if n := strings.Count(r.logged.String(), "files_refused"); n != 1 {
		t.Errorf("a bad reload was said %d times", n)
	}
	if err := os.Remove(r.path("tls.key")); err != nil {
		t.Fatal(err)
	}
	r.server.Tend()
	dial("two", true)
	r.ca.issue(t, r.path("tls"), "three", nil)
	r.server.Tend()
	dial("three", false)

	// A ticket outlives one rotation of its key and not two; its own lifetime is of the client's
	// clock, so only the server's moves here.
	old := cfg.Clone()
	old.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	if _, err := r.dialWith(old); err != nil {
		t.Fatal(err)
	}
	kept, _ := old.ClientSessionCache.Get("localhost")
	for i, resumed := range []bool{true, false} {
		r.clock.ahead.Add(int64(time.Hour))
		r.server.Tend()
		old.ClientSessionCache.Put("localhost", kept)
		if st, err := r.dialWith(old); err != nil || st.DidResume != resumed {
			t.Fatalf("after rotation %d: resumed %v, %v", i+1, st.DidResume, err)
		}
	}
}

// TestClientAuthorityRotates changes the file of client CAs step by step, and then once half written: who
// is trusted follows the file, resumed sessions included, and a file that is cut off changes nothing.
func TestClientAuthorityRotates(t *testing.T) {
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	file := writeFile(t, first.pem)
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_TLS_CLIENT_AUTH=require", "SVC_WALLET_TLS_CLIENT_CA_FILE=" + file}, shut: true})
	with := func(ca *authority) *tls.Config {
		cfg := r.clientTLS()
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		cfg.Certificates = []tls.Certificate{*cert(t, ca, "spiffe://mesh/client")}
		return cfg
	}
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r.server.Tend()
	}
	a, b := with(first), with(second)
	both := append(bytes.Clone(first.pem), second.pem...)
	r.sees(a, "one", false)
	r.sees(b, "", false)
	write(both)
	r.sees(a, "one", false)
	r.sees(b, "one", false)
	write(both[:len(both)-10])
	r.sees(a, "one", true)
	r.sees(b, "one", true)
	write(second.pem)
	r.sees(a, "", false)
	r.sees(b, "one", false)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r.server.Tend()
	r.sees(b, "one", true)
	if n := strings.Count(r.logged.String(), "files_refused"); n != 2 {
		t.Errorf("two faults were said %d times", n)
	}
	shown, err := strconv.ParseFloat(r.metric(`certificate_not_after_timestamp_seconds{files="listener"}`), 64)
	if err != nil || int64(shown) <= time.Now().Unix() || !strings.Contains(r.logged.String(), "not_after") {
		t.Errorf("the end of the certificate is told as %v (%v)", shown, err)
	}
	for sample, want := range map[string]string{"applied": "2", "refused": "2"} {
		if got := r.metric(`files_reloaded_total{files="listener",outcome="` + sample + `"}`); got != want {
			t.Errorf("%s: %s, want %s", sample, got, want)
		}
	}
}

// TestVersionAndCurves offers what the listener must not take: TLS 1.2, HTTP/2 alone, a key
// exchange that the setting excludes; and checks which one is chosen of those it takes. A client
// that has only P-256 is one that RFC 8446 §9.1 has us serve.
func TestVersionAndCurves(t *testing.T) {
	for pq, want := range map[string]map[tls.CurveID]tls.CurveID{
		"off":     {tls.X25519: tls.X25519, tls.X25519MLKEM768: 0, 0: tls.X25519, tls.CurveP256: tls.CurveP256, tls.CurveP384: 0},
		"hybrid":  {tls.X25519: tls.X25519, tls.X25519MLKEM768: tls.X25519MLKEM768, 0: tls.X25519MLKEM768, tls.CurveP256: tls.CurveP256, tls.CurveP384: 0},
		"require": {tls.X25519: 0, tls.CurveP256: 0, tls.X25519MLKEM768: tls.X25519MLKEM768, 0: tls.X25519MLKEM768},
	} {
		t.Run(pq, func(t *testing.T) {
			r := newRig(t, rigOptions{env: []string{"SVC_WALLET_TLS_PQ=" + pq}})
			for offered, chosen := range want {
				cfg := r.clientTLS()
				if offered != 0 {
					cfg.CurvePreferences = []tls.CurveID{offered}
				}
				st, err := r.dialWith(cfg)
				if (err == nil) != (chosen != 0) || st.CurveID != chosen {
					t.Errorf("offered %v: got %v, %v, want %v", offered, st.CurveID, err, chosen)
				}
			}
			old := r.clientTLS()
			old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			if _, err := r.dialWith(old); err == nil {
				t.Error("TLS 1.2 was taken")
			}
			two := r.clientTLS()
			two.NextProtos = []string{"h2"}
			if _, err := r.dialWith(two); err == nil {
				t.Error("HTTP/2 was taken")
			}
		})
	}
}

// TestPeer shows client certificates of several kinds in each mode, and a token bound to one of
// them: the caveat must hold for the verified certificate only, and for its only name.
func TestPeer(t *testing.T) {
	const spiffe = "spiffe://mesh/payer"
	for _, mode := range []string{"off", "request", "require"} {
		t.Run(mode, func(t *testing.T) {
			ca := newAuthority(t, "client CA")
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca.pem, 0o600); err != nil {
				t.Fatal(err)
			}
			env := []string{"SVC_WALLET_TLS_CLIENT_AUTH=" + mode}
			if mode != "off" {
				env = append(env, "SVC_WALLET_TLS_CLIENT_CA_FILE="+filepath.Join(dir, "ca.pem"))
			}
			r := newRig(t, rigOptions{env: env})
			bound := r.mint("actions = read", "accounts = *", "assets = *", "peer = "+spiffe)
			raw := "GET /v1/balance?account=a&asset=ron HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + bound + "\r\n\r\n"
			for _, tc := range []struct {
				name string
				cert *tls.Certificate
				want map[string]int // status by mode; 0: no connection
			}{
				{"none", nil, map[string]int{"off": 403, "request": 403, "require": 0}},
				{"the right one", cert(t, ca, spiffe), map[string]int{"off": 403, "request": 200, "require": 200}},
				{"another name", cert(t, ca, "spiffe://mesh/other"), map[string]int{"off": 403, "request": 403, "require": 403}},
				{"two names", cert(t, ca, spiffe, "spiffe://mesh/other"), map[string]int{"off": 403, "request": 403, "require": 403}},
				{"another CA", cert(t, newAuthority(t, "evil"), spiffe), map[string]int{"off": 403, "request": 0, "require": 0}},
			} {
				cfg := r.clientTLS()
				cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
				cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if tc.cert == nil {
						return new(tls.Certificate), nil
					}
					return tc.cert, nil
				}
				for _, resumed := range []bool{false, true} {
					status := r.statusWith(cfg, raw)
					if status != tc.want[mode] {
						t.Errorf("%s (second connection: %v): %d, want %d", tc.name, resumed, status, tc.want[mode])
					}
				}
			}
		})
	}
}

func cert(t *testing.T, ca *authority, uris ...string) *tls.Certificate {
	pair := ca.issue(t, filepath.Join(t.TempDir(), "c"), "client", uris)
	return &pair
}

// statusWith is the status of one request over its own connection, 0 where there is none.
func (r *rig) statusWith(cfg *tls.Config, raw string) int {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.server.Addr().String(), cfg)
	if err != nil {
		return 0
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte(raw)); err != nil {
		return 0
	}
	br := bufio.NewReader(c)
	if _, err := br.Peek(1); err != nil {
		return 0
	}
	return r.receive(br, "GET").status
}

// TestBadFiles gives New what makes no listener and wants to be told what is wrong.
func TestBadFiles(t *testing.T) {
	r := newRig(t, rigOptions{})
	other := newAuthority(t, "other")
	other.issue(t, r.path("other"), "other", nil)
	for name, change := range map[string]func() (undo func()){
		"no certificate": func() func() {
			r.cfg.TLS.CertFile = r.path("missing")
			return func() { r.cfg.TLS.CertFile = r.path("tls.crt") }
		},
		"no key": func() func() {
			r.cfg.TLS.KeyFile = r.path("missing")
			return func() { r.cfg.TLS.KeyFile = r.path("tls.key") }
		},
		"another key": func() func() {
			r.cfg.TLS.KeyFile = r.path("other.key")
			return func() { r.cfg.TLS.KeyFile = r.path("tls.key") }
		},
		"no CA": func() func() {
			r.cfg.TLS.ClientAuth, r.cfg.TLS.ClientCAFile = "require", r.path("missing")
			return func() { r.cfg.TLS.ClientAuth, r.cfg.TLS.ClientCAFile = "off", "" }
		},
		"empty CA": func() func() {
			r.write("empty", "", 0o600)
			r.cfg.TLS.ClientAuth, r.cfg.TLS.ClientCAFile = "require", r.path("empty")
			return func() { r.cfg.TLS.ClientAuth, r.cfg.TLS.ClientCAFile = "off", "" }
		},
		"unknown mode": func() func() {
			r.cfg.TLS.ClientAuth, r.cfg.TLS.ClientCAFile = "maybe", r.path("tls.crt")
			return func() { r.cfg.TLS.ClientAuth, r.cfg.TLS.ClientCAFile = "off", "" }
		},
		"unknown pq": func() func() { r.cfg.TLS.PQ = "maybe"; return func() { r.cfg.TLS.PQ = "hybrid" } },
	} {
		undo := change()
		if err := r.server.Reload(r.cfg); err == nil {
			t.Errorf("%s: was taken", name)
		}
		undo()
	}
	if st, err := r.dialWith(r.clientTLS()); err != nil || st.PeerCertificates[0].Subject.CommonName != "one" {
		t.Errorf("after bad reloads: %v", err)
	}
}
