package control

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
)

// TLS names the PEM files of mTLS: all of them, or none, which is plain text.
type TLS struct {
	CertFile, KeyFile string
	CAFile            string // of the certificates that clients must show
}

func (t TLS) on() bool { return t != TLS{} }

// certs holds the certificates in force. They are read again when their files change.
type certs struct {
	from TLS
	now  atomic.Pointer[loaded]
}

type loaded struct {
	raw    []byte // of all files, to notice a change
	config *tls.Config
}

// newCerts is nil where no TLS is spoken.
func newCerts(t TLS) (*certs, error) {
	if !t.on() {
		return nil, nil //nolint:nilnil // plain text is a valid choice, judged by Listen
	}
	if t.CertFile == "" || t.KeyFile == "" || t.CAFile == "" {
		return nil, errors.New("tls: certificate, key and authority go together")
	}
	c := &certs{from: t}
	_, err := c.refresh()
	return c, err
}

// refresh reads the files. What is in force stays where they cannot be used.
func (c *certs) refresh() (changed bool, err error) {
	if c == nil {
		return false, nil
	}
	var files [3][]byte
	for i, path := range []string{c.from.CertFile, c.from.KeyFile, c.from.CAFile} {
		if files[i], err = readFile(path); err != nil {
			return false, fmt.Errorf("tls: %s: %w", path, err)
		}
	}
	raw := bytes.Join(files[:], []byte{0})
	if before := c.now.Load(); before != nil && bytes.Equal(before.raw, raw) {
		return false, nil
	}
	cert, err := tls.X509KeyPair(files[0], files[1])
	if err != nil {
		return false, fmt.Errorf("tls: %s: %w", c.from.CertFile, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(files[2]) {
		return false, fmt.Errorf("tls: %s holds no certificate", c.from.CAFile)
	}
	c.now.Store(&loaded{raw, &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		// A ticket would outlive a change of the authority. Connections are few and last.
		SessionTicketsDisabled: true,
	}})
	return true, nil
}

// config is for a listener of one protocol. Each handshake goes by the certificates of its time.
func (c *certs) config(protocol string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			config := c.now.Load().config.Clone()
			config.NextProtos = []string{protocol}
			return config, nil
		},
	}
}
