package wallet_test

import (
	"encoding/json"
	"errors"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"svc-wallet/wallet"
)

// anyAmount favours the edges: few bits, many bits, and both halves full.
var anyAmount = rapid.Custom(func(t *rapid.T) wallet.Amount {
	hi, lo := rapid.Uint64().Draw(t, "hi"), rapid.Uint64().Draw(t, "lo")
	switch rapid.IntRange(0, 3).Draw(t, "size") {
	case 0:
		hi = 0
	case 1:
		hi = ^uint64(0)
	case 2:
		lo = ^uint64(0) - lo%3
	}
	return wallet.AmountFromBits(hi, lo)
})

func toBig(a wallet.Amount) *big.Int {
	hi, lo := a.Bits()
	b := new(big.Int).SetUint64(hi)
	return b.Add(b.Lsh(b, 64), new(big.Int).SetUint64(lo))
}

// TestAmountText: an amount prints as math/big prints it, and reads back as itself, also through
// JSON; by property.
func TestAmountText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := anyAmount.Draw(t, "a")
		text := toBig(a).String()
		if a.String() != text || string(a.Append([]byte("x"))) != "x"+text {
			t.Fatalf("prints %s, big prints %s", a, text)
		}
		if back, err := wallet.ParseAmount(text); err != nil || back != a {
			t.Fatalf("%s reads as %s, %v", text, back, err)
		}
		raw, err := json.Marshal(a)
		if err != nil || string(raw) != `"`+text+`"` {
			t.Fatalf("JSON is %s, %v", raw, err)
		}
		var back wallet.Amount
		if err := json.Unmarshal(raw, &back); err != nil || back != a {
			t.Fatalf("JSON %s reads as %s, %v", raw, back, err)
		}
	})
}

// TestAmountParse: any digits without a leading zero are read exactly if and only if math/big
// finds them below 2^128; by property over strings near the border.
func TestAmountParse(t *testing.T) {
	limit := new(big.Int).Lsh(big.NewInt(1), 128)
	digits := rapid.OneOf(rapid.StringMatching(`[1-9][0-9]{0,38}`), rapid.StringMatching(`3402823669209384634633746[0-9]{14}`), rapid.StringMatching(`34028236692093846346337460743176821145[0-9]`))
	rapid.Check(t, func(t *rapid.T) {
		text := digits.Draw(t, "text")
		want, _ := new(big.Int).SetString(text, 10)
		got, err := wallet.ParseAmount(text)
		if fits := want.Cmp(limit) < 0; (err == nil) != fits || (fits && toBig(got).Cmp(want) != 0) {
			t.Fatalf("%s reads as %s, %v", text, got, err)
		}
	})
}

// TestAmountArithmetic: Add, Sub, Cmp, Min and IsZero agree with math/big, and the false of Add
// and Sub tells overflow exactly; by property.
func TestAmountArithmetic(t *testing.T) {
	limit := new(big.Int).Lsh(big.NewInt(1), 128)
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyAmount.Draw(t, "a"), anyAmount.Draw(t, "b")
		x, y := toBig(a), toBig(b)
		sum, ok := a.Add(b)
		if want := new(big.Int).Add(x, y); ok != (want.Cmp(limit) < 0) || (ok && toBig(sum).Cmp(want) != 0) {
			t.Fatalf("%s + %s = %s, %v", a, b, sum, ok)
		}
		diff, ok := a.Sub(b)
		if want := new(big.Int).Sub(x, y); ok != (want.Sign() >= 0) || (ok && toBig(diff).Cmp(want) != 0) {
			t.Fatalf("%s - %s = %s, %v", a, b, diff, ok)
		}
		least := a
		if y.Cmp(x) < 0 {
			least = b
		}
		if a.Cmp(b) != x.Cmp(y) || a.Min(b) != least || b.Min(a) != least || a.IsZero() != (x.Sign() == 0) {
			t.Fatalf("comparing %s with %s", a, b)
		}
	})
}

// TestAmountEdges: the figures that the property may miss.
func TestAmountEdges(t *testing.T) {
	most, one := wallet.MaxAmount(), wallet.Minor(1)
	if _, ok := most.Add(one); ok {
		t.Error("2^128-1 + 1 does not overflow")
	}
	if sum, ok := most.Add(wallet.Amount{}); !ok || sum != most {
		t.Error("2^128-1 + 0 overflows")
	}
	if _, ok := (wallet.Amount{}).Sub(one); ok {
		t.Error("0 - 1 does not underflow")
	}
	if zero, ok := most.Sub(most); !ok || !zero.IsZero() {
		t.Error("a - a is not 0")
	}
	if most.String() != "340282366920938463463374607431768211455" || (wallet.Amount{}).String() != "0" {
		t.Errorf("prints %s and %s", most, wallet.Amount{})
	}
	var a wallet.Amount
	if err := a.UnmarshalText([]byte("1.5")); !errors.Is(err, wallet.ErrAmount) {
		t.Errorf("1.5 gives %v", err)
	}
}

// TestAmountAllocs: reading and printing amounts does not allocate.
func TestAmountAllocs(t *testing.T) {
	in, buf := []byte("340282366920938463463374607431768211455"), make([]byte, 0, 40)
	noAllocs(t, "parse and append", func() {
		a, err := wallet.ParseAmount(in)
		if err != nil {
			t.Fatal(err)
		}
		buf = a.Append(buf[:0])
	})
}

func BenchmarkParseAmount(b *testing.B) {
	for _, in := range []string{"250000", "100000000000000000000", "340282366920938463463374607431768211455"} {
		b.Run(in, func(b *testing.B) {
			raw := []byte(in)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := wallet.ParseAmount(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAmountAppend(b *testing.B) {
	for _, in := range []string{"250000", "340282366920938463463374607431768211455"} {
		b.Run(in, func(b *testing.B) {
			a, buf := wallet.Must(wallet.ParseAmount(in)), make([]byte, 0, 64)
			b.ReportAllocs()
			for b.Loop() {
				buf = a.Append(buf[:0])
			}
		})
	}
}
