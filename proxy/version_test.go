package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// The two versions of the limits that these tests push alternately. A payment of 50 by issue is
// over the cap of the first (403) and switched off by the second (503): only one that is judged
// by the switch of the first and the cap of the second goes through.
const (
	versionA = `{"issue_enabled":true,"max_amount_per_op":"10"}`
	versionB = `{"issue_enabled":false,"max_amount_per_op":"1000"}`
)

// pushes parses both.
func (r *rig) pushes() (both [2]*config.Patch) {
	r.t.Helper()
	for i, text := range []string{versionA, versionB} {
		p, err := config.ParsePush([]byte(text))
		if err != nil {
			r.t.Fatal(err)
		}
		both[i] = p
	}
	return both
}

func (r *rig) push(p *config.Patch, version int) {
	r.t.Helper()
	if err := r.stack.Set(config.LayerLimits, p, config.Origin{Resource: "limits test", Version: fmt.Sprint(version)}); err != nil {
		r.t.Error(err)
	}
}

func issueRaw(r *rig) string {
	body := `{"to":"rich","asset":"ron","amount_minor":"50","nonce":1}`
	return "POST /v1/issue HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + r.token + "\r\nContent-Type: application/json\r\n" +
		fmt.Sprintf("Idempotency-Key: k\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// TestOneVersion: a request is judged by the version that it began under, though another one is
// pushed before and after each filter. Method: the other version is pushed in every gap of the chain.
func TestOneVersion(t *testing.T) {
	r := newRig(t, rigOptions{})
	both := r.pushes()
	begun, pushed := 0, 0
	r.server.Between("/v1/issue", func() {
		pushed++
		r.push(both[1-begun], pushed)
	})
	serve, ctx := r.server.Handler(issueRaw(r), discard{})
	for i, want := range []int{403, 503, 403, 503} {
		begun, pushed = i%2, 0
		r.push(both[begun], 0)
		serve()
		if got := ctx.Response.StatusCode(); got != want {
			t.Errorf("begun under version %c: %d %s, wanted %d", 'A'+rune(begun), got, ctx.Response.Body(), want)
		}
		if pushed < 2 {
			t.Errorf("only %d pushes while the request was served", pushed)
		}
	}
}

// TestVersionsUnderLoad: while two versions are pushed alternately, each request gets an answer that
// one of them gives, and both are seen; nothing else goes wrong. Method: requests over TLS and
// without it, as many as come in during 1,000 pushes.
func TestVersionsUnderLoad(t *testing.T) {
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_LIMITS_RATE_PER_SECOND=1000000", "SVC_WALLET_LIMITS_RATE_BURST=1000000"}})
	both := r.pushes()
	r.push(both[0], 0)
	var (
		seen [2]atomic.Int64
		stop atomic.Bool
		wg   sync.WaitGroup
	)
	judge := func(status int, body []byte) {
		switch status {
		case 403:
			seen[0].Add(1)
		case 503:
			seen[1].Add(1)
		default:
			t.Errorf("no version answers %d %s", status, body)
		}
	}
	raw := issueRaw(r)
	for range 2 {
		serve, ctx := r.server.Handler(raw, discard{})
		wg.Go(func() {
			for !stop.Load() {
				serve()
				judge(ctx.Response.StatusCode(), ctx.Response.Body())
			}
		})
		c := r.client()
		wg.Go(func() {
			for !stop.Load() {
				a, err := r.try(c, http.MethodPost, "/v1/issue", `{"to":"rich","asset":"ron","amount_minor":"50","nonce":1}`)
				if err != nil {
					t.Error(err)
					return
				}
				judge(a.status, a.body)
			}
		})
	}
	for n := 1; n <= 1000 || seen[0].Load() < 100 || seen[1].Load() < 100; n++ {
		r.push(both[n%2], n)
		if n > 1_000_000 {
			t.Errorf("the versions were seen %d and %d times", seen[0].Load(), seen[1].Load())
			break
		}
	}
	stop.Store(true)
	wg.Wait()
}

// TestPushBetweenHeadAndBody: limits that are pushed after a head was accepted and before its body
// came judge the whole request. Method: a client that waits for 100 Continue, and a push before it
// goes on.
func TestPushBetweenHeadAndBody(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.issueTo(r.client(), "rich", 1000)
	for i, tc := range []struct {
		name   string
		push   func(*config.Limits)
		status int
	}{
		{"nothing", func(*config.Limits) {}, 200},
		{"a smaller body", func(l *config.Limits) { l.MaxBodyBytes = 10 }, 413},
		{"no payments", func(l *config.Limits) { l.WritesEnabled = 0 }, 503},
		{"a smaller amount", func(l *config.Limits) { l.MaxAmountPerOp = wallet.Minor(1) }, 403},
		{"a larger body", func(l *config.Limits) { l.MaxBodyBytes *= 2 }, 200},
	} {
		r.limit(func(*config.Limits) {})
		body := r.transfer("rich", "x", 2, uint64(i+1))
		conn := r.dial()
		br := bufio.NewReader(conn)
		_, _ = fmt.Fprintf(conn, "POST /v1/transfer HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nIdempotency-Key: k%d\r\n"+
			"Expect: 100-continue\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", r.token, i, len(body))
		if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 100 {
			t.Fatalf("%v %v, want 100", resp, err)
		}
		r.limit(tc.push)
		_, _ = io.WriteString(conn, body)
		if a := r.receive(br, http.MethodPost); a.status != tc.status {
			t.Errorf("%s: %d %s, want %d", tc.name, a.status, a.body, tc.status)
		}
	}
}
