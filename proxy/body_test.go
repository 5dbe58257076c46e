package proxy_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"svc-wallet/config"
)

// postHead is a payment's head without what says how long the body is.
func (r *rig) postHead(key, more string) string {
	return "POST /v1/transfer HTTP/1.1\r\nHost: localhost\r\nX-Corr-ID: mine\r\nAuthorization: Bearer " + r.token +
		"\r\nContent-Type: application/json\r\nIdempotency-Key: " + key + "\r\n" + more + "\r\n"
}

// TestCondemnedHeads sends heads that are refused whatever their bodies say, and never the bodies:
// each must be answered at once, with its correlation id, in the order of CONTRACT §1. So must each
// where a client waits for 100 Continue, which it must not get.
func TestCondemnedHeads(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_READ_TIMEOUT=5m"}}) // not what ends the wait
	r.server.SetWritable(func() bool { return true })                       // also where a busy machine makes the ledger look stalled
	good := r.postHead("k", "")
	good = good[:len(good)-2]
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, body := range []string{"Content-Length: 1000000\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 10\r\nExpect: 100-continue\r\n"} {
		for _, tc := range []struct {
			name, head, code string
		}{
			{"route", swap("/v1/transfer", "/nope"), "NOT_FOUND"},
			{"method", swap("POST", "PUT"), "METHOD_NOT_ALLOWED"},
			{"body on GET", swap("POST /v1/transfer", "GET /v1/balance?account=a&asset=ron"), "BAD_REQUEST"},
			{"two tokens", good + "Authorization: Bearer x\r\n", "BAD_REQUEST"},
			{"length and chunks", good + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "BAD_REQUEST"},
			{"over the cap", good + "Content-Length: 1048577\r\n", "LIMITS_EXCEEDED"},
			{"media type", swap("application/json", "text/plain"), "UNSUPPORTED_MEDIA_TYPE"},
			{"coding", good + "Content-Encoding: br\r\n", "UNSUPPORTED_MEDIA_TYPE"},
			{"no token", swap("Authorization: Bearer "+r.token, "X: y"), "UNAUTHORIZED"},
			{"bad token", swap(r.token, r.token[:len(r.token)-2]), "UNAUTHORIZED"},
		} {
			head := tc.head
			if !strings.Contains(head, "Content-Length") {
				head += body
			}
			a := r.send(head + "\r\n")
			if p := a.problem(t); p.Code != tc.code || p.CorrID != "mine" || !a.closed && strings.Contains(head, "Expect") {
				t.Errorf("%s, %q: %d %s, want %s", tc.name, body, a.status, a.body, tc.code)
			}
		}
	}
	r.server.SetWritable(func() bool { return false })
	if a := r.send(good + "Content-Length: 1000\r\n\r\n"); a.status != 503 {
		t.Errorf("not ready: %d %s", a.status, a.body)
	}
}

// TestRefusedChunkedBodies refuses chunked requests for their heads and for their bodies: the
// correlation id is echoed and the order of refusals holds, whether a body comes with its head or after.
func TestRefusedChunkedBodies(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.server.SetWritable(func() bool { return true }) // also where a busy machine makes the ledger look stalled
	const (
		small = "3\r\nabc\r\n0\r\n\r\n"
		large = "200000\r\nabc"
		bad   = "3\r\nabcd\r\n0\r\n\r\n"
	)
	chunked := r.postHead("k", "Transfer-Encoding: chunked\r\n")
	for _, tc := range []struct {
		name, head, body string
		status           int
	}{
		{"on GET", strings.Replace(chunked, "POST /v1/transfer", "GET /healthz", 1), small, 400},
		{"on GET, over the cap", strings.Replace(chunked, "POST /v1/transfer", "GET /healthz", 1), large, 400},
		{"no route", strings.Replace(chunked, "/v1/transfer", "/nope", 1), large, 404},
		{"another method", strings.Replace(chunked, "POST", "PUT", 1), bad, 405},
		{"with a length", r.postHead("k", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), large, 400},
		{"a length with it", r.postHead("k", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), large, 400},
		{"not well-formed", chunked, bad, 400},
		{"over the cap", chunked, large, 413},
		{"over the cap, with a bad chunk before", chunked, "1\r\na\r\nx\r\n" + large, 400},
		{"another media type", strings.Replace(chunked, "json", "xml", 1), small, 415},
		{"no payment", chunked, small, 400},
	} {
		for _, cut := range []bool{false, true} {
			conn := r.dial()
			head, rest := tc.head+tc.body, ""
			if cut {
				head, rest = tc.head, tc.body
			}
			_, _ = io.WriteString(conn, head)
			_, _ = io.WriteString(conn, rest)
			a := r.receive(bufio.NewReader(conn), http.MethodGet)
			if p := a.problem(t); a.status != tc.status || p.CorrID != "mine" {
				t.Errorf("%s (cut: %v): %d %s, want %d", tc.name, cut, a.status, a.body, tc.status)
			}
		}
	}
}

