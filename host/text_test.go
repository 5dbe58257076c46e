package host

import (
	"errors"
	"strings"
	"testing"
)

// TestText shows what text of others becomes in a line, by a table.
func TestText(t *testing.T) {
	long := "a" + strings.Repeat("é", 40)
	for in, want := range map[string]string{
		"":                            `""`,
		"unix:/run/a-b_c.sock":        "unix:/run/a-b_c.sock",
		"a b":                         `"a b"`,
		"a\nb\u202e":                  `"a\nb\u202e"`,
		long:                          `"a` + strings.Repeat("é", 39) + `…"`,
		strings.Repeat("a", 81):       strings.Repeat("a", 80) + "…",
		strings.Repeat("a", 80):       strings.Repeat("a", 80),
		strings.Repeat("a", 80) + " ": `"` + strings.Repeat("a", 80) + `…"`,
	} {
		if got := Plain(in); got != want {
			t.Errorf("%q is shown as %s, want %s", in, got, want)
		}
	}
	if got := Cut("\xff\xff\xff", 2); got != "\xff\xff…" {
		t.Errorf("cut: %q", got)
	}
	if got := OneLine(errors.New(" line 1:\n\tbad  " + strings.Repeat("x", 400))).Error(); !strings.HasPrefix(got, "line 1: bad xxx") || len([]rune(got)) != 301 {
		t.Errorf("one line: %q", got)
	}
}
