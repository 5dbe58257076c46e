package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"svc-wallet/proxy"
	"svc-wallet/wallet"
)

// TestDrainUnderLoad drains while 32 clients read and pay. Every request that was written on a
// connection must be answered: a read with its figure, a payment with a receipt or with 503 and
// Connection: close; only a new connection may fail, and only once the listener is gone. Then the
// money must add up. One exception is HTTP/1.1's own: a client that this machine starves for longer
// than a connection need be quiet may send just as it is closed.
func TestDrainUnderLoad(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{
		"SVC_WALLET_DRAIN_DEADLINE=30s", "SVC_WALLET_LEDGER_TIMEOUT=30s", "SVC_WALLET_LIMITS_REQUEST_DEADLINE=30s",
	}})
	r.issueTo(r.client(), "rich", 1_000_000)
	var paid, refused, reads atomic.Int64
	var clients sync.WaitGroup
	drained := make(chan struct{})
	for i := range 32 {
		clients.Go(func() {
			for n := 0; refused.Load() < 100; n++ { // else they would come again for as long as it listens
				dialled := time.Now()
				c, err := tlsDial(r)
				if err != nil {
					return // the listener is gone
				}
				if !r.session(c, dialled, i, n, &paid, &refused, &reads) {
					return
				}
			}
		})
	}
	r.eventually("load", func() bool { return paid.Load() > 200 && reads.Load() > 200 })
	go func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		close(drained)
	}()
	<-drained
	clients.Wait()
	if refused.Load() == 0 {
		t.Log("all clients were between two connections at once, so the drain was over before a payment came")
	}
	out := make([]wallet.Balance, 1)
	key := wallet.BalanceKey{Account: wallet.Must(wallet.ParseAccount("sink")), Asset: wallet.Must(wallet.ParseAsset("ron"))}
	if err := r.engine.Lookup(context.Background(), []wallet.BalanceKey{key}, out); err != nil {
		t.Fatal(err)
	}
	if got := out[0].Amount.String(); got != fmt.Sprint(paid.Load()) {
		t.Errorf("%s arrived, %d were acknowledged", got, paid.Load())
	}
}

func tlsDial(r *rig) (io.ReadWriteCloser, error) {
	return tlsDialer(r).Dial("tcp", r.server.Addr().String())
}

// session uses one connection, which the server has heard of since used, until the server asks to
// close it; false once the client should stop.
func (r *rig) session(c io.ReadWriteCloser, used time.Time, client, session int, paid, refused, reads *atomic.Int64) bool {
	defer c.Close()
	br := bufio.NewReader(c)
	for n := 0; ; n++ {
		pays := n%2 == 0
		raw := "GET /v1/balance?account=rich&asset=ron HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + r.token + "\r\n\r\n"
		if pays {
			body := r.transfer("rich", "sink", 1, r.nonces.Add(1)+1000)
			raw = fmt.Sprintf("POST /v1/transfer HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"+
				"Idempotency-Key: %d-%d-%d\r\nContent-Length: %d\r\n\r\n%s", r.token, client, session, n, len(body), body)
		}
		asked := time.Now()
		if _, err := io.WriteString(c, raw); err != nil {
			return n > 0 // the handshake was cut off: nothing was asked
		}
		resp, err := http.ReadResponse(br, nil)
		if quiet := time.Since(used); err != nil && quiet >= proxy.DrainQuiet {
			r.t.Logf("client %d: request %d of session %d went unanswered, %v after the one before and %v after it was begun", client, n, session, quiet, time.Since(asked))
			return true
		} else if err != nil {
			r.t.Errorf("client %d: request %d of session %d went unanswered after %v, %v after the one before: %v", client, n, session, time.Since(asked), quiet, err)
			return false
		}
		used = asked
		text, err := io.ReadAll(resp.Body)
		switch {
		case err != nil:
			r.t.Errorf("half an answer: %v", err)
			return false
		case !pays && resp.StatusCode == 200:
			reads.Add(1)
		case pays && resp.StatusCode == 200:
			paid.Add(1)
		case pays && resp.StatusCode == 503 && strings.Contains(string(text), "nothing was done"):
			if resp.Close { // otherwise this machine is so busy that the ledger seems to stall
				refused.Add(1)
			}
		case pays && resp.StatusCode == 409: // another client's nonce overtook this one
		default:
			r.t.Errorf("%d %s", resp.StatusCode, text)
			return false
		}
		if resp.Close {
			return true
		}
	}
}

