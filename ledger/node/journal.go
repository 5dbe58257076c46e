package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"svc-wallet/wallet"
)

// The journal is the ledger: every payment in the order of its making. One record holds the
// payments of one group, and one write and one sync of it is the step that makes them durable.
// All else in the folder is made from it.
//
// It lies in segments, files named for the version that they start with. A segment is a header,
// records and zeros, which are written ahead because a sync is twice as fast where a file does not
// grow. Integers are big-endian, checksums CRC-32C.
//
//	header  magic 8, format 4, ledger 16, first version 8,
//	        of the segment before: first version 8, end 8, chain 8; checksum 4
//	record  magic 4, length of the entries 4, first version 8, count 4, entries, chain 8, checksum 4
//	entry   length 2, checksum 4, receipt
//
// The chain is a running hash over all records since the first: no record, and no segment, can be
// missing, stand in another's place or come from another ledger without a break in it. An entry's
// own checksum serves who reads one receipt.
//
// What a crash leaves: one write is under way at a time, so of the newest record any part may be
// missing, and nobody was told of it. Behind it there are only zeros. A record that does not check
// and has a good one behind it, or that was told of, is therefore damage and no crash.
const (
	segmentMagic = "\xb6wallet\x02"
	recordMagic  = "\xb6rec"

	headerSize = 8 + 4 + 16 + 8 + 3*8 + 4
	recordHead = 4 + 4 + 8 + 4
	recordTail = 8 + 4
	entryHead  = 2 + 4

	maxEntries = (MaxCommit + maxGroup) * (entryHead + receiptMaxSize) // bytes of the largest group
	placeEvery = 16                                                    // entries between those that the index knows

	segmentBytes = 64 << 20 // a record that begins behind it begins a segment
	fillBytes    = 1 << 20  // of zeros at a time
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// damageError says what was found where bytes are not those that were written.
type damageError struct{ file, what string }

func (e *damageError) Error() string { return e.file + ": " + e.what }

func damagef(file, format string, args ...any) error {
	return &damageError{file, fmt.Sprintf(format, args...)}
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d.log", first) }

// header is how a segment begins: what it is part of, and what it follows.
type header struct {
	ledger [16]byte
	first  uint64 // version of its first payment
	before place  // the segment before, and where that ends; zero: there is none
	chain  uint64 // of all records before
}

func (h *header) append(dst []byte) []byte {
	at := len(dst)
	dst = binary.BigEndian.AppendUint32(append(dst, segmentMagic...), storeFormat)
	dst = append(dst, h.ledger[:]...)
	dst = binary.BigEndian.AppendUint64(dst, h.first)
	dst = binary.BigEndian.AppendUint64(h.before.append(dst), h.chain)
	return binary.BigEndian.AppendUint32(dst, checksum(dst[at:]))
}

var (
	errHeader = errors.New("no segment begins here")
	errNewer  = errors.New("written by a newer version")
)

func (h *header) decode(b []byte) error {
	if len(b) != headerSize || string(b[:8]) != segmentMagic || binary.BigEndian.Uint32(b[headerSize-4:]) != checksum(b[:headerSize-4]) {
		return errHeader
	}
	if format := binary.BigEndian.Uint32(b[8:]); format != storeFormat {
		return fmt.Errorf("%w: the store has format %d, this version knows %d", errNewer, format, storeFormat)
	}
	copy(h.ledger[:], b[12:])
	h.first, h.chain = binary.BigEndian.Uint64(b[28:]), binary.BigEndian.Uint64(b[52:])
	return h.before.decode(b[36:52])
}

// appendRecord appends the record of a group, and says where in it every placeEvery-th entry is.
func appendRecord(dst []byte, group []*receiptRow, chain uint64) (record []byte, after uint64, places []int) {
	at := len(dst)
	dst = append(append(dst, recordMagic...), 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, group[0].seq)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(group))) //nolint:gosec // maxGroup bounds it
	for i, r := range group {
		if i%placeEvery == 0 {
			places = append(places, len(dst)-at)
		}
		dst = appendEntry(dst, r)
	}
	binary.BigEndian.PutUint32(dst[at+4:], uint32(len(dst)-at-recordHead)) //nolint:gosec // maxEntries bounds it
	after = chainOn(chain, dst[at:])
	dst = binary.BigEndian.AppendUint64(dst, after)
	return binary.BigEndian.AppendUint32(dst, checksum(dst[at:])), after, places
}

func appendEntry(dst []byte, r *receiptRow) []byte {
	at := len(dst)
	dst = r.append(append(dst, 0, 0, 0, 0, 0, 0))
	binary.BigEndian.PutUint16(dst[at:], uint16(len(dst)-at-entryHead)) //nolint:gosec // receiptMaxSize bounds it
	binary.BigEndian.PutUint32(dst[at+2:], checksum(dst[at+entryHead:]))
	return dst
}

