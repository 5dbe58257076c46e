package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/cespare/xxhash/v2"
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
	dst = append64(append(dst, h.ledger[:]...), h.first)
	dst = append64(h.before.append(dst), h.chain)
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
	c := cursor{b: b[8 : headerSize-4]}
	if format := c.u32(); format != storeFormat {
		return fmt.Errorf("%w: the store has format %d, this version knows %d", errNewer, format, storeFormat)
	}
	copy(h.ledger[:], c.take(len(h.ledger)))
	h.first, h.before, h.chain = c.u64(), c.place(), c.u64()
	return c.end()
}

// appendRecord appends the record of a group, which is to lie at offset, and says where every
// placeEvery-th entry is.
func appendRecord(dst []byte, paid []*receiptRow, chain uint64, offset int64) (record []byte, after uint64, entries []int64) {
	at := len(dst)
	dst = append64(append(append(dst, recordMagic...), 0, 0, 0, 0), paid[0].seq)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(paid))) //nolint:gosec // maxGroup bounds it
	for i, r := range paid {
		if i%placeEvery == 0 {
			entries = append(entries, offset+int64(len(dst)-at))
		}
		dst = appendEntry(dst, r)
	}
	binary.BigEndian.PutUint32(dst[at+4:], uint32(len(dst)-at-recordHead)) //nolint:gosec // maxEntries bounds it
	after = chainOn(chain, dst[at:])
	dst = append64(dst, after)
	return binary.BigEndian.AppendUint32(dst, checksum(dst[at:])), after, entries
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
