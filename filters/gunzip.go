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

// fill takes as many whole bytes as there is room for.
func (z *inflater) fill() {
	for z.n <= 56 && len(z.in) > 0 {
		z.bits |= uint64(z.in[0]) << z.n
		z.in = z.in[1:]
		z.n += 8
	}
}

// take takes n bits, 16 at most, or returns -1 where the data ends.
func (z *inflater) take(n uint) int {
	if z.n < n {
		if z.fill(); z.n < n {
			return -1
		}
	}
	v := int(z.bits & (1<<n - 1)) //nolint:gosec // 16 bits
	z.bits >>= n
	z.n -= n
	return v
}

// spend counts steps, and gives up when the deadline has passed.
func (z *inflater) spend(steps int) error {
	z.steps += steps
	if z.steps < z.look {
		return nil
	}
	z.look = z.steps + inflateLook
	if z.now() >= z.until {
		return errGzipLate
	}
	return nil
}

// block reads one block of the given kind (RFC 1951 §3.2.3).
func (z *inflater) block(kind int) error {
	if err := z.spend(1); err != nil {
		return err
	}
	switch kind {
	case 0:
		return z.stored()
	case 1:
		return z.compressed(&z.fixedLiterals, &z.fixedDistance)
	case 2:
		if z.tables--; z.tables < 0 {
			return errGzipWaste
		}
		if err := z.spend(len(z.lengths)); err != nil {
			return err
		}
		if !z.readTables() {
			return errGzip
		}
		return z.compressed(&z.literals, &z.distances)
	default:
		return errGzip
	}
}

// stored copies a block that is not compressed.
func (z *inflater) stored() error {
	z.take(z.n % 8) // the rest of the byte
	length, inverse := z.take(16), z.take(16)
	if length < 0 || inverse != length^0xffff || len(z.out)+length > z.size {
		return errGzip
	}
	for ; length > 0 && z.n > 0; length-- {
		z.out = append(z.out, byte(z.take(8))) //nolint:gosec // 8 bits, which are there
	}
	if length > len(z.in) {
		return errGzip
	}
	z.out = append(z.out, z.in[:length]...)
	z.in = z.in[length:]
	return z.spend(length)
}

// compressed reads a block's literals and matches up to its end.
func (z *inflater) compressed(literals, distances *huffman) error {
	for {
		if err := z.spend(1); err != nil {
			return err
		}
		switch s := z.symbol(literals); {
		case s == endOfBlock:
			return nil
		case s < 0 || len(z.out) == z.size:
			return errGzip
		case s < endOfBlock:
			z.out = append(z.out, byte(s))
		default:
			if err := z.match(s-endOfBlock-1, distances); err != nil {
				return err
			}
		}
	}
}

// match repeats what was put out before. Where the match is longer than its distance, it goes on
// with what it has just put out.
func (z *inflater) match(code int, distances *huffman) error {
	length := z.extended(lengthOf(code))
	distance := z.extended(distanceOf(z.symbol(distances)))
	if length < 0 || distance < 0 || distance > len(z.out) || len(z.out)+length > z.size {
		return errGzip
	}
	for left := length; left > 0; {
		n := min(left, distance)
		z.out = append(z.out, z.out[len(z.out)-distance:][:n]...)
		left -= n
	}
	return z.spend(length)
}

// extended adds what extra bits say to base, which is not negative, or else no bits are read.
func (z *inflater) extended(base int, extra uint) int {
	if base < 0 {
		return -1
	}
	more := z.take(extra)
	if more < 0 {
		return -1
	}
	return base + more
}

// lengthOf is the least length of a match's code, and how many bits say how much longer it is
// (RFC 1951 §3.2.5). It is -1 where there is no such code, as in distanceOf.
func lengthOf(code int) (base int, extra uint) {
	switch {
	case code < 8:
		return 3 + code, 0
	case code < 28:
		extra = uint(code/4 - 1)
		return 3 + (4+code%4)<<extra, extra
	case code == 28:
		return 258, 0
	default:
		return -1, 0
	}
}

