package wallet_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"svc-wallet/wallet"
)

// TestReceiptGoldens: the receipts of testdata/receipts.txt keep their bytes, their canonical JSON
// and their hash for ever. The hash is also taken by b3sum, another implementation, where there is
// one.
func TestReceiptGoldens(t *testing.T) {
	data, err := os.ReadFile("testdata/receipts.txt")
	if err != nil {
		t.Fatal(err)
	}
	b3sum, _ := exec.LookPath("b3sum")
	goldens := 0
	for block := range strings.SplitSeq(string(data), "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(block) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			fields[name] = strings.TrimLeft(value, " ")
		}
		if fields["json"] == "" {
			continue
		}
		goldens++
		t.Run(fields["#"], func(t *testing.T) {
			r, err := wallet.VerifyReceipt([]byte(fields["json"]))
			if err != nil {
				t.Fatal(err)
			}
			sum := r.Hash()
			check := func(what, got, want string) {
				if got != want {
					t.Errorf("%s:\n got %s\nwant %s", what, got, want)
				}
			}
			check("json", string(r.AppendJSON(nil)), fields["json"])
			check("canonical", string(r.AppendCanonical(nil)), fields["canonical"])
			check("hash", "b3:"+hex.EncodeToString(sum[:]), fields["hash"])
			if b3sum != "" {
				cmd := exec.Command(b3sum, "--no-names")
				cmd.Stdin = strings.NewReader(fields["canonical"])
				out, err := cmd.Output()
				if err != nil {
					t.Fatal(err)
				}
				check("b3sum", "b3:"+strings.TrimSpace(string(out)), fields["hash"])
			}
		})
	}
	if goldens < 6 {
		t.Fatalf("only %d goldens", goldens)
	}
}

// anyReceipt is a receipt as a ledger may make it.
var anyReceipt = rapid.Custom(func(t *rapid.T) wallet.Receipt {
	r := wallet.Receipt{
		Op:     rapid.SampledFrom([]wallet.Op{wallet.Issue, wallet.Transfer, wallet.Burn}).Draw(t, "op"),
		Asset:  wallet.Must(wallet.ParseAsset(assetText.Draw(t, "asset"))),
		Amount: anyAmount.Filter(func(a wallet.Amount) bool { return !a.IsZero() }).Draw(t, "amount"),
		Nonce:  rapid.Uint64Min(1).Draw(t, "nonce"),
		Idem:   wallet.Must(wallet.IdemKeyFromText(visibleText.Draw(t, "key"))),
		Millis: rapid.Int64Range(0, time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC).UnixMilli()).Draw(t, "ms"),
	}
	copy(r.TxID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "txid"))
	r.TxID[15] |= 1 // not zero
	from := wallet.Must(wallet.ParseAccount(accountText.Draw(t, "from")))
	to := wallet.Must(wallet.ParseAccount(accountText.Filter(func(s string) bool { return s != from.String() }).Draw(t, "to")))
	if r.Op != wallet.Issue {
		r.From = from
	}
	if r.Op != wallet.Burn {
		r.To = to
	}
	return r
})

// TestReceiptRoundTrip: what AppendJSON writes, VerifyReceipt reads back as the same receipt, also
// after another writer changed member order, white space and string escapes; by property.
func TestReceiptRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyReceipt.Draw(t, "receipt")
		written := r.AppendJSON(nil)
		for _, data := range [][]byte{written, relaid(t, written)} {
			back, err := wallet.VerifyReceipt(data)
			if err != nil || back != r {
				t.Fatalf("%s\nreads as %+v, %v", data, back, err)
			}
			if again := back.AppendJSON(nil); string(again) != string(written) {
				t.Fatalf("%s\nwritten again is %s", written, again)
			}
		}
	})
}

// relaid writes the same JSON object in another order, with other spaces and escapes.
func relaid(t *rapid.T, object []byte) []byte {
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(object, &members); err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(members))
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names) // so that a seed repeats the run
	space := func() string { return rapid.StringMatching(`[ \t\r\n]{0,3}`).Draw(t, "space") }
	out := space() + "{"
	for i, name := range rapid.Permutation(names).Draw(t, "order") {
		if i > 0 {
			out += ","
		}
		value := string(members[name])
		if text, err := strconv.Unquote(value); err == nil && rapid.Bool().Draw(t, "escape") {
			value = `"`
			for _, c := range []byte(text) {
				value += `\u00` + hex.EncodeToString([]byte{c})
			}
			value += `"`
		}
		out += space() + strconv.Quote(name) + space() + ":" + space() + value + space()
	}
	return []byte(out + space() + "}" + space())
}

