package filters

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

const goodBody = `{"from":"acc_1","to":"acc_2","asset":"ron","amount_minor":"250","nonce":7}`

// payment is an exchange that carries a body, under wide limits.
func payment(op wallet.Op, body string) *Exchange {
	return &Exchange{
		Request: Request{
			Op:       op,
			Key:      []byte("key-1"),
			Body:     []byte(body),
			Limits:   &config.Limits{MaxBodyBytes: 1 << 20, DecompressRatioCap: 10},
			Origin:   wallet.Origin{Corr: wallet.Must(wallet.ParseCorrID("corr-1"))},
			Deadline: 1,
		},
		Findings: Findings{
			Grant: &Grant{actions: 1 << op, accounts: []patterns{"acc_1"}},
		},
	}
}

// newPayload is a filter whose clock stands at 0.
func newPayload() *Payload { return NewPayload(clock(0)) }

// clock stands still.
func clock(now int64) func() int64 { return func() int64 { return now } }

// TestPayloadWrites: each operation takes exactly its members, in any order and spacing, with
// any legal escape; everything else is refused with a constant text that names the rule. Method:
// a table of bodies.
func TestPayloadWrites(t *testing.T) {
	const (
		issue = `{"to":"acc_2","asset":"ron","amount_minor":"250","nonce":7}`
		burn  = `{"from":"acc_1","asset":"ron","amount_minor":"250","nonce":7}`
	)
	with := func(old, fresh string) string {
		if !strings.Contains(goodBody, old) {
			t.Fatalf("%q is not in the good body", old)
		}
		return strings.Replace(goodBody, old, fresh, 1)
	}
	for _, c := range []struct {
		name, op, body string
		want           error // nil: accepted as the good transfer, issue or burn
	}{
		{"transfer", "transfer", goodBody, nil},
		{"issue", "issue", issue, nil},
		{"burn", "burn", burn, nil},
		{"order and white space", "transfer", "\r\n\t {\"nonce\" :7 , \"amount_minor\":\n\"250\",\"asset\":\"ron\",\"to\":\"acc_2\",\"from\":\"acc_1\" } \n", nil},
		{"escapes in values", "transfer", with(`"acc_1"`, `"\u0061cc\u005F1"`), nil},
		{"escapes in upper and lower hex", "transfer", with(`"acc_1"`, `"acc\u005f1"`), nil},
		{"escapes in names", "transfer", with(`"from"`, `"\u0066rom"`), nil},
		{"escapes in the amount", "transfer", with(`"250"`, `"\u003250"`), nil},

		{"empty", "transfer", ``, errObject},
		{"white space", "transfer", ` `, errObject},
		{"BOM", "transfer", "\ufeff" + goodBody, errObject},
		{"array", "transfer", `[` + goodBody + `]`, errObject},
		{"string", "transfer", `"a"`, errObject},
		{"null", "transfer", `null`, errObject},
		{"unclosed", "transfer", `{`, errObject},
		{"closed as an array", "transfer", `{]`, errObject},
		{"cut after a name", "transfer", `{"from"`, errObject},
		{"cut after a colon", "transfer", `{"from":`, errFrom},
		{"cut after a value", "transfer", `{"from":"acc_1"`, errObject},
		{"cut after a comma", "transfer", `{"from":"acc_1",`, errObject},
		{"comma before the end", "transfer", with(`7}`, `7,}`), errObject},
		{"comma first", "transfer", with(`{`, `{,`), errObject},
		{"two commas", "transfer", with(`,`, `,,`), errObject},
		{"no comma", "transfer", with(`,`, ` `), errObject},
		{"no colon", "transfer", with(`:`, ` `), errObject},
		{"two colons", "transfer", with(`:`, `::`), errFrom},
		{"name without quotes", "transfer", with(`"from"`, `from`), errObject},
		{"single quotes", "transfer", with(`"from"`, `'from'`), errObject},
		{"comment", "transfer", with(`{`, `{/**/`), errObject},
		{"form feed is no white space", "transfer", "\f" + goodBody, errObject},
		{"NBSP is no white space", "transfer", "\u00a0" + goodBody, errObject},

		{"trailing object", "transfer", goodBody + goodBody, errTrailing},
		{"trailing brace", "transfer", goodBody + `}`, errTrailing},
		{"trailing NUL", "transfer", goodBody + "\x00", errTrailing},

		{"unknown member", "transfer", with(`{`, `{"memo":"x",`), "memo" + errNotTaken},
		{"unknown member, nested", "transfer", with(`{`, `{"memo":{"a":[1]},`), "memo" + errNotTaken},
		{"empty name", "transfer", with(`"from"`, `""`), errUnknown},
		{"another case", "transfer", with(`"from"`, `"From"`), "From" + errNotTaken},
		{"name with a space", "transfer", with(`"from"`, `"from "`), errUnknown},
		{"from in an issue", "issue", goodBody, "from" + errNotTaken},
		{"to in a burn", "burn", goodBody, "to" + errNotTaken},
		{"name that a log could misread", "transfer", with(`"from"`, `"from\u0022:1"`), errUnknown},
		{"longest name", "transfer", with(`"from"`, `"`+strings.Repeat("m", 64)+`"`), fault(strings.Repeat("m", 64)) + errNotTaken},
		{"name beyond ASCII", "transfer", with(`"from"`, `"fröm"`), errObject},
		{"duplicate", "transfer", with(`{`, `{"from":"acc_1",`), errTwice},
		{"duplicate by escape", "transfer", with(`{`, `{"\u0066rom":"acc_1",`), errTwice},
		{"duplicate number", "transfer", with(`7}`, `7,"nonce":7}`), errTwice},

		{"no members", "transfer", `{}`, errNoTo},
		{"no to", "transfer", with(`"to":"acc_2",`, ``), errNoTo},
		{"no from", "transfer", with(`"from":"acc_1",`, ``), errNoFrom},
		{"no asset", "transfer", with(`"asset":"ron",`, ``), errNoAsset},
		{"no amount", "transfer", with(`"amount_minor":"250",`, ``), errNoAmount},
		{"no nonce", "transfer", with(`,"nonce":7`, ``), errNoNonce},

		{"null account", "transfer", with(`"acc_1"`, `null`), errFrom},
		{"number for an account", "transfer", with(`"acc_1"`, `1`), errFrom},
		{"empty account", "transfer", with(`"acc_1"`, `""`), errFrom},
		{"account outside the grammar", "transfer", with(`"acc_1"`, `"-acc"`), errFrom},
		{"account too long", "transfer", with(`"acc_2"`, `"`+strings.Repeat("a", 65)+`"`), errTo},
		{"account too long by escapes", "transfer", with(`"acc_2"`, `"`+strings.Repeat(`\u0061`, 65)+`"`), errTo},
		{"far too long before an escape", "transfer", with(`"acc_2"`, `"`+strings.Repeat(`a`, 500)+`\u0061"`), errTo},
		{"escape outside the grammar", "transfer", with(`"acc_1"`, `"acc\n1"`), errFrom},
		{"escaped NUL", "transfer", with(`"acc_1"`, `"acc\u00001"`), errFrom},
		{"escaped beyond ASCII", "transfer", with(`"acc_1"`, `"acc\u00e41"`), errFrom},
		{"fullwidth a", "transfer", with(`"acc_1"`, `"\uff41cc_1"`), errFrom},
		{"surrogates", "transfer", with(`"acc_1"`, `"\ud83d\ude00"`), errFrom},
		{"half an escape", "transfer", with(`"acc_1"`, `"\u00`), errFrom},
		{"escape without hex", "transfer", with(`"acc_1"`, `"\u00zz"`), errFrom},
		{"escape in upper case U", "transfer", with(`"acc_1"`, `"\U0061"`), errFrom},
		{"raw control after an escape", "transfer", with(`"acc_1"`, "\"\\u0061\n\""), errFrom},
		{"unclosed after an escape", "transfer", `{"from":"\u0061`, errFrom},
		{"raw control character", "transfer", with(`"acc_1"`, "\"acc\x001\""), errFrom},
		{"invalid UTF-8", "transfer", with(`"acc_1"`, "\"acc\xff1\""), errFrom},
		{"unclosed string", "transfer", `{"from":"acc_1`, errFrom},
		{"asset in upper case", "transfer", with(`"ron"`, `"RON"`), errAsset},
		{"nested asset", "transfer", with(`"ron"`, `["ron"]`), errAsset},
		{"account to itself", "transfer", with(`"acc_2"`, `"acc_1"`), errSelf},
		{"account to itself by escape", "transfer", with(`"acc_2"`, `"acc_\u0031"`), errSelf},

		{"amount as a number", "transfer", with(`"250"`, `250`), errAmount},
		{"amount zero", "transfer", with(`"250"`, `"0"`), errAmount},
		{"amount empty", "transfer", with(`"250"`, `""`), errAmount},
		{"amount with a leading zero", "transfer", with(`"250"`, `"0250"`), errAmount},
		{"amount negative", "transfer", with(`"250"`, `"-250"`), errAmount},
		{"amount with a sign", "transfer", with(`"250"`, `"+250"`), errAmount},
		{"amount as a float", "transfer", with(`"250"`, `"2.50"`), errAmount},
		{"amount with an exponent", "transfer", with(`"250"`, `"25e1"`), errAmount},
		{"amount with a space", "transfer", with(`"250"`, `" 250"`), errAmount},
		{"amount 2^128", "transfer", with(`"250"`, `"340282366920938463463374607431768211456"`), errAmount},
		{"amount of 40 digits", "transfer", with(`"250"`, `"1000000000000000000000000000000000000000"`), errAmount},

		{"nonce zero", "transfer", with(`7}`, `0}`), errNonce},
		{"nonce minus zero", "transfer", with(`7}`, `-0}`), errNonce},
		{"nonce negative", "transfer", with(`7}`, `-7}`), errNonce},
		{"nonce with a leading zero", "transfer", with(`7}`, `07}`), errNonce},
		{"nonce as a string", "transfer", with(`7}`, `"7"}`), errNonce},
		{"nonce null", "transfer", with(`7}`, `null}`), errNonce},
		{"nonce true", "transfer", with(`7}`, `true}`), errNonce},
		{"nonce as a float", "transfer", with(`7}`, `7.0}`), errObject},
		{"nonce with an exponent", "transfer", with(`7}`, `1e3}`), errObject},
		{"nonce in hex", "transfer", with(`7}`, `0x7}`), errNonce},
		{"nonce and more digits apart", "transfer", with(`7}`, `7 7}`), errObject},
		{"nonce 2^64", "transfer", with(`7}`, `18446744073709551616}`), errNonce},
		{"nonce that wraps to 3", "transfer", with(`7}`, `18446744073709551619}`), errNonce},
		{"nonce of 21 digits", "transfer", with(`7}`, `100000000000000000000}`), errNonce},
	} {
		t.Run(c.name, func(t *testing.T) {
			op, _ := wallet.ParseOp(c.op)
			x := payment(op, c.body)
			got := newPayload().Check(x)
			if c.want != nil {
				if got != wallet.BadRequest || x.Detail != c.want.Error() {
					t.Errorf("%v %q, wanted %q", got, x.Detail, c.want)
				}
				return
			}
			want := wallet.Payment{
				Op:     op,
				From:   wallet.Must(wallet.ParseAccount("acc_1")),
				To:     wallet.Must(wallet.ParseAccount("acc_2")),
				Asset:  wallet.Must(wallet.ParseAsset("ron")),
				Amount: wallet.Minor(250),
				Nonce:  7,
				Idem:   wallet.Must(wallet.ParseIdemKey("key-1")),
				Origin: x.Origin,
			}
			if op == wallet.Issue {
				want.From = wallet.Account{}
			}
			if op == wallet.Burn {
				want.To = wallet.Account{}
			}
			want.Fingerprint = want.Hash()
			if got != wallet.Pass || x.Payment != want {
				t.Errorf("%v %q: %+v, wanted %+v", got, x.Detail, x.Payment, want)
			}
		})
	}
}

