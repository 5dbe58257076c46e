package filters

import (
	"net/netip"
	"strings"

	"svc-wallet/wallet"
)

// Grant is what a verified token permits: the meaning of its caveats (CONTRACT §3). It is
// immutable and shared by every request that carries the token. The zero value and nil grant
// nothing.
type Grant struct {
	KeyID     string        // which root key made it
	TokenID   string        // the minter's name for it
	MaxAmount wallet.Amount // most that one operation may move; 2^128-1 without the caveat
	Daily     wallet.Amount // most that a lane may move in one UTC day; 2^128-1 without the caveat

	subject  string     // sub, empty for none
	rateKey  string     // KeyID:TokenID
	actions  uint8      // bit 1<<op for each action that every `actions` caveat names
	acts     bool       // there is an `actions` caveat
	accounts []patterns // every list must cover the account; none grants nothing
	assets   []patterns // every list must cover the asset; none covers all
	nbf, exp int64      // valid while nbf <= now < exp, Unix seconds
	peers    []string   // the peer must be each of them
	nets     []netip.Prefix
}

// Subject names the holder in audit trails: the sub caveat, else the token id. It is no key for a
// limit, because whoever holds a token without sub may add one: that is RateKey's part.
func (g *Grant) Subject() string {
	if g.subject != "" {
		return g.subject
	}
	return g.TokenID
}

// RateKey is what a limit on the holder is counted under: `<key id>:<token id>`, the part of a
// token that no attenuation can change. Were it the subject, a holder could add `sub = 1`,
// `sub = 2` and so on to get a fresh bucket each, or name somebody else to drain theirs.
func (g *Grant) RateKey() string { return g.rateKey }

// AllowsAction reports whether the grant has the action at all.
func (g *Grant) AllowsAction(op wallet.Op) bool {
	return g != nil && g.actions&(1<<op) != 0
}

// coversSome reports whether the grant covers the action on any account at all.
func (g *Grant) coversSome(op wallet.Op) bool {
	return g.AllowsAction(op) && len(g.accounts) > 0
}

// Allows reports whether the grant covers the action on that balance. It does not allocate.
func (g *Grant) Allows(op wallet.Op, account wallet.Account, asset wallet.Asset) bool {
	if !g.AllowsAction(op) || asset.IsZero() || !g.allowsAccount(account) {
		return false
	}
	var buf [64]byte
	return coverAll(g.assets, asset.Append(buf[:0]))
}

// allowsAccount reports whether the grant covers the account in some asset.
func (g *Grant) allowsAccount(account wallet.Account) bool {
	if account.IsZero() || len(g.accounts) == 0 {
		return false
	}
	var buf [64]byte
	return coverAll(g.accounts, account.Append(buf[:0]))
}

// complete reports that there are the caveats without which a token grants nothing.
func (g *Grant) complete() bool { return g.acts && len(g.accounts) > 0 }

// patterns is one accounts or assets caveat as it stands in the token: items joined by commas,
// each a name or a prefix that ends in `*`. It stays one string and is walked when asked, because
// a table of its items would take twelve times the token's size in the cache.
type patterns string

func coverAll(lists []patterns, name []byte) bool {
	for _, list := range lists {
		if !list.cover(name) {
			return false
		}
	}
	return true
}

// commonTo says whether some name is in all lists. If one is, so is what a pattern of theirs begins with.
func commonTo(lists []patterns) bool {
	for _, list := range lists {
		for item := range strings.SplitSeq(string(list), ",") {
			if coverAll(lists, []byte(strings.TrimSuffix(item, "*"))) {
				return true
			}
		}
	}
	return false
}

func (p patterns) cover(name []byte) bool {
	for rest, more := string(p), true; more; {
		var item string
		item, rest, more = strings.Cut(rest, ",")
		prefix, open := strings.CutSuffix(item, "*")
		if string(name) == item || open && len(name) >= len(prefix) && string(name[:len(prefix)]) == prefix {
			return true
		}
	}
	return false
}
