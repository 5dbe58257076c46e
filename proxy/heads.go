package proxy

import "bytes"

// heads finds where the head of a request ends, in the bytes as they come in. fasthttp is handed one
// head at a time and nothing behind it, so that bodies are read here, and where a request ends is
// decided here alone.
//
// It also finds lines that end in a bare LF. fasthttp takes such a request line, and its RawHeaders
// begin after it; a proxy in front of us may have read the bytes as another request (RFC 9112 §2.2
// lets it).
//
// It belongs to the goroutine that serves the connection.
type heads struct {
	seen    int  // bytes of the head under way, the empty lines before it included
	skipped int  // of these, the empty lines
	text    bool // the line under way has bytes
	cr      bool // the last byte was a CR
	begun   bool // the request line is complete
	done    bool // the head is complete
	bare    bool // a line ended in a bare LF
}

// scan returns how many bytes of b belong to the head under way. Where it returns fewer than there
// are, the head is complete.
func (h *heads) scan(b []byte) (n int) {
	for n < len(b) && !h.done {
		end := bytes.IndexByte(b[n:], '\n')
		if end < 0 {
			h.cr = b[len(b)-1] == '\r'
			h.text = h.text || len(b)-n > 1 || !h.cr
			n = len(b)
			break
		}
		if end > 0 {
			h.cr = b[n+end-1] == '\r'
		}
		h.bare = h.bare || !h.cr
		empty := !h.text && (end == 0 || (end == 1 && h.cr))
		n += end + 1
		switch {
		case !empty:
			h.begun = true
		case h.begun:
			h.done = true
		default:
			h.skipped = h.seen + n
		}
		h.text, h.cr = false, false
	}
	h.seen += n
	return n
}

// ends says whether fasthttp, which used so many bytes from the request line on, ended the head
// where we did.
func (h *heads) ends(used int) bool { return h.done && h.seen-h.skipped == used }