// TestPayloadExtremes: the longest valid texts and largest numbers pass unharmed. Method: one
// body with all of them, once plain and once with every character escaped.
func TestPayloadExtremes(t *testing.T) {
	long := strings.Repeat("a", 64)
	plain := `{"from":"` + long + `","to":"` + long[:63] + `Z","asset":"` + long[:32] +
		`","amount_minor":"340282366920938463463374607431768211455","nonce":18446744073709551615}`
	var escaped strings.Builder
	inString := false
	for _, c := range plain {
		if c == '"' {
			inString = !inString
		}
		if inString && c != '"' {
			fmt.Fprintf(&escaped, `\u%04X`, c)
		} else {
			escaped.WriteRune(c)
		}
	}
	for _, body := range []string{plain, escaped.String()} {
		x := payment(wallet.Transfer, body)
		if got := newPayload().Check(x); got != wallet.Pass {
			t.Fatalf("%v %s", got, x.Detail)
		}
		if d := x.Payment; d.From.String() != long || d.To.String() != long[:63]+"Z" || d.Asset.String() != long[:32] ||
			d.Amount != wallet.MaxAmount() || d.Nonce != 1<<64-1 {
			t.Errorf("read %+v", d)
		}
	}
}

// TestPayloadKeepsNothing: what is decoded does not change when the request's bytes do, because
// the server reuses them. Method: overwrite them, compare.
func TestPayloadKeepsNothing(t *testing.T) {
	x := payment(wallet.Transfer, goodBody)
	if got := newPayload().Check(x); got != wallet.Pass {
		t.Fatal(got)
	}
	before := x.Payment
	for i := range x.Body {
		x.Body[i] = '#'
	}
	for i := range x.Key {
		x.Key[i] = '#'
	}
	if x.Payment != before {
		t.Error("the transfer changed with the buffer")
	}
}

