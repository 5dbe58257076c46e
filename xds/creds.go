package xds

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"svc-wallet/config"
)

// expecting makes cfg, which has the certificates of one connection, expect the control plane of x. ServerName is
// the caller's to set where it is empty.
func expecting(x *config.XDS, cfg *tls.Config, now func() int64) *tls.Config {
	cfg.ServerName = x.TLSServerName
	cfg.Time = func() time.Time { return time.Unix(0, now()) }
	if x.SPIFFEID != "" {
		cfg.InsecureSkipVerify = true // verify does it: Go's own check wants a host name, which a SPIFFE certificate lacks
		roots := cfg.RootCAs
		cfg.VerifyConnection = func(s tls.ConnectionState) error { return verify(s, x.SPIFFEID, roots, cfg.Time()) }
	}
	return cfg
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
