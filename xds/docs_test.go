package xds

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPageRefusals pushes what each row of the last table of docs/xds.md is about, and holds the
// NACK against the row's text, in which … is anything.
func TestPageRefusals(t *testing.T) {
	pushes := map[string]string{
		"a limit out of range":     `{"queue": 0}`,
		"a limit over its ceiling": `{"max_amount_per_op": "10000000000000000000000000"}`,
		"an unknown member":        `{"quue": 1}`,
		"an amount as a number":    `{"max_amount_per_op": 5}`,
	}
	page, err := os.ReadFile("../docs/xds.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "| push | NACK |\n")
	rows := regexp.MustCompile("(?m)^\\| (.+?) \\| `(.+)` \\|$").FindAllStringSubmatch(table, -1)
	if len(rows) != len(pushes) {
		t.Fatalf("%d rows, want %d", len(rows), len(pushes))
	}
	protocols(t, func(t *testing.T, protocol string) {
		p := startPlane(t)
		newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits"}})
		l := p.stream(t)
		l.asks(extensionURL)
		for _, row := range rows {
			parts := strings.Split(row[2], "…")
			for i := range parts {
				parts[i] = regexp.QuoteMeta(parts[i])
			}
			want := regexp.MustCompile("^" + strings.Join(parts, ".+"))
			push, known := pushes[row[1]]
			if !known {
				t.Errorf("%s: which push would that be?", row[1])
			} else if got := l.answer(l.push(extensionURL, row[1], limits(push))); !want.MatchString(got) {
				t.Errorf("%s: NACK %q, and the page says %q", row[1], got, row[2])
			}
		}
	})
}
