package apicheck_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"svc-wallet/bench/apicheck"
)

const document = "../../docs/openapi.yaml"

func load(t *testing.T) *apicheck.Checker {
	t.Helper()
	c, err := apicheck.Load(document)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Bodies of answers; the receipt is one of wallet/testdata/receipts.txt.
const (
	receipt  = `{"txid":"tx_01JC3Z5N8W7Y2QG4T6R9S0V1XB","op":"transfer","from":"acc_src","to":"acc_dst","asset":"ron","amount_minor":"250000","nonce":42,"idem":"01JC3Z5N8W7Y2QG4T6R9S0V1K0","ts":"2025-10-16T12:00:00.123Z","receipt_hash":"b3:383b8a98ce912b2cdf4597dc57e27628d113875ce063217e2d736c642aff775c"}`
	balance  = `{"account":"acc_1","asset":"ron","amount_minor":"0","as_of":"2025-10-16T12:00:00.161Z","stale_ms":12,"nonce":0}`
	notFound = `{"code":"NOT_FOUND","http":404,"message":"m","retryable":false,"corr_id":"c"}`
	badReq   = `{"code":"BAD_REQUEST","http":400,"message":"m","retryable":false,"corr_id":"c"}`
	method   = `{"code":"METHOD_NOT_ALLOWED","http":405,"message":"m","retryable":false,"corr_id":"c"}`
	busy     = `{"code":"BUSY","http":429,"message":"m","retryable":true,"corr_id":"c"}`
	rate     = `{"code":"RATE_LIMITED","http":429,"message":"m","retryable":true,"corr_id":"c"}`
	later    = `{"code":"RETRY_LATER","http":503,"message":"m","retryable":true,"corr_id":"c"}`
	unknown  = `{"code":"RETRY_LATER","http":503,"message":"m","retryable":true,"corr_id":"c","details":{"outcome":"unknown"}}`
	nonce    = `{"code":"NONCE_CONFLICT","http":409,"message":"m","retryable":false,"corr_id":"c","details":{"reason":"too_low","next_nonce":18446744073709551615}}`
	ready    = `{"ready":true,"degraded":false,"missing":[],"retry_after":0,"cfg_loaded":true,"listener_bound":true,"ledger_ready":true,"auth_ready":true,"policy_ready":true,"queue_ok":true,"breaker":[{"svc":"ledger","state":"closed"}]}`
	notReady = `{"ready":false,"degraded":true,"missing":["ledger_ready","queue_ok"],"retry_after":1,"cfg_loaded":true,"listener_bound":true,"ledger_ready":false,"auth_ready":true,"policy_ready":true,"queue_ok":false,"breaker":[]}`
)

// headers makes a header from lines "Name: value; Name: value". X-Corr-ID: c, the content type
// and Cache-Control are there unless a line "-Name" takes them away.
func headers(lines string) http.Header {
	h := http.Header{"X-Corr-Id": {"c"}, "Content-Type": {"application/json"}, "Cache-Control": {"no-store"}}
	for line := range strings.SplitSeq(lines, "; ") {
		name, value, _ := strings.Cut(line, ": ")
		if gone, ok := strings.CutPrefix(name, "-"); ok {
			h.Del(gone)
		} else if name != "" {
			h.Set(name, value)
		}
	}
	return h
}

const limited = "Retry-After: 1; X-RateLimit-Limit: 20; X-RateLimit-Remaining: 0; X-RateLimit-Reset: 1"

// TestCheck: the checker passes what the contract allows, and says of everything else what is wrong;
// one answer a row.
func TestCheck(t *testing.T) {
	c := load(t)
	for _, row := range []struct {
		name    string
		request string
		status  int
		header  string
		body    string
		says    string // empty: it passes
	}{
		{"receipt", "POST /v1/transfer", 200, "X-Ledger-Seq: 7", receipt, ""},
		{"replay", "POST /v1/transfer", 200, "X-Ledger-Seq: 7; Idempotency-Replayed: true", receipt, ""},
		{"receipt of GET", "GET /v1/tx/tx_01JC3Z5N8W7Y2QG4T6R9S0V1XB", 200, "X-Ledger-Seq: 7", receipt, ""},
		{"largest nonce", "POST /v1/transfer", 200, "X-Ledger-Seq: 7", strings.Replace(receipt, "42", "18446744073709551615", 1), ""},
		{"balance", "GET /v1/balance?account=acc_1&asset=ron", 200, "X-Ledger-Seq: 7", balance, ""},
		{"content type with charset", "GET /v1/balance", 200, "X-Ledger-Seq: 7; Content-Type: application/json;charset=utf-8", balance, ""},
		{"busy", "POST /v1/burn", 429, "Retry-After: 1", busy, ""},
		{"rate", "GET /v1/balance", 429, limited, rate, ""},
		{"later", "POST /v1/issue", 503, "Retry-After: 1", later, ""},
		{"outcome unknown", "POST /v1/issue", 503, "Retry-After: 1", unknown, ""},
		{"nonce", "POST /v1/issue", 409, "", nonce, ""},
		{"no nonce left", "POST /v1/issue", 409, "", strings.Replace(nonce, `"too_low","next_nonce":18446744073709551615`, `"lane_ended"`, 1), ""},
		{"other path", "GET /v2/x", 404, "", notFound, ""},
		{"other method and path", "PUT /metrics", 404, "", notFound, ""},
		{"ambiguous path", "GET /v1//balance", 400, "", badReq, ""},
		{"other method", "DELETE /v1/transfer", 405, "Allow: POST", method, ""},
		{"other method, ambiguous", "DELETE /v1/transfer", 400, "", badReq, ""},
		{"HEAD", "HEAD /v1/balance", 405, "Allow: GET; Content-Length: 80", "", ""},
		{"ready", "GET /readyz", 200, "", ready, ""},
		{"not ready", "GET /readyz", 503, "Retry-After: 1", notReady, ""},
		{"health", "GET /healthz", 200, "Date: Thu, 16 Oct 2025 12:00:00 GMT; Connection: close", `{"status":"ok"}`, ""},

		{"undocumented status", "POST /v1/transfer", 201, "", receipt, "status 201 is not documented"},
		{"404 where there is none", "POST /v1/transfer", 404, "", notFound, "status 404 is not documented"},
		{"other path answered", "GET /v2/x", 200, "X-Ledger-Seq: 7", balance, "status 200 is not documented"},
		{"other path and 405", "PUT /metrics", 405, "Allow: GET", method, "status 405 is not documented"},
		{"other method answered", "PUT /v1/transfer", 200, "X-Ledger-Seq: 7", receipt, "status 200 is not documented"},
		{"no JSON", "GET /healthz", 200, "", `ok`, "body is no JSON"},
		{"text", "GET /healthz", 200, "Content-Type: text/plain", `ok`, "content type is"},
		{"empty body", "GET /v1/balance", 400, "", "", "body is no JSON"},
		{"trailing data", "GET /v1/balance", 200, "X-Ledger-Seq: 7", balance + "{}", "goes on after"},
		{"extra member", "POST /v1/transfer", 200, "X-Ledger-Seq: 7", strings.Replace(receipt, `"op"`, `"fee":"1","op"`, 1), "additional properties 'fee' not allowed"},
		{"missing member", "POST /v1/transfer", 200, "X-Ledger-Seq: 7", strings.Replace(receipt, `"idem":"01JC3Z5N8W7Y2QG4T6R9S0V1K0",`, "", 1), "missing property 'idem'"},
		{"receipt of another operation", "POST /v1/burn", 200, "X-Ledger-Seq: 7", receipt, "'to' not allowed"},
		{"amount a number", "GET /v1/balance", 200, "X-Ledger-Seq: 7", strings.Replace(balance, `"0"`, `0`, 1), "want string"},
		{"amount with leading zero", "GET /v1/balance", 200, "X-Ledger-Seq: 7", strings.Replace(balance, `"0"`, `"00"`, 1), "pattern"},
		{"as_of in seconds", "GET /v1/balance", 200, "X-Ledger-Seq: 7", strings.Replace(balance, `.161Z`, `Z`, 1), "pattern"},
		{"nonce over u64", "POST /v1/transfer", 200, "X-Ledger-Seq: 7", strings.Replace(receipt, "42", "18446744073709551616", 1), "maximum"},
		{"no X-Corr-ID", "GET /healthz", 200, "-X-Corr-ID", `{"status":"ok"}`, "'X-Corr-ID'"},
		{"no X-Ledger-Seq", "GET /v1/balance", 200, "", balance, "'X-Ledger-Seq'"},
		{"X-Ledger-Seq no number", "GET /v1/balance", 200, "X-Ledger-Seq: seven", balance, "want integer"},
		{"no Retry-After", "POST /v1/burn", 429, "", busy, "'Retry-After'"},
		{"Retry-After zero", "POST /v1/burn", 429, "Retry-After: 0", busy, "minimum"},
		{"no WWW-Authenticate", "GET /v1/balance", 401, "", `{"code":"UNAUTHORIZED","http":401,"message":"m","retryable":false,"corr_id":"c"}`, "'WWW-Authenticate'"},
		{"no Allow", "PUT /v1/balance", 405, "", method, "'Allow'"},
		{"HEAD without Allow", "HEAD /v1/balance", 405, "", "", "'Allow'"},
		{"replayed false", "POST /v1/transfer", 200, "X-Ledger-Seq: 7; Idempotency-Replayed: false", receipt, "'true'"},
		{"undocumented header", "GET /healthz", 200, "Server: fasthttp", `{"status":"ok"}`, "header Server is not documented"},
		{"replay on a read", "GET /v1/balance", 200, "X-Ledger-Seq: 7; Idempotency-Replayed: true", balance, "header Idempotency-Replayed is not documented"},
		{"code of another status", "POST /v1/burn", 429, "Retry-After: 1", later, "value must be 'BUSY'"},
		{"code of another route", "POST /v1/issue", 409, "", strings.NewReplacer("NONCE_CONFLICT", "INSUFFICIENT_FUNDS", `,"details":{"reason":"too_low","next_nonce":18446744073709551615}`, "").Replace(nonce), "NONCE_CONFLICT"},
		{"http of another status", "GET /v2/x", 404, "", strings.Replace(notFound, "404,", "400,", 1), "404"},
		{"retryable but not", "GET /v2/x", 404, "", strings.Replace(notFound, "false", "true", 1), "false"},
		{"conflict with another detail", "POST /v1/issue", 409, "", strings.Replace(nonce, `next_nonce`, "last_nonce", 1), "last_nonce"},
		{"next_nonce zero", "POST /v1/issue", 409, "", strings.Replace(nonce, `18446744073709551615`, "0", 1), "minimum"},
		{"cacheable", "GET /v1/balance", 200, "X-Ledger-Seq: 7; -Cache-Control", balance, "'Cache-Control'"},
		{"outcome of a read", "GET /v1/balance", 503, "Retry-After: 1", unknown, "additional properties 'outcome' not allowed"},
		{"corr_id is another", "GET /v2/x", 404, "X-Corr-ID: d", notFound, `corr_id is "c", X-Corr-ID is "d"`},
		{"rate without X-RateLimit", "GET /v1/balance", 429, "Retry-After: 1", rate, "X-Ratelimit-Limit"},
		{"rate without one of them", "GET /v1/balance", 429, limited + "; -X-RateLimit-Reset", rate, "X-Ratelimit-Reset"},
		{"X-RateLimit without rate", "GET /v1/balance", 429, limited, busy, "X-Ratelimit-Limit"},
		{"ready but missing", "GET /readyz", 200, "", strings.Replace(ready, "[]", `["queue_ok"]`, 1), "maxItems"},
		{"not ready, no reason", "GET /readyz", 503, "Retry-After: 1", strings.Replace(notReady, `"ledger_ready","queue_ok"`, "", 1), "minItems"},
		{"unknown reason", "GET /readyz", 503, "Retry-After: 1", strings.Replace(notReady, `queue_ok`, "moon", 1), "one of"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := c.Check(request(t, row.request), row.status, headers(row.header), []byte(row.body))
			if row.says == "" && err != nil {
				t.Fatal(err)
			}
			if row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says) || strings.Contains(err.Error(), "\n")) {
				t.Fatalf("says %v; want one line with %q", err, row.says)
			}
		})
	}
}

