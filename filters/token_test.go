package filters_test

import (
	"os"
	"strings"
	"testing"

	ref "gopkg.in/macaroon.v2"

	"svc-wallet/filters"
	"svc-wallet/filters/macaroon"
	"svc-wallet/wallet"
)

// TestToken takes a token through mint, attenuate and inspect, as the command does, and shows
// that the filter agrees with what is said of it.
func TestToken(t *testing.T) {
	keys := parseKeys(t, "k1", "old")
	minted, err := filters.MintToken(keys, "till-7", []string{"aud = svc-wallet", authExpiry, "actions = read,transfer", "accounts = acc_1,team_*"})
	if err != nil {
		t.Fatal(err)
	}
	narrowed, err := filters.AttenuateToken("  "+minted+"\n", []string{
		"accounts = team_*", "assets = ron", "max_amount = 500", "daily = 9000", "nbf = 1000000000",
		"peer = spiffe://mesh/payer", "cidr = 10.0.0.0/8", "sub = alice", "actions = transfer",
	})
	if err != nil {
		t.Fatal(err)
	}
	in, err := filters.InspectToken(narrowed, keys, authNow)
	if err != nil {
		t.Fatal(err)
	}
	want := `key id:   k1
token id: till-7
verified: yes
caveat:   aud = svc-wallet
caveat:   exp = 2000000100
caveat:   actions = read,transfer
caveat:   accounts = acc_1,team_*
caveat:   accounts = team_*
caveat:   assets = ron
caveat:   max_amount = 500
caveat:   daily = 9000
caveat:   nbf = 1000000000
caveat:   peer = spiffe://mesh/payer
caveat:   cidr = 10.0.0.0/8
caveat:   sub = alice
caveat:   actions = transfer
allows:   transfer on accounts acc_1, team_*; of those only team_*
allows:   assets ron
allows:   at most 500 minor units an operation
allows:   an account may have moved at most 9000 minor units on the UTC day, by whichever token, when this one is used
allows:   from 2001-09-09T01:46:40Z
allows:   until 2033-05-18T03:35:00Z
allows:   only with the client certificate of spiffe://mesh/payer
allows:   only from 10.0.0.0/8
allows:   in the name of alice
`
	if got := in.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for now, want := range map[int64]string{authNow: "", authNow + 100*authSecond: "expired at 2033-05-18T03:35:00Z", 0: "is not valid before 2001-09-09T01:46:40Z"} {
		in, err := filters.InspectToken(narrowed, keys, now)
		if err != nil || in.Ill != want || (in.Fault() == nil) != (want == "") || strings.Contains(in.String(), "now:      "+want) != (want != "") {
			t.Errorf("%q (%v): %+v", want, err, in)
		}
	}
	for verdict, want := range map[filters.Verdict]string{filters.UnknownKey: "the token does not verify: there is no root key of its key id", filters.Forged: "the token does not verify: its signature is not"} {
		if in := (filters.Inspection{Verified: verdict}); in.Fault() == nil || !strings.HasPrefix(in.Fault().Error(), want) {
			t.Errorf("%v: %v", verdict, in.Fault())
		}
	}
	auth, _ := newTestAuth(t, 8, "k1")
	x := exchange([]byte(narrowed))
	if code := auth.Check(x); code != wallet.Pass {
		t.Fatal(code, x.Detail)
	}
	if g := x.Grant; g.Subject() != "alice" || g.RateKey() != "k1:till-7" || g.MaxAmount != wallet.Minor(500) || g.Daily != wallet.Minor(9000) {
		t.Errorf("%+v", g)
	}
	x = exchange([]byte(minted))
	if code := auth.Check(x); code != wallet.Pass {
		t.Fatal(code, x.Detail)
	}
	if g := x.Grant; g.Subject() != "till-7" || g.RateKey() != "k1:till-7" || g.MaxAmount != wallet.MaxAmount() || g.Daily != wallet.MaxAmount() {
		t.Errorf("%+v", g)
	}
}

