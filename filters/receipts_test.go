package filters

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"svc-wallet/wallet"
)

// TestReceiptsFollowModel: what is found under a key is what was kept last under it, byte for byte, however
// pages fill; the newest that fit the bound and have not expired are found; and there are never more than the
// bound. What was found stays as it was when its page is gone. Method: rapid against a list.
func TestReceiptsFollowModel(t *testing.T) {
	const ttl = 1000
	type kept struct {
		key   int
		reply []byte // of one byte, repeated
		until int64
	}
	rapid.Check(t, func(t *rapid.T) {
		share := rapid.IntRange(1, 200).Draw(t, "share")
		r := newReceipts(1, share, ttl)
		var all []kept
		var found [][]byte // and a copy behind each
		now := int64(1)
		claimed := func(key int) *claim[idemKey, idemOwner] {
			c := &claim[idemKey, idemOwner]{hash: uint64(key)}
			c.key = idemKey{wallet.Must(wallet.ParseAccount("acc_1")), wallet.Must(wallet.ParseIdemKey(fmt.Sprint("key-", key)))}
			c.owner.fingerprint[0], c.owner.epoch = byte(key), r.epoch.Load()
			return c
		}
		t.Repeat(map[string]func(*rapid.T){
			"keep": func(t *rapid.T) {
				key, size := rapid.IntRange(0, 300).Draw(t, "key"), rapid.SampledFrom([]int{0, 1, 470, mostReceipt, mostReceipt + 1}).Draw(t, "size")
				for i := range rapid.IntRange(1, 60).Draw(t, "how many") {
					k := kept{key + i, bytes.Repeat([]byte{byte(len(all))}, size), now + ttl}
					r.keep(claimed(k.key), k.reply, uint64(len(all)), now)
					if size <= mostReceipt {
						all = append(all, k)
					}
				}
			},
			"wait":   func(t *rapid.T) { now += rapid.Int64Range(1, ttl).Draw(t, "time") },
			"forget": func(*rapid.T) { r.forget(); all = nil },
			"": func(t *rapid.T) {
				last := map[int]kept{}
				for i, k := range all {
					if last[k.key] = k; i < len(all)-share {
						delete(last, k.key)
					}
				}
				for key := range 360 {
					c := claimed(key)
					got, ok := r.find(c.hash, &c.key, now)
					want, had := last[key]
					if had = had && now < want.until; ok != had || ok && (!bytes.Equal(got.reply, want.reply) || got.fingerprint[0] != byte(key)) {
						t.Fatalf("key %d of %d: found %v, %d bytes; want %v, %d bytes", key, len(all), ok, len(got.reply), had, len(want.reply))
					}
					if ok && len(found) < 100 {
						found = append(found, got.reply, bytes.Clone(got.reply))
					}
				}
				if n := r.shards[0].kept; n > share || r.size() > share {
					t.Fatalf("%d kept and %d known, at most %d", n, r.size(), share)
				}
				for i := 0; i < len(found); i += 2 {
					if !bytes.Equal(found[i], found[i+1]) {
						t.Fatalf("what was found has changed: %x", found[i])
					}
				}
			},
		})
	})
}

// TestReceiptOfAnotherKey: two keys of one hash are told apart, and what was claimed before everything was
// forgotten is not kept.
func TestReceiptOfAnotherKey(t *testing.T) {
	r := newReceipts(1, 10, time.Hour)
	c := &claim[idemKey, idemOwner]{hash: 7, key: idemKey{wallet.Must(wallet.ParseAccount("ab")), wallet.Must(wallet.ParseIdemKey("c"))}}
	r.keep(c, []byte("receipt"), 1, 0)
	other := idemKey{wallet.Must(wallet.ParseAccount("a")), wallet.Must(wallet.ParseIdemKey("bc"))}
	if _, ok := r.find(7, &other, 0); ok {
		t.Error("found under another key")
	}
	if got, ok := r.find(7, &c.key, 0); !ok || string(got.reply) != "receipt" {
		t.Errorf("%q, %v", got.reply, ok)
	}
	r.forget()
	if r.keep(c, []byte("receipt"), 1, 0); r.size() != 0 {
		t.Error("kept although it was claimed before everything was forgotten")
	}
}
