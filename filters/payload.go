package filters

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"slices"
	"sync"

	"svc-wallet/wallet"
)

// Payload is the filter "payload": it decodes what is asked for, and lets nothing through that
// could be read in two ways. A payment's body is checked in this order: idempotency key,
// compression and sizes, then the JSON and its members from left to right, then what is missing.
type Payload struct {
	inflaters sync.Pool // of *inflater
}

// NewPayload makes the filter "payload".
func NewPayload() *Payload {
	return &Payload{inflaters: sync.Pool{New: func() any { return new(inflater) }}}
}

// Name implements Filter.
func (*Payload) Name() string { return "payload" }

// Check fills x.Transfer from a payment's body and key, x.TxID from x.TxText, or x.Balance from
// x.Account and x.Asset; a read allocates nothing. It answers BadRequest, with the rule in
// x.Detail, or BodyTooLarge.
func (f *Payload) Check(x *Exchange) wallet.Code {
	switch x.Op {
	case wallet.Read:
		return refuse(x, decodeRead(x))
	case wallet.Issue, wallet.Pay, wallet.Burn:
		return f.decodeWrite(x)
	default:
		return wallet.BadRequest
	}
}

// refuse answers OK where there is no error. The errors here are constant texts.
func refuse(x *Exchange, err error) wallet.Code {
	if err == nil {
		return wallet.OK
	}
	x.Detail = err.Error()
	if errors.Is(err, errBodySize) {
		return wallet.BodyTooLarge
	}
	return wallet.BadRequest
}

func decodeRead(x *Exchange) (err error) {
	if x.TxText != nil {
		x.TxID, err = wallet.ParseTxID(x.TxText)
		return err
	}
	if x.Balance.Account, err = wallet.ParseAccount(x.Account); err != nil {
		return err
	}
	x.Balance.Asset, err = wallet.ParseAsset(x.Asset)
	return err
}

func (f *Payload) decodeWrite(x *Exchange) wallet.Code {
	key, err := wallet.ParseIdemKey(x.Key)
	if err != nil {
		return refuse(x, err)
	}
	if len(x.Body) > x.Limits.MaxBodyBytes {
		return refuse(x, errBodySize)
	}
	if x.Limits.Shadow != nil {
		watchSizes(x, len(x.Body))
	}
	x.Transfer = wallet.Transfer{Op: x.Op, Idem: key, Origin: x.Origin}
	if x.Gzip {
		z := f.inflaters.Get().(*inflater)
		defer f.give(z)
		body, err := z.inflate(x.Body, x.Limits.MaxBodyBytes, x.Limits.DecompressRatioCap)
		if err != nil {
			return refuse(x, err)
		}
		if x.Limits.Shadow != nil {
			watchSizes(x, len(body))
		}
		return refuse(x, decodeBody(&x.Transfer, body))
	}
	return refuse(x, decodeBody(&x.Transfer, x.Body))
}

// watchSizes holds a body of the given size, before or after decompression, against the limits
// under watch.
func watchSizes(x *Exchange, size int) {
	watched := x.Limits.Shadow
	if size > watched.MaxBodyBytes {
		x.Shadowed.Add(WatchedBody)
	}
	if x.Gzip && size > watched.DecompressRatioCap*len(x.Body) {
		x.Shadowed.Add(WatchedRatio)
	}
}

// give puts z back without the request's bytes.
func (f *Payload) give(z *inflater) {
	z.src.Reset(nil)
	f.inflaters.Put(z)
}

// inflater is the reusable memory of one decompression.
type inflater struct {
	src bytes.Reader
	gz  gzip.Reader
	buf []byte
}

// Memory that an inflater starts with, and the most that it keeps: a payment has some 200 bytes.
const (
	inflateStart = 1 << 10
	inflateKeep  = 64 << 10
)

