package config

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"svc-wallet/wallet"
)

// Bounds of the exceptions. An exception that names neither token, subject nor asset is looked at
// for every payment, so there may be few of those.
const (
	maxOverrides     = 4096
	maxOverridesOpen = 256
)

// Caps bound one payment.
type Caps struct {
	MaxAmountPerOp  wallet.Amount
	DailyCeiling    wallet.Amount
	MaxAccountTotal wallet.Amount
}

// Asker is what exceptions are chosen by. Fields that are not known yet stay zero: an exception
// that names them is then passed over.
type Asker struct {
	Route   Route
	Token   string // id of the token, which its holder cannot change
	Subject string // its sub caveat
	Account wallet.Account
	Asset   wallet.Asset
}

// Overrides are exceptions from the limits, in order. For each limit the first exception that
// fits and speaks of it counts. One that goes by the subject alone may only narrow: whoever holds
// a token without `sub` may add one, and so could take somebody else's wider limits; by token id
// an exception may widen too, up to the ceilings.
//
// A nil *Overrides has none. It is immutable, and looking up does not allocate.
type Overrides struct {
	list      []override
	byToken   map[string][]int
	bySubject map[string][]int
	byAsset   map[wallet.Asset][]int
	open      []int // those that name none of these
	byRoute   [NumRoutes]rate
	text      string // canonical JSON
}

type rate struct{ perSecond, burst uint64 }

// override is one exception: whom it fits, and what then holds.
type override struct {
	token, subject string
	account        string // a prefix where open, a name where not; "" is any
	accountOpen    bool
	asset          wallet.Asset // zero is any
	route          Route        // RouteNone is any

	has           overrideField
	caps          Caps
	rate, subRate rate
}

type overrideField uint8

const (
	hasAmount overrideField = 1 << iota
	hasDaily
	hasTotal
	hasRate
	hasBurst
	hasSubjectRate
	hasSubjectBurst
)

// CapsFor are the caps of one payment.
func (l *Limits) CapsFor(who *Asker) Caps {
	caps := Caps{l.MaxAmountPerOp, l.DailyCeiling, l.MaxAccountTotal}
	if l.Overrides == nil {
		return caps
	}
	if o := l.Overrides.find(who, hasAmount); o != nil {
		caps.MaxAmountPerOp = o.bound(caps.MaxAmountPerOp, o.caps.MaxAmountPerOp)
	}
	if o := l.Overrides.find(who, hasDaily); o != nil {
		caps.DailyCeiling = o.bound(caps.DailyCeiling, o.caps.DailyCeiling)
	}
	if o := l.Overrides.find(who, hasTotal); o != nil {
		caps.MaxAccountTotal = o.bound(caps.MaxAccountTotal, o.caps.MaxAccountTotal)
	}
	return caps
}

// SubjectRateFor is the rate of one subject on one route; both zero where there is none.
func (l *Limits) SubjectRateFor(who *Asker) (perSecond, burst uint64) {
	if l.Overrides == nil {
		return l.SubjectRate, l.SubjectBurst
	}
	o := l.Overrides.find(who, hasSubjectRate)
	switch {
	case o == nil:
		return l.SubjectRate, l.SubjectBurst
	case o.token == "" && o.subject != "" && (l.SubjectRate > 0 || l.SubjectBurst > 0):
		return min(l.SubjectRate, o.subRate.perSecond), min(l.SubjectBurst, o.subRate.burst)
	default:
		return o.subRate.perSecond, o.subRate.burst
	}
}

// RateFor is the rate of one route. own says that the route has a bucket of its own; the others
// share one.
func (l *Limits) RateFor(r Route) (perSecond, burst uint64, own bool) {
	if l.Overrides != nil && l.Overrides.byRoute[r] != (rate{}) {
		o := &l.Overrides.byRoute[r]
		return o.perSecond, o.burst, true
	}
	return l.RatePerSecond, l.RateBurst, false
}

// bound is an exception's amount in place of the general one.
func (o *override) bound(general, own wallet.Amount) wallet.Amount {
	if o.token == "" && o.subject != "" {
		return general.Min(own)
	}
	return own
}

// find returns the first exception that fits and speaks of what, or nil. It merges the lists that
// may hold one by their order.
func (s *Overrides) find(who *Asker, what overrideField) *override {
	lists := [...][]int{s.byToken[who.Token], s.bySubject[who.Subject], s.byAsset[who.Asset], s.open}
	for {
		first, from := math.MaxInt, -1
		for i, l := range lists {
			if len(l) > 0 && l[0] < first {
				first, from = l[0], i
			}
		}
		if from < 0 {
			return nil
		}
		if o := &s.list[first]; o.has&what != 0 && o.fits(who) {
			return o
		}
		lists[from] = lists[from][1:]
	}
}

