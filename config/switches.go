package config

import (
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
)

// Route is a wallet route, as limits name it.
type Route uint8

// The routes. RouteNone is none of them: health and what is not found.
const (
	RouteNone Route = iota
	RouteBalance
	RouteTx
	RouteIssue
	RouteTransfer
	RouteBurn
	NumRoutes
)

// String is the route's name in settings and pushes; "" for RouteNone.
func (r Route) String() string {
	return [NumRoutes]string{
		RouteBalance: "balance", RouteTx: "tx", RouteIssue: "issue", RouteTransfer: "transfer", RouteBurn: "burn",
	}[r]
}

// writes says whether the route's requests are payments.
func (r Route) writes() bool { return r >= RouteIssue }

// routeNamed returns RouteNone for a name that is no route's.
func routeNamed(name string) Route {
	for r := RouteBalance; r < NumRoutes; r++ {
		if r.String() == name {
			return r
		}
	}
	return RouteNone
}

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
func (l *Limits) Enabled(r Route) Fraction {
	if r.writes() {
		return l.RouteEnabled[r].of(l.WritesEnabled)
	}
	return l.RouteEnabled[r].of(l.ReadsEnabled)
}

// Switched reports whether a switch keeps any request out.
func (l *Limits) Switched() bool {
	for r := RouteBalance; r < NumRoutes; r++ {
		if l.Enabled(r) < Always {
			return true
		}
	}
	return false
}

// share is a field that holds a Fraction: on, off, or a percentage.
type share struct{ field *Fraction }

func (s share) set(raw any) string {
	switch raw {
	case true, word("true"):
		*s.field = Always
		return ""
	case false, word("false"):
		*s.field = 0
		return ""
	}
	text, _ := letters(raw)
	f, ok := parsePercent(text)
	if !ok {
		return "is not " + s.allowed()
	}
	*s.field = f
	return ""
}

// percent matches a percentage of at most four decimals, which is exact in parts per million.
var percent = regexp.MustCompile(`^(0|[1-9][0-9]{0,2})(?:\.([0-9]{1,4}))?%$`)

func parsePercent(text string) (Fraction, bool) {
	m := percent.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(m[1]+(m[2] + "0000")[:4], 10, 32)
	return Fraction(n), err == nil && n <= uint64(Always)
}

func (s share) from(o value) { *s.field = *o.(share).field } //nolint:forcetypeassert // of the same row

func (s share) String() string {
	switch f := *s.field; f {
	case Always:
		return "true"
	case 0:
		return "false"
	default:
		whole, part := strconv.Itoa(int(f/10_000)), strconv.Itoa(int(f%10_000) + 10_000)[1:]
		return strings.TrimSuffix(whole+"."+strings.TrimRight(part, "0"), ".") + "%"
	}
}

func (share) kind() string { return "share" }
func (share) allowed() string {
	return "true, false or a percentage of at most four decimals such as 25%"
}
