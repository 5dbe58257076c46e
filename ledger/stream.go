package ledger

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"svc-wallet/host"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// Run keeps the cache current by the ledger's watch stream until ctx ends, and then waits for the
// lookups under way. Afterwards only cached balances are served.
//
// A move of the client to another endpoint ends the stream on purpose, and the next one is up at
// once, so Healthy goes on. A copy that is of another history than the node's starts afresh at once,
// too. After any other end the next stream waits, but no longer than for the connection.
func (r *Reader) Run(ctx context.Context) error {
	defer r.queue.close(context.WithoutCancel(ctx), nil)
	s := stream{reader: r}
	moved, refused := false, false // how the last stream ended: by a move, because of the copy
	for n := 0; ; n++ {
		s.current = false
		err := s.follow(ctx)
		stale := errors.Is(err, wire.ErrBacklog)
		startOver := stale && (moved || (!s.current && !refused))
		moved, refused = errors.Is(err, errMoved), stale
		failed := !moved && !startOver
		if ctx.Err() != nil {
			r.turn(ledgerLost, cause(err))
			return nil
		}
		if failed {
			r.away(ledgerLost, cause(err))
		}
		if errors.Is(err, wire.ErrLagged) {
			r.lagged.Add(1)
		}
		if errors.Is(err, wire.ErrLagged) || stale {
			s.restart()
		}
		if s.current { // it worked for a while
			n = 0
		}
		if !failed {
			continue
		}
		r.reconnects.Add(1)
		if !r.rest(ctx, rand.N(reconnect.Pause(n))) { //nolint:gosec // jitter is no secret
			return nil
		}
	}
}

// rest waits before the stream is opened anew.
func (r *Reader) rest(ctx context.Context, d time.Duration) bool {
	if c, ok := r.ledger.(connector); ok {
		return c.Await(ctx, d)
	}
	return host.Sleep(ctx, d)
}

// stream is Run's side of the watch stream, and its goroutine's own.
type stream struct {
	reader  *Reader
	epoch   uint32 // grows when the copy starts afresh
	based   bool   // the stream has told its position in this epoch
	seq     uint64 // and this is it
	asOf    int64
	current bool // this connection has brought something
	stride  stride
}

// follow watches until the stream breaks. The next one goes on where it ended, so the cache stays
// as it is; but version 0 means the present one to the ledger, so from there it starts afresh.
func (s *stream) follow(ctx context.Context) error {
	if s.seq == 0 {
		s.restart()
	}
	if w, ok := s.reader.ledger.(beater); ok {
		return w.WatchBeat(ctx, s.seq, s.change, s.beat, s.tick)
	}
	s.reader.turn(ledgerUp, "")
	return s.reader.ledger.Watch(ctx, s.seq, s.change)
}

// restart forgets the copy. The lease goes first: nothing is served by it that is not maintained.
func (s *stream) restart() {
	s.reader.lease.Store(&lease{})
	s.reader.cache.clear()
	s.epoch, s.based, s.seq, s.asOf, s.stride = s.epoch+1, false, 0, 0, stride{}
}

func (s *stream) change(c wallet.Change) {
	s.reach(c.Seq)
	s.reader.cache.apply(&c)
	s.publish()
}

func (s *stream) beat(b Beat) {
	s.reach(b.Seq)
	s.asOf = max(s.asOf, b.AsOf)
	s.publish()
	s.reader.conservationOK.Store(b.ConservationOK)
	s.reader.conservationFailed.Store(b.ConservationFailed)
	if b.Stalled {
		s.reader.away(ledgerStuck, causeDisk)
		return
	}
	s.reader.turn(ledgerUp, "")
}

// reach notes the position. The first one of an epoch is where the stream's care begins: whatever
// has changed after it will pass.
func (s *stream) reach(seq uint64) {
	s.current = true
	s.seq = max(s.seq, seq)
	if !s.based {
		s.based = true
		s.reader.cache.begin(s.epoch, seq)
	}
}

// publish lets reads see the position, after the cache holds what it says.
func (s *stream) publish() {
	s.reader.stride.Store(s.stride.pass(s.seq, s.reader.opts.Now()))
	s.reader.lease.Store(&lease{epoch: s.epoch, asOf: s.asOf, seq: s.seq})
}

// stride measures how many versions the stream passes in a second.
type stride struct {
	since  int64  // when the present second began
	from   uint64 // and at which version
	before uint64 // versions that the last one brought
}

// pass notes the position, and returns how many versions a second has brought of late.
func (s *stride) pass(seq uint64, now int64) uint64 {
	switch passed := now - s.since; {
	case s.since == 0:
		*s = stride{since: now, from: seq}
	case passed >= int64(outrunWait):
		*s = stride{since: now, from: seq, before: seq - s.from}
	}
	return max(s.before, seq-s.from)
}

// tick is called by the goroutine that sends the ticks. The last half of a tick is forgiven, so
// that a stall shows at the tick that comes nearest to the setting.
func (s *stream) tick(silent time.Duration) {
	if silent+tickEvery/2 >= s.reader.opts.StallAfter {
		s.reader.away(ledgerSilent, causeStall)
	}
}
