package proxy_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"svc-wallet/config"
)

// sees opens a connection with cfg and wants the server's certificate to have that name ("" is no
// connection at all).
func (r *rig) sees(cfg *tls.Config, name string, resumed bool) {
	r.t.Helper()
	st, err := r.dialWith(cfg)
	switch {
	case name == "" && err == nil:
		r.t.Errorf("a connection under %s, wanted none", st.PeerCertificates[0].Subject.CommonName)
	case name == "":
	case err != nil:
		r.t.Errorf("no connection: %v, wanted %s", err, name)
	case st.PeerCertificates[0].Subject.CommonName != name || st.DidResume != resumed:
		r.t.Errorf("certificate %s, resumed %v; wanted %s, %v", st.PeerCertificates[0].Subject.CommonName, st.DidResume, name, resumed)
	}
}

// TestPushedCertificate: a pushed certificate stands over the files' for new and for resumed
// connections until it is taken away, whatever happens to the files meanwhile; a push that is no
// good changes nothing, says why and quotes nothing; and what is pushed shows neither in /config
// nor in the log. Method: a client that resumes, and a script.
func TestPushedCertificate(t *testing.T) {
	r := newRig(t, rigOptions{})
	cfg := r.clientTLS()
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	cert, key := r.ca.sign(t, "two", nil, -time.Hour, time.Hour)
	_, other := r.ca.sign(t, "other", nil, -time.Hour, time.Hour)
	expired, itsKey := r.ca.sign(t, "expired", nil, -time.Hour, -time.Minute)
	early, earlyKey := r.ca.sign(t, "early", nil, time.Hour, 2*time.Hour)
	push := func(cert, key []byte) {
		t.Helper()
		if err := r.server.SetCertificate(cert, key); err != nil {
			t.Fatal(err)
		}
	}
	r.sees(cfg, "one", false)
	r.sees(cfg, "one", true)
	if err := r.server.SetCertificate([]byte{}, []byte{}); err == nil {
		t.Error("an empty certificate was taken for none")
	}
	push(nil, nil)
	r.sees(cfg, "one", true)
	push(cert, key)
	r.sees(cfg, "two", false)
	r.sees(cfg, "two", true)
	push(bytes.Clone(cert), bytes.Clone(key))
	r.sees(cfg, "two", true) // nothing has changed

	for name, p := range map[string]struct{ cert, key []byte }{
		"no key":          {cert, nil},
		"no certificate":  {nil, key},
		"another key":     {cert, other},
		"expired":         {expired, itsKey},
		"is not valid be": {early, earlyKey},
		"garbage":         {[]byte("garbage"), key},
		"garbage as key":  {cert, []byte("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")},
		"twisted":         {key, cert},
	} {
		err := r.server.SetCertificate(p.cert, p.key)
		if err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		if (name == "expired" || strings.HasPrefix(name, "is not")) && !strings.Contains(err.Error(), name) {
			t.Errorf("%s: the reason is %v", name, err)
		}
		if text := err.Error(); strings.Contains(text, "c2VjcmV0") || strings.Contains(text, string(key[40:80])) {
			t.Errorf("%s: the reason quotes the key: %v", name, err)
		}
	}
	r.sees(cfg, "two", true)

	r.ca.issue(t, r.path("tls"), "three", nil)
	r.server.Tend()
	if err := r.server.Reload(r.cfg); err != nil { // SIGHUP
		t.Fatal(err)
	}
	r.sees(cfg, "two", true)
	r.write("tls.crt", "no certificate", 0o600)
	if err := r.server.Reload(r.cfg); err == nil {
		t.Error("files that a removal could not fall back to were taken")
	}
	r.sees(cfg, "two", true)
	push(nil, nil)
	r.sees(cfg, "three", false) // the last good files
	r.sees(cfg, "three", true)
	push(nil, nil)
	r.sees(cfg, "three", true)

	push(cert, key)
	r.clock.ahead.Add(int64(2 * time.Hour))
	push(cert, key) // the same, though it has expired meanwhile

	_, shown := r.adminGet("/config")
	for _, text := range []string{shown, r.logged.String()} {
		for _, secret := range [][]byte{cert, key, other} {
			for line := range bytes.Lines(secret) {
				if !bytes.HasPrefix(line, []byte("-----")) && strings.Contains(text, strings.TrimSpace(string(line))) {
					t.Fatalf("a line of what was pushed is shown: %s", line)
				}
			}
		}
	}
}

