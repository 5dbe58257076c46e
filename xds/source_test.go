package xds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"svc-wallet/config"
	"svc-wallet/host"
)

// TestFallback: where the first address does not answer the next one serves; once the first one
// does again it is gone back to, and what is in force stays meanwhile.
func TestFallback(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		second := startPlane(t)
		first := "unix:" + filepath.Join(shortDir(t), "first.sock")
		w := newSidecar(t, setup{flags: map[string]string{"xds.addr": first + "," + second.addr, "xds.protocol": protocol, "xds.types": "limits"}})
		l := second.stream(t)
		l.asks(extensionURL)
		l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)))
		if st := w.status().Sources[0]; st.Addr != second.addr {
			t.Errorf("%+v", st)
		}

		p := startPlaneAt(t, first)
		scout := p.stream(t)
		if r := scout.asks(extensionURL); r.initial["svc-wallet.limits"] == "1" {
			t.Errorf("the scout claims %v, so it may hear nothing", r.initial)
		}
		if w.amount() != "7" || !w.Connected() {
			t.Errorf("%s in force", w.amount())
		}
		scout.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`))
		<-l.ctx.Done()
		back := p.stream(t)
		back.asks(extensionURL)
		back.acked(back.push(extensionURL, "2", limits(`{"max_amount_per_op": "8"}`)))
		if st := w.status().Sources[0]; st.Addr != first || w.amount() != "8" {
			t.Errorf("%+v, %s in force", st, w.amount())
		}
	})
}

// TestReconnect: what is in force stays while the control plane is away, its age grows, and the
// next stream is told what is held: only what was accepted, never what was refused. One resource is
// claimed in no known version, so that the control plane has something to say.
func TestReconnect(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		var skew atomic.Int64
		p := startPlane(t)
		w := newSidecar(t, setup{
			flags: map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits,runtime"},
			opts:  func(o *Options) { o.Now = func() int64 { return time.Now().UnixNano() + skew.Load() } },
		})
		l := p.stream(t)
		r := l.asks(extensionURL)
		if r.version != "" || len(r.initial) != 0 || r.nonce != "" {
			t.Errorf("first request %+v", r)
		}
		l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)))
		l.acked(l.push(runtimeURL, "r", []named{layer("svc-wallet.runtime", `{"svc-wallet.queue": 5}`)}))
		l.answer(l.push(runtimeURL, "r2", []named{layer("svc-wallet.runtime", `{"svc-wallet.queue": 0}`)}))
		l.end <- nil
		l = p.stream(t)
		r = l.asks(extensionURL)
		rt := l.asks(runtimeURL)
		if protocol == "delta" && (r.initial["svc-wallet.limits"] != unspoken || rt.initial["svc-wallet.runtime"] != "r") {
			t.Errorf("claimed %v, %v", r.initial, rt.initial)
		}
		if protocol == "sotw" && (r.version != "" || rt.version != "r" || r.nonce != "") {
			t.Errorf("claimed %q, %q, nonce %q", r.version, rt.version, r.nonce)
		}
		skew.Store(int64(time.Hour))
		if w.Connected() || w.VersionAge() < time.Hour || w.amount() != "7" || w.live.Load().Queue != 5 {
			t.Errorf("connected %v, age %s, %s in force", w.Connected(), w.VersionAge(), w.amount())
		}
		l.answer(l.push(runtimeURL, "r2", []named{layer("svc-wallet.runtime", `{"svc-wallet.queue": 0}`)}))
		if !w.Connected() || w.VersionAge() != 0 {
			t.Errorf("connected %v, age %s", w.Connected(), w.VersionAge())
		}
		if n := w.Updates("runtime", "refused"); n != 2 {
			t.Errorf("%d refusals", n)
		}
	})
}

// TestRemoval: what is taken away falls back, in the variants that can say so.
func TestRemoval(t *testing.T) {
	p := startPlane(t)
	w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.types": "limits,runtime", "xds.runtime_names": "a,b"}})
	l := p.stream(t)
	l.asks(extensionURL)
	l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7", "queue": 100, "revoked_keys": ["x"]}`)))
	l.acked(l.push(runtimeURL, "1", []named{layer("a", `{"svc-wallet.queue": 5, "svc-wallet.writes_enabled": false}`), layer("b", `{"svc-wallet.queue": 6}`)}))
	if q := w.live.Load().Queue; q != 6 || w.live.Load().WritesEnabled != 0 {
		t.Errorf("queue %d", q)
	}
	l.acked(l.push(runtimeURL, "2", nil, "b", "nobody's"))
	if q := w.live.Load().Queue; q != 5 {
		t.Errorf("queue %d", q)
	}
	l.acked(l.push(runtimeURL, "3", nil, "a"))
	if q := w.live.Load().Queue; q != 100 || w.live.Load().WritesEnabled != config.Always {
		t.Errorf("queue %d", q)
	}
	l.acked(l.push(extensionURL, "2", nil, "svc-wallet.limits"))
	if n := w.live.Load(); n.Queue != 512 || w.amount() != staticAmount || len(n.RevokedKeys) != 0 {
		t.Errorf("queue %d", n.Queue)
	}
	if a, b := w.Updates("runtime", "removed"), w.Updates("limits", "removed"); a != 2 || b != 1 {
		t.Errorf("counted %d, %d", a, b)
	}
	for _, r := range w.status().Resources {
		if r.State != "absent" || r.Version != "" {
			t.Errorf("status %+v", r)
		}
	}
	bad := l.answer(l.push(extensionURL, "3", limits(`{"queue": 7}`), "svc-wallet.limits"))
	if bad != "svc-wallet.limits: is both sent and removed" {
		t.Error(bad)
	}
	// Layers that are right alone and wrong together are refused together.
	got := l.answer(l.push(runtimeURL, "4", []named{layer("a", `{"svc-wallet.queue": 9000}`), layer("b", `{}`)}))
	if !strings.HasPrefix(got, "b: limits.queue: 9000 (from xds runtime a+b) is over ceilings.queue, 8192") {
		t.Error(got)
	}
	l.acked(l.push(runtimeURL, "5", []named{{name: "a"}})) // a heartbeat of what is not held
}

