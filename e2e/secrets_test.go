package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"

	"svc-wallet/bench/pki"
)

// secretServer serves secrets over ADS and SDS on a Unix socket, with go-control-plane.
type secretServer struct {
	addr    string
	cache   cache.SnapshotCache
	version int
}

func serveSecrets(t testing.TB) *secretServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "sds") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &secretServer{addr: "unix:" + filepath.Join(dir, "s.sock"), cache: cache.NewSnapshotCache(false, cache.IDHash{}, nil)}
	ln, err := net.Listen("unix", strings.TrimPrefix(s.addr, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	xds := server.NewServer(ctx, s.cache, nil)
	g := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(g, xds)
	secretservice.RegisterSecretDiscoveryServiceServer(g, xds)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(ln) })
	t.Cleanup(func() { cancel(); g.Stop(); serving.Wait() })
	return s
}

// set puts secrets in force for the node `wallet`.
func (s *secretServer) set(t testing.TB, secrets ...types.Resource) {
	t.Helper()
	s.version++
	snapshot, err := cache.NewSnapshot(fmt.Sprint(s.version), map[resource.Type][]types.Resource{resource.SecretType: secrets})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cache.SetSnapshot(t.Context(), "wallet", snapshot); err != nil {
		t.Fatal(err)
	}
}

func inline(data []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: data}}
}

func certificateSecret(t testing.TB, certFile, keyFile string) *tlsv3.Secret {
	t.Helper()
	cert, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	return &tlsv3.Secret{Name: "wallet-cert", Type: &tlsv3.Secret_TlsCertificate{
		TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(cert), PrivateKey: inline(key)},
	}}
}

func rootKeysSecret(text string) *tlsv3.Secret {
	return &tlsv3.Secret{Name: "wallet-keys", Type: &tlsv3.Secret_GenericSecret{
		GenericSecret: &tlsv3.GenericSecret{Secret: inline([]byte(text))},
	}}
}

// TestSecretsOverSDS starts a sidecar that has neither a certificate nor root keys of its own. Both
// come over SDS, from the control plane and from a local agent; the certificate is then replaced 20
// times under load: no request fails, and new connections see the new certificate, also those that
// would resume a session. Root keys that were taken away verify nothing any more.
func TestSecretsOverSDS(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"control plane, delta", "control plane, sotw", "agent"} {
		t.Run(from, func(t *testing.T) {
			secrets := serveSecrets(t)
			t.Parallel()
			env := []string{"SVC_WALLET_XDS_NODE_ID=wallet", "SVC_WALLET_XDS_CERTIFICATE=wallet-cert", "SVC_WALLET_XDS_ROOT_KEYS=wallet-keys", "SVC_WALLET_XDS_INITIAL_FETCH_TIMEOUT=0s"}
			args := []string{"--xds", secrets.addr, "--amnesia"}
			switch from {
			case "agent":
				env = append(env, "SVC_WALLET_XDS_SDS_ADDR="+secrets.addr)
				args = []string{"--amnesia"}
			case "control plane, sotw":
				env = append(env, "SVC_WALLET_XDS_PROTOCOL=sotw")
			}
			p := newPair(t, args...)
			p.env = env
			keys, err := os.ReadFile(filepath.Join(filepath.Dir(p.caFile), "root.keys"))
			if err != nil {
				t.Fatal(err)
			}
			p.withoutFlags("--tls-cert", "--tls-key", "--root-keys")
			p.startNode()
			p.startSide()

			r := &rotation{t: t, pair: p, tickets: tls.NewLRUClientSessionCache(8)}
			cert := r.make()
			secrets.set(t, certificateSecret(t, cert.file, cert.key), rootKeysSecret(string(keys)))
			p.ready(t)
			eventually(t, "the root keys have come", func() bool { return r.read() == "" })

			var stop atomic.Bool
			var wg sync.WaitGroup
			var served atomic.Int64
			for range 4 {
				wg.Go(func() {
					for !stop.Load() {
						if fault := r.read(); fault != "" {
							t.Errorf("during the rotation: %s", fault)
							return
						}
						served.Add(1)
					}
				})
			}
			for range 20 {
				before := served.Load()
				cert = r.make()
				secrets.set(t, certificateSecret(t, cert.file, cert.key), rootKeysSecret(string(keys)))
				eventually(t, "new connections see the new certificate", func() bool { return bytes.Equal(r.seen(), cert.der) })
				if got := r.seen(); !bytes.Equal(got, cert.der) {
					t.Error("a later connection sees an older certificate")
				}
				eventually(t, "requests go on", func() bool { return served.Load() > before+8 })
			}
			stop.Store(true)
			wg.Wait()

			// A pair that does not fit is refused, and changes nothing.
			other := r.make()
			secrets.set(t, certificateSecret(t, other.file, cert.key), rootKeysSecret(string(keys)))
			eventually(t, "the misfit is counted", func() bool {
				return p.metric(t, `xds_updates_total{outcome="refused",type="secret"}`) > 0
			})
			if !bytes.Equal(r.seen(), cert.der) {
				t.Error("a refused certificate is shown")
			}
			secrets.set(t, certificateSecret(t, cert.file, cert.key), rootKeysSecret("other "+strings.Repeat("ab", 32)+"\n"))
			eventually(t, "the old root key verifies nothing", func() bool { return strings.HasPrefix(r.read(), "401") })
			p.side.stop()

			if out := p.side.everything(); strings.Contains(out, "PRIVATE KEY") || strings.Contains(out, strings.Fields(string(keys))[1][:16]) {
				t.Error("a secret was logged")
			}
		})
	}
}

