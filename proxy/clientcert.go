package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"math"
	"time"
)

// clientCert is the certificate that a client showed in its handshake. That it was good then says
// nothing of later requests: it ends, and its CA may be withdrawn. So each request judges it anew,
// which costs two comparisons as long as neither has happened.
//
// It belongs to the goroutine that serves the connection. The zero value is a client without one.
type clientCert struct {
	shown []*x509.Certificate // the leaf first
	name  string              // its only URI SAN; empty: it names nobody
	under *tls.Config         // by whose CAs it was verified last
	until int64               // when it ends by these, Unix seconds
}

// newClientCert takes the certificate from a handshake under that configuration or a later one.
func newClientCert(state tls.ConnectionState, under *tls.Config) clientCert {
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return clientCert{}
	}
	return clientCert{
		shown: state.PeerCertificates, name: peerName(state.PeerCertificates[0]),
		under: under, until: lastMoment(state.VerifiedChains),
	}
}

// judge says whom the certificate names at the time now, Unix nanoseconds. gone says that there was
// one, and that a handshake with it would fail now.
func (c *clientCert) judge(current *tls.Config, now int64) (name string, gone bool) {
	if c.shown == nil {
		return "", false
	}
	if current != c.under {
		c.until, c.under = c.verify(current, now), current
	}
	if now/int64(time.Second) > c.until {
		return "", true
	}
	return c.name, false
}

// verify is what crypto/tls does in a handshake. It returns when that would fail for the first time.
func (c *clientCert) verify(current *tls.Config, now int64) (until int64) {
	if current.ClientCAs == nil { // which would mean the system's
		return math.MinInt64
	}
	others := x509.NewCertPool()
	for _, cert := range c.shown[1:] {
		others.AddCert(cert)
	}
	chains, err := c.shown[0].Verify(x509.VerifyOptions{
		Roots: current.ClientCAs, Intermediates: others, CurrentTime: time.Unix(0, now),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return math.MinInt64
	}
	return lastMoment(chains)
}

// lastMoment is when the longest-lived of the chains ends, Unix seconds. A chain ends with the first
// of its certificates.
func lastMoment(chains [][]*x509.Certificate) int64 {
	last := int64(math.MinInt64)
	for _, chain := range chains {
		end := int64(math.MaxInt64)
		for _, cert := range chain {
			end = min(end, cert.NotAfter.Unix())
		}
		last = max(last, end)
	}
	return last
}

// peerName is the identity of a client certificate: its only URI SAN. SPIFFE allows one (X509-SVID
// §2); a certificate with several names nobody.
func peerName(leaf *x509.Certificate) string {
	if len(leaf.URIs) == 1 {
		return leaf.URIs[0].String()
	}
	return ""
}
