package proxy

import (
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
	"github.com/valyala/fasthttp"

	"svc-wallet/filters"
	"svc-wallet/wallet"
)

// readyRetryAfter is Retry-After of what passes by itself, in seconds: a queue, a stall, a
// sidecar that is replaced.
const readyRetryAfter = 1

// setHeader writes a name as it stands; fasthttp's Set would spell X-Corr-Id.
func setHeader(h *fasthttp.ResponseHeader, name, value string) {
	h.SetCanonical([]byte(name), []byte(value))
}

// encode writes the answer. Nothing of v is referred to afterwards: fasthttp copies.
func (s *Server) encode(ctx *fasthttp.RequestCtx, v *visit, code wallet.Code) {
	h := &ctx.Response.Header
	ctx.SetStatusCode(code.HTTP())
	h.SetContentType("application/json")
	setHeader(h, "Cache-Control", "no-store")
	var buf [64]byte
	h.SetCanonical([]byte("X-Corr-ID"), v.Origin.Corr.Append(buf[:0]))
	if s.draining.Load() {
		ctx.SetConnectionClose()
	}
	if code.Outcome() == wallet.Applied {
		s.encodeOK(h, v, code)
	} else {
		s.explain(v, code)
		encodeRefusal(h, v, code)
	}
	ctx.Response.SetBody(v.Reply)
}

func (s *Server) encodeOK(h *fasthttp.ResponseHeader, v *visit, code wallet.Code) {
	if v.route.Route == wallet.RouteBalance {
		v.Reply = appendBalance(v.Reply[:0], &v.Figure, v.AsOf+v.Skew, s.deps.Now()+v.Skew)
	}
	if v.Op != wallet.NoOp {
		setUint(h, "X-Ledger-Seq", v.Seq)
	}
	if code == wallet.Replayed {
		setHeader(h, "Idempotency-Replayed", "true")
	}
}

func encodeRefusal(h *fasthttp.ResponseHeader, v *visit, code wallet.Code) {
	if code.Retryable() {
		setUint(h, "Retry-After", retryAfter(code, &v.Exchange))
	}
	switch code {
	case wallet.Unauthorized:
		setHeader(h, "WWW-Authenticate", "Bearer")
	case wallet.MethodNotAllowed:
		setHeader(h, "Allow", v.route.Method())
	case wallet.RateLimited:
		setUint(h, "X-RateLimit-Limit", v.RateLimit.Limit)
		setUint(h, "X-RateLimit-Remaining", v.RateLimit.Remaining)
		setUint(h, "X-RateLimit-Reset", ceilSeconds(time.Duration(v.RateLimit.ResetMillis)*time.Millisecond))
	default:
	}
	if v.route.Route == wallet.RouteReadyz && code == wallet.RetryLater {
		return // its body says more than an error would
	}
	v.Reply = appendError(v.Reply[:0], &v.Exchange, code)
}

// retryAfter is when a retry makes sense, in seconds, at least 1 as the header knows no less.
func retryAfter(code wallet.Code, x *filters.Exchange) uint64 {
	switch code {
	case wallet.RateLimited:
		return ceilSeconds(time.Duration(x.RateLimit.ResetMillis) * time.Millisecond)
	case wallet.UpstreamUnavailable, wallet.Unreadable:
		return ceilSeconds(x.Limits.BreakerOpenFor) // then it probes
	default:
		return readyRetryAfter
	}
}

// ceilSeconds rounds up to whole seconds, 1 at least.
func ceilSeconds(d time.Duration) uint64 {
	return uint64(max(1, (d+time.Second-1)/time.Second))
}

func setUint(h *fasthttp.ResponseHeader, name string, n uint64) {
	var buf [20]byte
	h.SetCanonical([]byte(name), strconv.AppendUint(buf[:0], n, 10))
}

// appendError appends CONTRACT §1's error object. The message is a constant text, whether the
// filter's or the code's.
func appendError(dst []byte, x *filters.Exchange, code wallet.Code) []byte {
	message := x.Detail
	if message == "" {
		message = code.When()
	}
	var corr [64]byte
	dst = appendString(append(dst, `{"code":`...), code.Name())
	dst = strconv.AppendInt(append(dst, `,"http":`...), int64(code.HTTP()), 10)
	dst = appendString(append(dst, `,"message":`...), message)
	dst = strconv.AppendBool(append(dst, `,"retryable":`...), code.Retryable())
	dst = appendString(append(dst, `,"corr_id":`...), x.Origin.Corr.Append(corr[:0]))
	return append(appendDetails(dst, x, code), '}')
}

