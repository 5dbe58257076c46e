package config

import (
	"math"

	"svc-wallet/wallet"
)

// Caps bound one payment.
type Caps struct {
	MaxAmountPerOp  wallet.Amount
	DailyCeiling    wallet.Amount
	MaxAccountTotal wallet.Amount
}

// Asker is what overrides are chosen by. Fields that are not known yet stay zero: an override that
// names them is then passed over.
type Asker struct {
	Route   wallet.Route
	Token   string // id of the token, which its holder cannot change
	Subject string // its sub caveat
	Account wallet.Account
	Asset   wallet.Asset
}

// Overrides are limits that hold instead of the general ones for some requests, in order. For each limit
// the first override that fits and speaks of it counts.
//
// Those that name a subject are looked at by themselves, and only narrow what holds without them:
// whoever holds a token without a `sub` caveat may add one, and so could take somebody else's wider
// limit, or get away from a narrower one of his own (decision 018).
//
// A nil *Overrides has none. It is immutable, and looking up does not allocate.
type Overrides struct {
	list []override // in order

	caps         lookup                 // those that change a cap
	subjectRates lookup                 // those that change a subject's rate, which every read looks up
	byRoute      [wallet.NumRoutes]rate // zero: as the others
	text         string                 // canonical JSON
}

// lookup is where in the list to look. Each override stands in one of its lists, by the rarest thing
// that it names; none of them has more than maxAlike, which bounds what a look-up costs.
type lookup struct {
	bySubject map[string][]int
	byToken   map[string][]int
	byAccount map[wallet.Account][]int
	byAsset   map[wallet.Asset][]int
	open      []int // those that name none of these
}

// Bounds of the overrides.
const (
	maxOverrides = 4096
	maxAlike     = 256 // that a look-up may have to try because they name the same thing
)

// override says whom it fits, and what then holds.
type override struct {
	token, subject string // "" is any
	account        accounts
	asset          wallet.Asset // zero is any
	route          wallet.Route // NoRoute is any
	terms
}

// accounts are one account, or all that begin with prefix.
type accounts struct {
	one    wallet.Account // zero is any
	prefix string         // "" is any
}

// terms are limits, of which has names those that count.
type terms struct {
	has         termSet
	caps        [numCaps]wallet.Amount
	rate        rate
	subjectRate rate
}

// The terms that are caps, in the order of Caps.
const (
	capAmount = iota
	capDaily
	capTotal
	numCaps
)

type rate struct{ perSecond, burst uint64 }

// termSet has a bit for each cap, and for each half of a rate.
type termSet uint8

const (
	hasCaps termSet = 1<<numCaps - 1
	hasRate termSet = 1 << (numCaps + iota - 1)
	hasBurst
	hasSubjectRate
	hasSubjectBurst
)

// CapsFor are the caps of one payment.
func (l *Limits) CapsFor(who *Asker) Caps {
	if l.Overrides == nil {
		return Caps{l.MaxAmountPerOp, l.DailyCeiling, l.MaxAccountTotal}
	}
	caps := [numCaps]wallet.Amount{l.MaxAmountPerOp, l.DailyCeiling, l.MaxAccountTotal}
	instead := l.Overrides.find(&l.Overrides.caps, who, hasCaps)
	narrower := l.Overrides.findNarrower(&l.Overrides.caps, who, hasCaps)
	for i := range caps {
		if instead.has&(1<<i) != 0 {
			caps[i] = instead.caps[i]
		}
		if narrower.has&(1<<i) != 0 {
			caps[i] = caps[i].Min(narrower.caps[i])
		}
	}
	return Caps{caps[capAmount], caps[capDaily], caps[capTotal]}
}

// SubjectRateFor is the rate of one subject on one route; both zero where there is none.
func (l *Limits) SubjectRateFor(who *Asker) (perSecond, burst uint64) {
	r := rate{l.SubjectRate, l.SubjectBurst}
	if l.Overrides == nil {
		return r.perSecond, r.burst
	}
	rates := &l.Overrides.subjectRates
	if own := l.Overrides.find(rates, who, hasSubjectRate); own.has != 0 {
		r = own.subjectRate
	}
	if own := l.Overrides.findNarrower(rates, who, hasSubjectRate); own.has != 0 {
		if r == (rate{}) { // there is no limit to narrow
			r = own.subjectRate
		}
		r = rate{min(r.perSecond, own.subjectRate.perSecond), min(r.burst, own.subjectRate.burst)}
	}
	return r.perSecond, r.burst
}

// RateFor is the rate of one route. own says that the route has a bucket of its own; the others
// share one.
func (l *Limits) RateFor(r wallet.Route) (perSecond, burst uint64, own bool) {
	if l.Overrides != nil && l.Overrides.byRoute[r] != (rate{}) {
		o := &l.Overrides.byRoute[r]
		return o.perSecond, o.burst, true
	}
	return l.RatePerSecond, l.RateBurst, false
}

// find returns what the overrides that name no subject say of want.
func (s *Overrides) find(x *lookup, who *Asker, want termSet) terms {
	return s.first(who, want, [...][]int{x.byToken[who.Token], x.byAccount[who.Account], x.byAsset[who.Asset], x.open})
}

// findNarrower returns what the overrides that name a subject say of want.
func (s *Overrides) findNarrower(x *lookup, who *Asker, want termSet) terms {
	return s.first(who, want, [...][]int{x.bySubject[who.Subject], nil, nil, nil})
}

// first takes each term of want from the first override in the lists that fits and has it. It
// goes through the lists, each of which is in order, in the order of all.
func (s *Overrides) first(who *Asker, want termSet, lists [4][]int) (found terms) {
	for found.has != want {
		next, from := math.MaxInt, 0
		for i := range lists {
			if len(lists[i]) > 0 && lists[i][0] < next {
				next, from = lists[i][0], i
			}
		}
		if next == math.MaxInt {
			break
		}
		lists[from] = lists[from][1:]
		if o := &s.list[next]; o.has&want&^found.has != 0 && o.fits(who) {
			found.take(&o.terms, want&^found.has)
		}
	}
	return found
}

// take copies those terms of o that want names.
func (t *terms) take(o *terms, want termSet) {
	want &= o.has
	for i := range t.caps {
		if want&(1<<i) != 0 {
			t.caps[i] = o.caps[i]
		}
	}
	if want&hasSubjectRate != 0 {
		t.subjectRate = o.subjectRate
	}
	t.has |= want
}

func (o *override) fits(who *Asker) bool {
	return (o.token == "" || o.token == who.Token) &&
		(o.subject == "" || o.subject == who.Subject) &&
		(o.route == wallet.NoRoute || o.route == who.Route) &&
		(o.asset.IsZero() || o.asset == who.Asset) &&
		(o.account.one.IsZero() || o.account.one == who.Account) &&
		who.Account.HasPrefix(o.account.prefix)
}
