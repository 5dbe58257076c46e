package macaroon_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	ref "gopkg.in/macaroon.v2"
	"pgregory.net/rapid"

	"svc-wallet/filters/macaroon"
)

// drawn is a macaroon that both implementations are asked to make.
type drawn struct {
	key      []byte
	location string
	id       string
	caveats  []string
}

func draw(t *rapid.T) drawn {
	text := rapid.OneOf(rapid.StringN(0, 20, 200), rapid.StringMatching(`[ -~]{0,160}`))
	return drawn{
		key:      rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "key"),
		location: rapid.StringMatching(`[a-z-]{0,140}`).Draw(t, "location"),
		id:       text.Draw(t, "id"),
		caveats:  rapid.SliceOfN(text, 0, 8).Draw(t, "caveats"),
	}
}

func (d drawn) reference(t *rapid.T) *ref.Macaroon {
	m, err := ref.New(d.key, []byte(d.id), d.location, ref.V2)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range d.caveats {
		if err := m.AddFirstPartyCaveat([]byte(c)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// TestSameBytes shows that minting and attenuating make the very bytes of gopkg.in/macaroon.v2,
// and that each verifies the other's, by a property over random macaroons.
func TestSameBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		want, err := d.reference(t).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		split := rapid.IntRange(0, len(d.caveats)).Draw(t, "minted with")
		minted, err := macaroon.Mint(d.key, d.location, d.id, d.caveats[:split]...)
		if err != nil {
			t.Fatal(err)
		}
		got, err := macaroon.Attenuate(minted, d.caveats[split:]...)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("ours   %x\ntheirs %x", got, want)
		}
		var theirs ref.Macaroon
		if err := theirs.UnmarshalBinary(got); err != nil {
			t.Fatal(err)
		}
		if err := theirs.Verify(d.key, func(string) error { return nil }, nil); err != nil {
			t.Fatalf("macaroon.v2 refuses ours: %v", err)
		}
		v, err := macaroon.Decode(want)
		if err != nil || !v.Verify(d.key) {
			t.Fatalf("we refuse macaroon.v2's: %v", err)
		}
	})
}

// TestTampering shows that no change to a macaroon verifies: any bit of what is signed, any caveat
// taken away, two swapped, or another key, by a property. The location is a hint that nobody signs.
func TestTampering(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := draw(t)
		d.location = ""
		data, err := macaroon.Mint(d.key, d.location, d.id, d.caveats...)
		if err != nil {
			t.Fatal(err)
		}
		mustRefuse := func(what string, data, key []byte) {
			if v, err := macaroon.Decode(data); err == nil && v.Verify(key) {
				t.Fatalf("verifies with %s", what)
			}
		}
		bit := rapid.IntRange(0, 8*len(data)-1).Draw(t, "bit")
		flipped := slices.Clone(data)
		flipped[bit/8] ^= 1 << (bit % 8)
		mustRefuse("a flipped bit", flipped, d.key)
		mustRefuse("another key", data, append(slices.Clone(d.key), 1))

		sig := data[len(data)-32:]
		forge := func(caveats []string) []byte {
			other, err := macaroon.Mint([]byte("guess"), "", d.id, caveats...)
			if err != nil {
				t.Fatal(err)
			}
			return append(other[:len(other)-32], sig...)
		}
		if n := len(d.caveats); n > 0 {
			gone := rapid.IntRange(0, n-1).Draw(t, "gone")
			mustRefuse("a caveat gone", forge(slices.Delete(slices.Clone(d.caveats), gone, gone+1)), d.key)
			swapped := slices.Clone(d.caveats)
			swapped[0], swapped[n-1] = swapped[n-1], swapped[0]
			if swapped[0] != d.caveats[0] {
				mustRefuse("caveats swapped", forge(swapped), d.key)
			}
		}
	})
}

// TestLibmacaroonsVectors holds the chain against the signatures printed in libmacaroons' README,
// so that the agreement does not rest on one other implementation.
func TestLibmacaroonsVectors(t *testing.T) {
	key := []byte("this is our super secret key; only we should know it")
	for _, step := range []struct {
		caveats []string
		sig     string
	}{
		{nil, "e3d9e02908526c4c0039ae15114115d97fdd68bf2ba379b342aaf0f617d0552f"},
		{[]string{"test = caveat"}, "197bac7a044af33332865b9266e26d493bdd668a660e44d88ce1a998c23dbd67"},
	} {
		data, err := macaroon.Mint(key, "http://mybank/", "we used our secret key", step.caveats...)
		if err != nil {
			t.Fatal(err)
		}
		v, err := macaroon.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(v.Signature); got != step.sig {
			t.Errorf("with %q: signature %s, want %s", step.caveats, got, step.sig)
		}
	}
}