// chainOn is the chain after a record, of which it takes all but chain and checksum.
func chainOn(chain uint64, record []byte) uint64 {
	var d xxhash.Digest
	var before [8]byte
	binary.BigEndian.PutUint64(before[:], chain)
	d.Reset()
	_, _ = d.Write(before[:])
	_, _ = d.Write(record)
	return d.Sum64()
}

// journalWriter writes records, one after the other. It is one goroutine's.
type journalWriter struct {
	fs     vfs.FS
	dir    string
	fill   int64
	file   vfs.File // the newest segment
	filled int64    // bytes of it that are there, zeros included
}

// open goes on in a segment that is there, behind end. What a crash left there is wiped first, lest
// a shorter record leave the rest of it behind. A crash here leaves some of it, and it is wiped then.
func (w *journalWriter) open(end place) (err error) {
	name := w.fs.PathJoin(w.dir, segmentName(end.segment))
	if w.file, err = w.fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified); err != nil {
		return err
	}
	rest, err := readFrom(w.file, end.offset)
	if err != nil {
		return err
	}
	w.filled = end.offset + int64(len(rest))
	if len(bytes.Trim(rest, "\x00")) == 0 {
		return nil
	}
	if _, err := w.file.WriteAt(make([]byte, len(rest)), end.offset); err != nil {
		return err
	}
	return w.file.Sync()
}

// begin begins a segment. A crash here leaves a newest segment without a whole header, or none;
// either is begun again.
func (w *journalWriter) begin(h *header) error {
	if w.file != nil {
		if err := w.file.Close(); err != nil {
			return err
		}
	}
	var err error
	if w.file, err = w.fs.OpenReadWrite(w.fs.PathJoin(w.dir, segmentName(h.first)), vfs.WriteCategoryUnspecified); err != nil {
		return err
	}
	w.filled = w.fill
	first := append(h.append(nil), make([]byte, max(0, w.fill-headerSize))...)
	if _, err := w.file.WriteAt(first, 0); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	return syncFolder(w.fs, w.dir)
}

// append writes the record at offset and syncs it. Once it returns nil, the record is durable; when
// it fails, nobody knows, and nothing may be written any more.
func (w *journalWriter) append(record []byte, offset int64) error {
	if end := offset + int64(len(record)); end > w.filled {
		ahead := end + w.fill
		if _, err := w.file.WriteAt(make([]byte, ahead-w.filled), w.filled); err != nil {
			return err
		}
		w.filled = ahead
	}
	if _, err := w.file.WriteAt(record, offset); err != nil {
		return err
	}
	return w.file.SyncData()
}

func (w *journalWriter) close() error {
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}

