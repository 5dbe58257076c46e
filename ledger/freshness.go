package ledger

import (
	"context"
	"sync"
	"sync/atomic"

	"svc-wallet/config"
	"svc-wallet/host"
)

// How fresh a figure is, and what is done for it, follows from what the watch stream says of the ledger
// and from what the copy in memory holds. The ledger is in one of these states:
//
//	state   means                                 ends by                 a read that memory cannot answer
//	unseen  nothing has been heard yet            the first heartbeat     is looked up
//	up      heartbeats come                       -                       is looked up
//	lost    there is no stream                    a heartbeat of the next is looked up, waits `brief`, then takes an older figure
//	stuck   heartbeats say that its disk hangs    one that does not       takes an older figure, or is looked up as above
//	silent  no heartbeat for StallAfter           any heartbeat           takes an older figure, or is refused at once
//
// Memory answers, in every state, with what is within Limits.StalenessWindow; an older figure is one up
// to MaxStale. Up alone is healthy: in the others /readyz is 503 and payments are refused. A doubt about
// the ledger (doubt.go) comes before all of this, and nothing is read then.
//
// The copy (cache.go), by what happens; E is the stream's epoch, S its version:
//
//	event                  lease (what memory is as of)  shard epoch, floor  an entry                     a lookup under way
//	start afresh           none                          0, 0                all go                       its answer is void
//	E's first message      E, S                          E, S                -                            -
//	change to S            E, S                          floor S             takes the figure, epoch E    keeps the figure as known
//	heartbeat              E, S, as of its tick          -                   epoch E: as of the lease     -
//	stream lost            stays                         stay                only ages                    goes on
//	a lookup's answer      -                             -                   enters unless below floor    ends; below its floor it is too old
//	a payment's result     -                             floor, if unknown   takes a later version        keeps the figure as known
//	a replay's result      -                             floor               below it: goes               its floor
//
// A stream that is lost and comes back goes on at S in the same epoch, so entries are current again
// with its first heartbeat.
type ledgerState uint8

const (
	ledgerUnseen ledgerState = iota
	ledgerUp
	ledgerLost
	ledgerStuck
	ledgerSilent
)

// condition is what is known of the ledger at one moment. It is immutable.
type condition struct {
	state ledgerState
	why   string          // it is not up
	ctx   context.Context //nolint:containedctx // no call's: over where reads are not to wait, be it only for these ones
	over  context.CancelFunc
}

func newCondition(s ledgerState, why string) *condition {
	ctx, over := context.WithCancel(context.Background())
	return &condition{s, why, ctx, over}
}

// freshness holds the present condition.
type freshness struct {
	mu  sync.Mutex // of turns
	now atomic.Pointer[condition]
}

// turn takes over the next condition, and says whether the ledger is up now and was not, or the other
// way round. Reads that wait are told where it is up no more, and where it falls silent; later ones wait
// again unless it is silent.
func (f *freshness) turn(s ledgerState, why string) (turned bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.now.Load()
	if old.state == s && old.why == why {
		return false
	}
	next := &condition{s, why, old.ctx, old.over}
	tell := old.state == ledgerUp || s == ledgerSilent
	if s != ledgerSilent && (tell || old.state == ledgerSilent) {
		next = newCondition(s, why)
	}
	f.now.Store(next) // first, so that who is told sees it
	if tell {
		old.over()
	}
	return (old.state == ledgerUp) != (s == ledgerUp)
}

func (r *Reader) ledgerIs() *condition { return r.freshness.now.Load() }

// turn notes what was heard of the ledger. The stream's goroutine and the one that sends its ticks
// call it.
func (r *Reader) turn(s ledgerState, why string) {
	if r.freshness.turn(s, why) && r.opts.OnTurn != nil {
		r.opts.OnTurn()
	}
}

// away is turn for what operators are to know: each cause is logged once, and then, with how often it
// came again, at most once a minute.
func (r *Reader) away(s ledgerState, why string) {
	if c := r.ledgerIs(); s == ledgerLost && c.state == ledgerLost {
		why = telling(c.why, why)
	}
	if fields, tell := r.told.Tell(why, r.opts.Now()); tell {
		fields["reason"] = why
		r.opts.Log.WithFields(fields).Warn("ledger_away")
	}
	r.turn(s, why)
}

// stalled says that the ledger is there and does not go on: a lookup would hang like its heartbeats.
func (c *condition) stalled() bool { return c.state == ledgerStuck || c.state == ledgerSilent }

// patience is until when a read waits for the ledger: little where it is known to be away.
func (r *Reader) patience(deadline int64) int64 {
	if c := r.ledgerIs(); c.state == ledgerUp || c.state == ledgerUnseen {
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
	lost := r.ledgerIs().ctx
	if r.Seq() >= seq {
		return true
	}
	defer r.outrun.Add(-1)
	if r.outrun.Add(1) > outrunRoom(l) || r.beyond(seq) {
		return false
	}
	deadline = min(r.patience(deadline), r.opts.Now()+int64(outrunWait))
	for n := 0; r.Seq() < seq; n++ {
		wait := again.Pause(n)
		if r.opts.Now()+int64(wait) >= deadline || !host.Sleep(lost, wait) {
			return false
		}
	}
	return true
}

// Healthy says whether the ledger answers: its stream is up and so are its heartbeats. A stall
// shows within ReaderOptions.StallAfter and two ticks.
func (r *Reader) Healthy() bool { return r.ledgerIs().state == ledgerUp }

// Stalled says that the ledger is there and does not go on.
func (r *Reader) Stalled() bool { return r.ledgerIs().stalled() }

// Seen says that something is known of the ledger, be it that it is away.
func (r *Reader) Seen() bool { return r.ledgerIs().state != ledgerUnseen }

// Why is why the ledger does not answer, in one line; empty where it does.
func (r *Reader) Why() string {
	if c := r.ledgerIs(); c.state != ledgerUnseen {
		return c.why
	}
	return causeUnseen
}
