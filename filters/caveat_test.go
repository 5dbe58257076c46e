package filters_test

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"svc-wallet/filters"
	"svc-wallet/filters/macaroon"
	"svc-wallet/wallet"
)

// TestCaveatsRefused shows what is not understood, and that it refuses the token; by a table of
// caveats, one a line, against the forms beside them that are.
func TestCaveatsRefused(t *testing.T) {
	const understood = `
exp = 0
exp = 999999999999999999
nbf = 0
actions = read
actions = read,issue,transfer,burn
actions = read,read
accounts = *
accounts = a
accounts = A*
accounts = acc_1,team_*,b.c:d-e*
accounts = ` + longest64 + `
accounts = ` + longest64 + `*
assets = *
assets = ron,ro*
assets = ` + longest32 + `*
max_amount = 0
max_amount = 340282366920938463463374607431768211455
daily = 1
peer = spiffe://mesh/payer
peer = urn:x=y
cidr = 0.0.0.0/0
cidr = 10.1.2.3/32
cidr = fd00::/8
sub = ~
aud = svc-wallet`
	const refused = `
exp
exp =
exp=1
exp =1
exp= 1
exp  = 1
exp =  1
exp = 1 
 exp = 1
EXP = 1
exp = +1
exp = -1
exp = 01
exp = 00
exp = 1.0
exp = 1e9
exp = 0x1
exp = 1_000
exp = 1000000000000000000
exp = 99999999999999999999
exp = ١
nbf = soon
actions = 
actions = write
actions = none
actions = *
actions = Read
actions = read,
actions = ,read
actions = read,,burn
actions = read, burn
accounts = 
accounts = ,
accounts = a,
accounts = ,a
accounts = a,,b
accounts = a, b
accounts = **
accounts = a**
accounts = *a
accounts = a*b
accounts = _a
accounts = _a*
accounts = a/b
accounts = a/*
accounts = ` + longest64 + `a
accounts = ` + longest64 + `a*
accounts = é
assets = 
assets = RON
assets = ron,
assets = r**
assets = ron:x*
assets = ` + longest32 + `a*
max_amount = 
max_amount = 01
max_amount = -1
max_amount = 1.0
max_amount = 340282366920938463463374607431768211456
daily = 1,000
peer = 
peer = a b
cidr = 
cidr = 10.0.0.1
cidr = 10.0.0.1/8
cidr = 10.0.0.0/08
cidr = 10.0.0.0/33
cidr = 10.0.0.0/8,11.0.0.0/8
cidr = ::ffff:10.0.0.0/104
cidr = fe80::%eth0/10
sub = 
sub = a b
sub = ` + longest64 + longest64 + `a
aud = 
colour = red
= red
 = red
time < 2000000100`
	for line := range strings.Lines(strings.TrimPrefix(understood, "\n")) {
		if why := refusal(t, authExpiry, strings.TrimSuffix(line, "\n")); why != "" {
			t.Errorf("%q is refused: %s", line, why)
		}
	}
	control := []string{"", "exp = 1\n", "exp = 1\x00", "sub = a\tb", "sub = a\x7f", "aud = svc-wallet2", "aud = svc-wallet,bank"}
	for _, line := range append(strings.Split(refused[1:], "\n"), control...) {
		if refusal(t, authExpiry, line) == "" {
			t.Errorf("%q is understood", line)
		}
	}
}

const (
	longest64 = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_."
	longest32 = "abcdefghijklmnopqrstuvwxyz_-0123"
)

// refusal says why every sidecar refuses a token with these caveats, empty if none must.
func refusal(t tester, caveats ...string) string {
	t.Helper()
	in, err := filters.InspectToken(string(mint(t, "v1:k1:t1", "k1", caveats...)), nil, authNow)
	if err != nil {
		t.Fatal(err)
	}
	return in.Refused
}