func syncFolder(fs vfs.FS, dir string) error {
	f, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

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

// record is one group as it lies in a segment.
type record struct {
	begin, end int64
	first      uint64
	count      int
	entries    []byte // valid until the next record is read
	chain      uint64
}

// each decodes the entries in order.
func (r *record) each(file string, on func(i int, offset int64, receipt *receiptRow) error) error {
	rest := r.entries
	for i := range r.count {
		offset := r.begin + recordHead + int64(len(r.entries)-len(rest))
		receipt, size, err := entryAt(rest)
		if err != nil || receipt.seq != r.first+uint64(i) {
			return damagef(file, "entry %d of the record at %d is not a receipt", i, r.begin)
		}
		if err := on(i, offset, receipt); err != nil {
			return err
		}
		rest = rest[size:]
	}
	if len(rest) > 0 {
		return damagef(file, "the record at %d holds more than its %d entries", r.begin, r.count)
	}
	return nil
}

var errEntry = errors.New("an entry does not check")

// entryAt decodes the entry that b begins with. size is told also where only the checksum is wrong.
func entryAt(b []byte) (receipt *receiptRow, size int, err error) {
	if len(b) < entryHead {
		return nil, 0, errEntry
	}
	size = entryHead + int(binary.BigEndian.Uint16(b))
	if len(b) < size {
		return nil, 0, errEntry
	}
	receipt = new(receiptRow)
	if checksum(b[entryHead:size]) != binary.BigEndian.Uint32(b[2:]) || receipt.decode(b[entryHead:size]) != nil {
		return nil, size, errEntry
	}
	return receipt, size, nil
}

// journalReader reads records in order, checked against those before.
type journalReader struct {
	name  string
	file  vfs.File
	from  io.Reader
	at    int64
	seq   uint64 // of the last payment before
	chain uint64
	gap   bool // the next record follows nothing that could be read
	buf   []byte
}

// next returns io.EOF where only zeros, or nothing, can follow, and a damageError where the bytes
// are no record that follows.
func (r *journalReader) next() (rec record, err error) {
	r.buf = append(r.buf[:0], make([]byte, recordHead)...)
	if _, err := io.ReadFull(r.from, r.buf); err != nil && !ended(err) {
		return rec, err
	}
	if binary.BigEndian.Uint32(r.buf) == 0 {
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

// skip goes on at the next whole record behind damage, before end and with payments up to last. Where
// there is none it says so. It takes the rest of the segment into memory for it.
func (r *journalReader) skip(end int64, last uint64) (found bool, err error) {
	rest, err := readFrom(r.file, r.at)
	if err != nil {
		return false, err
	}
	rest = rest[:min(max(0, end-r.at), int64(len(rest)))]
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

// recordOf looks at a whole record's bytes; count is 0 where they do not check.
func recordOf(b []byte) record {
	tail := b[len(b)-recordTail:]
	if checksum(b[:len(b)-4]) != binary.BigEndian.Uint32(tail[8:]) {
		return record{}
	}
	return record{
		first: binary.BigEndian.Uint64(b[8:]), count: int(binary.BigEndian.Uint32(b[16:])),
		entries: b[recordHead : len(b)-recordTail], chain: binary.BigEndian.Uint64(tail),
	}
}

// goodRecord says whether a whole record lies anywhere in b: what lies before it is no torn end.
func goodRecord(b []byte) bool {
	at, _ := nextRecord(b, 0, math.MaxUint64)
	return at >= 0
}

// nextRecord finds the first whole record in b that begins with one of the payments first to last; -1
// where there is none.
func nextRecord(b []byte, first, last uint64) (at int, rec record) {
	for at = 0; ; at++ {
		skip := bytes.Index(b[at:], []byte(recordMagic))
		if at += max(0, skip); skip < 0 || len(b)-at < recordHead+recordTail {
			return -1, record{}
		}
		length := int64(binary.BigEndian.Uint32(b[at+4:]))
		if size := recordHead + length + recordTail; length <= maxEntries && size <= int64(len(b)-at) {
			if rec = recordOf(b[at:][:size]); rec.count > 0 && rec.first >= first && rec.first <= last {
				return at, rec
			}
		}
	}
}

// readEntry finds the receipt of a transaction among the entries of an index row; nil where it is
// not there. An entry that does not check is passed over if it can be, since it need not be the one.
func readEntry(fs vfs.FS, dir string, at indexRow, id wallet.TxID) (*receiptRow, error) {
	name := fs.PathJoin(dir, segmentName(at.segment))
	f, err := fs.Open(name)
	if err != nil {
		return nil, damagef(name, "cannot be read: %v", err)
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, int(at.n)*(entryHead+receiptMaxSize))
	n, err := f.ReadAt(buf, at.offset)
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

// durableFile says which version was durable, apart from the journal that it vouches for: after a
// crash of the process the version that was acknowledged, after a power cut that or an earlier one.
// It is written after each sync of the journal, and itself synced only where a segment begins and at
// each start, so that it is always there. Of its two slots one is always whole.
type durableFile struct {
	file vfs.File
	next int64 // slot
}

const (
	durableName  = "durable"
	durableMagic = "\xb6durable"
	durableSize  = 8 + 8 + 4
	durableApart = 4096 // two slots never share a sector
)

func openDurable(fs vfs.FS, dir string) (*durableFile, error) {
	f, err := fs.OpenReadWrite(fs.PathJoin(dir, durableName), vfs.WriteCategoryUnspecified)
	return &durableFile{file: f}, err
}

func (d *durableFile) write(seq uint64) error {
	b := binary.BigEndian.AppendUint64([]byte(durableMagic), seq)
	b = binary.BigEndian.AppendUint32(b, checksum(b))
	_, err := d.file.WriteAt(b, d.next*durableApart)
	d.next = 1 - d.next
	return err
}

// readDurable is the version that the file vouches for; without ok there is no such file, or neither
// slot checks.
func readDurable(fs vfs.FS, dir string) (seq uint64, ok bool, err error) {
	f, err := fs.Open(fs.PathJoin(dir, durableName))
	if isAbsent(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	b, err := io.ReadAll(io.LimitReader(f, durableApart+durableSize))
	for at := 0; at+durableSize <= len(b); at += durableApart {
		slot := b[at : at+durableSize]
		if string(slot[:8]) == durableMagic && checksum(slot[:16]) == binary.BigEndian.Uint32(slot[16:]) {
			seq, ok = max(seq, binary.BigEndian.Uint64(slot[8:])), true
		}
	}
	return seq, ok, errors.Join(err, f.Close())
}
