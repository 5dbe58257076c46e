package host

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// CertFiles name a certificate chain with its key, and the authorities that the other side's
// certificate is verified against; all PEM. "" is none; certificate and key go together. The key is
// read by ReadSecret.
type CertFiles struct{ Cert, Key, CA string }

// Certs are what CertFiles hold, kept current.
type Certs struct{ now atomic.Pointer[material] }

// material is immutable.
type material struct {
	pairs []tls.Certificate // one or none
	cas   *x509.CertPool    // never nil, which would mean the system's
}

func (m *material) leaf() *x509.Certificate {
	if m == nil || len(m.pairs) == 0 {
		return nil
	}
	return m.pairs[0].Leaf
}

// Certs reads the files, and watches them from now on.
func (f *Files) Certs(name string, files CertFiles) (*Certs, error) {
	c := new(Certs)
	w := f.Watch(name, ReadFile, ReadSecret, ReadFile)
	err := w.Turn(func(contents [][]byte) error {
		next := &material{cas: x509.NewCertPool()}
		if files.Cert != "" {
			pair, err := ParsePair(contents[0], contents[1])
			if err == nil {
				err = w.Succeed(c.now.Load().leaf(), pair.Leaf)
			}
			if err != nil {
				return fmt.Errorf("%s with %s: %w", files.Cert, files.Key, err)
			}
			next.pairs = []tls.Certificate{pair}
		}
		if files.CA != "" {
			var err error
			if next.cas, err = ParseCAs(contents[2]); err != nil {
				return fmt.Errorf("%s: %w", files.CA, err)
			}
		}
		c.now.Store(next)
		w.Show(next.leaf())
		return nil
	}, files.Cert, files.Key, files.CA)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Client makes the configuration of one handshake as a client, by the certificates of now. The server
// must be named by whoever uses it.
func (c *Certs) Client() *tls.Config {
	m := c.now.Load()
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: m.pairs, RootCAs: m.cas}
}

// Server makes the configuration of one handshake as a server that demands client certificates, by the
// certificates of now. PerHandshake makes a listener's of it.
func (c *Certs) Server() *tls.Config {
	m := c.now.Load()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: m.pairs, ClientCAs: m.cas, ClientAuth: tls.RequireAndVerifyClientCert,
		// A ticket would outlive a change of the authorities. Connections are few and last.
		SessionTicketsDisabled: true,
	}
}

// PerHandshake is a listener's configuration that only points at another one: each handshake goes by
// what current makes for it.
func PerHandshake(current func() *tls.Config) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return current(), nil
		},
	}
}

// dateError is why a certificate is not valid at present.
type dateError string

func (e dateError) Error() string { return string(e) }

// clockSkew is how far a certificate's first moment may lie ahead: one that was issued just now by a
// machine whose clock is ahead must not be refused.
const clockSkew = time.Minute

// CheckDates says why the certificate is not valid at that time.
func CheckDates(leaf *x509.Certificate, now time.Time) error {
	switch {
	case now.After(leaf.NotAfter):
		return dateError("expired at " + leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Add(clockSkew).Before(leaf.NotBefore):
		return dateError("is not valid before " + leaf.NotBefore.UTC().Format(time.RFC3339))
	default:
		return nil
	}
}

var (
	errNoCertificate = errors.New("holds no certificate")
	errTorn          = errors.New("is cut off, or is not PEM throughout")
)

// ParsePair is tls.X509KeyPair for files that may be half written: a chain of which the end is missing
// is an error, not a shorter chain. Errors quote nothing of the key.
func ParsePair(cert, key []byte) (tls.Certificate, error) {
	blocks, err := blocksOf(cert)
	if err != nil {
		return tls.Certificate{}, err
	}
	for i, b := range blocks {
		if b.Type != "CERTIFICATE" { // some keep the key in the same file
			continue
		}
		if _, err := x509.ParseCertificate(b.Bytes); err != nil {
			return tls.Certificate{}, fmt.Errorf("block %d: %w", i+1, err)
		}
	}
	return tls.X509KeyPair(cert, key)
}

// ParseCAs wants certificates and nothing else: one that is passed over in silence would be found
// missing only by the peers that it was meant for.
func ParseCAs(text []byte) (*x509.CertPool, error) {
	blocks, err := blocksOf(text)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for i, b := range blocks {
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("block %d is no certificate", i+1)
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
		pool.AddCert(cert)
	}
	return pool, nil
}

// blocksOf takes PEM apart: at least one block, and every one that begins must be whole.
func blocksOf(text []byte) (blocks []*pem.Block, err error) {
	begun := bytes.Count(text, []byte("-----BEGIN "))
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block)
	}
	switch {
	case begun == 0:
		return nil, errNoCertificate
	case len(blocks) != begun:
		return nil, errTorn
	default:
		return blocks, nil
	}
}