// TestInspect shows the verdicts and refusals, by a table of tokens that others may have made.
func TestInspect(t *testing.T) {
	keys := parseKeys(t, "k1")
	m, err := ref.New(authKey("k1"), []byte("v1:k1:t"), "bank", ref.V2)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.AddThirdPartyCaveat([]byte("shared"), []byte("ask\x1b[2J"), "there"); err != nil {
		t.Fatal(err)
	}
	third, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		why, token     string
		keys           *filters.Keys
		verified       string
		refused, shown string
	}{
		{"no keys given", string(mint(t, "v1:k1:t", "k1", authExpiry)), nil, "unknown: no root keys were given", "", "allows:   nothing, until its holder adds the actions or accounts that it lacks"},
		{"forged", string(mint(t, "v1:k1:t", "x", authExpiry)), keys, "no: its signature is not by the root key of its key id", "", "verified: no: its signature is not by the root key of its key id"},
		{"unknown key", string(mint(t, "v1:x:t", "x", authExpiry)), keys, "no: there is no root key of its key id", "", "key id:   x"},
		{"every asset", string(mint(t, "v1:k1:t", "k1", authExpiry, "actions = burn", "accounts = *")), keys, "yes", "", "allows:   every asset"},
		{"no common action", string(mint(t, "v1:k1:t", "k1", authExpiry, "accounts = *", "actions = burn", "actions = read")), keys, "yes", "", "allows:   nothing: no action is in all its actions caveats"},
		{"no common account", string(mint(t, "v1:k1:t", "k1", authExpiry, "actions = burn", "accounts = acc_1,team_*", "accounts = bob,tea")), keys, "yes", "", "allows:   nothing: no account, or no asset, is in all its caveats"},
		{"no common asset", string(mint(t, "v1:k1:t", "k1", authExpiry, "actions = burn", "accounts = *", "assets = ron", "assets = eur,r")), keys, "yes", "", "allows:   nothing: no account, or no asset, is in all its caveats"},
		{"one in a pattern", string(mint(t, "v1:k1:t", "k1", authExpiry, "actions = burn", "accounts = acc_1,team_*", "accounts = te*,x", "accounts = team_a1")), keys, "yes", "", "allows:   burn on accounts acc_1, team_*; of those only te*, x; of those only team_a1"},
		{"no exp", string(mint(t, "v1:k1:t", "k1")), keys, "yes", "no exp", "refused:  token has no exp caveat"},
		{"not understood", string(mint(t, "v1:k1:t", "k1", "colour = red")), keys, "yes", "colour", "caveat:   colour = red"},
		{"hostile to terminals", string(mint(t, "v1:k1:t\x1b[2J", "k1", "a\x1b[2J")), keys, "no: there is no root key of its key id", "identifier", `caveat:   "a\x1b[2J"`},
		{"third party", macaroon.EncodeText(third), keys, "no: its signature is not by the root key of its key id", "discharge", `caveat:   "ask\x1b[2J"`},
	} {
		in, err := filters.InspectToken(c.token, c.keys, authNow)
		if err != nil {
			t.Errorf("%s: %v", c.why, err)
			continue
		}
		if in.Verified.String() != c.verified || !strings.Contains(in.Refused, c.refused) || (c.refused == "") != (in.Refused == "") {
			t.Errorf("%s: %+v", c.why, in)
		}
		if text := in.String(); !strings.Contains(text, c.shown+"\n") || strings.Contains(text, "\x1b") {
			t.Errorf("%s: shown as\n%s", c.why, text)
		}
	}
}

// TestTokenRefuses shows what the command does not do, by a table; each error says which part is
// wrong.
func TestTokenRefuses(t *testing.T) {
	keys := parseKeys(t, "k1")
	good, err := filters.MintToken(keys, "t", []string{authExpiry, "sub = alice", "actions = read", "accounts = *"})
	if err != nil {
		t.Fatal(err)
	}
	mintWith := func(k *filters.Keys, id string, caveats ...string) error {
		_, err := filters.MintToken(k, id, caveats)
		return err
	}
	attenuate := func(token string, caveats ...string) error {
		_, err := filters.AttenuateToken(token, caveats)
		return err
	}
	inspect := func(token string) error {
		_, err := filters.InspectToken(token, keys, authNow)
		return err
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{mintWith(&filters.Keys{}, "t", authExpiry), "there is no root key"},
		{mintWith(keys, "", authExpiry), "identifier must be"},
		{mintWith(keys, "a:b", authExpiry), "identifier must be"},
		{mintWith(keys, "t"), "no exp caveat: give --ttl"},
		{mintWith(keys, "t", authExpiry, "actions = read"), "give --actions and --accounts"},
		{mintWith(keys, "t", authExpiry, "accounts = *"), "lacks actions or accounts"},
		{mintWith(keys, "t", authExpiry, "aud = bank"), `"aud = bank"`},
		{mintWith(keys, "t", authExpiry, "colour = red"), `"colour = red": there is no such caveat`},
		{mintWith(keys, "t", authExpiry, "max_amount = 1.5"), "max_amount = 1.5"},
		{mintWith(keys, "t", authExpiry, "peer = "+strings.Repeat("p", 5000)), "at most 4096 bytes"},
		{attenuate(good), "no caveat to add"},
		{attenuate("???", "actions = read"), "base64url"},
		{attenuate("bm9uc2Vuc2U", "actions = read"), "binary macaroon"},
		{attenuate(good, "actions = write"), "no action"},
		{attenuate(good, "sub = bob"), "another sub"},
		{inspect("???"), "base64url"},
		{inspect("bm9uc2Vuc2U"), "binary macaroon"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%v, want %q", c.err, c.want)
		}
	}
}

// TestGoldenTokens shows that the format cannot drift: tokens that gopkg.in/macaroon.v2 minted,
// recorded with their parts in testdata/tokens.txt, are what it mints today, what we mint, and
// what the filter takes.
func TestGoldenTokens(t *testing.T) {
	text, err := os.ReadFile("testdata/tokens.txt")
	if err != nil {
		t.Fatal(err)
	}
	tokens := 0
	for block := range strings.SplitSeq(string(text), "\n\n") {
		var id, keyID, want string
		var caveats []string
		for line := range strings.Lines(block) {
			switch name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); name {
			case "key":
				keyID = value
			case "id":
				id = value
			case "caveat":
				caveats = append(caveats, value)
			case "token":
				want = value
			}
		}
		if want == "" {
			continue
		}
		tokens++
		m, err := ref.New(authKey(keyID), []byte(id), "svc-wallet", ref.V2)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range caveats {
			_ = m.AddFirstPartyCaveat([]byte(c))
		}
		theirs, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if got := macaroon.EncodeText(theirs); got != want {
			t.Errorf("macaroon.v2 mints %s as\n%s, recorded is\n%s", id, got, want)
		}
		if got := string(mint(t, id, keyID, caveats...)); got != want {
			t.Errorf("we mint %s as\n%s, recorded is\n%s", id, got, want)
		}
		auth, _ := newTestAuth(t, 8, "k1", "old")
		if x := exchange([]byte(want)); auth.Check(x) != wallet.Pass {
			t.Errorf("%s is refused: %s", id, x.Detail)
		}
	}
	if tokens != 3 {
		t.Errorf("%d tokens", tokens)
	}
}