// withoutFlags takes flags and their values away from the sidecar's command line.
func (p *pair) withoutFlags(names ...string) {
	var kept []string
	for i := 0; i < len(p.serveArgs); i++ {
		if slices.Contains(names, p.serveArgs[i]) {
			i++
			continue
		}
		kept = append(kept, p.serveArgs[i])
	}
	p.serveArgs = kept
}

// rotation is clients that trust every certificate that was made so far.
type rotation struct {
	*pair
	t       testing.TB
	tickets tls.ClientSessionCache

	mu   sync.Mutex
	made [][]byte // every certificate so far, DER
}

type madeCert struct {
	file, key string
	der       []byte
}

func (r *rotation) make() madeCert {
	r.t.Helper()
	dir := r.t.TempDir()
	pki.New(r.t).Save(dir, "localhost")
	cert, key, _ := pki.Files(dir)
	loaded, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made = append(r.made, loaded.Certificate[0])
	return madeCert{cert, key, loaded.Certificate[0]}
}

// trusts judges a handshake by the certificates of that moment, not of the one when it began.
func (r *rotation) trusts(s tls.ConnectionState) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.ContainsFunc(r.made, func(der []byte) bool { return bytes.Equal(der, s.PeerCertificates[0].Raw) }) {
		return errors.New("a certificate that was never made")
	}
	return nil
}

// ask sends a request on a new connection, which resumes a session where it can.
func (r *rotation) ask() (status int, certificate []byte, err error) {
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, VerifyConnection: r.trusts, MinVersion: tls.VersionTLS13, ClientSessionCache: r.tickets,
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.url+"/v1/balance?account=alice&asset=ron", nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.token)
	resp, err := (&http.Client{Transport: transport, Timeout: patience}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, resp.TLS.PeerCertificates[0].Raw, nil
}

// read is what went wrong with a read; "" where nothing did.
func (r *rotation) read() string {
	status, _, err := r.ask()
	switch {
	case err != nil:
		return err.Error()
	case status != http.StatusOK:
		return fmt.Sprint(status)
	default:
		return ""
	}
}

// seen is the certificate that a new connection is shown.
func (r *rotation) seen() []byte {
	_, certificate, err := r.ask()
	if err != nil {
		r.t.Errorf("a new connection: %v", err)
	}
	return certificate
}
