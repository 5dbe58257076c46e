package proxy_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"svc-wallet/config"
)

// TestStrangersSpendNothingOfClients: however many requests come without a valid token, they take
// nothing from the bucket that clients share, and a token that is valid is served, also the first
// time that it comes. Method: a bucket of exactly as many tokens as there will be honest requests,
// a strangers' bucket of one, and strangers of every kind before each honest request.
func TestStrangersSpendNothingOfClients(t *testing.T) {
	const honest = 20
	r := newRig(t, rigOptions{env: []string{"SVC_WALLET_AUTH_STRANGERS_PER_SECOND=1"}})
	c := r.client()
	r.issueTo(c, "rich", 1)
	r.limit(func(l *config.Limits) { l.RatePerSecond, l.RateBurst = 1, honest })
	const path = "/v1/balance?account=rich&asset=ron"
	strangers := map[string]string{
		"none": "", "junk": "Bearer junk", "of another scheme": "Basic eDp5",
		"forged":  "Bearer " + strings.Replace(r.token, "A", "B", 1),
		"expired": "Bearer " + r.mint("exp = 1", "actions = read", "accounts = *", "assets = *"),
		"elsewhere": "Bearer " + r.mint("actions = read", "accounts = *", "assets = *",
			"cidr = 192.0.2.0/24"),
	}
	limited := 0
	for i := range honest {
		for kind, token := range strangers {
			switch a := r.call(c, "GET", path, "", "Authorization", token); a.status {
			case 401, 403:
			case 429:
				limited++
				if p := a.problem(t); p.Code != "RATE_LIMITED" || !strings.Contains(p.Message, "no valid token") || a.header.Get("X-RateLimit-Limit") != "1" {
					t.Fatalf("%s: %s %v", kind, a.body, a.header)
				}
			default:
				t.Fatalf("%s: %d %s", kind, a.status, a.body)
			}
		}
		fresh := r.mint("actions = read", "accounts = *", "assets = *", fmt.Sprintf("sub = client%d", i))
		if a := r.call(c, "GET", path, "", "Authorization", "Bearer "+fresh); a.status != 200 {
			t.Fatalf("honest request %d: %d %s", i, a.status, a.body)
		}
	}
	if limited == 0 {
		t.Error("no stranger was limited")
	}
	if got := r.metric("auth_strangers_limited_total"); got != strconv.Itoa(limited) {
		t.Errorf("%s counted, want %d", got, limited)
	}
}
