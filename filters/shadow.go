package filters

import (
	"strings"

	"svc-wallet/wallet"
)

// Shadow is a limit that can be a shadow limit (config.Limits.Shadow): what it would refuse is counted
// and goes on.
type Shadow uint8

// The limits that filters judge. The queue's is the committer's to count.
const (
	ShadowAmount Shadow = iota
	ShadowDaily
	ShadowTotal
	ShadowRate
	ShadowSubjectRate
	ShadowInFlight
	ShadowBody
	ShadowRatio
	ShadowTokens
	ShadowKeys
	NumShadows
)

var shadowNames = [NumShadows]string{ //nolint:gochecknoglobals // a table
	ShadowAmount:      "max_amount_per_op",
	ShadowDaily:       "daily_ceiling",
	ShadowTotal:       "max_account_total",
	ShadowRate:        "rate_per_second",
	ShadowSubjectRate: "subject_rate_per_second",
	ShadowInFlight:    "inflight",
	ShadowBody:        "max_body_bytes",
	ShadowRatio:       "decompress_ratio_cap",
	ShadowTokens:      "revoked_tokens",
	ShadowKeys:        "revoked_keys",
}

// String is the limit's name in settings, metrics and logs. A rate stands for its burst too.
func (w Shadow) String() string { return shadowNames[w] }

// ShadowSet is which shadow limits would have refused an exchange that the ones in force let
// through. Each counts for itself, whatever is decided later: an exchange that another filter
// refuses for good was still one that the shadow limit would have refused first.
type ShadowSet uint16

// Add puts w into the set.
func (s *ShadowSet) Add(w Shadow) { *s |= 1 << w }

// Has reports whether w is in the set.
func (s ShadowSet) Has(w Shadow) bool { return s&(1<<w) != 0 }

// String is the names with commas between them.
func (s ShadowSet) String() string {
	var names []string
	for w := range NumShadows {
		if s.Has(w) {
			names = append(names, w.String())
		}
	}
	return strings.Join(names, ",")
}

// set adds w where it refuses.
func (s *ShadowSet) set(w Shadow, refuses bool) {
	if refuses {
		s.Add(w)
	}
}

// ShadowTotals holds what the ledger tells of an applied payment, the day's total and the credited
// balance, against the shadow limits: only the ledger sees every sidecar's payments. A replay moved
// nothing now and is not judged.
func ShadowTotals(x *Exchange, r *wallet.Result) {
	if x.Limits.Shadow == nil || r.Code != wallet.OK {
		return
	}
	caps := x.capsUnder(x.Limits.Shadow)
	x.Shadowed.set(ShadowDaily, r.DayTotal.Cmp(caps.DailyCeiling.Min(x.Grant.Daily)) > 0)
	credited := wallet.BalanceKey{Account: x.Payment.To, Asset: x.Payment.Asset}
	for i := range r.Balances {
		b := &r.Balances[i]
		x.Shadowed.set(ShadowTotal, b.Key == credited && x.Op != wallet.Burn && b.Amount.Cmp(caps.MaxAccountTotal) > 0)
	}
}
