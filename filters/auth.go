package filters

import (
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"

	"lukechampine.com/blake3"

	"svc-wallet/config"
	"svc-wallet/filters/macaroon"
	"svc-wallet/wallet"
)

// AuthStage is where a token was refused.
type AuthStage uint8

// The stages, in the order in which they judge. The first four know nothing of the sender yet.
const (
	StageMissing     AuthStage = iota // no token
	StageDecode                       // not a macaroon of ours
	StageKey                          // no such root key
	StageSignature                    // not made by that key
	StageCaveat                       // carries what is not understood, or no exp
	StageAudience                     // for another service
	StageRevoked                      // token or key is on the revocation list
	StageNotYet                       // before nbf
	StageExpired                      // at or after exp
	StageCertificate                  // the client certificate has ended, or its CA was withdrawn
	StagePeer                         // another client certificate, or none
	StageCIDR                         // from another network
	NumAuthStages
)

// passed is what the stages return when none refused.
const passed = NumAuthStages

// authStages gives each stage its metric label, its answer and its word to the client. Until the
// signature stands, the word is the same: it is no help in guessing.
//
// A peer or network that does not fit is FORBIDDEN: the token is good, but does not cover this
// caller (CONTRACT §1 says so of the peer, and a network is the same kind of thing).
var authStages = [NumAuthStages]struct { //nolint:gochecknoglobals // a table
	name   string
	code   wallet.Code
	detail string
}{
	StageMissing:     {"missing", wallet.Unauthorized, "a bearer token is required"},
	StageDecode:      {"decode", wallet.Unauthorized, "the token does not verify"},
	StageKey:         {"key", wallet.Unauthorized, "the token does not verify"},
	StageSignature:   {"signature", wallet.Unauthorized, "the token does not verify"},
	StageCaveat:      {"caveat", wallet.Unauthorized, "the token carries a caveat that is not understood, or lacks exp"},
	StageAudience:    {"audience", wallet.Unauthorized, "the token is for another audience"},
	StageRevoked:     {"revoked", wallet.Unauthorized, "the token is revoked"},
	StageNotYet:      {"not_yet", wallet.Unauthorized, "the token is not yet valid"},
	StageExpired:     {"expired", wallet.Unauthorized, "the token has expired"},
	StageCertificate: {"certificate", wallet.Forbidden, "the client certificate is no longer valid: connect anew"},
	StagePeer:        {"peer", wallet.Forbidden, "the capability is not for this client certificate"},
	StageCIDR:        {"cidr", wallet.Forbidden, "the capability is not for this network"},
}

// String is the stage's label in auth_failures_total.
func (s AuthStage) String() string {
	if s >= NumAuthStages {
		return "none"
	}
	return authStages[s].name
}

// Auth verifies the bearer token and sets the exchange's grant. What follows from the token's
// bytes and the root keys alone is cached; time, peer, network and revocation are judged anew on
// every request. A hit allocates nothing, and neither does a token that no key of ours made.
//
// What it refuses draws on the strangers' bucket, which nobody else draws on. Where that is empty
// the answer is RateLimited: refusing goes on, telling why does not. The bucket comes after the
// verdict, so that no flood of strangers can refuse a valid token, not even one that comes for the
// first time (docs/decisions/027-strangers-pay-for-themselves.md).
type Auth struct {
	ring      *KeyRing
	cache     grantCache
	perSecond uint64 // of strangers, and their burst
	strangers slot

	Hits, Misses atomic.Uint64
	Failures     [NumAuthStages]atomic.Uint64
	Limited      atomic.Uint64 // of the failures, those that found the strangers' bucket empty
}

// NewAuth makes the filter, with a cache of at most that many tokens (rounded up to a multiple of
// 8), each of which takes 0.7 KiB, or up to 6 KiB if its caveats fill the 4 KiB that they may.
// strangersPerSecond is how many requests a second are told why their token does not stand.
func NewAuth(ring *KeyRing, entries int, strangersPerSecond uint64) *Auth {
	return &Auth{ring: ring, cache: newGrantCache(entries), perSecond: strangersPerSecond}
}

// Check answers Unauthorized where the token does not stand, Forbidden where it does but not for
// this peer or network, and RateLimited in the place of both where there are too many of them.
func (a *Auth) Check(x *Exchange) wallet.Code {
	again := x.Grant != nil // its head has passed, and is judged once more now that its body is there
	x.Grant = nil
	g, stage := a.authenticate(x, again)
	if stage == passed {
		stage = g.judge(x)
	}
	if stage != passed {
		return a.refuse(x, stage)
	}
	if x.Caller != nil && !x.Caller.Prove() {
		return wallet.RetryLater // which reaches nobody
	}
	x.Grant = g
	return wallet.Pass
}

