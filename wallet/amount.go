package wallet

import (
	"errors"
	"strconv"

	"lukechampine.com/uint128"
)

// ErrAmount is the grammar of amounts on the wire (CONTRACT §1).
var ErrAmount = errors.New(`amount must be a decimal integer of 1 to 39 digits without leading zeros, at most 2^128-1`)

// Amount is an exact count of minor units, 0 to 2^128-1. It never wraps: what could is Add and
// Sub, and they say so.
type Amount struct{ u uint128.Uint128 }

// MaxAmount is 2^128-1.
func MaxAmount() Amount { return Amount{uint128.Max} }

// Minor makes an amount of n minor units.
func Minor(n uint64) Amount { return Amount{uint128.From64(n)} }

// AmountFromBits joins the halves of an amount, as the node protocol carries it.
func AmountFromBits(hi, lo uint64) Amount { return Amount{uint128.New(lo, hi)} }

// Bits splits the amount into its halves.
func (a Amount) Bits() (hi, lo uint64) { return a.u.Hi, a.u.Lo }

// maxText is MaxAmount in decimal.
const maxText = "340282366920938463463374607431768211455"

// ParseAmount reads `0|[1-9][0-9]{0,38}` up to 2^128-1. Whether zero will do is the caller's
// rule.
func ParseAmount[T ~string | ~[]byte](s T) (Amount, error) {
	// As long texts compare like what they say, so no sum below can overflow.
	if len(s) == 0 || len(s) > len(maxText) || (s[0] == '0' && len(s) > 1) || (len(s) == len(maxText) && string(s) > maxText) {
		return Amount{}, ErrAmount
	}
	var u uint128.Uint128
	for i := 0; i < len(s); {
		// Nineteen digits at a time: 10^19 is the largest power of ten in 64 bits.
		chunk, scale := uint64(0), uint64(1)
		for end := min(i+19, len(s)); i < end; i++ {
			digit := s[i] - '0'
			if digit > 9 {
				return Amount{}, ErrAmount
			}
			chunk, scale = chunk*10+uint64(digit), scale*10
		}
		u = u.Mul64(scale).Add64(chunk)
	}
	return Amount{u}, nil
}

// Add returns a+b, and false where that is over 2^128-1.
func (a Amount) Add(b Amount) (Amount, bool) {
	s := a.u.AddWrap(b.u)
	return Amount{s}, s.Cmp(a.u) >= 0
}

// Sub returns a-b, and false where b is more than a.
func (a Amount) Sub(b Amount) (Amount, bool) {
	return Amount{a.u.SubWrap(b.u)}, a.u.Cmp(b.u) >= 0
}

// Cmp is -1, 0 or 1.
func (a Amount) Cmp(b Amount) int { return a.u.Cmp(b.u) }

// IsZero reports zero.
func (a Amount) IsZero() bool { return a.u.IsZero() }

// Min is the smaller one.
func (a Amount) Min(b Amount) Amount {
	if b.Cmp(a) < 0 {
		return b
	}
	return a
}

// Append appends the decimal digits to dst, without allocating where dst has room.
func (a Amount) Append(dst []byte) []byte {
	q, r := a.u.QuoRem64(1e19) // the largest power of ten in 64 bits
	if q.IsZero() {
		return strconv.AppendUint(dst, r, 10)
	}
	var buf [19]byte
	digits := strconv.AppendUint(buf[:0], r, 10)
	dst = append(Amount{q}.Append(dst), "0000000000000000000"[len(digits):]...)
	return append(dst, digits...)
}

// String is the decimal form.
func (a Amount) String() string { return string(a.Append(nil)) }

// MarshalText makes JSON carry the amount as a string, exact in every language.
func (a Amount) MarshalText() ([]byte, error) { return a.Append(nil), nil }

// UnmarshalText is ParseAmount.
func (a *Amount) UnmarshalText(s []byte) (err error) { *a, err = ParseAmount(s); return err }
