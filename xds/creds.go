package xds

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"svc-wallet/config"
)

// maxPEM bounds a file of certificates or keys.
const maxPEM = 4 << 20

// tlsOf reads the files of TLS. It is called for each connection, so a certificate that was
// renewed is shown from the next one on. ServerName is the caller's to set where it is empty.
func tlsOf(x *config.XDS, now func() int64) (*tls.Config, error) {
	pem, err := readFile(x.TLSCAFile, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("xds.tls_ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("xds.tls_ca_file: %s holds no certificate", x.TLSCAFile)
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    roots,
		ServerName: x.TLSServerName,
		Time:       func() time.Time { return time.Unix(0, now()) },
	}
	if x.TLSCertFile != "" {
		cert, err := readFile(x.TLSCertFile, maxPEM)
		if err != nil {
			return nil, fmt.Errorf("xds.tls_cert_file: %w", err)
		}
		key, err := readFile(x.TLSKeyFile, maxPEM)
		if err != nil {
			return nil, fmt.Errorf("xds.tls_key_file: %w", err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("xds.tls_cert_file, xds.tls_key_file: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	if x.SPIFFEID != "" {
		cfg.InsecureSkipVerify = true // verify does it: Go's own check wants a host name, which a SPIFFE certificate lacks
		cfg.VerifyConnection = func(s tls.ConnectionState) error { return verify(s, x.SPIFFEID, roots, cfg.Time()) }
	}
	return cfg, nil
}

// verify demands a chain to the roots, and the one URI SAN that a SPIFFE certificate has
// (X509-SVID, section 2).
func verify(s tls.ConnectionState, id string, roots *x509.CertPool, now time.Time) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the control plane shows no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := s.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return err
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id {
		return fmt.Errorf("the control plane's certificate is not %s", id)
	}
	return nil
}
