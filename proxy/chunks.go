package proxy

import "bytes"

// Bounds on what frames a chunked body and is none of it.
const (
	chunkDigits   = 16      // of one size: 64 bits, leading zeros included
	chunkExtBytes = 4 << 10 // of all extensions of a body together
)

// chunks reads the chunked coding (RFC 9112 §7.1) as it comes in. It takes one reading of it only:
// sizes are bare hexadecimal digits, lines end in CRLF, extensions are printable ASCII and ignored,
// and there are no trailers, which a proxy in front of us may have merged into the header, or not.
// What other readers forgive is where two of them part company.
//
// The zero value is at the start of a body.
type chunks struct {
	at     chunkPlace
	size   uint64 // of the chunk under way: what has been read of the number, then what is to come
	digits int    // of its size
	ext    int    // bytes of extensions so far
}

// chunkPlace is where in the coding the next byte stands.
type chunkPlace uint8

const (
	inSize chunkPlace = iota
	inExtension
	afterSizeCR
	inData
	afterData
	afterDataCR
	afterLast
	afterLastCR
	chunksDone
	chunksBad
)

// next reads on in b. It returns how many bytes it used and those of them that are body, and uses
// no byte behind the end. It returns after each run of data, so the caller calls it until it has
// used all of b, or the coding is done or bad.
func (k *chunks) next(b []byte) (used int, data []byte) {
	for used < len(b) && k.at < chunksDone {
		if k.at == inData {
			n := int(min(k.size, uint64(len(b)-used))) //nolint:gosec // at most len(b)
			if k.size -= uint64(n); k.size == 0 {
				k.at = afterData
			}
			return used + n, b[used : used+n]
		}
		if k.at == inExtension {
			used += k.extension(b[used:])
			continue
		}
		k.step(b[used])
		used++
	}
	return used, nil
}

// expected is how many bytes of data are sure to come: the rest of the chunk under way.
func (k *chunks) expected() uint64 {
	if k.at == inData || k.at == afterSizeCR {
		return k.size
	}
	return 0
}

// step reads one byte that is neither data nor extension.
func (k *chunks) step(c byte) {
	switch {
	case k.at == inSize:
		k.sizeByte(c)
	case k.at == afterSizeCR && c == '\n' && k.size > 0:
		k.at = inData
	case k.at == afterSizeCR && c == '\n':
		k.at = afterLast
	case k.at == afterData && c == '\r':
		k.at = afterDataCR
	case k.at == afterDataCR && c == '\n':
		k.at, k.digits = inSize, 0
	case k.at == afterLast && c == '\r':
		k.at = afterLastCR
	case k.at == afterLastCR && c == '\n':
		k.at = chunksDone
	default:
		k.at = chunksBad
	}
}

func (k *chunks) sizeByte(c byte) {
	digit := bytes.IndexByte([]byte("0123456789abcdef"), c|0x20)
	switch {
	case c >= '0' && digit >= 0 && k.digits < chunkDigits:
		k.size = k.size<<4 | uint64(digit)
		k.digits++
	case k.digits == 0:
		k.at = chunksBad
	case c == ';':
		k.at = inExtension
	case c == '\r':
		k.at = afterSizeCR
	default:
		k.at = chunksBad
	}
}

// extension skips the extensions of a chunk and returns how many bytes it used.
func (k *chunks) extension(b []byte) int {
	for i, c := range b {
		switch {
		case c == '\r':
			k.at = afterSizeCR
			return i + 1
		case (c < ' ' && c != '\t') || c > '~' || k.ext == chunkExtBytes:
			k.at = chunksBad
			return i + 1
		}
		k.ext++
	}
	return len(b)
}
