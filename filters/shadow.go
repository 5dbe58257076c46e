package filters

import (
	"strings"

	"svc-wallet/wallet"
)

// Watched is a limit that can be under watch (config.Limits.Shadow): what it would refuse is
// counted and goes on.
type Watched uint8

// The limits that filters judge. The queue's is the committer's to count.
const (
	WatchedAmount Watched = iota
	WatchedDaily
	WatchedTotal
	WatchedRate
	WatchedSubjectRate
	WatchedInFlight
	WatchedBody
	WatchedRatio
	WatchedTokens
	WatchedKeys
	NumWatched
)

var watchedNames = [NumWatched]string{ //nolint:gochecknoglobals // a table
	WatchedAmount:      "max_amount_per_op",
	WatchedDaily:       "daily_ceiling",
	WatchedTotal:       "max_account_total",
	WatchedRate:        "rate_per_second",
	WatchedSubjectRate: "subject_rate_per_second",
	WatchedInFlight:    "inflight",
	WatchedBody:        "max_body_bytes",
	WatchedRatio:       "decompress_ratio_cap",
	WatchedTokens:      "revoked_tokens",
	WatchedKeys:        "revoked_keys",
}

// String is the limit's name in settings, metrics and logs. A rate stands for its burst too.
func (w Watched) String() string { return watchedNames[w] }

// WatchedSet is which limits under watch would have refused an exchange that the ones in force let
// through. Each counts for itself, whatever is decided later: an exchange that another filter
// refuses for good was still one that the watched limit would have refused first.
type WatchedSet uint16

// Add puts w into the set.
func (s *WatchedSet) Add(w Watched) { *s |= 1 << w }

// Has reports whether w is in the set.
func (s WatchedSet) Has(w Watched) bool { return s&(1<<w) != 0 }

// String is the names with commas between them.
func (s WatchedSet) String() string {
	var names []string
	for w := range NumWatched {
		if s.Has(w) {
			names = append(names, w.String())
		}
	}
	return strings.Join(names, ",")
}

// WatchTotals holds what the ledger tells of an applied payment, the day's total and the credited
// balance, against the limits under watch: only the ledger sees every sidecar's payments. A replay
// moved nothing now and is not judged.
func WatchTotals(x *Exchange, r *wallet.Result) {
	watched := x.Limits.Shadow
	if watched == nil || r.Code != wallet.OK {
		return
	}
	caps := x.capsUnder(watched)
	if r.DayTotal.Cmp(caps.DailyCeiling.Min(x.Grant.Daily)) > 0 {
		x.Shadowed.Add(WatchedDaily)
	}
	credited := wallet.BalanceKey{Account: x.Transfer.To, Asset: x.Transfer.Asset}
	for i := range r.Balances {
		if b := &r.Balances[i]; b.Key == credited && x.Op != wallet.Burn && b.Amount.Cmp(caps.MaxAccountTotal) > 0 {
			x.Shadowed.Add(WatchedTotal)
		}
	}
}
