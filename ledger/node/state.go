package node

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"svc-wallet/wallet"
)

// The state is what payments are judged by, in Pebble, and where each one lies in the journal. A
// group's rows are one batch, written once the journal has the group, without a log of Pebble's own:
// a crash takes the newest batches away again, never one without those after it, nor half of one
// (a batch lies in one memtable, and memtables are flushed in order), and the journal has them.

// Sizes of Pebble's parts.
const (
	memTable   = 4 << 20 // what a start after a crash may have to do again
	blockCache = 128 << 20
	openFiles  = 512
)

// stateStore is the rows in Pebble, for one goroutine. It reads them through one iterator a group,
// because a Get does not use the filters of the last level, where most of the data is
// (IterOptions.UseL6Filters): most keys asked for are new, and each would cost the read of a block.
type stateStore struct {
	db      *pebble.DB
	journal journal
	it      *pebble.Iterator // sees the store as it was at the first read after rest
	buf     []byte
}

// rest lets go of what the iterator pins. The next read sees what was written since.
func (s *stateStore) rest() {
	if s.it != nil {
		_ = s.it.Close() // its error is that of a read, which was told
		s.it = nil
	}
}

func (s *stateStore) account(k wallet.Account) (accountRow, error) {
	s.buf = appendAccountKey(s.buf[:0], k)
	return seek[accountRow](s)
}

func (s *stateStore) balance(k wallet.BalanceKey) (balanceRow, error) {
	s.buf = appendBalanceKey(s.buf[:0], k)
	return seek[balanceRow](s)
}

func (s *stateStore) supply(k wallet.Asset) (supplyRow, error) {
	s.buf = appendSupplyKey(s.buf[:0], k)
	return seek[supplyRow](s)
}

func (s *stateStore) key(k keyName) (*receiptRow, error) {
	s.buf = appendKeyKey(s.buf[:0], k)
	id, err := seek[txidRow](s)
	if err != nil || id.IsZero() {
		return nil, err
	}
	return s.journal.paid(s.db, id.TxID, k)
}

// seek reads the row under s.buf; the zero row where there is none.
func seek[R any, P interface {
	*R
	decode([]byte) error
}](s *stateStore) (row R, err error) {
	defer func() {
		if err != nil {
			s.rest() // a broken iterator reads nothing more
			err = unreadable(s.buf, err)
		}
	}()
	if s.it == nil {
		if s.it, err = s.db.NewIter(&pebble.IterOptions{UseL6Filters: true}); err != nil {
			return row, err
		}
	}
	if !s.it.SeekPrefixGE(s.buf) {
		return row, s.it.Error()
	}
	value, err := s.it.ValueAndErr()
	if err != nil {
		return row, err
	}
	return row, P(&row).decode(value)
}

// load reads a row; the zero row where there is none.
func load[R any, P interface {
	*R
	decode([]byte) error
}](from pebble.Reader, key []byte) (row R, err error) {
	value, closer, err := from.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return row, nil
	}
	if err != nil {
		return row, unreadable(key, err)
	}
	err = P(&row).decode(value)
	if err = errors.Join(err, closer.Close()); err != nil {
		return row, unreadable(key, err)
	}
	return row, nil
}

func unreadable(key []byte, err error) error {
	return damagef("state", "%s cannot be read: %s", rowName(key), firstLine(err.Error()))
}

// rowName is a row's key in words.
func rowName(key []byte) string {
	name := key[min(1, len(key)):]
	switch kind := string(key[:len(key)-len(name)]); {
	case string(key) == headKey:
		return "the head"
	case string(key) == prunedKey:
		return "the row of what was pruned"
	case kind == string(kindAccount):
		return fmt.Sprintf("the nonces of account %.80q", name)
	case kind == string(kindBalance) && len(name) > 0 && len(name) > int(name[0]):
		return fmt.Sprintf("the balance of %.80q in %.80q", name[1:1+name[0]], name[1+name[0]:])
	case kind == string(kindSupply):
		return fmt.Sprintf("the supply of %.80q", name)
	case kind == string(kindKey):
		return fmt.Sprintf("the key with hash %.80x", name)
	case kind == string(kindPlace) && len(name) == len(wallet.TxID{}):
		return "the index of transaction " + wallet.TxID(name).String()
	default:
		return fmt.Sprintf("row %.80q", key)
	}
}

// journal is where receipts are read.
type journal struct {
	fs  vfs.FS
	dir string
}

// find reads the receipt of a transaction; nil where there is none.
func (j journal) find(from pebble.Reader, id wallet.TxID) (*receiptRow, error) {
	it, err := from.NewIter(&pebble.IterOptions{LowerBound: []byte{kindPlace}, UpperBound: []byte{kindPlace + 1}})
	if err != nil {
		return nil, err
	}
	var at indexRow
	ok := it.SeekLT(append(appendPlaceKey(nil, id), 0)) // the last that begins with it or before it
	if ok {
		err = at.decode(it.Value())
	}
	if err = errors.Join(err, it.Error(), it.Close()); err != nil {
		return nil, unreadable(appendPlaceKey(nil, id), err)
	}
	if !ok {
		return nil, nil //nolint:nilnil // nil is that there is none
	}
	r, err := readEntry(j.fs, j.dir, at, id)
	if err != nil {
		if pruned, again := load[prunedRow](from, []byte(prunedKey)); again == nil && at.segment < pruned.first {
			return nil, nil //nolint:nilnil // it went while it was looked for
		}
	}
	return r, err
}

