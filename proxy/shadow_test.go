package proxy_test

import (
	"strings"
	"testing"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// watch sets shadow limits for the rest of the test, or until the next call.
func (r *rig) watch(f func(*config.Limits)) {
	r.limit(func(l *config.Limits) {
		shadow := *l
		f(&shadow)
		l.Shadow = &shadow
	})
}

// TestShadowed: a request over a shadow limit is served as if there were none, is counted once
// by each such limit, whatever becomes of it later, and its line in the log names them. Method:
// one watch at a time over TLS, by what the series say before and after.
func TestShadowed(t *testing.T) {
	r := newRig(t, rigOptions{})
	c := r.client()
	r.issueTo(c, "rich", 1000)
	nonce := uint64(0)
	pay := func(amount uint64) func() answer {
		return func() answer {
			nonce++
			return r.call(c, "POST", "/v1/transfer", r.transfer("rich", "x", amount, nonce))
		}
	}
	read := func() answer { return r.call(c, "GET", "/v1/balance?account=rich&asset=ron", "") }
	for _, tc := range []struct {
		name   string
		set    func(*config.Limits)
		do     func() answer
		status int
		want   string
	}{
		{"amount", func(l *config.Limits) { l.MaxAmountPerOp = wallet.Minor(9) }, pay(10), 200, "max_amount_per_op"},
		{"amount, and then too poor", func(l *config.Limits) { l.MaxAmountPerOp = wallet.Minor(9) }, pay(5000), 409, "max_amount_per_op"},
		{"amount, within", func(l *config.Limits) { l.MaxAmountPerOp = wallet.Minor(9) }, pay(9), 200, ""},
		{"the day's total", func(l *config.Limits) { l.DailyCeiling = wallet.Minor(20) }, pay(3), 200, "daily_ceiling"},
		{"the account's total", func(l *config.Limits) { l.MaxAccountTotal = wallet.Minor(20) }, pay(4), 200, "max_account_total"},
		{"body", func(l *config.Limits) { l.MaxBodyBytes = 20 }, pay(1), 200, "max_body_bytes"},
		{"revoked", func(l *config.Limits) { l.RevokedTokens = map[string]struct{}{"t1": {}} }, read, 200, "revoked_tokens"},
		{"key revoked", func(l *config.Limits) { l.RevokedKeys = map[string]struct{}{"k1": {}} }, read, 200, "revoked_keys"},
		{"rate", func(l *config.Limits) { l.RatePerSecond = 0 }, read, 200, "rate_per_second"},
		{"subject rate", func(l *config.Limits) { l.SubjectBurst = 1 }, read, 200, "subject_rate_per_second"},
		{"in flight, and two more", func(l *config.Limits) {
			l.InFlight, l.RatePerSecond, l.RevokedKeys = 0, 0, map[string]struct{}{"k1": {}}
		}, read, 200, "rate_per_second,inflight,revoked_keys"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before, mark := r.shadows(), len(r.logged.String())
			r.watch(tc.set)
			if a := tc.do(); a.status != tc.status {
				t.Fatalf("%d %s, want %d", a.status, a.body, tc.status)
			}
			r.eventually("the line", func() bool { return len(r.lines(mark)) == 1 })
			line, _ := r.lines(mark)[0]["shadow"].(string)
			if line != tc.want {
				t.Errorf("the log says %q, want %q", line, tc.want)
			}
			for limit, n := range r.shadows() {
				named := strings.Contains(","+tc.want+",", ","+limit+",")
				if counted := n != before[limit]; counted != named {
					t.Errorf("%s was %s and is %s", limit, before[limit], n)
				}
			}
		})
	}
}

// shadows is the series wallet_shadow_refusals_total by limit.
func (r *rig) shadows() map[string]string {
	r.t.Helper()
	all := map[string]string{}
	_, text := r.adminGet("/metrics")
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, `wallet_shadow_refusals_total{limit="`); ok {
			limit, value, _ := strings.Cut(rest, `"} `)
			all[limit] = strings.TrimSpace(value)
		}
	}
	if len(all) != 11 {
		r.t.Errorf("%d limits are counted: %v", len(all), all)
	}
	return all
}