// TestChunkedPipeline sends chunked payments and other requests behind one another in one write, and
// then the same cut into pieces of every size: each is answered, and the connection stays.
func TestChunkedPipeline(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.server.SetWritable(func() bool { return true }) // also where a busy machine makes the ledger look stalled
	r.issueTo(r.client(), "rich", 10000)
	nonce := 0
	for size := 1; size <= 1<<12; size = size*3/2 + 1 {
		var all strings.Builder
		for i := range 4 {
			nonce++
			body := r.transfer("rich", "x", 1, uint64(nonce))
			half := len(body) / 2
			fmt.Fprintf(&all, "%s%x;first\r\n%s\r\n%X\r\n%s\r\n0\r\n\r\n", r.postHead(fmt.Sprint("k", nonce), "Transfer-Encoding: chunked\r\n"),
				half, body[:half], len(body)-half, body[half:])
			nonce++
			body = r.transfer("rich", "x", 1, uint64(nonce))
			fmt.Fprintf(&all, "%s%s", r.postHead(fmt.Sprint("k", nonce), fmt.Sprintf("Content-Length: %d\r\n", len(body))), body)
			if i%2 == 0 {
				all.WriteString(ping)
			}
		}
		conn := r.dial()
		go func() {
			for text := all.String(); len(text) > 0; text = text[min(size, len(text)):] {
				_, _ = io.WriteString(conn, text[:min(size, len(text))])
			}
		}()
		br := bufio.NewReader(conn)
		for i := range 10 {
			if a := r.receive(br, http.MethodGet); a.status != 200 || a.closed {
				t.Fatalf("in pieces of %d, answer %d: %d %s", size, i, a.status, a.body)
			}
		}
	}
}