// TestTimedOut: a resource that does not come in time is counted and shown, and no longer is once
// it came.
func TestTimedOut(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		p := startPlane(t)
		var ahead atomic.Int64 // of the sidecar's clock, by which resources time out
		w := newSidecar(t, setup{
			flags: map[string]string{
				"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits,runtime,cluster", "xds.resource_timeout": "5m",
			},
			opts: func(o *Options) { o.Now = func() int64 { return time.Now().UnixNano() + ahead.Load() } },
		})
		l := p.stream(t)
		l.asks(extensionURL)
		if st := w.status().Resources[0]; st.State != "waiting" {
			t.Errorf("%+v", st)
		}
		l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "6"}`)))
		ahead.Store(int64(5 * time.Minute))
		l.acked(l.push(extensionURL, "2", limits(`{"max_amount_per_op": "7"}`))) // wakes who waits
		await(t, "the time-outs", func() bool {
			return w.Updates("runtime", "timed_out") == 1 && w.Updates("cluster", "timed_out") == 1
		})
		if n := w.Updates("limits", "timed_out"); n != 0 || w.amount() != "7" {
			t.Errorf("%d limits timed out", n)
		}
		states := map[string]string{}
		for _, r := range w.status().Resources {
			states[r.Name] = r.State
		}
		if states["svc-wallet.runtime"] != "timed out" || states["*"] != "timed out" || states["svc-wallet.limits"] != "accepted" {
			t.Errorf("%v", states)
		}
		l.acked(l.push(runtimeURL, "1", []named{layer("svc-wallet.runtime", `{"svc-wallet.queue": 5}`)}))
		l.acked(l.push(clusterURL, "1", nil))
		for _, r := range w.status().Resources {
			if r.State == "timed out" {
				t.Errorf("%+v", r)
			}
		}
	})
}

// TestNode: the sidecar says who it is, by its configuration and the downward API's file.
func TestNode(t *testing.T) {
	file := filepath.Join(t.TempDir(), "labels")
	write(t, file, "app=\"wallet\"\n\nteam=\"pay \\\"ments\\\"\"\n")
	settings := map[string]string{
		"xds.addr": "unix:/nowhere", "xds.node_id": "", "xds.node_cluster": "payments", "xds.region": "r", "xds.zone": "z", "xds.metadata_file": file,
	}
	w := newSidecar(t, setup{idle: true, flags: settings})
	got := protojson.Format(w.node)
	for _, want := range []string{"host-1", "payments", `pay \"ments\"`, `"app"`, `"z"`, `"svc-wallet"`, `"test"`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in %s", want, got)
		}
	}
	for _, bad := range []string{"app", "app=wallet", "=\"x\"", "a=\"\\xff\"", "a=\"b"} {
		if _, err := metadata([]byte("x=\"y\"\n" + bad + "\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	settings["tls.cert_file"], settings["tls.key_file"], settings["auth.root_keys_file"] = "c", "k", "r"
	for _, bad := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		settings["xds.metadata_file"] = bad
		if _, err := New(load(t, settings), Targets{}, Options{Now: w.opts.Now}); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
	write(t, file, strings.Repeat("a", maxMetadata+1))
	settings["xds.metadata_file"] = file
	if _, err := New(load(t, settings), Targets{}, Options{Now: w.opts.Now}); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Error(err)
	}
}

// authority is a certificate authority of a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.key = newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// ca is the file of the authority's certificate.
func (a *authority) ca() string {
	file := filepath.Join(a.dir, "ca.crt")
	write(a.t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
	return file
}

// issue makes a certificate and its key, as PEM.
func (a *authority) issue(change func(*x509.Certificate)) (cert, key []byte) {
	a.t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(tmpl)
	k := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, k.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func uris(ids ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, id := range ids {
			u, err := url.Parse(id)
			if err != nil {
				panic(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
}

// TestTLS: only a control plane that shows the certificate that is expected is listened to.
func TestTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	const id = "spiffe://mesh/control"
	loopback := func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }
	for _, c := range []struct {
		name   string
		by     *authority
		change func(*x509.Certificate)
		flags  map[string]string
		want   string // "": it is listened to
	}{
		{"by host", ours, loopback, nil, ""},
		{"by server name", ours, func(c *x509.Certificate) { c.DNSNames = []string{"control.mesh"} }, map[string]string{"xds.tls_server_name": "control.mesh"}, ""},
		{"by SPIFFE id", ours, uris(id), map[string]string{"xds.spiffe_id": id}, ""},
		{"expired", ours, func(c *x509.Certificate) { loopback(c); c.NotAfter = time.Now().Add(-time.Minute) }, nil, "expired"},
		{"expired, SPIFFE", ours, func(c *x509.Certificate) { uris(id)(c); c.NotAfter = time.Now().Add(-time.Minute) }, map[string]string{"xds.spiffe_id": id}, "expired"},
		{"wrong SAN", ours, func(c *x509.Certificate) { c.DNSNames = []string{"control.mesh"} }, nil, "127.0.0.1"},
		{"wrong SPIFFE id", ours, uris("spiffe://mesh/other"), map[string]string{"xds.spiffe_id": id}, "is not spiffe://mesh/control"},
		{"two SPIFFE ids", ours, uris(id, "spiffe://mesh/other"), map[string]string{"xds.spiffe_id": id}, "is not spiffe://mesh/control"},
		{"no SPIFFE id", ours, loopback, map[string]string{"xds.spiffe_id": id}, "is not spiffe://mesh/control"},
		{"of another authority", theirs, loopback, nil, "unknown authority"},
		{"of another authority, SPIFFE", theirs, uris(id), map[string]string{"xds.spiffe_id": id}, "unknown authority"},
		{"not a server's", ours, func(c *x509.Certificate) { uris(id)(c); c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }, map[string]string{"xds.spiffe_id": id}, "usage"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pair, err := tls.X509KeyPair(c.by.issue(c.change))
			if err != nil {
				t.Fatal(err)
			}
			clients := x509.NewCertPool()
			clients.AddCert(ours.cert)
			p := startPlaneAt(t, "127.0.0.1:0", grpc.Creds(credentials.NewTLS(&tls.Config{
				Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
			})))
			dir := t.TempDir()
			cert, key := ours.issue(uris("spiffe://mesh/wallet"))
			write(t, filepath.Join(dir, "crt"), string(cert))
			write(t, filepath.Join(dir, "key"), string(key))
			flags := map[string]string{
				"xds.addr": p.addr, "xds.types": "limits", "xds.tls_ca_file": ours.ca(),
				"xds.tls_cert_file": filepath.Join(dir, "crt"), "xds.tls_key_file": filepath.Join(dir, "key"),
			}
			for k, v := range c.flags {
				flags[k] = v
			}
			files := host.NewFiles(discardLogger(), func() int64 { return time.Now().UnixNano() })
			current, err := files.Certs("xds", host.CertFiles{Cert: flags["xds.tls_cert_file"], Key: flags["xds.tls_key_file"], CA: ours.ca()})
			if err != nil {
				t.Fatal(err)
			}
			w := newSidecar(t, setup{flags: flags, opts: func(o *Options) { o.TLS = current.Client }})
			if c.want != "" {
				await(t, "the error", func() bool { return strings.Contains(w.status().Sources[0].LastError, c.want) })
				if w.Connected() || w.amount() != staticAmount {
					t.Error("it was listened to")
				}
				return
			}
			l := p.stream(t)
			l.asks(extensionURL)
			l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)))
			// A broken certificate changes nothing; a renewed one is shown at the next connection.
			write(t, filepath.Join(dir, "crt"), "broken")
			files.Look()
			l.end <- nil
			l = p.stream(t)
			l.asks(extensionURL)
			if got := l.shows(); got != "spiffe://mesh/wallet" {
				t.Errorf("shown after the files broke: %s", got)
			}
			cert, key = ours.issue(uris("spiffe://mesh/renewed"))
			write(t, filepath.Join(dir, "crt"), string(cert))
			write(t, filepath.Join(dir, "key"), string(key))
			files.Look()
			l.end <- nil
			l = p.stream(t)
			l.asks(extensionURL)
			if got := l.shows(); got != "spiffe://mesh/renewed" {
				t.Errorf("shown after the renewal: %s", got)
			}
		})
	}
}

