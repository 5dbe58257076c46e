package host

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"
)

// authority issues certificates, all as PEM.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	der, key := a.sign("authority", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key, a.pem = key, encode("CERTIFICATE", der)
	return a
}

func (a *authority) sign(name string, c *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.Subject = big.NewInt(1), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
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

func (a *authority) issue(name string) (cert, key []byte) {
	a.t.Helper()
	der, private := a.sign(name, &x509.Certificate{
		DNSNames: []string{"localhost"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", raw)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// TestTornPEM cuts a chain, a key and a bundle off at every length: none is taken for a shorter one,
// and no error quotes the key. Only at the end of a block nothing can be seen.
func TestTornPEM(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue("leaf")
	chain := append(bytes.Clone(cert), a.pem...)
	if _, err := ParsePair(chain, key); err != nil {
		t.Fatal(err)
	}
	for n := range chain {
		_, pair := ParsePair(chain[:n], key)
		_, bundle := ParseCAs(chain[:n])
		if border := n >= len(cert)-1 && n <= len(cert)+len("-----BEGIN"); !border && (pair == nil || bundle == nil) {
			t.Fatalf("cut at %d of %d, after a certificate of %d: %v, %v", n, len(chain), len(cert), pair, bundle)
		}
		if n == len(chain)-2 {
			break // without the last line's end it is whole
		}
	}
	for n := range len(key) - 1 {
		_, err := ParsePair(chain, key[:n])
		if err == nil {
			t.Fatalf("a key cut at %d of %d was taken", n, len(key))
		}
		if n > 80 && strings.Contains(err.Error(), string(key[40:60])) {
			t.Fatalf("the error quotes the key: %v", err)
		}
	}
	_, other := a.issue("other")
	bad := encode("CERTIFICATE", []byte("nonsense"))
	if _, err := ParsePair(cert, other); err == nil {
		t.Error("a key of another certificate was taken")
	}
	if _, err := ParsePair(append(bytes.Clone(cert), bad...), key); err == nil {
		t.Error("a chain with nonsense in it was taken")
	}
	if _, err := ParsePair(append(bytes.Clone(key), cert...), key); err != nil {
		t.Errorf("a file with certificate and key: %v", err)
	}
	for name, text := range map[string][]byte{"nothing": nil, "a note": []byte("hello"), "a key": key, "nonsense": bad} {
		if _, err := ParseCAs(text); err == nil {
			t.Errorf("%s was taken for authorities", name)
		}
	}
}

// peers are a server and a client by files of their own.
type peers struct {
	t              *testing.T
	files          *Files
	hook           *test.Hook
	server, client *Certs
	at, from       CertFiles
	ln             net.Listener
}

func newPeers(t *testing.T, a *authority) *peers {
	t.Helper()
	log, hook := test.NewNullLogger()
	p := &peers{t: t, files: NewFiles(log), hook: hook}
	for _, f := range []*CertFiles{&p.at, &p.from} {
		dir := t.TempDir()
		*f = CertFiles{filepath.Join(dir, "crt"), filepath.Join(dir, "key"), filepath.Join(dir, "ca")}
	}
	p.save(p.at, a, "server 1", a)
	p.save(p.from, a, "client 1", a)
	var err error
	if p.server, err = p.files.Certs("server", p.at); err != nil {
		t.Fatal(err)
	}
	if p.client, err = p.files.Certs("client", p.from); err != nil {
		t.Fatal(err)
	}
	if p.ln, err = tls.Listen("tcp", "127.0.0.1:0", PerHandshake(p.server.Server)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.ln.Close() })
	return p
}

// save writes a certificate by an authority, and the authorities that are trusted.
func (p *peers) save(f CertFiles, by *authority, name string, trusts ...*authority) {
	p.t.Helper()
	cert, key := by.issue(name)
	put(p.t, f.Cert, string(cert))
	put(p.t, f.Key, string(key))
	p.trust(f, trusts...)
}

func (p *peers) trust(f CertFiles, who ...*authority) {
	p.t.Helper()
	var bundle []byte
	for _, a := range who {
		bundle = append(bundle, a.pem...)
	}
	put(p.t, f.CA, string(bundle))
}

// meet makes a connection and returns what each side is shown.
func (p *peers) meet() (server, client string, err error) {
	p.t.Helper()
	type accepted struct {
		name string
		err  error
	}
	got := make(chan accepted, 1)
	go func() {
		raw, err := p.ln.Accept()
		if err != nil {
			got <- accepted{"", err}
			return
		}
		defer raw.Close()
		conn := raw.(*tls.Conn)
		if err = conn.Handshake(); err != nil {
			got <- accepted{"", err}
			return
		}
		_, err = conn.Write([]byte("x"))
		got <- accepted{conn.ConnectionState().PeerCertificates[0].Subject.CommonName, err}
	}()
	conf := p.client.Client()
	conf.ServerName = "localhost"
	raw, err := net.Dial("tcp", p.ln.Addr().String())
	if err != nil {
		return "", "", err
	}
	defer raw.Close()
	conn := tls.Client(raw, conf)
	if err = conn.Handshake(); err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	raw.Close()
	a := <-got
	if err = errors.Join(err, a.err); err != nil {
		return "", "", err
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, a.name, nil
}

func (p *peers) demand(server, client string) {
	p.t.Helper()
	p.files.Look()
	s, c, err := p.meet()
	if err != nil || s != server || c != client {
		p.t.Errorf("server %q and client %q met (%v), want %q and %q", s, c, err, server, client)
	}
}

// TestOrderlyRotation moves both sides to another authority step by step: first both trust it too, then
// each shows a certificate of it, then the old one goes. They can meet after every step, and at the end
// nothing of the old authority is taken.
func TestOrderlyRotation(t *testing.T) {
	for _, first := range []string{"server", "client"} {
		t.Run(first+" first", func(t *testing.T) {
			old, next := newAuthority(t), newAuthority(t)
			p := newPeers(t, old)
			p.demand("server 1", "client 1")
			p.trust(p.at, old, next)
			p.demand("server 1", "client 1")
			p.trust(p.from, next, old)
			p.demand("server 1", "client 1")
			if first == "server" {
				p.save(p.at, next, "server 2", old, next)
				p.demand("server 2", "client 1")
				p.save(p.from, next, "client 2", old, next)
			} else {
				p.save(p.from, next, "client 2", old, next)
				p.demand("server 1", "client 2")
				p.save(p.at, next, "server 2", old, next)
			}
			p.demand("server 2", "client 2")
			p.trust(p.at, next)
			p.demand("server 2", "client 2")
			p.trust(p.from, next)
			p.demand("server 2", "client 2")
			if n := len(p.hook.AllEntries()); n != 6 {
				t.Errorf("%d lines for six changes", n)
			}
			p.save(p.from, old, "client 3", next) // as a thief of a revoked certificate would
			p.files.Look()
			if _, _, err := p.meet(); err == nil || !strings.Contains(err.Error(), "unknown authority") {
				t.Errorf("a client of the authority that is gone: %v", err)
			}
			p.save(p.from, next, "client 2", old)
			p.files.Look()
			if _, _, err := p.meet(); err == nil || !strings.Contains(err.Error(), "unknown authority") {
				t.Errorf("a server of an authority that is not trusted: %v", err)
			}
		})
	}
}

// TestRotationAllAtOnce changes authority and certificates of both sides without any overlap.
func TestRotationAllAtOnce(t *testing.T) {
	old, next := newAuthority(t), newAuthority(t)
	p := newPeers(t, old)
	p.demand("server 1", "client 1")
	p.save(p.at, next, "server 2", next)
	p.files.Look()
	if _, _, err := p.meet(); err == nil {
		t.Error("they met by certificates of authorities that do not trust each other")
	}
	p.save(p.from, next, "client 2", next)
	p.demand("server 2", "client 2")
}

// TestHalfWrittenCertificates shows each half of a rotation to the watcher: the last good set stays.
func TestHalfWrittenCertificates(t *testing.T) {
	a := newAuthority(t)
	p := newPeers(t, a)
	cert, key := a.issue("server 2")
	put(t, p.at.Cert, string(cert[:len(cert)/2]))
	p.demand("server 1", "client 1")
	put(t, p.at.Cert, string(cert)) // whole, and its key is still the old one
	p.demand("server 1", "client 1")
	put(t, p.at.Key, "")
	p.demand("server 1", "client 1")
	put(t, p.at.Key, string(key))
	p.demand("server 2", "client 1")
	put(t, p.at.CA, string(a.pem[:len(a.pem)-20]))
	p.demand("server 2", "client 1")
	for _, e := range p.hook.AllEntries() {
		if e.Message == "files_refused" && !strings.Contains(e.Data["error"].(error).Error(), p.at.Cert) && !strings.Contains(e.Data["error"].(error).Error(), p.at.CA) {
			t.Errorf("the log does not name the file: %v", e.Data)
		}
	}
}

// TestCertsAtStart: without a last good set, files that cannot be used are an error.
func TestCertsAtStart(t *testing.T) {
	a := newAuthority(t)
	p := newPeers(t, a)
	for _, f := range []CertFiles{
		{CA: p.at.Cert + "none"},
		{CA: p.at.Key},
		{Cert: p.at.Cert, Key: p.from.Key},
		{Cert: p.at.Cert, CA: p.at.CA},
	} {
		if _, err := p.files.Certs("bad", f); err == nil {
			t.Errorf("%+v was taken", f)
		}
	}
	c, err := p.files.Certs("nothing", CertFiles{})
	if err != nil || c.Client().RootCAs == nil || c.Server().ClientCAs == nil {
		t.Errorf("no files trust the system's authorities: %v", err)
	}
}
