package config

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

// TestPrecedence sets random keys in random layers (rapid; a failure prints its seed) and wants
// each key to have the value and the source of the highest layer that sets it.
func TestPrecedence(t *testing.T) {
	rows, scratch := table().rows, defaults()
	rapid.Check(t, func(t *rapid.T) {
		type value struct{ text, source string }
		want := map[string]value{}
		pick := func(label string, among []setting, put func(s setting, w word) (source string)) {
			for _, s := range rapid.SliceOfDistinct(rapid.SampledFrom(among), func(s setting) string { return s.key }).Draw(t, label) {
				w := rapid.SampledFrom(examples(s)).Draw(t, s.key)
				source := put(s, w)
				if problem := set(scratch, s.key, w); problem != "" {
					t.Fatalf("%s: %s %s", s.key, w, problem)
				}
				want[s.key] = value{scratch.text(s.key), source}
			}
		}
		toml := map[string]string{}
		pick("file", rows, func(s setting, w word) string { toml[s.key] = tomlText(s, w); return "w.toml" })
		var env []string
		pick("environment", rows, func(s setting, w word) string { env = append(env, s.env()+"="+string(w)); return s.env() })
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		BindFlags(fs)
		pick("flags", slices.DeleteFunc(slices.Clone(rows), func(s setting) bool { return s.flag == "" }), func(s setting, w word) string {
			if err := fs.Set(s.flag, string(w)); err != nil {
				t.Fatal(err)
			}
			return "--" + s.flag
		})

		var file strings.Builder
		for _, key := range slices.Sorted(maps.Keys(toml)) {
			fmt.Fprintf(&file, "%s = %s\n", key, toml[key])
		}
		lowest, faults := parseFile("w.toml", []byte(file.String()))
		c, untouched := defaults(), defaults().Effective()
		for _, l := range []layer{lowest, envLayer(env), flagLayer(fs)} {
			faults = append(faults, c.apply(l)...)
		}
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		for i, e := range c.Effective() {
			w, set := want[e.Key]
			if !set {
				w = value{untouched[i].Value, "default"}
			}
			if e.Value != w.text || e.Source != w.source {
				t.Errorf("%s is %s from %s, want %+v", e.Key, e.Value, e.Source, w)
			}
		}
	})
}

// examples are valid words for a setting.
func examples(s setting) []word {
	switch s.key {
	case "xds.addr":
		return []word{"", "unix:/run/x", "[::1]:1,localhost:65535"}
	case "xds.limits_name":
		return []word{"a", "b.c"}
	case "xds.types":
		return []word{"", "limits", "endpoint,cluster"}
	case "xds.sds_addr":
		return []word{"", "unix:/run/x"}
	case "xds.spiffe_id":
		return []word{"", "spiffe://a/b"}
	}
	switch s.kind {
	case "integer", "size", "duration", "amount":
		lowest, highest, _ := strings.Cut(s.allowed, "…")
		if s.def == "" { // absent, which a file says by leaving it out
			return []word{word(lowest), word(highest)}
		}
		return []word{word(lowest), word(highest), word(s.def)}
	case "word":
		var all []word
		for w := range strings.SplitSeq(strings.TrimPrefix(s.allowed, "one of "), ", ") {
			all = append(all, word(w))
		}
		return all
	case "bool":
		return []word{"true", "false"}
	case "share":
		return []word{"true", "false", "0.0001%", "25%", "99.99%"}
	case "overrides":
		return []word{"", `[{"daily_ceiling":"5","subject":"a, b"},{"rate_burst":1,"rate_per_second":2,"route":"tx"}]`}
	case "address":
		return []word{"127.0.0.1:1", "[::1]:65535", "localhost:80"}
	case "list":
		return []word{"", "a", "b,a,c"}
	default:
		return []word{"", "a", "/etc/b", "c.d"}
	}
}

// tomlText is w as TOML would write it.
func tomlText(s setting, w word) string {
	switch s.kind {
	case "integer", "bool":
		return string(w)
	case "share":
		if w == "true" || w == "false" {
			return string(w)
		}
		return `"` + string(w) + `"`
	case "overrides":
		return strings.ReplaceAll(jsonText(s, w), `":`, `"=`)
	case "list":
		if w == "" {
			return "[]"
		}
		return `["` + strings.ReplaceAll(string(w), ",", `", "`) + `"]`
	default:
		return `"` + string(w) + `"`
	}
}

// jsonText is w as JSON would write it.
func jsonText(s setting, w word) string {
	if s.kind == "overrides" {
		return cmp.Or(string(w), "[]")
	}
	return tomlText(s, w)
}

// pushText is a push of one setting.
func pushText(s setting, w word) string {
	text := jsonText(s, w)
	if name, inShadow := strings.CutPrefix(s.pushName(), shadowSection+"."); inShadow {
		return `{"shadow":{"` + name + `":` + text + `}}`
	}
	return `{"` + s.pushName() + `":` + text + `}`
}
