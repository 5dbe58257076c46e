package apicheck

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxBody is the most of a body that is read: a wallet answer has a few hundred bytes.
const maxBody = 1 << 20

// Transport checks every answer that next brings, and calls fail with what is wrong; fail may be
// called from several goroutines. The answer is passed on as it is. A body that is over 1 MiB, or
// breaks off, is wrong; the caller meets the same end of it.
func (c *Checker) Transport(next http.RoundTripper, fail func(error)) http.RoundTripper {
	return &checking{checker: c, next: next, fail: fail}
}

type checking struct {
	checker *Checker
	next    http.RoundTripper
	fail    func(error)
}

// RoundTrip implements http.RoundTripper.
func (t *checking) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = errors.New("body is over 1 MiB")
	}
	if err != nil {
		err = fmt.Errorf("apicheck: %s %s: %d: %w", req.Method, req.URL.Path, res.StatusCode, err)
	} else {
		err = t.checker.Check(req, res.StatusCode, res.Header, body)
	}
	if err != nil {
		t.fail(err)
	}
	res.Body = &replayed{Reader: io.MultiReader(bytes.NewReader(body), res.Body), Closer: res.Body}
	return res, nil
}

// replayed is a body whose beginning was read before.
type replayed struct {
	io.Reader
	io.Closer
}
