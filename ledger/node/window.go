package node

import (
	"bytes"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"

	"svc-wallet/wallet"
)

// effects are what a group did to the state.
type effects struct {
	accounts []effect[wallet.Account, accountRow]
	balances []effect[wallet.BalanceKey, balanceRow]
	supplies []effect[wallet.Asset, supplyRow]
	paid     []*receiptRow
	names    []keyHash // of paid
	entries  []int64   // where every placeEvery-th payment lies, in the segment of head.end
	head     headRow   // after it; its digest is the window's to make
	group    uint64    // its number in the books
}

// effect is what a group made of a row.
type effect[K, R comparable] struct {
	row     *row[K, R]
	was, is R
}

// effects are those of the books' group, whose record out has made.
func (b *books) effects(out *recorder, entries []int64) effects {
	return effects{
		b.accounts.effects(), b.balances.effects(), b.supplies.effects(), b.receipts, b.names, entries,
		headRow{head: b.head, end: out.end, chain: out.chain},
		b.group(),
	}
}

// window is what groups did that are in the journal and not in the state yet. A row that many of them changed is
// written once, and keys in their order, which spares Pebble most of the search for their places.
type window struct {
	accounts kept[wallet.Account, accountRow]
	balances kept[wallet.BalanceKey, balanceRow]
	supplies kept[wallet.Asset, supplyRow]
	keys     []newKey // one a payment
	places   []newPlace
	head     headRow // after the last group, but that its digest is the state's
	group    uint64  // its number in the books
	key, row []byte  // scratch
}

// newKey is the row that names a payment by its key's hash.
type newKey struct {
	hash keyHash
	txid wallet.TxID
}

type newPlace struct {
	txid wallet.TxID
	at   indexRow
}

// kept is rows that the state has otherwise.
type kept[K, R comparable] []effect[K, R]

// take adds what a group did. A row's place is where it knows it to be, from 1; 0 is none.
func (w *kept[K, R]) take(all []effect[K, R]) {
	for _, e := range all {
		if e.row.place == 0 {
			*w = append(*w, e)
			e.row.place = len(*w)
		} else {
			(*w)[e.row.place-1].is = e.is
		}
	}
}

// take adds what a group did, which follows the one before.
func (w *window) take(e *effects) {
	w.accounts.take(e.accounts)
	w.balances.take(e.balances)
	w.supplies.take(e.supplies)
	for i, r := range e.paid {
		w.keys = append(w.keys, newKey{e.names[i], r.TxID})
		if i%placeEvery == 0 {
			at := indexRow{place{e.head.end.segment, e.entries[i/placeEvery]}, byte(min(placeEvery, len(e.paid)-i))} //nolint:gosec // at most placeEvery
			w.places = append(w.places, newPlace{r.TxID, at})
		}
	}
	digest := w.head.digest
	w.head, w.group = e.head, e.group
	w.head.digest = digest
}

// payments are those in the window.
func (w *window) payments() int { return len(w.keys) }

// write puts everything into the batch, and empties the window. Batch.Set fails only on a batch that is committed
// already.
func (w *window) write(b *pebble.Batch) {
	writeRows(w, b, &w.accounts, appendAccountKey)
	writeRows(w, b, &w.balances, appendBalanceKey)
	writeRows(w, b, &w.supplies, appendSupplyKey)
	slices.SortFunc(w.keys, func(a, b newKey) int { return bytes.Compare(a.hash[:], b.hash[:]) })
	for i := range w.keys {
		k := &w.keys[i]
		w.key = append(append(w.key[:0], kindKey), k.hash[:]...)
		_ = b.Set(w.key, k.txid[:], nil)
	}
	for i := range w.places {
		p := &w.places[i]
		w.key, w.row = appendPlaceKey(w.key[:0], p.txid), p.at.append(w.row[:0])
		_ = b.Set(w.key, w.row, nil)
	}
	w.keys, w.places = w.keys[:0], w.places[:0]
	w.row = w.head.append(w.row[:0])
	_ = b.Set([]byte(headKey), w.row, nil)
}

// writeRows writes rows and keeps the digest of the state current: the old row leaves it, the new one enters. A
// row that was never stored is the zero row.
func writeRows[K, R comparable, P interface {
	*R
	append([]byte) []byte
}](w *window, b *pebble.Batch, all *kept[K, R], name func([]byte, K) []byte) {
	var none R
	for i := range *all {
		e := &(*all)[i]
		w.key = name(w.key[:0], e.row.key)
		if e.was != none {
			w.row = P(&e.was).append(w.row[:0])
			w.head.digest -= rowHash(w.key, w.row)
		}
		w.row = P(&e.is).append(w.row[:0])
		w.head.digest += rowHash(w.key, w.row)
		_ = b.Set(w.key, w.row, nil)
		e.row.place = 0
	}
	clear(*all) // the books may let go of the rows
	*all = (*all)[:0]
}

// rowHash is one row's part in the digest of the state. It finds lost and stale rows, not forged
// ones. Keys of one kind and length are never each other's continuation, so key and row hash as
// one text.
func rowHash(key, row []byte) uint64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(key)
	_, _ = d.Write(row)
	return d.Sum64()
}
