package filters_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	ref "gopkg.in/macaroon.v2"

	"svc-wallet/config"
	"svc-wallet/filters"
	"svc-wallet/filters/macaroon"
	"svc-wallet/wallet"
)

const (
	authSecond = int64(1e9)
	authNow    = 2_000_000_000 * authSecond // the tests' clock: 2033-05-18
	authExpiry = "exp = 2000000100"
)

// authKey is the root key of that id in these tests: the id's first byte, 32 times.
func authKey(id string) []byte { return []byte(strings.Repeat(id[:1], 32)) }

// tester is what the helpers need of a testing.TB or of rapid's T.
type tester interface {
	Helper()
	Fatal(args ...any)
}

// parseKeys makes a set of such keys.
func parseKeys(t tester, ids ...string) *filters.Keys {
	t.Helper()
	var file strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&file, "%s %s\n", id, hex.EncodeToString(authKey(id)))
	}
	keys, err := filters.ParseKeys(strings.NewReader(file.String()))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// mint makes a token under a key of that id, unchecked, so that bad ones can be made as well.
func mint(t tester, id string, keyID string, caveats ...string) []byte {
	t.Helper()
	data, err := macaroon.Mint(authKey(keyID), "svc-wallet", id, caveats...)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(macaroon.EncodeText(data))
}

func newTestAuth(t tester, entries int, keyIDs ...string) (*filters.Auth, *filters.KeyRing) {
	t.Helper()
	ring := new(filters.KeyRing)
	ring.Store(parseKeys(t, keyIDs...))
	return filters.NewAuth(ring, entries, 1e6), ring
}

func exchange(token []byte) *filters.Exchange {
	return &filters.Exchange{
		Request: filters.Request{
			Token:  token,
			Now:    authNow,
			Limits: &config.Limits{},
			Peer:   "spiffe://mesh/payer",
			Addr:   netip.MustParseAddr("10.1.2.3"),
		},
	}
}