func request(t testing.TB, line string) *http.Request {
	t.Helper()
	method, target, _ := strings.Cut(line, " ")
	req, err := http.NewRequest(method, "https://wallet.internal"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// TestEcho: a fit X-Corr-ID of the request must come back, an unfit one need not.
func TestEcho(t *testing.T) {
	c := load(t)
	for sent, passes := range map[string]bool{"c": true, "mine": false, "not fit": true, strings.Repeat("x", 65): true, "": true} {
		req := request(t, "GET /healthz")
		req.Header.Set("X-Corr-ID", sent)
		if err := c.Check(req, 200, headers(""), []byte(`{"status":"ok"}`)); (err == nil) != passes {
			t.Errorf("sent %q: %v", sent, err)
		}
	}
}

// TestMissing: an answer ends exactly the promise that it shows; a wrong answer, and one to a path
// that is not in the document, end none.
func TestMissing(t *testing.T) {
	c := load(t)
	before := c.Missing()
	for _, want := range []string{
		"GET /v1/balance 200 Balance", "GET /v1/tx/{txid} 200 IssueReceipt", "POST /v1/transfer 200 TransferReceipt",
		"GET /v1/tx/{txid} 404 NOT_FOUND NotFound", "POST /v1/burn 409 NONCE_CONFLICT NonceConflict",
		"POST /v1/burn 409 INSUFFICIENT_FUNDS InsufficientFunds", "POST /v1/issue 503 RETRY_LATER OutcomeUnknown",
		"POST /v1/issue 503 RETRY_LATER RetryLater", "GET /readyz 503 NotReady", "GET /healthz 405 METHOD_NOT_ALLOWED MethodNotAllowed",
	} {
		if !slices.Contains(before, want) {
			t.Errorf("the document does not promise %q", want)
		}
	}
	for _, step := range []struct {
		request string
		status  int
		header  string
		body    string
		ends    string
	}{
		{"GET /v2/x", 404, "", notFound, ""},
		{"GET /v2/x", 400, "", badReq, ""},
		{"POST /v1/issue", 503, "", unknown, ""}, // wrong: no Retry-After
		{"POST /v1/issue", 503, "Retry-After: 1", unknown, "POST /v1/issue 503 RETRY_LATER OutcomeUnknown"},
		{"POST /v1/issue", 503, "Retry-After: 1", later, "POST /v1/issue 503 RETRY_LATER RetryLater"},
		{"POST /v1/issue", 503, "Retry-After: 1", later, ""},
		{"POST /v1/burn", 409, "", nonce, "POST /v1/burn 409 NONCE_CONFLICT NonceConflict"},
		{"GET /v1/tx/tx_01JC3Z5N8W7Y2QG4T6R9S0V1XB", 200, "X-Ledger-Seq: 7", receipt, "GET /v1/tx/{txid} 200 TransferReceipt"},
		{"HEAD /healthz", 405, "Allow: GET", "", ""},
		{"PATCH /healthz", 405, "Allow: GET", method, "GET /healthz 405 METHOD_NOT_ALLOWED MethodNotAllowed"},
	} {
		_ = c.Check(request(t, step.request), step.status, headers(step.header), []byte(step.body))
		after := c.Missing()
		ended := slices.DeleteFunc(before, func(s string) bool { return slices.Contains(after, s) })
		if strings.Join(ended, ", ") != step.ends {
			t.Errorf("%s %d ends %q, want %q", step.request, step.status, ended, step.ends)
		}
		before = after
	}
}

// served is a RoundTripper that answers the same each time.
type served struct {
	status int
	header http.Header
	body   string
	err    error
}

func (s served) RoundTrip(*http.Request) (*http.Response, error) {
	if s.err != nil {
		return nil, s.err
	}
	return &http.Response{StatusCode: s.status, Header: maps.Clone(s.header), Body: io.NopCloser(strings.NewReader(s.body))}, nil
}

// TestTransport: the transport passes the answer on unchanged and calls fail for a wrong or oversized
// one, and for nothing else.
func TestTransport(t *testing.T) {
	c := load(t)
	down := errors.New("down")
	for _, row := range []struct {
		name string
		next served
		says string
	}{
		{"right", served{200, headers("X-Ledger-Seq: 7"), balance, nil}, ""},
		{"wrong", served{200, headers(""), balance, nil}, "'X-Ledger-Seq'"},
		{"oversized", served{200, headers(""), strings.Repeat(" ", 2<<20), nil}, "over 1 MiB"},
		{"no answer", served{err: down}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			var failed []string
			rt := c.Transport(row.next, func(err error) { failed = append(failed, err.Error()) })
			res, err := rt.RoundTrip(request(t, "GET /v1/balance?account=acc_1&asset=ron"))
			if !errors.Is(err, row.next.err) {
				t.Fatal(err)
			}
			if err == nil {
				body, err := io.ReadAll(res.Body)
				if err != nil || string(body) != row.next.body || res.Body.Close() != nil {
					t.Errorf("passes on %d bytes, %v", len(body), err)
				}
			}
			if got := strings.Join(failed, "\n"); (row.says == "") != (got == "") || !strings.Contains(got, row.says) || len(failed) > 1 {
				t.Errorf("fails with %q, want %q", got, row.says)
			}
		})
	}
}

// TestConcurrent: many goroutines may check and ask at once; run with -race.
func TestConcurrent(t *testing.T) {
	c := load(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				req := request(t, fmt.Sprintf("GET /v1/balance?account=acc_%d&asset=ron", i))
				if err := c.Check(req, 200, headers("X-Ledger-Seq: 7"), []byte(balance)); err != nil {
					t.Error(err)
				}
				if slices.Contains(c.Missing(), "GET /v1/balance 200 Balance") {
					t.Error("checked but missing")
				}
			}
		})
	}
	wg.Wait()
}

