package filters

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"sync/atomic"
)

// This file reads gzip (RFC 1952) with a bound on work as well as on output. compress/gzip has
// none: a body of tables that put out nothing costs it 2 µs a byte, and says nothing meanwhile
// (docs/decisions/028-gzip-has-a-reader-of-its-own.md). The bounds are three numbers that are known
// before a bit is decoded: the length of the body, the length of its content, which the last four
// bytes claim and which a body that lies about it can only fail to reach, and how many tables the
// two leave room for.

const (
	// inflateSlack is how much longer than its content a body may be: names in the header, flushes
	// after each write. A payment has some 200 bytes, 1,400 if all of it is escaped.
	inflateSlack = 4 << 10

	// inflateTable is what a block with tables of its own counts for in that, in bytes. Building
	// tables costs as much as decoding so many bytes or more, and a real one stands for thousands.
	inflateTable = 64

	// inflateFree is how much content costs nobody's allowance: more than any payment without
	// needless white space. It is also the most memory that an inflater keeps.
	inflateFree = 4 << 10

	// inflateRate is how much content a second all bodies over inflateFree may have together, in
	// bytes, after a second's worth at once. The worst that fits into it takes 4 % of a core.
	inflateRate = 1 << 20

	// inflateLook is after how many steps the deadline is looked at, 1 ms or less.
	inflateLook = 64 << 10

	// inflateMost is what DEFLATE makes of a byte at most: 258 bytes of two bits, four times.
	inflateMost = 1032
)

const (
	gzipHead = 10 // bytes of a header without optional fields
	gzipTail = 8  // CRC-32 and length of the content

	gzipText = 512 // a name or comment with its final zero, as in compress/gzip

	flagChecksum = 1 << 1
	flagExtra    = 1 << 2
	flagName     = 1 << 3
	flagComment  = 1 << 4
	flagsUnknown = 0xe0 // RFC 1952 §2.3.1.2: must be refused
)

// inflatedSize is how long the content of a gzip body is if the body is sound. It refuses what is
// over the caps, and what is far longer than its content.
func inflatedSize(body []byte, maxBytes, ratio int) (int, error) {
	if len(body) < gzipHead+gzipTail {
		return 0, errGzip
	}
	size := int(binary.LittleEndian.Uint32(body[len(body)-4:]))
	switch {
	case size > inflateMost*len(body): // cut short, most likely
		return 0, errGzip
	case ratio <= maxBytes/len(body) && size > ratio*len(body): // so the product does not overflow
		return 0, errGzipRatio
	case size > maxBytes:
		return 0, errBodySize
	case len(body) > size+inflateSlack:
		return 0, errGzipWaste
	}
	return size, nil
}

// allowance bounds how much content all bodies together may have, where they are larger than any
// payment needs to be. The zero value is full.
type allowance struct {
	paid atomic.Int64 // Unix nanoseconds at which all that was taken is paid off
}

// take takes size bytes. It may go into debt once, so that a body of any size within the caps
// passes when nothing else goes on.
func (a *allowance) take(size int, now int64) bool {
	const second = int64(1e9)
	for {
		paid := a.paid.Load()
		from := max(paid, now)
		if from-now > second {
			return false
		}
		if a.paid.CompareAndSwap(paid, from+int64(size)*second/inflateRate) {
			return true
		}
	}
}

// inflater is the reusable memory of one decompression.
type inflater struct {
	in   []byte // DEFLATE data that was not taken yet
	bits uint64 // taken but not used, the next one lowest
	n    uint   // how many of them
	out  []byte
	size int // what out must become

	tables int // how many more blocks may bring tables of their own
	steps  int // done: symbols, copied bytes, code lengths, blocks
	look   int // at how many steps the deadline is looked at next
	now    func() int64
	until  int64

	lengths       [maxLiterals + maxDistances]uint8
	literals      huffman
	distances     huffman
	fixedLiterals huffman // RFC 1951 §3.2.6
	fixedDistance huffman
}

func newInflater(now func() int64) *inflater {
	z := &inflater{now: now}
	var fixed [maxSymbols]uint8
	for i := range fixed {
		switch {
		case i < 144:
			fixed[i] = 8
		case i < 256:
			fixed[i] = 9
		case i < 280:
			fixed[i] = 7
		default:
			fixed[i] = 8
		}
	}
	z.fixedLiterals.build(fixed[:])
	for i := range fixed[:32] {
		fixed[i] = 5
	}
	z.fixedDistance.build(fixed[:32])
	return z
}

// inflate returns the content of a body of one gzip member, which lives until the next call. size
// is what inflatedSize says, until is when to give up. Exactly one member is taken: RFC 1952
// allows several in a row, but readers differ in whether they see the later ones, so such a body
// could be read in two ways.
func (z *inflater) inflate(body []byte, size int, until int64) ([]byte, error) {
	z.steps, z.look, z.until = 0, inflateLook, until
	head := gzipHeader(body[:len(body)-gzipTail])
	if head < 0 {
		return nil, errGzip
	}
	z.in, z.bits, z.n = body[head:len(body)-gzipTail], 0, 0
	z.out, z.size = slices.Grow(z.out[:0], max(size, inflateFree)), size
	z.tables = (size + inflateSlack - len(body)) / inflateTable
	for last := 0; last == 0; {
		last = z.take(1)
		if err := z.block(z.take(2)); err != nil {
			return nil, err
		}
	}
	tail := body[len(body)-gzipTail:]
	if len(z.in) > 0 || z.n >= 8 || len(z.out) != size || crc32.ChecksumIEEE(z.out) != binary.LittleEndian.Uint32(tail) {
		return nil, errGzip
	}
	return z.out, nil
}

// forget lets go of the request's bytes, and of memory that no payment needs.
func (z *inflater) forget() {
	z.in = nil
	if cap(z.out) > inflateFree {
		z.out = nil
	}
}

// gzipHeader returns where a member's header ends, or -1 where it is none.
func gzipHeader(body []byte) int {
	if len(body) < gzipHead || body[0] != 0x1f || body[1] != 0x8b || body[2] != 8 || body[3]&flagsUnknown != 0 {
		return -1
	}
	flags, at := body[3], gzipHead
	if flags&flagExtra != 0 {
		if len(body) < at+2 {
			return -1
		}
		at += 2 + int(binary.LittleEndian.Uint16(body[at:]))
	}
	for _, text := range []byte{flagName, flagComment} {
		if flags&text == 0 {
			continue
		}
		end := bytes.IndexByte(body[min(at, len(body)):min(at+gzipText, len(body))], 0)
		if end < 0 {
			return -1
		}
		at += end + 1
	}
	if flags&flagChecksum != 0 {
		if len(body) < at+2 || binary.LittleEndian.Uint16(body[at:]) != uint16(crc32.ChecksumIEEE(body[:at])) { //nolint:gosec // its lower half: RFC 1952 §2.3.1
			return -1
		}
		at += 2
	}
	if at > len(body) {
		return -1
	}
	return at
}
