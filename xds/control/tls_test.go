package control

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"svc-wallet/host"
)

// authority issues certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	der, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, time.Now().Add(time.Hour))
	a.key = key
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) sign(template *x509.Certificate, until time.Time) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template.NotBefore, template.NotAfter = until.Add(-48*time.Hour), until
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// issue makes a certificate for localhost, and with a URI SAN where one is named.
func (a *authority) issue(id string, until time.Time) tls.Certificate {
	a.t.Helper()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "leaf"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if id != "" {
		uri, err := url.Parse(id)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = []*url.URL{uri}
	}
	der, key := a.sign(template, until)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// save writes a certificate and its key, and the authority's, into dir.
func (a *authority) save(dir string, c tls.Certificate) host.CertFiles {
	a.t.Helper()
	files := host.CertFiles{Cert: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), CA: filepath.Join(dir, "ca.crt")}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		files.Cert: {Type: "CERTIFICATE", Bytes: c.Certificate[0]},
		files.Key:  {Type: "PRIVATE KEY", Bytes: key},
		files.CA:   {Type: "CERTIFICATE", Bytes: a.cert.Raw},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return files
}

func (a *authority) client(certs ...tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: certs}
}

// TestMutualTLS lets in those with a certificate of the authority only, on both listeners, and
// lets only those that are named change anything.
func TestMutualTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	later, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	current, err := host.NewFiles(logrus.New(), func() int64 { return time.Now().UnixNano() }).Certs("control", ours.save(t.TempDir(), ours.issue("", later)))
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":5}`}, change: func(o *Options) {
		o.TLS, o.ClientIDs = current.Server, []string{"spiffe://mesh/ops/*", "spiffe://mesh/ci"}
	}})
	r.base = strings.Replace(r.base, "http:", "https:", 1)
	for _, tc := range []struct {
		name   string
		config *tls.Config
		in     bool
		put    int
	}{
		{"named", ours.client(ours.issue("spiffe://mesh/ops/ann", later)), true, 200},
		{"named exactly", ours.client(ours.issue("spiffe://mesh/ci", later)), true, 200},
		{"not named", ours.client(ours.issue("spiffe://mesh/wallet", later)), true, 403},
		{"almost named", ours.client(ours.issue("spiffe://mesh/ci/x", later)), true, 403},
		{"no id", ours.client(ours.issue("", later)), true, 403},
		{"no certificate", ours.client(), false, 0},
		{"expired", ours.client(ours.issue("spiffe://mesh/ops/ann", past)), false, 0},
		{"another authority", ours.client(theirs.issue("spiffe://mesh/ops/ann", later)), false, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if conn := r.dial(tc.config); tc.in {
				p := r.connectOn(conn, "delta", "wallet-1", "")
				p.subscribe(kindLimits, "svc-wallet.limits")
				p.next(kindLimits)
			} else {
				stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
				if err == nil {
					_, err = stream.Recv()
				}
				if status.Code(err) != codes.Unavailable {
					t.Error(err)
				}
			}
			transport := &http.Transport{TLSClientConfig: tc.config}
			defer transport.CloseIdleConnections()
			r.http = &http.Client{Transport: transport}
			req, err := http.NewRequestWithContext(t.Context(), "PUT", r.base+"/limits/default", strings.NewReader(`{"queue":5}`))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := r.http.Do(req)
			if err == nil {
				resp.Body.Close()
			}
			if !tc.in {
				if err == nil {
					t.Error("let in")
				}
				return
			}
			if err != nil || resp.StatusCode != tc.put {
				t.Fatal(resp, err)
			}
			want := map[int]int{200: 204, 403: 403}[tc.put]
			if got := r.call("DELETE", "/limits/default", ""); got.status != want {
				t.Errorf("%d %s", got.status, got.body)
			}
			r.write("default.json", `{"queue":5}`)
			r.plane.Reload()
			if got := r.call("GET", "/limits/default", ""); got.status != 200 {
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
	if (&Plane{opts: r.plane.opts}).mayChange(&http.Request{}) {
		t.Error("a request without TLS may change limits")
	}
}

// TestCertificateRotation changes the files of a running control plane: new connections see the
// new certificate, a bad one changes nothing, an authority that is gone lets nobody in any more, and
// streams go on.
func TestCertificateRotation(t *testing.T) {
	ca := newAuthority(t)
	later := time.Now().Add(time.Hour)
	dir := t.TempDir()
	paths := ca.save(dir, ca.issue("spiffe://mesh/one", later))
	log := &lines{}
	logger := logrus.New()
	logger.SetOutput(log)
	files := host.NewFiles(logger, func() int64 { return time.Now().UnixNano() })
	current, err := files.Certs("control", paths)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, rigOptions{change: func(o *Options) { o.TLS = current.Server }})
	// shown is the certificate that a client is shown, or why it is not let in.
	shown := func(trusts, by *authority) string {
		t.Helper()
		config := trusts.client(by.issue("", later))
		config.NextProtos = []string{"h2"}
		conn, err := tls.Dial("tcp", r.plane.Addr(), config)
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(waitLimit))
		if _, err := conn.Read(make([]byte, 1)); err != nil { // HTTP/2's first frame comes after the handshake
			return err.Error()
		}
		return conn.ConnectionState().PeerCertificates[0].URIs[0].String()
	}
	p := r.connectOn(r.dial(ca.client(ca.issue("", later))), "delta", "wallet-1", "")
	p.subscribe(kindCluster)
	p.ack(kindCluster, p.next(kindCluster))
	if got := shown(ca, ca); got != "spiffe://mesh/one" {
		t.Error(got)
	}
	ca.save(dir, ca.issue("spiffe://mesh/two", later))
	files.Look()
	if got := shown(ca, ca); got != "spiffe://mesh/two" {
		t.Error(got)
	}
	for _, bad := range []string{paths.Cert, paths.CA} {
		good, err := os.ReadFile(bad)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(bad, good[:len(good)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		files.Look()
		if got := shown(ca, ca); !log.has(bad) || got != "spiffe://mesh/two" {
			t.Error(got, log)
		}
		if err := os.WriteFile(bad, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	next := newAuthority(t)
	next.save(dir, next.issue("spiffe://mesh/three", later))
	files.Look()
	if got := shown(next, next); got != "spiffe://mesh/three" {
		t.Error(got)
	}
	if got := shown(next, ca); !strings.Contains(got, "unknown certificate authority") {
		t.Errorf("a client of the old authority: %s", got)
	}
	p.subscribe(kindLimits, "svc-wallet.limits")
	p.next(kindLimits)
}