// shows is the name in the sidecar's certificate.
func (l *line) shows() string {
	l.t.Helper()
	from, _ := peer.FromContext(l.ctx)
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok {
		l.t.Fatal("no TLS")
	}
	return info.State.PeerCertificates[0].URIs[0].String()
}

// TestAuthorityRotates: a control plane that moves to another authority, certificates and all at once,
// is listened to again once the files say so, and one of the old authority no longer is.
func TestAuthorityRotates(t *testing.T) {
	first, second := newAuthority(t), newAuthority(t)
	loopback := func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }
	var current atomic.Pointer[tls.Config]
	move := func(by *authority) {
		pair, err := tls.X509KeyPair(by.issue(loopback))
		if err != nil {
			t.Fatal(err)
		}
		clients := x509.NewCertPool()
		clients.AddCert(by.cert)
		current.Store(&tls.Config{
			Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"},
		})
	}
	move(first)
	p := startPlaneAt(t, "127.0.0.1:0", grpc.Creds(credentials.NewTLS(host.PerHandshake(current.Load))))

	dir := t.TempDir()
	paths := host.CertFiles{Cert: filepath.Join(dir, "crt"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	files := host.NewFiles(discardLogger(), func() int64 { return time.Now().UnixNano() })
	save := func(by *authority) {
		ca, err := os.ReadFile(by.ca())
		if err != nil {
			t.Fatal(err)
		}
		cert, key := by.issue(uris("spiffe://mesh/wallet"))
		write(t, paths.CA, string(ca))
		write(t, paths.Cert, string(cert))
		write(t, paths.Key, string(key))
		files.Look()
	}
	save(first)
	certs, err := files.Certs("xds", paths)
	if err != nil {
		t.Fatal(err)
	}
	w := newSidecar(t, setup{flags: map[string]string{
		"xds.addr": p.addr, "xds.types": "limits", "xds.tls_ca_file": paths.CA, "xds.tls_cert_file": paths.Cert, "xds.tls_key_file": paths.Key,
	}, opts: func(o *Options) { o.TLS = certs.Client }})
	l := p.stream(t)
	l.asks(extensionURL)

	move(second)
	l.end <- nil
	await(t, "the error", func() bool { return strings.Contains(w.status().Sources[0].LastError, "certificate") })
	save(second)
	l = p.stream(t)
	l.asks(extensionURL)
	l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)))

	move(first)
	l.end <- nil
	await(t, "the error", func() bool { return strings.Contains(w.status().Sources[0].LastError, "certificate") })
}

