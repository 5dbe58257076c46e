package filters_test

import (
	"testing"

	"svc-wallet/filters"
	"svc-wallet/wallet"
)

// grantOf reads what a token grants.
func grantOf(t testing.TB, caveats ...string) *filters.Grant {
	t.Helper()
	auth, _ := newTestAuth(t, 8, "k1")
	x := exchange(mint(t, "v1:k1:t1", "k1", append([]string{authExpiry}, caveats...)...))
	if code := auth.Check(x); code != wallet.Pass {
		t.Fatalf("%q: %v, %s", caveats, code, x.Detail)
	}
	return x.Grant
}

func account(s string) (a wallet.Account) {
	if s != "" {
		a = wallet.Must(wallet.ParseAccount(s))
	}
	return a
}

// TestScope shows which side of a request a grant must cover, and that from and to never stand in
// for each other; by a table.
func TestScope(t *testing.T) {
	all := []string{"actions = read,issue,transfer,burn"}
	for _, c := range []struct {
		caveats         []string
		op              wallet.Op
		from, to, asset string // of a read, from is the account
		ok              bool
	}{
		{append(all, "accounts = acc_1"), wallet.Read, "acc_1", "", "ron", true},
		{append(all, "accounts = acc_1"), wallet.Read, "acc_2", "", "ron", false},
		{append(all, "accounts = acc_1"), wallet.Transfer, "acc_1", "acc_2", "ron", true},
		{append(all, "accounts = acc_1"), wallet.Transfer, "acc_2", "acc_1", "ron", false},
		{append(all, "accounts = acc_1"), wallet.Burn, "acc_1", "", "ron", true},
		{append(all, "accounts = acc_1"), wallet.Burn, "acc_2", "", "ron", false},
		{append(all, "accounts = acc_1"), wallet.Issue, "", "acc_1", "ron", true},
		{append(all, "accounts = acc_1"), wallet.Issue, "", "acc_2", "ron", false},
		{append(all, "accounts = acc_1"), wallet.NoOp, "acc_1", "acc_1", "ron", false},
		{append(all, "accounts = acc_1"), wallet.Op(9), "acc_1", "acc_1", "ron", false},
		{append(all, "accounts = acc_1"), wallet.Transfer, "acc_11", "acc_1", "ron", false},
		{append(all, "accounts = acc_1,team_*"), wallet.Transfer, "team_9", "acc_2", "ron", true},
		{append(all, "accounts = acc_1,team_*"), wallet.Transfer, "team_", "acc_2", "ron", true},
		{append(all, "accounts = acc_1,team_*"), wallet.Transfer, "team", "acc_2", "ron", false},
		{append(all, "accounts = *"), wallet.Transfer, "anybody", "acc_2", "ron", true},
		{append(all, "accounts = *", "accounts = acc_1"), wallet.Transfer, "acc_1", "acc_2", "ron", true},
		{append(all, "accounts = *", "accounts = acc_1"), wallet.Transfer, "acc_2", "acc_1", "ron", false},
		{append(all, "accounts = acc_1,acc_2", "accounts = acc_2,acc_3"), wallet.Transfer, "acc_2", "x", "ron", true},
		{append(all, "accounts = acc_1,acc_2", "accounts = acc_2,acc_3"), wallet.Transfer, "acc_1", "x", "ron", false},
		{append(all, "accounts = *", "assets = ron"), wallet.Burn, "acc_1", "", "ron", true},
		{append(all, "accounts = *", "assets = ron"), wallet.Burn, "acc_1", "", "rox", false},
		{append(all, "accounts = *", "assets = ro*,usd"), wallet.Burn, "acc_1", "", "rox", true},
		{append(all, "accounts = *", "assets = ro*,usd"), wallet.Burn, "acc_1", "", "eur", false},
		{append(all, "accounts = *", "assets = ro*", "assets = rox"), wallet.Burn, "acc_1", "", "ron", false},
		{[]string{"actions = read", "accounts = *"}, wallet.Transfer, "acc_1", "acc_2", "ron", false},
		{append(all, "actions = read", "accounts = *"), wallet.Transfer, "acc_1", "acc_2", "ron", false},
		{append(all, "actions = read", "accounts = *"), wallet.Read, "acc_1", "", "ron", true},
		{[]string{"actions = read", "actions = burn", "accounts = *"}, wallet.Burn, "acc_1", "", "ron", false},
		{all, wallet.Read, "acc_1", "", "ron", false},
		{[]string{"accounts = *"}, wallet.Read, "acc_1", "", "ron", false},
		{nil, wallet.Read, "acc_1", "", "ron", false},
	} {
		x := &filters.Exchange{Request: filters.Request{Op: c.op}, Findings: filters.Findings{Grant: grantOf(t, c.caveats...)}}
		if asset := wallet.Must(wallet.ParseAsset(c.asset)); c.op == wallet.Read {
			x.Balance = wallet.BalanceKey{Account: account(c.from), Asset: asset}
		} else {
			x.Payment = wallet.Payment{Op: c.op, From: account(c.from), To: account(c.to), Asset: asset}
		}
		code := filters.Scope{}.Check(x)
		if want := wallet.Forbidden; !c.ok && (code != want || x.Detail == "") || c.ok && code != wallet.Pass {
			t.Errorf("%q: %v from %q to %q of %s: %v (%s), want ok=%v", c.caveats, c.op, c.from, c.to, c.asset, code, x.Detail, c.ok)
		}
	}
}

