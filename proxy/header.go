package proxy

import (
	"bytes"
	"net/netip"
)

// Headers that admit looks at.
const (
	hHost = iota
	hExpect
	hTraceparent
	hXCorrID
	hContentType
	hAuthorization
	hContentLength
	hIdempotencyKey
	hContentEncoding
	hXMinLedgerSeq
	hTransferEncoding
	numHeaders
)

// headerNames are their names in lower case.
var headerNames = [numHeaders]string{ //nolint:gochecknoglobals // a table
	hHost:             "host",
	hExpect:           "expect",
	hTraceparent:      "traceparent",
	hXCorrID:          "x-corr-id",
	hContentType:      "content-type",
	hAuthorization:    "authorization",
	hContentLength:    "content-length",
	hIdempotencyKey:   "idempotency-key",
	hContentEncoding:  "content-encoding",
	hXMinLedgerSeq:    "x-min-ledger-seq",
	hTransferEncoding: "transfer-encoding",
}

// header is what the raw header lines say. The values point into the request.
type header struct {
	values [numHeaders][]byte // nil if absent, not nil if empty
	twice  [numHeaders]bool
	doubt  string // why the lines could be read in two ways; empty if they cannot
	old    bool   // HTTP/1.0
}

// parse reads the raw lines in one pass. fasthttp has framed the message by then, but it joins
// folded lines, takes bare LFs between CRLF lines and spaces within names, and lets the second of
// two equal headers pass unseen; only the raw bytes show that.
func (h *header) parse(raw []byte) {
	for len(raw) > 0 {
		end := bytes.IndexByte(raw, '\n')
		if end < 1 || raw[end-1] != '\r' {
			h.doubt = doubtBareLF
			return
		}
		line := raw[:end-1]
		raw = raw[end+1:]
		if len(line) == 0 {
			return
		}
		h.line(line)
	}
}

func (h *header) line(line []byte) {
	if line[0] == ' ' || line[0] == '\t' {
		h.doubt = doubtFold
		return
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || bytes.IndexByte(name, ' ') >= 0 {
		h.doubt = doubtName
		return
	}
	id, exact := headerOf(name)
	switch {
	case id == numHeaders:
	case !exact:
		h.doubt = doubtName
	case h.values[id] != nil:
		h.twice[id] = true
		if id != hTraceparent && id != hXCorrID { // these two are dropped instead
			h.doubt = doubtDuplicate
		}
	default:
		h.values[id] = bytes.Trim(value, " \t")
		if h.values[id] == nil {
			h.values[id] = value[:0]
		}
	}
}

// headerOf finds a name whatever its case. exact is false for one that becomes the same where
// underscores are read as hyphens, as CGI and what descends from it do.
func headerOf(name []byte) (id int, exact bool) {
	for id = range headerNames {
		if len(name) == len(headerNames[id]) {
			if same, exact := sameName(name, headerNames[id]); same {
				return id, exact
			}
		}
	}
	return numHeaders, false
}

func sameName(name []byte, lower string) (same, exact bool) {
	exact = true
	for i, c := range name {
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '_':
			c, exact = '-', false
		}
		if c != lower[i] {
			return false, false
		}
	}
	return true, exact
}

// isHost takes a host name or an IPv4 address, or an IPv6 address in brackets, and a port if any
// (RFC 9110 §7.2). Escapes and the rarer characters of a registered name are legal there and in
// nobody's name: readers differ in what they make of them.
func isHost(s []byte) bool {
	name := s
	if i := bytes.LastIndexByte(s, ':'); i >= 0 && bytes.IndexByte(s[i:], ']') < 0 {
		name = s[:i]
		if port, ok := parseSeq(s[i+1:]); !ok || port > 65535 || len(s[i+1:]) > len("65535") {
			return false
		}
	}
	if len(name) > 2 && name[0] == '[' && name[len(name)-1] == ']' {
		addr, err := netip.ParseAddr(string(name[1 : len(name)-1]))
		return err == nil && addr.Is6() && addr.Zone() == ""
	}
	return isHostName(name)
}

func isHostName(name []byte) bool {
	for _, c := range name {
		letter := c | 0x20
		if (letter < 'a' || letter > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	name = bytes.TrimSuffix(name, []byte(".")) // of the root
	return len(name) > 0 && name[0] != '.' && name[len(name)-1] != '.' && !bytes.Contains(name, []byte(".."))
}

// isJSON takes application/json with whatever parameters, but of charset only UTF-8.
func isJSON(value []byte) bool {
	kind, params, _ := bytes.Cut(value, []byte(";"))
	if !bytes.EqualFold(bytes.TrimRight(kind, " \t"), []byte("application/json")) {
		return false
	}
	for len(params) > 0 {
		var param []byte
		param, params, _ = bytes.Cut(params, []byte(";"))
		name, charset, _ := bytes.Cut(bytes.TrimSpace(param), []byte("="))
		if bytes.EqualFold(name, []byte("charset")) && !bytes.EqualFold(bytes.Trim(charset, `"`), []byte("utf-8")) {
			return false
		}
	}
	return true
}