// paid is find for a key's row, which says that there is a payment.
func (j journal) paid(from pebble.Reader, id wallet.TxID, k keyName) (*receiptRow, error) {
	r, err := j.find(from, id)
	if err != nil || (r != nil && r.Holder() == k.holder && r.Idem == k.key) {
		return r, err
	}
	if again, err := load[txidRow](from, appendKeyKey(nil, k)); err == nil && again.IsZero() {
		return nil, nil //nolint:nilnil // it was pruned while it was looked for
	}
	return nil, damagef(journalDir, "transaction %s is not the payment that its key tells of", id)
}

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

// record makes the group's record. opens is not nil where a segment begins with it.
func (w *stateWriter) record(group []*receiptRow) (opens *header, data *[]byte, begin place, entries []int64) {
	if w.end.offset == 0 || w.end.offset >= w.segment {
		opens = &header{w.ledger, group[0].seq, w.end, w.chain}
		w.end = place{group[0].seq, headerSize}
	}
	begin = w.end
	data, ok := w.spare.Get().(*[]byte)
	if !ok {
		data = new([]byte)
	}
	record, chain, places := appendRecord((*data)[:0], group, w.chain)
	*data = record
	for _, at := range places {
		entries = append(entries, begin.offset+int64(at))
	}
	w.end.offset += int64(len(record))
	w.chain = chain
	return opens, data, begin, entries
}

// rows puts what the books' group changed into the batch, and where its entries lie: entries[i] is
// the offset of entry i*placeEvery. Batch.Set fails only on a batch that is committed already.
func (w *stateWriter) rows(b *pebble.Batch, books *books, entries []int64) {
	for _, r := range books.accounts.touched {
		if r.is != r.was {
			w.key = appendAccountKey(w.key[:0], r.key)
			saveState(w, b, &r.was, &r.is)
		}
	}
	for _, r := range books.balances.touched {
		if r.is != r.was {
			w.key = appendBalanceKey(w.key[:0], r.key)
			saveState(w, b, &r.was, &r.is)
		}
	}
	for _, r := range books.supplies.touched {
		if r.is != r.was {
			w.key = appendSupplyKey(w.key[:0], r.key)
			saveState(w, b, &r.was, &r.is)
		}
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

func pebbleOptions(p *pebbleEngine) *pebble.Options {
	o := &pebble.Options{
		FS:                          p.fs,
		FormatMajorVersion:          pebble.FormatNewest,
		DisableWAL:                  true,
		CacheSize:                   blockCache,
		MaxOpenFiles:                openFiles,
		MemTableSize:                memTable,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       1000, // slow compactions cost reads a little, a stop costs payments
		Logger:                      pebbleLogger{p},
		EventListener: &pebble.EventListener{
			BackgroundError: p.background,
			DataCorruption:  func(i pebble.DataCorruptionInfo) { p.damaged(i.Details) }, // by default it ends the process
		},
	}
	o.Experimental.CompactionScheduler = &lateScheduler{pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest(), &p.compacts}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most keys asked for are new
	}
	return o
}

// lateScheduler lets nothing be compacted before Pebble is open: an opening that fails, on a full disk,
// takes the tables from under a compaction that is on its way, which then panics. Its other parts are
// Pebble's own, but for a look every 100 ms, which only matters where several compactions may run at once.
type lateScheduler struct {
	*pebble.ConcurrencyLimitScheduler
	open *atomic.Bool
}

// TrySchedule implements pebble.CompactionScheduler.
func (s *lateScheduler) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	if !s.open.Load() {
		return false, nil
	}
	return s.ConcurrencyLimitScheduler.TrySchedule()
}

// background is told when Pebble could not flush or compact. It would try again, for ever and at
// once, so what is not damage of one table ends the engine: a full disk, say.
func (p *pebbleEngine) background(err error) {
	if pebble.IsCorruptionError(err) {
		p.damaged(err)
		return
	}
	p.fail(fmt.Errorf("node: %s: flush or compaction failed: %s", p.dir, firstLine(err.Error())))
}

// pebbleLogger takes Pebble's last words as the engine's end: Pebble does not expect Fatalf to
// return, and where it does nothing is acknowledged any more. While the store is being opened nothing
// is logged: the refusal says it, in one line.
type pebbleLogger struct{ p *pebbleEngine }

func (l pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	if l.p.opened.Load() {
		l.p.opts.Log.WithField("reason", firstLine(fmt.Sprintf(format, args...))).Error("store_error")
	}
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.p.fail(fmt.Errorf("node: %s: the store failed: %s", l.p.dir, firstLine(fmt.Sprintf(format, args...))))
}

// firstLine leaves out the stack traces that Pebble's texts go on with.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
