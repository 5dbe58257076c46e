package filters

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"svc-wallet/filters/macaroon"
	"svc-wallet/wallet"
)

// MintToken makes a token with the first of the keys, in its text form. Each caveat is
// `name = value` and must mean something (CONTRACT §3); the error says which one does not.
//
// Among them must be exp, actions and accounts. A token without one of these grants nothing, but
// only until its holder adds whatever he likes: what is missing is for the minter to say.
func MintToken(keys *Keys, tokenID string, caveats []string) (string, error) {
	keyID, key := keys.First()
	if keyID == "" {
		return "", errors.New("mint: there is no root key")
	}
	data, err := macaroon.Mint(key[:], service, "v1:"+keyID+":"+tokenID, caveats...)
	if err != nil {
		return "", fmt.Errorf("mint: %w", err)
	}
	g, err := understand(data)
	switch {
	case errors.Is(err, errNoExpiry):
		return "", fmt.Errorf("mint: %w: give --ttl", err)
	case err != nil:
		return "", fmt.Errorf("mint: %w", err)
	case !g.complete():
		return "", errors.New("mint: the token lacks actions or accounts, which its holder could then choose: give --actions and --accounts")
	}
	return macaroon.EncodeText(data), nil
}

// AttenuateToken makes a token that also holds the caveats. It needs no key. It refuses caveats
// after which no request could pass because the token is not understood.
func AttenuateToken(token string, caveats []string) (string, error) {
	if len(caveats) == 0 {
		return "", errors.New("attenuate: there is no caveat to add")
	}
	data, err := decodeText(token)
	if err != nil {
		return "", fmt.Errorf("attenuate: %w", err)
	}
	if data, err = macaroon.Attenuate(data, caveats...); err != nil {
		return "", fmt.Errorf("attenuate: %w", err)
	}
	if _, err := understand(data); err != nil {
		return "", fmt.Errorf("attenuate: %w", err)
	}
	return macaroon.EncodeText(data), nil
}

// Verdict is whether a root key made a token.
type Verdict uint8

// The verdicts.
const (
	NotChecked Verdict = iota // there were no keys to check with
	Genuine
	UnknownKey // made by a key that is not among them, or by nobody
	Forged     // not made by the key that it names, or altered since
)

// String says it in words.
func (v Verdict) String() string {
	return [...]string{
		NotChecked: "unknown: no root keys were given", Genuine: "yes",
		UnknownKey: "no: there is no root key of its key id", Forged: "no: its signature is not by the root key of its key id",
	}[v]
}

// Inspection is what a token says of itself.
type Inspection struct {
	Location string
	KeyID    string
	TokenID  string
	Caveats  []string
	Verified Verdict
	Refused  string   // why every sidecar refuses it, whatever its keys; empty if none must
	Ill      string   // why none takes it now: expired, or not valid yet; empty if that is not so
	Allows   []string // what it allows, a sentence each; empty if Refused
}

// InspectToken explains a token at a time, in Unix nanoseconds. Keys may be nil, then nothing is
// verified. The error is for what is no macaroon; one that is refused for what it says is explained all
// the same.
func InspectToken(token string, keys *Keys, now int64) (Inspection, error) {
	data, err := decodeText(token)
	if err != nil {
		return Inspection{}, fmt.Errorf("inspect: %w", err)
	}
	v, err := macaroon.Decode(data)
	if err != nil {
		return Inspection{}, fmt.Errorf("inspect: %w", err)
	}
	in := Inspection{Location: string(v.Location), Verified: checkToken(&v, keys)}
	for _, c := range v.Caveats() {
		in.Caveats = append(in.Caveats, string(c.ID))
	}
	if keyID, tokenID, ok := cutTokenID(v.ID); ok {
		in.KeyID, in.TokenID = string(keyID), string(tokenID)
	}
	g, err := readGrant(&v)
	if err != nil {
		in.Refused = err.Error()
		return in, nil
	}
	in.Allows, in.Ill = g.explain(), g.ill(now/1e9)
	return in, nil
}

// Fault is why a sidecar with these keys refuses the token now; nil where none must.
func (in *Inspection) Fault() error {
	switch {
	case in.Refused != "":
		return errors.New(in.Refused)
	case in.Verified == UnknownKey, in.Verified == Forged:
		return errors.New("the token does not verify: " + strings.TrimPrefix(in.Verified.String(), "no: "))
	case in.Ill != "":
		return errors.New("the token " + in.Ill)
	default:
		return nil
	}
}