// TestSkippedBodies refuses requests before their bodies came in, and goes on with the next request
// on the same connection: what is skipped is the body, to the byte. What is too long to be skipped, or
// may never come, ends the connection.
func TestSkippedBodies(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.server.SetWritable(func() bool { return true }) // also where a busy machine makes the ledger look stalled
	const nope = "POST /nope HTTP/1.1\r\nHost: localhost\r\n"
	inner := ping + ping // must not be taken for requests
	for _, tc := range []struct {
		name, head, body string
		stays            bool
	}{
		{"a body", nope + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(inner)), inner, true},
		{"a longer one", nope + fmt.Sprintf("Content-Length: %d\r\n\r\n", 300*len(inner)), strings.Repeat(inner, 300), true},
		{"chunks", nope + "Transfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner), true},
		{"no body", nope + "Content-Length: 0\r\n\r\n", "", true},
		{"too long", nope + "Content-Length: 65537\r\n\r\n", "", false},
		{"too long a chunk", nope + "Transfer-Encoding: chunked\r\n\r\n10001\r\n", "", false},
		{"bad chunks", nope + "Transfer-Encoding: chunked\r\n\r\nx\r\n", "", false},
		{"expected", nope + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", "", false},
	} {
		conn := r.dial()
		br := bufio.NewReader(conn)
		_, _ = io.WriteString(conn, tc.head)
		if a := r.receive(br, http.MethodGet); a.status != 404 || a.closed == tc.stays {
			t.Errorf("%s: %d, closed %v", tc.name, a.status, a.closed)
			continue
		}
		if !tc.stays {
			continue
		}
		if a := r.exchange(conn, br, tc.body+ping); a.status != 200 || a.closed {
			t.Errorf("behind %s: %d %s", tc.name, a.status, a.body)
		}
		if a := r.exchange(conn, br, ping); a.status != 200 {
			t.Errorf("again behind %s: %d %s", tc.name, a.status, a.body)
		}
	}
	for name, body := range map[string]string{
		"bad chunks": "3\r\nabcd\r\n" + ping, "small chunks without end": strings.Repeat("1\r\na\r\n", 50_000),
	} {
		conn := r.dial()
		br := bufio.NewReader(conn)
		_, _ = io.WriteString(conn, nope+"Transfer-Encoding: chunked\r\n\r\n")
		if a := r.receive(br, http.MethodGet); a.status != 404 {
			t.Errorf("%s: %d", name, a.status)
		}
		_, _ = io.WriteString(conn, body)
		if b, err := br.ReadByte(); err == nil {
			t.Errorf("%s that were skipped: answered %q", name, b)
		}
	}
}

// TestBodyMemory holds bodies half-way until their memory is used up: one more is told to come again,
// payments of the usual size pass all the time, and when the bodies have gone there is memory again.
func TestBodyMemory(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{
		"SVC_WALLET_BODY_MEMORY=320KiB", "SVC_WALLET_CEILINGS_MAX_BODY_BYTES=128KiB", "SVC_WALLET_LIMITS_MAX_BODY_BYTES=64KiB", "SVC_WALLET_READ_TIMEOUT=5m",
	}})
	r.server.SetWritable(func() bool { return true }) // also where a busy machine makes the ledger look stalled
	r.issueTo(r.client(), "rich", 1000)
	nonce := 0
	pay := func() {
		t.Helper()
		nonce++
		body := r.transfer("rich", "x", 1, uint64(nonce))
		conn := r.dial()
		_, _ = io.WriteString(conn, r.postHead(fmt.Sprint("k", nonce), fmt.Sprintf("Content-Length: %d\r\n", len(body))))
		if a := r.exchange(conn, bufio.NewReader(conn), body); a.status != 200 {
			t.Fatalf("a payment: %d %s", a.status, a.body)
		}
	}
	used := func() string { return r.metric("body_memory_bytes") }
	promise := r.postHead("large", "Content-Length: 60000\r\n")
	for range 20 { // a promise takes nothing
		_, _ = io.WriteString(r.dial(), promise+strings.Repeat(" ", 4096))
	}
	pay()
	if used() != "0" {
		t.Errorf("%s bytes are held for 4 KiB and less", used())
	}
	var held []*tls.Conn
	for i := range 4 {
		held = append(held, r.dial())
		_, _ = io.WriteString(held[i], promise+strings.Repeat(" ", 59_999))
		want := fmt.Sprint((i + 1) * 65536)
		r.eventually("the body is held", func() bool { return used() == want })
	}
	a := r.send(promise + strings.Repeat(" ", 59_999))
	if p := a.problem(t); a.status != 429 || p.Code != "BUSY" {
		t.Errorf("over the budget: %d %s", a.status, a.body)
	}
	if n := r.metric("body_memory_refusals_total"); n != "1" {
		t.Errorf("%s refusals are counted", n)
	}
	pay()
	for _, c := range held[1:] {
		_ = c.Close()
	}
	r.eventually("the memory is free again", func() bool { return used() == "65536" })
	if a := r.exchange(held[0], bufio.NewReader(held[0]), " "); a.status != 400 { // white space is no payment
		t.Errorf("the body that was held: %d %s", a.status, a.body)
	}
	r.eventually("all memory is free again", func() bool { return used() == "0" })
	if a := r.send(promise + strings.Repeat(" ", 60_000)); a.status != 400 {
		t.Errorf("after all: %d %s", a.status, a.body)
	}
}