// TestTLSNeedsCertificates: a configuration with TLS is not obeyed in plain text.
func TestTLSNeedsCertificates(t *testing.T) {
	cfg := &config.Config{XDS: config.XDS{ClientTLS: config.ClientTLS{TLSCAFile: "ca"}}}
	if _, err := New(cfg, Targets{}, Options{Now: func() int64 { return 0 }}); err == nil {
		t.Error("it would be reached in plain text")
	}
	if err := verify(tls.ConnectionState{}, "", nil, time.Now()); err == nil {
		t.Error("no certificate was taken")
	}
}

// TestNobodyReads: a control plane that does not read cannot hold the sidecar. The send is the
// test's.
func TestNobodyReads(t *testing.T) {
	w := newSidecar(t, setup{idle: true, flags: map[string]string{"xds.addr": "unix:/nowhere", "xds.types": "limits", "xds.resource_timeout": "100ms"}})
	ctx, cancel := context.WithCancelCause(context.Background())
	err := newStream(w.servers[0], stuck{ctx}).run(ctx, cancel)
	if err == nil || !errors.Is(context.Cause(ctx), errStuck) {
		t.Errorf("%v, %v", err, context.Cause(ctx))
	}
}

// stuck is a protocol whose sends block.
type stuck struct{ ctx context.Context }