func (o *override) fits(who *Asker) bool {
	switch {
	case o.token != "" && o.token != who.Token,
		o.subject != "" && o.subject != who.Subject,
		o.route != RouteNone && o.route != who.Route,
		!o.asset.IsZero() && o.asset != who.Asset,
		o.account != "" && !who.Account.HasPrefix(o.account),
		o.account != "" && !o.accountOpen && who.Account.String() != o.account,
		o.accountOpen && who.Account.IsZero():
		return false
	}
	return true
}

// overrides is a field that holds exceptions.
type overrides struct{ field **Overrides }

func (v overrides) set(raw any) string {
	if w, isWord := raw.(word); isWord {
		if w == "" {
			*v.field = nil
			return ""
		}
		parsed, err := readValue(string(w))
		if err != nil {
			return "is not " + v.allowed() + ": " + oneLine(err)
		}
		raw = parsed
	}
	items, ok := raw.([]any)
	if !ok || len(items) > maxOverrides {
		return "is not " + v.allowed()
	}
	s := &Overrides{byToken: map[string][]int{}, bySubject: map[string][]int{}, byAsset: map[wallet.Asset][]int{}}
	var problems []string
	for i, item := range items {
		if problem := s.add(item); problem != "" {
			problems = append(problems, fmt.Sprintf("item %d: %s", i+1, problem))
		}
	}
	if len(s.open) > maxOverridesOpen {
		problems = append(problems, fmt.Sprintf("over %d items name neither token, subject nor asset", maxOverridesOpen))
	}
	if len(problems) > 0 {
		return "is wrong: " + cutText(strings.Join(problems, "; "), 2000)
	}
	if len(s.list) == 0 {
		*v.field = nil
		return ""
	}
	s.text = string(appendValue(nil, raw))
	*v.field = s
	return ""
}

func (v overrides) String() string {
	if *v.field == nil {
		return ""
	}
	return (*v.field).text
}

func (overrides) kind() string { return "overrides" }

func (overrides) allowed() string {
	return fmt.Sprintf("a list of at most %d exceptions", maxOverrides)
}

// add reads one exception and indexes it by the rarest thing that it names.
func (s *Overrides) add(item any) (problem string) {
	o := override{}
	members, ok := asObject(item)
	if !ok {
		return "is not an object"
	}
	seen := map[string]bool{}
	for _, m := range members {
		if seen[m.name] {
			return plain(m.name) + " is there twice"
		}
		seen[m.name] = true
		if problem := o.member(m); problem != "" {
			return plain(m.name) + ": " + shown(m.value) + " " + problem
		}
	}
	if problem := o.unfit(); problem != "" {
		return problem
	}
	at := len(s.list)
	s.list = append(s.list, o)
	switch {
	case o.has&hasRate != 0:
		if s.byRoute[o.route] == (rate{}) { // the first counts
			s.byRoute[o.route] = o.rate
		}
	case o.token != "":
		s.byToken[o.token] = append(s.byToken[o.token], at)
	case o.subject != "":
		s.bySubject[o.subject] = append(s.bySubject[o.subject], at)
	case !o.asset.IsZero():
		s.byAsset[o.asset] = append(s.byAsset[o.asset], at)
	default:
		s.open = append(s.open, at)
	}
	return ""
}

// member reads one member of an exception.
func (o *override) member(m member) (problem string) {
	top := wallet.MaxAmount()
	fields := map[string]struct {
		value value
		has   overrideField
	}{
		"max_amount_per_op":       {amount(&o.caps.MaxAmountPerOp, wallet.Minor(1), top), hasAmount},
		"daily_ceiling":           {amount(&o.caps.DailyCeiling, wallet.Minor(1), top), hasDaily},
		"max_account_total":       {amount(&o.caps.MaxAccountTotal, wallet.Minor(1), top), hasTotal},
		"rate_per_second":         {integer[uint64](&o.rate.perSecond, 1, 1e9), hasRate},
		"rate_burst":              {integer[uint64](&o.rate.burst, 1, 1e9), hasBurst},
		"subject_rate_per_second": {integer[uint64](&o.subRate.perSecond, 1, 1e9), hasSubjectRate},
		"subject_burst":           {integer[uint64](&o.subRate.burst, 1, 1e9), hasSubjectBurst},
	}
	if f, ok := fields[m.name]; ok {
		o.has |= f.has
		return f.value.set(m.value)
	}
	s, _ := m.value.(string)
	var fits bool
	switch m.name {
	case "token":
		o.token, fits = s, s != "" && len(s) <= 64 && visible(s)
	case "subject":
		o.subject, fits = s, s != "" && len(s) <= 256
	case "account":
		o.account, o.accountOpen = strings.CutSuffix(s, "*")
		_, err := wallet.ParseAccount(o.account)
		fits = err == nil || s == "*"
	case "asset":
		var err error
		o.asset, err = wallet.ParseAsset(s)
		fits = err == nil
	case "route":
		o.route = routeNamed(s)
		fits = o.route != RouteNone
	default:
		return "is unknown: an exception names any of token, subject, account, asset and route, and the limits that it changes"
	}
	if !fits {
		return "is not a " + m.name
	}
	return ""
}

