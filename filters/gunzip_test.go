package filters

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"svc-wallet/bench/hostile"
	"svc-wallet/config"
	"svc-wallet/wallet"
)

// gunzip is what Payload does with a body that no allowance keeps waiting.
func gunzip(z *inflater, body []byte, maxBytes, ratio int) ([]byte, error) {
	size, err := inflatedSize(body, maxBytes, ratio)
	if err != nil {
		return nil, err
	}
	return z.inflate(body, size, 1)
}

// zip compresses, best first.
func zip(t testing.TB, data string, head gzip.Header) string {
	t.Helper()
	return zipLevel(t, data, head, gzip.BestCompression)
}

func zipLevel(t testing.TB, data string, head gzip.Header, level int) string {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Header = head
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// zipOfRatio pads the good body until it is twice as long as when compressed, and more bytes.
func zipOfRatio(t *testing.T, more int) string {
	t.Helper()
	for n := range 1000 {
		body := goodBody + strings.Repeat(" ", n)
		if z := zip(t, body, gzip.Header{}); len(body) == 2*len(z)+more {
			return z
		}
	}
	t.Fatal("there is no such body")
	return ""
}

// TestPayloadGzip: a body of one whole gzip member is read within the smaller of the two bounds,
// and nothing else is. Method: a table of bodies made by compress/gzip and bent by hand.
func TestPayloadGzip(t *testing.T) {
	var (
		good   = zip(t, goodBody, gzip.Header{})
		padded = zip(t, goodBody+strings.Repeat(" ", 10_000), gzip.Header{})
		bomb   = zip(t, strings.Repeat(" ", 1<<22)+goodBody, gzip.Header{})
		twice  = zipOfRatio(t, 0)

		twiceAndOne = zipOfRatio(t, 1)
	)
	bend := func(at int, c byte) string {
		b := []byte(good)
		b[(at+len(b))%len(b)] ^= c
		return string(b)
	}
	for _, c := range []struct {
		name, body   string
		bytes, ratio int
		want         wallet.Code
		detail       error
	}{
		{"good", good, 1 << 20, 10, wallet.Pass, nil},
		{"with a header's name, comment and extra field", zip(t, goodBody, gzip.Header{Name: "n", Comment: "c", Extra: []byte("xyz")}), 1 << 20, 10, wallet.Pass, nil},
		{"good JSON is not asked for", zip(t, `{}`, gzip.Header{}), 1 << 20, 10, wallet.BadRequest, errNoTo},
		{"plain", goodBody, 1 << 20, 10, wallet.BadRequest, errGzip},
		{"empty", "", 1 << 20, 10, wallet.BadRequest, errGzip},
		{"ten bytes", good[:10], 1 << 20, 10, wallet.BadRequest, errGzip},
		{"cut in the data", good[:30], 1 << 20, 10, wallet.BadRequest, errGzip},
		{"cut in the length, which then claims more", good[:len(good)-1], 1 << 20, 10, wallet.BadRequest, errGzipRatio},
		{"cut in the checksum", good[:len(good)-7], 1 << 20, 10, wallet.BadRequest, errGzip},
		{"wrong magic", bend(0, 1), 1 << 20, 10, wallet.BadRequest, errGzip},
		{"wrong checksum", bend(-5, 1), 1 << 20, 10, wallet.BadRequest, errGzip},
		{"wrong length", bend(-1, 1), 1 << 20, 10, wallet.BadRequest, errGzip},
		{"trailing byte", good + "\x00", 1 << 20, 10, wallet.BadRequest, errGzip},
		{"trailing JSON", good + goodBody, 1 << 20, 10, wallet.BadRequest, errGzip},
		{"a second member", good + good, 1 << 20, 10, wallet.BadRequest, errGzip},
		{"a second member, empty", good + zip(t, "", gzip.Header{}), 1 << 20, 10, wallet.BadRequest, errGzip},
		{"extra field longer than the body", "\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\xff\xff", 1 << 20, 10, wallet.BadRequest, errGzip},
		{"over the ratio", padded, 1 << 20, 10, wallet.BadRequest, errGzipRatio},
		{"within the ratio", padded, 1 << 20, 200, wallet.Pass, nil},
		{"at the ratio", twice, 1 << 20, 2, wallet.Pass, nil},
		{"a byte over the ratio", twiceAndOne, 1 << 20, 2, wallet.BadRequest, errGzipRatio},
		{"at the size", padded, len(goodBody) + 10_000, 200, wallet.Pass, nil},
		{"a byte over the size", padded, len(goodBody) + 9_999, 200, wallet.BodyTooLarge, errBodySize},
		{"over both, the ratio is smaller", bomb, 1 << 20, 10, wallet.BadRequest, errGzipRatio},
		{"over both, the size is smaller", bomb, 1 << 20, 1000, wallet.BodyTooLarge, errBodySize},
		{"compressed is over the size", bomb, 1000, 10, wallet.BodyTooLarge, errBodySize},
		{"zero limits deny", good, 0, 0, wallet.BodyTooLarge, errBodySize},
		{"zero ratio denies", good, 1 << 20, 0, wallet.BadRequest, errGzipRatio},
		{"the largest ratio", good, 1 << 20, 1<<63 - 1, wallet.Pass, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newPayload()
			for range 2 { // the second time with used memory
				x := payment(wallet.Transfer, c.body)
				x.Gzip = true
				x.Limits = &config.Limits{MaxBodyBytes: c.bytes, DecompressRatioCap: c.ratio}
				got := f.Check(x)
				if got != c.want || c.detail == nil && x.Detail != "" || c.detail != nil && x.Detail != c.detail.Error() {
					t.Errorf("%v %q, wanted %v %v", got, x.Detail, c.want, c.detail)
				}
			}
		})
	}
	x := payment(wallet.Transfer, goodBody)
	x.Limits = &config.Limits{MaxBodyBytes: len(goodBody) - 1}
	if got := newPayload().Check(x); got != wallet.BodyTooLarge {
		t.Errorf("a plain body over the cap: %v", got)
	}
}

