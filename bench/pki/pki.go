// Package pki makes authorities and certificates for tests that rotate them.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority issues certificates.
type Authority struct {
	PEM   []byte
	Shift time.Duration // moves the two hours that certificates are valid for, half of them past, from now on

	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority for as long as a test takes.
func New(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t}
	der, key := a.sign("authority", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key, a.PEM = key, Encode("CERTIFICATE", der)
	return a
}

func (a *Authority) sign(name string, c *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	now := time.Now().Add(a.Shift) //nolint:forbidigo // of tests, and TLS goes by the wall clock
	c.Subject, c.NotBefore, c.NotAfter = pkix.Name{CommonName: name}, now.Add(-time.Hour), now.Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// Issue makes a certificate of that common name, for localhost and both sides of TLS, and its key.
func (a *Authority) Issue(name string) (cert, key []byte) {
	a.t.Helper()
	der, private := a.sign(name, &x509.Certificate{
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return Encode("CERTIFICATE", der), Encode("PRIVATE KEY", raw)
}

// Save issues a certificate, and writes it, its key and the authorities that its owner trusts into the
// files that Files names.
func (a *Authority) Save(dir, name string, trusted ...*Authority) {
	a.t.Helper()
	cert, key := a.Issue(name)
	certFile, keyFile, _ := Files(dir)
	a.write(certFile, cert)
	a.write(keyFile, key)
	a.Trust(dir, trusted...)
}

// Trust writes the authorities only.
func (a *Authority) Trust(dir string, trusted ...*Authority) {
	a.t.Helper()
	var bundle []byte
	for _, other := range trusted {
		bundle = append(bundle, other.PEM...)
	}
	_, _, caFile := Files(dir)
	a.write(caFile, bundle)
}

func (a *Authority) write(path string, text []byte) {
	a.t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// Files are the names of what Save writes.
func Files(dir string) (cert, key, ca string) {
	return filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")
}

// Encode is PEM.
func Encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
