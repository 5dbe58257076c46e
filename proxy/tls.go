package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/config"
)

const (
	// certPoll is how often the certificate files are looked at. Kubernetes and ACME clients swap
	// them hours before the old ones end, so seconds do not matter.
	certPoll = 5 * time.Second

	// ticketKeys is how many session ticket keys open tickets: the one that seals new ones and
	// the one before it, so a ticket resumes for one to two rotations.
	ticketKeys = 2
)

// certs keeps the listener's TLS configuration current. Each change of the certificate, its key
// or the client CAs is a new immutable tls.Config with ticket keys of its own, so that no session
// outlives what it was opened under: a resumed session would go on showing the old certificate,
// and go on trusting a client whose CA was withdrawn.
type certs struct {
	entropy io.Reader
	now     func() int64
	log     logrus.FieldLogger

	current atomic.Pointer[tls.Config]

	mu      sync.Mutex
	set     config.TLS     // mu
	files   certFiles      // behind current; mu
	stamps  [3]os.FileInfo // of the files when they were last read, well or not; mu
	tickets [][32]byte     // of current, the newest first; mu
	rotated int64          // when tickets last changed, Unix nanoseconds; mu
}

// certFiles is what the files held.
type certFiles struct{ cert, key, ca []byte }

func (f certFiles) equal(g certFiles) bool {
	return bytes.Equal(f.cert, g.cert) && bytes.Equal(f.key, g.key) && bytes.Equal(f.ca, g.ca)
}

// newCerts reads the files, and fails where they make no listener.
func newCerts(set config.TLS, entropy io.Reader, now func() int64, log logrus.FieldLogger) (*certs, error) {
	c := &certs{entropy: entropy, now: now, log: log}
	if err := c.adopt(set); err != nil {
		return nil, err
	}
	return c, nil
}

// config is what connections are accepted with. It only points at the current configuration.
func (c *certs) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.current.Load(), nil
		},
	}
}

// adopt turns to other files, or to the same ones anew. On an error all stays as it was.
func (c *certs) adopt(set config.TLS) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamps := stat(set) // before reading: a later write is seen as a change
	if err := c.load(set); err != nil {
		return err
	}
	c.set, c.stamps = set, stamps
	return nil
}

// run polls the files and rotates the ticket keys until ctx ends.
func (c *certs) run(ctx context.Context) {
	tick := time.NewTicker(certPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.tend()
		}
	}
}

// tend does what is due: a reload where a file changed, a rotation where the key is old. A bad
// reload leaves the last good certificate in force and is said once for each change of the files.
func (c *certs) tend() {
	if c.changed() {
		if err := c.reload(); err != nil {
			c.log.WithError(err).Error("tls_reload_failed")
		}
	}
	if err := c.rotate(); err != nil {
		c.log.WithError(err).Error("tls_ticket_rotation_failed")
	}
}

// changed reports whether a file is another one than was last read: by inode, which a renamed
// file and Kubernetes' swapped symbolic links change, or by size and time of writing.
func (c *certs) changed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, now := range stat(c.set) {
		old := c.stamps[i]
		if (now == nil) != (old == nil) {
			return true
		}
		if now != nil && (!os.SameFile(now, old) || now.Size() != old.Size() || !now.ModTime().Equal(old.ModTime())) {
			return true
		}
	}
	return false
}

func stat(set config.TLS) (stamps [3]os.FileInfo) {
	for i, path := range [3]string{set.CertFile, set.KeyFile, set.ClientCAFile} {
		if path != "" {
			stamps[i], _ = os.Stat(path) // a missing file differs from one that is there
		}
	}
	return stamps
}

// reload reads the same files again. It remembers having looked also where they are bad, so that
// a fault is said once.
func (c *certs) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stamps = stat(c.set) // before reading, as in adopt
	return c.load(c.set)
}

// load reads the files and, where they differ from what is in force and fit together, puts them
// in force. The caller holds mu.
func (c *certs) load(set config.TLS) error {
	files, err := readCerts(set)
	if err != nil {
		return err
	}
	if c.current.Load() != nil && set == c.set && files.equal(c.files) {
		return nil
	}
	next, err := buildTLS(set, files)
	if err != nil {
		return err
	}
	var key [32]byte
	if _, err := io.ReadFull(c.entropy, key[:]); err != nil {
		return fmt.Errorf("session ticket key: %w", err)
	}
	c.tickets, c.rotated, c.files = [][32]byte{key}, c.now(), files
	next.SetSessionTicketKeys(c.tickets)
	c.current.Store(next)
	c.log.WithField("cert_file", set.CertFile).Info("tls_loaded")
	return nil
}

func readCerts(set config.TLS) (f certFiles, err error) {
	if f.cert, err = os.ReadFile(set.CertFile); err != nil {
		return f, fmt.Errorf("read TLS certificate: %w", err)
	}
	if f.key, err = os.ReadFile(set.KeyFile); err != nil {
		return f, fmt.Errorf("read TLS key: %w", err)
	}
	if set.ClientAuth == config.ClientAuthOff {
		return f, nil
	}
	if f.ca, err = os.ReadFile(set.ClientCAFile); err != nil {
		return f, fmt.Errorf("read client CAs: %w", err)
	}
	return f, nil
}

func buildTLS(set config.TLS, f certFiles) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s with key %s: %w", set.CertFile, set.KeyFile, err)
	}
	next := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"http/1.1"},
	}
	switch set.PQ {
	case config.PQOff:
		next.CurvePreferences = []tls.CurveID{tls.X25519}
	case config.PQHybrid:
		next.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}
	case config.PQRequire:
		next.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	default:
		return nil, fmt.Errorf("tls.pq is %q, want off, hybrid or require", set.PQ)
	}
	switch set.ClientAuth {
	case config.ClientAuthOff:
		return next, nil
	case config.ClientAuthRequest:
		next.ClientAuth = tls.VerifyClientCertIfGiven
	case config.ClientAuthRequire:
		next.ClientAuth = tls.RequireAndVerifyClientCert
	default:
		return nil, fmt.Errorf("tls.client_auth is %q, want off, request or require", set.ClientAuth)
	}
	next.ClientCAs = x509.NewCertPool()
	if !next.ClientCAs.AppendCertsFromPEM(f.ca) {
		return nil, fmt.Errorf("client CAs: %w in %s", errNoCertificate, set.ClientCAFile)
	}
	return next, nil
}

var errNoCertificate = errors.New("no certificate")

// rotate seals new tickets with a new key once the last one is old enough. tls.Config allows
// that while connections use it.
func (c *certs) rotate() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now()-c.rotated < int64(c.set.TicketRotation) {
		return nil
	}
	var key [32]byte
	if _, err := io.ReadFull(c.entropy, key[:]); err != nil {
		return err
	}
	keys := append([][32]byte{key}, c.tickets...)
	c.tickets, c.rotated = keys[:min(len(keys), ticketKeys)], c.now()
	c.current.Load().SetSessionTicketKeys(c.tickets)
	return nil
}

// peerName is the identity of a verified client certificate: its only URI SAN. SPIFFE allows one
// (X509-SVID §2); a certificate with several names nobody.
func peerName(state tls.ConnectionState) string {
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return ""
	}
	if uris := state.PeerCertificates[0].URIs; len(uris) == 1 {
		return uris[0].String()
	}
	return ""
}
