package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"svc-wallet/wallet"
)

// journalReader reads records in order, checked against those before.
type journalReader struct {
	name  string
	file  vfs.File
	from  io.Reader
	at    int64
	end   int64  // of the records; 0: not known
	seq   uint64 // of the last payment before
	chain uint64
	gap   bool // the next record follows nothing that could be read
	buf   []byte
}

// next returns io.EOF behind the last record, and a damageError where the bytes are no record that
// follows. Where the end is not known, the first zeros are.
func (r *journalReader) next() (rec record, err error) {
	r.buf = append(r.buf[:0], make([]byte, recordHead)...)
	if _, err := io.ReadFull(r.from, r.buf); err != nil && !ended(err) {
		return rec, err
	}
	if binary.BigEndian.Uint32(r.buf) == 0 {
		if r.end > 0 && r.at != r.end {
			return rec, damagef(r.name, "its records end at %d instead of %d", r.at, r.end)
		}
		return rec, io.EOF
	}
	length := binary.BigEndian.Uint32(r.buf[4:])
	if string(r.buf[:4]) != recordMagic || length > maxEntries {
		return rec, damagef(r.name, "no record begins at %d", r.at)
	}
	size := recordHead + int(length) + recordTail
	r.buf = append(r.buf, make([]byte, size-recordHead)...)
	if _, err := io.ReadFull(r.from, r.buf[recordHead:]); err != nil && !ended(err) {
		return rec, err
	}
	if rec = recordOf(r.buf); rec.count == 0 {
		return rec, damagef(r.name, "the record at %d does not check", r.at)
	}
	rec.begin, rec.end = r.at, r.at+int64(size)
	if rec.first != r.seq+1 || (!r.gap && rec.chain != chainOn(r.chain, r.buf[:size-recordTail])) {
		return rec, damagef(r.name, "the record at %d, payment %d, does not follow payment %d", r.at, rec.first, r.seq)
	}
	r.at, r.seq, r.chain, r.gap = rec.end, r.seq+uint64(rec.count), rec.chain, false //nolint:gosec // small
	return rec, nil
}

// skip goes on at the next whole record behind damage, before the end and with payments up to last.
// Where there is none it says so. It takes the rest of the segment into memory for it.
func (r *journalReader) skip(last uint64) (found bool, err error) {
	rest, err := readFrom(r.file, r.at)
	if err != nil {
		return false, err
	}
	rest = rest[:min(max(0, r.end-r.at), int64(len(rest)))]
	at, rec := nextRecord(rest[min(1, len(rest)):], r.seq+1, last)
	if at < 0 {
		return false, nil
	}
	rest = rest[at+1:]
	r.at, r.seq, r.gap = r.at+int64(at)+1, rec.first-1, true
	r.from = bytes.NewReader(rest)
	return true, nil
}

// rest is what lies behind the last record.
func (r *journalReader) rest() ([]byte, error) { return readFrom(r.file, r.at) }

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func readFrom(f vfs.File, offset int64) ([]byte, error) {
	info, err := f.Stat()
	if err != nil || info.Size() <= offset {
		return nil, err
	}
	rest := make([]byte, info.Size()-offset)
	n, err := f.ReadAt(rest, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return rest[:n], err
}

// find reads the receipt of a transaction; nil where there is none.
func (f folder) find(from pebble.Reader, id wallet.TxID) (*receiptRow, error) {
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
	r, err := f.readEntry(at, id)
	if err != nil {
		if pruned, again := load[prunedRow](from, []byte(prunedKey)); again == nil && at.segment < pruned.first {
			return nil, nil //nolint:nilnil // it went while it was looked for
		}
	}
	return r, err
}

// payment is find for a key's row, which says that there is a payment.
func (f folder) payment(from pebble.Reader, id wallet.TxID, k keyHash) (*receiptRow, error) {
	r, err := f.find(from, id)
	if err != nil || (r != nil && hashKey(r.Holder(), r.Idem) == k) {
		return r, err
	}
	if again, err := load[txidRow](from, appendKeyKey(nil, k)); err == nil && again.IsZero() {
		return nil, nil //nolint:nilnil // it was pruned while it was looked for
	}
	return nil, damagef(journalDir, "transaction %s is not the payment that its key tells of", id)
}

// readEntry finds the receipt of a transaction among the entries of an index row; nil where it is
// not there. An entry that does not check is passed over if it can be, since it need not be the one.
func (f folder) readEntry(at indexRow, id wallet.TxID) (*receiptRow, error) {
	name := f.fs.PathJoin(f.journal(), segmentName(at.segment))
	file, err := f.fs.Open(name)
	if err != nil {
		return nil, damagef(name, "cannot be read: %v", err)
	}
	defer func() { _ = file.Close() }()
	buf := make([]byte, int(at.n)*(entryHead+receiptMaxSize))
	n, err := file.ReadAt(buf, at.offset)
	if err != nil && !ended(err) {
		return nil, damagef(name, "cannot be read: %v", err)
	}
	bad := false
	for buf, i := buf[:n], byte(0); i < at.n; i++ {
		r, size, err := entryAt(buf)
		switch {
		case err != nil && size == 0:
			return nil, damagef(name, "the entries at %d do not check", at.offset)
		case err != nil:
			bad = true
		case r.TxID == id:
			return r, nil
		}
		buf = buf[size:]
	}
	if bad {
		return nil, damagef(name, "an entry behind %d does not check", at.offset)
	}
	return nil, nil //nolint:nilnil // nil is that there is none
}
