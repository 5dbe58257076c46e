package proxy

import "bytes"

// requestLines finds a request line that ends in a bare LF. fasthttp takes such a line and its
// RawHeaders begin after it, so only the bytes as they come in show it; a proxy in front of us
// may have read them as another request (RFC 9112 §2.2 lets it).
//
// It belongs to the goroutine that serves the connection.
type requestLines struct {
	tail    [len(lastChunk)]byte // the last bytes that came in
	latest  []byte               // the last read, in fasthttp's buffer: its bytes stay until the next read
	seen    int                  // bytes since the end of the last request
	skipped int                  // of these, the empty lines before the request line
	text    bool                 // the line under way has bytes
	cr      bool                 // the last byte was a CR
	done    bool                 // the request line is complete
	bare    bool                 // it, or an empty line before it, ended in a bare LF
}

// read is told of all that comes in.
func (l *requestLines) read(b []byte) {
	if n := len(l.tail); len(b) >= n {
		copy(l.tail[:], b[len(b)-n:])
	} else {
		copy(l.tail[:], l.tail[len(b):])
		copy(l.tail[n-len(b):], b)
	}
	l.latest = b
	l.scan(b)
}

// lastChunk ends a chunked body that has no trailer. What precedes the first chunk ends in CRLF too.
const lastChunk = "\r\n0\r\n\r\n"

// endsChunks says that what came in ends so. fasthttp reads trailers with folds, bare LFs and names
// that mean something, none of which it shows; so there may be none (RFC 9110 §6.5 lets us).
func (l *requestLines) endsChunks() bool { return string(l.tail[:]) == lastChunk }

func (l *requestLines) scan(b []byte) {
	l.seen += len(b)
	for !l.done && len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			l.cr = b[len(b)-1] == '\r'
			l.text = l.text || len(b) > 1 || !l.cr
			return
		}
		if end > 0 {
			l.cr = b[end-1] == '\r'
		}
		l.bare = l.bare || !l.cr
		if l.text || end > 1 || (end == 1 && !l.cr) {
			l.done = true
			return
		}
		l.skipped = l.seen - len(b) + end + 1
		l.cr = false
		b = b[end+1:]
	}
}

// next turns to the request after the one of which line and rest bytes were used, without the
// empty lines before it. It returns false where the two cannot be told apart.
func (l *requestLines) next(used int) bool {
	ahead := l.seen - l.skipped - used
	if used < 0 || ahead < 0 || ahead > len(l.latest) {
		return false
	}
	tail := l.latest[len(l.latest)-ahead:]
	*l = requestLines{latest: l.latest, tail: l.tail}
	l.scan(tail)
	return true
}