// inflate returns the decompressed body, which lives until the next call. It stops at the
// smaller of maxBytes and ratio times the compressed length, and never allocates much more than
// it has decompressed, whatever the header claims. Exactly one gzip member is taken: RFC 1952
// allows several in a row, but readers differ in whether they see the later ones, so such a body
// could be read in two ways.
func (z *inflater) inflate(body []byte, maxBytes, ratio int) ([]byte, error) {
	if len(body) == 0 || claimsExtra(body) {
		return nil, errGzip
	}
	most, tooMuch := maxBytes, errBodySize
	if ratio <= maxBytes/len(body) { // so the product does not overflow
		most, tooMuch = ratio*len(body), errGzipRatio
	}
	z.src.Reset(body)
	if z.gz.Reset(&z.src) != nil {
		return nil, errGzip
	}
	z.gz.Multistream(false)
	if cap(z.buf) > inflateKeep {
		z.buf = nil
	}
	for z.buf = z.buf[:0]; ; {
		z.buf = slices.Grow(z.buf, max(inflateStart-len(z.buf), 1))
		n, err := z.gz.Read(z.buf[len(z.buf):cap(z.buf)])
		z.buf = z.buf[:len(z.buf)+n]
		switch {
		case len(z.buf) > most:
			return nil, tooMuch
		case errors.Is(err, io.EOF) && z.src.Len() == 0:
			return z.buf, nil
		case err != nil:
			return nil, errGzip
		}
	}
}

// claimsExtra reports a gzip header with an extra field longer than the whole body. gzip.Reader
// would allocate it, up to 64 KiB, before it missed the bytes.
func claimsExtra(body []byte) bool {
	const flagExtra = 1 << 2
	return len(body) >= 12 && body[3]&flagExtra != 0 && int(binary.LittleEndian.Uint16(body[10:])) > len(body)-12
}

// member is one member of a body, as a bit of a set.
type member uint8

const (
	memberTo member = 1 << iota
	memberFrom
	memberAsset
	memberAmount
	memberNonce
	noMember member = 0
)

// membersOf is what each operation's body must hold, and nothing else.
func membersOf(op wallet.Op) member {
	const all = memberTo | memberFrom | memberAsset | memberAmount | memberNonce
	switch op {
	case wallet.Issue:
		return all &^ memberFrom
	case wallet.Burn:
		return all &^ memberTo
	default:
		return all
	}
}

func memberNamed(name []byte) member {
	switch string(name) {
	case "to":
		return memberTo
	case "from":
		return memberFrom
	case "asset":
		return memberAsset
	case "amount_minor":
		return memberAmount
	case "nonce":
		return memberNonce
	default:
		return noMember
	}
}

// fault is what is wrong with a body. The texts are constant: they name the rule and never
// repeat what was sent.
type fault string

// Error implements error.
func (f fault) Error() string { return string(f) }

const (
	errBodySize  = fault("body is over the size cap")
	errGzip      = fault("body is not one whole gzip member")
	errGzipRatio = fault("body is over the decompression ratio cap")
	errObject    = fault("body must be one JSON object of strings and integers, without nesting, null or floats")
	errTrailing  = fault("body must end with its JSON object")
	errUnknown   = fault("body has a member that this operation does not take")
	errTwice     = fault("body has a member twice")
	errTo        = fault("to must be a string that matches [A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
	errFrom      = fault("from must be a string that matches [A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
	errAsset     = fault("asset must be a string that matches [a-z0-9][a-z0-9_.-]{0,31}")
	errAmount    = fault("amount_minor must be a string of 1 to 39 digits without leading zeros, from 1 to 2^128-1")
	errNonce     = fault("nonce must be an integer from 1 to 2^64-1")
	errNoTo      = fault("to is missing")
	errNoFrom    = fault("from is missing")
	errNoAsset   = fault("asset is missing")
	errNoAmount  = fault("amount_minor is missing")
	errNoNonce   = fault("nonce is missing")
	errSelf      = fault("from and to must differ")
)

// decodeBody reads the body of t.Op into t and takes the fingerprint.
func decodeBody(t *wallet.Transfer, body []byte) error {
	s := scanner{b: body}
	want := membersOf(t.Op)
	seen, err := s.object(t, want)
	switch {
	case err != nil:
		return err
	case !s.done():
		return errTrailing
	case seen != want:
		return missing(want &^ seen)
	case t.From == t.To:
		return errSelf
	}
	t.Fingerprint = t.Hash()
	return nil
}

// missing names the first member of a set.
func missing(m member) error {
	switch {
	case m&memberTo != 0:
		return errNoTo
	case m&memberFrom != 0:
		return errNoFrom
	case m&memberAsset != 0:
		return errNoAsset
	case m&memberAmount != 0:
		return errNoAmount
	default:
		return errNoNonce
	}
}

// scanner reads JSON (RFC 8259) narrowed to one flat object of our members. That makes a reader
// of our own shorter, faster and stricter than a general one: what begins neither a string nor a
// positive integer is refused where it begins. So is a character that no member's grammar has
// room for, which leaves \uXXXX as the only escape, and no UTF-8 or surrogates to decode.
// FuzzBody holds it against a general reader.
type scanner struct {
	b    []byte
	i    int
	room [65]byte // for text with escapes: a byte more than any valid one
}

// object reads the object's members into t and returns which ones it saw.
func (s *scanner) object(t *wallet.Transfer, want member) (seen member, err error) {
	if !s.eat('{') {
		return 0, errObject
	}
	if s.eat('}') {
		return 0, nil
	}
	for {
		name := s.text()
		m := memberNamed(name)
		switch {
		case name == nil || !s.eat(':'):
			return seen, errObject
		case m&want == 0:
			return seen, errUnknown
		case m&seen != 0:
			return seen, errTwice
		}
		if err := s.value(t, m); err != nil {
			return seen, err
		}
		seen |= m
		if s.eat('}') {
			return seen, nil
		}
		if !s.eat(',') {
			return seen, errObject
		}
	}
}

// value reads the value of m into t. Text that is malformed is nil, which no grammar takes.
func (s *scanner) value(t *wallet.Transfer, m member) (err error) {
	switch m {
	case memberTo:
		if t.To, err = wallet.ParseAccount(s.text()); err != nil {
			return errTo
		}
	case memberFrom:
		if t.From, err = wallet.ParseAccount(s.text()); err != nil {
			return errFrom
		}
	case memberAsset:
		if t.Asset, err = wallet.ParseAsset(s.text()); err != nil {
			return errAsset
		}
	case memberAmount:
		if t.Amount, err = wallet.ParseAmount(s.text()); err != nil || t.Amount.IsZero() {
			return errAmount
		}
	case memberNonce:
		if t.Nonce = s.positive(); t.Nonce == 0 {
			return errNonce
		}
	default:
		return errUnknown
	}
	return nil
}

func (s *scanner) space() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\r' || s.b[s.i] == '\t') {
		s.i++
	}
}