// distanceOf is the same of a distance.
func distanceOf(code int) (base int, extra uint) {
	switch {
	case code < 0 || code >= maxDistances:
		return -1, 0
	case code < 4:
		return 1 + code, 0
	default:
		extra = uint(code/2 - 1)
		return 1 + (2+code%2)<<extra, extra
	}
}

// codeOrder is in which order the lengths of the code length codes stand (RFC 1951 §3.2.7).
var codeOrder = [...]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15} //nolint:gochecknoglobals // a table

const (
	endOfBlock   = 256
	maxSymbols   = 288
	maxLiterals  = 286
	maxDistances = 30
	maxCode      = 15 // bits
)

// readTables reads a block's own tables (RFC 1951 §3.2.7). A repetition may run from the literals
// into the distances.
func (z *inflater) readTables() bool {
	literals, distances, codes := z.take(5)+257, z.take(5)+1, z.take(4)+4
	if literals > maxLiterals || distances > maxDistances {
		return false
	}
	clear(z.lengths[:])
	for _, at := range codeOrder[:codes] {
		n := z.take(3)
		if n < 0 {
			return false
		}
		z.lengths[at] = uint8(n) //nolint:gosec // three bits
	}
	if !z.literals.build(z.lengths[:len(codeOrder)]) { // the code of the lengths, until they are read
		return false
	}
	for i := 0; i < literals+distances; {
		s := z.symbol(&z.literals)
		value, least, extra := uint8(0), 1, 0
		switch {
		case s < 0 || s == 16 && i == 0:
			return false
		case s < 16:
			value = uint8(s)
		case s == 16:
			value, least, extra = z.lengths[i-1], 3, 2
		case s == 17:
			least, extra = 3, 3
		default:
			least, extra = 11, 7
		}
		more := z.take(uint(extra))
		if more < 0 || i+least+more > literals+distances {
			return false
		}
		for end := i + least + more; i < end; i++ {
			z.lengths[i] = value
		}
	}
	return z.literals.build(z.lengths[:literals]) && z.distances.build(z.lengths[literals:literals+distances])
}

// huffman is a code in canonical form: how many codes of each length there are, and their symbols
// in order. It is slower to read than a table of all bit patterns, and costs next to nothing to build,
// which is what counts for payments.
type huffman struct {
	count  [maxCode + 1]uint16
	symbol [maxSymbols]uint16
}

// build makes the code of the symbols' lengths. It refuses lengths that are no prefix code, or leave
// bit patterns unused; only a code of one symbol, or of none, may do that.
func (h *huffman) build(lengths []uint8) bool {
	h.count = [maxCode + 1]uint16{}
	for _, n := range lengths {
		h.count[n]++
	}
	h.count[0] = 0
	var at [maxCode + 2]uint16
	open := 1
	for n := 1; n <= maxCode; n++ {
		open = 2*open - int(h.count[n])
		if open < 0 {
			return false
		}
		at[n+1] = at[n] + h.count[n]
	}
	if used := at[maxCode+1]; open > 0 && used != 0 && (used != 1 || h.count[1] != 1) {
		return false
	}
	for s, n := range lengths {
		if n > 0 {
			h.symbol[at[n]] = uint16(s)
			at[n]++
		}
	}
	return true
}

// symbol reads one symbol, or returns -1 where there is none. Among codes of one length the first
// is twice what follows the last one of the length before.
func (z *inflater) symbol(h *huffman) int {
	if z.n < maxCode {
		z.fill()
	}
	var code, first, index int
	bits := z.bits
	for n := uint(1); n <= min(z.n, maxCode); n++ {
		code = code<<1 | int(bits&1)
		bits >>= 1
		count := int(h.count[n])
		if code-first < count {
			z.bits = bits
			z.n -= n
			return int(h.symbol[index+code-first])
		}
		index += count
		first = (first + count) << 1
	}
	return -1
}
