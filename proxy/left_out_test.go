package proxy

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"svc-wallet/filters"
	"svc-wallet/wallet"
)

// TestRefusedPaymentsDoNotFloodTheLog: whoever sends them, refused payments have so many lines a second
// and no more, a line tells of the rest, and a payment whose outcome is unknown always has its line.
// Method: the levels of many requests within one second and of some in the next, by an injected clock.
func TestRefusedPaymentsDoNotFloodTheLog(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	l := &requestLog{log: log}
	payment := func(g *filters.Grant, code wallet.Code) *visit {
		v := &visit{code: code}
		v.Op, v.Grant = wallet.Transfer, g
		return v
	}
	read := func(code wallet.Code) *visit {
		v := payment(&filters.Grant{}, code)
		v.Op = wallet.Read
		return v
	}
	infos := func(v *visit, now int64) (n int) {
		for range 1000 {
			if l.level(v, now) == logrus.InfoLevel {
				n++
			}
		}
		return n
	}
	const second = int64(1e9)
	for name, tc := range map[string]struct {
		v    *visit
		want int
	}{
		"a client":   {payment(&filters.Grant{}, wallet.Forbidden), clientsPerSecond},
		"a stranger": {payment(nil, wallet.Unauthorized), strangersPerSecond},
		"unknown":    {payment(&filters.Grant{}, wallet.Uncertain), 1000},
		"applied":    {payment(&filters.Grant{}, wallet.OK), 0},
		"a read":     {read(wallet.NotFound), 0},
	} {
		if got := infos(tc.v, 5*second); got != tc.want {
			t.Errorf("%s: %d lines in a second, want %d", name, got, tc.want)
		}
		if got := infos(tc.v, 6*second-1); got != 0 && tc.want < 1000 {
			t.Errorf("%s: %d more lines in the same second", name, got)
		}
	}
	if l.tellLeftOut(6*second - 1); out.Len() > 0 {
		t.Errorf("told in the same second: %s", &out)
	}
	l.tellLeftOut(6 * second)
	l.tellLeftOut(6 * second)
	if text := out.String(); strings.Count(text, "request_lines_left_out") != 1 || !strings.Contains(text, "clients=1900") || !strings.Contains(text, "strangers=1980") {
		t.Errorf("told: %s", text)
	}
	if got := infos(payment(&filters.Grant{}, wallet.Busy), 7*second); got != clientsPerSecond {
		t.Errorf("%d lines in the next second", got)
	}
	if got := infos(read(wallet.UpstreamUnavailable), 8*second); got != clientsPerSecond {
		t.Errorf("%d lines of reads that failed", got)
	}
}

// TestReasonOfARefusal: the line of a refused request says what the answer to the client leaves out: the
// stage of authentication, the rule that the request broke, or why the ledger is away.
func TestReasonOfARefusal(t *testing.T) {
	l := &requestLog{away: func() string { return "no socket" }, fault: func() string { return "" }}
	line := func(code wallet.Code, stage, detail string) string {
		v := &visit{code: code}
		v.Stage, v.Detail = stage, detail
		return l.reason(v)
	}
	for want, got := range map[string]string{
		"insufficient_funds":                        line(wallet.InsufficientFunds, "", ""),
		"unauthorized: signature":                   line(wallet.Unauthorized, "signature", "the token does not verify"),
		"rate_limited: expired":                     line(wallet.RateLimited, "expired", "too many"),
		"bad_request: nonce is missing":             line(wallet.BadRequest, "", "nonce is missing"),
		"retry_later: no socket":                    line(wallet.RetryLater, "", "the ledger is away"),
		"upstream_unavailable: the breaker is open": line(wallet.UpstreamUnavailable, "", "the breaker is open"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// TestEdgeLogFormats: what fasthttp logs is told with its arguments, without what an error quotes of a
// request, and within a bound. Method: a line as fasthttp writes them.
func TestEdgeLogFormats(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	log.SetLevel(logrus.DebugLevel)
	addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7}
	edgeLog{log}.Printf("error when serving connection %q<->%q: %v", addr, addr, errors.New(`invalid header value "Bearer secret"`))
	edgeLog{log}.Printf("because %d connections: %v", 3, errors.New(strings.Repeat("x", 10*edgeArg)))
	text := out.String()
	for _, want := range []string{"error when serving connection 127.0.0.1:7<->127.0.0.1:7: invalid header value", "because 3 connections: x"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
	if strings.Contains(text, "secret") || strings.Contains(text, "%") || strings.Contains(text, strings.Repeat("x", edgeArg+1)) {
		t.Errorf("logged: %s", text)
	}
}