// TestGzipMemory: a bomb, or a header that lies, costs no more memory than the bound on the
// decompressed size calls for. Method: bytes allocated by a fresh inflater.
func TestGzipMemory(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	bomb := []byte(zip(t, strings.Repeat(" ", 1<<26), gzip.Header{}))
	lie := []byte(zip(t, goodBody, gzip.Header{Extra: make([]byte, 100)}))
	binary.LittleEndian.PutUint16(lie[10:], 0xffff)
	for name, c := range map[string]struct {
		body []byte
		most int
		want error
	}{
		"bomb":       {bomb, 64 << 10, errBodySize},
		"large bomb": {bomb, 1 << 20, errBodySize},
		"lie":        {lie, 1 << 20, errGzip},
	} {
		var before, after runtime.MemStats
		z := newInflater(clock(0))
		runtime.ReadMemStats(&before)
		_, err := gunzip(z, c.body, c.most, 1<<30)
		runtime.ReadMemStats(&after)
		// Growing by a quarter at a time allocates five times the last size altogether; the
		// reader of compress/flate has 44 KiB.
		bound := uint64(64<<10 + 6*c.most)
		if errors.Is(c.want, errGzip) {
			bound = 1 << 10
		}
		if got := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, c.want) || got > bound {
			t.Errorf("%s: %v, %d bytes allocated, the bound is %d", name, err, got, bound)
		}
	}
}

// TestInflaterKeepsLittle: one large body does not stay in memory. Method: a large body, then a
// small one.
func TestInflaterKeepsLittle(t *testing.T) {
	z := newInflater(clock(0))
	for _, n := range []int{1 << 20, 1} {
		if _, err := gunzip(z, []byte(zip(t, strings.Repeat(" ", n), gzip.Header{})), 1<<21, 1<<30); err != nil {
			t.Fatal(err)
		}
		z.forget()
		if cap(z.out) > inflateFree || z.in != nil {
			t.Errorf("after a body of %d bytes %d are kept, of the request %d", n, cap(z.out), len(z.in))
		}
	}
}

// workBound is how many steps a body of some length may take whose content has some size. A symbol
// takes a bit at least, a table 316 steps and 64 bytes of what the body may be long, and each byte
// of content is put out once.
func workBound(size int) int { return 14*(size+inflateSlack) + 1000 }

// TestGzipWork: no body costs more work than its content may: not one of blocks that put out
// nothing, nor one whose codes are as long as can be. All of the worst are refused. Method: bodies
// made to be as costly as possible, whose steps are counted.
func TestGzipWork(t *testing.T) {
	for _, most := range []int{1 << 10, 16 << 10, 1 << 20} {
		for _, b := range hostile.Gzip(most) {
			f, z := newPayload(), newInflater(clock(0))
			f.inflaters.New = func() any { return z }
			x := payment(wallet.Transfer, string(b.Data))
			x.Gzip = true
			code := f.Check(x)
			size, err := inflatedSize(b.Data, 1<<20, 10)
			if err != nil {
				size = 0
			}
			if code.Outcome() != wallet.Refused || z.steps > workBound(size) || err != nil && z.steps > 0 {
				t.Errorf("%s, %d bytes of %d: %v %q after %d steps", b.Name, len(b.Data), size, code, x.Detail, z.steps)
			}
			t.Logf("%-40s %8d bytes: %8d steps, %v %q", b.Name, len(b.Data), z.steps, code, x.Detail)
		}
	}
}

