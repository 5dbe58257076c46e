package config

import (
	"cmp"
	"fmt"
	"strings"

	"svc-wallet/wallet"
)

// overrides is a field that holds exceptions. As a word they stand as JSON.
type overrides struct{ field **Overrides }

func (v overrides) set(raw any) string {
	if w, isWord := raw.(word); isWord {
		parsed, err := readValue([]byte(cmp.Or(w, "[]")))
		if err != nil {
			return "is not " + v.allowed() + ": " + oneLine(err)
		}
		raw = parsed
	}
	items, ok := raw.([]any)
	if !ok || len(items) > maxOverrides {
		return "is not " + v.allowed()
	}
	s, problem := newOverrides(items)
	if problem == "" {
		*v.field = s
	}
	return problem
}

func (v overrides) from(o value) { *v.field = *o.(overrides).field } //nolint:forcetypeassert // of the same row

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

// newOverrides reads exceptions; none at all are nil.
func newOverrides(items []any) (s *Overrides, problem string) {
	if len(items) == 0 {
		return nil, ""
	}
	s = &Overrides{caps: newLookup(), subjectRates: newLookup()}
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
func several(problems []string) string { return cutText(strings.Join(problems, "; "), 2000) }

func newLookup() lookup {
	return lookup{
		bySubject: map[string][]int{}, byToken: map[string][]int{},
		byAccount: map[wallet.Account][]int{}, byAsset: map[wallet.Asset][]int{},
	}
}

// add takes one exception, and indexes it by what it changes.
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

// add notes where an exception is, by the rarest thing that it names.
func (x *lookup) add(o *override, at int) (problem string) {
	var alike int
	var what string
	switch {
	case o.subject != "":
		alike, what = put(x.bySubject, o.subject, at), "the same subject"
	case o.token != "":
		alike, what = put(x.byToken, o.token, at), "the same token"
	case !o.account.IsZero():
		alike, what = put(x.byAccount, o.account, at), "the same account"
	case !o.asset.IsZero():
		alike, what = put(x.byAsset, o.asset, at), "the same asset, and neither token, subject nor whole account"
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
func put[K comparable](index map[K][]int, key K, at int) int {
	index[key] = append(index[key], at)
	return len(index[key])
}

func readOverride(item any) (o override, problem string) {
	members, ok := asObject(item)
	if !ok {
		return o, shown(item) + " is not an object"
	}
	seen := map[string]bool{}
	for _, m := range members {
		if seen[m.name] {
			return o, plain(m.name) + " is there twice"
		}
		seen[m.name] = true
		if problem := o.member(m); problem != "" {
			return o, plain(m.name) + ": " + shown(m.value) + " " + problem
		}
	}
	return o, o.unfit()
}

// limit is the member of an exception that changes the limit of that name, bound to o.
func (o *override) limit(name string) (value, termSet) {
	lowest, highest := wallet.Minor(1), wallet.MaxAmount()
	switch name {
	case "max_amount_per_op":
		return amount(&o.caps.MaxAmountPerOp, lowest, highest), hasAmount
	case "daily_ceiling":
		return amount(&o.caps.DailyCeiling, lowest, highest), hasDaily
	case "max_account_total":
		return amount(&o.caps.MaxAccountTotal, lowest, highest), hasTotal
	case "rate_per_second":
		return natural(&o.rate.perSecond, 1, 1e9), hasRate
	case "rate_burst":
		return natural(&o.rate.burst, 1, 1e9), hasBurst
	case "subject_rate_per_second":
		return natural(&o.subjectRate.perSecond, 1, 1e9), hasSubjectRate
	case "subject_burst":
		return natural(&o.subjectRate.burst, 1, 1e9), hasSubjectBurst
	default:
		return nil, 0
	}
}

// member reads one member of an exception.
func (o *override) member(m member) (problem string) {
	if v, has := o.limit(m.name); has != 0 {
		o.has |= has
		return v.set(m.value)
	}
	s, _ := m.value.(string)
	var fits bool
	switch m.name {
	case "token":
		o.token, fits = s, s != "" && len(s) <= 64 && visible(s)
	case "subject": // as caveats are: printable ASCII
		o.subject, fits = s, s != "" && len(s) <= 128 && visible(strings.ReplaceAll(s, " ", ""))
	case "account":
		name, open := strings.CutSuffix(s, "*")
		account, err := wallet.ParseAccount(name)
		if fits = err == nil; open {
			o.accountPrefix = name
		} else {
			o.account = account
		}
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
		return "is no " + m.name
	}
	return ""
}

// unfit says what members do not go together.
func (o *override) unfit() string {
	byWho := o.token != "" || o.subject != ""
	byWhat := !o.account.IsZero() || o.accountPrefix != "" || !o.asset.IsZero()
	both := func(a, b termSet) bool { return o.has&a != 0 == (o.has&b != 0) }
	switch {
	case o.has == 0:
		return "changes no limit"
	case !byWho && !byWhat && o.route == RouteNone:
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
			{o.caps.MaxAmountPerOp.Cmp(top.MaxAmountPerOp) > 0, "max_amount_per_op"},
			{o.caps.DailyCeiling.Cmp(top.DailyCeiling) > 0, "daily_ceiling"},
			{o.caps.MaxAccountTotal.Cmp(top.MaxAccountTotal) > 0, "max_account_total"},
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