// limitedDetail tells an honest client among many strangers that waiting does not help it.
const limitedDetail = "the request has no valid token, and there are too many of that kind"

// refuse answers a request whose token does not stand, out of the strangers' bucket.
func (a *Auth) refuse(x *Exchange, stage AuthStage) wallet.Code {
	a.Failures[stage].Add(1)
	x.Stage = stage.String()
	var ok bool
	if x.RateLimit, ok = a.strangers.take(a.perSecond, a.perSecond, x.Now, nil); !ok {
		a.Limited.Add(1)
		return x.Refuse(wallet.RateLimited, limitedDetail)
	}
	return x.Refuse(authStages[stage].code, authStages[stage].detail)
}

// Shadow implements Shadower.
func (*Auth) Shadow(x *Exchange, l *config.Limits) (over ShadowSet) {
	token, key := x.Grant.revoked(l)
	over.set(ShadowTokens, token)
	over.set(ShadowKeys, key)
	return over
}

// revoked says whether l takes back the grant's token, or all that its root key made.
func (g *Grant) revoked(l *config.Limits) (token, key bool) {
	_, token = l.RevokedTokens[g.TokenID]
	_, key = l.RevokedKeys[g.KeyID]
	return token, key
}

// authenticate finds what the token grants, from the cache or by verifying it. Only what verified
// is kept: junk would otherwise push good tokens out, and refusing junk again is cheap. A request that
// is looked at again is not counted again.
func (a *Auth) authenticate(x *Exchange, again bool) (*Grant, AuthStage) {
	if len(x.Token) == 0 {
		return nil, StageMissing
	}
	if len(x.Token) > macaroon.MaxText {
		return nil, StageDecode
	}
	keys := a.ring.Load() // once, so that the verdict and its place in the cache agree
	sum := blake3.Sum256(x.Token)
	if g := a.cache.get(&sum, keys, x.Now); g != nil {
		if !again {
			a.Hits.Add(1)
		}
		return g, passed
	}
	if !again {
		a.Misses.Add(1)
	}
	g, stage := verifyToken(x.Token, keys)
	if stage == passed {
		a.cache.put(&cachedGrant{sum: sum, keys: keys, until: x.Now + grantTTL, Grant: *g})
	}
	return g, stage
}

// verifyToken reads a caveat only after the signature over it stands.
func verifyToken(text []byte, keys *Keys) (*Grant, AuthStage) {
	var buf [macaroon.MaxSize]byte
	data, err := macaroon.DecodeText(buf[:], text)
	if err != nil {
		return nil, StageDecode
	}
	v, err := macaroon.Decode(data)
	if err != nil {
		return nil, StageDecode
	}
	keyID, _, ok := cutTokenID(v.ID)
	if !ok {
		return nil, StageDecode
	}
	if v.ThirdParty() {
		return nil, StageCaveat
	}
	key, ok := keys.find(keyID)
	if !ok {
		return nil, StageKey
	}
	if !v.Verify(key[:]) {
		return nil, StageSignature
	}
	g, err := readGrant(&v)
	switch {
	case err == nil:
		return g, passed
	case errors.Is(err, errAudience):
		return nil, StageAudience
	default:
		return nil, StageCaveat
	}
}

// judge holds an authentic grant against the moment and the caller.
func (g *Grant) judge(x *Exchange) AuthStage {
	if token, key := g.revoked(x.Limits); token || key {
		return StageRevoked
	}
	switch seconds := (x.Now + x.Skew) / 1e9; {
	case seconds < g.nbf:
		return StageNotYet
	case seconds >= g.exp: // "on or after" it, as RFC 7519 §4.1.4 has it
		return StageExpired
	}
	if x.PeerGone { // a handshake would refuse it, also where no caveat asks for one
		return StageCertificate
	}
	for _, peer := range g.peers {
		if x.Peer != peer { // never empty, so no certificate is never the right one
			return StagePeer
		}
	}
	if len(g.nets) > 0 {
		addr := x.Addr.Unmap().WithZone("") // a prefix contains no address with a zone
		if slices.ContainsFunc(g.nets, func(n netip.Prefix) bool { return !n.Contains(addr) }) {
			return StageCIDR
		}
	}
	return passed
}