// TestVerifyReceiptRefuses: a document that is no receipt, or whose hash covers something else than
// what it shows, is refused in one line that says why; one change of a good receipt a row, with a
// fresh hash where the hash is not the point.
func TestVerifyReceiptRefuses(t *testing.T) {
	const good = `{"txid":"tx_01JC3Z5N8W7Y2QG4T6R9S0V1XB","op":"transfer","from":"acc_src","to":"acc_dst","asset":"ron","amount_minor":"250000","nonce":42,"idem":"K0","ts":"2025-10-16T12:00:00.123Z","receipt_hash":"HASH"}`
	for _, c := range []struct{ name, from, to, says string }{
		{"wrong hash", `HASH`, `b3:00`, "receipt_hash is"},
		{"hash without prefix", `HASH`, strings.Repeat("0", 64), "receipt_hash is"},
		{"absent hash", `,"receipt_hash":"HASH"`, ``, "receipt_hash is"},
		{"null hash", `"HASH"`, `null`, "receipt_hash is"},
		{"unknown member", `"nonce"`, `"memo":"x","nonce"`, "unknown"},
		{"duplicate member", `"nonce"`, `"nonce":42,"nonce"`, "duplicate"},
		{"member in another case", `"nonce"`, `"Nonce"`, "unknown"},
		{"trailing data", `"HASH"}`, `"HASH"}{}`, "after top-level value"},
		{"no object", good, `[]`, "array"},
		{"null", good, `null`, "txid"},
		{"empty", good, ``, "EOF"},
		{"invalid UTF-8", `"K0"`, "\"K\xff\"", "UTF-8"},
		{"zero txid", `01JC3Z5N8W7Y2QG4T6R9S0V1XB`, strings.Repeat("0", 26), "txid: "},
		{"lower-case txid", `01JC3Z5N8W7Y2QG4T6R9S0V1XB`, `01jc3z5n8w7y2qg4t6r9s0v1xb`, "txid: "},
		{"read is no payment", `"transfer"`, `"read"`, "op: must be issue"},
		{"no such op", `"transfer"`, `"mint"`, "op: must be issue"},
		{"transfer without from", `"from":"acc_src",`, ``, "op: issue has only to"},
		{"transfer without to", `"to":"acc_dst",`, ``, "op: issue has only to"},
		{"issue with from", `"transfer"`, `"issue"`, "op: issue has only to"},
		{"burn with to", `"transfer"`, `"burn"`, "op: issue has only to"},
		{"issue with from null", `"transfer","from":"acc_src"`, `"issue","from":null`, "op: issue has only to"},
		{"burn with to null", `"transfer","from":"acc_src","to":"acc_dst"`, `"burn","from":"acc_src","to":null`, "op: issue has only to"},
		{"from null", `"acc_src"`, `null`, "from: account must match"},
		{"from a number", `"acc_src"`, `1`, "from: account must match"},
		{"from empty", `"acc_src"`, `""`, "from: account must match"},
		{"from unfit", `"acc_src"`, `"-"`, "from: account must match"},
		{"to unfit", `"acc_dst"`, `"a b"`, "to: account must match"},
		{"to oneself", `"acc_dst"`, `"acc_src"`, "to: must differ"},
		{"asset unfit", `"ron"`, `"RON"`, "asset: asset must match"},
		{"amount zero", `"250000"`, `"0"`, "amount_minor: must not be zero"},
		{"amount with leading zero", `"250000"`, `"0250000"`, "amount_minor: amount must be"},
		{"amount over u128", `"250000"`, `"340282366920938463463374607431768211456"`, "amount_minor: amount must be"},
		{"amount a number", `"250000"`, `250000`, "amount_minor"},
		{"nonce zero", `42`, `0`, "nonce: must be"},
		{"nonce null", `42`, `null`, "nonce: must be"},
		{"nonce absent", `"nonce":42,`, ``, "nonce: must be"},
		{"nonce a string", `42`, `"42"`, "nonce"},
		{"nonce negative", `42`, `-42`, "nonce"},
		{"nonce with exponent", `42`, `42e0`, "nonce"},
		{"nonce with fraction", `42`, `42.0`, "nonce"},
		{"nonce over u64", `42`, `18446744073709551616`, "nonce"},
		{"key empty", `"K0"`, `""`, "idem: idempotency key"},
		{"key null", `"K0"`, `null`, "idem: idempotency key"},
		{"key too long", `"K0"`, `"` + strings.Repeat("k", 65) + `"`, "idem: idempotency key"},
		{"ts with a short hour", `T12:`, `T2:`, "ts: must be RFC 3339"},
		{"ts with a comma", `00.123Z`, `00,123Z`, "ts: must be RFC 3339"},
		{"ts with microseconds", `.123Z`, `.123000Z`, "ts: must be RFC 3339"},
		{"ts in seconds", `.123Z`, `Z`, "ts: must be RFC 3339"},
		{"ts with an offset", `.123Z`, `.123+00:00`, "ts: must be RFC 3339"},
		{"ts on no day", `10-16`, `02-30`, "ts: must be RFC 3339"},
		{"ts in lower case", `.123Z`, `.123z`, "ts: must be RFC 3339"},
		{"two faults in one line", `"ron","amount_minor":"250000"`, `"RON","amount_minor":"0"`, "{0,31}; amount_minor: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := strings.Replace(good, c.from, c.to, 1)
			if data == good {
				t.Fatal("the row changes nothing")
			}
			r, err := wallet.VerifyReceipt([]byte(data))
			if !errors.Is(err, wallet.ErrReceipt) || r != (wallet.Receipt{}) {
				t.Fatalf("%s\ngives %+v, %v", data, r, err)
			}
			if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("says %q; want one line with %q", err, c.says)
			}
		})
	}
}