// TestNoCertificateYet: without a certificate the sidecar starts, refuses handshakes and is not
// ready; with one it serves; and once that is taken away nobody gets in, a client that resumes
// included. Method: no files, two pushes.
func TestNoCertificateYet(t *testing.T) {
	r := newRig(t, rigOptions{shut: true, env: []string{
		"SVC_WALLET_TLS_CERT_FILE=", "SVC_WALLET_TLS_KEY_FILE=", "SVC_WALLET_XDS_ADDR=127.0.0.1:1", "SVC_WALLET_XDS_CERTIFICATE=listener",
	}})
	cfg := r.clientTLS()
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	ready := func(want int, missing string) {
		t.Helper()
		r.eventually(fmt.Sprintf("/readyz is %d", want), func() bool {
			status, body := r.adminGet("/readyz")
			return status == want && strings.Contains(body, `"missing":[`+missing+`]`)
		})
	}
	ready(503, `"listener_bound"`)
	r.sees(cfg, "", false)
	cert, key := r.ca.sign(t, "pushed", nil, -time.Hour, time.Hour)
	if err := r.server.SetCertificate(cert, key); err != nil {
		t.Fatal(err)
	}
	ready(200, "")
	r.sees(cfg, "pushed", false)
	r.sees(cfg, "pushed", true)
	r.server.Tend()
	if err := r.server.Reload(r.cfg); err != nil {
		t.Fatal(err)
	}
	r.sees(cfg, "pushed", true)
	if err := r.server.SetCertificate(nil, nil); err != nil {
		t.Fatal(err)
	}
	ready(503, `"listener_bound"`)
	r.sees(cfg, "", false)
}

// TestPushedClientCA: client certificates are verified against the pushed CAs, and against the
// file's once they are taken away; a client whose CA is gone does not get in by resuming; bad
// bundles change nothing. Without any CA no client certificate verifies, the system's least of all.
// Method: two authorities, with and without a file.
func TestPushedClientCA(t *testing.T) {
	first, second := newAuthority(t, "first"), newAuthority(t, "second")
	with := func(r *rig, ca *authority) *tls.Config {
		cfg := r.clientTLS()
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		cfg.Certificates = []tls.Certificate{*cert(t, ca, "spiffe://mesh/client")}
		return cfg
	}
	push := func(r *rig, ca []byte) {
		t.Helper()
		if err := r.server.SetClientCA(ca); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t, rigOptions{shut: true, env: []string{
		"SVC_WALLET_TLS_CLIENT_AUTH=require", "SVC_WALLET_XDS_ADDR=127.0.0.1:1", "SVC_WALLET_XDS_CLIENT_CA=bundle",
	}})
	if status, body := r.adminGet("/readyz"); status != 503 || !strings.Contains(body, `"listener_bound"`) {
		t.Errorf("nobody can get in: %d %s", status, body)
	}
	a, b := with(r, first), with(r, second)
	r.sees(a, "", false)
	if err := r.server.SetClientCA([]byte{}); err == nil {
		t.Error("an empty bundle was taken for none")
	}
	push(r, first.pem)
	r.sees(a, "one", false)
	r.sees(a, "one", true)
	r.sees(b, "", false)
	push(r, bytes.Clone(first.pem))
	r.sees(a, "one", true)
	push(r, append(bytes.Clone(first.pem), second.pem...))
	r.sees(a, "one", false)
	r.sees(b, "one", false)
	push(r, second.pem)
	r.sees(a, "", false)
	r.sees(b, "one", false)
	broken := bytes.Replace(first.pem, []byte("\n"), []byte("\n!"), 2)
	_, key := r.ca.sign(t, "key", nil, 0, time.Hour)
	for name, bad := range map[string][]byte{
		"empty": {}, "garbage": []byte("garbage"), "a key": key, "one broken": append(bytes.Clone(second.pem), broken...),
		"no certificate within": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
	} {
		if err := r.server.SetClientCA(bad); err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), string(key[40:80])) {
			t.Errorf("%s: the reason quotes a key", name)
		}
	}
	r.sees(b, "one", true)
	push(r, nil)
	r.sees(b, "", false)

	r = newRig(t, rigOptions{shut: true, env: []string{"SVC_WALLET_TLS_CLIENT_AUTH=require", "SVC_WALLET_TLS_CLIENT_CA_FILE=" + writeFile(t, first.pem)}})
	a, b = with(r, first), with(r, second)
	r.sees(a, "one", false)
	push(r, second.pem)
	r.sees(a, "", false)
	r.sees(b, "one", false)
	push(r, nil)
	r.sees(a, "one", false)
	r.sees(b, "", false)
}

