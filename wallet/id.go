package wallet

import (
	"bytes"
	"errors"
	"fmt"
)

// Errors of the identifier grammars. They name the rule, never the offending bytes, which may
// be hostile or secret.
var (
	ErrAccount = errors.New("account must match [A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
	ErrAsset   = errors.New("asset must match [a-z0-9][a-z0-9_.-]{0,31}")
	ErrIdemKey = errors.New("idempotency key must be 1 to 64 visible ASCII characters")
	ErrCorrID  = errors.New("correlation id must be 1 to 64 visible ASCII characters")
	ErrTrace   = errors.New("traceparent must be W3C Trace Context, version 00")
)

// Account names a holder of balances. Shape: [A-Za-z0-9][A-Za-z0-9_.:-]{0,63}.
type Account struct{ text64 }

// Asset names what is held. Shape: [a-z0-9][a-z0-9_.-]{0,31}.
type Asset struct{ text32 }

// IdemKey is the client's name for one payment, unique within the nonce-bearing account.
// Shape: 1 to 64 visible ASCII characters, without the quotes of the IETF draft's string form.
type IdemKey struct{ text64 }

// CorrID follows one request through every response, log line and upstream call.
// Shape: 1 to 64 visible ASCII characters.
type CorrID struct{ text64 }

// ParseAccount checks the account grammar and copies s.
func ParseAccount[T ~string | ~[]byte](s T) (Account, error) {
	if len(s) == 0 || len(s) > 64 || !isAlnum(s[0]) {
		return Account{}, ErrAccount
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !isAlnum(c) && c != '_' && c != '.' && c != ':' && c != '-' {
			return Account{}, ErrAccount
		}
	}
	return Account{makeText64(s)}, nil
}

// ParseAsset checks the asset grammar and copies s.
func ParseAsset[T ~string | ~[]byte](s T) (Asset, error) {
	if len(s) == 0 || len(s) > 32 || !isLowerNum(s[0]) {
		return Asset{}, ErrAsset
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !isLowerNum(c) && c != '_' && c != '.' && c != '-' {
			return Asset{}, ErrAsset
		}
	}
	return Asset{makeText32(s)}, nil
}

// ParseIdemKey accepts the bare key and the quoted string of
// draft-ietf-httpapi-idempotency-key-header, which name the same key. A bare key may hold any
// visible ASCII but must not start with a quote; a quoted one follows RFC 8941 strings, of which
// the key is the unescaped text and must be visible ASCII too.
func ParseIdemKey[T ~string | ~[]byte](s T) (IdemKey, error) {
	if len(s) > 0 && s[0] == '"' {
		return parseQuotedKey(s)
	}
	return IdemKeyFromText(s)
}

// IdemKeyFromText takes the key's own text, as receipts and the node protocol carry it. Quotes
// are part of it: ParseIdemKey would take them off a key that holds some, and so make one key of
// two.
func IdemKeyFromText[T ~string | ~[]byte](s T) (IdemKey, error) {
	if !isVisible(s) {
		return IdemKey{}, ErrIdemKey
	}
	return IdemKey{makeText64(s)}, nil
}

func parseQuotedKey[T ~string | ~[]byte](s T) (IdemKey, error) {
	if len(s) < 3 || s[len(s)-1] != '"' {
		return IdemKey{}, ErrIdemKey
	}
	var t text64
	for i := 1; i < len(s)-1; i++ {
		c := s[i]
		switch c {
		case '\\':
			i++
			if i == len(s)-1 || (s[i] != '"' && s[i] != '\\') {
				return IdemKey{}, ErrIdemKey
			}
			c = s[i]
		case '"':
			return IdemKey{}, ErrIdemKey
		}
		if c < '!' || c > '~' || int(t.n) == len(t.b) {
			return IdemKey{}, ErrIdemKey
		}
		t.b[t.n] = c
		t.n++
	}
	return IdemKey{t}, nil
}

// ParseCorrID checks and copies s.
func ParseCorrID[T ~string | ~[]byte](s T) (CorrID, error) {
	if !isVisible(s) {
		return CorrID{}, ErrCorrID
	}
	return CorrID{makeText64(s)}, nil
}

// Must unwraps what a Parse function returned, for values written in code and tests.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("wallet: a literal does not parse: %v", err))
	}
	return v
}

