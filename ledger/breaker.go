package ledger

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	"github.com/sirupsen/logrus"

	"svc-wallet/config"
)

// breakerWindow is how long a failure counts. It is hystrix' own window, so that the stream shows
// what the breaker judges by.
const breakerWindow = 10 * time.Second

// Breaker stops the calls of a node that fails. It opens on Limits.BreakerErrors failures within
// 10 s, rejects for Limits.BreakerOpenFor, and then admits a round of exactly
// Limits.BreakerProbes calls: all of them good close it, a bad one opens it again.
//
// The decisions are our own; hystrix is fed the failures, and shows them in its stream
// (docs/decisions/009). State is the truth; the stream may lag it by a second.
type Breaker struct {
	name    string
	live    *config.Live
	now     func() int64
	circuit *hystrix.CircuitBreaker

	word     atomic.Uint64                 // generation<<2 | state; written under mu. Every change of state is a new generation.
	openedAt atomic.Int64                  // of the last opening; written under mu
	opened   atomic.Uint64                 // how often
	suspect  atomic.Bool                   // hystrix may be open by its own count; written under mu
	adopted  atomic.Pointer[config.Limits] // the limits that hystrix was last told
	log      logrus.FieldLogger            // of turns
	cause    atomic.Pointer[string]        // of the last failure; nil: there was none

	mu       sync.Mutex
	failures []int64 // times of the failures in the window, oldest first; fewer than BreakerErrors
	left     int     // probes of this round not yet handed out
	awaited  int     // probes of this round that have not come back good
}

// BreakerState is what a breaker does with calls. The zero value is closed.
type BreakerState uint8

// The states.
const (
	BreakerClosed   BreakerState = iota // calls pass
	BreakerHalfOpen                     // a round of probes passes
	BreakerOpen                         // no call passes
	numBreakerStates
)

// String is the state in metrics and /readyz.
func (s BreakerState) String() string {
	return [numBreakerStates]string{BreakerClosed: "closed", BreakerHalfOpen: "half_open", BreakerOpen: "open"}[s]
}

// LogTo has each turn of the breaker logged, with its cause. It is called before the breaker is used.
func (b *Breaker) LogTo(log logrus.FieldLogger) { b.log = orSilent(log) }

// NewBreaker makes a closed breaker. hystrix keeps two goroutines and the metrics of each name
// for the life of the process, so names are few and fixed.
func NewBreaker(name string, live *config.Live, now func() int64) *Breaker {
	b := &Breaker{name: name, live: live, now: now, log: orSilent(nil)}
	b.adopt(live.Load())
	b.circuit, _, _ = hystrix.GetCircuit(name) // its error is always nil
	return b
}

// Permit is the right to make one call. Its holder says how the call ended with Done, once. The
// zero Permit counts for nothing.
type Permit struct {
	breaker *Breaker
	word    uint64
}

// Allow asks whether a call may be made. Before there are limits none may.
func (b *Breaker) Allow() (Permit, bool) {
	limits := b.live.Load()
	if limits != b.adopted.Load() {
		b.adopt(limits)
	}
	word := b.word.Load()
	switch {
	case limits.BreakerErrors <= 0:
		return Permit{}, false
	case stateOf(word) == BreakerClosed:
		return Permit{b, word}, true
	case stateOf(word) == BreakerOpen && b.now()-b.openedAt.Load() < int64(limits.BreakerOpenFor):
		return Permit{}, false
	}
	return b.probe(limits)
}

// probe hands out the probes of a round, and starts a round where the breaker has been open long
// enough. A round keeps the size that it started with.
func (b *Breaker) probe(limits *config.Limits) (Permit, bool) {
	defer b.turns()()
	state := stateOf(b.word.Load())
	if state == BreakerClosed {
		return Permit{b, b.word.Load()}, true
	}
	if state == BreakerOpen {
		if b.now()-b.openedAt.Load() < int64(limits.BreakerOpenFor) {
			return Permit{}, false
		}
		b.left = max(limits.BreakerProbes, 1)
		b.awaited = b.left
		b.enter(BreakerHalfOpen)
	}
	if b.left == 0 {
		return Permit{}, false
	}
	b.left--
	return Permit{b, b.word.Load()}, true
}

// Done says whether the call was answered. A refusal is an answer. A permit of an earlier
// generation counts for nothing: what it tells is older than the present state.
func (p Permit) Done(ok bool) {
	b := p.breaker
	if b == nil || (ok && stateOf(p.word) == BreakerClosed && !b.suspect.Load()) {
		return
	}
	defer b.turns()()
	if b.word.Load() != p.word {
		return
	}
	switch {
	case stateOf(p.word) == BreakerClosed && ok:
		b.reassure()
	case stateOf(p.word) == BreakerClosed:
		b.fail()
	case ok:
		if b.awaited--; b.awaited == 0 {
			b.shut()
		}
	default:
		b.report("failure")
		b.open()
	}
}

// Withdraw says that the call was given up, so nobody knows whether it would have been answered. A round of
// probes cannot do without one of its answers, so there it is a bad one.
func (p Permit) Withdraw() {
	if stateOf(p.word) != BreakerClosed {
		p.Done(false)
	}
}

// Probe lets a breaker that is not closed probe at the next call, as if its time were up: calls go to
// another node now. Calls that were allowed before count for nothing.
func (b *Breaker) Probe() {
	defer b.turns()()
	if stateOf(b.word.Load()) == BreakerClosed {
		return
	}
	b.openedAt.Store(b.now() - int64(b.live.Load().BreakerOpenFor))
	b.enter(BreakerOpen)
}