// TestCertificateRotatedUnderLoad: while many clients pay and read, on kept connections and on ever
// new ones that resume where they can, certificates are pushed: no request fails, and no
// connection that began after a push shows an older certificate. Method: the certificates' names
// are numbers, and a client notes the last one before it connects and after.
func TestCertificateRotatedUnderLoad(t *testing.T) {
	const pushes = 30
	r := newRig(t, rigOptions{})
	// Each request of the load would cost a token of the ordinary rate.
	r.limit(func(l *config.Limits) { l.RatePerSecond, l.RateBurst = 1e6, 1e6 })
	c := r.client()
	r.issueTo(c, "rich", 1_000_000)
	var (
		inForce atomic.Int64
		resumed atomic.Int64
		stop    atomic.Bool
		wg      sync.WaitGroup
	)
	push := func(i int64) {
		cert, key := r.ca.sign(t, fmt.Sprint(i), nil, -time.Hour, time.Hour)
		if err := r.server.SetCertificate(cert, key); err != nil {
			t.Error(err)
		}
		inForce.Store(i)
	}
	push(1)
	var nonce atomic.Uint64
	for range 4 { // kept connections
		wg.Go(func() {
			for !stop.Load() {
				a, err := r.try(c, http.MethodPost, "/v1/transfer", r.transfer("rich", "x", 1, nonce.Add(1)))
				if err != nil || a.status != 200 && a.status != 409 { // a higher nonce may overtake
					t.Errorf("a payment: %v %d %s", err, a.status, a.body)
				}
			}
		})
	}
	dials := make(chan struct{}, pushes)
	for range 2 { // new connections
		wg.Go(func() {
			cfg := r.clientTLS()
			cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			for !stop.Load() {
				before := inForce.Load()
				st, err := r.dialWith(cfg)
				after := inForce.Load() + 1 // in force perhaps before it was noted
				var shown int64
				if err == nil {
					_, err = fmt.Sscan(st.PeerCertificates[0].Subject.CommonName, &shown)
				}
				if err != nil || shown < before || shown > after {
					t.Errorf("certificate %d (%v), in force were %d to %d", shown, err, before, after)
				}
				if st.DidResume {
					resumed.Add(1)
				}
				select {
				case dials <- struct{}{}:
				default:
				}
			}
		})
	}
	for i := range int64(pushes) {
		for range 3 { // some connections under each
			<-dials
		}
		push(i + 2)
	}
	stop.Store(true)
	wg.Wait()
	if resumed.Load() == 0 {
		t.Error("no connection was resumed")
	}
}

func writeFile(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
