// Package filters holds the decisions that the sidecar takes about a request before the ledger
// takes the last one. Each file is one decision, each decision is a Filter, and a Chain runs
// them in the order that proxy/routes.go states.
//
// Invariant: a filter refuses only what is certain to be refused. What is merely likely goes to
// the ledger, which decides; its answer is the only one that settles a payment
// (docs/decisions/003-the-edge-refuses-only-what-is-certain.md).
package filters

import (
	"net/netip"
	"time"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// Exchange is one request and what becomes of it. It belongs to the goroutine that serves the
// request, and is reused afterwards: a filter keeps nothing of it, and copies what must live on.
type Exchange struct {
	Request
	Findings
	Answer
}

// Request is what the edge knows of an exchange before the filters. Its byte slices point into a
// buffer that dies with the handler.
type Request struct {
	Route    wallet.Route
	Op       wallet.Op
	Limits   *config.Limits // the one version of the limits that this exchange sees
	Now      int64          // arrival, Unix nanoseconds, by a clock that never goes back
	Skew     int64          // nanoseconds that the time of day is ahead of Now; 0 as a rule
	Deadline int64          // when the client's patience ends, Unix nanoseconds
	Origin   wallet.Origin
	Token    []byte // what follows "Bearer ", nil if there is none
	Key      []byte // Idempotency-Key as sent, nil if there is none
	Body     []byte // as sent, not yet decompressed
	Gzip     bool   // Body is gzip
	Account  []byte // query of a balance, or of a payment by its key
	Asset    []byte // query of a balance
	TxText   []byte // last path segment of a transaction
	ByKey    bool   // the query is of the payment that Account made under the key IdemText
	IdemText []byte
	MinSeq   uint64     // X-Min-Ledger-Seq, 0 for none
	Unfit    string     // what is wrong with the query or MinSeq, refused in decoding's place
	Addr     netip.Addr // the client's address
	Peer     string     // URI SAN of the verified client certificate, empty for none
	PeerGone bool       // there was one that no longer verifies
	Caller   Caller     // the connection that it came on; nil: none
}

// Findings are what the filters found out, each of which later ones stand on.
type Findings struct {
	Grant    *Grant            // the verified capability
	Payment  wallet.Payment    // the decoded payment
	Balance  wallet.BalanceKey // the decoded balance query
	TxID     wallet.TxID       // the decoded transaction id
	Idem     wallet.IdemKey    // the decoded key of a payment that is looked for, in Balance.Account's scope
	Shadowed ShadowSet         // the shadow limits that would have refused

	inflated int                        // bytes of the body once decompressed; 0: it was not
	idem     *claim[idemKey, idemOwner] // what this exchange holds in the tables of keys and nonces; nil: nothing
	nonce    *claim[nonceKey, wallet.IdemKey]
	inPlay   int64            // its number among those under way when InFlight counted it, from 1; 0: not counted
	patience <-chan time.Time // fires at Deadline; nil until something is waited for
}

// Answer is what goes out besides the code.
type Answer struct {
	Reply  []byte // JSON of a receipt; its memory is reused
	Figure wallet.Balance
	AsOf   int64  // of Figure, Unix nanoseconds
	Seq    uint64 // ledger version of the answer
	Refusal
}

// Refusal is why an exchange is refused, besides the code. A duplicate is given the one of its first.
type Refusal struct {
	Detail    string    // for the client; holds no secret and no control character
	Stage     string    // where authentication refused, for operators; a constant text
	NextNonce uint64    // with NonceConflict: the lowest that will do, 0 for none
	Reason    string    // with NonceConflict: a constant text
	Limit     LimitHit  // with LimitsExceeded
	Outran    bool      // with RetryLater: Seq is the ledger's version, below MinSeq
	RateLimit RateState // with RateLimited

	told toldLimit // what the ledger said of a limit that refused the payment
}

// Refuse says why x is not let pass, in a constant text that holds no secret.
func (x *Exchange) Refuse(code wallet.Code, why string) wallet.Code {
	x.Detail = why
	return code
}

// RateState is what X-RateLimit-* tell.
type RateState struct {
	Limit, Remaining uint64
	ResetMillis      int64 // from now until a token is there
}

// Reset readies the exchange for another request. It keeps Reply's memory.
func (x *Exchange) Reset() {
	*x = Exchange{Answer: Answer{Reply: x.Reply[:0]}}
}

// asker is what overrides of the limits are chosen by, as far as it is known before the request
// is decoded.
func (x *Exchange) asker() config.Asker {
	return config.Asker{Route: x.Route, Token: x.Grant.TokenID, Subject: x.Grant.subject}
}

// capsUnder are the caps of the decoded payment under the limits l.
func (x *Exchange) capsUnder(l *config.Limits) config.Caps {
	who := x.asker()
	who.Account, who.Asset = x.Payment.Holder(), x.Payment.Asset
	return l.CapsFor(&who)
}

// Caller is the connection that a request came on.
type Caller interface {
	// Prove notes that a valid token has come on it, and returns false where it has been closed: an
	// answer would reach nobody, so nothing shall be begun. It does not block, and does not allocate.
	Prove() bool
}

// Filter takes one decision. Check returns wallet.Pass to go on, or the answer. It does not block
// (a duplicate's wait for its first is the one exception, bounded by Deadline), retains nothing,
// and on the read path does not allocate.
type Filter interface {
	Check(x *Exchange) wallet.Code
}

// Shadower is a filter of limits that can be shadow limits. Shadow is called after Check has let x
// pass, with shadow limits, and says which of these would have refused x. It refuses nothing.
type Shadower interface {
	Filter
	Shadow(x *Exchange, l *config.Limits) ShadowSet
}

// Settler is a filter that took something in Check. Settle is called once for each Check that
// returned wallet.Pass, with what became of the exchange. Only a refusal may undo what a payment took:
// an unknown outcome may yet turn out applied.
type Settler interface {
	Filter
	Settle(x *Exchange, code wallet.Code)
}

// Chain is filters in order.
type Chain []Filter

// Do runs the filters, then last, and settles in reverse what was taken. The first answer that
// is not Pass ends the run.
func (c Chain) Do(x *Exchange, last func(*Exchange) wallet.Code) (code wallet.Code) {
	passed := 0
	// A panic in a filter or in last is our bug: what was taken is settled as unknown, so that
	// no waiter hangs, and the panic goes on to the edge.
	code = wallet.Uncertain
	defer func() { c[:passed].settle(x, code) }()
	for ; passed < len(c); passed++ {
		if code = c[passed].Check(x); code != wallet.Pass {
			return code
		}
		code = wallet.Uncertain
		x.shadow(c[passed])
	}
	code = last(x)
	return code
}

// shadow notes which of the shadow limits, where there are any, would have refused what f let pass.
func (x *Exchange) shadow(f Filter) {
	if l := x.Limits.Shadow; l != nil {
		if s, ok := f.(Shadower); ok {
			x.Shadowed |= s.Shadow(x, l)
		}
	}
}

func (c Chain) settle(x *Exchange, code wallet.Code) {
	for i := len(c) - 1; i >= 0; i-- {
		if s, ok := c[i].(Settler); ok {
			s.Settle(x, code)
		}
	}
}
