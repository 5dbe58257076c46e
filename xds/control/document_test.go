package control

import (
	"bytes"
	"strings"
	"testing"

	"svc-wallet/config"
)

// TestDocument walks documents and everything that is wrong with each.
func TestDocument(t *testing.T) {
	for _, tc := range []struct {
		doc  string
		want string // faults, a line each; "" is none
	}{
		{`{}`, ``},
		{`{"queue":5,"match":{"ids":["a*","b"],"clusters":["*"]}}`, ``},
		{`{"runtime":{"svc-wallet.writes_enabled":false,"svc-wallet.reads_enabled":50,"svc-wallet.route.tx.enabled":{"numerator":1,"denominator":"MILLION"},"svc-wallet.max_amount_per_op":"12"}}`, ``},
		{`{"clusters":{"policy":{},"ledger":{"endpoints":["[::1]:7000","ledger.svc:1"]}}}`, ``},

		{``, `the document is not a JSON object`},
		{`[]`, `the document is not a JSON object`},
		{`{"queue":5} {}`, `there is something after the JSON object`},
		{`{"queue":5,"queue":6}`, `jsontext: duplicate object member name "queue"`},
		{`{"runtime":{"a":1,"a":2}}`, `jsontext: duplicate object member name "a" within "/runtime"`},
		{`{"queue":5`, `jsontext: unexpected EOF after offset 10`},
		{`{"queue":5,}`, `jsontext: invalid character ',' at start of value after offset 10`},
		{`{"queue":0,"quue":1,"max_amount_per_op":5}`, "svc-wallet.limits: quue: unknown key (from push)\nsvc-wallet.limits: limits.max_amount_per_op: 5 (from push) is not a whole amount, in quotes where it is large, in 1…340282366920938463463374607431768211455\nsvc-wallet.limits: limits.queue: 0 (from push) is not in 1…65536"},
		{`{"queue":1e400,"runtime":{"svc-wallet.queue":-1e999}}`, "limits: holds a number that no push can carry\nruntime: holds a number that no push can carry"},
		{`{"queue":1.5}`, `svc-wallet.limits: queue: 1.5 is not a whole number`},
		{`{"max_amount_per_op":5e3}`, `svc-wallet.limits: limits.max_amount_per_op: 5000 (from push) is not a whole amount, in quotes where it is large, in 1…340282366920938463463374607431768211455`},
		{`{"match":5,"runtime":[],"clusters":"x"}`, "match: is not an object\nruntime: is not an object\nclusters: is not an object"},
		{`{"match":{"ids":[],"clusters":[1],"zones":["a"]}}`, "match.clusters.0: is not a text"},
		{`{"match":{"ids":[],"zones":["a"]}}`, "match.zones: unknown key"},
		{`{"match":{"ids":[]}}`, "match.ids: is not a list of 1 to 256 different names or globs"},
		{`{"match":{"ids":["a","a"],"clusters":["b c"]}}`, "match.ids: is not a list of 1 to 256 different names or globs\nmatch.clusters: is not a list of 1 to 256 different names or globs"},
		{`{"match":{"ids":"a"}}`, "match.ids: is not a list"},
		{`{"runtime":{"queue":5,"svc-wallet.quue":5,"svc-wallet.":1,"svc-wallet.queue":0}}`, "runtime.queue: does not begin with \"svc-wallet.\"\nsvc-wallet.runtime: \"\": unknown key (from push)\nsvc-wallet.runtime: quue: unknown key (from push)\nsvc-wallet.runtime: limits.queue: 0 (from push) is not in 1…65536"},
		{`{"runtime":{"svc-wallet.route.fly.enabled":true,"svc-wallet.issue_enabled":true,"svc-wallet.overrides":[],"svc-wallet.shadow":{}}}`, "svc-wallet.runtime: fly_enabled: unknown key (from push)"},
		{`{"runtime":{"svc-wallet.writes_enabled":101}}`, "svc-wallet.runtime: svc-wallet.writes_enabled: 101 is not in 0…100"},
		{`{"runtime":{"svc-wallet.writes_enabled":1.5}}`, "svc-wallet.runtime: svc-wallet.writes_enabled: 1.5 is not a whole number"},
		{`{"runtime":{"svc-wallet.writes_enabled":"50%"}}`, "svc-wallet.runtime: svc-wallet.writes_enabled: is not true, false, an integer percentage or a fraction"},
		{`{"runtime":{"svc-wallet.writes_enabled":{"numerator":-1}}}`, "svc-wallet.runtime: svc-wallet.writes_enabled: -1 is not in 0…100"},
		{`{"runtime":{"svc-wallet.writes_enabled":{"numerator":101}}}`, "svc-wallet.runtime: svc-wallet.writes_enabled: 101 is not in 0…100"},
		{`{"clusters":{"db":{},"ledger":{"max_conns":5,"max_requests":0,"endpoints":["nowhere"]},"auth":5}}`, "clusters.auth: is not an object\nclusters.db: is none of ledger, auth and policy\nclusters.ledger.max_conns: unknown key"},
		{`{"clusters":{"ledger":{"max_requests":0},"auth":{"endpoints":["nowhere"]},"policy":{"endpoints":[]}}}`, "clusters.auth.endpoints.0: is not an address: want unix:PATH or HOST:PORT: missing port in address\nclusters.policy.endpoints: is empty: leave it out\nledger: limits.inflight: 0 (from push) is not in 1…1048576"},
		{`{"clusters":{"ledger":{"max_requests":4294967296}}}`, "clusters.ledger.max_requests: is not a whole number in 0…4294967295"},
		{`{"clusters":{"ledger":{"max_requests":null}}}`, "/clusters/ledger/max_requests: is null: leave it out"},
		{`{"runtime":null,"queue":1}`, "/runtime: is null: leave it out"},
		{`{"clusters":{"ledger":{"connect_timeout":5}}}`, `clusters.ledger.connect_timeout: is not a text`},
		{`{"clusters":{"ledger":{"connect_timeout":"5"}}}`, `clusters.ledger.connect_timeout: is not a duration with its unit, such as 250ms`},
		{`{"clusters":{"ledger":{"connect_timeout":"5h"}}}`, "ledger: ledger.connect_timeout: \"5h0m0s\" (from push) is not in 1ms…1m"},
		{`{"\u001b[31m":1,"match":{"\n":1}}`, "match.\"\\n\": unknown key\nsvc-wallet.limits: \"\\x1b[31m\": unknown key (from push)"},
		{`{"revoked_keys":["` + strings.Repeat("x", 1<<20) + `"]}`, `the document is larger than 1MiB`},
	} {
		_, err := parseDocument([]byte(tc.doc), Names{}.withDefaults())
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%.80s:\n got %s\nwant %s", tc.doc, got, tc.want)
		}
	}
}

