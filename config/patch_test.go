package config

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestParsePushFaults holds the exact text of what is wrong with the parts of a push that are no
// plain limits: switches, overrides, pairs and the shadow limits. TestPushFaults has
// the rest.
func TestParsePushFaults(t *testing.T) {
	const (
		shares  = `is not true, false or a percentage of at most four decimals such as 25%`
		list    = `limits.overrides: a list (from push) is wrong: `
		amounts = `is not a whole amount, in quotes where it is large, in 1…340282366920938463463374607431768211455`
	)
	for _, v := range []struct{ raw, want string }{
		{`{"writes_enabled":"true"}`, `limits.writes_enabled: "true" (from push) ` + shares},
		{`{"writes_enabled":1}`, `limits.writes_enabled: 1 (from push) ` + shares},
		{`{"writes_enabled":null}`, `limits.writes_enabled: null (from push) ` + shares},
		{`{"tx_enabled":"101%"}`, `limits.tx_enabled: "101%" (from push) ` + shares},
		{`{"tx_enabled":"-1%"}`, `limits.tx_enabled: "-1%" (from push) ` + shares},
		{`{"tx_enabled":"1.00001%"}`, `limits.tx_enabled: "1.00001%" (from push) ` + shares},
		{`{"limits_enabled":true}`, `limits_enabled: unknown key (from push)`},

		{`{"subject_rate_per_second":5}`, `limits.subject_rate_per_second: 5 (from push) needs limits.subject_burst beside it`},
		{`{"subject_rate_per_second":5,"subject_burst":0}`, `limits.subject_burst: 0 (from push) must be 0 exactly where limits.subject_rate_per_second is`},
		{`{"shadow":{"subject_burst":5}}`, `shadow.subject_burst: 5 (from push) needs shadow.subject_rate_per_second beside it`},
		{`{"shadow":{"subject_burst":5,"subject_rate_per_second":0}}`, `shadow.subject_burst: 5 (from push) must be 0 exactly where shadow.subject_rate_per_second is`},
		{`{"subject_rate_per_second":5,"shadow":{"subject_burst":5}}`, `limits.subject_rate_per_second: 5 (from push) needs limits.subject_burst beside it
shadow.subject_burst: 5 (from push) needs shadow.subject_rate_per_second beside it`},

		{`{"shadow":[]}`, `shadow: a list (from push) is not an object of limits`},
		{`{"shadow":null}`, `shadow: null (from push) is not an object of limits`},
		{`{"shadow":{"queue":0}}`, `shadow.queue: 0 (from push) is not in 1…65536`},
		{`{"shadow":{"queue":""}}`, `shadow.queue: "" (from push) is not an integer in 1…65536`},
		{`{"shadow":{"max_amount_per_op":""}}`, `shadow.max_amount_per_op: "" (from push) ` + amounts},
		{`{"shadow":{"max_amount_per_op":9007199254740993}}`, `shadow.max_amount_per_op: 9007199254740993 (from push) ` + amounts},
		{`{"shadow":{"queue":1,"queue":1}}`, `push: jsontext: duplicate object member name "queue" within "/shadow"`},
		{`{"shadow":{"queue":1},"shadow":{}}`, `push: jsontext: duplicate object member name "shadow"`},
		{`{"shadow":{"batch_max":1}}`, `shadow.batch_max: unknown key (from push)`},
		{`{"shadow":{"ledger_timeout":"1s"}}`, `shadow.ledger_timeout: unknown key (from push)`},
		{`{"shadow":{"shadow":{}}}`, `shadow.shadow: unknown key (from push)`},
		{`{"shadow.queue":1}`, `shadow.queue: unknown key (from push)`},
		{`{"shadow_queue":1}`, `shadow_queue: unknown key (from push)`},

		{`{"overrides":{}}`, `limits.overrides: a section (from push) is not a list of at most 4096 overrides`},
		{`{"overrides":"[]"}`, `limits.overrides: "[]" (from push) is not a list of at most 4096 overrides`},
		{`{"overrides":null}`, `limits.overrides: null (from push) is not a list of at most 4096 overrides`},
		{`{"overrides":[null]}`, list + `item 1: null is not an object`},
		{`{"overrides":[{}]}`, list + `item 1: changes no limit`},
		{`{"overrides":[{"asset":"ron"}]}`, list + `item 1: changes no limit`},
		{`{"overrides":[{"daily_ceiling":"5"}]}`, list + `item 1: fits every request: change the limit itself`},
		{`{"overrides":[{"asset":"ron","daily_ceiling":5}]}`, list + `item 1: daily_ceiling: 5 ` + amounts},
		{`{"overrides":[{"asset":"ron","daily_ceiling":"0"}]}`, list + `item 1: daily_ceiling: "0" is not in 1…340282366920938463463374607431768211455`},
		{`{"overrides":[{"asset":"ron","daily_ceiling":"1","daily_ceiling":"2"}]}`, `push: jsontext: duplicate object member name "daily_ceiling" within "/overrides/0"`},
		{`{"overrides":[{"asset":"ron","asset":"ron","daily_ceiling":"1"}]}`, `push: jsontext: duplicate object member name "asset" within "/overrides/0"`},
		{
			`{"overrides":[{"asset":"Ron","daily_ceiling":"1"},{"account":"*","daily_ceiling":"1"},{"account":"a*b","daily_ceiling":"1"},{"account":7,"daily_ceiling":"1"}]}`,
			list + `item 1: asset: "Ron" is not an asset; item 2: account: "*" is not an account, or the beginning of one and *; item 3: account: "a*b" is not an account, or the beginning of one and *; item 4: account: 7 is not an account, or the beginning of one and *`,
		},
		{
			`{"overrides":[{"token":"","daily_ceiling":"1"},{"token":"a b","daily_ceiling":"1"},{"subject":"","daily_ceiling":"1"},{"subject":"ä","daily_ceiling":"1"},{"route":"","daily_ceiling":"1"},{"route":"Issue","daily_ceiling":"1"}]}`,
			list + `item 1: token: "" is not 1 to 64 visible ASCII characters; item 2: token: "a b" is not 1 to 64 visible ASCII characters; item 3: subject: "" is not 1 to 128 printable ASCII characters; item 4: subject: "ä" is not 1 to 128 printable ASCII characters; item 5: route: "" is not one of balance, tx, issue, transfer, burn; item 6: route: "Issue" is not one of balance, tx, issue, transfer, burn`,
		},
		{`{"overrides":[{"subject":"` + strings.Repeat("s", 129) + `","daily_ceiling":"1"}]}`, list + `item 1: subject: "` + strings.Repeat("s", 80) + `…" is not 1 to 128 printable ASCII characters`},
		{`{"overrides":[{"queue":1,"asset":"ron"}]}`, list + `item 1: queue: 1 is unknown: an override names any of token, subject, account, asset and route, and the limits that it changes`},
		{`{"overrides":[{"a\nb":[],"asset":"ron"}]}`, list + `item 1: "a\nb": a list is unknown: an override names any of token, subject, account, asset and route, and the limits that it changes`},
		{`{"overrides":[{"route":"tx","rate_per_second":5}]}`, list + `item 1: rate_per_second and rate_burst go together`},
		{`{"overrides":[{"route":"tx","rate_per_second":0,"rate_burst":5}]}`, list + `item 1: rate_per_second: 0 is not in 1…1000000000`},
		{`{"overrides":[{"token":"t","subject_burst":5}]}`, list + `item 1: subject_rate_per_second and subject_burst go together`},
		{`{"overrides":[{"token":"t","subject_burst":0,"subject_rate_per_second":1}]}`, list + `item 1: subject_burst: 0 is not in 1…1000000000`},
		{`{"overrides":[{"route":"tx","asset":"ron","rate_per_second":5,"rate_burst":5}]}`, list + `item 1: rate_per_second is judged before the token is read: it goes by the route alone, in an item of its own`},
		{`{"overrides":[{"route":"tx","daily_ceiling":"1","rate_per_second":5,"rate_burst":5}]}`, list + `item 1: rate_per_second is judged before the token is read: it goes by the route alone, in an item of its own`},
		{`{"overrides":[{"account":"a*","subject_rate_per_second":5,"subject_burst":5}]}`, list + `item 1: subject_rate_per_second is judged before the request is decoded: it goes by token, subject and route only`},

		{`{"overrides":[[[[[[[[[]]]]]]]]]}`, `push: is nested more than 8 deep`},
		{`{"queue":` + strings.Repeat("[", 20000), `push: is nested more than 8 deep`},
		{"\xef\xbb\xbf{}", `push: is not a JSON object`},
		{`{"queue":NaN}`, `push: jsontext: invalid character 'N' at start of value within "/queue" after offset 9`},
	} {
		_, err := ParsePush([]byte(v.raw))
		if err == nil {
			t.Errorf("%.80s: no fault, want\n%s", v.raw, v.want)
		} else if err.Error() != v.want {
			t.Errorf("%.80s: got\n%v\nwant\n%s", v.raw, err, v.want)
		}
	}
}