// TestParts shows that a view has the parts that went in, third-party caveats included, by reading
// what gopkg.in/macaroon.v2 made.
func TestParts(t *testing.T) {
	m, err := ref.New([]byte("k"), []byte("id"), "here", ref.V2)
	if err != nil {
		t.Fatal(err)
	}
	_ = m.AddFirstPartyCaveat([]byte("a = 1"))
	if err := m.AddThirdPartyCaveat([]byte("shared"), []byte("ask"), "there"); err != nil {
		t.Fatal(err)
	}
	data, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	v, err := macaroon.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	equalParts(t, &v, m)
	if !v.ThirdParty() || v.Verify([]byte("k")) {
		t.Error("a third-party caveat without discharge must be seen and must not verify")
	}
	if (&macaroon.View{}).Verify(nil) {
		t.Error("the zero view verifies")
	}
}

func equalParts(t *testing.T, v *macaroon.View, m *ref.Macaroon) {
	t.Helper()
	if string(v.Location) != m.Location() || !bytes.Equal(v.ID, m.Id()) || !bytes.Equal(v.Signature, m.Signature()) {
		t.Errorf("location %q, id %q, signature %x; macaroon.v2 has %q, %q, %x",
			v.Location, v.ID, v.Signature, m.Location(), m.Id(), m.Signature())
	}
	theirs := m.Caveats()
	if len(v.Caveats()) != len(theirs) {
		t.Fatalf("%d caveats, macaroon.v2 has %d", len(v.Caveats()), len(theirs))
	}
	for i, c := range v.Caveats() {
		if !bytes.Equal(c.ID, theirs[i].Id) || !bytes.Equal(c.VID, theirs[i].VerificationId) || string(c.Location) != theirs[i].Location {
			t.Errorf("caveat %d is %q, macaroon.v2 has %q", i, c, theirs[i])
		}
	}
}

