package macaroon_test

import (
	"testing"

	ref "gopkg.in/macaroon.v2"

	"svc-wallet/filters/macaroon"
)

// BenchmarkVerify compares decoding and verifying a token of five caveats, ours against
// gopkg.in/macaroon.v2.
func BenchmarkVerify(b *testing.B) {
	key := []byte("0123456789abcdef0123456789abcdef")
	token, err := macaroon.Mint(key, "svc-wallet", "v1:k1:t1", "aud = svc-wallet", "exp = 4102444800",
		"actions = read,transfer", "accounts = acc_1,team_*", "assets = ron")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("impl=ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			v, err := macaroon.Decode(token)
			if err != nil || !v.Verify(key) {
				b.Fatal("refused")
			}
		}
	})
	b.Run("impl=macaroon.v2", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var m ref.Macaroon
			if m.UnmarshalBinary(token) != nil || m.Verify(key, func(string) error { return nil }, nil) != nil {
				b.Fatal("refused")
			}
		}
	})
}