// TestParsePushSize pushes as much as is taken, and one byte and one override more; and what is
// wrong a hundred thousand times, of which the text stays short.
func TestParsePushSize(t *testing.T) {
	full := `{"queue":1}`
	full += strings.Repeat(" ", maxDocument-len(full))
	if p := mustPush(t, full); p.Len() != 1 || string(p.JSON()) != `{"queue":1}` {
		t.Errorf("1 MiB gives %d settings, %s", p.Len(), p.JSON())
	}
	if _, err := ParsePush([]byte(full + " ")); err == nil || err.Error() != "push: is larger than 1MiB" {
		t.Errorf("a byte more: %v", err)
	}
	var many strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&many, `"%x":1,`, i)
	}
	for _, v := range []struct {
		raw  string
		want string // in the text
	}{
		{`{` + many.String() + `"queue":1}`, "and 99900 more"},
		{`{"overrides":[` + strings.Repeat(`{},`, 4000) + `{}]}`, "item 1: changes no limit; item 2"},
		{`{"queue":"` + strings.Repeat("x", 1<<19) + `"}`, `xxx…" (from push)`},
	} {
		_, err := ParsePush([]byte(v.raw))
		if err == nil || !strings.Contains(err.Error(), v.want) || len(err.Error()) > 8000 {
			t.Errorf("%.30s…: %.200v, want %s", v.raw, err, v.want)
		}
	}
}

