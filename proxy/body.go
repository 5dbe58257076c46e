package proxy

import (
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"svc-wallet/wallet"
)

// Memory of bodies. fasthttp would allocate a declared length before a byte of it has come in, and
// read a body before anything looks at its head; so it is not told of bodies, and they are read
// here, when the head has passed (docs/decisions/026-bodies-are-read-after-their-heads.md).
const (
	// roomBytes is what a connection reads at once of a body that did not come in with its head.
	roomBytes = 8 << 10

	// bodyKeep is the largest buffer that a visit keeps, and has without asking the budget: a payment
	// has some 200 bytes, so one is never refused because others send large bodies.
	bodyKeep = 4 << 10

	// bodyTrust is how much of a body must have come in before what it declares is believed. To double
	// the buffer up to 1 MiB costs as much as receiving so much, and then half of it again.
	bodyTrust = 64 << 10

	// skipMost is how much of a body is read and thrown away after a refusal, so that the connection
	// can stay. The answer does not wait for it.
	skipMost = 64 << 10
)

var (
	errHead     = errors.New("the head has ended")
	errTLSBytes = errors.New("more of TLS than a handshake or a record has")
	errFrames   = errors.New("a body that was skipped is not well-formed chunks")
)

// budget bounds the memory of all bodies that are larger than bodyKeep.
type budget struct {
	most int64
	used atomic.Int64
}

func (b *budget) take(n int) bool {
	if b.used.Add(int64(n)) > b.most {
		b.give(n)
		return false
	}
	return true
}

func (b *budget) give(n int) { b.used.Add(-int64(n)) }

// body is what is still to come of the body of the request under way. The zero value is none.
type body struct {
	left    int // of a declared length
	chunked bool
	chunks  chunks
	skipped int
}

// whole says that nothing is to come.
func (b *body) whole() bool {
	if b.chunked {
		return b.chunks.at == chunksDone
	}
	return b.left == 0
}

// next returns how many bytes of in it used, and those of them that are the content.
func (b *body) next(in []byte) (used int, data []byte) {
	if b.chunked {
		return b.chunks.next(in)
	}
	n := min(b.left, len(in))
	b.left -= n
	return n, in[:n]
}

// expected is how much content is sure to come.
func (b *body) expected() uint64 {
	if b.chunked {
		return b.chunks.expected()
	}
	return uint64(b.left) //nolint:gosec // not negative
}

// declare begins a body. Its length was held against the grammar by fasthttp.
func (b *body) declare(length, transfer []byte) {
	*b = body{}
	switch {
	case transfer != nil:
		b.chunked = true
	case length != nil:
		b.left, _ = strconv.Atoi(string(length))
	}
}

// skippable says that the connection can go on to its next request although some of this one's body
// is still to come. A client that waits for 100 Continue may never send it.
func (v *visit) skippable() bool {
	b := &v.conn.body
	return b.whole() || (b.expected() <= skipMost && b.chunks.at != chunksBad && v.header.values[hExpect] == nil && !v.cut)
}

// skipBody throws away what a refused request has left of its body.
func (c *conn) skipBody() error {
	for !c.body.whole() {
		used, _ := c.body.next(c.ahead)
		c.ahead = c.ahead[used:]
		if c.body.skipped += used; c.body.chunks.at == chunksBad || c.body.skipped > 2*skipMost {
			c.linger = true
			return errFrames
		}
		if len(c.ahead) == 0 && !c.body.whole() {
			c.phase.CompareAndSwap(busy, idle)
			if err := c.refill(); err != nil {
				return err
			}
		}
	}
	return nil
}

// arrived returns what has come in of a body and was not taken yet, in the memory that it came in.
func (c *conn) arrived() []byte {
	content := c.ahead[:0]
	for len(c.ahead) > 0 && !c.body.whole() && c.body.chunks.at != chunksBad {
		used, data := c.body.next(c.ahead)
		c.ahead = c.ahead[used:]
		content = append(content, data...) // never over what is still to be read: it shrinks
	}
	return content
}

// isOver says that the body is sure to exceed so many bytes.
func (v *visit) isOver(most int) bool {
	left := most - len(v.Body)
	return left < 0 || v.conn.body.expected() > uint64(left)
}

// fetch waits until the body has come in, no longer than read_timeout from the request's first byte.
func (v *visit) fetch() wallet.Code {
	for came := v.Body; ; came = v.conn.arrived() {
		if v.conn.body.chunks.at == chunksBad {
			return v.Refuse(wallet.BadRequest, doubtChunks)
		}
		if code := v.keep(came); code != wallet.Pass || v.conn.body.whole() {
			return code
		}
		if code := v.wait(); code != wallet.Pass {
			return code
		}
	}
}

// keep adds data to what there is of the body. Memory grows with what has come in, not with what
// was declared.
func (v *visit) keep(data []byte) wallet.Code {
	if size := len(v.room) + len(data); size > cap(v.room) && !v.grow(size) {
		v.server.metrics.bodyRefused()
		return v.Refuse(wallet.Busy, "the memory for request bodies is in use; nothing was done")
	}
	v.room = append(v.room, data...)
	if v.Body = v.room; v.isOver(v.Limits.MaxBodyBytes) {
		return wallet.BodyTooLarge
	}
	return wallet.Pass
}

// grow makes room for size bytes; false where the budget has none.
func (v *visit) grow(size int) bool {
	room := max(size, min(2*cap(v.room), v.Limits.MaxBodyBytes), bodyKeep)
	if cap(v.room) >= bodyTrust {
		room = max(room, size+int(min(v.conn.body.expected(), uint64(max(v.Limits.MaxBodyBytes-size, 0))))) //nolint:gosec // below the cap
	}
	if room > bodyKeep && !v.server.bodies.take(room) {
		return false
	}
	larger := append(make([]byte, 0, room), v.room...)
	v.giveBack()
	v.room = larger
	return true
}

// giveBack lets go of a buffer that the budget counts.
func (v *visit) giveBack() {
	if cap(v.room) > bodyKeep {
		v.server.bodies.give(cap(v.room))
		v.room = nil
	}
}

// wait waits for more of the body.
func (v *visit) wait() wallet.Code {
	err := v.invite()
	if err == nil {
		err = v.conn.refill()
	}
	if err == nil {
		return wallet.Pass
	}
	v.cut = true
	if isTimeout(err) {
		return wallet.RequestTimeout
	}
	return v.Refuse(wallet.BadRequest, "the body ended early")
}

// invite tells a client that waits for it to send its body (RFC 9110 §10.1.1). HTTP/1.0 does not
// know that.
func (v *visit) invite() error {
	if v.header.values[hExpect] == nil || v.header.old || v.invited {
		return nil
	}
	v.invited = true
	v.allowWrite()
	_, err := io.WriteString(v.conn, "HTTP/1.1 100 Continue\r\n\r\n")
	return err
}

// allowWrite starts the write time-out. fasthttp does so only for the answers of its Handler: an
// error answer and a 100 Continue go out under the deadline of the answer before, or of the
// handshake, and are lost where that has passed (TestLateAnswers).
func (v *visit) allowWrite() {
	_ = v.conn.SetWriteDeadline(time.Now().Add(v.server.http.WriteTimeout)) //nolint:forbidigo // the runtime holds deadlines against its own clock
}
