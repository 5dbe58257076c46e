package filters

import (
	"testing"
	"time"

	"svc-wallet/wallet"
)

// BenchmarkIdempotency measures the two steps that every payment takes, claim and settle, with a
// new key each and the table at its bound, and a replay.
func BenchmarkIdempotency(b *testing.B) {
	b.Run("claim+settle", func(b *testing.B) {
		f := NewIdempotency(64, 1<<14, time.Hour)
		x := &Exchange{Answer: Answer{Reply: make([]byte, 400)}}
		x.Payment.Op = wallet.Transfer
		x.Payment.From = wallet.Must(wallet.ParseAccount("acc_1"))
		var key [10]byte
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			for j, v := 0, i; j < len(key); j, v = j+1, v/10 {
				key[j] = byte('0' + v%10)
			}
			x.Payment.Idem, _ = wallet.ParseIdemKey(key[:])
			if f.Check(x) != wallet.Pass {
				b.Fatal("not claimed")
			}
			f.Settle(x, wallet.OK)
		}
	})
	b.Run("replay", func(b *testing.B) {
		f := NewIdempotency(64, 1<<14, time.Hour)
		x := &Exchange{Answer: Answer{Reply: make([]byte, 400)}}
		f.Check(x)
		f.Settle(x, wallet.OK)
		b.ReportAllocs()
		for b.Loop() {
			if f.Check(x) != wallet.Replayed {
				b.Fatal("not replayed")
			}
		}
	})
}

// BenchmarkNonce measures claim and settle of a nonce.
func BenchmarkNonce(b *testing.B) {
	f := NewNonce(64, 1024)
	x := &Exchange{}
	b.ReportAllocs()
	for b.Loop() {
		x.Payment.Nonce++
		if f.Check(x) != wallet.Pass {
			b.Fatal("not claimed")
		}
		f.Settle(x, wallet.OK)
	}
}
