package proxy_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// FuzzRequest feeds raw bytes to a connection's handler, over memory, with the real parts behind
// it: it must not panic, and each thing that it says must be a response of ours whose body is
// JSON; then the connection stays for the next request or closes.
func FuzzRequest(f *testing.F) {
	r := newRig(f, rigOptions{env: []string{"SVC_WALLET_READ_TIMEOUT=5s"}})
	auth := "Authorization: Bearer " + r.token + "\r\n"
	for _, seed := range []string{
		ping, ping + ping, r.readRequest(), "\r\n\n" + ping, "GET //healthz HTTP/1.1\r\n\r\n",
		"POST /v1/issue HTTP/1.1\r\nHost: h\r\n" + auth + "Content-Type: application/json\r\nIdempotency-Key: k\r\nContent-Length: 55\r\n\r\n" +
			`{"to":"a","asset":"ron","amount_minor":"1","nonce":1}  `,
		"POST /v1/burn HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"POST /v1/burn HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
		"GET /v1/tx/tx_01ARZ3NDEKTSV4RRFFQ69G5FAV HTTP/1.0\r\nConnection: keep-alive\r\n" + auth + "\r\n",
		"HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET http://h/readyz HTTP/1.1\r\nHost: h\r\nX-Corr-ID: \"\\\r\nA: b\r\n c\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ours, theirs := net.Pipe()
		_ = ours.SetDeadline(time.Now().Add(20 * time.Second))
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = r.server.ServeConn(&oneWay{Conn: theirs, in: bytes.NewReader(raw)})
		}()
		said, err := io.ReadAll(ours)
		if err != nil {
			t.Fatalf("after %q: %v", said, err)
		}
		<-done
		br := bufio.NewReader(bytes.NewReader(said))
		for method := http.MethodGet; ; {
			if _, err := br.Peek(1); err == io.EOF {
				return
			}
			if bytes.HasPrefix(raw, []byte("HEAD ")) || bytes.Contains(raw, []byte("\nHEAD ")) {
				return // which answers have no body is not worth finding out
			}
			resp, err := http.ReadResponse(br, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("%q: %v", said, err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || (resp.StatusCode != 100 && (!json.Valid(body) || resp.Header.Get("X-Corr-ID") == "")) {
				t.Fatalf("%d %q: %v", resp.StatusCode, body, err)
			}
		}
	})
}

// oneWay is a connection whose client has sent all that it will.
type oneWay struct {
	net.Conn
	in io.Reader
}

func (c *oneWay) Read(b []byte) (int, error) { return c.in.Read(b) }