// ill says why the grant does not hold at that time, in Unix seconds.
func (g *Grant) ill(now int64) string {
	switch {
	case now < g.nbf:
		return "is not valid before " + utc(g.nbf)
	case now >= g.exp:
		return "expired at " + utc(g.exp)
	default:
		return ""
	}
}

// String is the inspection in lines. What the token's maker wrote is quoted where it is not
// plain, because a terminal obeys control characters.
func (in Inspection) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "key id:   %s\ntoken id: %s\nverified: %s\n", in.KeyID, in.TokenID, in.Verified)
	if in.Ill != "" {
		fmt.Fprintf(&b, "now:      %s\n", in.Ill)
	}
	for _, c := range in.Caveats {
		if strings.ContainsFunc(c, func(r rune) bool { return r < ' ' || r > '~' }) {
			c = fmt.Sprintf("%q", c)
		}
		fmt.Fprintf(&b, "caveat:   %s\n", c)
	}
	for _, line := range in.Allows {
		fmt.Fprintf(&b, "allows:   %s\n", line)
	}
	if in.Refused != "" {
		fmt.Fprintf(&b, "refused:  %s\n", in.Refused)
	}
	return b.String()
}

// explain says in words what the grant allows, and to whom.
func (g *Grant) explain() []string {
	if !g.complete() {
		return []string{"nothing, until its holder adds the actions or accounts that it lacks"}
	}
	if g.actions == 0 {
		return []string{"nothing: no action is in all its actions caveats"}
	}
	if meet := func(lists []patterns) bool { return len(lists) == 0 || commonTo(lists) }; !meet(g.accounts) || !meet(g.assets) {
		return []string{"nothing: no account, or no asset, is in all its caveats"}
	}
	say := []string{g.actionNames() + " on accounts " + join(g.accounts)}
	if len(g.assets) > 0 {
		say = append(say, "assets "+join(g.assets))
	} else {
		say = append(say, "every asset")
	}
	if g.MaxAmount != wallet.MaxAmount() {
		say = append(say, "at most "+g.MaxAmount.String()+" minor units an operation")
	}
	if g.Daily != wallet.MaxAmount() {
		say = append(say, "an account may have moved at most "+g.Daily.String()+" minor units on the UTC day, by whichever token, when this one is used")
	}
	if g.nbf > 0 {
		say = append(say, "from "+utc(g.nbf))
	}
	say = append(say, "until "+utc(g.exp))
	for _, peer := range g.peers {
		say = append(say, "only with the client certificate of "+peer)
	}
	for _, n := range g.nets {
		say = append(say, "only from "+n.String())
	}
	return append(say, "in the name of "+g.Subject())
}

func (g *Grant) actionNames() string {
	var names []string
	for _, op := range []wallet.Op{wallet.Read, wallet.Issue, wallet.Transfer, wallet.Burn} {
		if g.AllowsAction(op) {
			names = append(names, op.String())
		}
	}
	return strings.Join(names, ", ")
}

// join says what several lists cover together.
func join(lists []patterns) string {
	words := make([]string, len(lists))
	for i, list := range lists {
		words[i] = strings.ReplaceAll(string(list), ",", ", ")
	}
	return strings.Join(words, "; of those only ")
}

func utc(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }

func checkToken(v *macaroon.View, keys *Keys) Verdict {
	if keys == nil {
		return NotChecked
	}
	keyID, _, _ := cutTokenID(v.ID) // no key has an empty id
	key, ok := keys.find(keyID)
	switch {
	case !ok:
		return UnknownKey
	case v.Verify(key[:]):
		return Genuine
	default:
		return Forged
	}
}

// decodeText takes a token as a person pastes it: white space around it is not its part.
func decodeText(token string) ([]byte, error) {
	return macaroon.DecodeText(make([]byte, macaroon.MaxSize), []byte(strings.TrimSpace(token)))
}

// understand reads a token without verifying it.
func understand(data []byte) (*Grant, error) {
	v, err := macaroon.Decode(data)
	if err != nil {
		return nil, err
	}
	return readGrant(&v)
}