// request is one question to a token.
type request struct {
	op       wallet.Op
	from, to string // of a read, from is the account
	asset    string
	amount   wallet.Amount
	now      int64
	peer     string
	addr     netip.Addr
}

var (
	drawAccount = rapid.SampledFrom([]string{"acc_1", "acc_2", "team_a", "team_ab"})
	drawAsset   = rapid.SampledFrom([]string{"ron", "rox", "usd"})
	drawPeer    = rapid.SampledFrom([]string{"spiffe://mesh/a", "spiffe://mesh/b"})
	drawSeconds = rapid.Int64Range(98, 102)
)

func drawRequest(t *rapid.T) request {
	return request{
		op:     rapid.SampledFrom([]wallet.Op{wallet.Read, wallet.Issue, wallet.Transfer, wallet.Burn}).Draw(t, "op"),
		from:   drawAccount.Draw(t, "from"),
		to:     drawAccount.Draw(t, "to"),
		asset:  drawAsset.Draw(t, "asset"),
		amount: wallet.Minor(rapid.Uint64Range(1, 4).Draw(t, "amount")),
		now:    drawSeconds.Draw(t, "seconds")*authSecond + rapid.Int64Range(0, 1).Draw(t, "nanos"),
		peer:   rapid.OneOf(drawPeer, rapid.Just("")).Draw(t, "peer"),
		addr:   netip.MustParseAddr(rapid.SampledFrom([]string{"10.0.0.1", "::ffff:10.0.0.2", "10.1.0.1", "fd00::1"}).Draw(t, "addr")),
	}
}

// drawCaveat draws caveats that mean something more often than not, out of a world so small that
// requests are often on either side of them.
func drawCaveat() *rapid.Generator[string] {
	list := func(items ...string) *rapid.Generator[string] {
		return rapid.Map(rapid.SliceOfN(rapid.SampledFrom(items), 1, 3), func(l []string) string { return strings.Join(l, ",") })
	}
	seconds := rapid.Map(drawSeconds, func(n int64) string { return strconv.FormatInt(n, 10) })
	amount := rapid.Map(rapid.IntRange(0, 5), strconv.Itoa)
	named := func(name string, value *rapid.Generator[string]) *rapid.Generator[string] {
		return rapid.Map(value, func(v string) string { return name + " = " + v })
	}
	return rapid.OneOf(
		named("aud", rapid.SampledFrom([]string{"svc-wallet", "svc-wallet", "svc-wallet", "bank"})),
		named("exp", seconds), named("nbf", seconds),
		named("actions", list("read", "issue", "transfer", "burn")),
		named("accounts", list("*", "acc_1", "acc_2", "acc_*", "team_*", "team_a")),
		named("assets", list("*", "ron", "ro*", "usd")),
		named("max_amount", amount), named("daily", amount),
		named("peer", drawPeer),
		named("cidr", rapid.SampledFrom([]string{"10.0.0.0/8", "10.0.0.0/16", "0.0.0.0/0", "fd00::/8"})),
		named("sub", rapid.SampledFrom([]string{"alice", "alice", "bob"})),
		rapid.SampledFrom([]string{"colour = red", "exp=1", "", "accounts = ,"}),
	)
}

// drawToken draws caveats of a token that allows something more often than chance would have it.
func drawToken(t *rapid.T) []string {
	caveats := rapid.SliceOfN(drawCaveat(), 0, 4).Draw(t, "caveats")
	if rapid.IntRange(0, 9).Draw(t, "usual") > 0 {
		caveats = append(caveats, "exp = 102", "actions = read,issue,transfer,burn", "accounts = acc_*,team_*")
	}
	return rapid.Permutation(caveats).Draw(t, "order")
}

