package config

import (
	"strings"
	"testing"

	"svc-wallet/wallet"
)

// TestShare reads every form of a share and holds it against parts per million, and reads back what
// is printed of it.
func TestShare(t *testing.T) {
	for _, v := range []struct {
		raw   any
		want  Fraction
		print string // "": refused
	}{
		{true, Always, "true"},
		{false, 0, "false"},
		{word("true"), Always, "true"},
		{word("false"), 0, "false"},
		{"100%", Always, "true"},
		{"100.0000%", Always, "true"},
		{"0%", 0, "false"},
		{"0.0000%", 0, "false"},
		{"0.0001%", 1, "0.0001%"},
		{"25%", 250_000, "25%"},
		{word("12.5%"), 125_000, "12.5%"},
		{"99.9999%", 999_999, "99.9999%"},
		{"5.0500%", 50_500, "5.05%"},
		{"100.0001%", 0, ""},
		{"999%", 0, ""},
		{"1000%", 0, ""},
		{"01%", 0, ""},
		{".5%", 0, ""},
		{"5.%", 0, ""},
		{"5.00000%", 0, ""},
		{"+5%", 0, ""},
		{"-5%", 0, ""},
		{" 5%", 0, ""},
		{"5 %", 0, ""},
		{"5", 0, ""},
		{"%", 0, ""},
		{"", 0, ""},
		{"true", 0, ""},
		{"５%", 0, ""},
		{word("on"), 0, ""},
		{int64(1), 0, ""},
		{jsonNumber("1"), 0, ""},
		{0.5, 0, ""},
		{nil, 0, ""},
		{[]any{true}, 0, ""},
		{object{}, 0, ""},
	} {
		f, problem := share().read(v.raw)
		if (problem == "") != (v.print != "") {
			t.Errorf("%#v: %s", v.raw, problem)
			continue
		}
		if v.print == "" {
			continue
		}
		if f != v.want || share().print(f) != v.print {
			t.Errorf("%#v is %d, %s, want %d, %s", v.raw, f, share().print(f), v.want, v.print)
		}
		if again, problem := share().read(word(v.print)); problem != "" || again != v.want {
			t.Errorf("%s reads back as %d %s", v.print, again, problem)
		}
	}
}

// TestFractionTakes draws from shares: none and all are exact; of the others 200,000 draws lie
// within six standard deviations, which a right share misses once in 500 million runs.
func TestFractionTakes(t *testing.T) {
	const draws = 200_000
	for _, v := range []struct {
		share         Fraction
		least, utmost int
	}{
		{0, 0, 0},
		{Always, draws, draws},
		{Always + 1, draws, draws},
		{1, 0, 7}, // 0.2 are expected; more than 7 come once in 10^10 runs
		{250_000, 50_000 - 1162, 50_000 + 1162},
		{500_000, 100_000 - 1342, 100_000 + 1342},
		{999_000, 199_800 - 85, 199_800 + 85},
	} {
		n := 0
		for range draws {
			if v.share.Takes() {
				n++
			}
		}
		if n < v.least || n > v.utmost {
			t.Errorf("a share of %d ppm takes %d of %d, want %d to %d", v.share, n, draws, v.least, v.utmost)
		}
	}
	if n := testing.AllocsPerRun(100, func() { Fraction(5).Takes() }); n != 0 {
		t.Errorf("Takes allocates %v times", n)
	}
}

// TestEnabled pushes switches and wants the share of each route: its own, of that of payments or
// reads. The zero limits let nothing through.
func TestEnabled(t *testing.T) {
	const all = Always
	for _, v := range []struct {
		push     string
		want     [wallet.NumRoutes]Fraction // none, balance, tx, issue, transfer, burn
		switched bool
	}{
		{`{}`, [wallet.NumRoutes]Fraction{0, all, all, all, all, all}, false},
		{`{"writes_enabled":false}`, [wallet.NumRoutes]Fraction{0, all, all, 0, 0, 0}, true},
		{`{"reads_enabled":false}`, [wallet.NumRoutes]Fraction{0, 0, 0, all, all, all}, true},
		{`{"issue_enabled":false}`, [wallet.NumRoutes]Fraction{0, all, all, 0, all, all}, true},
		{`{"burn_enabled":"25%"}`, [wallet.NumRoutes]Fraction{0, all, all, all, all, 250_000}, true},
		{`{"tx_enabled":"99.9999%"}`, [wallet.NumRoutes]Fraction{0, all, 999_999, all, all, all}, true},
		{`{"writes_enabled":"50%","transfer_enabled":"50%","balance_enabled":"1%","reads_enabled":true}`, [wallet.NumRoutes]Fraction{0, 10_000, all, 500_000, 250_000, 500_000}, true},
		{`{"reads_enabled":"0.0001%","tx_enabled":"50%"}`, [wallet.NumRoutes]Fraction{0, 1, 0, all, all, all}, true}, // less than a millionth is none
	} {
		l, err := parseLimits([]byte(v.push))
		if err != nil {
			t.Fatal(err)
		}
		for r := wallet.RouteBalance; r <= wallet.RouteBurn; r++ {
			if got := l.Enabled(r); got != v.want[r] {
				t.Errorf("%s: %s is let through at %d ppm, want %d", v.push, r, got, v.want[r])
			}
		}
		if l.Switched() != v.switched {
			t.Errorf("%s: Switched is %t", v.push, l.Switched())
		}
		if n := testing.AllocsPerRun(100, func() { l.Enabled(wallet.RouteBurn); l.Switched() }); n != 0 {
			t.Errorf("Enabled allocates %v times", n)
		}
	}
	var none Limits
	for r := wallet.RouteBalance; r <= wallet.RouteBurn; r++ {
		if none.Enabled(r).Takes() {
			t.Errorf("the zero limits let %s through", r)
		}
	}
}

// TestRouteNames checks that each route has a name, which an override may give, and that no other does.
func TestRouteNames(t *testing.T) {
	for r := range wallet.NumRoutes {
		for name, want := range map[string]bool{r.String(): r.String() != "", strings.ToUpper(r.String()): false} {
			_, err := ParsePush([]byte(`{"overrides":[{"route":"` + name + `","daily_ceiling":"1"}]}`))
			if (err == nil) != want {
				t.Errorf("route %d is named %q: %v", r, name, err)
			}
		}
	}
}
