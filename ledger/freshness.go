package ledger

import (
	"context"
	"sync"
	"sync/atomic"

	"svc-wallet/config"
)

// up notes that the ledger answers.
func (r *Reader) up() {
	if r.healthy.Swap(true) {
		return
	}
	r.turned()
}

// away notes that it does not, and why. Both the stream's goroutine and the one that sends its ticks
// call it.
func (r *Reader) away(why string, tell bool) {
	if old := r.why.Load(); old == nil || *old != why {
		r.why.Store(&why)
	}
	if tell {
		r.causes.tell(r.opts.Log, why, r.opts.Now())
	}
	if !r.healthy.Swap(false) {
		return
	}
	if r.hush.now().Err() == nil { // reads that wait are told, later ones may ask
		r.hush.turn(true)
		r.hush.turn(false)
	}
	r.turned()
}

func (r *Reader) turned() {
	if r.opts.OnTurn != nil {
		r.opts.OnTurn()
	}
}

// patience is until when a read waits for the ledger: little where it is known to be away.
func (r *Reader) patience(deadline int64) int64 {
	if r.healthy.Load() || r.why.Load() == nil {
		return deadline
	}
	return min(deadline, r.opts.Now()+int64(brief))
}

// beyond says that the ledger cannot reach version seq soon: its stream is current, and further
// below than what can be on its way, which is a second's worth at the pace of late, and a batch.
func (r *Reader) beyond(seq uint64) bool {
	l := r.lease.Load()
	return l.epoch > 0 && seq > l.seq && seq-l.seq > r.stride.Load()+outrunBatch && r.Healthy()
}

// outrunRoom is how many reads may wait for a version under l.
func outrunRoom(l *config.Limits) int64 {
	return int64(min(outrunMost, max(1, l.InFlight/outrunShare)))
}

// reach waits for the stream to come to version seq; false where that does not happen soon.
func (r *Reader) reach(seq uint64, l *config.Limits, deadline int64) bool {
	lost := r.hush.now()
	if r.Seq() >= seq {
		return true
	}
	defer r.outrun.Add(-1)
	if r.outrun.Add(1) > outrunRoom(l) || r.beyond(seq) {
		return false
	}
	deadline = min(r.patience(deadline), r.opts.Now()+int64(outrunWait))
	for wait := againFirst; r.Seq() < seq; wait = min(2*wait, againMost) {
		if r.opts.Now()+int64(wait) >= deadline || !sleep(lost, wait) {
			return false
		}
	}
	return true
}

// Healthy says whether the ledger answers: its stream is up and so are its heartbeats. A stall
// shows within ReaderOptions.StallAfter and two ticks.
func (r *Reader) Healthy() bool { return r.healthy.Load() }

// Stalled says that the ledger is there and does not go on.
func (r *Reader) Stalled() bool { return r.stalled.Load() }

// Seen says that something is known of the ledger, be it that it is away.
func (r *Reader) Seen() bool { return r.healthy.Load() || r.why.Load() != nil }

// Why is why the ledger does not answer, in one line; empty where it does.
func (r *Reader) Why() string {
	switch why := r.why.Load(); {
	case r.healthy.Load():
		return ""
	case why == nil:
		return causeUnseen
	default:
		return *why
	}
}

// hush tells reads that the ledger has fallen silent, so that none waits for it until its own time is
// up. turn is called first.
type hush struct {
	mu   sync.Mutex // of turns
	at   atomic.Pointer[context.Context]
	fall context.CancelFunc
}

// now is a context that is over while the ledger is silent, or ends when it falls so.
func (h *hush) now() context.Context { return *h.at.Load() }

// turn notes whether the ledger is silent.
func (h *hush) turn(silent bool) {
	if at := h.at.Load(); at != nil && ((*at).Err() != nil) == silent {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.at.Load()
	switch {
	case at != nil && ((*at).Err() != nil) == silent:
	case silent:
		h.fall()
	default:
		ctx, fall := context.WithCancel(context.Background())
		h.fall = fall
		h.at.Store(&ctx)
	}
}
