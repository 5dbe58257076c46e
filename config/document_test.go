package config

import (
	"strings"
	"testing"
)

// TestToJSON reads the same document in each form, and what cannot be said exactly.
func TestToJSON(t *testing.T) {
	for _, tc := range []struct {
		ext, text string
		want      string // JSON
		err       string
	}{
		{".json", `{"a":1}`, `{"a":1}`, ""},
		{".yaml", "queue: 5\nmax_amount_per_op: \"5000000000000000000001\"\nmatch:\n  ids: [a*, 'b']\nwrites_enabled: true\n", `{"match":{"ids":["a*","b"]},"max_amount_per_op":"5000000000000000000001","queue":5,"writes_enabled":true}`, ""},
		{".yml", "max_amount_per_op: 5000000000000000000001\nnot: -3", `{"max_amount_per_op":5000000000000000000001,"not":-3}`, ""}, // digit by digit, for the limits to refuse
		{".yaml", "when: 2024-01-01\nnothing:\nyes: no\n", `{"nothing":null,"when":"2024-01-01","yes":"no"}`, ""},
		{".yaml", "{}", `{}`, ""},
		{".yaml", "", "", "there is no document: write {} for an empty one"},
		{".yaml", "# only a comment\n", "", "there is no document: write {} for an empty one"},
		{".yaml", "a: 1\n---\nb: 2\n", "", "there is more than one YAML document"},
		{".yaml", "a: 1\na: 2\n", "", "line 2, column 1: a is there twice"},
		{".yaml", "a: 1.5\n", "", `line 1, column 4: "1.5" is neither a whole decimal number nor true or false; write text in quotes`},
		{".yaml", "a: 0x10\n", "", `line 1, column 4: "0x10" is neither a whole decimal number nor true or false; write text in quotes`},
		{".yaml", "a: .inf\n", "", `line 1, column 4: ".inf" is neither a whole decimal number nor true or false; write text in quotes`},
		{".yaml", "a: 1_000\n", "", `line 1, column 4: "1_000" is neither a whole decimal number nor true or false; write text in quotes`},
		{".yaml", "a: &x 1\nb: *x\n", "", "line 1, column 4: anchors and aliases are refused"},
		{".yaml", "b: !!binary aGk=\n", "", `line 1, column 4: "aGk=" has the tag "!!binary", which is refused`},
		{".yaml", "b: True\n", "", `line 1, column 4: "True" is neither a whole decimal number nor true or false; write text in quotes`},
		{".yaml", "1: 2\n", "", "line 1, column 1: a name is not text"},
		{".yaml", "a: [1, {b: &x 2}]\n", "", "line 1, column 12: anchors and aliases are refused"},
		{".yaml", "a: [\n", "", "yaml: line 1: did not find expected node content"},
		{".yaml", strings.Repeat("[", 100) + strings.Repeat("]", 100), "", "line 1, column 18: is nested more than 16 deep"},
		{".toml", "queue = 5\nmax_amount_per_op = \"5000000000000000000001\"\nwrites_enabled = true\n[match]\nids = [\"a*\", \"b\"]\n", `{"match":{"ids":["a*","b"]},"max_amount_per_op":"5000000000000000000001","queue":5,"writes_enabled":true}`, ""},
		{".toml", "[[overrides]]\ntoken = \"x\"\nqueue = 1\n", `{"overrides":[{"queue":1,"token":"x"}]}`, ""},
		{".toml", "", `{}`, ""},
		{".toml", "a = 1.5\n", "", "1.5 is neither text, a whole number nor true or false"},
		{".toml", "[b]\na = 2024-01-01\n", "", "2024-01-01 is neither text, a whole number nor true or false"},
		{".toml", "a = 1\na = 2\n", "", "toml: key a is already defined"},
		{".toml", "a = \n", "", "line 1, column 5: toml: incomplete number"},
		{".toml", "a = [1.5]", "", "1.5 is neither text, a whole number nor true or false"},
		{".toml", "a = " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "", "is nested more than 16 deep"},
		{".toml", "a = " + strings.Repeat("[", 1<<19), "", "there are more than 16384 opening brackets"},
		{".toml", strings.Repeat("a.", 5000) + "a = 1", "", "there are more than 1000 dots in a line"},
		{".json", strings.Repeat(" ", 1<<20+1), "", "is larger than 1MiB"},
	} {
		got, err := ToJSON(tc.ext, []byte(tc.text))
		if err != nil {
			if err.Error() != tc.err {
				t.Errorf("%s %.60q: %v", tc.ext, tc.text, err)
			}
			continue
		}
		if string(got) != tc.want || tc.err != "" {
			t.Errorf("%s %.60q: %s, want %s %s", tc.ext, tc.text, got, tc.want, tc.err)
		}
	}
}