// TestAuthStages produces every stage's refusal and the ways past it, by a table of tokens and
// callers; each is judged twice, so that a verdict from the cache is the same.
func TestAuthStages(t *testing.T) {
	const id = "v1:k1:t1"
	third := func() []byte {
		m, err := ref.New(authKey("k1"), []byte(id), "svc-wallet", ref.V2)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.AddThirdPartyCaveat([]byte("shared"), []byte("ask"), "there"); err != nil {
			t.Fatal(err)
		}
		data, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		return []byte(base64.URLEncoding.EncodeToString(data))
	}()
	good := mint(t, id, "k1", authExpiry)
	from := func(addr string) func(*filters.Exchange) {
		return func(x *filters.Exchange) { x.Addr = netip.MustParseAddr(addr) }
	}
	at := func(nanos int64) func(*filters.Exchange) {
		return func(x *filters.Exchange) { x.Now = nanos }
	}
	skewed := func(ahead, skew int64) func(*filters.Exchange) {
		return func(x *filters.Exchange) { x.Now, x.Skew = authNow+ahead*authSecond, skew*authSecond }
	}
	revoke := func(tokens, keys string) func(*filters.Exchange) {
		return func(x *filters.Exchange) {
			x.Limits = &config.Limits{RevokedTokens: map[string]struct{}{tokens: {}}, RevokedKeys: map[string]struct{}{keys: {}}}
		}
	}
	peer := func(name string) func(*filters.Exchange) {
		return func(x *filters.Exchange) { x.Peer = name }
	}
	const ok = filters.NumAuthStages
	for _, c := range []struct {
		why   string
		token []byte
		set   func(*filters.Exchange)
		want  filters.AuthStage
	}{
		{"good", good, nil, ok},
		{"padded", []byte(pad(good)), nil, ok},
		{"no token", nil, nil, filters.StageMissing},
		{"empty token", []byte{}, nil, filters.StageMissing},
		{"not base64url", []byte("not a token"), nil, filters.StageDecode},
		{"not a macaroon", []byte("bm9uc2Vuc2U"), nil, filters.StageDecode},
		{"over 4 KiB", []byte(strings.Repeat("A", macaroon.MaxText+1)), nil, filters.StageDecode},
		{"identifier of another kind", mint(t, "alice", "k1", authExpiry), nil, filters.StageDecode},
		{"identifier of version 2", mint(t, "v2:k1:t1", "k1", authExpiry), nil, filters.StageDecode},
		{"identifier without a token id", mint(t, "v1:k1", "k1", authExpiry), nil, filters.StageDecode},
		{"identifier with an empty id", mint(t, "v1:k1:", "k1", authExpiry), nil, filters.StageDecode},
		{"identifier with a fourth part", mint(t, "v1:k1:t1:x", "k1", authExpiry), nil, filters.StageDecode},
		{"identifier with an id of 65", mint(t, "v1:k1:"+strings.Repeat("t", 65), "k1", authExpiry), nil, filters.StageDecode},
		{"key that is not there", mint(t, "v1:x9:t1", "x9", authExpiry), nil, filters.StageKey},
		{"key of another id", mint(t, "v1:k1:t1", "x9", authExpiry), nil, filters.StageSignature},
		{"third-party caveat", third, nil, filters.StageCaveat},
		{"no exp", mint(t, id, "k1", "actions = read"), nil, filters.StageCaveat},
		{"unknown caveat", mint(t, id, "k1", authExpiry, "colour = red"), nil, filters.StageCaveat},
		{"two subs", mint(t, id, "k1", authExpiry, "sub = alice", "sub = bob"), nil, filters.StageCaveat},
		{"one sub twice", mint(t, id, "k1", authExpiry, "sub = alice", "sub = alice"), nil, ok},
		{"our audience", mint(t, id, "k1", authExpiry, "aud = svc-wallet"), nil, ok},
		{"another audience", mint(t, id, "k1", authExpiry, "aud = svc-other"), nil, filters.StageAudience},
		{"both audiences", mint(t, id, "k1", authExpiry, "aud = svc-wallet", "aud = svc-other"), nil, filters.StageAudience},
		{"token revoked", good, revoke("t1", "other"), filters.StageRevoked},
		{"key revoked", good, revoke("other", "k1"), filters.StageRevoked},
		{"others revoked", good, revoke("k1", "t1"), ok},
		{"a nanosecond before nbf", mint(t, id, "k1", authExpiry, "nbf = 2000000000"), at(authNow - 1), filters.StageNotYet},
		{"at nbf", mint(t, id, "k1", authExpiry, "nbf = 2000000000"), nil, ok},
		{"latest nbf holds", mint(t, id, "k1", authExpiry, "nbf = 2000000001", "nbf = 1"), nil, filters.StageNotYet},
		{"a nanosecond before exp", good, at(2000000100*authSecond - 1), ok},
		{"the clock was 400 days ahead and is right again", good, skewed(400*24*3600, -400*24*3600), ok},
		{"expired by the time of day", good, skewed(0, 100), filters.StageExpired},
		{"at exp", good, at(2000000100 * authSecond), filters.StageExpired},
		{"earliest exp holds", mint(t, id, "k1", "exp = 1999999999", authExpiry), nil, filters.StageExpired},
		{"its peer", mint(t, id, "k1", authExpiry, "peer = spiffe://mesh/payer"), nil, ok},
		{"another peer", mint(t, id, "k1", authExpiry, "peer = spiffe://mesh/other"), nil, filters.StagePeer},
		{"no peer", mint(t, id, "k1", authExpiry, "peer = spiffe://mesh/payer"), peer(""), filters.StagePeer},
		{"two peers", mint(t, id, "k1", authExpiry, "peer = spiffe://mesh/payer", "peer = spiffe://mesh/other"), nil, filters.StagePeer},
		{"its network", mint(t, id, "k1", authExpiry, "cidr = 10.0.0.0/8"), nil, ok},
		{"its network, mapped", mint(t, id, "k1", authExpiry, "cidr = 10.0.0.0/8"), from("::ffff:10.1.2.3"), ok},
		{"its network, with a zone", mint(t, id, "k1", authExpiry, "cidr = fe80::/10"), from("fe80::1%eth0"), ok},
		{"another network", mint(t, id, "k1", authExpiry, "cidr = 192.168.0.0/16"), nil, filters.StageCIDR},
		{"no address", mint(t, id, "k1", authExpiry, "cidr = 0.0.0.0/0"), func(x *filters.Exchange) { x.Addr = netip.Addr{} }, filters.StageCIDR},
		{"both networks", mint(t, id, "k1", authExpiry, "cidr = 10.0.0.0/8", "cidr = 10.1.0.0/16"), nil, ok},
		{"one network of two", mint(t, id, "k1", authExpiry, "cidr = 10.0.0.0/8", "cidr = 10.2.0.0/16"), nil, filters.StageCIDR},
	} {
		auth, _ := newTestAuth(t, 8, "k1")
		for _, time := range []string{"first", "again"} {
			x := exchange(c.token)
			if c.set != nil {
				c.set(x)
			}
			code := auth.Check(x)
			switch {
			case c.want == ok:
				if code != wallet.Pass || x.Grant == nil || x.Grant.TokenID != "t1" || x.Grant.KeyID != "k1" {
					t.Errorf("%s, %s: %v, grant %+v, want OK", c.why, time, code, x.Grant)
				}
			case x.Grant != nil || x.Detail == "" || auth.Failures[c.want].Load() == 0:
				t.Errorf("%s, %s: %v (%s), want a refusal in stage %v", c.why, time, code, x.Detail, c.want)
			case (c.want == filters.StagePeer || c.want == filters.StageCIDR) != (code == wallet.Forbidden):
				t.Errorf("%s, %s: %v in stage %v", c.why, time, code, c.want)
			case code != wallet.Forbidden && code != wallet.Unauthorized:
				t.Errorf("%s, %s: %v", c.why, time, code)
			}
		}
	}
}

