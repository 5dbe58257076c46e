package node

import (
	"context"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"svc-wallet/wallet"
)

// TestPaymentCostsWhatItTouches: a payment of an account with many assets reads and publishes its
// own balances only, on either engine, so such an account slows nobody else's payments. Method: an
// account with a balance in each of many assets pays once in one of them; the rows that the books
// touched and the figures that a watcher is told are counted.
func TestPaymentCostsWhatItTouches(t *testing.T) {
	const assets = 3000
	t.Run("model", func(t *testing.T) {
		m := openModel(Options{Now: frozen}).(*model)
		defer mustClose(t, m)
		payWithManyAssets(t, m, m.books, assets)
	})
	t.Run("pebble", func(t *testing.T) {
		p := mustOpen(t, vfs.NewMem(), "db")
		defer mustClose(t, p)
		payWithManyAssets(t, p, p.books, assets)
	})
}

func payWithManyAssets(t *testing.T, e Engine, b *books, assets int) {
	t.Helper()
	batch := make([]wallet.Payment, assets)
	for i := range batch {
		batch[i] = payment(0, 0)
		batch[i].Asset = wallet.Must(wallet.ParseAsset(fmt.Sprintf("asset-%d", i)))
		batch[i].Nonce = uint64(i + 1)
		batch[i].Idem = wallet.Must(wallet.ParseIdemKey(fmt.Sprintf("fund-%d", i)))
		batch[i].Fingerprint = batch[i].Hash()
	}
	funded := send(t, e, batch...)[assets-1]
	if funded.Code != wallet.OK {
		t.Fatalf("funding: %s", funded.Code)
	}

	pay := payment(0, 1)
	pay.Asset = batch[0].Asset
	pay.Fingerprint = pay.Hash()
	paid := send(t, e, pay)[0]
	if paid.Code != wallet.OK {
		t.Fatalf("payment: %s", paid.Code)
	}
	if a, s, r := len(b.accounts.touched), len(b.supplies.touched), len(b.balances.touched); a != 2 || s != 1 || r != 2 {
		t.Errorf("one payment touched %d accounts, %d supplies, %d balances", a, s, r)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var change wallet.Change
	if err := e.Watch(ctx, paid.Seq-1, func(c wallet.Change) { change = c; cancel() }); ctx.Err() == nil {
		t.Fatal(err)
	}
	if len(change.Balances) != 2 || change.Balances[0] != paid.Balances[0] || change.Balances[1] != paid.Balances[1] {
		t.Errorf("one payment published %d figures, %v", len(change.Balances), change.Balances[:min(2, len(change.Balances))])
	}
}
