package proxy

import (
	"bytes"

	"svc-wallet/config"
	"svc-wallet/filters"
	"svc-wallet/wallet"
)

// noncesUnderWay bounds the nonces that are reserved at once; more are refused with 429.
const noncesUnderWay = 65536

// route is a route at work: who judges its requests, and what is done with them at last.
type route struct {
	wallet.Route
	head  filters.Chain // of a request whose body is still on its way
	chain filters.Chain
	last  func(*filters.Exchange) wallet.Code
}

// routes puts the routes to work. Filters run from top to bottom, the first that refuses answers; the
// order is CONTRACT §1's, and each place has its reason.
func (s *Server) routes(cfg *config.Config) [wallet.NumRoutes]route {
	var (
		// First, so that a sidecar that drains or a ledger that stalls costs nobody anything.
		ready = filters.Ready{Writable: s.writable}
		// Next, and first of a read: what an operator has switched off must cost nothing either, and
		// must not be counted against anybody's rate.
		onOff = filters.Switch{}
		// Before any work, because it protects the process. A stranger holds a place only while auth
		// looks at the token, some microseconds.
		inFlight = filters.NewInFlight()
		// Who asks comes before every bucket that clients share, so that strangers spend only their
		// own (docs/decisions/027), and before what is asked, so that they learn nothing and cannot
		// make us decode or decompress anything.
		auth = s.auth
		// All clients' bucket, which is there to protect the process, before each one's own.
		rate = filters.NewRate()
		// By subject, so after it is known; before decoding, which is what it limits.
		subjectRate = filters.NewSubjectRate(cfg.Auth.SubjectEntries)
		// What is asked: scope and caps need it.
		payload = filters.NewPayload(s.deps.Now)
		// Capability before anything that tells of the ledger's state, replays too.
		scope = filters.Scope{}
		// Also before replays: docs/decisions/007.
		caps = filters.Caps{
			NonceStart:  cfg.Wallet.NonceStart,
			NonceMaxGap: cfg.Wallet.NonceMaxGap,
		}
		// The key before the nonce: a replay holds the very nonce that its first request spent.
		idempotency = s.idempotency
		nonce       = filters.NewNonce(cfg.Wallet.Shards, noncesUnderWay)

		// Before a body is waited for, or has memory. What waits holds no place in flight and has spent
		// no token of a bucket.
		head  = filters.Chain{ready, filters.SwitchedOff{}, inFlight, auth}
		read  = filters.Chain{onOff, inFlight, auth, rate, subjectRate, payload, scope}
		write = filters.Chain{ready, onOff, inFlight, auth, rate, subjectRate, payload, scope, caps, idempotency, nonce}
	)
	return [wallet.NumRoutes]route{
		wallet.NoRoute:       {},
		wallet.RouteBalance:  {wallet.RouteBalance, nil, read, s.balance},
		wallet.RouteTx:       {wallet.RouteTx, nil, read, s.transaction},
		wallet.RoutePayment:  {wallet.RoutePayment, nil, read, s.payment},
		wallet.RouteIssue:    {wallet.RouteIssue, head, write, s.pay},
		wallet.RouteTransfer: {wallet.RouteTransfer, head, write, s.pay},
		wallet.RouteBurn:     {wallet.RouteBurn, head, write, s.pay},
		wallet.RouteHealthz:  {wallet.RouteHealthz, nil, nil, s.healthz},
		wallet.RouteReadyz:   {wallet.RouteReadyz, nil, nil, s.readyz},
	}
}

// find returns the route of an exact raw path. NoRoute is the answer to every other one.
func (s *Server) find(path []byte) *route {
	for r := wallet.RouteBalance; r < wallet.NumRoutes; r++ {
		if string(path) == r.Path() && r != wallet.RouteTx {
			return &s.table[r]
		}
	}
	if id, ok := bytes.CutPrefix(path, []byte(wallet.TxPath)); ok && len(id) > 0 && bytes.IndexByte(id, '/') < 0 {
		return &s.table[wallet.RouteTx]
	}
	return &s.table[wallet.NoRoute]
}

// pay commits the decoded payment and renders its receipt.
func (s *Server) pay(x *filters.Exchange) wallet.Code {
	r := s.deps.Committer.Submit(&x.Payment, x.Limits, x.Deadline)
	x.Seq = r.Seq
	filters.Explain(x, &r)
	filters.ShadowTotals(x, &r)
	if r.Code == wallet.OK || r.Code == wallet.Replayed {
		x.Reply = r.Receipt.AppendJSON(x.Reply[:0])
	}
	return r.Code
}

// balance reads the decoded balance, from the cache as a rule.
func (s *Server) balance(x *filters.Exchange) (code wallet.Code) {
	x.Figure, x.AsOf, code = s.deps.Reader.Balance(x.Balance, x.Limits, x.MinSeq, x.Origin, x.Deadline)
	x.Seq = x.Figure.Seq
	return s.outran(x, code)
}

// outran tells a read that waited in vain for its least version from one that was refused otherwise.
// Where a ledger is that is in doubt is not told.
func (s *Server) outran(x *filters.Exchange, code wallet.Code) wallet.Code {
	if code == wallet.RetryLater && x.Seq < x.MinSeq && !s.draining.Load() && !s.doubted() {
		x.Outrun(x.Seq)
	}
	return code
}

// transaction finds a receipt. One that the capability may not see does not exist for it.
func (s *Server) transaction(x *filters.Exchange) wallet.Code {
	r, seq, code := s.deps.Reader.Transaction(x.TxID, x.Limits, x.MinSeq, x.Origin, x.Deadline)
	if code != wallet.OK {
		x.Seq = seq
		return s.outran(x, code)
	}
	if !filters.ScopeReceipt(x.Grant, &r) {
		return wallet.NotFound
	}
	x.Reply, x.Seq = r.AppendJSON(x.Reply[:0]), seq
	return wallet.OK
}

// payment finds a receipt by the account and the key that it was paid under.
func (s *Server) payment(x *filters.Exchange) wallet.Code {
	r, seq, code := s.deps.Reader.Payment(x.Balance.Account, x.Idem, x.Limits, x.MinSeq, x.Origin, x.Deadline)
	x.Seq = seq
	if code != wallet.OK {
		return s.outran(x, code)
	}
	if !filters.ScopePayment(x.Grant, x.Balance.Account, &r) {
		return wallet.NotFound
	}
	x.Reply = r.AppendJSON(x.Reply[:0])
	return wallet.OK
}

// healthz says that the process answers.
func (s *Server) healthz(x *filters.Exchange) wallet.Code {
	x.Reply = append(x.Reply[:0], `{"status":"ok"}`...)
	return wallet.OK
}

// readyz says whether the sidecar can take payments, and what is missing.
func (s *Server) readyz(x *filters.Exchange) wallet.Code {
	st := s.discreet(s.status())
	x.Reply = st.appendJSON(x.Reply[:0])
	if !st.ready() {
		return wallet.RetryLater
	}
	return wallet.OK
}