func pad(token []byte) string {
	return string(token) + strings.Repeat("=", (4-len(token)%4)%4)
}

// TestAuthStageNames shows that every stage has a metric label of its own, by listing them.
func TestAuthStageNames(t *testing.T) {
	var names []string
	for s := range filters.NumAuthStages {
		names = append(names, s.String())
	}
	want := "missing decode key signature caveat audience revoked not_yet expired certificate peer cidr"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("stages are %q, want %q", got, want)
	}
	if filters.NumAuthStages.String() != "none" {
		t.Error("what is no stage has a name")
	}
}

// TestAuthCache shows when a verdict is taken from the cache: for 30 s, under the same keys, and
// only if the token verified; by the counters of hits and misses.
func TestAuthCache(t *testing.T) {
	auth, ring := newTestAuth(t, 8, "k1")
	token := mint(t, "v1:k1:t1", "k1", authExpiry)
	forged := mint(t, "v1:k1:t1", "x", authExpiry)
	check := func(what string, token []byte, now int64, want wallet.Code, hit bool) {
		t.Helper()
		hits, misses := auth.Hits.Load(), auth.Misses.Load()
		x := exchange(token)
		x.Now = now
		if code := auth.Check(x); code != want {
			t.Errorf("%s: %v, want %v", what, code, want)
		}
		if (auth.Hits.Load() == hits+1) != hit || (auth.Misses.Load() == misses+1) == hit {
			t.Errorf("%s: hit is not %v", what, hit)
		}
	}
	check("first", token, authNow, wallet.Pass, false)
	check("within 30 s", token, authNow+30*authSecond-1, wallet.Pass, true)
	check("after 30 s", token, authNow+30*authSecond, wallet.Pass, false)
	check("forged", forged, authNow, wallet.Unauthorized, false)
	check("forged again", forged, authNow, wallet.Unauthorized, false)
	check("expired since", token, authNow+50*authSecond, wallet.Pass, true)
	ring.Store(parseKeys(t, "x2", "k1"))
	check("other keys, its own among them", token, authNow, wallet.Pass, false)
	check("the same keys again", token, authNow, wallet.Pass, true)
	ring.Store(parseKeys(t, "x2"))
	check("its key gone", token, authNow, wallet.Unauthorized, false)
	ring.Store(nil)
	check("no keys", token, authNow, wallet.Unauthorized, false)
}