// TestPayloadKey: a missing or unfit key is refused before the body is looked at, and the quoted
// form is the same key. Method: a table of keys.
func TestPayloadKey(t *testing.T) {
	for key, ok := range map[string]bool{
		"k": true, `"k"`: true, strings.Repeat("k", 64): true,
		"": false, strings.Repeat("k", 65): false, "a b": false, `"k`: false, "ä": false, "a\x00": false,
	} {
		x := payment(wallet.Transfer, goodBody)
		x.Key = []byte(key)
		if !ok {
			x.Body = []byte("nonsense")
		}
		got := newPayload().Check(x)
		if ok && (got != wallet.Pass || x.Payment.Idem.String() != strings.Trim(key, `"`)) {
			t.Errorf("key %q: %v, read as %q", key, got, x.Payment.Idem)
		}
		if !ok && (got != wallet.BadRequest || x.Detail != wallet.ErrIdemKey.Error()) {
			t.Errorf("key %q: %v %q", key, got, x.Detail)
		}
	}
	if got := newPayload().Check(&Exchange{Request: Request{Op: wallet.Transfer, Limits: &config.Limits{}}}); got != wallet.BadRequest {
		t.Errorf("without a key: %v", got)
	}
}

// TestPayloadReads: a balance query and a transaction id are decoded by their grammars. Method:
// a table.
func TestPayloadReads(t *testing.T) {
	const id = "tx_01ARZ3NDEKTSV4RRFFQ69G5FAV"
	b := func(s string) []byte { return []byte(s) }
	for _, c := range []struct {
		name string
		x    Exchange
		want error
	}{
		{"balance", Exchange{Request: Request{Account: b("acc_1"), Asset: b("ron")}}, nil},
		{"no account", Exchange{Request: Request{Asset: b("ron")}}, wallet.ErrAccount},
		{"no asset", Exchange{Request: Request{Account: b("acc_1")}}, wallet.ErrAsset},
		{"bad account", Exchange{Request: Request{Account: b("acc 1"), Asset: b("ron")}}, wallet.ErrAccount},
		{"bad asset", Exchange{Request: Request{Account: b("acc_1"), Asset: b("RON")}}, wallet.ErrAsset},
		{"transaction", Exchange{Request: Request{TxText: b(id)}}, nil},
		{"no transaction", Exchange{Request: Request{TxText: b("")}}, wallet.ErrTxID},
		{"transaction in lower case", Exchange{Request: Request{TxText: b(strings.ToLower(id))}}, wallet.ErrTxID},
	} {
		x := c.x
		x.Op = wallet.Read
		got := newPayload().Check(&x)
		if c.want != nil {
			if got != wallet.BadRequest || x.Detail != c.want.Error() {
				t.Errorf("%s: %v %q", c.name, got, x.Detail)
			}
			continue
		}
		if got != wallet.Pass {
			t.Errorf("%s: %v %q", c.name, got, x.Detail)
		}
		if x.TxText != nil && x.TxID.String() != id {
			t.Errorf("%s: read %s", c.name, x.TxID)
		}
		if x.TxText == nil && (x.Balance.Account.String() != "acc_1" || x.Balance.Asset.String() != "ron") {
			t.Errorf("%s: read %+v", c.name, x.Balance)
		}
	}
	if got := newPayload().Check(&Exchange{}); got != wallet.BadRequest {
		t.Errorf("no operation: %v", got)
	}
}