// ask puts the request to the filters, as the chain does, and says whether it may pass.
func ask(t *rapid.T, auth *filters.Auth, token []byte, r request) (g *filters.Grant, allowed bool) {
	x := exchange(token)
	x.Op, x.Now, x.Peer, x.Addr = r.op, r.now, r.peer, r.addr
	asset := wallet.Must(wallet.ParseAsset(r.asset))
	switch r.op {
	case wallet.Read:
		x.Balance = wallet.BalanceKey{Account: account(r.from), Asset: asset}
	case wallet.Issue:
		x.Payment = wallet.Payment{Op: r.op, To: account(r.to), Asset: asset}
	case wallet.Burn:
		x.Payment = wallet.Payment{Op: r.op, From: account(r.from), Asset: asset}
	default:
		x.Payment = wallet.Payment{Op: r.op, From: account(r.from), To: account(r.to), Asset: asset}
	}
	if auth.Check(x) != wallet.Pass {
		return nil, false
	}
	if (filters.Scope{}).Check(x) != wallet.Pass {
		return x.Grant, false
	}
	within := r.op == wallet.Read || r.amount.Cmp(x.Grant.MaxAmount) <= 0 && r.amount.Cmp(x.Grant.Daily) <= 0
	return x.Grant, within
}

// TestAttenuationNarrows shows that nobody gains by appending caveats: whatever a token with one
// more caveat allows, the token allowed, and both are counted under one rate key. A property over
// random tokens, caveats and requests.
//
// It is of tokens that have exp, actions and accounts. One that lacks any of them is refused or
// grants nothing, and so does gain by the missing one; it cannot be otherwise, since every token
// is a bare one attenuated. That is why MintToken makes no such token (TestTokenRefuses).
func TestAttenuationNarrows(t *testing.T) {
	allowed := 0
	rapid.Check(t, func(t *rapid.T) {
		auth, _ := newTestAuth(t, 16, "k1")
		caveats := drawToken(t)
		if !complete(caveats) {
			t.Skip("incomplete")
		}
		token := mint(t, "v1:k1:t1", "k1", caveats...)
		data, err := macaroon.DecodeText(make([]byte, macaroon.MaxSize), token)
		if err != nil {
			t.Fatal(err)
		}
		if data, err = macaroon.Attenuate(data, drawCaveat().Draw(t, "one more")); err != nil {
			t.Fatal(err)
		}
		narrowed := []byte(macaroon.EncodeText(data))
		for range 8 {
			r := drawRequest(t)
			g, less := ask(t, auth, narrowed, r)
			if !less {
				continue
			}
			allowed++
			old, more := ask(t, auth, token, r)
			if !more {
				t.Fatalf("the caveat adds %+v", r)
			}
			if g.RateKey() != old.RateKey() || g.MaxAmount.Cmp(old.MaxAmount) > 0 || g.Daily.Cmp(old.Daily) > 0 {
				t.Fatalf("the caveat adds: %+v after %+v", g, old)
			}
			if g.Subject() != old.Subject() && old.Subject() != old.TokenID {
				t.Fatalf("%s became %s", old.Subject(), g.Subject())
			}
		}
	})
	if t.Logf("%d requests were allowed", allowed); allowed == 0 {
		t.Error("no attenuated token allowed anything, so nothing was shown")
	}
}

// TestCaveatsMeanWhatTheySay shows that a token allows a request exactly if it has exp, actions
// and accounts and each caveat, read alone and naively, holds; cached or not. A property against
// that model.
func TestCaveatsMeanWhatTheySay(t *testing.T) {
	both := [2]int{}
	rapid.Check(t, func(t *rapid.T) {
		auth, _ := newTestAuth(t, 16, "k1")
		caveats := drawToken(t)
		token := mint(t, "v1:k1:t1", "k1", caveats...)
		for range 8 {
			r := drawRequest(t)
			want := modelAllows(caveats, r)
			for _, time := range []string{"first", "again"} {
				if _, got := ask(t, auth, token, r); got != want {
					t.Fatalf("%s: %q allows %+v: %v, the model says %v", time, caveats, r, got, want)
				}
			}
			if want {
				both[1]++
			} else {
				both[0]++
			}
		}
	})
	if t.Logf("%d refused, %d allowed", both[0], both[1]); both[0] == 0 || both[1] == 0 {
		t.Error("one side was never drawn, so nothing was shown")
	}
}

