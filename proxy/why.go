package proxy

import (
	"svc-wallet/ledger"
	"svc-wallet/wallet"
)

// obstacle is what keeps requests from the ledger.
type obstacle uint8

const (
	noAnswer obstacle = iota
	draining
	starting
	fetching
	inDoubt
	stalled
	away
	breakerOpen
	numObstacles
)

// obstacles is what clients are told: one sentence each, without what is for operators only.
var obstacles = [numObstacles]struct{ payment, read string }{ //nolint:gochecknoglobals // a table
	noAnswer:    {"the ledger has not taken this up" + forPayment, "the ledger has not answered" + forRead},
	draining:    {whyDraining + forPayment, whyDraining + forRead},
	starting:    {whyStarting + forPayment, whyStarting + forRead},
	fetching:    {whyFetching + forPayment, whyFetching + forRead},
	inDoubt:     {whyDoubt + forPayment, whyDoubt + forRead},
	stalled:     {whyStalled + forPayment, whyStalled + forRead},
	away:        {whyAway + forPayment, whyAway + forRead},
	breakerOpen: {whyBreaker + forPayment, whyBreaker + forRead},
}

const (
	forPayment = "; nothing was sent and nothing was done"
	forRead    = "; nothing was found out, ask again"

	whyDraining = "this sidecar is shutting down"
	whyStarting = "this sidecar has just started and has not heard from the ledger yet"
	whyFetching = "this sidecar has just started and waits for the limits that its control plane pushes"
	whyDoubt    = "the ledger went back to an older state, or is another one, and waits for an operator to accept it"
	whyStalled  = "the ledger is stalled"
	whyAway     = "the ledger is away"
	whyBreaker  = "calls of the ledger have failed, so it is given a pause (the breaker is open)"
)

const (
	queueFull     = "the work queue is full; nothing was done"
	unreadableNow = "what was asked for cannot be read from the ledger's store at present; it may well exist, ask again"
	lookupsFull   = "too many reads wait for the ledger; nothing was found out, ask again"
)

// explain says in Detail what was in the way of v, where no filter has said it.
func (s *Server) explain(v *visit, code wallet.Code) {
	if v.Detail != "" {
		return
	}
	read := v.Op == wallet.Read
	switch code {
	case wallet.Busy:
		if v.Detail = queueFull; read {
			v.Detail = lookupsFull
		}
	case wallet.Unreadable:
		v.Detail = unreadableNow
	case wallet.RetryLater, wallet.UpstreamUnavailable:
		o := &obstacles[s.obstacle()]
		if v.Detail = o.payment; read {
			v.Detail = o.read
		}
	default: // the code says it
	}
}

// obstacle is what keeps requests from the ledger at present.
func (s *Server) obstacle() obstacle {
	switch r := s.deps.Reader; {
	case s.draining.Load():
		return draining
	case s.doubted():
		return inDoubt
	case r.Stalled():
		return stalled
	case !r.Seen():
		return starting
	case !r.Healthy():
		return away
	case s.fetching():
		return fetching
	case s.deps.Breaker.State() != ledger.BreakerClosed:
		return breakerOpen
	default:
		return noAnswer
	}
}
