package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"

	"svc-wallet/filters"
)

// capabilitiesPage has the blocks of docs/capabilities.md: the two tokens, the key file, and the examples in Go and
// JavaScript, each without its fence.
func capabilitiesPage(t *testing.T) (tokens []string, keys, inGo, inJS string) {
	t.Helper()
	page, err := os.ReadFile("../docs/capabilities.md")
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(page), "\n```")
	if len(parts) != 9 {
		t.Fatalf("%d fences, not the 8 of four blocks", len(parts)-1)
	}
	block := func(i int) string { _, text, _ := strings.Cut(parts[2*i+1], "\n"); return text }
	return strings.Fields(block(0)), block(1), block(2) + "\n", block(3) + "\n"
}

// TestCapabilitiesPage: the tokens of docs/capabilities.md are, byte for byte, what we make of the same key,
// identifier and caveats, and its examples are the programs that `make clients` runs.
func TestCapabilitiesPage(t *testing.T) {
	tokens, keyFile, inGo, inJS := capabilitiesPage(t)
	keys, err := filters.ParseKeys(strings.NewReader(keyFile))
	if err != nil {
		t.Fatal(err)
	}
	minted, err := filters.MintToken(keys, "shop-7", []string{"aud = svc-wallet", "exp = 4102444800", "actions = read,transfer", "accounts = acc_1,team_*"})
	if err != nil {
		t.Fatal(err)
	}
	narrowed, err := filters.AttenuateToken(minted, []string{"max_amount = 500", "assets = ron"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{minted, narrowed}; !slices.Equal(tokens, want) {
		t.Errorf("the page has\n%s\nwe make\n%s", strings.Join(tokens, "\n"), strings.Join(want, "\n"))
	}
	for file, shown := range map[string]string{"clients/go/mint/main.go": inGo, "clients/ts/mint.mjs": inJS} {
		if text, err := os.ReadFile(file); err != nil || string(text) != shown {
			t.Errorf("the page does not show %s as it is: %v", file, err)
		}
	}
}