// TestDrainSeesWhatWaits has a connection that has been idle for long, and a request that arrived on
// it while its goroutine had no time to read: it must not be closed. One with nothing to read must.
func TestDrainSeesWhatWaits(t *testing.T) {
	r := newRig(t, rigOptions{})
	ln, err := net.Listen("unix", r.path("idle"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("unix", r.path("idle"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, closesIdle := r.server.AcceptIdle(ln)
	defer server.Close()
	if _, err := io.WriteString(client, "G"); err != nil { // a Unix socket has it at once
		t.Fatal(err)
	}
	if closesIdle() {
		t.Fatal("closed with a request unread")
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if closesIdle() {
		t.Fatal("closed with a request under way")
	}
	proxy.Idle(server)
	if !closesIdle() {
		t.Error("a connection that has been idle for long was not closed")
	}
}

// TestDrainIdle drains with nothing open, and with a client that only keeps its connection, which must
// be closed: neither waits for the drain's deadline.
func TestDrainIdle(t *testing.T) {
	late := rigOptions{env: []string{"SVC_WALLET_DRAIN_DEADLINE=5m"}}
	r := newRig(t, late)
	start := time.Now()
	if err := r.stop(); err != nil || time.Since(start) > patience {
		t.Errorf("nothing open: %v, %v", time.Since(start), err)
	}
	r = newRig(t, late)
	kept := r.dial()
	br := bufio.NewReader(kept)
	if a := r.exchange(kept, br, ping); a.status != 200 || a.closed {
		t.Fatal(a)
	}
	silent := r.dial() // never asks anything
	start = time.Now()
	if err := r.stop(); err != nil || time.Since(start) > patience {
		t.Errorf("idle connections: %v, %v", time.Since(start), err)
	}
	for _, c := range []io.Reader{kept, silent} {
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("an idle connection: %v, want EOF", err)
		}
	}
}

// TestDrainByPost asks for the drain on the admin listener while a payment is under way in the
// ledger: that one must be answered, /readyz must be 503 at once on both listeners, and what cannot
// end must be cut off at the deadline.
func TestDrainByPost(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_DRAIN_DEADLINE=3s", "SVC_WALLET_READ_TIMEOUT=5m"}})
	c := r.client()
	r.issueTo(c, "rich", 10)
	begun, proceed := make(chan struct{}), make(chan struct{})
	f := func([]wallet.Payment) error { close(begun); <-proceed; return nil }
	r.ledger.commit.Store(&f)
	paid := make(chan answer, 1)
	go func() { paid <- r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", 1, 1)) }()
	<-begun
	slow := r.dial()
	_, _ = io.WriteString(slow, "GET /healthz HT") // busy for ever
	reader := r.dial()
	br := bufio.NewReader(reader)
	if a := r.exchange(reader, br, ping); a.status != 200 {
		t.Fatal(a)
	}
	if status, body, _ := r.adminDo("POST", "/drain", ""); status != 202 || body != `{"draining":true}` {
		t.Fatalf("drain: %d %s", status, body)
	}
	if status, body := r.adminGet("/readyz"); status != 503 || !strings.Contains(body, `"missing":["listener_bound"]`) {
		t.Errorf("admin readyz: %d %s", status, body)
	}
	if a := r.exchange(reader, br, "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"); a.status != 503 || !a.closed {
		t.Errorf("readyz: %d %s", a.status, a.body)
	}
	close(proceed)
	if a := <-paid; a.status != 200 || !a.closed {
		t.Errorf("the payment under way: %d %s", a.status, a.body)
	}
	<-r.ended
	if _, err := slow.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlived the drain")
	}
	if status, _, _ := tryAdmin(r, "/readyz"); status != 0 {
		t.Error("the admin listener outlived the drain")
	}
}

func tryAdmin(r *rig, path string) (int, string, error) {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := c.Get(r.adminURL(path))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// TestMaxConns fills the listener with connections of clients that were just busy, where one more
// must be closed at once; then lets them fall idle, where the quietest must make room.
func TestMaxConns(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_MAX_CONNS=2"}})
	first, second := r.dial(), r.dial()
	readers := []*bufio.Reader{bufio.NewReader(first), bufio.NewReader(second)}
	if a := r.exchange(first, readers[0], r.readRequest()); a.status != 200 {
		t.Fatal(a)
	}
	if a := r.exchange(second, readers[1], r.readRequest()); a.status != 200 {
		t.Fatal(a)
	}
	if _, err := tlsDial(r); err == nil {
		t.Error("a third connection was taken while two had just been used")
	}
	idle := func() bool { return r.server.Idle() == 2 }
	r.eventually("both are idle", idle)
	r.clock.ahead.Add(int64(2 * time.Second))
	if a := r.exchange(second, readers[1], r.readRequest()); a.status != 200 { // now the first is the quietest
		t.Fatal(a)
	}
	r.eventually("both are idle", idle)
	r.clock.ahead.Add(int64(2 * time.Second))
	third := r.dial()
	if a := r.exchange(third, bufio.NewReader(third), r.readRequest()); a.status != 200 {
		t.Fatal(a)
	}
	if _, err := readers[0].ReadByte(); err == nil || isTimeout(err) {
		t.Errorf("the quietest connection: %v, want its end", err)
	}
	if a := r.exchange(second, readers[1], r.readRequest()); a.status != 200 {
		t.Errorf("the other one: %d", a.status)
	}
	for outcome, want := range map[string]string{"refused": "1", "idle": "1", "stranger": "0"} {
		if got := r.metric(`connections_over_cap_total{cap="max_conns",outcome="` + outcome + `"}`); got != want {
			t.Errorf("%s %s, want %s", got, outcome, want)
		}
	}
	if n := r.server.Connections(); n != 2 {
		t.Errorf("%d connections are on the books, want 2", n)
	}
}

// TestBound gives Listen addresses that are taken, and Run after it must fail.
func TestBound(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, env := range []string{"SVC_WALLET_BIND_ADDR=" + r.server.Addr().String(), "SVC_WALLET_METRICS_ADDR=" + r.server.AdminAddr().String()} {
		if err := r.another(env).Run(context.Background()); err == nil {
			t.Errorf("%s: Run did not fail", env)
		}
	}
}

// scripted is a listener whose Accept fails with each error in turn.
type scripted struct {
	net.Listener
	errs []error
}

func (l *scripted) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		return discard{}, nil
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}

// TestAcceptGoesOn lets accept fail for lack of file descriptors, which fasthttp would take for
// the end: the next connection must still be served, and a closed listener must end in silence.
func TestAcceptGoesOn(t *testing.T) {
	r := newRig(t, rigOptions{})
	full := &net.OpError{Op: "accept", Err: syscall.EMFILE}
	if c, err := r.server.AcceptFrom(&scripted{errs: []error{full, full}}); err != nil || c == nil {
		t.Errorf("after EMFILE: %v", err)
	}
	if _, err := r.server.AcceptFrom(&scripted{errs: []error{net.ErrClosed}}); !errors.Is(err, io.EOF) {
		t.Errorf("closed: %v", err)
	}
}

// TestNothingIsWrittenBeforeTheHandshake: what fasthttp answers to a connection that it has no worker
// for would go through a handshake in Accept, and one silent client would stop all. Method: write on
// a connection as it is accepted.
func TestNothingIsWrittenBeforeTheHandshake(t *testing.T) {
	r := newRig(t, rigOptions{})
	c, err := r.server.AcceptFrom(&scripted{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Write([]byte("busy")); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}
