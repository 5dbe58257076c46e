package proxy

import (
	"strconv"

	"svc-wallet/ledger"
)

// status is what /readyz tells, judged anew each time from atomics.
type status struct {
	keys    [numReadyKeys]bool
	breaker ledger.BreakerState
	stale   bool // reads come from a cache that the ledger no longer keeps current
	partial bool // a switch keeps requests out: meant, so it is no reason to send clients elsewhere
}

// The keys of CONTRACT §4.
const (
	cfgLoaded     = iota
	listenerBound // and not draining, and with the certificates that a handshake takes
	ledgerReady   // heartbeats come in
	authReady     // there are root keys
	policyReady   // there are limits
	queueOK       // the work queue has room
	numReadyKeys
)

var readyKeys = [numReadyKeys]string{ //nolint:gochecknoglobals // a table
	"cfg_loaded", "listener_bound", "ledger_ready", "auth_ready", "policy_ready", "queue_ok",
}

func (s *Server) status() status {
	limits, healthy := s.deps.Live.Load(), s.deps.Reader.Healthy()
	return status{
		keys: [numReadyKeys]bool{
			cfgLoaded:     true, // or there would be no Server
			listenerBound: s.bound.Load() && !s.draining.Load() && s.certs.open.Load(),
			ledgerReady:   healthy,
			authReady:     s.deps.Keys.Load().Len() > 0,
			policyReady:   limits.InFlight > 0, // the zero Limits deny everything
			queueOK:       s.deps.Committer.Depth() < limits.Queue,
		},
		breaker: s.deps.Breaker.State(),
		stale:   !healthy,
		partial: limits.Switched(),
	}
}

// writable is what payments ask of readiness. A full queue is not part of it: that is BUSY, in
// the queue's own place. An open breaker is UPSTREAM_UNAVAILABLE likewise.
func (s *Server) writable() bool {
	return !s.draining.Load() && s.deps.Reader.Healthy()
}

func (st *status) ready() bool {
	for _, ok := range st.keys {
		if !ok {
			return false
		}
	}
	return true
}

// appendJSON appends CONTRACT §4's object.
func (st *status) appendJSON(dst []byte) []byte {
	ready := st.ready()
	dst = strconv.AppendBool(append(dst, `{"ready":`...), ready)
	dst = strconv.AppendBool(append(dst, `,"degraded":`...), st.stale || st.partial || st.breaker != ledger.BreakerClosed)
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
	dst = append(dst, `,"breaker":[{"svc":"`+ledgerService+`","state":`...)
	dst = appendString(dst, st.breaker.String())
	return append(dst, `}]}`...)
}
