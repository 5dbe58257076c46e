package wallet

import (
	"errors"
	"math/bits"

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

// ParseAmount reads `0|[1-9][0-9]{0,38}` up to 2^128-1. Whether zero will do is the caller's
// rule.
func ParseAmount[T ~string | ~[]byte](s T) (Amount, error) {
	if len(s) == 0 || len(s) > 39 || (s[0] == '0' && len(s) > 1) {
		return Amount{}, ErrAmount
	}
	var hi, lo uint64
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
		var over, carry, carryHi, loHi uint64
		over, hi = bits.Mul64(hi, scale)
		loHi, lo = bits.Mul64(lo, scale)
		lo, carry = bits.Add64(lo, chunk, 0)
		hi, carryHi = bits.Add64(hi, loHi, carry)
		if over|carryHi != 0 {
			return Amount{}, ErrAmount
		}
	}
	return AmountFromBits(hi, lo), nil
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
	var buf [39]byte
	i := len(buf)
	for v := a.u; ; {
		// Nineteen digits at a time: 10^19 is the largest power of ten in 64 bits.
		q, r := v.QuoRem64(1e19)
		for n := 0; n < 19 && (r > 0 || !q.IsZero()); n++ {
			i--
			buf[i] = byte('0' + r%10)
			r /= 10
		}
		if v = q; v.IsZero() {
			break
		}
	}
	if i == len(buf) {
		i--
		buf[i] = '0'
	}
	return append(dst, buf[i:]...)
}

// String is the decimal form.
func (a Amount) String() string { return string(a.Append(nil)) }

// MarshalText makes JSON carry the amount as a string, exact in every language.
func (a Amount) MarshalText() ([]byte, error) { return a.Append(nil), nil }

// UnmarshalText is ParseAmount.
func (a *Amount) UnmarshalText(s []byte) (err error) { *a, err = ParseAmount(s); return err }
