package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"svc-wallet/host"
	"svc-wallet/wallet"
)

// overrides is a list of overrides. As a word it stands as JSON.
func overrides() kind[*Overrides] {
	allowed := fmt.Sprintf("a list of at most %d overrides", maxOverrides)
	read := func(raw any) (*Overrides, string) {
		if w, isWord := raw.(word); isWord {
			parsed, err := readValue([]byte(cmp.Or(w, "[]")))
			if err != nil {
				return nil, "is not " + allowed + ": " + oneLine(err)
			}
			raw = parsed
		}
		items, ok := raw.([]any)
		if !ok || len(items) > maxOverrides {
			return nil, "is not " + allowed
		}
		return newOverrides(items)
	}
	print := func(o *Overrides) string {
		if o == nil {
			return ""
		}
		return o.text
	}
	return kind[*Overrides]{name: "overrides", allowed: allowed, read: read, print: print}
}

// newOverrides reads overrides; none at all are nil.
func newOverrides(items []any) (s *Overrides, problem string) {
	if len(items) == 0 {
		return nil, ""
	}
	s = new(Overrides)
	var problems []string
	for i, item := range items {
		o, problem := readOverride(item)
		if problem == "" {
			problem = s.add(o)
		}
		if problem != "" {
			problems = append(problems, fmt.Sprintf("item %d: %s", i+1, problem))
		}
	}
	if len(problems) > 0 {
		return nil, "is wrong: " + several(problems)
	}
	s.text = string(appendValue(nil, items))
	return s, ""
}

// several are problems in one line, cut where they are too many to be read.
func several(problems []string) string { return host.Cut(strings.Join(problems, "; "), 2000) }

// add takes one override, and indexes it by what it changes.
func (s *Overrides) add(o override) (problem string) {
	at := len(s.list)
	s.list = append(s.list, o)
	if o.has&hasRate != 0 {
		if s.byRoute[o.route] == (rate{}) { // the first counts
			s.byRoute[o.route] = o.rate
		}
		return ""
	}
	if o.has&hasCaps != 0 {
		problem = s.caps.add(&o, at)
	}
	if o.has&hasSubjectRate != 0 {
		problem = cmp.Or(problem, s.subjectRates.add(&o, at))
	}
	return problem
}

// add notes where an override is, by the rarest thing that it names.
func (x *lookup) add(o *override, at int) (problem string) {
	var alike int
	var what string
	switch {
	case o.subject != "":
		alike, what = put(&x.bySubject, o.subject, at), "the same subject"
	case o.token != "":
		alike, what = put(&x.byToken, o.token, at), "the same token"
	case !o.account.one.IsZero():
		alike, what = put(&x.byAccount, o.account.one, at), "the same account"
	case !o.asset.IsZero():
		alike, what = put(&x.byAsset, o.asset, at), "the same asset, and neither token, subject nor whole account"
	default:
		x.open = append(x.open, at)
		alike, what = len(x.open), "neither token, subject, whole account nor asset"
	}
	if alike > maxAlike {
		return fmt.Sprintf("is one of over %d that name %s", maxAlike, what)
	}
	return ""
}

// put appends to the list of a key, and returns how long that is.
func put[K comparable](index *map[K][]int, key K, at int) int {
	if *index == nil {
		*index = map[K][]int{}
	}
	(*index)[key] = append((*index)[key], at)
	return len((*index)[key])
}

// part is a row of the table of what an override may say: whom it fits, and the limits that then hold.
type part struct {
	name, kind, allowed, help string
	has                       termSet // of a limit
	set                       func(o *override, raw any) (problem string)
}

// partOf is the row of a field.
func partOf[T any](name string, has termSet, field func(*override) *T, k kind[T], help string) part {
	return part{name, k.name, k.allowed, help, has, func(o *override, raw any) (problem string) {
		*field(o), problem = k.read(raw)
		return problem
	}}
}

