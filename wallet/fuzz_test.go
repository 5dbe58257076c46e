package wallet_test

import (
	"math/big"
	"os"
	"regexp"
	"strings"
	"testing"

	"svc-wallet/wallet"
)

// FuzzAmount: a text is read if and only if it is in the grammar and below 2^128, and then exactly;
// against a regular expression and math/big.
func FuzzAmount(f *testing.F) {
	for _, s := range []string{"0", "1", "00", "340282366920938463463374607431768211455", "340282366920938463463374607431768211456", "99999999999999999999", "-1", "1e3"} {
		f.Add([]byte(s))
	}
	grammar, limit := regexp.MustCompile(`\A(0|[1-9][0-9]{0,38})\z`), new(big.Int).Lsh(big.NewInt(1), 128)
	f.Fuzz(func(t *testing.T, s []byte) {
		a, err := wallet.ParseAmount(s)
		want, valid := new(big.Int), grammar.Match(s)
		if valid {
			want.SetString(string(s), 10)
			valid = want.Cmp(limit) < 0
		}
		if valid != (err == nil) || (valid && (toBig(a).Cmp(want) != 0 || a.String() != string(s))) {
			t.Fatalf("%q reads as %s, %v", s, a, err)
		}
	})
}

// FuzzIdemKey: whatever is accepted is a text of 1 to 64 visible characters that its quoted form and
// its own text name again, and a bare key is accepted exactly by its grammar.
func FuzzIdemKey(f *testing.F) {
	for _, s := range []string{"a", `"a"`, `"a\"b"`, `"\\"`, `"a`, `"`, `""`, `"a\b"`, `"a";p=1`, `a"b`, "a b"} {
		f.Add([]byte(s))
	}
	bare := regexp.MustCompile(`\A[!#-~][!-~]{0,63}\z`)
	quoted := regexp.MustCompile(`\A"([!#-\[\]-~]|\\["\\]){1,64}"\z`)
	quote, unquote := strings.NewReplacer(`"`, `\"`, `\`, `\\`), strings.NewReplacer(`\"`, `"`, `\\`, `\`)
	f.Fuzz(func(t *testing.T, s []byte) {
		k, err := wallet.ParseIdemKey(s)
		want, valid := string(s), bare.Match(s)
		if quoted.Match(s) {
			want, valid = unquote.Replace(string(s[1:len(s)-1])), true
		}
		if valid != (err == nil) || (valid && k.String() != want) {
			t.Fatalf("%q reads as %q, %v", s, k, err)
		}
		if err != nil {
			return
		}
		again, err := wallet.ParseIdemKey(`"` + quote.Replace(want) + `"`)
		text, err2 := wallet.IdemKeyFromText(want)
		if err != nil || err2 != nil || again != k || text != k {
			t.Fatalf("%q is %q, quoted %q, %v, by its text %q, %v", s, k, again, err, text, err2)
		}
	})
}

// FuzzReceipt: a document that verifies is a valid receipt that writes itself again so that it
// verifies again; nothing panics.
func FuzzReceipt(f *testing.F) {
	data, err := os.ReadFile("testdata/receipts.txt")
	if err != nil {
		f.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if raw, ok := strings.CutPrefix(line, "json"); ok {
			f.Add([]byte(raw))
		}
	}
	f.Add([]byte(`{"txid":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := wallet.VerifyReceipt(data)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("more than a line: %q", err)
			}
			return
		}
		if r.TxID.IsZero() || r.Amount.IsZero() || r.Nonce == 0 || r.Idem.IsZero() || r.Asset.IsZero() ||
			r.From == r.To || r.From.IsZero() != (r.Op == wallet.Issue) || r.To.IsZero() != (r.Op == wallet.Burn) {
			t.Fatalf("%s\nverifies as %+v", data, r)
		}
		if again, err := wallet.VerifyReceipt(r.AppendJSON(nil)); err != nil || again != r {
			t.Fatalf("%s\nwritten again gives %+v, %v", data, again, err)
		}
	})
}

// FuzzTrace: a traceparent is accepted exactly by its grammar and kept as it is.
func FuzzTrace(f *testing.F) {
	for _, s := range []string{"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x", ""} {
		f.Add([]byte(s))
	}
	grammar := regexp.MustCompile(`\A00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}\z`)
	f.Fuzz(func(t *testing.T, s []byte) {
		tr, err := wallet.ParseTrace(s)
		m := grammar.FindSubmatch(s)
		valid := m != nil && strings.Trim(string(m[1]), "0") != "" && strings.Trim(string(m[2]), "0") != ""
		if valid != (err == nil) || tr.IsZero() == valid || (valid && tr.String() != string(s)) {
			t.Fatalf("%q reads as %q, %v", s, tr, err)
		}
	})
}
