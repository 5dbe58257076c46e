package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"svc-wallet/bench/rig"
)

// patience is how long a client waits for an answer: longer than the sidecar does.
const patience = 15 * time.Second

// client is one connection, with one request at a time.
type client struct {
	rig  *rig.Rig
	pool *pool
	conn *tls.Conn
	in   *bufio.Reader
	out  []byte
	res  fasthttp.Response
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// send sends a request and returns the status of its answer, whose body lives until the next. An error says
// that there was none.
func (c *client) send(ctx context.Context, request []byte) (status int, body []byte, err error) {
	if c.conn == nil {
		conn, err := (&tls.Dialer{Config: c.rig.TLS}).DialContext(ctx, "tcp", c.rig.Addr)
		if err != nil {
			return 0, nil, err
		}
		c.conn, c.in = conn.(*tls.Conn), bufio.NewReaderSize(conn, 4<<10) //nolint:forcetypeassert // what a tls.Dialer dials
	}
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return 0, nil, err
	}
	_, werr := c.conn.Write(request) // a server that refuses may have answered already
	c.res.Reset()
	if err := c.res.ReadLimitBody(c.in, 1<<20); err != nil {
		c.close()
		return 0, nil, errors.Join(err, werr)
	}
	if c.res.ConnectionClose() || werr != nil {
		c.close()
	}
	return c.res.StatusCode(), c.res.Body(), nil
}

func (c *client) head(method, path string) []byte {
	c.out = append(c.out[:0], method...)
	c.out = append(append(c.out, ' '), path...)
	c.out = append(c.out, " HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer "...)
	return append(append(c.out, c.rig.Token...), '\r', '\n')
}

func (c *client) get(path string) []byte {
	c.out = append(c.head("GET", path), '\r', '\n')
	return c.out
}

func (c *client) post(m *payment) []byte {
	b := append(c.head("POST", m.path), "Content-Type: application/json\r\nIdempotency-Key: "...)
	b = append(b, m.key...)
	if m.gzip {
		b = append(b, "\r\nContent-Encoding: gzip"...)
	}
	b = append(b, "\r\nContent-Length: "...)
	b = append(strconv.AppendInt(b, int64(len(m.body)), 10), "\r\n\r\n"...)
	c.out = append(b, m.body...)
	return c.out
}

// do sends a request of a kind, and says how it ended: a status, or 0 where there was no answer.
func (c *client) do(ctx context.Context, k kind) (status int, err error) {
	switch k {
	case balance:
		status, _, err = c.send(ctx, c.get("/v1/balance?asset=ron&account="+c.pool.any().name))
	case tx:
		status, _, err = c.send(ctx, c.get("/v1/tx/"+c.pool.txid()))
	case oversized:
		status, _, err = c.send(ctx, c.post(&payment{path: "/v1/transfer", key: "oversized", body: tooLarge}))
	case replay:
		m := c.pool.again()
		status, _, err = c.send(ctx, c.post(&m))
	default:
		a := c.pool.hold()
		defer a.held.Unlock()
		status, err = c.pay(ctx, c.pool.next(k, a))
	}
	return status, err
}

// pay sends a payment and notes what became of it.
func (c *client) pay(ctx context.Context, m payment) (status int, err error) {
	status, body, err := c.send(ctx, c.post(&m))
	switch {
	case status == http.StatusOK:
		txid, ok := txidOf(body)
		if !ok {
			return status, fmt.Errorf("a receipt without a txid: %s", body)
		}
		c.pool.made(&m, txid)
	case err != nil, status >= 500: // it may have been made
		c.pool.lost(m)
	}
	return status, err
}

// settle sends the payments whose outcome is unknown again, each under its key, until it is known.
func (c *client) settle(ctx context.Context) error {
	for n := range c.pool.open {
		for {
			status, err := c.pay(ctx, c.pool.open[n])
			if err == nil && status < 500 && status != http.StatusTooManyRequests {
				break
			}
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

// txidOf finds a receipt's first member.
func txidOf(body []byte) (string, bool) {
	const name = `{"txid":"`
	if !bytes.HasPrefix(body, []byte(name)) {
		return "", false
	}
	id, _, ok := bytes.Cut(body[len(name):], []byte(`"`))
	return string(id), ok
}

// tooLarge is a byte over limits.max_body_bytes.
var tooLarge = bytes.Repeat([]byte(" "), 1<<20+1) //nolint:gochecknoglobals // a constant

// inflated is a body with so many spaces before it that it becomes nine times as long as it is compressed; the
// cap is ten.
func inflated(body []byte) []byte {
	z := deflaters.Get().(*gzip.Writer) //nolint:forcetypeassert // the pool's only type
	defer deflaters.Put(z)
	padded := func(length int) []byte {
		return append(bytes.Repeat([]byte(" "), length-len(body)), body...)
	}
	short := deflated(z, padded(8*len(body)))
	return deflated(z, padded(9*len(short)))
}

var deflaters = sync.Pool{New: func() any { return gzip.NewWriter(nil) }} //nolint:gochecknoglobals // memory to use again

func deflated(z *gzip.Writer, text []byte) []byte {
	var out bytes.Buffer
	z.Reset(&out)
	_, _ = z.Write(text) // to memory
	_ = z.Close()
	return out.Bytes()
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