// appendDetails appends the member details where there is more to say than the code does.
func appendDetails(dst []byte, x *filters.Exchange, code wallet.Code) []byte {
	switch {
	case code == wallet.Uncertain:
		return append(dst, `,"details":{"outcome":"unknown"}`...)
	case code == wallet.NonceConflict && x.Reason != "":
		dst = appendString(append(dst, `,"details":{"reason":`...), x.Reason)
		if x.NextNonce > 0 {
			dst = strconv.AppendUint(append(dst, `,"next_nonce":`...), x.NextNonce, 10)
		}
		return append(dst, '}')
	case code == wallet.BodyTooLarge:
		return append(appendString(append(dst, `,"details":{"limit":`...), filters.LimitBody.String()), '}')
	case code == wallet.LimitsExceeded && x.Limit.Name != filters.NoLimit:
		return appendLimit(dst, &x.Limit)
	case code == wallet.RetryLater && x.Outran:
		dst = strconv.AppendUint(append(dst, `,"details":{"ledger_seq":`...), x.Seq, 10)
		return append(dst, '}')
	}
	return dst
}

func appendLimit(dst []byte, l *filters.LimitHit) []byte {
	dst = appendString(append(dst, `,"details":{"limit":`...), l.Name.String())
	if l.Told {
		dst = append(l.Remaining.Append(append(dst, `,"remaining":"`...)), '"')
	}
	if l.ResetsAt > 0 {
		dst = append(wallet.AppendTime(append(dst, `,"resets_at":"`...), l.ResetsAt), '"')
	}
	return append(dst, '}')
}

// appendBalance appends CONTRACT §1's balance object. stale_ms bounds the figure's age at now, so
// it is rounded up.
func appendBalance(dst []byte, b *wallet.Balance, asOf, now int64) []byte {
	const milli = int64(time.Millisecond)
	dst = append(dst, `{"account":"`...) // the grammars of names need no escapes
	dst = b.Key.Account.Append(dst)
	dst = append(dst, `","asset":"`...)
	dst = b.Key.Asset.Append(dst)
	dst = append(dst, `","amount_minor":"`...)
	dst = b.Amount.Append(dst)
	dst = append(dst, `","as_of":"`...)
	dst = wallet.AppendTime(dst, asOf/milli)
	dst = append(dst, `","stale_ms":`...)
	dst = strconv.AppendInt(dst, (max(0, now-asOf)+milli-1)/milli, 10)
	dst = append(dst, `,"nonce":`...)
	dst = strconv.AppendUint(dst, b.Nonce, 10)
	return append(dst, '}')
}

// appendString appends a JSON string (RFC 8259 §7). What is not UTF-8 becomes U+FFFD.
func appendString[T ~string | ~[]byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, r := range string(s) {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// corrIDs makes correlation ids: ULIDs whose random part is a random number of this process plus
// a count, so that making one takes neither a lock nor an allocation. They name requests and
// guard nothing.
type corrIDs struct {
	high uint16
	low  atomic.Uint64
}

func newCorrIDs(entropy io.Reader) (*corrIDs, error) {
	var seed [10]byte
	if _, err := io.ReadFull(entropy, seed[:]); err != nil {
		return nil, fmt.Errorf("seed of the correlation ids: %w", err)
	}
	c := &corrIDs{high: binary.BigEndian.Uint16(seed[:])}
	c.low.Store(binary.BigEndian.Uint64(seed[2:]))
	return c, nil
}

// next makes an id of the time now, Unix nanoseconds.
func (c *corrIDs) next(now int64) wallet.CorrID {
	var id ulid.ULID
	_ = id.SetTime(uint64(max(0, now) / int64(time.Millisecond))) // too late only after the year 10889
	binary.BigEndian.PutUint16(id[6:], c.high)
	binary.BigEndian.PutUint64(id[8:], c.low.Add(1))
	var text [ulid.EncodedSize]byte
	_ = id.MarshalTextTo(text[:]) // fails only on a buffer of another size
	return wallet.Must(wallet.ParseCorrID(text[:]))
}