// TestScopeDenies shows what follows from nothing: no grant, an empty one, nothing decoded, and a
// transfer of another operation, which is our bug.
func TestScopeDenies(t *testing.T) {
	everything := grantOf(t, "actions = read,issue,transfer,burn", "accounts = *")
	for _, x := range []*filters.Exchange{
		{Request: filters.Request{Op: wallet.Read}},
		{Request: filters.Request{Op: wallet.Read}, Findings: filters.Findings{Grant: &filters.Grant{}}},
		{Request: filters.Request{Op: wallet.Read}, Findings: filters.Findings{Grant: everything}},
		{Request: filters.Request{Op: wallet.Transfer}, Findings: filters.Findings{Grant: everything, Payment: wallet.Payment{Op: wallet.Transfer}}},
		{Findings: filters.Findings{Grant: everything}},
	} {
		if code := (filters.Scope{}).Check(x); code != wallet.Forbidden {
			t.Errorf("%+v: %v", x, code)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("a transfer on the issue route passes")
		}
	}()
	filters.Scope{}.Check(&filters.Exchange{
		Request: filters.Request{
			Op: wallet.Issue,
		},
		Findings: filters.Findings{
			Grant:   everything,
			Payment: wallet.Payment{Op: wallet.Transfer, From: account("acc_1"), Asset: wallet.Must(wallet.ParseAsset("ron"))},
		},
	})
}

// TestScopeReceipt shows who may see a receipt: a reader of the asset on either side, by a table.
func TestScopeReceipt(t *testing.T) {
	ron := wallet.Must(wallet.ParseAsset("ron"))
	transfer := &wallet.Receipt{Op: wallet.Transfer, From: account("acc_1"), To: account("acc_2"), Asset: ron}
	issue := &wallet.Receipt{Op: wallet.Issue, To: account("acc_2"), Asset: ron}
	for _, c := range []struct {
		caveats []string
		receipt *wallet.Receipt
		ok      bool
	}{
		{[]string{"actions = read", "accounts = acc_1"}, transfer, true},
		{[]string{"actions = read", "accounts = acc_2"}, transfer, true},
		{[]string{"actions = read", "accounts = acc_3"}, transfer, false},
		{[]string{"actions = transfer", "accounts = acc_1"}, transfer, false},
		{[]string{"actions = read", "accounts = acc_1", "assets = rox"}, transfer, false},
		{[]string{"actions = read", "accounts = acc_1", "accounts = acc_2"}, transfer, false},
		{[]string{"actions = read", "accounts = acc_2"}, issue, true},
		{[]string{"actions = read", "accounts = *"}, issue, true},
		{[]string{"actions = read", "accounts = acc_1"}, issue, false},
		{[]string{"actions = read", "accounts = *"}, &wallet.Receipt{}, false},
	} {
		g := grantOf(t, c.caveats...)
		if got := filters.ScopeReceipt(g, c.receipt); got != c.ok {
			t.Errorf("%q on %v: %v", c.caveats, c.receipt.Op, got)
		}
		x := &filters.Exchange{Request: filters.Request{Op: wallet.Read, TxText: []byte("tx_")}, Findings: filters.Findings{Grant: g}}
		if code := (filters.Scope{}).Check(x); (code == wallet.Pass) != g.AllowsAction(wallet.Read) {
			t.Errorf("%q on a transaction not yet found: %v", c.caveats, code)
		}
	}
	if filters.ScopeReceipt(nil, transfer) {
		t.Error("no grant sees a receipt")
	}
}
