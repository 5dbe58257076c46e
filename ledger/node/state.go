package node

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"svc-wallet/wallet"
)

// The state is what payments are judged by, in Pebble, and where each one lies in the journal. The rows
// of some groups are one batch, written once the journal has the groups, without a log of Pebble's own:
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
	db     *pebble.DB
	folder folder
	it     *pebble.Iterator // sees the store as it was at the first read after rest
	buf    []byte
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

func (s *stateStore) key(k keyHash) (*receiptRow, error) {
	s.buf = appendKeyKey(s.buf[:0], k)
	id, err := seek[txidRow](s)
	if err != nil || id.IsZero() {
		return nil, err
	}
	return s.folder.payment(s.db, id.TxID, k)
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

// recorder turns groups into records.
type recorder struct {
	ledger  [16]byte
	segment int64 // bytes, after which one begins
	end     place // of the journal
	chain   uint64
	spare   sync.Pool // of *[]byte: records that the journal has
}

// record makes the group's record, which begins at offset. opens is not nil where a segment begins
// with it; entries are the offsets of every placeEvery-th entry.
func (w *recorder) record(paid []*receiptRow) (opens *header, data *[]byte, offset int64, entries []int64) {
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
