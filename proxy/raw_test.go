package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"svc-wallet/config"
)

// TestAmbiguous sends, byte for byte, requests that two readers could read differently, and holds
// each to 400 as our JSON and to a closed connection; the innocent ones among them must pass.
func TestAmbiguous(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "rich", 1000)
	auth := "Authorization: Bearer " + r.token + "\r\n"
	const host = "Host: localhost\r\n"
	const read = "GET /v1/balance?account=rich&asset=ron HTTP/1.1\r\n"
	nonce := uint64(0)
	post := func(headers, body string) string {
		return "POST /v1/transfer HTTP/1.1\r\n" + host + auth + "Content-Type: application/json\r\n" + headers + "\r\n" + body
	}
	pay := func() string {
		nonce++
		return r.transfer("rich", "x", 1, nonce)
	}
	length := func(body string) string { return fmt.Sprintf("Content-Length: %d\r\n", len(body)) }
	chunked := func(body string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body) }
	key := func() string { return fmt.Sprintf("Idempotency-Key: k%d\r\n", nonce) }

	for _, tc := range []struct {
		name   string
		raw    string
		status int
		stays  bool // the connection stays open
	}{
		{"plain read", read + host + auth + "\r\n", 200, true},
		{"plain payment", post(length(pay())+key(), r.transfer("rich", "x", 1, nonce)), 200, true},
		{"chunked payment", post("Transfer-Encoding: chunked\r\nIdempotency-Key: chunks\r\n", chunked(pay())), 200, true},
		{"empty line before", "\r\n" + read + host + auth + "\r\n", 200, true},
		{"host in any case", "GET https://LOCALHOST/healthz HTTP/1.1\r\n" + host + "\r\n", 200, true},
		{"names in any case", "GET /healthz HTTP/1.1\r\nhOST: localhost\r\n\r\n", 200, true},
		{"escaped query", "GET /v1/balance?account=a%3Ab&asset=ron HTTP/1.1\r\n" + host + auth + "\r\n", 200, true},
		{"HTTP/1.0 without Host", "GET /healthz HTTP/1.0\r\n\r\n", 200, false},
		{"HTTP/1.0 kept", "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, true},
		{"probe with a query", "GET /readyz?verbose HTTP/1.1\r\n" + host + "\r\n", 200, true},
		{"zero length on GET", read + host + auth + "Content-Length: 0\r\n\r\n", 200, true},
		{"unfit traceparent", read + host + auth + "Traceparent: 01-x\r\n\r\n", 200, true},
		{"two traceparents", read + host + auth + "Traceparent: x\r\nTraceparent: y\r\n\r\n", 200, true},

		{"length and chunks", post(key()+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", chunked(pay())), 400, false},
		{"chunks and length", post(key()+"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", chunked(pay())), 400, false},
		{"identity with length", post(key()+"Transfer-Encoding: identity\r\n"+length(pay()), r.transfer("rich", "x", 1, nonce)), 400, false},
		{"identity", post(key()+"Transfer-Encoding: identity\r\n", ""), 400, false},
		{"gzip, chunked", post(key()+"Transfer-Encoding: gzip, chunked\r\n", chunked(pay())), 400, false},
		{"trailer", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\nX-A: b\r\n\r\n", len(pay()), pay())), 400, false},
		{"folded trailer", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\nX-A: b\r\n c\r\n\r\n", len(pay()), pay())), 400, false},
		{"bare LF ends the chunks", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\n", len(pay()), pay())), 400, false},
		{"trailer and a request behind it", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\nX-A: b\r\n\r\n%sx\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce), ping)), 400, false},
		{"bare LF ends the chunks and a request behind it", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\n%sx\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce), ping)), 400, false},
		{"bare LF after a chunk's size", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\n%s\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce))), 400, false},
		{"bare LF in an extension", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x;a\n%s\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce))), 400, false},
		{"bare CR in an extension", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x;a\rb\r\n%s\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce))), 400, false},
		{"space after a chunk's size", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x \r\n%s\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce))), 400, false},
		{"space before a chunk's size", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf(" %x\r\n%s\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce))), 400, false},
		{"signed size", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("+%x\r\n%s\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce))), 400, false},
		{"size with 0x", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("0x%x\r\n%s\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce))), 400, false},
		{"size of 17 digits", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%017x\r\n%s\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce))), 400, false},
		{"size that wraps", post(key()+"Transfer-Encoding: chunked\r\n", "ffffffffffffffff\r\nabc\r\n0\r\n\r\n"), 413, false},
		{"chunk longer than its size", post(key()+"Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%sx\r\n0\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce))), 400, false},
		{"extensions", post(fmt.Sprintf("Idempotency-Key: ext%d\r\nTransfer-Encoding: chunked\r\n", nonce), fmt.Sprintf("%x;a=\"b c\";d\r\n%s\r\n000;e\r\n\r\n", len(pay()), r.transfer("rich", "x", 1, nonce))), 200, true},
		{"extensions without end", post(key()+"Transfer-Encoding: chunked\r\n", "1;"+strings.Repeat("a", 5000)+"\r\n{\r\n0\r\n\r\n"), 400, false},
		{"xchunked", post(key()+"Transfer-Encoding: xchunked\r\n", chunked(pay())), 400, false},
		{"two transfer encodings", post(key()+"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunked(pay())), 400, false},
		{"bad chunk", post(key()+"Transfer-Encoding: chunked\r\n", "zz\r\nabc\r\n0\r\n\r\n"), 400, false},
		{"chunks on HTTP/1.0", "POST /v1/transfer HTTP/1.0\r\n" + host + auth + "Transfer-Encoding: chunked\r\n\r\n" + chunked(pay()), 400, false},
		{"two lengths", post(key()+"Content-Length: 5\r\nContent-Length: 6\r\n", "12345"), 400, false},
		{"signed length", post(key()+"Content-Length: +5\r\n", "12345"), 400, false},
		{"Content_Length", post(key()+"Content_Length: 5\r\n"+length(pay()), r.transfer("rich", "x", 1, nonce)), 400, false},
		{"Content Length", post(key()+"Content Length: 5\r\n"+length(pay()), r.transfer("rich", "x", 1, nonce)), 400, false},
		{"space before colon", post(key()+"Content-Length : 5\r\n", "12345"), 400, false},
		{"Transfer_Encoding", post(key()+"Transfer_Encoding: chunked\r\n"+length(pay()), r.transfer("rich", "x", 1, nonce)), 400, false},
		{"two Authorizations", read + host + auth + auth + "\r\n", 400, false},
		{"authorization in another case", read + host + auth + "aUTHORIZATION: Bearer x\r\n\r\n", 400, false},
		{"two keys", post(key()+key()+length(pay()), r.transfer("rich", "x", 1, nonce)), 400, false},
		{"two types", post(key()+"Content-Type: text/plain\r\n"+length(pay()), r.transfer("rich", "x", 1, nonce)), 400, false},
		{"Host with a port", read + "Host: localhost:8443\r\n" + auth + "\r\n", 200, true},
		{"Host is an address", read + "Host: 127.0.0.1:8443\r\n" + auth + "\r\n", 200, true},
		{"Host is an IPv6 address", read + "Host: [::1]:8443\r\n" + auth + "\r\n", 200, true},
		{"Host as services are named", read + "Host: my_wallet.prod-1.svc.\r\n" + auth + "\r\n", 200, true},
		{"Host with a user", read + "Host: user@localhost\r\n" + auth + "\r\n", 400, false},
		{"Host with user and password", read + "Host: user:secret@localhost\r\n" + auth + "\r\n", 400, false},
		{"Host beyond ASCII", read + "Host: b\u00fccher.example\r\n" + auth + "\r\n", 400, false},
		{"Host in Latin-1", read + "Host: b\xfccher.example\r\n" + auth + "\r\n", 400, false},
		{"Host with a path", read + "Host: localhost/v1\r\n" + auth + "\r\n", 400, false},
		{"Host with a scheme", read + "Host: https://localhost\r\n" + auth + "\r\n", 400, false},
		{"Host with a query", read + "Host: localhost?x\r\n" + auth + "\r\n", 400, false},
		{"Host is a list", read + "Host: localhost, other\r\n" + auth + "\r\n", 400, false},
		{"Host with a space", read + "Host: local host\r\n" + auth + "\r\n", 400, false},
		{"Host with an escape", read + "Host: local%68ost\r\n" + auth + "\r\n", 400, false},
		{"Host with a word for a port", read + "Host: localhost:https\r\n" + auth + "\r\n", 400, false},
		{"Host with two ports", read + "Host: localhost:1:2\r\n" + auth + "\r\n", 400, false},
		{"Host with a bare IPv6 address", read + "Host: ::1\r\n" + auth + "\r\n", 400, false},
		{"Host with a zone", read + "Host: [fe80::1%25eth0]\r\n" + auth + "\r\n", 400, false},
		{"Host with half a bracket", read + "Host: [::1\r\n" + auth + "\r\n", 400, false},
		{"Host is only a port", read + "Host: :8443\r\n" + auth + "\r\n", 400, false},
		{"HTTP/1.0 with a user in Host", "GET /healthz HTTP/1.0\r\nHost: u@localhost\r\n\r\n", 400, false},
		{"Host with an empty port", read + "Host: b:\r\n" + auth + "\r\n", 400, false},
		{"Host with a port that is none", read + "Host: b:65536\r\n" + auth + "\r\n", 400, false},
		{"Host with an empty label", read + "Host: a..b\r\n" + auth + "\r\n", 400, false},
		{"Host begins with a dot", read + "Host: .a\r\n" + auth + "\r\n", 400, false},
		{"Host is a dot", read + "Host: .\r\n" + auth + "\r\n", 400, false},
		{"half an escape in the query", "GET /v1/balance?account=rich%4&asset=ron HTTP/1.1\r\n" + host + auth + "\r\n", 400, true},
		{"no escape in the query", "GET /v1/tx?account=rich&idem=%zz HTTP/1.1\r\n" + host + auth + "\r\n", 400, true},
		{"two Hosts", read + host + host + auth + "\r\n", 400, false},
		{"no Host", read + auth + "\r\n", 400, false},
		{"empty Host", read + "Host:\r\n" + auth + "\r\n", 400, false},
		{"folded", read + host + auth + "X-A: a\r\n b\r\n\r\n", 400, false},
		{"folded token", read + host + "Authorization: Bearer\r\n\t" + r.token + "\r\n\r\n", 400, false},
		{"fold at the start", read + " X: y\r\n" + host + "\r\n", 400, false},
		{"bare LF in headers", read + host + "X-A: a\n" + auth + "\r\n", 400, false},
		{"bare LF after the request line", strings.Replace(read, "\r\n", "\n", 1) + host + auth + "\r\n", 400, false},
		{"bare LF before the request line", "\n" + read + host + auth + "\r\n", 400, false},
		{"bare LF at the end", read + host + auth + "\n\r\n\r\n", 400, false},
		{"CR in a value", read + host + "X-A: a\rb\r\n" + auth + "\r\n", 400, false},
		{"NUL in a value", read + host + "X-A: a\x00b\r\n" + auth + "\r\n", 400, false},
		{"NUL in the target", "GET /v1/\x00balance HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"no colon", read + host + "X-A\r\n\r\n", 400, false},
		{"body on GET", read + host + auth + "Content-Length: 3\r\n\r\nabc", 400, false},
		{"large body on GET", read + host + auth + "Content-Length: 3000000\r\n\r\nabc", 400, false},
		{"chunks on GET", read + host + auth + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, false},
		{"absolute form of another host", "GET https://evil/v1/balance?account=rich&asset=ron HTTP/1.1\r\n" + host + auth + "\r\n", 400, false},
		{"absolute form with a user", "GET https://u@localhost/healthz HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"asterisk form", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"authority form", "CONNECT localhost:1 HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"HTTP/1.2", strings.Replace(read, "1.1", "1.2", 1) + host + auth + "\r\n", 400, false},
		{"HTTP/2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, false},
		{"HTTP/0.9", "GET /healthz\r\n\r\n", 400, false},
		{"escaped dots", "GET /v1/%2e%2e/healthz HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"escaped slash", "GET /v1/..%2fhealthz HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"escaped letter", "GET /health%7a HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"dot segment", "GET /v1/./balance HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"double slash", "GET //healthz HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"double slash inside", "GET /v1//balance HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"fragment", "GET /healthz#x HTTP/1.1\r\n" + host + "\r\n", 400, false},
		{"fragment in the query", read[:len(read)-11] + "#x HTTP/1.1\r\n" + host + auth + "\r\n", 400, false},
		{"unknown expectation", post(key()+"Expect: 200-ok\r\n"+length(pay()), r.transfer("rich", "x", 1, nonce)), 400, false},
		{"no HTTP", "hello\r\n\r\n", 400, false},
		{"trailing slash", "GET /healthz/ HTTP/1.1\r\n" + host + "\r\n", 404, true},
		{"other case", "GET /Healthz HTTP/1.1\r\n" + host + "\r\n", 404, true},
		{"transaction below a transaction", "GET /v1/tx/a/b HTTP/1.1\r\n" + host + "\r\n", 404, true},
		{"no route and bad framing", "GET /nope HTTP/1.1\r\n" + host + auth + auth + "\r\n", 404, false},
		{"unknown method", "BREW /healthz HTTP/1.1\r\n" + host + "\r\n", 405, true},
		{"TRACE", "TRACE /healthz HTTP/1.1\r\n" + host + "\r\n", 405, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn := r.dial()
			br := bufio.NewReader(conn)
			a := r.exchange(conn, br, tc.raw)
			if a.status != tc.status {
				t.Fatalf("%d %s, want %d", a.status, a.body, tc.status)
			}
			if tc.status != 200 {
				a.problem(t)
			}
			if a.closed == tc.stays {
				t.Fatalf("Connection: %q", a.header.Get("Connection"))
			}
			if tc.stays {
				if a := r.exchange(conn, br, read+host+auth+"\r\n"); a.status != 200 {
					t.Fatalf("the connection's next request: %d %s", a.status, a.body)
				}
			} else if _, err := br.ReadByte(); err != io.EOF {
				t.Fatalf("after the answer: %v, want EOF", err)
			}
		})
	}
	if strings.Contains(r.logged.String(), r.token[:40]) {
		t.Error("the log holds a token")
	}
}

// TestAmbiguousHeadsAreFollowed: a head that could be read in two ways is refused under the correlation
// id that it has, with 404 where it names no route and 405 for the wrong method, and the message says
// what is wrong with it. Method: each kind of such a head, whole, in pieces and behind another request.
func TestAmbiguousHeadsAreFollowed(t *testing.T) {
	r := newRig(t, rigOptions{})
	const host = "Host: localhost\r\n"
	for name, tc := range map[string]struct{ version, lines, want string }{
		"two lengths":          {"1.1", host + "Content-Length: 5\r\nContent-Length: 5\r\n", "occurs twice"},
		"signed length":        {"1.1", host + "Content-Length: +1\r\n", "Content-Length"},
		"negative length":      {"1.1", host + "Content-Length: -1\r\n", "Content-Length"},
		"gzip and chunked":     {"1.1", host + "Transfer-Encoding: gzip, chunked\r\n", "chunked"},
		"two transfer codings": {"1.1", host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "occurs twice"},
		"chunks on HTTP/1.0":   {"1.0", host + "Transfer-Encoding: chunked\r\n", "HTTP/1.0"},
		"no Host":              {"1.1", "", "Host"},
		"empty Host":           {"1.1", "Host:\r\n", "Host"},
		"two Hosts":            {"1.1", host + host, "occurs twice"},
		"space before a colon": {"1.1", host + "A : b\r\n", "name"},
		"NUL in a value":       {"1.1", host + "A: b\x00\r\n", "well-formed"},
		"no colon":             {"1.1", host + "A\r\n", "name"},
		"fold":                 {"1.1", host + "A: b\r\n c\r\n", "folded"},
		"Host with a path":     {"1.1", "Host: a/b\r\n", "Host"},
		"Host with brackets":   {"1.1", "Host: [::zz]:44\r\n", "Host"},
		"Host with two ports":  {"1.1", "Host: a:1:2\r\n", "Host"},
		"Host is a bare IPv6":  {"1.1", "Host: ::1\r\n", "Host"},
		"Host with a space":    {"1.1", "Host: a b\r\n", "Host"},
		"Host with a port":     {"1.1", "Host: b:99999\r\n", "Host"},
	} {
		t.Run(name, func(t *testing.T) {
			for line, status := range map[string]int{"POST /v1/burn": 400, "GET /healthz": 400, "POST /nope": 404, "PUT /v1/burn": 405} {
				raw := line + " HTTP/" + tc.version + "\r\nX-Corr-ID: followed\r\n" + tc.lines + "\r\n"
				check := func(how string, a answer) {
					t.Helper()
					p := a.problem(t)
					if a.status != status || p.CorrID != "followed" || !a.closed || status == 400 && !strings.Contains(p.Message, tc.want) {
						t.Errorf("%s, %s: %d %s", line, how, a.status, a.body)
					}
				}
				check("whole", r.send(raw))
				check("after an empty line", r.send("\r\n"+raw))
				conn := r.dial()
				br := bufio.NewReader(conn)
				_, _ = io.WriteString(conn, ping+raw[:20])
				if a := r.receive(br, "GET"); a.status != 200 {
					t.Fatal(a)
				}
				check("in pieces", r.exchange(conn, br, raw[20:]))
			}
		})
	}
}

// TestPipeline sends many requests in one write, of several kinds, and reads as many answers; a
// request line that ends in a bare LF is found there too, where no read begins with it.
func TestPipeline(t *testing.T) {
	r := newRig(t, rigOptions{})
	const get = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
	post := "POST /v1/burn HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd" // 415
	conn := r.dial()
	br := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, strings.Repeat(get+post+"\r\n", 50)+strings.Replace(get, "\r\n", "\n", 1)+get)
	for i := range 50 {
		if a := r.receive(br, "GET"); a.status != 200 || a.closed {
			t.Fatalf("pair %d: %d %s", i, a.status, a.body)
		}
		if a := r.receive(br, "POST"); a.status != 415 || a.closed {
			t.Fatalf("pair %d: %d %s", i, a.status, a.body)
		}
	}
	if a := r.receive(br, "GET"); a.status != 400 || !a.closed {
		t.Fatalf("a bare LF behind other requests: %d %s", a.status, a.body)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Fatalf("after the refusal: %v, want EOF", err)
	}
}

// TestLarge sends what is too large: headers, a body with its length, one without, and a body
// whose cap fell. Each must be answered although the client is still sending.
func TestLarge(t *testing.T) {
	r := newRig(t, rigOptions{})
	head := "POST /v1/transfer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	big := strings.Repeat("x", 3<<20)
	for _, tc := range []struct {
		name, raw, code string
		status          int
	}{
		{"headers", "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + big[:20<<10] + "\r\n\r\n", "BAD_REQUEST", 400},
		{"request line", "GET /" + big[:20<<10] + " HTTP/1.1\r\nHost: localhost\r\n\r\n", "BAD_REQUEST", 400},
		{"length", head + "Content-Length: 3145728\r\n\r\n" + big, "LIMITS_EXCEEDED", 413},
		{"chunks", head + "Authorization: Bearer " + r.token + "\r\nTransfer-Encoding: chunked\r\n\r\n300000\r\n" + big + "\r\n0\r\n\r\n", "LIMITS_EXCEEDED", 413},
		{"length without route", strings.Replace(head, "transfer", "nope", 1) + "Content-Length: 3145728\r\n\r\n" + big, "NOT_FOUND", 404},
		{"length and wrong method", strings.Replace(head, "POST", "PUT", 1) + "Content-Length: 3145728\r\n\r\n" + big, "METHOD_NOT_ALLOWED", 405},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := r.send(tc.raw)
			if p := a.problem(t); a.status != tc.status || p.Code != tc.code || !a.closed {
				t.Fatalf("%d %s", a.status, a.body)
			}
		})
	}
	r.limit(func(l *config.Limits) { l.MaxBodyBytes = 100 })
	if a := r.send(head + "Content-Length: 101\r\n\r\n" + big[:101]); a.status != 413 {
		t.Errorf("over a cap that was pushed: %d %s", a.status, a.body)
	}
	c := r.client()
	if a := r.call(c, "POST", "/v1/transfer", big); a.status != 413 { // a client that reads only after it wrote
		t.Errorf("Go's client: %d %s", a.status, a.body)
	}
}

// TestExpect waits for 100 Continue before it sends a body: a good head gets it, a bad one its
// final answer at once.
func TestExpect(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "rich", 50)
	body := r.transfer("rich", "x", 1, 1)
	head := func(media string, length int) string {
		return fmt.Sprintf("POST /v1/transfer HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nIdempotency-Key: k\r\nX-Corr-ID: c1\r\n"+
			"Expect: 100-Continue\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", r.token, media, length)
	}
	conn := r.dial()
	br := bufio.NewReader(conn)
	_, _ = io.WriteString(conn, head("application/json", len(body)))
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 100 {
		t.Fatalf("%v %v, want 100", resp, err)
	}
	if a := r.exchange(conn, br, body); a.status != 200 || a.closed {
		t.Fatalf("after 100: %d %s", a.status, a.body)
	}
	for want, raw := range map[int]string{415: head("text/plain", len(body)), 413: head("application/json", 2<<20)} {
		a := r.send(raw)
		if p := a.problem(t); a.status != want || !a.closed || p.CorrID != "c1" {
			t.Errorf("%d %s, want %d", a.status, a.body, want)
		}
	}
}

// TestLateAnswers lets the write deadline of the last answer pass before what does not go out as the
// answer of fasthttp's handler: a 100 Continue, and a refusal of its parser. Both must arrive.
func TestLateAnswers(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_WRITE_TIMEOUT=300ms"}})
	r.issueTo(r.client(), "rich", 50)
	body := r.transfer("rich", "x", 1, 1)
	for want, raw := range map[int]string{
		100: fmt.Sprintf("POST /v1/transfer HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", r.token, len(body)),
		400: "hello\r\n\r\n",
		413: "POST /v1/transfer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n",
	} {
		conn := r.dial()
		br := bufio.NewReader(conn)
		if a := r.exchange(conn, br, ping); a.status != 200 {
			t.Fatal(a)
		}
		<-time.After(400 * time.Millisecond) // the deadline itself
		_, _ = io.WriteString(conn, raw)
		if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != want {
			t.Errorf("%v %v, want %d", resp, err, want)
		}
	}
}

// TestSlow is slow in each phase, with short time-outs: the handshake, the header, the body, and
// the silence between requests. Each connection must be cut off and counted.
func TestSlow(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_READ_TIMEOUT=1s", "SVC_WALLET_IDLE_TIMEOUT=1s", "SVC_WALLET_WRITE_TIMEOUT=300ms"}})
	silent, err := net.Dial("tcp", r.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_ = silent.SetReadDeadline(time.Now().Add(patience))
	if n, err := silent.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("no handshake: %d %v, want EOF", n, err)
	}
	post := "POST /v1/burn HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Corr-ID: slow\r\nAuthorization: Bearer " + r.token + "\r\n"
	var slow sync.WaitGroup
	for name, raw := range map[string]string{
		"half a header": "GET /healthz HTTP/1.1\r\nHost: lo",
		"half a body":   post + "Content-Length: 10\r\n\r\nabc",
		"no body":       post + "Content-Length: 10\r\n\r\n",
		"half a chunk":  post + "Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
		"half a size":   post + "Transfer-Encoding: chunked\r\n\r\n5",
		"no last chunk": post + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
	} {
		slow.Go(func() {
			a := r.send(raw)
			p := a.problem(t)
			if a.status != 408 || p.Code != "REQUEST_TIMEOUT" || !p.Retryable || !a.closed || strings.HasPrefix(raw, "POST") != (p.CorrID == "slow") {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		})
	}
	slow.Wait()
	nothing := r.dial()
	if n, err := nothing.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("no request: %d %v, want the connection's end", n, err)
	}
	kept := r.dial()
	br := bufio.NewReader(kept)
	if a := r.exchange(kept, br, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); a.status != 200 {
		t.Fatal(a)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("idle: %v, want EOF", err)
	}
	r.server.ShrinkWriteBuffers()
	deaf := r.dial() // asks without end and reads nothing
	_ = deaf.NetConn().(*net.TCPConn).SetReadBuffer(4 << 10)
	for err := error(nil); err == nil; {
		_, err = io.WriteString(deaf, strings.Repeat(ping, 100))
	}
	_ = deaf.NetConn().Close()
	r.eventually("the deaf client is counted", func() bool { return r.metric(`io_timeouts_total{op="write"}`) == "1" })
	for series, want := range map[string]string{
		`io_timeouts_total{op="handshake"}`: "1", `tls_handshake_failures_total`: "1",
		`io_timeouts_total{op="read"}`: "6", `io_timeouts_total{op="idle"}`: "2",
	} {
		if got := r.metric(series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
}
