package config

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"svc-wallet/wallet"
)

// Limits are the settings that may change while the sidecar runs. A *Limits is immutable: a
// change is a new one, and an exchange sees only one. The zero value denies everything; it never
// means unlimited. Only Load and Stack make a valid one.
type Limits struct {
	MaxBodyBytes       int
	DecompressRatioCap int
	InFlight           int
	Queue              int
	BatchMax           int
	RatePerSecond      uint64
	RateBurst          uint64
	SubjectRate        uint64 // tokens a second for each subject; 0 with SubjectBurst 0 is off
	SubjectBurst       uint64
	StalenessWindow    time.Duration
	RequestDeadline    time.Duration
	MaxAmountPerOp     wallet.Amount
	DailyCeiling       wallet.Amount
	MaxAccountTotal    wallet.Amount
	LedgerTimeout      time.Duration // of one call
	Retries            int           // after the first call
	BreakerErrors      int
	BreakerOpenFor     time.Duration
	BreakerProbes      int
	RevokedTokens      map[string]struct{} // token ids
	RevokedKeys        map[string]struct{} // key ids

	LedgerConnectTimeout time.Duration

	WritesEnabled Fraction                   // see Enabled
	ReadsEnabled  Fraction                   // see Enabled
	RouteEnabled  [wallet.NumRoutes]Fraction // see Enabled

	Overrides *Overrides // nil: none

	// Shadow are limits as they might become: what they would refuse is counted and goes on. It has
	// these limits' values but for those that the section shadow sets, so a request that Shadow refuses
	// and these do not is one that the change would cost. nil: there are no shadow limits.
	Shadow *Limits
}

// Live holds the limits in force: one atomic load on the hot path.
type Live struct{ p atomic.Pointer[Limits] }

// denyAll is what a Live holds before the first Store.
var denyAll Limits //nolint:gochecknoglobals // the zero value, never written

// Load returns the limits in force, which deny everything until the first Store.
func (l *Live) Load() *Limits {
	if p := l.p.Load(); p != nil {
		return p
	}
	return &denyAll
}

// Store puts new limits in force. Counters, buckets and reservations are elsewhere and stay.
func (l *Live) Store(n *Limits) { l.p.Store(n) }

// Fraction is a share of requests, in parts per million. The zero value is none of them.
type Fraction uint32

// Always is every request.
const Always Fraction = 1_000_000

// Takes draws whether a request is among the share. It does not allocate.
func (f Fraction) Takes() bool {
	return f >= Always || (f > 0 && rand.Uint32N(uint32(Always)) < uint32(f)) //nolint:gosec // a draw is no secret
}

// of is the share of a share.
func (f Fraction) of(g Fraction) Fraction {
	return Fraction(uint64(f) * uint64(g) / uint64(Always)) //nolint:gosec // at most Always
}

// Enabled is the share of a route's requests that is let through: its own switch, and the one of
// payments or of reads.
func (l *Limits) Enabled(r wallet.Route) Fraction {
	if r.Op() > wallet.Read {
		return l.RouteEnabled[r].of(l.WritesEnabled)
	}
	return l.RouteEnabled[r].of(l.ReadsEnabled)
}

// Switched reports whether a switch keeps any request out.
func (l *Limits) Switched() bool {
	for r := wallet.RouteBalance; r <= wallet.RouteBurn; r++ {
		if l.Enabled(r) < Always {
			return true
		}
	}
	return false
}
