package proxy_test

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"svc-wallet/proxy"
)

// slowChunks reads the chunked coding as RFC 9112 §7.1 writes it and CONTRACT §1 narrows it, in the
// plainest way that is possible and with all of the input at hand. It says how it ended (done, more
// is to come, bad), what the content is, and how many bytes the coding took.
func slowChunks(in string) (verdict, content string, used int) {
	var (
		size    = regexp.MustCompile(`^([0-9A-Fa-f]{1,16})((?:;[\t -~]*)?)\r\n`)
		begun   = regexp.MustCompile(`^([0-9A-Fa-f]{0,16}|[0-9A-Fa-f]{1,16}(\r|;[\t -~]*\r?))$`)
		rest    = in
		allowed = 4096
	)
	for {
		m := size.FindStringSubmatch(rest)
		if m == nil {
			ext := strings.TrimSuffix(rest, "\r")
			if i := strings.IndexByte(ext, ';'); i >= 0 && len(ext)-i-1 > allowed {
				return "bad", "", 0
			}
			if begun.MatchString(rest) {
				return "more", content, len(in)
			}
			return "bad", "", 0
		}
		if allowed -= max(0, len(m[2])-1); allowed < 0 {
			return "bad", "", 0
		}
		rest = rest[len(m[0]):]
		n, err := strconv.ParseUint(m[1], 16, 64)
		if err != nil {
			panic(err)
		}
		if n > 0 {
			if uint64(len(rest)) <= n {
				return "more", content + rest, len(in)
			}
			content, rest = content+rest[:n], rest[n:]
		}
		switch {
		case strings.HasPrefix(rest, "\r\n"):
			rest = rest[2:]
		case strings.HasPrefix("\r\n", rest): // of which the beginning is there
			return "more", content, len(in)
		default:
			return "bad", "", 0
		}
		if n == 0 {
			return "done", content, len(in) - len(rest)
		}
	}
}

// holdChunks holds the reader of the edge against the plain one, with the input cut after each
// number of bytes in turn, cut into single bytes and not cut at all.
func holdChunks(t *testing.T, in string, cuts ...int) {
	t.Helper()
	verdict, content, used := slowChunks(in)
	hold := func(how string, parts ...string) {
		t.Helper()
		gotVerdict, gotContent, gotUsed := proxy.ReadChunks(parts)
		if gotVerdict != verdict || (verdict != "bad" && (gotContent != content || gotUsed != used)) {
			t.Fatalf("%q %s: %s after %d bytes with %q, want %s after %d with %q", in, how, gotVerdict, gotUsed, gotContent, verdict, used, content)
		}
	}
	hold("whole", in)
	hold("in single bytes", strings.Split(in, "")...)
	for _, cut := range cuts {
		cut = min(cut, len(in))
		hold(fmt.Sprintf("cut after %d", cut), in[:cut], in[cut:])
	}
}

// chunkSeeds are codings that are right, wrong and cut, with and without something behind them.
var chunkSeeds = []string{
	"", "0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n", "1\r\na\r\n1\r\nb\r\n000\r\n\r\n",
	"A\r\n0123456789\r\n0\r\n\r\n", "a\r\n0123456789\r\n0\r\n\r\n", "3;x=\"y z\"\r\nabc\r\n0;end\r\n\r\n", "3;;\t;\r\nabc\r\n0\r\n\r\n",
	"0\r\nX: y\r\n\r\n", "0\r\nX: y\r\n\r\n0\r\n\r\n", "0\r\n\n", "0\n\r\n", "0\r\n\r", "0\r\n", "0\r", "0", "3", "3\r\nab", "3\r\nabc", "3\r\nabc\r",
	"3\nabc\r\n", "3\r\nabc\n0\r\n\r\n", "3\r\nabcd\r\n", " 3\r\nabc", "3 \r\nabc", "3\t;x\r\nabc", "+3\r\nabc", "-3\r\nabc", "0x3\r\nabc", "\r\n3\r\nabc",
	"3;a\nb\r\nabc", "3;a\rb\r\nabc", "3;a\x00\r\nabc", "3;\xc3\xa4\r\nabc", "g\r\n", ";x\r\n", "\x10\r\n", "3\r\n\r\n\r\n\r\n0\r\n\r\n",
	"0000000000000003\r\nabc\r\n0\r\n\r\n", "00000000000000003\r\nabc\r\n0\r\n\r\n", "ffffffffffffffff\r\nabc", "10000000000000000\r\n",
	"0;" + strings.Repeat("x", 4096) + "\r\n\r\n", "0;" + strings.Repeat("x", 4097) + "\r\n\r\n",
	strings.Repeat("1;"+strings.Repeat("x", 1024)+"\r\na\r\n", 4) + "0\r\n\r\n", strings.Repeat("1;"+strings.Repeat("x", 1024)+"\r\na\r\n", 4) + "0;x\r\n\r\n",
}

// TestChunksHoweverCut reads chunked codings at every cut.
func TestChunksHoweverCut(t *testing.T) {
	for _, in := range chunkSeeds {
		var cuts []int
		for cut := 0; cut <= min(len(in), 100); cut++ {
			cuts = append(cuts, cut)
		}
		holdChunks(t, in, cuts...)
	}
}

// FuzzChunks holds the reader of chunked codings against a plain one: same verdict, same content,
// same number of bytes, however the input is cut.
func FuzzChunks(f *testing.F) {
	for _, in := range chunkSeeds {
		f.Add([]byte(in), uint16(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		holdChunks(t, string(bytes.Clone(in)), int(cut))
	})
}
