package ledger_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/bench/pki"
	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/ledger"
	"svc-wallet/ledger/node"
	"svc-wallet/wallet"
)

// secured is a node and a committer before it, over TCP with certificates from files of either.
type secured struct {
	t                *testing.T
	files            *host.Files
	nodeDir, sideDir string
	nodeTLS, sideTLS *host.Certs
	engine           node.Engine
	addr             string
	accepted         atomic.Int64 // connections
	stop             func()       // ends the node
	client           *ledger.Client
	committer        *ledger.Committer
	limits           config.Limits
	payments         atomic.Uint64
	nonce            uint64 // of restarted
}

func newSecured(t *testing.T, ca *pki.Authority) *secured {
	t.Helper()
	log := logrus.New()
	log.SetOutput(t.Output())
	s := &secured{
		t: t, files: host.NewFiles(log, func() int64 { return time.Now().UnixNano() }), nodeDir: t.TempDir(), sideDir: t.TempDir(), engine: memory(t), addr: "127.0.0.1:0",
		limits: config.Limits{
			Queue: 512, BatchMax: 256, LedgerTimeout: 10 * time.Second, Retries: 3,
			BreakerErrors: 1 << 20, BreakerOpenFor: 100 * time.Millisecond, BreakerProbes: 10,
		},
	}
	ca.Save(s.nodeDir, "node 1", ca)
	ca.Save(s.sideDir, "sidecar 1", ca)
	s.nodeTLS, s.sideTLS = s.certs("node", s.nodeDir), s.certs("sidecar", s.sideDir)
	s.start()
	s.client = s.dial()
	live := new(config.Live)
	live.Store(&s.limits)
	var err error
	s.committer, err = ledger.NewCommitter(s.client, ledger.NewBreaker("rotation-"+t.Name(), live, clock), live,
		ledger.CommitterOptions{Workers: 2, MaxQueue: 1000, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.committer.Close(context.Background())
		_ = s.client.Close()
		s.stop()
		_ = s.engine.Close()
	})
	return s
}

func (s *secured) certs(name, dir string) *host.Certs {
	s.t.Helper()
	var f host.CertFiles
	f.Cert, f.Key, f.CA = pki.Files(dir)
	c, err := s.files.Certs(name, f)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// counted counts connections.
type counted struct {
	net.Listener
	n *atomic.Int64
}

func (c counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

// start starts the node, again on the address that it had.
func (s *secured) start() {
	s.t.Helper()
	ln, err := host.Listen(s.addr, host.ListenOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := node.Serve(ctx, counted{ln, &s.accepted}, s.engine, node.ServeOptions{TLS: s.nodeTLS.Server}); err != nil {
			s.t.Errorf("serve: %v", err)
		}
	}()
	s.stop = func() { cancel(); <-done }
}

func (s *secured) dial() *ledger.Client {
	s.t.Helper()
	c, err := ledger.Dial(s.addr, ledger.DialOptions{TLS: s.sideTLS.Client, Now: clock})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// reaches reports whether a new connection comes about; its certificates are those of now.
func (s *secured) reaches() bool {
	s.t.Helper()
	c := s.dial()
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	for c.Lookup(ctx, nil, nil) != nil { // it fails at once while there is no connection
		if ctx.Err() != nil {
			return false
		}
		runtime.Gosched()
	}
	return true
}

// load pays from n accounts until the returned function is called. Each payment must go through at the
// first attempt.
func (s *secured) load(n int) (stop func()) {
	var ended atomic.Bool
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			key := wallet.BalanceKey{Account: wallet.Must(wallet.ParseAccount(fmt.Sprintf("acc_%d", i))), Asset: wallet.Must(wallet.ParseAsset("ron"))}
			for nonce := uint64(1); !ended.Load(); nonce++ {
				if r := s.committer.Submit(issue(key, nonce), &s.limits, clock()+int64(20*time.Second)); r.Code != wallet.OK {
					s.t.Errorf("account %d, payment %d: %v", i, nonce, r.Code)
					return
				}
				s.payments.Add(1)
			}
		})
	}
	return func() { ended.Store(true); clients.Wait() }
}

// goesOn waits for payments that began after now.
func (s *secured) goesOn() {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for from := s.payments.Load(); s.payments.Load() < from+20; runtime.Gosched() {
		if s.t.Failed() || time.Now().After(deadline) {
			s.t.Fatal("payments do not go on")
		}
	}
}

