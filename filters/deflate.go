package filters

// This file reads the DEFLATE data of a gzip body (RFC 1951).

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
	if !z.readLengths(z.lengths[:literals+distances]) {
		return false
	}
	return z.literals.build(z.lengths[:literals]) && z.distances.build(z.lengths[literals:literals+distances])
}

// readLengths reads lengths by the code that z.literals holds meanwhile.
func (z *inflater) readLengths(lengths []uint8) bool {
	for i := 0; i < len(lengths); {
		s := z.symbol(&z.literals)
		value, least, extra := uint8(0), 1, 0
		switch {
		case s < 0 || s == 16 && i == 0:
			return false
		case s < 16:
			value = uint8(s)
		case s == 16:
			value, least, extra = lengths[i-1], 3, 2
		case s == 17:
			least, extra = 3, 3
		default:
			least, extra = 11, 7
		}
		more := z.take(uint(extra))
		if more < 0 || i+least+more > len(lengths) {
			return false
		}
		for end := i + least + more; i < end; i++ {
			lengths[i] = value
		}
	}
	return true
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