// bodyOf writes the body of a payment, as a client would.
func bodyOf(d *wallet.Payment) string {
	var members []string
	if !d.From.IsZero() {
		members = append(members, `"from":"`+d.From.String()+`"`)
	}
	if !d.To.IsZero() {
		members = append(members, `"to":"`+d.To.String()+`"`)
	}
	members = append(members, `"asset":"`+d.Asset.String()+`"`, `"amount_minor":"`+d.Amount.String()+`"`, `"nonce":`+strconv.FormatUint(d.Nonce, 10))
	return "{" + strings.Join(members, ",") + "}"
}

// readBody is decodeBody by a general JSON reader: jsontext checks the syntax, UTF-8 and
// duplicates, and a map holds the members.
func readBody(op wallet.Op, body []byte) (d wallet.Payment, ok bool) {
	dec := jsontext.NewDecoder(bytes.NewReader(body))
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return d, false
	}
	members := map[string]jsontext.Value{}
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return d, false
		}
		key := name.String()
		value, err := dec.ReadValue()
		if err != nil {
			return d, false
		}
		members[key] = value.Clone()
	}
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '}' {
		return d, false
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return d, false
	}
	text := func(name string) string {
		raw := members[name]
		delete(members, name)
		if raw.Kind() != '"' {
			return ""
		}
		out, err := jsontext.AppendUnquote(nil, raw)
		if err != nil {
			return ""
		}
		return string(out)
	}
	var errs [5]error
	d.Op = op
	if op != wallet.Issue {
		d.From, errs[0] = wallet.ParseAccount(text("from"))
	}
	if op != wallet.Burn {
		d.To, errs[1] = wallet.ParseAccount(text("to"))
	}
	d.Asset, errs[2] = wallet.ParseAsset(text("asset"))
	d.Amount, errs[3] = wallet.ParseAmount(text("amount_minor"))
	d.Nonce, errs[4] = strconv.ParseUint(string(members["nonce"]), 10, 64)
	delete(members, "nonce")
	if errors.Join(errs[:]...) != nil || len(members) > 0 || d.Amount.IsZero() || d.Nonce == 0 || d.From == d.To {
		return wallet.Payment{}, false
	}
	d.Fingerprint = d.Hash()
	return d, true
}