func modelAllows(caveats []string, r request) bool {
	sub := ""
	for _, c := range caveats {
		name, value, _ := strings.Cut(c, " = ")
		if !modelHolds(name, value, r) || name == "sub" && sub != "" && sub != value {
			return false
		}
		if name == "sub" {
			sub = value
		}
	}
	return complete(caveats)
}

// complete reports that the caveats are there without which a token grants nothing.
func complete(caveats []string) bool {
	for _, name := range []string{"exp = ", "actions = ", "accounts = "} {
		if !slices.ContainsFunc(caveats, func(c string) bool { return strings.HasPrefix(c, name) }) {
			return false
		}
	}
	return true
}

func modelHolds(name, value string, r request) bool {
	in := func(text string) bool {
		for _, item := range strings.Split(value, ",") {
			if item == text || strings.HasSuffix(item, "*") && strings.HasPrefix(text, item[:len(item)-1]) {
				return item != ""
			}
		}
		return false
	}
	n, _ := strconv.ParseInt(value, 10, 64)
	switch name {
	case "aud":
		return value == "svc-wallet"
	case "exp":
		return r.now < n*authSecond
	case "nbf":
		return r.now >= n*authSecond
	case "actions":
		return in(r.op.String())
	case "accounts":
		if strings.Contains(","+value+",", ",,") {
			return false
		}
		return in(map[bool]string{true: r.to, false: r.from}[r.op == wallet.Issue])
	case "assets":
		return in(r.asset)
	case "max_amount", "daily":
		return r.op == wallet.Read || r.amount.Cmp(wallet.Minor(uint64(n))) <= 0
	case "peer":
		return r.peer == value
	case "cidr":
		return netip.MustParsePrefix(value).Contains(r.addr.Unmap())
	default:
		return name == "sub"
	}
}

// FuzzCaveat shows of arbitrary caveats that what is understood has one form, survives being
// said twice, and adds nothing to a token.
func FuzzCaveat(f *testing.F) {
	for _, c := range []string{"exp = 1", "accounts = acc_1,team_*", "cidr = 10.0.0.0/8", "daily = 5", "actions = read", "sub = bob", "aud = svc-wallet", "colour = red"} {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, caveat string) {
		if len(caveat) > 1000 || refusal(t, authExpiry, caveat) != "" {
			return
		}
		name, value, ok := strings.Cut(caveat, " = ")
		if !ok || strings.ContainsFunc(name+value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("%q is understood", caveat)
		}
		if why := refusal(t, authExpiry, caveat, caveat); why != "" {
			t.Fatalf("%q holds once but not twice: %s", caveat, why)
		}
		base := []string{authExpiry, "actions = read", "accounts = acc_1", "assets = ron", "max_amount = 5", "daily = 5"}
		auth, _ := newTestAuth(t, 8, "k1")
		x := exchange(mint(t, "v1:k1:t1", "k1", append(base, caveat)...))
		if auth.Check(x) != wallet.Pass {
			return
		}
		for _, no := range []request{{op: wallet.Burn, from: "acc_1", asset: "ron"}, {op: wallet.Read, from: "acc_2", asset: "ron"}, {op: wallet.Read, from: "acc_1", asset: "rox"}} {
			if x.Grant.Allows(no.op, account(no.from), wallet.Must(wallet.ParseAsset(no.asset))) {
				t.Fatalf("%q adds %+v", caveat, no)
			}
		}
		if x.Grant.MaxAmount.Cmp(wallet.Minor(5)) > 0 || x.Grant.Daily.Cmp(wallet.Minor(5)) > 0 {
			t.Fatalf("%q adds an amount", caveat)
		}
	})
}
