package host

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"svc-wallet/bench/pki"
)

// TestTornPEM cuts a chain, a key and a bundle off all along their length: none is taken for a shorter one,
// and no error quotes the key. Only at the end of a block nothing can be seen.
func TestTornPEM(t *testing.T) {
	a := pki.New(t)
	cert, key := a.Issue("leaf")
	chain := append(bytes.Clone(cert), a.PEM...)
	if _, err := ParsePair(chain, key); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(chain)-1; n += 3 { // without the last line's end it is whole
		_, pair := ParsePair(chain[:n], key)
		_, bundle := ParseCAs(chain[:n])
		if border := n >= len(cert)-1 && n <= len(cert)+len("-----BEGIN"); !border && (pair == nil || bundle == nil) {
			t.Fatalf("cut at %d of %d, after a certificate of %d: %v, %v", n, len(chain), len(cert), pair, bundle)
		}
	}
	for n := 0; n < len(key)-1; n += 3 {
		_, err := ParsePair(chain, key[:n])
		if err == nil {
			t.Fatalf("a key cut at %d of %d was taken", n, len(key))
		}
		if n > 80 && strings.Contains(err.Error(), string(key[40:60])) {
			t.Fatalf("the error quotes the key: %v", err)
		}
	}
	_, other := a.Issue("other")
	bad := pki.Encode("CERTIFICATE", []byte("nonsense"))
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
	later          time.Duration // that the clock of files is ahead
	files          *Files
	hook           *test.Hook
	server, client *Certs
	at, from       CertFiles
	serverDir      string // of at
	clientDir      string // of from
	ln             net.Listener
}

func newPeers(t *testing.T, a *pki.Authority) *peers {
	t.Helper()
	log, hook := test.NewNullLogger()
	p := &peers{t: t, hook: hook}
	p.files = NewFiles(log, func() int64 { return time.Now().Add(p.later).UnixNano() })
	for _, f := range []struct {
		dir   *string
		files *CertFiles
	}{{&p.serverDir, &p.at}, {&p.clientDir, &p.from}} {
		*f.dir = t.TempDir()
		f.files.Cert, f.files.Key, f.files.CA = pki.Files(*f.dir)
	}
	a.Save(p.serverDir, "server 1", a)
	a.Save(p.clientDir, "client 1", a)
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
			old, next := pki.New(t), pki.New(t)
			p := newPeers(t, old)
			p.demand("server 1", "client 1")
			next.Trust(p.serverDir, old, next)
			p.demand("server 1", "client 1")
			next.Trust(p.clientDir, next, old)
			p.demand("server 1", "client 1")
			if first == "server" {
				next.Save(p.serverDir, "server 2", old, next)
				p.demand("server 2", "client 1")
				next.Save(p.clientDir, "client 2", old, next)
			} else {
				next.Save(p.clientDir, "client 2", old, next)
				p.demand("server 1", "client 2")
				next.Save(p.serverDir, "server 2", old, next)
			}
			p.demand("server 2", "client 2")
			next.Trust(p.serverDir, next)
			p.demand("server 2", "client 2")
			next.Trust(p.clientDir, next)
			p.demand("server 2", "client 2")
			if n := len(p.hook.AllEntries()); n != 6 {
				t.Errorf("%d lines for six changes", n)
			}
			old.Save(p.clientDir, "client 3", next) // as a thief of a revoked certificate would
			p.files.Look()
			if _, _, err := p.meet(); err == nil || !strings.Contains(err.Error(), "unknown authority") {
				t.Errorf("a client of the authority that is gone: %v", err)
			}
			next.Save(p.clientDir, "client 2", old)
			p.files.Look()
			if _, _, err := p.meet(); err == nil || !strings.Contains(err.Error(), "unknown authority") {
				t.Errorf("a server of an authority that is not trusted: %v", err)
			}
		})
	}
}

// TestRotationAllAtOnce changes authority and certificates of both sides without any overlap.
func TestRotationAllAtOnce(t *testing.T) {
	old, next := pki.New(t), pki.New(t)
	p := newPeers(t, old)
	p.demand("server 1", "client 1")
	next.Save(p.serverDir, "server 2", next)
	p.files.Look()
	if _, _, err := p.meet(); err == nil {
		t.Error("they met by certificates of authorities that do not trust each other")
	}
	next.Save(p.clientDir, "client 2", next)
	p.demand("server 2", "client 2")
}