// TestPushText wants one text for every way to write the same push, which reads back, and that
// nobody can change a push by way of it.
func TestPushText(t *testing.T) {
	const text = `{"max_body_bytes":"1KiB","overrides":[{"asset":"ron","daily_ceiling":"1","subject":"a \"<"}],` +
		`"queue":5,"revoked_keys":[],"shadow":{"inflight":1,"queue":2},"writes_enabled":false}`
	for _, raw := range []string{
		text,
		` { "writes_enabled" : false , "shadow": {"queue":2, "inflight":1}, "revoked_keys":[ ],` + "\n\t\r" +
			`"queue":5, "overrides":[{"subject":"\u0061 \"\u003c","asset":"ron","daily_ceiling":"1"}], "max_body_bytes":"1KiB"} `,
	} {
		p := mustPush(t, raw)
		if string(p.JSON()) != text || p.Len() != 7 {
			t.Errorf("got %d settings\n%s\nwant\n%s", p.Len(), p.JSON(), text)
		}
		p.JSON()[0] = 'x'
		if again := mustPush(t, string(p.JSON())); string(again.JSON()) != text {
			t.Errorf("reads back as %s", again.JSON())
		}
	}
	if p := mustPush(t, `{}`); p.Len() != 0 || string(p.JSON()) != `{}` {
		t.Errorf("an empty push is %s", p.JSON())
	}
}

// TestPushProperty draws pushes (rapid; a failure prints its seed): each is taken, its text reads back
// as itself, and both put the same limits in force.
func TestPushProperty(t *testing.T) {
	var rows []setting
	for _, s := range table().rows {
		if s.effect == onPush {
			rows = append(rows, s)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		said := drawPush(t, rows)
		p := mustPush(t, pushOf(rows, said))
		again := mustPush(t, string(p.JSON()))
		if string(again.JSON()) != string(p.JSON()) || p.Len() != len(said) {
			t.Fatalf("%s\nreads back as\n%s", p.JSON(), again.JSON())
		}
		a, b := defaults().under(pushed{patch: p}), defaults().under(pushed{patch: again})
		if describeLimits(a) != describeLimits(b) {
			t.Fatalf("%s\nand its text differ", p.JSON())
		}
	})
}

// manyOverrides is a push of 4096 overrides that fills its 1 MiB well.
func manyOverrides() string {
	items := make([]string, maxOverrides)
	for i := range items {
		items[i] = fmt.Sprintf(`{"token":"%s%06d","account":"%s*","asset":"%s","route":"transfer","max_amount_per_op":"5000000000000000000000","daily_ceiling":"6"}`,
			strings.Repeat("t", 50), i, strings.Repeat("a", 40), strings.Repeat("r", 32))
	}
	return `{"overrides":[` + strings.Join(items, ",") + `]}`
}

// smallPush is what operators push most: one limit.
const smallPush = `{"max_amount_per_op":"1000"}`

// TestPushAllocs reads and sets a small push, alone and between other layers: it must cost what is said,
// not what could be said (a table bound to a Config would be hundreds of allocations more).
func TestPushAllocs(t *testing.T) {
	for _, v := range []struct {
		others string // what the other layers say
		most   float64
	}{
		{`{}`, 150},
		{`{"queue":5,"shadow":{"queue":6}}`, 200},
	} {
		s := NewStack(defaults(), new(Live))
		for _, l := range []Layer{LayerCluster, LayerRuntime} {
			if err := s.Set(l, mustPush(t, v.others), Origin{Resource: "other"}); err != nil {
				t.Fatal(err)
			}
		}
		got := testing.AllocsPerRun(100, func() {
			if err := s.Set(LayerLimits, mustPush(t, smallPush), Origin{Resource: "limits l"}); err != nil {
				t.Fatal(err)
			}
		})
		if got > v.most {
			t.Errorf("between %s: %.0f allocations, at most %.0f", v.others, got, v.most)
		}
	}
}

// BenchmarkPush reads a push, and puts one in force over a static configuration: a small one, and the
// largest.
func BenchmarkPush(b *testing.B) {
	for _, size := range []struct{ name, raw string }{{"small", smallPush}, {"4096 overrides", manyOverrides()}} {
		raw := []byte(size.raw)
		b.Run("parse/"+size.name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParsePush(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("set/"+size.name, func(b *testing.B) {
			s, p := NewStack(defaults(), new(Live)), mustPush(b, size.raw)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Set(LayerLimits, p, Origin{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