// parts is the table, made once.
var parts = sync.OnceValue(func() []part { //nolint:gochecknoglobals // a table, never written
	isToken := func(s string) bool { return s != "" && len(s) <= 64 && visible(s) }
	isSubject := func(s string) bool { // as caveats are
		return s != "" && len(s) <= 128 && visible(strings.ReplaceAll(s, " ", ""))
	}
	rates := natural(1, 1e9)
	limit := func(name string, i int) part {
		return partOf(name, 1<<i, func(o *override) *wallet.Amount { return &o.caps[i] }, amount(), "the limit of that name")
	}
	half := func(name string, has termSet, field func(*override) *uint64) part {
		return partOf(name, has, field, rates, "the limit of that name")
	}
	return []part{
		partOf("token", 0, func(o *override) *string { return &o.token }, text("name", "1 to 64 visible ASCII characters", isToken), "id of the token"),
		partOf("subject", 0, func(o *override) *string { return &o.subject }, text("name", "1 to 128 printable ASCII characters", isSubject), "its `sub` caveat"),
		partOf("account", 0, func(o *override) *accounts { return &o.account }, spelled("name", "an account, or the beginning of one and *", parseAccounts, nil), "the account that pays; of an issue, the one that is paid"),
		partOf("asset", 0, func(o *override) *wallet.Asset { return &o.asset }, spelled("name", "an asset", parseAsset, nil), "what is paid"),
		partOf("route", 0, func(o *override) *wallet.Route { return &o.route }, choice([]wallet.Route{wallet.RouteBalance, wallet.RouteTx, wallet.RouteIssue, wallet.RouteTransfer, wallet.RouteBurn}, wallet.Route.String), "the route"),
		limit("max_amount_per_op", capAmount),
		limit("daily_ceiling", capDaily),
		limit("max_account_total", capTotal),
		half("subject_rate_per_second", hasSubjectRate, func(o *override) *uint64 { return &o.subjectRate.perSecond }),
		half("subject_burst", hasSubjectBurst, func(o *override) *uint64 { return &o.subjectRate.burst }),
		half("rate_per_second", hasRate, func(o *override) *uint64 { return &o.rate.perSecond }),
		half("rate_burst", hasBurst, func(o *override) *uint64 { return &o.rate.burst }),
	}
})

func parseAccounts(s string) (accounts, bool) {
	name, open := strings.CutSuffix(s, "*")
	account, err := wallet.ParseAccount(name)
	if open {
		return accounts{prefix: name}, err == nil
	}
	return accounts{one: account}, err == nil
}

func parseAsset(s string) (wallet.Asset, bool) {
	asset, err := wallet.ParseAsset(s)
	return asset, err == nil
}

func readOverride(item any) (o override, problem string) {
	members, ok := item.(object)
	if !ok {
		return o, shown(item) + " is not an object"
	}
	for _, m := range members {
		i := slices.IndexFunc(parts(), func(p part) bool { return p.name == m.name })
		if i < 0 {
			return o, host.Plain(m.name) + ": " + shown(m.value) + " is unknown: an override names any of token, subject, account, asset and route, and the limits that it changes"
		}
		p := &parts()[i]
		if problem := p.set(&o, m.value); problem != "" {
			return o, m.name + ": " + shown(m.value) + " " + problem
		}
		o.has |= p.has
	}
	return o, o.unfit()
}

// unfit says what members do not go together.
func (o *override) unfit() string {
	byWho, byWhat := o.byWho(), o.byWhat()
	both := func(a, b termSet) bool { return o.has&a != 0 == (o.has&b != 0) }
	switch {
	case o.has == 0:
		return "changes no limit"
	case !byWho && !byWhat && o.route == wallet.NoRoute:
		return "fits every request: change the limit itself"
	case !both(hasRate, hasBurst):
		return "rate_per_second and rate_burst go together"
	case !both(hasSubjectRate, hasSubjectBurst):
		return "subject_rate_per_second and subject_burst go together"
	case o.has&hasRate != 0 && (byWho || byWhat || o.has != hasRate|hasBurst):
		return "rate_per_second is judged before the token is read: it goes by the route alone, in an item of its own"
	case o.has&hasSubjectRate != 0 && byWhat:
		return "subject_rate_per_second is judged before the request is decoded: it goes by token, subject and route only"
	}
	return ""
}

// byWho reports whether the override goes by who asks.
func (o *override) byWho() bool { return o.token != "" || o.subject != "" }

// byWhat reports whether it goes by what a payment moves.
func (o *override) byWhat() bool {
	return !o.account.one.IsZero() || o.account.prefix != "" || !o.asset.IsZero()
}

// over says what is above the ceilings, and "" where nothing is.
func (s *Overrides) over(top *Limits) string {
	if s == nil {
		return ""
	}
	var problems []string
	for i := range s.list {
		o := &s.list[i]
		for _, f := range []struct {
			over bool
			name string
		}{
			{o.caps[capAmount].Cmp(top.MaxAmountPerOp) > 0, "max_amount_per_op"},
			{o.caps[capDaily].Cmp(top.DailyCeiling) > 0, "daily_ceiling"},
			{o.caps[capTotal].Cmp(top.MaxAccountTotal) > 0, "max_account_total"},
			{o.rate.perSecond > top.RatePerSecond, "rate_per_second"},
			{o.rate.burst > top.RateBurst, "rate_burst"},
			{o.subjectRate.perSecond > top.SubjectRate, "subject_rate_per_second"},
			{o.subjectRate.burst > top.SubjectBurst, "subject_burst"},
		} {
			if f.over {
				problems = append(problems, fmt.Sprintf("item %d: %s is over ceilings.%s", i+1, f.name, f.name))
			}
		}
	}
	return several(problems)
}
