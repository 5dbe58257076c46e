package node

import (
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
)

// stateWriter turns groups into records and rows. It is the writer's.
type stateWriter struct {
	ledger   [16]byte
	segment  int64 // bytes, after which one begins
	digest   uint64
	end      place // of the journal
	chain    uint64
	key, row []byte    // scratch
	spare    sync.Pool // of *[]byte: records that the journal has
}

// record makes the group's record, which begins at offset. opens is not nil where a segment begins
// with it; entries are the offsets of every placeEvery-th entry.
func (w *stateWriter) record(paid []*receiptRow) (opens *header, data *[]byte, offset int64, entries []int64) {
	if w.end.offset == 0 || w.end.offset >= w.segment {
		opens = &header{w.ledger, paid[0].seq, w.end, w.chain}
		w.end = place{paid[0].seq, headerSize}
	}
	data, ok := w.spare.Get().(*[]byte)
	if !ok {
		data = new([]byte)
	}
	offset = w.end.offset
	*data, w.chain, entries = appendRecord((*data)[:0], paid, w.chain, offset)
	w.end.offset += int64(len(*data))
	return opens, data, offset, entries
}

// rows puts what the books' group changed into the batch, and where its entries lie: entries[i] is
// the offset of entry i*placeEvery. Batch.Set fails only on a batch that is committed already.
func (w *stateWriter) rows(b *pebble.Batch, books *books, entries []int64) {
	for r := range books.accounts.changed() {
		w.key = appendAccountKey(w.key[:0], r.key)
		saveState(w, b, &r.was, &r.is)
	}
	for r := range books.balances.changed() {
		w.key = appendBalanceKey(w.key[:0], r.key)
		saveState(w, b, &r.was, &r.is)
	}
	for r := range books.supplies.changed() {
		w.key = appendSupplyKey(w.key[:0], r.key)
		saveState(w, b, &r.was, &r.is)
	}
	for i, r := range books.receipts {
		w.key = appendKeyKey(w.key[:0], keyName{r.Holder(), r.Idem})
		_ = b.Set(w.key, r.TxID[:], nil)
		if i%placeEvery == 0 {
			at := indexRow{place{w.end.segment, entries[i/placeEvery]}, byte(min(placeEvery, len(books.receipts)-i))} //nolint:gosec // at most placeEvery
			w.key, w.row = appendPlaceKey(w.key[:0], r.TxID), at.append(w.row[:0])
			_ = b.Set(w.key, w.row, nil)
		}
	}
	h := headRow{books.head, w.digest, w.end, w.chain}
	w.row = h.append(w.row[:0])
	_ = b.Set([]byte(headKey), w.row, nil)
}

// saveState saves a row of the state under w.key and keeps the digest of the state current: the
// old row leaves it, the new one enters. A row that was never stored is the zero row.
func saveState[R comparable, P interface {
	*R
	append([]byte) []byte
}](w *stateWriter, b *pebble.Batch, was, is P) {
	var none R
	if *was != none {
		w.row = was.append(w.row[:0])
		w.digest -= rowHash(w.key, w.row)
	}
	w.row = is.append(w.row[:0])
	w.digest += rowHash(w.key, w.row)
	_ = b.Set(w.key, w.row, nil)
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
