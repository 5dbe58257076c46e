package config

import (
	"maps"
	"sync/atomic"
	"time"

	"svc-wallet/wallet"
)

// Limits are the settings that may change while the sidecar runs. A *Limits is immutable: a
// change is a new one, and an exchange sees only one. The zero value denies everything; it never
// means unlimited. Only Load and ParseLimits make a valid one.
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
}

// ParseLimits reads limits as a control plane pushes them: a JSON object (RFC 8259) of at most
// 1 MiB, of the members that docs/configuration.md lists. What it leaves out has its default; the
// ceilings are the default ones. The error is Faults: everything that is wrong.
func ParseLimits(raw []byte) (*Limits, error) { return defaults().overlay(raw) }

// overlay reads a push: one more layer over c, of live keys only, that keeps c's ceilings.
func (c *Config) overlay(raw []byte) (*Limits, error) {
	next := *c
	next.sources = maps.Clone(c.sources)
	push, faults := pushLayer(raw)
	faults = append(faults, next.apply(push)...)
	faults = append(faults, next.broken(next.limitRules(), faults)...)
	if len(faults) > 0 {
		return nil, faults
	}
	limits := next.limits
	return &limits, nil
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