// unfit says what members do not go together.
func (o *override) unfit() string {
	byWho := o.token != "" || o.subject != ""
	byWhat := o.account != "" || o.accountOpen || !o.asset.IsZero()
	switch {
	case o.has == 0:
		return "changes no limit"
	case !byWho && !byWhat && o.route == RouteNone:
		return "fits every request: change the limit itself"
	case o.has&hasRate != 0 != (o.has&hasBurst != 0):
		return "rate_per_second and rate_burst go together"
	case o.has&hasSubjectRate != 0 != (o.has&hasSubjectBurst != 0):
		return "subject_rate_per_second and subject_burst go together"
	case o.has&hasRate != 0 && (byWho || byWhat || o.has != hasRate|hasBurst):
		return "rate_per_second is judged before the token is read: it goes by the route alone, in an item of its own"
	case o.has&hasSubjectRate != 0 && byWhat:
		return "subject_rate_per_second is judged before the request is decoded: it goes by token, subject and route only"
	}
	return ""
}

// over names what is above the ceilings.
func (s *Overrides) over(top *Limits) (problems []string) {
	if s == nil {
		return nil
	}
	for i := range s.list {
		o := &s.list[i]
		for _, f := range []struct {
			has  bool
			name string
		}{
			{o.caps.MaxAmountPerOp.Cmp(top.MaxAmountPerOp) > 0, "max_amount_per_op"},
			{o.caps.DailyCeiling.Cmp(top.DailyCeiling) > 0, "daily_ceiling"},
			{o.caps.MaxAccountTotal.Cmp(top.MaxAccountTotal) > 0, "max_account_total"},
			{o.rate.perSecond > top.RatePerSecond, "rate_per_second"},
			{o.rate.burst > top.RateBurst, "rate_burst"},
			{o.subRate.perSecond > top.SubjectRate, "subject_rate_per_second"},
			{o.subRate.burst > top.SubjectBurst, "subject_burst"},
		} {
			if f.has {
				problems = append(problems, fmt.Sprintf("item %d: %s is over ceilings.%s", i+1, f.name, f.name))
			}
		}
	}
	return problems
}

// object is a JSON object, or a section of a file in the order of its names.
type object []member

// asObject takes what JSON, TOML and YAML decode an object to.
func asObject(raw any) (object, bool) {
	switch v := raw.(type) {
	case object:
		return v, true
	case map[string]any:
		var o object
		for name, value := range v {
			o = append(o, member{name, value})
		}
		slices.SortFunc(o, func(a, b member) int { return strings.Compare(a.name, b.name) })
		return o, true
	default:
		return nil, false
	}
}

// appendValue appends JSON that readValue takes back: an object's members by name.
func appendValue(dst []byte, raw any) []byte {
	switch v := raw.(type) {
	case object, map[string]any:
		o, _ := asObject(v)
		o = slices.Clone(o)
		slices.SortStableFunc(o, func(a, b member) int { return strings.Compare(a.name, b.name) })
		dst = append(dst, '{')
		for i, m := range o {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendText(dst, m.name)
			dst = appendValue(append(dst, ':'), m.value)
		}
		return append(dst, '}')
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendValue(dst, e)
		}
		return append(dst, ']')
	case string:
		return appendText(dst, v)
	case word:
		return appendText(dst, string(v))
	case nil:
		return append(dst, "null"...)
	default: // integers, jsonNumber, bool
		return fmt.Append(dst, v)
	}
}

func appendText(dst []byte, s string) []byte {
	dst, err := jsontext.AppendQuote(dst, s)
	if err != nil { // not UTF-8: it came from a file, and no grammar takes it
		dst, _ = jsontext.AppendQuote(dst, strings.ToValidUTF8(s, "\uFFFD"))
	}
	return dst
}
