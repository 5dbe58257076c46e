package wallet_test

import (
	"encoding"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"svc-wallet/wallet"
)

// parsers are the Parse functions by their name in testdata/grammar.txt, each for strings and
// for bytes.
var parsers = map[string]struct {
	text  func(string) (fmt.Stringer, error)
	bytes func([]byte) (fmt.Stringer, error)
	err   error
}{
	"account": {either(wallet.ParseAccount[string]), either(wallet.ParseAccount[[]byte]), wallet.ErrAccount},
	"asset":   {either(wallet.ParseAsset[string]), either(wallet.ParseAsset[[]byte]), wallet.ErrAsset},
	"amount":  {either(wallet.ParseAmount[string]), either(wallet.ParseAmount[[]byte]), wallet.ErrAmount},
	"key":     {either(wallet.ParseIdemKey[string]), either(wallet.ParseIdemKey[[]byte]), wallet.ErrIdemKey},
	"keytext": {either(wallet.IdemKeyFromText[string]), either(wallet.IdemKeyFromText[[]byte]), wallet.ErrIdemKey},
	"corr":    {either(wallet.ParseCorrID[string]), either(wallet.ParseCorrID[[]byte]), wallet.ErrCorrID},
	"trace":   {either(wallet.ParseTrace[string]), either(wallet.ParseTrace[[]byte]), wallet.ErrTrace},
	"txid":    {either(wallet.ParseTxID[string]), either(wallet.ParseTxID[[]byte]), wallet.ErrTxID},
	"op":      {either(parseOp[string]), either(parseOp[[]byte]), errOp},
}

var errOp = errors.New("no operation")

func parseOp[T ~string | ~[]byte](s T) (wallet.Op, error) {
	op, ok := wallet.ParseOp(s)
	if !ok {
		return op, errOp
	}
	return op, nil
}

func either[In any, Out fmt.Stringer](parse func(In) (Out, error)) func(In) (fmt.Stringer, error) {
	return func(in In) (fmt.Stringer, error) { return parse(in) }
}

// TestGrammar: every Parse function accepts exactly its grammar, by the table in
// testdata/grammar.txt, from strings and from bytes that are overwritten afterwards; a refused
// input leaves the zero value.
func TestGrammar(t *testing.T) {
	data, err := os.ReadFile("testdata/grammar.txt")
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	for i, line := range strings.Split(string(data), "\n") {
		line, _, _ = strings.Cut(line, "    # ")
		if line == "" || line[0] == '#' {
			continue
		}
		left, want, ok := strings.Cut(line, "-> ")
		kind, expr, ok2 := strings.Cut(left, " ")
		p, ok3 := parsers[kind]
		if !ok || !ok2 || !ok3 {
			t.Fatalf("grammar.txt:%d: cannot read %q", i+1, line)
		}
		cases++
		in, want := evaluate(t, strings.TrimSpace(expr)), strings.TrimSpace(want)
		mangled := []byte(in)
		fromText, err1 := p.text(in)
		fromBytes, err2 := p.bytes(mangled)
		for i := range mangled {
			mangled[i] = 'X'
		}
		switch {
		case fromText != fromBytes || !errors.Is(err1, err2):
			t.Errorf("grammar.txt:%d: string gives %v, %v, bytes give %v, %v", i+1, fromText, err1, fromBytes, err2)
		case want == "refused":
			zero, _ := p.text("")
			if !errors.Is(err1, p.err) || fromText != zero {
				t.Errorf("grammar.txt:%d: %s %q gives %v, %v; want zero, %v", i+1, kind, in, fromText, err1, p.err)
			}
		case err1 != nil || fromText.String() != want:
			t.Errorf("grammar.txt:%d: %s %q gives %v, %v; want %s", i+1, kind, in, fromText, err1, want)
		}
	}
	if cases < 150 {
		t.Fatalf("read only %d cases", cases)
	}
}

// evaluate reads "a"*64+"b".
func evaluate(t *testing.T, expr string) string {
	t.Helper()
	var out strings.Builder
	for expr != "" {
		quoted, err := strconv.QuotedPrefix(expr)
		if err != nil {
			t.Fatalf("%s: %v", expr, err)
		}
		text, _ := strconv.Unquote(quoted)
		expr = expr[len(quoted):]
		times := 1
		if rest, ok := strings.CutPrefix(expr, "*"); ok {
			digits, after, _ := strings.Cut(rest, "+")
			if times, err = strconv.Atoi(digits); err != nil {
				t.Fatalf("%s: %v", expr, err)
			}
			expr = after
		} else {
			expr = strings.TrimPrefix(expr, "+")
		}
		out.WriteString(strings.Repeat(text, times))
	}
	return out.String()
}

