// Package hostile makes request bodies that cost whoever reads them as much as possible. Tests hold
// the readers against them, and bench/refusals measures them on a running sidecar.
package hostile

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// Payment is a body that is read to its end and is a payment: what is hostile stands around it.
const Payment = `{"from":"acc_1","to":"acc_2","asset":"ron","amount_minor":"250","nonce":7}`

// Body is one body.
type Body struct {
	Name string
	Gzip bool // Data is gzip
	Data []byte
}

// Gzip returns compressed bodies, none longer than most. What they decompress to is refused at its
// last byte, if a reader gets that far.
func Gzip(most int) []Body {
	spaces := func(n int) []byte { return append(bytes.Repeat([]byte(" "), n-1), '!') }
	list := []Body{
		{Name: "empty blocks with tables", Data: repeat(most, 0, emptyTables)},
		{Name: "empty fixed blocks", Data: repeat(most, 0, emptyFixed)},
		{Name: "empty stored blocks", Data: repeat(most, 0, emptyStored)},
		{Name: "a flush after each byte", Data: flushes(most, spaces(most/8))},
		{Name: "many members", Data: bytes.Repeat(Member([]byte("")), most/len(Member([]byte(""))))},
		{Name: "a long name", Data: named(strings.Repeat("n", most-200))},
		{Name: "bomb", Data: Member(spaces(min(1024*(most-gzipSize)/2, 16<<20)))},
		{Name: "noise", Data: noise(most)},
		{Name: "stored white space", Data: stored(spaces(most - 5*(most>>16+2) - gzipSize))},
		{Name: "white space by fixed codes", Data: literals(spaces(most-gzipSize-8), (*writer).fixedLiteral)},
		{Name: "white space by short matches", Data: matches(most)},
	}
	for _, size := range []int{4 << 10, most} {
		name := "4 KiB"
		if size == most {
			name = "the most"
		}
		blocks := (size + 4<<10) / 76
		list = append(list,
			Body{Name: "as many tables as fit, " + name, Data: repeat(blocks*90/8, size, emptyTables)},
			Body{Name: "as many blocks as fit, " + name, Data: repeat(size, size, emptyFixed)},
		)
	}
	list = append(list, Body{Name: "codes of 15 bits, 4 KiB", Data: longCodes(spaces(4 << 10))})
	for i := range list {
		list[i].Gzip = true
	}
	return list
}

// JSON returns bodies of at most most bytes that no reader may take for a payment.
func JSON(most int) []Body {
	fill := func(head, unit, tail string) []byte {
		n := (most - len(head) - len(tail)) / len(unit)
		return []byte(head + strings.Repeat(unit, n) + tail)
	}
	return []Body{
		{Name: "spaces", Data: fill("", " ", "")},
		{Name: "mixed white space, then a payment and a comma", Data: fill("", " \r\n\t", Payment+",")},
		{Name: "a payment, spaces, invalid UTF-8", Data: fill(Payment, " ", "\xff")},
		{Name: "nested arrays", Data: fill("", "[", "")},
		{Name: "nested objects", Data: fill("", `{"from":`, "")},
		{Name: "a long string", Data: fill(`{"from":"`, "a", `"}`)},
		{Name: "a long string of escapes", Data: fill(`{"from":"`, `\u0061`, `"}`)},
		{Name: "a long name", Data: fill(`{"`, "a", `":1}`)},
		{Name: "a long number", Data: fill(`{"nonce":`, "1", "}")},
		{Name: "a long number of zeros", Data: fill(`{"nonce":`, "0", "}")},
		{Name: "duplicate members", Data: fill("{", `"from":"acc_1",`, `"nonce":1}`)},
		{Name: "unknown members", Data: fill("{", `"a":1,`, `"b":1}`)},
		{Name: "quotes", Data: fill("{", `"`, "")},
		{Name: "zeros", Data: fill("", "\x00", "")},
	}
}

// gzipSize is what a member without names takes besides its data.
const gzipSize = 18

// Member compresses data as compress/gzip does.
func Member(data []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // a valid level
	_, _ = w.Write(data)                                  // a buffer takes all
	_ = w.Close()
	return b.Bytes()
}

// Wrap puts DEFLATE data into a gzip member of the given content.
func Wrap(deflated, content []byte) []byte {
	b := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, deflated...)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(content))
	return binary.LittleEndian.AppendUint32(b, uint32(len(content))) //nolint:gosec // small
}

func named(name string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Name = name
	_, _ = w.Write([]byte(Payment))
	_ = w.Close()
	return b.Bytes()
}

func noise(most int) []byte {
	data := make([]byte, most-gzipSize)
	state := uint64(1)
	for i := range data {
		state = state*6364136223846793005 + 1442695040888963407
		data[i] = byte(state >> 56)
	}
	return Wrap(data, bytes.Repeat([]byte(" "), most))
}

// writer writes DEFLATE bits, the lowest first.
type writer struct {
	buf  []byte
	bits uint64
	n    uint
}

func (w *writer) put(v uint64, n uint) {
	w.bits |= v << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.buf = append(w.buf, byte(w.bits)) //nolint:gosec // the lowest eight
		w.bits >>= 8
	}
}

