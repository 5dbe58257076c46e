package proxy_test

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"

	"svc-wallet/config"
	"svc-wallet/proxy"
)

// discard is a connection that nobody reads.
type discard struct{ net.Conn }

func (discard) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (discard) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }

func (r *rig) readRequest() string {
	return "GET /v1/balance?account=rich&asset=ron HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAuthorization: Bearer " + r.token + "\r\n\r\n"
}

// TestReadAllocations serves a cached balance through the whole handler, parsing, filters, cache,
// metrics and the disabled log included, and counts its allocations: there must be none.
func TestReadAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_LOG_SAMPLE_READS=0"}})
	r.log.SetLevel(logrus.InfoLevel)
	r.issueTo(r.client(), "rich", 7)
	serve, ctx := r.server.Handler(r.readRequest(), discard{})
	serve()
	if n := testing.AllocsPerRun(2000, serve); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if body := ctx.Response.Body(); ctx.Response.StatusCode() != 200 || !bytes.Contains(body, []byte(`"amount_minor":"7"`)) {
		t.Errorf("%d %s", ctx.Response.StatusCode(), body)
	}
}

// everything is a push with as many overrides as there may be, none of them for this holder but by
// its route, and with every limit that a read passes as a shadow limit. Each of these refuses.
func everything() string {
	var b strings.Builder
	b.WriteString(`{"subject_rate_per_second":1000000,"subject_burst":1000000,"reads_enabled":true,
		"shadow":{"rate_per_second":1,"rate_burst":1,"subject_rate_per_second":1,"subject_burst":1,"inflight":1,
			"max_body_bytes":256,"revoked_tokens":["t1"],"revoked_keys":["k1"]},
		"overrides":[{"route":"issue","rate_per_second":1,"rate_burst":1}`)
	for i := range 4095 {
		switch i % 16 {
		case 0:
			fmt.Fprintf(&b, `,{"account":"team%d_*","max_amount_per_op":"1"}`, i)
		default:
			fmt.Fprintf(&b, `,{"token":"token%d","subject_rate_per_second":5,"subject_burst":5}`, i)
		}
	}
	return b.String() + `]}`
}

// TestReadAllocationsUnderPush serves the same balance with switches, 4,096 overrides and shadow
// limits: there must be no allocation either.
func TestReadAllocationsUnderPush(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_LOG_SAMPLE_READS=0"}})
	r.log.SetLevel(logrus.InfoLevel)
	r.issueTo(r.client(), "rich", 7)
	r.pushText(everything())
	serve, ctx := r.server.Handler(r.readRequest(), discard{})
	serve()
	if n := testing.AllocsPerRun(2000, serve); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if ctx.Response.StatusCode() != 200 {
		t.Errorf("%d %s", ctx.Response.StatusCode(), ctx.Response.Body())
	}
	counted := r.shadows()
	for _, limit := range []string{"rate_per_second", "subject_rate_per_second", "revoked_tokens", "revoked_keys"} {
		if n, err := strconv.Atoi(counted[limit]); err != nil || n < 2000 {
			t.Errorf("%s is counted %s times", limit, counted[limit])
		}
	}
}

// pushText puts a push in force.
func (r *rig) pushText(text string) {
	r.t.Helper()
	p, err := config.ParsePush([]byte(text))
	if err != nil {
		r.t.Fatal(err)
	}
	r.push(p, 1)
}

// BenchmarkRead is a cached balance through the whole handler, without TLS and sockets.
func BenchmarkRead(b *testing.B) {
	benchmarkRead(b, `{}`)
}

// BenchmarkReadUnderPush is the same with everything pushed.
func BenchmarkReadUnderPush(b *testing.B) {
	benchmarkRead(b, everything())
}

func benchmarkRead(b *testing.B, push string) {
	r := newRig(b, rigOptions{env: []string{
		"SVC_WALLET_LOG_SAMPLE_READS=0",
		"SVC_WALLET_LIMITS_RATE_PER_SECOND=1000000000", "SVC_WALLET_CEILINGS_RATE_PER_SECOND=1000000000",
		"SVC_WALLET_LIMITS_RATE_BURST=1000000000", "SVC_WALLET_CEILINGS_RATE_BURST=1000000000",
	}})
	r.log.SetLevel(logrus.InfoLevel)
	r.issueTo(r.client(), "rich", 7)
	r.pushText(push)
	serve, ctx := r.server.Handler(r.readRequest(), discard{})
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
	if ctx.Response.StatusCode() != 200 {
		b.Fatalf("%d %s", ctx.Response.StatusCode(), ctx.Response.Body())
	}
}

// TestNothingRetained serves requests whose bytes are overwritten as soon as their handler has
// returned, many at once, and checks that no answer, replay or stored receipt changed by it.
func TestNothingRetained(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "rich", 1000)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := strings.Repeat(string(rune('a'+i)), 8)
			body := `{"from":"rich","to":"` + name + `","asset":"ron","amount_minor":"1","nonce":` + strconv.Itoa(i+1) + `}`
			raw := "POST /v1/transfer HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + r.token +
				"\r\nContent-Type: application/json\r\nIdempotency-Key: " + name + "\r\nX-Corr-ID: " + name + "\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body
			serve, ctx := r.server.Handler(raw, discard{})
			var first []byte
			for range 20 {
				serve()
				status, reply := ctx.Response.StatusCode(), bytes.Clone(ctx.Response.Body())
				if status == 409 { // a higher nonce overtook this one: nothing to replay
					return
				}
				if status != 200 || (first != nil && !bytes.Equal(first, reply)) || !bytes.Contains(reply, []byte(name)) {
					t.Errorf("%s: %d %s, at first %s", name, status, reply, first)
					return
				}
				first = reply
				mangle(proxy.Input(ctx))
				mangle(ctx.Request.Header.RawHeaders())
				mangle(ctx.Request.Header.RequestURI())
				mangle(ctx.Response.Body())
			}
			b := r.call(c, "GET", "/v1/balance?account="+name+"&asset=ron", "")
			if !bytes.Contains(b.body, []byte(`"amount_minor":"1"`)) {
				t.Errorf("%s: %s", name, b.body)
			}
		})
	}
	wg.Wait()
}

func mangle(b []byte) {
	for i := range b {
		b[i] = '#'
	}
}