// TestPayloadWork: what is refused for its JSON is refused where it goes wrong, whatever follows.
// White space alone is read to its end. Method: long bodies, and where the scanner stops in them.
func TestPayloadWork(t *testing.T) {
	for _, b := range hostile.JSON(1 << 20) {
		var d wallet.Payment
		s := scanner{b: b.Data}
		_, err := s.object(&d, membersOf(wallet.Transfer))
		blank := bytes.Count(b.Data, []byte(" ")) > len(b.Data)/8
		if err == nil && !blank || s.i > 400 && !blank {
			t.Errorf("%s: stopped at %d: %v", b.Name, s.i, err)
		}
		x := payment(wallet.Transfer, string(b.Data))
		if code := newPayload().Check(x); code != wallet.BadRequest {
			t.Errorf("%s: %v", b.Name, code)
		}
	}
}

// TestGzipAllowance: bodies whose content is larger than any payment needs share an allowance, and
// those that are not need none of it. Method: a clock that is moved on.
func TestGzipAllowance(t *testing.T) {
	now := int64(1e18)
	f := NewPayload(func() int64 { return now })
	send := func(size int) (wallet.Code, string) {
		x := payment(wallet.Transfer, zip(t, goodBody+strings.Repeat(" ", size-len(goodBody)), gzip.Header{}))
		x.Gzip, x.Limits, x.Deadline = true, &config.Limits{MaxBodyBytes: 4 << 20, DecompressRatioCap: 2000}, now+1
		return f.Check(x), x.Detail
	}
	for i, step := range []struct {
		after int64 // nanoseconds
		size  int
		want  wallet.Code
	}{
		{0, inflateFree, wallet.Pass},
		{0, 2 << 20, wallet.Pass}, // on credit, to be paid off in two seconds
		{0, inflateFree + 1, wallet.Busy},
		{0, inflateFree, wallet.Pass},
		{1e9 - 1, inflateFree + 1, wallet.Busy},
		{1, inflateFree + 1, wallet.Pass},
		{0, inflateFree + 1, wallet.Busy},
		{0, inflateFree, wallet.Pass},
		{10e9, 1 << 20, wallet.Pass},
		{0, 4 << 20, wallet.Pass},
		{4e9 - 1, 1 << 20, wallet.Busy},
		{1, 1 << 20, wallet.Pass},
	} {
		now += step.after
		if code, detail := send(step.size); code != step.want || code == wallet.Busy && detail != errGzipBusy.Error() {
			t.Errorf("step %d, %d bytes: %v %q, wanted %v", i, step.size, code, detail, step.want)
		}
	}
}

// TestGzipDeadline: decompression gives up when the request's time has passed, and nothing was done.
// Method: a clock that passes the deadline when it is first looked at.
func TestGzipDeadline(t *testing.T) {
	for _, level := range []int{gzip.NoCompression, gzip.HuffmanOnly, gzip.BestCompression} {
		body := zipLevel(t, goodBody+strings.Repeat(" ", 1<<20), gzip.Header{}, level)
		z := newInflater(clock(1))
		if _, err := gunzip(z, []byte(body), 2<<20, 2000); !errors.Is(err, errGzipLate) || z.steps > 2*inflateLook {
			t.Errorf("level %d: %v after %d steps", level, err, z.steps)
		}
	}
	if code := new(Exchange).passOr(errGzipLate); code != wallet.Busy {
		t.Error(code)
	}
}

// TestGzipNeedsScope: a body is not decompressed for a token that could never pay here, and says so
// before it says anything of the body; a body that is not compressed is decoded first. Method: a
// table of grants, with bodies that are not sound.
func TestGzipNeedsScope(t *testing.T) {
	all := []patterns{"*"}
	for name, c := range map[string]struct {
		grant *Grant
		gzip  bool
		want  wallet.Code
	}{
		"none":                  {nil, true, wallet.Forbidden},
		"read":                  {&Grant{actions: 1 << wallet.Read, accounts: all}, true, wallet.Forbidden},
		"issue":                 {&Grant{actions: 1 << wallet.Issue, accounts: all}, true, wallet.Forbidden},
		"no accounts":           {&Grant{actions: 1 << wallet.Transfer}, true, wallet.Forbidden},
		"transfer":              {&Grant{actions: 1 << wallet.Transfer, accounts: all}, true, wallet.BadRequest},
		"read, not compressed":  {&Grant{actions: 1 << wallet.Read, accounts: all}, false, wallet.BadRequest},
		"nothing, uncompressed": {nil, false, wallet.BadRequest},
	} {
		f := newPayload()
		f.inflaters.New = func() any {
			if c.want == wallet.Forbidden {
				t.Errorf("%s: decompressed", name)
			}
			return newInflater(clock(0))
		}
		x := payment(wallet.Transfer, string(hostile.Wrap([]byte("unsound"), []byte(goodBody))))
		x.Grant, x.Gzip = c.grant, c.gzip
		if code := f.Check(x); code != c.want || code == wallet.Forbidden && x.Detail != notThisAction {
			t.Errorf("%s: %v %q", name, code, x.Detail)
		}
	}
}