// TestDecodeRefuses shows what is no macaroon, by a table of hex bytes; sig stands for a valid
// trailer.
func TestDecodeRefuses(t *testing.T) {
	sig := "00 06 20" + strings.Repeat("aa", 32)
	for _, c := range []struct {
		why, hex string
		want     error
	}{
		{"nothing at all", "", macaroon.ErrFormat},
		{"version 1", "30", macaroon.ErrFormat},
		{"version 3", "03 02 01 69 00" + sig, macaroon.ErrFormat},
		{"version only", "02", macaroon.ErrFormat},
		{"no identifier", "02 01 01 6c 00" + sig, macaroon.ErrFormat},
		{"empty head", "02 00" + sig, macaroon.ErrFormat},
		{"head without end", "02 02 01 69", macaroon.ErrFormat},
		{"field without length", "02 02", macaroon.ErrFormat},
		{"location after identifier", "02 02 01 69 01 01 6c 00" + sig, macaroon.ErrFormat},
		{"location twice", "02 01 01 6c 01 01 6c 02 01 69 00" + sig, macaroon.ErrFormat},
		{"identifier twice", "02 02 01 69 02 01 69 00" + sig, macaroon.ErrFormat},
		{"empty location", "02 01 00 02 01 69 00" + sig, macaroon.ErrFormat},
		{"verification id in the head", "02 02 01 69 04 01 76 00" + sig, macaroon.ErrFormat},
		{"signature in the head", "02 02 01 69 06 01 76 00" + sig, macaroon.ErrFormat},
		{"unknown field", "02 02 01 69 03 01 76 00" + sig, macaroon.ErrFormat},
		{"field type as a long varint", "02 82 00 01 69 00" + sig, macaroon.ErrFormat},
		{"value past the end", "02 02 7f 69 00" + sig, macaroon.ErrFormat},
		{"overlong length", "02 02 81 00 69 00" + sig, macaroon.ErrFormat},
		{"length of three bytes", "02 02 81 80 01 69 00" + sig, macaroon.ErrFormat},
		{"length that ends early", "02 02 81", macaroon.ErrFormat},
		{"overflowing length", "02 02 ff ff ff ff ff ff ff ff ff 01 69 00" + sig, macaroon.ErrFormat},
		{"caveat without identifier", "02 02 01 69 00 04 01 76 00" + sig, macaroon.ErrFormat},
		{"caveat without end", "02 02 01 69 00 02 01 63" + sig, macaroon.ErrFormat},
		{"first-party caveat with a location", "02 02 01 69 00 01 01 6c 02 01 63 00" + sig, macaroon.ErrFormat},
		{"empty verification id", "02 02 01 69 00 02 01 63 04 00 00" + sig, macaroon.ErrFormat},
		{"no end of caveats", "02 02 01 69 00 06 20" + strings.Repeat("aa", 32), macaroon.ErrFormat},
		{"no signature", "02 02 01 69 00 00", macaroon.ErrFormat},
		{"short signature", "02 02 01 69 00 00 06 1f" + strings.Repeat("aa", 31), macaroon.ErrFormat},
		{"long signature", "02 02 01 69 00 00 06 21" + strings.Repeat("aa", 33), macaroon.ErrFormat},
		{"signature of another field", "02 02 01 69 00 00 04 20" + strings.Repeat("aa", 32), macaroon.ErrFormat},
		{"trailing byte", "02 02 01 69 00" + sig + "00", macaroon.ErrFormat},
		{"two macaroons", "02 02 01 69 00" + sig + "02 02 01 69 00" + sig, macaroon.ErrFormat},
		{"17 caveats", "02 02 01 69 00" + strings.Repeat("02 01 63 00", 17) + sig, macaroon.ErrBounds},
		{"4097 bytes", "02" + strings.Repeat("00", 4096), macaroon.ErrBounds},
	} {
		data, err := hex.DecodeString(strings.ReplaceAll(c.hex, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := macaroon.Decode(data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.why, err, c.want)
		}
	}
}

// TestBounds shows that 16 caveats and 4096 bytes are made and read, and one more neither, by
// sizes on both sides of each bound.
func TestBounds(t *testing.T) {
	key := []byte("k")
	full, err := macaroon.Mint(key, "", "id", slices.Repeat([]string{"c"}, macaroon.MaxCaveats)...)
	if err != nil {
		t.Errorf("16 caveats: %v", err)
	}
	if _, err := macaroon.Attenuate(full, "one more"); !errors.Is(err, macaroon.ErrBounds) {
		t.Errorf("17 caveats: %v", err)
	}
	bare, err := macaroon.Mint(key, "", "id", strings.Repeat("c", 200))
	if err != nil {
		t.Fatal(err)
	}
	room := macaroon.MaxSize - len(bare) + 200
	if data, err := macaroon.Mint(key, "", "id", strings.Repeat("c", room)); err != nil || len(data) != macaroon.MaxSize {
		t.Errorf("4096 bytes: %v, %d bytes", err, len(data))
	}
	for _, tooLong := range []func() ([]byte, error){
		func() ([]byte, error) { return macaroon.Mint(key, "", "id", strings.Repeat("c", room+1)) },
		func() ([]byte, error) { return macaroon.Mint(key, "", "id", strings.Repeat("c", 1<<14)) },
		func() ([]byte, error) { return macaroon.Mint(key, strings.Repeat("l", 1<<14), "id") },
		func() ([]byte, error) { return macaroon.Mint(key, "", strings.Repeat("i", macaroon.MaxSize)) },
		func() ([]byte, error) { return macaroon.Attenuate(bare, slices.Repeat([]string{""}, 1<<14)...) },
	} {
		if data, err := tooLong(); !errors.Is(err, macaroon.ErrBounds) || data != nil {
			t.Errorf("over 4096 bytes: %v", err)
		}
	}
	if _, err := macaroon.Attenuate([]byte("junk"), "c"); !errors.Is(err, macaroon.ErrFormat) {
		t.Errorf("attenuating junk: %v", err)
	}
}

// TestText shows that a token has one text form, padded or not, by a table and by going there and
// back.
func TestText(t *testing.T) {
	var buf [macaroon.MaxSize]byte
	for _, c := range []struct {
		text, want string
		err        error
	}{
		{"", "", nil},
		{"Zg", "f", nil},
		{"Zg==", "f", nil},
		{"Zm8", "fo", nil},
		{"Zm8=", "fo", nil},
		{"Zm9v", "foo", nil},
		{"_-8", "\xff\xef", nil},
		{"/+8", "", macaroon.ErrEncoding}, // the other alphabet
		{"Zh", "", macaroon.ErrEncoding},  // stray bits
		{"Zg=", "", macaroon.ErrEncoding}, // half the padding
		{"Zm8==", "", macaroon.ErrEncoding},
		{"Zm9v=", "", macaroon.ErrEncoding},
		{"Zm9v====", "", macaroon.ErrEncoding},
		{"====", "", macaroon.ErrEncoding},
		{"=", "", macaroon.ErrEncoding},
		{"Z", "", macaroon.ErrEncoding},
		{"Zm\n9v", "", macaroon.ErrEncoding},
		{"Zm9v\r", "", macaroon.ErrEncoding},
		{"Zm9v ", "", macaroon.ErrEncoding},
		{"Zg==Zg==", "", macaroon.ErrEncoding},
		{strings.Repeat("A", macaroon.MaxText+1), "", macaroon.ErrBounds},
		{strings.Repeat("A", macaroon.MaxText), "", macaroon.ErrBounds}, // 4098 bytes
	} {
		got, err := macaroon.DecodeText(buf[:], []byte(c.text))
		if !errors.Is(err, c.err) || string(got) != c.want {
			t.Errorf("%.20q: %q, %v; want %q, %v", c.text, got, err, c.want, c.err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "data")
		for _, text := range []string{macaroon.EncodeText(data), base64.URLEncoding.EncodeToString(data)} {
			got, err := macaroon.DecodeText(buf[:], []byte(text))
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%q: %x, %v", text, got, err)
			}
		}
	})
}

