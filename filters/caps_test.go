package filters

import (
	"testing"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// TestCaps: an amount passes up to and including each cap, the smaller daily ceiling of limits
// and capability counts, and only credits meet the account's total. Method: one amount against
// a table of caps.
func TestCaps(t *testing.T) {
	most := wallet.MaxAmount()
	m := wallet.Minor
	for _, c := range []struct {
		name                               string
		op                                 wallet.Op
		perOp, daily, total, grant, gdaily wallet.Amount
		want                               wallet.Code
	}{
		{"no cap near", wallet.Transfer, most, most, most, most, most, wallet.Pass},
		{"at every cap", wallet.Transfer, m(100), m(100), m(100), m(100), m(100), wallet.Pass},
		{"over the operation's cap", wallet.Transfer, m(99), most, most, most, most, wallet.LimitsExceeded},
		{"over the ceiling", wallet.Transfer, most, m(99), most, most, most, wallet.LimitsExceeded},
		{"over the capability's cap", wallet.Transfer, most, most, most, m(99), most, wallet.LimitsExceeded},
		{"over the capability's ceiling", wallet.Burn, most, most, most, most, m(99), wallet.LimitsExceeded},
		{"transfer over the total", wallet.Transfer, most, most, m(99), most, most, wallet.LimitsExceeded},
		{"issue over the total", wallet.Issue, most, most, m(99), most, most, wallet.LimitsExceeded},
		{"burn credits nobody", wallet.Burn, most, most, m(99), most, most, wallet.Pass},
		{"a read has no amount", wallet.Read, m(0), m(0), m(0), m(0), m(0), wallet.Pass},
		{"zero limits deny", wallet.Transfer, m(0), m(0), m(0), most, most, wallet.LimitsExceeded},
		{"a zero capability denies", wallet.Transfer, most, most, most, m(0), m(0), wallet.LimitsExceeded},
	} {
		x := &Exchange{
			Request: Request{
				Op:     c.op,
				Limits: &config.Limits{MaxAmountPerOp: c.perOp, DailyCeiling: c.daily, MaxAccountTotal: c.total},
			},
			Findings: Findings{
				Grant:   &Grant{MaxAmount: c.grant, Daily: c.gdaily},
				Payment: wallet.Payment{Op: c.op, Amount: m(100)},
			},
		}
		got := Caps{NonceStart: 1, NonceMaxGap: 9}.Check(x)
		if got != c.want {
			t.Errorf("%s: %v, wanted %v", c.name, got, c.want)
		}
		if (got == wallet.LimitsExceeded) != (x.Detail != "") {
			t.Errorf("%s: %v with detail %q", c.name, got, x.Detail)
		}
		want := wallet.Rules{DailyCeiling: c.daily.Min(c.gdaily), MaxAccountTotal: c.total, NonceStart: 1, NonceMaxGap: 9}
		if c.op == wallet.Read || got != wallet.Pass {
			want = wallet.Rules{}
		}
		if x.Payment.Rules != want {
			t.Errorf("%s: rules %+v, wanted %+v", c.name, x.Payment.Rules, want)
		}
	}
}
