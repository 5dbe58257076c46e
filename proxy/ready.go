package proxy

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/ledger"
)

// status is what /readyz tells, judged anew each time from atomics.
type status struct {
	keys    [numReadyKeys]bool
	reason  string // why the ledger is not ready, in words; empty: it is
	breaker ledger.BreakerState
	stale   bool // reads come from a cache that the ledger no longer keeps current, or are refused
	partial bool // a switch keeps requests out: meant, so it is no reason to send clients elsewhere
	unheard bool // the control plane has not told of all types since the start
}

// The keys of CONTRACT §4.
const (
	cfgLoaded     = iota // and the control plane was heard once, or waited for long enough
	listenerBound        // and not draining, and with the certificates that a handshake takes
	ledgerReady          // heartbeats come in, and it is the ledger that this process has paid into
	authReady            // there are root keys
	policyReady          // there are limits
	queueOK              // the work queue has room
	numReadyKeys
)

var readyKeys = [numReadyKeys]string{ //nolint:gochecknoglobals // a table
	"cfg_loaded", "listener_bound", "ledger_ready", "auth_ready", "policy_ready", "queue_ok",
}

func (s *Server) status() status {
	limits, healthy := s.deps.Live.Load(), s.deps.Reader.Healthy()
	reason := s.ledgerAway()
	return status{
		reason: reason,
		keys: [numReadyKeys]bool{
			cfgLoaded:     !s.fetching(),
			listenerBound: s.bound.Load() && !s.draining.Load() && s.certs.open.Load(),
			ledgerReady:   reason == "",
			authReady:     s.deps.Keys.Load().Len() > 0,
			policyReady:   limits.InFlight > 0, // the zero Limits deny everything
			queueOK:       s.deps.Committer.Depth() < limits.Queue,
		},
		breaker: s.deps.Breaker.State(),
		stale:   !healthy || s.doubted(),
		partial: limits.Switched(),
		unheard: s.deps.ControlPlane != nil && s.deps.ControlPlane.Unfetched(),
	}
}

// writable is what payments ask of readiness. A full queue is not part of it: that is BUSY, in
// the queue's own place. An open breaker is UPSTREAM_UNAVAILABLE likewise.
func (s *Server) writable() bool {
	return !s.draining.Load() && s.deps.Reader.Healthy() && !s.doubted() && !s.fetching()
}

// fetching says that the first answer of the control plane is waited for: until then a token that it
// has revoked would pay.
func (s *Server) fetching() bool { return s.deps.ControlPlane != nil && s.deps.ControlPlane.Fetching() }

// doubted says that the ledger in use is not the one that this process has paid into.
func (s *Server) doubted() bool { return s.deps.Standing != nil && s.deps.Standing.Doubt() != nil }

// ledgerAway is why the ledger takes no payments, in one line; empty where it does.
func (s *Server) ledgerAway() string {
	if s.deps.Standing != nil {
		if d := s.deps.Standing.Doubt(); d != nil {
			return wentBack + ": " + d.Error()
		}
	}
	return s.deps.Reader.Why()
}

// wentBack is what strangers are told of a doubt. Versions, transactions, addresses and files are
// for operators.
const wentBack = "the ledger went back, and waits for an operator to accept it"

// discreet is st as strangers may see it.
func (s *Server) discreet(st status) status {
	switch {
	case st.reason == "":
	case s.doubted():
		st.reason = wentBack
	default:
		st.reason = "the ledger does not answer"
	}
	return st
}

func (st *status) ready() bool {
	for _, ok := range st.keys {
		if !ok {
			return false
		}
	}
	return true
}

// ledgerFault is why a call to the ledger fails at present: it is away, or it was there and the last
// failed call says why.
func (s *Server) ledgerFault() string {
	if away := s.ledgerAway(); away != "" {
		return away
	}
	return s.deps.Breaker.Cause()
}

// missing names the keys that are not there.
func (st *status) missing() (names []string) {
	for i, ok := range st.keys {
		if !ok {
			names = append(names, readyKeys[i])
		}
	}
	return names
}

const (
	turnLook  = 100 * time.Millisecond // between looks at what tells of no turn by itself
	turnLines = 10                     // in a window; the rest is counted
	turnTime  = 10 * time.Second
)

// logTurns logs every turn of readiness, with its cause, until ctx ends. Where it flickers, what is
// over the bound is counted in the next line. What is missing at first is no warning: a start takes a
// moment. It becomes one where that moment does not end.
func (s *Server) logTurns(ctx context.Context) {
	clock := time.NewTicker(turnLook)
	defer clock.Stop()
	var said string // the last state
	var begun int64
	lines, unsaid := 0, 0
	started, up := s.deps.Now(), false
	for {
		s.log.tellLeftOut(s.deps.Now())
		st := s.status()
		missing := strings.Join(st.missing(), " ")
		now := s.deps.Now()
		late := !up && now-started >= int64(turnTime)
		rises := !up && (late || missing == "")
		if up = up || rises; missing != said || begun == 0 || late {
			if rises || now-begun >= int64(turnTime) {
				begun, lines = now, 0
			}
			if said = missing; lines < turnLines {
				s.logTurn(&st, missing, unsaid, up)
				lines, unsaid = lines+1, 0
			} else {
				unsaid++
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.turned:
		case <-clock.C:
		}
	}
}

// logTurn says that a sidecar which was up, or should be by now, is not ready; or else that it is still
// starting.
func (s *Server) logTurn(st *status, missing string, unsaid int, up bool) {
	fields := logrus.Fields{}
	if unsaid > 0 {
		fields["unsaid_turns"] = unsaid
	}
	if missing == "" {
		s.deps.Log.WithFields(fields).Info("ready")
		return
	}
	fields["missing"] = missing
	if !st.keys[ledgerReady] {
		fields["reason"] = st.reason
	}
	if !up {
		s.deps.Log.WithFields(fields).Info("starting")
		return
	}
	s.deps.Log.WithFields(fields).Warn("unready")
}

// appendJSON appends CONTRACT §4's object.
func (st *status) appendJSON(dst []byte) []byte {
	ready := st.ready()
	dst = strconv.AppendBool(append(dst, `{"ready":`...), ready)
	dst = strconv.AppendBool(append(dst, `,"degraded":`...), st.stale || st.partial || st.unheard || st.breaker != ledger.BreakerClosed)
	dst = append(dst, `,"missing":[`...)
	first := true
	for i, ok := range st.keys {
		if ok {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = appendString(dst, readyKeys[i])
	}
	dst = append(dst, `],"retry_after":`...)
	if ready {
		dst = append(dst, '0')
	} else {
		dst = strconv.AppendInt(dst, readyRetryAfter, 10)
	}
	for i, ok := range st.keys {
		dst = append(dst, ',')
		dst = appendString(dst, readyKeys[i])
		dst = strconv.AppendBool(append(dst, ':'), ok)
	}
	if st.reason != "" {
		dst = append(dst, `,"reason":`...)
		dst = appendString(dst, st.reason)
	}
	dst = append(dst, `,"breaker":[{"svc":"`+ledgerService+`","state":`...)
	dst = appendString(dst, st.breaker.String())
	return append(dst, `}]}`...)
}