// TestMac holds the chain's HMAC against crypto/hmac, by what a macaroon without caveats is by
// definition: HMAC(HMAC("macaroons-key-generator", key), id).
func TestMac(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "key")
		id := rapid.StringN(0, 300, 900).Draw(t, "id")
		data, err := macaroon.Mint(key, "", id)
		if err != nil {
			t.Fatal(err)
		}
		derive := hmac.New(sha256.New, []byte("macaroons-key-generator"))
		derive.Write(key)
		sign := hmac.New(sha256.New, derive.Sum(nil))
		sign.Write([]byte(id))
		if !bytes.HasSuffix(data, sign.Sum(nil)) {
			t.Fatal("another HMAC than crypto/hmac's")
		}
	})
}

// TestNoAllocation shows that junk costs no memory: text and binary decoding, walking and a
// verification that fails allocate nothing.
func TestNoAllocation(t *testing.T) {
	data, err := macaroon.Mint([]byte("k"), "svc-wallet", "id", "a = 1", "b = 2")
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(macaroon.EncodeText(data))
	var buf [macaroon.MaxSize]byte
	if n := testing.AllocsPerRun(100, func() {
		data, err := macaroon.DecodeText(buf[:], text)
		if err != nil {
			t.Fatal(err)
		}
		v, err := macaroon.Decode(data)
		if err != nil || v.Verify([]byte("x")) {
			t.Fatal("verifies under another key")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzDecode shows that what we accept gopkg.in/macaroon.v2 accepts with equal parts and writes
// again as the same bytes: there is one encoding, and no two readers see two macaroons.
func FuzzDecode(f *testing.F) {
	plain, err := macaroon.Mint([]byte("k"), "svc-wallet", "v1:k1:t1", "exp = 1", strings.Repeat("x", 130))
	if err != nil {
		f.Fatal(err)
	}
	m, err := ref.New([]byte("k"), []byte("id"), "", ref.V2)
	if err != nil {
		f.Fatal(err)
	}
	if err := m.AddThirdPartyCaveat([]byte("shared"), []byte("ask"), "there"); err != nil {
		f.Fatal(err)
	}
	third, err := m.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add(third)
	f.Add(append(slices.Clone(plain), 0))
	f.Add(append(slices.Clone(plain), third...))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := macaroon.Decode(data)
		if err != nil {
			return
		}
		var m ref.Macaroon
		if err := m.UnmarshalBinary(data); err != nil {
			t.Fatalf("macaroon.v2 refuses what we accept: %v", err)
		}
		equalParts(t, &v, &m)
		if again, err := m.MarshalBinary(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("a second encoding of one macaroon: %x, %v", again, err)
		}
	})
}