// turns locks mu until the returned function is called, which logs, without the lock, the turn that
// was made meanwhile.
func (b *Breaker) turns() (unlock func()) {
	b.mu.Lock()
	before := b.word.Load()
	return func() {
		after := b.word.Load()
		b.mu.Unlock()
		if stateOf(after) == stateOf(before) {
			return
		}
		level, reason := logrus.InfoLevel, "every probe was answered"
		switch stateOf(after) {
		case BreakerOpen:
			level, reason = logrus.WarnLevel, b.Cause()
		case BreakerHalfOpen:
			reason = "its time is up, or the ledger has proved itself anew"
		default:
		}
		b.log.WithFields(logrus.Fields{
			"svc": b.name, "state": stateOf(after).String(), "before": stateOf(before).String(), "reason": reason,
		}).Log(level, "breaker_turned")
	}
}

// blame notes why a call failed.
func (b *Breaker) blame(err error) {
	why := cause(err)
	b.cause.Store(&why)
}

// Cause is why the last call that failed did; empty where none has.
func (b *Breaker) Cause() string {
	if why := b.cause.Load(); why != nil {
		return *why
	}
	return ""
}

// State is what the breaker does at present. An open one whose time is up stays open until a
// call comes to probe with.
func (b *Breaker) State() BreakerState { return stateOf(b.word.Load()) }

// Opened counts the openings.
func (b *Breaker) Opened() uint64 { return b.opened.Load() }

// fail counts a failure and opens the breaker on the last one that it bears. Under mu.
func (b *Breaker) fail() {
	b.forget()
	b.failures = append(b.failures, b.now())
	b.suspect.Store(true)
	b.report("failure")
	if len(b.failures) >= b.live.Load().BreakerErrors {
		b.open()
	}
}

// forget drops the failures that have left the window. Under mu.
func (b *Breaker) forget() {
	old, since := 0, b.now()-int64(breakerWindow)
	for old < len(b.failures) && b.failures[old] <= since {
		old++
	}
	b.failures = append(b.failures[:0], b.failures[old:]...)
}

// reassure tells hystrix, whose window is up to a second longer than ours, of a success where it
// has opened and we have not. Under mu.
func (b *Breaker) reassure() {
	if b.circuit.IsOpen() {
		b.report("success")
	}
	if b.forget(); len(b.failures) == 0 {
		b.suspect.Store(false)
	}
}

func (b *Breaker) open() {
	b.failures = b.failures[:0]
	b.openedAt.Store(b.now())
	b.opened.Add(1)
	b.enter(BreakerOpen)
}

func (b *Breaker) shut() {
	b.circuit.IsOpen() // opens it by the failures it holds, so that the success closes it and clears them
	b.report("success")
	b.suspect.Store(false)
	b.enter(BreakerClosed)
}

func (b *Breaker) enter(s BreakerState) {
	b.word.Store((b.word.Load()>>2+1)<<2 | uint64(s))
}

func stateOf(word uint64) BreakerState { return BreakerState(word & 3) }

// report feeds hystrix. Its error says that its buffer of 2,000 events was full: the stream then
// shows fewer, which changes no decision.
func (b *Breaker) report(event string) {
	_ = b.circuit.ReportEvent([]string{event}, time.Unix(0, b.now()), 0)
}

// adopt tells hystrix the thresholds that the stream shows.
func (b *Breaker) adopt(l *config.Limits) {
	hystrix.ConfigureCommand(b.name, hystrix.CommandConfig{
		Timeout:                int(l.LedgerTimeout.Milliseconds()),
		RequestVolumeThreshold: l.BreakerErrors,
		ErrorPercentThreshold:  1,
		SleepWindow:            int(l.BreakerOpenFor.Milliseconds()),
	})
	b.adopted.Store(l)
}

// maxStreams bounds the clients of the event stream.
const maxStreams = 4

// BreakerStream is hystrix' event stream of all breakers, for the admin listener: server-sent
// events, one a second and breaker. hystrix' collector runs while a client is connected; the
// stream ends with the request's context, so a server that shuts down ends it too.
func BreakerStream() http.Handler { return new(breakerStream) }

type breakerStream struct {
	mu      sync.Mutex
	clients int
	handler *hystrix.StreamHandler // runs while clients > 0
}

func (s *breakerStream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	flusher, ok := w.(http.Flusher)
	if !ok {
		http.Error(w, "streaming is not supported", http.StatusInternalServerError)
		return
	}
	h := s.enter()
	if h == nil {
		http.Error(w, "too many clients of this stream", http.StatusServiceUnavailable)
		return
	}
	defer s.leave()
	gone := make(chan bool, 1)
	stop := context.AfterFunc(r.Context(), func() { gone <- true })
	defer stop()
	h.ServeHTTP(streamWriter{w, flusher, gone}, r)
}

func (s *breakerStream) enter() *hystrix.StreamHandler {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients == maxStreams {
		return nil
	}
	if s.clients++; s.clients == 1 {
		s.handler = hystrix.NewStreamHandler() // a stopped one cannot be started again
		s.handler.Start()
	}
	return s.handler
}

func (s *breakerStream) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients--; s.clients == 0 {
		s.handler.Stop()
		s.handler = nil
	}
}

// streamWriter is what hystrix' handler asks of a response writer. It predates contexts.
type streamWriter struct {
	http.ResponseWriter
	http.Flusher
	gone <-chan bool
}

// CloseNotify signals that the request's context has ended.
func (w streamWriter) CloseNotify() <-chan bool { return w.gone }