// Generators of valid texts, from the grammars of CONTRACT §1.
var (
	accountText = rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}`)
	assetText   = rapid.StringMatching(`[a-z0-9][a-z0-9_.-]{0,31}`)
	visibleText = rapid.StringMatching(`[!-~]{1,64}`)
)

// TestIDsRoundTrip: a valid text is kept exactly by every identifier and by its JSON form, and
// equal texts make equal values whatever was parsed before; by properties over the grammars.
func TestIDsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		account, asset := accountText.Draw(t, "account"), assetText.Draw(t, "asset")
		visible := visibleText.Draw(t, "visible")
		a := wallet.Must(wallet.ParseAccount(account))
		s := wallet.Must(wallet.ParseAsset([]byte(asset)))
		c := wallet.Must(wallet.ParseCorrID(visible))
		k := wallet.Must(wallet.IdemKeyFromText(visible))
		for _, v := range []struct {
			id   textual
			text string
		}{{a, account}, {s, asset}, {c, visible}, {k, visible}} {
			marshalled, err := v.id.MarshalText()
			if v.id.String() != v.text || string(v.id.Append([]byte("x"))) != "x"+v.text ||
				string(marshalled) != v.text || err != nil || v.id.IsZero() {
				t.Fatalf("%q became %q, %q, %v", v.text, v.id, marshalled, err)
			}
		}
		var a2 wallet.Account
		var s2 wallet.Asset
		if a2.UnmarshalText([]byte(account)) != nil || a2 != a || s2.UnmarshalText([]byte(asset)) != nil || s2 != s {
			t.Fatalf("UnmarshalText gives %q and %q", a2, s2)
		}
		cut := rapid.IntRange(0, len(account)).Draw(t, "cut")
		if !a.HasPrefix(account[:cut]) || a.HasPrefix(account+"x") || a.HasPrefix("/"+account[:cut]) {
			t.Fatalf("HasPrefix is wrong for %q at %d", account, cut)
		}
	})
}

type textual interface {
	fmt.Stringer
	encoding.TextMarshaler
	Append([]byte) []byte
	IsZero() bool
}

// TestIdemKeyForms: the bare and the quoted form of one key are the same value, and two texts are
// never one key; by properties that quote as RFC 8941 says.
func TestIdemKeyForms(t *testing.T) {
	quote := strings.NewReplacer(`"`, `\"`, `\`, `\\`)
	rapid.Check(t, func(t *rapid.T) {
		text := visibleText.Draw(t, "text")
		quoted := wallet.Must(wallet.ParseIdemKey(`"` + quote.Replace(text) + `"`))
		if quoted != wallet.Must(wallet.IdemKeyFromText(text)) {
			t.Fatalf("quoted %q is %q", text, quoted)
		}
		if text[0] != '"' && quoted != wallet.Must(wallet.ParseIdemKey(text)) {
			t.Fatalf("bare %q differs from its quoted form %q", text, quoted)
		}
		other := visibleText.Draw(t, "other")
		if (wallet.Must(wallet.IdemKeyFromText(other)) == quoted) != (other == text) {
			t.Fatalf("%q and %q are one key", text, other)
		}
	})
}

// TestZeroIDs: zero values name nothing and show as nothing.
func TestZeroIDs(t *testing.T) {
	for _, id := range []textual{wallet.Account{}, wallet.Asset{}, wallet.IdemKey{}, wallet.CorrID{}} {
		if !id.IsZero() || id.String() != "" {
			t.Errorf("%T: zero value shows as %q", id, id)
		}
	}
	if !(wallet.Trace{}).IsZero() || (wallet.Trace{}).String() != "" || !(wallet.TxID{}).IsZero() {
		t.Error("the zero Trace or TxID is not zero")
	}
}

// TestMust: a literal that does not parse panics and names the rule.
func TestMust(t *testing.T) {
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, wallet.ErrAccount.Error()) {
			t.Errorf("panic says %q", got)
		}
	}()
	wallet.Must(wallet.ParseAccount("-"))
}

// noAllocs checks that f does not allocate.
func noAllocs(t *testing.T, name string, f func()) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	if n := testing.AllocsPerRun(200, f); n != 0 {
		t.Errorf("%s: %v allocations, want none", name, n)
	}
}

// TestIDAllocs: parsing request bytes does not allocate, valid or not.
func TestIDAllocs(t *testing.T) {
	in := map[string][]byte{
		"account": []byte("acc_1"), "asset": []byte("ron"), "bare key": []byte("k-1"),
		"quoted key": []byte(`"k\"1"`), "bad": []byte("a b"),
		"trace": []byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
		"txid":  []byte("tx_01JC3Z5N8W7Y2QG4T6R9S0V1XA"),
	}
	buf := make([]byte, 0, 64)
	noAllocs(t, "parse", func() {
		a, _ := wallet.ParseAccount(in["account"])
		buf = a.Append(buf[:0])
		_, _ = wallet.ParseAsset(in["asset"])
		_, _ = wallet.ParseIdemKey(in["bare key"])
		_, _ = wallet.ParseIdemKey(in["quoted key"])
		_, _ = wallet.ParseCorrID(in["bare key"])
		_, _ = wallet.ParseTrace(in["trace"])
		_, _ = wallet.ParseTxID(in["txid"])
		_, _ = wallet.ParseAccount(in["bad"])
		_, _ = wallet.ParseIdemKey(in["bad"])
	})
}