// TestAuthCacheBound shows that the cache keeps no more tokens than it was made for, replaces the
// oldest first, and that a flood of junk evicts nobody; by counting hits.
func TestAuthCacheBound(t *testing.T) {
	auth, _ := newTestAuth(t, 8, "k1")
	pass := func(tokens [][]byte, now int64) (hits uint64) {
		before := auth.Hits.Load()
		for _, token := range tokens {
			x := exchange(token)
			x.Now = now
			auth.Check(x)
		}
		return auth.Hits.Load() - before
	}
	tokens := make([][]byte, 9)
	for i := range tokens {
		tokens[i] = mint(t, fmt.Sprintf("v1:k1:t%d", i), "k1", authExpiry)
		pass(tokens[i:i+1], authNow+int64(i))
	}
	if hits := pass(tokens[1:], authNow); hits != 8 {
		t.Errorf("%d hits of the 8 youngest tokens", hits)
	}
	var junk [][]byte
	for i := range 500 {
		junk = append(junk, mint(t, fmt.Sprintf("v1:k1:j%d", i), "forger", authExpiry))
	}
	pass(junk, authNow)
	if hits := pass(tokens[1:], authNow); hits != 8 {
		t.Errorf("%d hits of 8 after a flood of junk", hits)
	}
	if hits := pass(tokens[:1], authNow); hits != 0 {
		t.Error("nine tokens in eight places")
	}
	none, _ := newTestAuth(t, 0, "k1")
	if x := exchange(tokens[0]); none.Check(x) != wallet.Pass {
		t.Error("a cache of no size does not verify")
	}
}

// TestAuthAllocations shows that a cached token and a forged one cost no memory.
func TestAuthAllocations(t *testing.T) {
	auth, _ := newTestAuth(t, 64, "k1")
	good := exchange(mint(t, "v1:k1:t1", "k1", authExpiry, "peer = spiffe://mesh/payer", "cidr = 10.0.0.0/8",
		"actions = read", "accounts = team_*,acc_1", "assets = ron"))
	good.Op = wallet.Read
	good.Balance = wallet.BalanceKey{Account: wallet.Must(wallet.ParseAccount("acc_1")), Asset: wallet.Must(wallet.ParseAsset("ron"))}
	if n := testing.AllocsPerRun(200, func() {
		if auth.Check(good) != wallet.Pass || (filters.Scope{}).Check(good) != wallet.Pass {
			t.Fatal(good.Detail)
		}
	}); n != 0 {
		t.Errorf("a hit allocates %v times", n)
	}
	forged := exchange(mint(t, "v1:k1:t1", "x", authExpiry))
	if n := testing.AllocsPerRun(200, func() {
		if auth.Check(forged) != wallet.Unauthorized {
			t.Fatal("forged token passes")
		}
	}); n != 0 {
		t.Errorf("a forged token allocates %v times", n)
	}
}

// TestAuthRotation shows that a cached verdict never outlives its key, by readers that keep two
// tokens in the cache while the key ring changes under them; the race detector watches.
func TestAuthRotation(t *testing.T) {
	auth, ring := newTestAuth(t, 16, "a", "b")
	sets := []*filters.Keys{parseKeys(t, "a"), parseKeys(t, "b"), parseKeys(t, "b", "a")}
	tokens := map[string][]byte{
		"a": mint(t, "v1:a:t", "a", authExpiry),
		"b": mint(t, "v1:b:t", "b", authExpiry),
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				for id, token := range tokens {
					x := exchange(token)
					if code := auth.Check(x); code == wallet.Pass && x.Grant.KeyID != id || code != wallet.Pass && code != wallet.Unauthorized {
						t.Errorf("token of key %s: %v, %+v", id, code, x.Grant)
						return
					}
				}
			}
		})
	}
	for i := range 2000 {
		keys := sets[i%len(sets)]
		ring.Store(keys)
		for id, token := range tokens {
			want := wallet.Pass
			if name := fmt.Sprint([]string{"a", "b", "ba"}[i%len(sets)]); !strings.Contains(name, id) {
				want = wallet.Unauthorized
			}
			if code := auth.Check(exchange(token)); code != want {
				t.Fatalf("round %d, keys %d: token of key %s is %v, want %v", i, i%len(sets), id, code, want)
			}
		}
	}
	close(done)
	readers.Wait()
}