// Goal: a rotation in order is seen by nobody: payments go on over the connection that is there, new
// ones come about after every step, and after a restart of the node the client finds it by the new
// certificates. Method: authority and certificates of both sides rotate under load, in three orders.
func TestLinkRotatesUnderLoad(t *testing.T) {
	type step func(s *secured, old, next *pki.Authority)
	trustBoth := []step{
		func(s *secured, old, next *pki.Authority) { old.Trust(s.nodeDir, old, next) },
		func(s *secured, old, next *pki.Authority) { old.Trust(s.sideDir, old, next) },
	}
	node := func(s *secured, old, next *pki.Authority) { next.Save(s.nodeDir, "node 2", old, next) }
	side := func(s *secured, old, next *pki.Authority) { next.Save(s.sideDir, "sidecar 2", old, next) }
	forget := []step{
		func(s *secured, _, next *pki.Authority) { next.Trust(s.sideDir, next) },
		func(s *secured, _, next *pki.Authority) { next.Trust(s.nodeDir, next) },
	}
	for name, order := range map[string][]step{
		"node first":    {trustBoth[0], trustBoth[1], node, side, forget[0], forget[1]},
		"sidecar first": {trustBoth[1], trustBoth[0], side, node, forget[1], forget[0]},
		"certificates only": {
			func(s *secured, old, _ *pki.Authority) { old.Save(s.nodeDir, "node 2", old) },
			func(s *secured, old, _ *pki.Authority) { old.Save(s.sideDir, "sidecar 2", old) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			old, next := pki.New(t), pki.New(t)
			s := newSecured(t, old)
			if !s.reaches() {
				t.Fatal("no connection")
			}
			for s.client.Lookup(t.Context(), nil, nil) != nil {
				runtime.Gosched()
			}
			before := s.accepted.Load()
			stop := s.load(4)
			for i, change := range order {
				change(s, old, next)
				s.files.Look()
				if !s.reaches() {
					t.Errorf("after step %d no new connection comes about", i+1)
				}
				s.goesOn()
			}
			stop()
			// One for each step; more only where a starved machine lost one, and no storm of them.
			if made, steps := s.accepted.Load()-before, int64(len(order)); made < steps || made > 5*steps {
				t.Errorf("%d connections were made for %d new clients", made, len(order))
			}
			s.restarted()
		})
	}
}

// restarted restarts the node, and has the client pay over the connection that it then makes.
func (s *secured) restarted() {
	s.t.Helper()
	s.nonce++
	s.stop()
	s.start()
	key := wallet.BalanceKey{Account: wallet.Must(wallet.ParseAccount("after")), Asset: wallet.Must(wallet.ParseAsset("ron"))}
	p := issue(key, s.nonce)
	for deadline := time.Now().Add(3 * time.Minute); ; runtime.Gosched() {
		r := s.committer.Submit(p, &s.limits, clock()+int64(time.Second))
		if r.Code.Outcome() == wallet.Applied {
			return
		}
		if !r.Code.Retryable() || time.Now().After(deadline) {
			s.t.Fatalf("after a restart of the node: %v", r.Code)
		}
	}
}

// refused demands that the next handshake fails because one side does not know the other's authority.
func (s *secured) refused() {
	s.t.Helper()
	conf := s.sideTLS.Client()
	conf.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", s.addr, conf)
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
		_, err = conn.Read(make([]byte, 1)) // the node's refusal comes after the handshake
		_ = conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "authority") {
		s.t.Errorf("a certificate of the authority that is gone: %v", err)
	}
}

func put(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Goal: what a hard rotation breaks is whole again once the files of both sides fit, without a restart
// of the sidecar; a half-written set changes nothing; and an authority that is gone is not trusted by
// either side. Method: authority and certificates change all at once, the node is restarted between.
func TestLinkRotatesAllAtOnce(t *testing.T) {
	old, next := pki.New(t), pki.New(t)
	s := newSecured(t, old)
	s.restarted()

	cert, key, ca := pki.Files(s.sideDir)
	newCert, newKey := next.Issue("sidecar 2")
	for _, half := range []struct {
		path string
		text []byte
	}{{ca, next.PEM[:len(next.PEM)/2]}, {cert, newCert}, {key, newKey[:len(newKey)/2]}} {
		put(t, half.path, half.text)
		s.files.Look()
		s.restarted()
	}

	next.Save(s.nodeDir, "node 2", next)
	s.files.Look()
	s.stop()
	s.start()
	s.refused()
	put(t, ca, next.PEM)
	put(t, key, newKey)
	s.files.Look()
	s.restarted()

	// Each side refuses the authority that is gone.
	for _, dir := range []string{s.sideDir, s.nodeDir} {
		old.Save(dir, "thief", next)
		s.files.Look()
		s.refused()
		next.Save(dir, "node or sidecar 3", next)
		s.files.Look()
		if !s.reaches() {
			t.Error("no connection after the right certificate is back")
		}
	}
}