// TestHalfWrittenCertificates shows each half of a rotation to the watcher: the last good set stays.
func TestHalfWrittenCertificates(t *testing.T) {
	a := pki.New(t)
	p := newPeers(t, a)
	cert, key := a.Issue("server 2")
	put(t, p.at.Cert, string(cert[:len(cert)/2]))
	p.demand("server 1", "client 1")
	put(t, p.at.Cert, string(cert)) // whole, and its key is still the old one
	p.demand("server 1", "client 1")
	put(t, p.at.Key, "")
	p.demand("server 1", "client 1")
	put(t, p.at.Key, string(key))
	p.demand("server 2", "client 1")
	put(t, p.at.CA, string(a.PEM[:len(a.PEM)-20]))
	p.demand("server 2", "client 1")
	for _, e := range p.hook.AllEntries() {
		if e.Message == "files_refused" && !strings.Contains(e.Data["error"].(error).Error(), p.at.Cert) && !strings.Contains(e.Data["error"].(error).Error(), p.at.CA) {
			t.Errorf("the log does not name the file: %v", e.Data)
		}
	}
}

// TestCertificateDates puts an expired certificate and one that is not valid yet in place of a good one: it
// stays, and that is said once. Once it has ended itself the other one is taken without a change of the
// files. At a start one that is not valid is taken, with a warning.
func TestCertificateDates(t *testing.T) {
	a := pki.New(t)
	p := newPeers(t, a)
	lines := func(event, holds string) (n int) {
		for _, e := range p.hook.AllEntries() {
			if text, err := e.String(); err == nil && e.Message == event && strings.Contains(text, holds) {
				n++
			}
		}
		return n
	}
	shown := func(want string) {
		t.Helper()
		p.files.Look()
		p.files.Look()
		if got := p.server.now.Load().leaf().Subject.CommonName; got != want {
			t.Errorf("%q is shown, want %q", got, want)
		}
	}
	a.Shift = -3 * time.Hour
	a.Save(p.serverDir, "server 2", a)
	shown("server 1")
	a.Shift = 3 * time.Hour
	a.Save(p.serverDir, "server 3", a)
	shown("server 1")
	if e, n := lines("files_refused", p.at.Cert+" with "+p.at.Key+": expired at 2"), lines("files_refused", "is not valid before 2"); e != 1 || n != 1 {
		t.Errorf("refused: expired %d, not yet valid %d lines", e, n)
	}
	end := p.server.now.Load().leaf().NotAfter
	if got, ok := p.files.Watched()[0].NotAfter(); !ok || !got.Equal(end) {
		t.Errorf("told is %v %v, want %v", got, ok, end)
	}
	p.later = 150 * time.Minute
	shown("server 3")
	if n := lines("files_reloaded", "not_after="); n != 1 || lines("files_reloaded", "serial=") != 1 {
		t.Errorf("%d lines of files_reloaded with dates", n)
	}

	p.later = -3 * time.Hour
	if _, err := p.files.Certs("early", p.from); err != nil || lines("certificate_not_valid", "files=early") != 1 {
		t.Errorf("at a start: %v", err)
	}
}

// TestKeysArePrivate: a private key that others may read is refused at a start and at a change, by the
// rule of secrets; certificates and authorities may be read by all.
func TestKeysArePrivate(t *testing.T) {
	a := pki.New(t)
	p := newPeers(t, a)
	for _, open := range []string{p.at.Cert, p.at.CA} {
		if err := os.Chmod(open, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	a.Save(p.serverDir, "server 2", a)
	p.demand("server 2", "client 1")
	if err := os.Chmod(p.at.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	a.Save(p.serverDir, "server 3", a)
	p.demand("server 2", "client 1")
	if _, err := p.files.Certs("again", p.at); err == nil || !strings.Contains(err.Error(), p.at.Key+": has mode -rw-r--r--") {
		t.Errorf("at a start: %v", err)
	}
	if err := os.Chmod(p.at.Key, 0o400); err != nil {
		t.Fatal(err)
	}
	p.demand("server 3", "client 1")
}

// TestCertsAtStart: without a last good set, files that cannot be used are an error.
func TestCertsAtStart(t *testing.T) {
	a := pki.New(t)
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
