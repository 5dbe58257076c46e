package filters

import (
	"testing"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// pushed are limits as a control plane pushes them over the defaults.
func pushed(t testing.TB, text string) *config.Limits {
	t.Helper()
	push, err := config.ParsePush([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	static, err := config.Load(config.Sources{CPUs: 1, Env: []string{"SVC_WALLET_TLS_CERT_FILE=c", "SVC_WALLET_TLS_KEY_FILE=k", "SVC_WALLET_AUTH_ROOT_KEYS_FILE=r"}})
	if err != nil {
		t.Fatal(err)
	}
	live := new(config.Live)
	if err := config.NewStack(static, live).Set(config.LayerLimits, push, config.Origin{}); err != nil {
		t.Fatal(err)
	}
	return live.Load()
}

// TestSwitch: a switch keeps out its own routes and no others, with the reason for the client, and
// a share of a route is let through in that proportion. Method: a table of pushes, 2,000 draws
// each; 6 standard deviations are allowed, so one run in 500 million fails by chance.
func TestSwitch(t *testing.T) {
	const draws = 2000
	reads := []wallet.Route{wallet.RouteBalance, wallet.RouteTx}
	writes := []wallet.Route{wallet.RouteIssue, wallet.RouteTransfer, wallet.RouteBurn}
	for _, c := range []struct {
		push          string
		reads, writes float64 // share that passes
	}{
		{`{}`, 1, 1},
		{`{"writes_enabled":false}`, 1, 0},
		{`{"reads_enabled":false}`, 0, 1},
		{`{"writes_enabled":"25%"}`, 1, 0.25},
		{`{"writes_enabled":false,"reads_enabled":"50%"}`, 0.5, 0},
	} {
		l := pushed(t, c.push)
		for share, routes := range map[*float64][]wallet.Route{&c.reads: reads, &c.writes: writes} {
			for _, route := range routes {
				x := &Exchange{Request: Request{Route: route, Limits: l}}
				if code := (SwitchedOff{}).Check(x); (code == wallet.RetryLater) != (*share == 0) || (code == wallet.Pass) != (x.Detail == "") {
					t.Errorf("%s %v before its body: %v, detail %q", c.push, route, code, x.Detail)
				}
				passed := 0
				for range draws {
					x := &Exchange{Request: Request{Route: route, Limits: l}}
					code := Switch{}.Check(x)
					if code == wallet.Pass {
						passed++
					} else if code != wallet.RetryLater || x.Detail == "" {
						t.Fatalf("%s %v: %v, detail %q", c.push, route, code, x.Detail)
					}
				}
				variance := draws * *share * (1 - *share)
				if off := float64(passed) - draws**share; off*off > 36*variance {
					t.Errorf("%s: %d of %d on route %v, wanted the share %v", c.push, passed, draws, route, *share)
				}
			}
		}
	}
	for name, x := range map[string]*Exchange{
		"zero limits": {Request: Request{Route: wallet.RouteBalance, Limits: &config.Limits{}}},
		"no route":    {Request: Request{Limits: pushed(t, `{}`)}},
	} {
		if got := (Switch{}).Check(x); got != wallet.RetryLater {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestSwitchAllocations: a switch costs no allocation, on, off or in between. Method:
// testing.AllocsPerRun.
func TestSwitchAllocations(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	for _, push := range []string{`{}`, `{"reads_enabled":"50%"}`, `{"reads_enabled":false}`} {
		x := &Exchange{Request: Request{Route: wallet.RouteBalance, Limits: pushed(t, push)}}
		if n := testing.AllocsPerRun(1000, func() { Switch{}.Check(x) }); n != 0 {
			t.Errorf("%s: %v allocations", push, n)
		}
	}
}