// agree holds decodeBody against readBody, and what it decodes against its own encoding.
func agree(t interface{ Fatalf(string, ...any) }, op wallet.Op, body []byte) {
	d := wallet.Payment{Op: op}
	err := decodeBody(&d, body)
	want, ok := readBody(op, body)
	if (err == nil) != ok {
		t.Fatalf("%s %q: decodeBody says %v, the general reader %v", op, body, err, ok)
	}
	if err != nil {
		return
	}
	if d != want {
		t.Fatalf("%s %q: read %+v, the general reader %+v", op, body, d, want)
	}
	again := wallet.Payment{Op: op}
	if err := decodeBody(&again, []byte(bodyOf(&d))); err != nil || again != d {
		t.Fatalf("%s %q: encoded and read again: %+v %v", op, body, again, err)
	}
}

// FuzzBody: decodeBody accepts exactly what a general JSON reader with the members' rules
// accepts, reads the same payment, and what it reads survives encoding. Method: differential.
func FuzzBody(f *testing.F) {
	for op, bodies := range map[wallet.Op][]string{
		wallet.Transfer: {
			goodBody, goodBody + " ", `{"from":"\u0061","to":"b","asset":"r","amount_minor":"1","nonce":1}`, `{}`, `[]`, ``,
			`{"from":"a","from":"b"}`, `{"nonce":1.0}`, `{"nonce":1e3}`, `{"nonce":01}`, `{"nonce":18446744073709551616}`,
			`{"to":"\ud83d\ude00"}`, "{\"to\":\"\xff\"}", `{"amount_minor":null}`, `{"asset":{"a":[1,2]}}`, "\ufeff{}",
		},
		wallet.Issue: {`{"to":"acc_2","asset":"ron","amount_minor":"250","nonce":7}`},
		wallet.Burn:  {"{\"from\":\"acc_1\",\r\n\"asset\":\"ron\",\t\"amount_minor\":\"250\" , \"nonce\":7}"},
	} {
		for _, body := range bodies {
			f.Add(byte(op), []byte(body))
		}
	}
	f.Fuzz(func(t *testing.T, op byte, body []byte) {
		agree(t, wallet.Issue+wallet.Op(op%3), body)
	})
}