// TestStrangersBucket: what authentication refuses draws on one bucket, and is RateLimited where
// that is empty; what it lets through draws on none and is never refused for it, cached or not; and
// the zero value tells strangers nothing. Method: a script on an injected clock.
func TestStrangersBucket(t *testing.T) {
	ring := new(filters.KeyRing)
	ring.Store(parseKeys(t, "k1"))
	auth := filters.NewAuth(ring, 8, 2)
	good := func(id string) []byte {
		return mint(t, "v1:k1:"+id, "k1", authExpiry, "actions = read", "accounts = *")
	}
	expired := mint(t, "v1:k1:old", "k1", "exp = 1", "actions = read", "accounts = *")
	for i, step := range []struct {
		token []byte
		after int64 // ns
		want  wallet.Code
	}{
		{nil, 0, wallet.Unauthorized},
		{good("t1"), 0, wallet.Pass},
		{expired, 0, wallet.Unauthorized},
		{[]byte("junk"), 0, wallet.RateLimited},
		{expired, 0, wallet.RateLimited},
		{good("t1"), 0, wallet.Pass}, // cached
		{good("t2"), 0, wallet.Pass}, // never seen
		{nil, 5e8, wallet.Unauthorized},
		{nil, 5e8, wallet.RateLimited},
	} {
		x := exchange(step.token)
		x.Now += step.after
		if got := auth.Check(x); got != step.want || (x.RateLimit.Limit == 2) != (got == wallet.RateLimited) {
			t.Errorf("step %d: %v %+v, want %v", i, got, x.RateLimit, step.want)
		}
	}
	if got := auth.Limited.Load(); got != 3 {
		t.Errorf("%d limited, want 3", got)
	}
	if got := new(filters.Auth).Check(exchange(nil)); got != wallet.RateLimited {
		t.Errorf("the zero value says %v", got)
	}
}

// gone is a caller whose connection has been closed.
type gone struct{ asked int }

func (g *gone) Prove() bool { g.asked++; return false }

// TestAuthOfClosedConnection: a valid token is told to the connection that it came on, and where that
// has been closed nothing is begun; a token that does not stand is told to nobody. Method: both.
func TestAuthOfClosedConnection(t *testing.T) {
	auth, _ := newTestAuth(t, 8, "k1")
	caller := new(gone)
	x := exchange(nil)
	x.Caller = caller
	if got := auth.Check(x); got != wallet.Unauthorized || caller.asked != 0 {
		t.Errorf("no token: %v, the connection heard %d times", got, caller.asked)
	}
	x = exchange(mint(t, "v1:k1:t1", "k1", authExpiry, "actions = read", "accounts = *"))
	x.Caller = caller
	if got := auth.Check(x); got != wallet.RetryLater || caller.asked != 1 || x.Grant != nil {
		t.Errorf("a valid token: %v, the connection heard %d times", got, caller.asked)
	}
}

// BenchmarkAuth measures a token that is in the cache, from two goroutines too, against one that
// is verified anew and against gopkg.in/macaroon.v2.
func BenchmarkAuth(b *testing.B) {
	caveats := []string{"aud = svc-wallet", authExpiry, "actions = read,transfer", "accounts = acc_1,team_*", "assets = ron"}
	token := mint(b, "v1:k1:t1", "k1", caveats...)
	auth, ring := newTestAuth(b, 1024, "k1")
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		for x := exchange(token); b.Loop(); {
			auth.Check(x)
		}
	})
	b.Run("hit-parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for x := exchange(token); pb.Next(); {
				auth.Check(x)
			}
		})
	})
	b.Run("miss", func(b *testing.B) {
		b.ReportAllocs()
		keys := parseKeys(b, "k1")
		for x := exchange(token); b.Loop(); {
			same := *keys // another set of equal keys, so nothing cached counts
			ring.Store(&same)
			auth.Check(x)
		}
	})
	b.Run("forged", func(b *testing.B) { // the dearest junk: the right key's id, 16 caveats, 4 KiB
		b.ReportAllocs()
		var long []string
		for i := range macaroon.MaxCaveats {
			long = append(long, fmt.Sprintf("accounts = %d%s", i, strings.Repeat("a", 220)))
		}
		junk := mint(b, "v1:k1:t1", "x", long...)
		for x := exchange(junk); b.Loop(); {
			if auth.Check(x) == wallet.Pass {
				b.Fatal("taken")
			}
		}
	})
	b.Run("miss-macaroon.v2", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			data, err := ref.Base64Decode(token)
			if err != nil {
				b.Fatal(err)
			}
			var m ref.Macaroon
			if m.UnmarshalBinary(data) != nil || m.Verify(authKey("k1"), func(string) error { return nil }, nil) != nil {
				b.Fatal("refused")
			}
		}
	})
}