// TestLoadRefuses: a document that is absent, no YAML, no OpenAPI, or that the checker could not use
// in full is refused with the reason.
func TestLoadRefuses(t *testing.T) {
	if _, err := apicheck.Load(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	const head = "openapi: 3.1.0\ninfo: {title: t, version: v}\n"
	for name, doc := range map[string]string{
		"no YAML":        "{",
		"no OpenAPI":     "a: b",
		"invalid":        "openapi: 3.1.0\ninfo: {title: t}\npaths: {}\n",
		"broken ref":     head + "paths: {/a: {get: {responses: {'200': {$ref: '#/components/responses/None'}}}}}\n",
		"no such member": head + "paths: {}\nwebhook: {}\n",
		"wrong example":  head + "paths: {/a: {get: {parameters: [{name: n, in: query, schema: {type: integer}, example: one}], responses: {'200': {description: d, content: {application/json: {schema: {type: object}}}}}}}}\n",
		"wrong schema":   head + "paths: {/a: {get: {responses: {'200': {description: d, content: {application/json: {schema: {type: objekt}}}}}}}}\n",
		"status range":   head + "paths: {/a: {get: {responses: {2XX: {description: d}}}}}\n",
		"no JSON schema": head + "paths: {/a: {get: {responses: {'200': {description: d, content: {text/plain: {}}}}}}}\n",
	} {
		path := filepath.Join(t.TempDir(), "doc.yaml")
		if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := apicheck.Load(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
