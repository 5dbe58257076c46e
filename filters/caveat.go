package filters

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"svc-wallet/filters/macaroon"
	"svc-wallet/wallet"
)

// service is the location of our macaroons and the only audience that we answer to.
const service = "svc-wallet"

// Why a token means nothing to us. All but errAudience are one stage: it is not understood.
var (
	errTokenID  = errors.New("identifier must be v1:<key id>:<token id>, each id [A-Za-z0-9_.-]{1,64}")
	errThird    = errors.New("third-party caveats need a discharge, which is not taken")
	errNoExpiry = errors.New("token has no exp caveat")
	errAudience = errors.New("token is for another audience")
)

// readGrant gives the meaning of a macaroon; whether a key of ours made it is for the caller to
// know. A caveat that is not understood in full refuses the token, because its writer meant to
// narrow by it.
func readGrant(v *macaroon.View) (*Grant, error) {
	keyID, tokenID, ok := cutTokenID(v.ID)
	if !ok {
		return nil, errTokenID
	}
	if v.ThirdParty() {
		return nil, errThird
	}
	g := &Grant{
		KeyID:     string(keyID),
		TokenID:   string(tokenID),
		MaxAmount: wallet.MaxAmount(),
		Daily:     wallet.MaxAmount(),
		rateKey:   string(v.ID[len("v1:"):]),
		exp:       math.MaxInt64,
	}
	for _, c := range v.Caveats() {
		if err := g.narrow(string(c.ID)); err != nil {
			return nil, err
		}
	}
	if g.exp == math.MaxInt64 { // which eighteen digits cannot say
		return nil, errNoExpiry
	}
	return g, nil
}

// cutTokenID splits `v1:<key id>:<token id>`.
func cutTokenID(id []byte) (keyID, tokenID []byte, ok bool) {
	rest, v1 := bytes.CutPrefix(id, []byte("v1:"))
	keyID, tokenID, two := bytes.Cut(rest, []byte(":"))
	if !v1 || !two || !isID(keyID) || !isID(tokenID) {
		return nil, nil, false
	}
	return keyID, tokenID, true
}

// narrow reads one caveat, `name = value`, into a grant that nobody else has yet. After an error
// the grant is void.
func (g *Grant) narrow(caveat string) error {
	name, value, ok := strings.Cut(caveat, " = ")
	if !ok || !isVisible(value) {
		return fmt.Errorf("caveat %.80q must be `name = value` in visible ASCII, with one space on each side of =", caveat)
	}
	if err := g.hold(name, value); err != nil {
		return fmt.Errorf("caveat %.80q: %w", caveat, err)
	}
	return nil
}

// hold makes the grant hold a caveat besides those that it holds. Every case takes away or keeps,
// none adds: that is what lets any holder append caveats. The first exp, actions and accounts are
// the exception that default deny demands; MintToken sees to it that the minter writes them.
func (g *Grant) hold(name, value string) (err error) {
	var (
		seconds int64
		amount  wallet.Amount
	)
	switch name {
	case "aud":
		if value != service {
			err = errAudience
		}
	case "exp":
		seconds, err = parseSeconds(value)
		g.exp = min(g.exp, seconds)
	case "nbf":
		seconds, err = parseSeconds(value)
		g.nbf = max(g.nbf, seconds)
	case "actions":
		err = g.holdActions(value)
	case "accounts":
		g.accounts = append(g.accounts, patterns(value))
		err = checkPatterns(value, wallet.ParseAccount[string])
	case "assets":
		g.assets = append(g.assets, patterns(value))
		err = checkPatterns(value, wallet.ParseAsset[string])
	case "max_amount":
		amount, err = wallet.ParseAmount(value)
		g.MaxAmount = g.MaxAmount.Min(amount)
	case "daily":
		amount, err = wallet.ParseAmount(value)
		g.Daily = g.Daily.Min(amount)
	case "peer":
		g.peers = append(g.peers, value)
	case "cidr":
		err = g.holdNet(value)
	case "sub":
		err = g.holdSubject(value)
	default:
		err = errors.New("there is no such caveat")
	}
	return err
}

func (g *Grant) holdActions(list string) error {
	var actions uint8
	for item := range strings.SplitSeq(list, ",") {
		op, ok := wallet.ParseOp(item)
		if !ok {
			return fmt.Errorf("%.20q is no action: want read, issue, transfer or burn", item)
		}
		actions |= 1 << op
	}
	if g.acts {
		actions &= g.actions
	}
	g.actions, g.acts = actions, true
	return nil
}

// holdNet takes an IPv4 or IPv6 network in its one form. An IPv4-mapped one would never match,
// since addresses are unmapped first; host bits are most likely a slip of the minter's.
func (g *Grant) holdNet(value string) error {
	p, err := netip.ParsePrefix(value)
	if err != nil || p.Addr().Is4In6() || p != p.Masked() {
		return errors.New("want a network such as 10.0.0.0/8 or fd00::/8, without host bits")
	}
	g.nets = append(g.nets, p)
	return nil
}

// maxSubject is the longest sub, in characters: it goes into log lines.
const maxSubject = 128

// holdSubject takes the first sub. Another one refuses the token: were the last to win, a holder
// could act in anybody's name; were the first, the appended caveat would not hold, and all must.
// Both names at once is what nobody has.
func (g *Grant) holdSubject(value string) error {
	if len(value) > maxSubject {
		return fmt.Errorf("sub must be at most %d characters", maxSubject)
	}
	if g.subject != "" && g.subject != value {
		return errors.New("the token has another sub already")
	}
	g.subject = value
	return nil
}

// parseSeconds reads a decimal count of seconds of at most eighteen digits without leading zeros.
func parseSeconds(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || len(s) > 18 || s[0] < '0' || s[0] > '9' || s[0] == '0' && len(s) > 1 {
		return 0, errors.New("want Unix seconds in decimal, 1 to 18 digits without leading zeros")
	}
	return n, nil
}

// checkPatterns holds a list against the grammar of what it names: each item a name, a prefix of
// one with `*` behind it, or `*`.
func checkPatterns[T any](list string, parse func(string) (T, error)) error {
	for item := range strings.SplitSeq(list, ",") {
		if item == "*" {
			continue
		}
		if _, err := parse(strings.TrimSuffix(item, "*")); err != nil {
			return fmt.Errorf("item %.80q: %w; a trailing * makes it a prefix", item, err)
		}
	}
	return nil
}

func isVisible(s string) bool {
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}