// TestDocumentVersion holds the version to the content, not to how it is written.
func TestDocumentVersion(t *testing.T) {
	version := func(text string) string {
		t.Helper()
		d, err := parseDocument([]byte(text), Names{}.withDefaults())
		if err != nil {
			t.Fatal(err)
		}
		return d.version
	}
	a := version(`{"queue":5,"inflight":6}`)
	if a != version(" {\"inflight\" : 6,\n\"queue\":5 }") {
		t.Error("spaces and order count")
	}
	if a == version(`{"queue":5,"inflight":7}`) || a == version(`{"queue":5}`) {
		t.Error("content does not count")
	}
}

// TestGlobs compares globs with what a person expects.
func TestGlobs(t *testing.T) {
	for _, tc := range []struct {
		glob, s string
		want    bool
	}{
		{"a", "a", true},
		{"a", "ab", false},
		{"a*", "a", true},
		{"a*a", "a", false},
		{"a*a", "aa", true},
		{"*", "", true},
		{"*b*", "abc", true},
		{"*b*", "ac", false},
		{"a**c", "abc", true},
		{"a*b*c", "axxbyyc", true},
		{"a*b*c", "axxcyyb", false},
		{"*.mesh", "wallet.mesh", true},
		{"spiffe://mesh/ops/*", "spiffe://mesh/ops/a/b", true},
		{"[a]?", "a", false},
		{strings.Repeat("a*", 120) + "b", strings.Repeat("a", 250), false}, // and soon
	} {
		if newGlob(tc.glob).matches(tc.s) != tc.want {
			t.Errorf("%q %q: want %v", tc.glob, tc.s, tc.want)
		}
	}
}

// TestRouting gives ties to the first group by name, and everybody else to default.
func TestRouting(t *testing.T) {
	docs := map[string]*document{
		"b":       {match: match{IDs: []string{"x", "w*"}, Clusters: []string{"pay*", "cards"}}},
		"a":       {match: match{IDs: []string{"x", "w-*"}, Clusters: []string{"p*", "cards"}}},
		"default": {match: match{IDs: []string{"kept"}}},
	}
	g := newGroups(docs, nil, snapshot{})
	for _, tc := range [][3]string{
		{"x", "", "a"}, {"w-1", "", "a"}, {"w1", "cards", "b"}, {"y", "cards", "a"}, {"y", "payments", "a"}, {"y", "z", "default"}, {"kept", "cards", "default"},
	} {
		if got := g.route.group(tc[0], tc[1]); got != tc[2] {
			t.Errorf("%s@%s is in %s, want %s", tc[0], tc[1], got, tc[2])
		}
	}
	same := newGroups(map[string]*document{"b": {match: docs["b"].match}, "a": {match: docs["a"].match}, "default": docs["default"]}, g, snapshot{})
	if same.route != g.route {
		t.Error("a change of limits makes everybody be routed anew")
	}
}

// FuzzDocument holds that reading ends without a panic, and that what is taken is taken again from
// what is written to the group's file, to the same version.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{everything, `{"match":{"ids":["a*"]},"queue":5}`, "queue: 5\nmatch:\n  ids: [a]\n", "queue = 5\n[runtime]\n\"svc-wallet.queue\" = 5\n", `{"overrides":[{"token":"a","max_amount_per_op":"5"}]}`} {
		for _, ext := range []string{".json", ".yaml", ".toml"} {
			f.Add(ext, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, ext string, raw []byte) {
		text, err := config.ToJSON(ext, raw)
		if err != nil {
			return
		}
		d, err := parseDocument(text, Names{}.withDefaults())
		if err != nil {
			if bytes.ContainsAny([]byte(strings.ReplaceAll(err.Error(), "\n", "")), "\x00\x1b\r") {
				t.Errorf("control characters in %q", err)
			}
			return
		}
		again, err := parseDocument(d.readable(), Names{}.withDefaults())
		if err != nil || again.version != d.version {
			t.Fatalf("%q: %v", d.readable(), err)
		}
		for k := range numKinds {
			if again.serves.delta[k].version != d.serves.delta[k].version {
				t.Errorf("%s differs", k)
			}
		}
	})
}