// eat skips white space and then c, if it is there.
func (s *scanner) eat(c byte) bool {
	s.space()
	if s.i == len(s.b) || s.b[s.i] != c {
		return false
	}
	s.i++
	return true
}

func (s *scanner) done() bool {
	s.space()
	return s.i == len(s.b)
}

// text reads a string, and returns nil where there is none that could be valid. The bytes are
// the body's, or the scanner's until the next call.
func (s *scanner) text() []byte {
	if !s.eat('"') {
		return nil
	}
	for start := s.i; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return s.b[start : s.i-1]
		case c == '\\':
			return s.escaped(s.b[start:s.i])
		case c < ' ' || c > '~':
			return nil
		}
	}
	return nil
}

// escaped goes on where text met its first escape, after prefix.
func (s *scanner) escaped(prefix []byte) []byte {
	out := append(s.room[:0], prefix[:min(len(prefix), len(s.room))]...)
	for len(out) < len(s.room) && s.i < len(s.b) {
		c := s.b[s.i]
		switch {
		case c == '"':
			s.i++
			return out
		case c == '\\':
			if c = s.unicode(); c == 0 {
				return nil
			}
		case c < ' ' || c > '~':
			return nil
		default:
			s.i++
		}
		out = append(out, c)
	}
	return nil
}

// unicode reads \u00XX of a visible ASCII character, and returns 0 for every other escape.
func (s *scanner) unicode() byte {
	var c [1]byte
	if len(s.b)-s.i < 6 || string(s.b[s.i:s.i+4]) != `\u00` {
		return 0
	}
	if _, err := hex.Decode(c[:], s.b[s.i+4:s.i+6]); err != nil || c[0] < ' ' || c[0] > '~' {
		return 0
	}
	s.i += 6
	return c[0]
}

// positive reads an integer from 1 to 2^64-1, and returns 0 for every other number. What follows
// it is the caller's to judge: a fraction or an exponent ends neither a member nor the object.
func (s *scanner) positive() (n uint64) {
	s.space()
	if s.i < len(s.b) && s.b[s.i] == '0' {
		return 0
	}
	for ; s.i < len(s.b) && '0' <= s.b[s.i] && s.b[s.i] <= '9'; s.i++ {
		d := uint64(s.b[s.i] - '0')
		if n > (math.MaxUint64-d)/10 {
			return 0
		}
		n = n*10 + d
	}
	return n
}
