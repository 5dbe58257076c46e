package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"svc-wallet/bench/rig"
)

// busyPause is how long a client waits where it is told to come back later.
const busyPause = 10 * time.Millisecond

// tally counts what all clients did.
type tally struct{ requests, bytes, dials atomic.Uint64 }

// client sends one request after another, over one connection while the other side keeps it.
type client struct {
	rig    *rig.Rig
	tally  *tally
	number int
	sent   int
	conn   net.Conn
	in     *bufio.Reader
}

// counted counts the bytes that go to the other side.
type counted struct {
	net.Conn
	bytes *atomic.Uint64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.Add(uint64(n)) //nolint:gosec // not negative
	return n, err
}

// do sends a request of a kind and reads its answer.
func (c *client) do(ctx context.Context, k *kind) error {
	if c.conn == nil {
		if err := c.dial(ctx); err != nil {
			return err
		}
	}
	c.sent++
	if k.request == nil {
		c.close()
		c.tally.requests.Add(1)
		return nil
	}
	// The answer may come before the body is sent, and the connection may close.
	_, sending := c.conn.Write(k.request(c.number, c.sent))
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return fmt.Errorf("request %d was not answered: %w", c.sent, errors.Join(err, sending))
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.Close || sending != nil {
		c.close()
	}
	if res.StatusCode == http.StatusServiceUnavailable { // on a machine so busy that the ledger looks stalled
		pause(ctx, busyPause)
		return ctx.Err()
	}
	if (res.StatusCode != http.StatusOK) != k.refused {
		return fmt.Errorf("request %d was answered %d %s", c.sent, res.StatusCode, body)
	}
	if k.status != 0 && res.StatusCode != k.status {
		return fmt.Errorf("request %d was answered %d, not %d: %s", c.sent, res.StatusCode, k.status, body)
	}
	c.tally.requests.Add(1)
	return nil
}

func (c *client) dial(ctx context.Context) error {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.rig.Addr)
	if err != nil {
		return err
	}
	cfg := c.rig.TLS.Clone()
	cfg.ServerName = "127.0.0.1"
	var hello atomic.Uint64
	under := &counted{raw, &hello}
	conn := tls.Client(under, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return err
	}
	under.bytes = &c.tally.bytes
	c.tally.dials.Add(1)
	c.conn, c.in = conn, bufio.NewReader(conn)
	return nil
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