// BalanceKey names one balance.
type BalanceKey struct {
	Account Account
	Asset   Asset
}

// Trace is a W3C traceparent, version 00, or nothing: 55 ASCII bytes.
type Trace struct {
	b [55]byte
}

// ParseTrace accepts `00-<32 hex>-<16 hex>-<2 hex>` in lower case with a trace and a parent id
// that are not all zero. https://www.w3.org/TR/trace-context/#traceparent-header
func ParseTrace[T ~string | ~[]byte](s T) (Trace, error) {
	var t Trace
	if copy(t.b[:], s) != len(s) || len(s) != len(t.b) || string(t.b[:3]) != "00-" || t.b[35] != '-' || t.b[52] != '-' ||
		!isTraceID(t.b[3:35]) || !isTraceID(t.b[36:52]) || !isHex(t.b[53:]) {
		return Trace{}, ErrTrace
	}
	return t, nil
}

// isTraceID takes digits that are not all zero.
func isTraceID(s []byte) bool { return isHex(s) && len(bytes.Trim(s, "0")) > 0 }

func isHex(s []byte) bool { return len(bytes.Trim(s, "0123456789abcdef")) == 0 }

// IsZero reports that there is no trace.
func (t Trace) IsZero() bool { return t.b[0] == 0 }

// String is the header's value, empty for none.
func (t Trace) String() string {
	if t.IsZero() {
		return ""
	}
	return string(t.b[:])
}

// text64 and text32 hold a short ASCII text by value. Bytes past n are zero, so that == and
// hashing see only the text.
type text64 struct {
	b [64]byte
	n uint8
}

type text32 struct {
	b [32]byte
	n uint8
}

func makeText64[T ~string | ~[]byte](s T) (t text64) {
	t.n = uint8(copy(t.b[:], s)) //nolint:gosec // at most 64
	return t
}

func makeText32[T ~string | ~[]byte](s T) (t text32) {
	t.n = uint8(copy(t.b[:], s)) //nolint:gosec // at most 32
	return t
}

// IsZero reports the zero value, which names nothing.
func (t text64) IsZero() bool { return t.n == 0 }

// Append appends the text to dst.
func (t text64) Append(dst []byte) []byte { return append(dst, t.b[:t.n]...) }

// String copies the text.
func (t text64) String() string { return string(t.b[:t.n]) }

// MarshalText makes JSON and logs show the text.
func (t text64) MarshalText() ([]byte, error) { return t.Append(nil), nil }

// IsZero reports the zero value, which names nothing.
func (t text32) IsZero() bool { return t.n == 0 }

// Append appends the text to dst.
func (t text32) Append(dst []byte) []byte { return append(dst, t.b[:t.n]...) }

// String copies the text.
func (t text32) String() string { return string(t.b[:t.n]) }

// MarshalText makes JSON and logs show the text.
func (t text32) MarshalText() ([]byte, error) { return t.Append(nil), nil }

// UnmarshalText parses the grammar of Account.
func (a *Account) UnmarshalText(s []byte) (err error) { *a, err = ParseAccount(s); return err }

// UnmarshalText parses the grammar of Asset.
func (a *Asset) UnmarshalText(s []byte) (err error) { *a, err = ParseAsset(s); return err }

// HasPrefix reports whether the account's text starts with p.
func (a Account) HasPrefix(p string) bool {
	return int(a.n) >= len(p) && string(a.b[:len(p)]) == p
}

func isAlnum(c byte) bool {
	return isLowerNum(c) || (c >= 'A' && c <= 'Z')
}

func isLowerNum(c byte) bool {
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z')
}

func isVisible[T ~string | ~[]byte](s T) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return true
}
