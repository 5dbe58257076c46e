package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/config"
	"svc-wallet/host"
)

const (
	// ticketCheck is how often the age of the ticket keys is looked at.
	ticketCheck = 5 * time.Second

	// ticketKeys is how many session ticket keys open tickets: the one that seals new ones and
	// the one before it, so a ticket resumes for one to two rotations.
	ticketKeys = 2
)

// certs keeps the listener's TLS configuration current. Each change of the certificate, its key
// or the client CAs is a new immutable tls.Config with ticket keys of its own, so that no session
// outlives what it was opened under: a resumed session would go on showing the old certificate,
// and go on trusting a client whose CA was withdrawn.
//
// Certificate and client CAs are the pushed ones, else those of the files. Where there is neither
// certificate, every handshake is refused; where there are no client CAs, no client's
// certificate verifies.
type certs struct {
	entropy io.Reader
	now     func() int64 // of durations
	wall    func() int64 // of dates
	log     logrus.FieldLogger
	watched *host.Watched // the files; it reads them again when they change

	current atomic.Pointer[tls.Config]
	open    atomic.Bool // a client can get through the handshake

	mu        sync.Mutex
	set       config.TLS        // mu
	files     pems              // what the files held when they were last read well; mu
	fromFiles *x509.Certificate // of files; mu
	pushed    pems              // what the control plane wants instead; mu
	force     pems              // behind current; mu
	tickets   [][32]byte        // of current, the newest first; mu
	rotated   int64             // when tickets last changed, Unix nanoseconds; mu
}

// pems is what a listener is made of, as PEM; nil is none.
type pems struct{ cert, key, ca []byte }

func (p pems) equal(q pems) bool {
	return bytes.Equal(p.cert, q.cert) && bytes.Equal(p.key, q.key) && bytes.Equal(p.ca, q.ca)
}

// over is p, and below where p has nothing.
func (p pems) over(below pems) pems {
	if p.cert == nil {
		p.cert, p.key = below.cert, below.key
	}
	if p.ca == nil {
		p.ca = below.ca
	}
	return p
}

// newCerts reads the files, and fails where they make no listener.
func newCerts(set config.TLS, files *host.Files, entropy io.Reader, now, wall func() int64, log logrus.FieldLogger) (*certs, error) {
	c := &certs{entropy: entropy, now: now, wall: wall, log: log, watched: files.Watch("listener", host.ReadFile, host.ReadSecret, host.ReadFile)}
	if err := c.adopt(set); err != nil {
		return nil, err
	}
	return c, nil
}

// adopt turns to other files, or to the same ones anew, and follows their changes. On an error all stays
// as it was.
func (c *certs) adopt(set config.TLS) error {
	ca := set.ClientCAFile
	if set.ClientAuth == config.ClientAuthOff {
		ca = ""
	}
	return c.watched.Turn(func(files [][]byte) error {
		return c.load(set, pems{files[0], files[1], files[2]})
	}, set.CertFile, set.KeyFile, ca)
}

// run rotates the ticket keys until ctx ends. The files are the watcher's.
func (c *certs) run(ctx context.Context) {
	for host.Sleep(ctx, ticketCheck) {
		if err := c.rotate(); err != nil {
			c.log.WithError(err).Error("tls_ticket_rotation_failed")
		}
	}
}

// load puts the files in force, as far as nothing pushed stands over them. They must be good all the
// same, because they are what a removal falls back to.
func (c *certs) load(set config.TLS, files pems) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, err := buildTLS(set, files)
	if err != nil {
		return err
	}
	if leaf := leafOf(next); leaf != nil {
		if err := c.watched.Succeed(c.fromFiles, leaf); err != nil {
			return fmt.Errorf("TLS certificate %s: %w", set.CertFile, err)
		}
	}
	if err := c.put(set, files, c.pushed); err != nil {
		return err
	}
	c.fromFiles = leafOf(next)
	return nil
}

// put puts what is pushed over what is in the files in force. Where that is what already is, nothing
// changes and sessions live on. The caller holds mu.
func (c *certs) put(set config.TLS, files, pushed pems) error {
	force := pushed.over(files)
	if c.current.Load() == nil || set != c.set || !force.equal(c.force) {
		next, err := buildTLS(set, force)
		if err != nil {
			return err
		}
		var key [32]byte
		if _, err := io.ReadFull(c.entropy, key[:]); err != nil {
			return fmt.Errorf("session ticket key: %w", err)
		}
		c.tickets, c.rotated = [][32]byte{key}, c.now()
		next.SetSessionTicketKeys(c.tickets)
		next.Time = func() time.Time { return time.Unix(0, c.wall()) }
		c.current.Store(next)
		c.open.Store(force.cert != nil && (set.ClientAuth != config.ClientAuthRequire || force.ca != nil))
		c.watched.Show(leafOf(next))
		c.log.WithFields(host.Fields(leafOf(next))).WithFields(logrus.Fields{"cert_file": set.CertFile, "pushed": pushed.cert != nil}).Info("tls_loaded")
	}
	c.set, c.files, c.pushed, c.force = set, files, pushed, force
	return nil
}

// setCertificate is Server.SetCertificate.
func (c *certs) setCertificate(cert, key []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	pushed := pems{bytes.Clone(cert), bytes.Clone(key), c.pushed.ca}
	if len(cert) > 0 && pushed.equal(c.pushed) { // which may have expired by now, and stays
		return nil
	}
	if cert != nil || key != nil {
		if err := c.checkPair(cert, key); err != nil {
			return fmt.Errorf("listener certificate: %w", err)
		}
	}
	return c.put(c.set, c.files, pushed)
}

// checkPair says why no client would take the certificate, or why it cannot be shown. The last one
// that was good serves better than one that has expired.
func (c *certs) checkPair(cert, key []byte) error {
	pair, err := host.ParsePair(cert, key)
	if err != nil {
		return err // these texts quote nothing of the key
	}
	return host.CheckDates(pair.Leaf, time.Unix(0, c.wall()))
}

// leafOf is the certificate that conf shows; nil: none.
func leafOf(conf *tls.Config) *x509.Certificate {
	if len(conf.Certificates) == 0 {
		return nil
	}
	return conf.Certificates[0].Leaf
}

// setClientCA is Server.SetClientCA.
func (c *certs) setClientCA(ca []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	pushed := pems{c.pushed.cert, c.pushed.key, bytes.Clone(ca)}
	if ca != nil {
		if _, err := host.ParseCAs(ca); err != nil {
			return fmt.Errorf("client CAs: %w", err)
		}
	}
	return c.put(c.set, c.files, pushed)
}

func buildTLS(set config.TLS, p pems) (*tls.Config, error) {
	next := &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"},
	}
	if p.cert != nil {
		pair, err := host.ParsePair(p.cert, p.key)
		if err != nil {
			return nil, fmt.Errorf("TLS certificate %s with key %s: %w", set.CertFile, set.KeyFile, err)
		}
		next.Certificates = []tls.Certificate{pair}
	}
	switch set.PQ {
	case config.PQOff:
		next.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
	case config.PQHybrid:
		next.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256}
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
	next.ClientCAs = x509.NewCertPool() // never nil, which would mean the system's
	if p.ca != nil {
		var err error
		if next.ClientCAs, err = host.ParseCAs(p.ca); err != nil {
			return nil, fmt.Errorf("client CAs %s: %w", set.ClientCAFile, err)
		}
	}
	return next, nil
}

// ticketRotation is how long a session ticket key seals new tickets.
const ticketRotation = time.Hour

// rotate seals new tickets with a new key once the last one is old enough. tls.Config allows
// that while connections use it.
func (c *certs) rotate() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now()-c.rotated < int64(ticketRotation) {
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