// gunzipReference is gunzip by compress/gzip, without bounds.
func gunzipReference(body []byte) ([]byte, bool) {
	src := bytes.NewReader(body)
	r, err := gzip.NewReader(src)
	if err != nil {
		return nil, false
	}
	r.Multistream(false)
	content, err := io.ReadAll(io.LimitReader(r, 4<<20))
	return content, err == nil && src.Len() == 0
}

// agreeGzip holds gunzip against compress/gzip, and its work against the bound.
func agreeGzip(t interface{ Fatalf(string, ...any) }, z *inflater, body []byte) {
	want, ok := gunzipReference(body)
	got, err := gunzip(z, body, 1<<20, 1<<30)
	if size, sized := inflatedSize(body, 1<<20, 1<<30); sized == nil && z.steps > workBound(size) {
		t.Fatalf("%d bytes that claim %d: %d steps", len(body), size, z.steps)
	}
	switch {
	case err == nil && (!ok || !bytes.Equal(got, want)):
		t.Fatalf("%x: decompressed to %q, compress/gzip says %v %q", body, got, ok, want)
	case err != nil && ok && len(want) <= 1<<20 && !errors.Is(err, errGzipWaste) && body[3]&flagsUnknown == 0:
		t.Fatalf("%x: %v, compress/gzip says %q", body, err, want)
	}
}

// FuzzGzip: what gunzip takes is what compress/gzip makes of it, what compress/gzip takes is refused
// only for the work that it would be, and the work is bounded whatever the body. Method:
// differential, on bodies as they are and on DEFLATE data in a header and a checksum that fit.
func FuzzGzip(f *testing.F) {
	for _, level := range []int{gzip.NoCompression, gzip.HuffmanOnly, gzip.BestSpeed, gzip.BestCompression} {
		body := zipLevel(f, goodBody+strings.Repeat(" \n", 500), gzip.Header{Name: "n", Extra: []byte("x")}, level)
		f.Add([]byte(body))
		f.Add([]byte(body[19 : len(body)-8]))
	}
	for _, b := range hostile.Gzip(1 << 10) {
		f.Add(b.Data)
		f.Add(b.Data[10 : len(b.Data)-8])
	}
	z := newInflater(clock(0))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 16<<10 {
			t.Skip("longer than it need be")
		}
		agreeGzip(t, z, data)
		content, _ := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(data)), 1<<20)) // what there is of it
		agreeGzip(t, z, hostile.Wrap(data, content))
	})
}

// TestGzipOfCompressors: what compress/gzip writes is read as it was, at every level, flushed or not,
// with every kind of header, also where bits of it are wrong. Method: rapid writes content in pieces.
func TestGzipOfCompressors(t *testing.T) {
	z := newInflater(clock(0))
	rapid.Check(t, func(t *rapid.T) {
		var body, content bytes.Buffer
		w, err := gzip.NewWriterLevel(&body, rapid.IntRange(gzip.HuffmanOnly, gzip.BestCompression).Draw(t, "level"))
		if err != nil {
			t.Fatal(err)
		}
		w.Name = rapid.SampledFrom([]string{"", "n", strings.Repeat("n", 511), strings.Repeat("n", 512)}).Draw(t, "name")
		w.Comment = rapid.SampledFrom([]string{"", "c"}).Draw(t, "comment")
		w.Extra = rapid.SampledFrom([][]byte{nil, {}, []byte("xyz")}).Draw(t, "extra")
		pieces := rapid.SampledFrom([]string{goodBody, " ", "\n\t", strings.Repeat(" ", 300), `"from"`, strings.Repeat("abc", 40_000), "x"})
		for range rapid.IntRange(0, 30).Draw(t, "pieces") {
			piece := pieces.Draw(t, "piece")
			content.WriteString(piece)
			_, _ = io.WriteString(w, piece)
			if rapid.Bool().Draw(t, "flush") {
				_ = w.Flush()
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := gunzip(z, body.Bytes(), 8<<20, 2000)
		if long := len(w.Name) == 512; long != errors.Is(err, errGzip) || !long && !bytes.Equal(got, content.Bytes()) {
			t.Fatalf("%d bytes of %d: %v", body.Len(), content.Len(), err)
		}
		bent := bytes.Clone(body.Bytes())
		if content.Len() > 1<<20 {
			return
		}
		for range rapid.IntRange(1, 3).Draw(t, "wrong bits") {
			bit := rapid.IntRange(0, 8*len(bent)-1).Draw(t, "bit")
			bent[bit/8] ^= 1 << (bit % 8)
		}
		agreeGzip(t, z, bent)
	})
}