// TestSlowBodiesHoldNoPlace lets bodies wait that are more than there are places in flight: a payment
// passes all the same, and a waiting one is paid when its body comes, by the limits of then.
func TestSlowBodiesHoldNoPlace(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.server.SetWritable(func() bool { return true }) // also where a busy machine makes the ledger look stalled
	c := r.client()
	r.issueTo(c, "rich", 1000)
	r.limit(func(l *config.Limits) { l.InFlight = 1 })
	body := r.transfer("rich", "x", 1, 5)
	var last net.Conn
	var br *bufio.Reader
	for range 3 {
		last = r.dial()
		br = bufio.NewReader(last)
		_, _ = io.WriteString(last, r.postHead("w", fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n", len(body))))
		if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 100 { // so it waits
			t.Fatalf("%v %v, want 100", resp, err)
		}
		_, _ = io.WriteString(last, body[:10])
	}
	if a := r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", 1, 1), "Idempotency-Key", "quick"); a.status != 200 {
		t.Errorf("beside those that wait: %d %s", a.status, a.body)
	}
	if a := r.exchange(last, br, body[10:]); a.status != 200 {
		t.Errorf("the one that waited: %d %s", a.status, a.body)
	}
}

// TestPlainHTTP speaks HTTP to the port that speaks TLS: a sentence says so, also where more was sent
// than anybody reads, and the connection ends.
func TestPlainHTTP(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, raw := range []string{ping, strings.Replace(ping, "GET", "PATCH", 1), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", r.postHead("k", "Content-Length: 100000\r\n") + strings.Repeat(" ", 100_000)} {
		c, err := net.Dial("tcp", r.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, raw)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%.20q: %v", raw, err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 400 || !resp.Close || !strings.Contains(string(text), "TLS") {
			t.Errorf("%.20q: %d %q %v", raw, resp.StatusCode, text, err)
		}
		_ = c.Close()
	}
	if n := r.metric("tls_handshake_failures_total"); n != "4" {
		t.Errorf("%s failed handshakes are counted", n)
	}
	silent, err := net.Dial("tcp", r.server.Addr().String()) // neither TLS nor HTTP: no answer but an alert
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_ = silent.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(silent, "\x00\x01\x02\x03\x04\x05")
	if got, _ := io.ReadAll(silent); strings.Contains(string(got), "HTTP") {
		t.Errorf("what is no HTTP is answered %q", got)
	}
}

// TestHandshakesAreBounded sends a message of a handshake that claims 64 KiB: the connection ends
// after half of it, long before the time for a handshake is over.
func TestHandshakesAreBounded(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_READ_TIMEOUT=5m"}})
	c, err := net.Dial("tcp", r.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	record := append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 1<<14)...)
	record[5], record[7], record[8] = 1, 0xff, 0xff
	for range 3 {
		_, _ = c.Write(record)
	}
	if _, err := io.ReadAll(c); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("48 KiB of a handshake are waited upon: %v", err)
	}
}

// TestTokenIsCountedOnce: a request counts once in auth_cache_total, also where its body comes after its
// head and its token is judged twice. Method: bodies that come with their heads, and bodies that are
// waited for.
func TestTokenIsCountedOnce(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.issueTo(r.client(), "rich", 50)
	seen := func() (n int) {
		for _, outcome := range []string{"hit", "miss"} {
			count, _ := strconv.Atoi(r.metric(`auth_cache_total{outcome="` + outcome + `"}`))
			n += count
		}
		return n
	}
	for nonce := uint64(1); nonce <= 6; nonce++ {
		body := r.transfer("rich", "x", 1, nonce)
		head := fmt.Sprintf("POST /v1/transfer HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nIdempotency-Key: once%d\r\n"+
			"Content-Type: application/json\r\nContent-Length: %d\r\n", r.token, nonce, len(body))
		before := seen()
		conn := r.dial()
		br := bufio.NewReader(conn)
		if nonce%2 == 0 {
			_, _ = io.WriteString(conn, head+"Expect: 100-continue\r\n\r\n")
			if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 100 {
				t.Fatalf("%v %v, want 100", resp, err)
			}
			head = ""
		} else {
			head += "\r\n"
		}
		if a := r.exchange(conn, br, head+body); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		if n := seen() - before; n != 1 {
			t.Errorf("payment %d was counted %d times", nonce, n)
		}
	}
}