func (s stuck) subscribe(string, request) error              { <-s.ctx.Done(); return s.ctx.Err() }
func (s stuck) subscribeAgain(string, []string) error        { <-s.ctx.Done(); return s.ctx.Err() }
func (s stuck) answer(string, string, request, string) error { <-s.ctx.Done(); return s.ctx.Err() }
func (s stuck) recv() (*response, error)                     { <-s.ctx.Done(); return nil, s.ctx.Err() }

// TestBackoff: the waits double up to the top, and never overflow.
func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 5e8, 1: 1e9, 5: 16e9, 6: 30e9, 63: 30e9, 1000: 30e9} {
		if got := realTiming().reconnect.Pause(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	tm := realTiming()
	low, high := time.Hour, time.Duration(0)
	for range 1000 {
		d := time.Duration(tm.jitter(int64(tm.reconnect.First)))
		low, high = min(low, d), max(high, d)
	}
	if low < 0 || high >= tm.reconnect.First || high-low < tm.reconnect.First/2 {
		t.Errorf("the jitter goes from %s to %s", low, high)
	}
}

// TestFloodLog: a period has so many lines, and the next one tells how many were left out.
func TestFloodLog(t *testing.T) {
	now := int64(1)
	log, lines := discardLogger(), 0
	var last logrus.Fields
	log.AddHook(hook(func(e *logrus.Entry) { lines++; last = e.Data }))
	f := &floodLog{log: log, now: func() int64 { return now }}
	for range 1000 {
		f.warn("x", logrus.Fields{})
	}
	if lines != maxLines {
		t.Errorf("%d lines", lines)
	}
	now += int64(logPeriod)
	if f.info("x", logrus.Fields{}); lines != maxLines+1 || last["left_out"] != 1000-maxLines {
		t.Errorf("%d lines, %v", lines, last)
	}
}

type hook func(*logrus.Entry)

func (h hook) Levels() []logrus.Level     { return logrus.AllLevels }
func (h hook) Fire(e *logrus.Entry) error { h(e); return nil }

func discardLogger() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(discard{})
	return log
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// TestWrapped: in the state of the world a resource may be wrapped in its name.
func TestWrapped(t *testing.T) {
	inner := limits(`{"max_amount_per_op": "7"}`)[0]
	wrapped := named{inner.name, pack(&discovery.Resource{Name: inner.name, Resource: inner.body})}
	broken := named{inner.name, &anypb.Any{TypeUrl: wrapperURL, Value: []byte("\xff")}}
	p := startPlane(t)
	w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.protocol": "sotw", "xds.types": "limits"}})
	l := p.stream(t)
	l.asks(extensionURL)
	l.acked(l.push(extensionURL, "1", []named{wrapped}))
	if w.amount() != "7" {
		t.Errorf("%s in force", w.amount())
	}
	if got := l.answer(l.push(extensionURL, "2", []named{broken})); !strings.HasPrefix(got, "resource: is a envoy.service.discovery.v3.Resource") {
		t.Error(got)
	}
	alive := named{inner.name, pack(&discovery.Resource{Name: inner.name})}
	l.acked(l.push(extensionURL, "3", []named{alive})) // a heartbeat
	if w.amount() != "7" {
		t.Errorf("%s in force", w.amount())
	}
	if n := len(w.Client.counts); n != len(w.Outcomes())*len(w.Types()) {
		t.Errorf("%d counters of %v, %v", n, w.Outcomes(), w.Types())
	}
}