// TestReceiptHashCovers: a receipt that differs in any one field has another hash, by property: no
// field is left out of what receipt_hash covers.
func TestReceiptHashCovers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := anyReceipt.Draw(t, "a"), anyReceipt.Draw(t, "b")
		if (a.Hash() == b.Hash()) != (a == b) {
			t.Fatalf("%+v\n%+v", a, b)
		}
		c := a
		switch rapid.IntRange(0, 8).Draw(t, "field") {
		case 0:
			c.TxID = b.TxID
		case 1:
			c.Op = b.Op
		case 2:
			c.From = b.From
		case 3:
			c.To = b.To
		case 4:
			c.Asset = b.Asset
		case 5:
			c.Amount = b.Amount
		case 6:
			c.Nonce = b.Nonce
		case 7:
			c.Idem = b.Idem
		case 8:
			c.Millis = b.Millis
		}
		if (a.Hash() == c.Hash()) != (a == c) {
			t.Fatalf("%+v\n%+v", a, c)
		}
	})
}

// TestReceiptAllocs: writing a receipt into a roomy buffer does not allocate, the longest included.
func TestReceiptAllocs(t *testing.T) {
	short, longest := sampleReceipts(t)
	buf := make([]byte, 0, 1024)
	noAllocs(t, "AppendJSON", func() {
		buf = short.AppendJSON(buf[:0])
		buf = longest.AppendJSON(buf[:0])
		buf = longest.AppendCanonical(buf[:0])
	})
}

// sampleReceipts are the transfer and the longest receipt of the goldens.
func sampleReceipts(t testing.TB) (short, longest wallet.Receipt) {
	t.Helper()
	data, err := os.ReadFile("testdata/receipts.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if raw, ok := strings.CutPrefix(line, "json"); ok {
			longest = wallet.Must(wallet.VerifyReceipt([]byte(raw)))
			if short.TxID.IsZero() && longest.Op == wallet.Transfer {
				short = longest
			}
		}
	}
	return short, longest
}

func BenchmarkReceiptAppendJSON(b *testing.B) {
	short, longest := sampleReceipts(b)
	for name, r := range map[string]*wallet.Receipt{"transfer": &short, "longest": &longest} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, 1024)
			b.ReportAllocs()
			for b.Loop() {
				buf = r.AppendJSON(buf[:0])
			}
		})
	}
}

func BenchmarkAppendTime(b *testing.B) {
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		buf = wallet.AppendTime(buf[:0], 1760616000123)
	}
}

// TestAppendTime: the quick way prints what package time prints with the full layout, by property
// over the years 0 to 9999.
func TestAppendTime(t *testing.T) {
	first, last := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999e6, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(first.UnixMilli(), last.UnixMilli()).Draw(t, "ms")
		want := time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
		if got := string(wallet.AppendTime([]byte("x"), ms)); got != "x"+want {
			t.Fatalf("%d prints as %s, want %s", ms, got, want)
		}
	})
}
