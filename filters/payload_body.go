package filters

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/bits"

	"svc-wallet/wallet"
)

// member is one member of a body, as a bit of a set.
type member uint8

const (
	memberTo member = 1 << iota
	memberFrom
	memberAsset
	memberAmount
	memberNonce
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

// members are the members of all bodies: the bit of each is 1 << its place.
var members = [...]struct { //nolint:gochecknoglobals // a table
	name               string
	malformed, missing fault
}{
	{"to", "to must be a string that matches [A-Za-z0-9][A-Za-z0-9_.:-]{0,63}", "to is missing"},
	{"from", "from must be a string that matches [A-Za-z0-9][A-Za-z0-9_.:-]{0,63}", "from is missing"},
	{"asset", "asset must be a string that matches [a-z0-9][a-z0-9_.-]{0,31}", "asset is missing"},
	{"amount_minor", "amount_minor must be a string of 1 to 39 digits without leading zeros, from 1 to 2^128-1", "amount_minor is missing"},
	{"nonce", "nonce must be an integer from 1 to 2^64-1", "nonce is missing"},
}

// memberNamed is the place of a member, or len(members).
func memberNamed(name []byte) (at int) {
	for at < len(members) && string(name) != members[at].name {
		at++
	}
	return at
}

// fault is what is wrong with a body. The texts name the rule. All but unknownMember's are constant.
type fault string

// Error implements error.
func (f fault) Error() string { return string(f) }

const (
	errBodySize  = fault("body is over the size cap")
	errGzip      = fault("body is not one whole gzip member")
	errGzipRatio = fault("body is over the decompression ratio cap, by the length in its last four bytes")
	errGzipWaste = fault("compressed body is over 4 KiB longer than its content, each Huffman table counted as 64 bytes")
	errGzipBusy  = fault("too much is being decompressed; a payment of up to 4 KiB always is, and so is one that is not compressed")
	errGzipLate  = fault("decompressing the body took too long")
	errObject    = fault("body must be one JSON object of strings and integers, without nesting, null or floats")
	errTrailing  = fault("body must end with its JSON object")
	errUnknown   = fault("body has a member that this operation does not take")
	errNotTaken  = fault(" is not a member that this operation takes")
	errTwice     = fault("body has a member twice")
	errSelf      = fault("from and to must differ")
)

// decodeBody reads the body of t.Op into t and takes the fingerprint.
func decodeBody(t *wallet.Payment, body []byte) error {
	s := scanner{b: body}
	want := membersOf(t.Op)
	seen, err := s.object(t, want)
	switch {
	case err != nil:
		return err
	case !s.done():
		return errTrailing
	case seen != want:
		return members[bits.TrailingZeros8(uint8(want&^seen))].missing
	case t.From == t.To:
		return errSelf
	}
	t.Fingerprint = t.Hash()
	return nil
}

// unknownMember names the member if it looks like a name, which is short and has nothing that a log or a
// terminal could take for something else.
func unknownMember(name []byte) error {
	if !isID(name) {
		return errUnknown
	}
	return fault(name) + errNotTaken
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
func (s *scanner) object(t *wallet.Payment, want member) (seen member, err error) {
	if !s.eat('{') {
		return 0, errObject
	}
	if s.eat('}') {
		return 0, nil
	}
	for {
		name := s.text()
		at := memberNamed(name)
		m := member(1 << at)
		switch {
		case name == nil || !s.eat(':'):
			return seen, errObject
		case m&want == 0:
			return seen, unknownMember(name)
		case m&seen != 0:
			return seen, errTwice
		}
		if !s.value(t, m) {
			return seen, members[at].malformed
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

// value reads the value of m into t; false where it is malformed. Text that is malformed is nil, which no
// grammar takes.
func (s *scanner) value(t *wallet.Payment, m member) bool {
	var err error
	switch m {
	case memberTo:
		t.To, err = wallet.ParseAccount(s.text())
	case memberFrom:
		t.From, err = wallet.ParseAccount(s.text())
	case memberAsset:
		t.Asset, err = wallet.ParseAsset(s.text())
	case memberAmount:
		t.Amount, err = wallet.ParseAmount(s.text())
		return err == nil && !t.Amount.IsZero()
	case memberNonce:
		t.Nonce = s.positive()
		return t.Nonce != 0
	default:
		return false
	}
	return err == nil
}

// space skips white space. As a rule there is none, so that is found out where it is called.
func (s *scanner) space() {
	if s.i < len(s.b) && s.b[s.i] <= ' ' {
		s.skip()
	}
}

// skip takes white space eight bytes at a time where it goes on. Of all that a body may hold it is
// the only thing that there can be much of, so it decides what the worst body costs.
func (s *scanner) skip() {
	for s.i < len(s.b) && (s.b[s.i] == ' ' || s.b[s.i] == '\n' || s.b[s.i] == '\r' || s.b[s.i] == '\t') {
		for s.i++; len(s.b)-s.i >= 8 && allSpace(binary.LittleEndian.Uint64(s.b[s.i:])); {
			s.i += 8
		}
	}
}

// allSpace reports that each of eight bytes is white space: in a byte that equals none of the four,
// the highest bit is left.
func allSpace(w uint64) bool {
	const each = 0x0101010101010101
	return differs(w^' '*each)&differs(w^'\n'*each)&differs(w^'\r'*each)&differs(w^'\t'*each) == 0
}

// differs sets the highest bit of each byte that is not zero, and clears all others.
func differs(w uint64) uint64 {
	const low, high = 0x7f7f7f7f7f7f7f7f, 0x8080808080808080
	return (w&low + low | w) & high
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

// text reads a string, and returns nil where there is none that could be valid: none has more
// characters than room. The bytes are the body's, or the scanner's until the next call.
func (s *scanner) text() []byte {
	if !s.eat('"') {
		return nil
	}
	text := s.b[s.i:min(s.i+len(s.room), len(s.b))]
	for i, c := range text {
		switch {
		case c == '"':
			s.i += i + 1
			return text[:i]
		case c == '\\':
			s.i += i
			return s.escaped(text[:i])
		case c < ' ' || c > '~':
			return nil
		}
	}
	return nil
}

// escaped goes on where text met its first escape, after prefix.
func (s *scanner) escaped(prefix []byte) []byte {
	out := append(s.room[:0], prefix...)
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