// TestBodyMutations: as FuzzBody, for bodies that are nearly right, which random bytes seldom
// are. Method: rapid takes a good body and swaps, drops, doubles or replaces some of its tokens.
func TestBodyMutations(t *testing.T) {
	tokens := []string{
		"{", "}", "[", "]", ",", ":", " ", "\n", `"from"`, `"to"`, `"asset"`, `"amount_minor"`, `"nonce"`, `"\u0074o"`,
		`"acc_1"`, `"acc_2"`, `"ron"`, `"250"`, `""`, `"\u0061"`, `"\n"`, `"\""`, `"é"`, "\"\xc3\"", `"\udc00"`, "7", "0", "-1", "1.0", "1e3", "07",
		"18446744073709551615", "18446744073709551616", "null", "true", `"340282366920938463463374607431768211455"`,
	}
	rapid.Check(t, func(t *rapid.T) {
		body := []string{"{", `"from"`, ":", `"acc_1"`, ",", `"to"`, ":", `"acc_2"`, ",", `"asset"`, ":", `"ron"`, ",", `"amount_minor"`, ":", `"250"`, ",", `"nonce"`, ":", "7", "}"}
		for range rapid.IntRange(0, 3).Draw(t, "mutations") {
			i := rapid.IntRange(0, len(body)-1).Draw(t, "at")
			switch rapid.IntRange(0, 3).Draw(t, "how") {
			case 0:
				body[i] = rapid.SampledFrom(tokens).Draw(t, "token")
			case 1:
				body = append(body[:i:i], append([]string{rapid.SampledFrom(tokens).Draw(t, "token")}, body[i:]...)...)
			case 2:
				body = append(body[:i:i], append([]string{" "}, body[i+1:]...)...)
			case 3:
				j := rapid.IntRange(0, len(body)-1).Draw(t, "with")
				body[i], body[j] = body[j], body[i]
			}
		}
		op := rapid.SampledFrom([]wallet.Op{wallet.Issue, wallet.Transfer, wallet.Burn}).Draw(t, "op")
		agree(t, op, []byte(strings.Join(body, "")))
	})
}

// TestPayloadAllocations: reads and payments, compressed or not, are decoded without allocating. Method:
// testing.AllocsPerRun.
func TestPayloadAllocations(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	f := newPayload()
	balance := &Exchange{Request: Request{Op: wallet.Read, Account: []byte("acc_1"), Asset: []byte("ron")}}
	tx := &Exchange{Request: Request{Op: wallet.Read, TxText: []byte("tx_01ARZ3NDEKTSV4RRFFQ69G5FAV")}}
	pay := payment(wallet.Transfer, `{"from":"\u0061cc_1","to":"acc_2","asset":"ron","amount_minor":"250","nonce":7}`)
	zipped := payment(wallet.Transfer, zip(t, goodBody, gzip.Header{}))
	zipped.Gzip = true
	for name, x := range map[string]*Exchange{"balance": balance, "transaction": tx, "transfer": pay, "gzip": zipped} {
		if n := testing.AllocsPerRun(1000, func() {
			if f.Check(x) != wallet.Pass {
				t.Fatal(x.Detail)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// BenchmarkPayload measures the decoding of a payment, fingerprint included, and of a balance
// query.
func BenchmarkPayload(b *testing.B) {
	zipped := payment(wallet.Transfer, zip(b, goodBody, gzip.Header{}))
	zipped.Gzip = true
	for name, x := range map[string]*Exchange{
		"transfer": payment(wallet.Transfer, goodBody),
		"gzip":     zipped,
		"balance":  {Request: Request{Op: wallet.Read, Account: []byte("acc_1"), Asset: []byte("ron")}},
	} {
		b.Run(name, func(b *testing.B) {
			f := newPayload()
			b.ReportAllocs()
			for b.Loop() {
				if f.Check(x) != wallet.Pass {
					b.Fatal(x.Detail)
				}
			}
		})
	}
	b.Run("scan alone", func(b *testing.B) {
		body := []byte(goodBody)
		for b.Loop() {
			s := scanner{b: body}
			var d wallet.Payment
			if _, err := s.object(&d, membersOf(wallet.Transfer)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// What a body's members are refused with.
const (
	errTo       = fault("to must be a string that matches [A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
	errFrom     = fault("from must be a string that matches [A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
	errAsset    = fault("asset must be a string that matches [a-z0-9][a-z0-9_.-]{0,31}")
	errAmount   = fault("amount_minor must be a string of 1 to 39 digits without leading zeros, from 1 to 2^128-1")
	errNonce    = fault("nonce must be an integer from 1 to 2^64-1")
	errNoTo     = fault("to is missing")
	errNoFrom   = fault("from is missing")
	errNoAsset  = fault("asset is missing")
	errNoAmount = fault("amount_minor is missing")
	errNoNonce  = fault("nonce is missing")
)
