// Package macaroon reads, verifies, mints and attenuates macaroons in libmacaroons' binary
// format, version 2. It knows the format and the signature chain; what a caveat means is the
// caller's business.
//
// Entry: Decode gives a View over the bytes of a token, and View.Verify says whether a root key
// made it. Both allocate nothing, because anybody may send junk.
//
// Invariant: a View that Decode returned is of one complete macaroon in its only encoding, with
// nothing before, between or after; so two tokens with equal parts are equal bytes.
//
// Format: https://github.com/rescrv/libmacaroons/blob/master/doc/format.txt
// Paper: Birgisson et al., "Macaroons: Cookies with Contextual Caveats", NDSS 2014.
package macaroon

import (
	"encoding/base64"
	"errors"
	"slices"
)

// Bounds of a macaroon (CONTRACT §3). What is beyond is refused when decoded, and never made.
const (
	MaxSize    = 4096 // bytes of the binary form
	MaxCaveats = 16
	MaxText    = (MaxSize + 2) / 3 * 4 // characters of the padded text form
)

// Errors of decoding and making. They are constant, and never hold a part of the token.
var (
	ErrEncoding = errors.New("token must be base64url")
	ErrFormat   = errors.New("token must be one binary macaroon of version 2")
	ErrBounds   = errors.New("token must be at most 4096 bytes with at most 16 caveats")
)

// Fields and marks of the binary format.
const (
	version2   = 2
	fieldEnd   = 0
	fieldLoc   = 1
	fieldID    = 2
	fieldVID   = 4
	fieldSig   = 6
	sigLen     = 32
	trailerLen = 1 + 2 + sigLen // end of caveats, header and bytes of the signature
)

// View is a decoded macaroon. Its slices point into the bytes given to Decode. The zero value
// verifies with no key.
type View struct {
	Location  []byte // a hint, not covered by the signature
	ID        []byte
	Signature []byte // 32 bytes

	caveats [MaxCaveats]Caveat // by value, so that decoding needs no memory
	count   int
}

// Caveat is one caveat of a View.
type Caveat struct {
	Location []byte // of the third party, a hint; nil for a first-party caveat
	ID       []byte // of a first-party caveat, the condition
	VID      []byte // verification id, nil for a first-party caveat
}

// Decode reads the binary form. It returns ErrFormat or ErrBounds.
func Decode(data []byte) (View, error) {
	if len(data) > MaxSize {
		return View{}, ErrBounds
	}
	if len(data) < 1 || data[0] != version2 {
		return View{}, ErrFormat
	}
	head, rest, ok := cutSection(data[1:])
	if !ok || head.VID != nil || head.ID == nil {
		return View{}, ErrFormat
	}
	v := View{Location: head.Location, ID: head.ID}
	for len(rest) > 0 && rest[0] != fieldEnd {
		var c Caveat
		// Without a verification id there is no third party, so a location is out of place.
		if c, rest, ok = cutSection(rest); !ok || c.ID == nil || c.VID == nil && c.Location != nil {
			return View{}, ErrFormat
		}
		if v.count == MaxCaveats {
			return View{}, ErrBounds
		}
		v.caveats[v.count] = c
		v.count++
	}
	if !isTrailer(rest) {
		return View{}, ErrFormat
	}
	v.Signature = rest[3:]
	return v, nil
}

// isTrailer: the trailer has one form only, and nothing may follow it.
func isTrailer(b []byte) bool {
	return len(b) == trailerLen && b[0] == fieldEnd && b[1] == fieldSig && b[2] == sigLen
}

// Caveats are the caveats in order. They are the view's own: not to be changed.
func (v *View) Caveats() []Caveat { return v.caveats[:v.count] }

// ThirdParty reports that some caveat needs a discharge.
func (v *View) ThirdParty() bool {
	return slices.ContainsFunc(v.Caveats(), func(c Caveat) bool { return c.VID != nil })
}

// cutSection reads fields up to the end mark. Fields are in ascending order, none twice. An id
// may be empty; a location or verification id that is there must not be, because other
// implementations read an empty one as absent.
func cutSection(data []byte) (c Caveat, rest []byte, ok bool) {
	for last := byte(0); len(data) > 0; {
		field := data[0]
		if field == fieldEnd {
			return c, data[1:], true
		}
		value, after, ok := cutValue(data[1:])
		if !ok || field <= last || len(value) == 0 && field != fieldID {
			return Caveat{}, nil, false
		}
		switch field {
		case fieldLoc:
			c.Location = value
		case fieldID:
			c.ID = value
		case fieldVID:
			c.VID = value
		default:
			return Caveat{}, nil, false
		}
		last, data = field, after
	}
	return Caveat{}, nil, false
}

// cutValue reads a length and as many bytes. Lengths are varints (protobuf's), of which the
// shortest form alone is taken: within MaxSize that is one byte or two.
func cutValue(data []byte) (value, rest []byte, ok bool) {
	if len(data) < 1 {
		return nil, nil, false
	}
	n, used := int(data[0]), 1
	if n >= 0x80 {
		if len(data) < 2 || data[1] == 0 || data[1] >= 0x80 {
			return nil, nil, false
		}
		n, used = n&0x7f|int(data[1])<<7, 2
	}
	if n > len(data)-used {
		return nil, nil, false
	}
	return data[used : used+n : used+n], data[used+n:], true
}

// appendField appends a field whose value is shorter than 2^14 bytes.
func appendField(dst []byte, field byte, value []byte) []byte {
	dst = append(dst, field)
	if n := len(value); n < 0x80 {
		dst = append(dst, byte(n))
	} else {
		dst = append(dst, byte(n)|0x80, byte(n>>7)) //nolint:gosec // the low and the high seven bits
	}
	return append(dst, value...)
}

// strictURL is base64url without padding that refuses stray bits after the last byte, so that a
// token has one text form, with or without its padding.
var strictURL = base64.RawURLEncoding.Strict() //nolint:gochecknoglobals // a table

// DecodeText decodes base64url, padded or not, into dst without allocating. It returns the part
// of dst that it filled, or ErrEncoding, or ErrBounds where dst is too small; MaxSize bytes are
// always enough.
func DecodeText(dst, text []byte) ([]byte, error) {
	if len(text) > MaxText {
		return nil, ErrBounds
	}
	if slices.Contains(text, '\n') || slices.Contains(text, '\r') { // which encoding/base64 skips
		return nil, ErrEncoding
	}
	if len(text)%4 == 0 && len(text) > 0 && text[len(text)-1] == '=' {
		text = text[:len(text)-1]
		if text[len(text)-1] == '=' {
			text = text[:len(text)-1]
		}
	}
	if strictURL.DecodedLen(len(text)) > len(dst) {
		return nil, ErrBounds
	}
	n, err := strictURL.Decode(dst, text)
	if err != nil {
		return nil, ErrEncoding
	}
	return dst[:n], nil
}

// EncodeText is the unpadded text form.
func EncodeText(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }
