package node

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"svc-wallet/wallet"
)

// entropy gives two engines the same random bits.
func entropy() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{1}) }

// TestEnginesAgree: the same calls on the model and on the engine, closed and opened again in
// between, have the same results, bit for bit, the same figures and the same changes.
func TestEnginesAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var now atomic.Int64 // Pebble's syncer reads it too
		now.Store(start)
		fs := vfs.NewMem()
		bits := [2]*rand.ChaCha8{entropy(), entropy()}
		options := func(i int) Options {
			return Options{Now: now.Load, Entropy: bits[i], WatchBacklog: 1024}
		}
		mem := openModel(options(0))
		open := func() Engine {
			p, err := openPebble("db", options(1), fs)
			if err != nil {
				rt.Fatal(err)
			}
			return p
		}
		disk := open()
		for range rapid.IntRange(1, 12).Draw(rt, "calls") {
			now.Add(int64(rapid.SampledFrom([]time.Duration{0, time.Millisecond, time.Hour, 30 * time.Hour, -time.Hour}).Draw(rt, "advance")))
			if rapid.IntRange(0, 5).Draw(rt, "reopen") == 0 {
				if err := disk.Close(); err != nil {
					rt.Fatal(err)
				}
				disk = open()
			}
			batch := rapid.SliceOfN(rapid.Custom(drawTransfer), 1, 10).Draw(rt, "batch")
			a, b := make([]wallet.Result, len(batch)), make([]wallet.Result, len(batch))
			from := disk.Seq()
			if err := mem.Commit(context.Background(), batch, a); err != nil {
				rt.Fatal(err)
			}
			if err := disk.Commit(context.Background(), batch, b); err != nil {
				rt.Fatal(err)
			}
			if !slices.Equal(a, b) {
				rt.Fatalf("model: %+v\npebble: %+v", a, b)
			}
			if x, y := changes(rt, mem, from), changes(rt, disk, from); x != y {
				rt.Fatalf("model: %s\npebble: %s", x, y)
			}
			if x, y := everything(rt, mem), everything(rt, disk); x != y {
				rt.Fatalf("model: %s\npebble: %s", x, y)
			}
		}
		if err := disk.Close(); err != nil {
			rt.Fatal(err)
		}
		_ = mem.Close()
	})
}

var (
	someAccounts = []string{"a", "b", "c"}
	someAssets   = []string{"x", "y", "z"}
)

func drawTransfer(rt *rapid.T) wallet.Payment {
	account := func() wallet.Account {
		return wallet.Must(wallet.ParseAccount(rapid.SampledFrom(someAccounts).Draw(rt, "account")))
	}
	t := wallet.Payment{
		Op:     rapid.SampledFrom([]wallet.Op{wallet.Issue, wallet.Issue, wallet.Transfer, wallet.Transfer, wallet.Burn}).Draw(rt, "op"),
		Asset:  wallet.Must(wallet.ParseAsset(rapid.SampledFrom(someAssets).Draw(rt, "asset"))),
		Amount: wallet.Minor(rapid.Uint64Range(0, 50).Draw(rt, "amount")),
		Nonce:  rapid.Uint64Range(1, 30).Draw(rt, "nonce"),
		Idem:   wallet.Must(wallet.ParseIdemKey(fmt.Sprint(rapid.IntRange(0, 30).Draw(rt, "key")))),
		Rules: wallet.Rules{
			DailyCeiling: wallet.Minor(rapid.Uint64Range(50, 300).Draw(rt, "daily")), MaxAccountTotal: wallet.Minor(500),
			NonceMaxGap: 30,
		},
	}
	if t.Op != wallet.Issue {
		t.From = account()
	}
	if t.Op != wallet.Burn {
		t.To = account()
	}
	t.Fingerprint = t.Hash()
	return t
}

// changes since a version, as text; the order of balances within one does not matter.
func changes(rt *rapid.T, e Engine, from uint64) string {
	if from == e.Seq() {
		return ""
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var got []wallet.Change
	target := e.Seq()
	if from == 0 {
		return "" // would start at the present
	}
	err := e.Watch(ctx, from, func(c wallet.Change) {
		slices.SortFunc(c.Balances, func(a, b wallet.Balance) int { return bytes.Compare(nameOf(a), nameOf(b)) })
		if got = append(got, c); c.Seq == target {
			cancel()
		}
	})
	if ctx.Err() == nil {
		rt.Fatal(err)
	}
	return fmt.Sprintf("%+v", got)
}

func nameOf(b wallet.Balance) []byte { return appendBalanceKey(nil, b.Key) }

func everything(rt *rapid.T, e Engine) string {
	var keys []wallet.BalanceKey
	for _, account := range someAccounts {
		for _, asset := range someAssets {
			keys = append(keys, wallet.BalanceKey{Account: wallet.Must(wallet.ParseAccount(account)), Asset: wallet.Must(wallet.ParseAsset(asset))})
		}
	}
	out := make([]wallet.Balance, len(keys))
	if err := e.Lookup(context.Background(), keys, out); err != nil {
		rt.Fatal(err)
	}
	return fmt.Sprintf("%d %+v", e.Seq(), out)
}