// code writes a Huffman code, which has its highest bit first.
func (w *writer) code(c uint64, n uint) {
	for i := range n {
		w.put(c>>(n-1-i)&1, 1)
	}
}

func (w *writer) align() {
	if w.n > 0 {
		w.put(0, 8-w.n)
	}
}

// end is the last block, stored and empty.
func (w *writer) end() []byte {
	w.put(1, 3)
	w.align()
	return append(w.buf, 0, 0, 0xff, 0xff)
}

// emptyTables is the shortest block with tables of its own: 90 bits, code lengths of 1 and 18 alone.
func emptyTables(w *writer) {
	w.put(2<<1, 3)
	w.put(0, 5)      // 257 literals
	w.put(0, 5)      // 1 distance
	w.put(18-4, 4)   // lengths of codes for lengths 16, 17, 18, …, 1
	w.put(1<<6, 9)   // of 18: 1
	w.put(0, 14*3)   // of others: 0
	w.put(1, 3)      // of 1: 1
	w.put(1, 1)      // 138 zeros
	w.put(138-11, 7) //
	w.put(1, 1)      // 118 zeros
	w.put(118-11, 7) //
	w.put(0, 1)      // end of block: 1 bit
	w.put(0, 1)      // distance 1: 1 bit
	w.put(0, 1)      // end of block
}

func emptyFixed(w *writer) { w.put(1<<1, 10) }

func emptyStored(w *writer) {
	w.put(0, 3)
	w.align()
	w.buf = append(w.buf, 0, 0, 0xff, 0xff)
}

// repeat makes blocks until there are most bytes, and puts size bytes of content after the first
// quarter of them: white space by the longest matches.
func repeat(most, size int, block func(*writer)) []byte {
	var w writer
	done := size == 0
	for len(w.buf) < most-64-size/100 {
		block(&w)
		if !done && len(w.buf) > most/4 {
			w.longMatches(size)
			done = true
		}
	}
	return Wrap(w.end(), bytes.Repeat([]byte(" "), size))
}

// longMatches writes size spaces: one, then as many as a match may have.
func (w *writer) longMatches(size int) {
	w.put(1<<1, 3)
	w.fixedLiteral(' ')
	for size--; size >= 258; size -= 258 {
		w.code(0b11000101, 8) // length 258
		w.code(0, 5)          // distance 1
	}
	for ; size > 0; size-- {
		w.fixedLiteral(' ')
	}
	w.code(0, 7)
}

func (w *writer) fixedLiteral(c byte) { w.code(uint64(c)+0x30, 8) } // below 144

// flushes writes each byte as a block of its own with an empty stored one behind it.
func flushes(most int, content []byte) []byte {
	var w writer
	for i, c := range content {
		if len(w.buf) > most-64 {
			content = content[:i]
			break
		}
		w.put(1<<1, 3)
		w.fixedLiteral(c)
		w.code(0, 7)
		emptyStored(&w)
	}
	return Wrap(w.end(), content)
}

func stored(content []byte) []byte {
	var w writer
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 1<<16-1)
		w.put(0, 3)
		w.align()
		w.buf = binary.LittleEndian.AppendUint16(w.buf, uint16(n))
		w.buf = binary.LittleEndian.AppendUint16(w.buf, ^uint16(n))
		w.buf = append(w.buf, rest[:n]...)
		rest = rest[n:]
	}
	return Wrap(w.end(), content)
}

func literals(content []byte, literal func(*writer, byte)) []byte {
	var w writer
	w.put(1<<1, 3)
	for _, c := range content {
		literal(&w, c)
	}
	w.code(0, 7)
	return Wrap(w.end(), content)
}

// matches writes white space as matches of three bytes, from as far away as there are so many.
func matches(most int) []byte {
	var w writer
	w.put(1<<1, 3)
	for range 4 {
		w.fixedLiteral(' ')
	}
	size := 4
	for size < most-4 && len(w.buf) < most-64 {
		w.code(1, 7) // length 3
		w.code(1, 5) // distance 2
		size += 3
	}
	w.code(0, 7)
	return Wrap(w.end(), bytes.Repeat([]byte(" "), size))
}

// longCodes writes spaces by codes of 15 bits: a code whose lengths are 1, 2, …, 13 and four times
// 15 is whole.
func longCodes(content []byte) []byte {
	const symbols = 257
	var lengths [symbols]uint64
	for i := range uint64(13) {
		lengths[1+i] = 1 + i
	}
	last := map[byte]uint64{' ': 1<<15 - 4, '!': 1<<15 - 3} // then x, then the end of the block
	lengths[' '], lengths['!'], lengths['x'], lengths[symbols-1] = 15, 15, 15, 15

	var w writer
	w.put(2<<1, 3)
	w.put(0, 5)    // 257 literals
	w.put(0, 5)    // 1 distance
	w.put(15, 4)   // all 19 code lengths
	w.put(0, 3*3)  // none of 16, 17 and 18
	for range 16 { // the others have 4 bits, so each is its own code
		w.put(4, 3)
	}
	for _, n := range lengths {
		w.code(n, 4)
	}
	w.code(1, 4)
	for _, c := range content {
		w.code(last[c], 15)
	}
	w.code(1<<15-1, 15)
	return Wrap(w.end(), content)
}
