package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// Watch implements Ledger.
func (c *Client) Watch(ctx context.Context, from uint64, on func(wallet.Change)) error {
	return c.WatchBeat(ctx, from, on, nil, nil)
}

// Beat is the node's answer to a tick: every change that was durable when the tick was sent has
// been handed to the watcher.
type Beat struct {
	AsOf               int64  // local time when the tick was sent, Unix nanoseconds
	Seq                uint64 // version that the changes handed over reach
	ConservationOK     uint64 // the node's checks that found Σ balances = issued − burned
	ConservationFailed uint64 // and those that found money made or lost
	Stalled            bool   // the node cannot make commits durable
}

// WatchBeat is Watch with a tick every 25 ms. beat is told of each answer, in order with the
// changes. tick is told, before each tick, how long the node has left ticks unanswered for no other
// reason than its own; another goroutine calls it, the one that sends the ticks.
func (c *Client) WatchBeat(
	ctx context.Context, from uint64, on func(wallet.Change), beat func(Beat), tick func(silent time.Duration),
) error {
	l := c.link.Load()
	w := watching{
		client: c, link: l, ticks: ticks{now: c.opts.Now, kernel: l.carrier.kernel},
		known: c.evidence.now(), on: on, beat: beat, at: from,
	}
	outer := ctx
	ctx, cancel := l.watching(ctx)
	defer cancel(nil)
	stream, err := l.node.Watch(ctx)
	if err != nil {
		return watchError(ctx, err)
	}
	// An error of Send is the stream's, which Recv tells.
	_ = stream.Send(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_From{From: from}, History: c.copied(from)})
	if beat != nil {
		ended := make(chan struct{})
		defer func() { cancel(nil); <-ended }()
		go func() {
			defer close(ended)
			if err := w.ticks.send(ctx, stream, tick); err != nil {
				cancel(err)
			}
		}()
	}
	err = watchError(ctx, w.receive(ctx, stream))
	if l.gone.Err() != nil && !errors.Is(err, wire.ErrBacklog) && !errors.Is(err, wire.ErrLagged) {
		return errMoved // the connection may have been closed before ctx was
	}
	if beat != nil && outer.Err() == nil {
		l.unproved.Store(true) // nobody sees what comes back at its other end
	}
	return err
}

// copied is the history of a copy at version from; nil where there is no copy.
func (c *Client) copied(from uint64) []byte {
	if h := c.history.Load(); h != nil && from > 0 {
		return *h
	}
	return nil
}

type watchStream = grpc.BidiStreamingClient[ledgerpb.WatchRequest, ledgerpb.WatchResponse]

// watching is one stream. All but ticks belongs to the goroutine that receives.
type watching struct {
	client *Client
	link   *link
	ticks  ticks
	known  known // before the node was asked, so it must have that
	on     func(wallet.Change)
	beat   func(Beat)

	at     uint64      // version that was handed over
	newest uint64      // of the figures
	name   *ledgerName // nil: not told yet
	judged bool
}

func (w *watching) receive(ctx context.Context, stream watchStream) error {
	for {
		m, err := stream.Recv()
		if err == nil {
			err = w.take(ctx, m)
		}
		if err != nil {
			return err
		}
	}
}

func (w *watching) take(ctx context.Context, m *ledgerpb.WatchResponse) error {
	if h := m.GetHistory(); len(h) > 0 {
		w.client.history.Store(&h)
	}
	if w.name == nil {
		w.name = &ledgerName{m.GetLedger(), m.GetHistory()}
	}
	change, err := wire.DecodeChange(w.at, m)
	if err != nil {
		return err
	}
	if w.at = change.Seq; w.judged {
		w.client.saw(w.at)
	}
	for i := range change.Balances {
		w.newest = max(w.newest, change.Balances[i].Seq)
	}
	h := m.GetHeartbeat()
	if h == nil {
		w.on(change)
		return nil
	}
	if w.newest > w.at {
		// Such a figure would never be replaced, so the copy must go.
		return fmt.Errorf("%w: a figure of version %d in a stream at %d", wire.ErrBacklog, w.newest, w.at)
	}
	if len(change.Balances) > 0 {
		w.on(change)
	}
	return w.heartbeat(ctx, h)
}

func (w *watching) heartbeat(ctx context.Context, h *ledgerpb.Heartbeat) error {
	asOf, ok := w.ticks.answered(h.GetTick())
	if !ok {
		return fmt.Errorf("%w: heartbeat for a tick that is not due", wire.ErrMalformed)
	}
	if !w.judged { // by now the stream has told all that was durable when it was opened
		if err := w.client.judge(ctx, w.link, w.name, w.at, asOf, w.known); err != nil {
			return err
		}
		w.judged = true
	}
	w.link.answered.Store(asOf)
	if h.GetClock() > 0 {
		w.link.opening.Store(&opening{w.name.history, h.GetClock(), asOf})
	}
	w.beat(Beat{
		AsOf: asOf, Seq: w.at,
		ConservationOK: h.GetConservationOk(), ConservationFailed: h.GetConservationFailed(),
		Stalled: h.GetStalled(),
	})
	return nil
}

// watchError maps the stream's end to the errors of Ledger.Watch.
func watchError(ctx context.Context, err error) error {
	switch code := status.Code(err); {
	case errors.Is(err, wire.ErrBacklog): // what was handed over is wrong, whatever else has happened
		return fmt.Errorf("ledger watch: %w", err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return errors.New("ledger watch: the node ended the stream")
	case code == codes.OutOfRange:
		return fmt.Errorf("ledger watch: %w: %w", wire.ErrBacklog, err)
	case code == codes.ResourceExhausted:
		return fmt.Errorf("ledger watch: %w: %w", wire.ErrLagged, err)
	default:
		return fmt.Errorf("ledger watch: %w", err)
	}
}

// ticks are the ones sent and not yet answered. A tick's number is the local time when it was
// sent, made to grow, so an answer needs no table to tell its age; but it must be one of these.
type ticks struct {
	now    func() int64
	kernel func() kernel // nil: nothing is known of the connection

	mu      sync.Mutex
	due     []int64 // oldest first, at most maxTicks
	last    int64
	answers bool // since the last tick
}

// send ticks until ctx ends or the stream breaks. An error: the node answers none of them.
func (t *ticks) send(ctx context.Context, stream watchStream, told func(silent time.Duration)) error {
	clock := time.NewTicker(tickEvery) // drops what a starved process missed, so it never bursts
	defer clock.Stop()
	var s silence
	if t.kernel != nil {
		s.kernel = t.kernel()
	}
	for {
		tick, due, answered := t.next()
		silent := s.look(tick, answered, due > 0)
		if told != nil {
			told(silent)
		}
		if due >= maxTicks {
			return fmt.Errorf("ledger watch: %d ticks are unanswered", due)
		}
		ask := &ledgerpb.WatchRequest_Tick{Tick: uint64(tick)} //nolint:gosec // times after 1970
		if stream.Send(&ledgerpb.WatchRequest{Ask: ask}) != nil {
			return nil // Recv tells why
		}
		select {
		case <-ctx.Done():
			return nil
		case <-clock.C:
		}
	}
}

// next makes a tick and tells how many were due before it, and whether any was answered since the
// last one.
func (t *ticks) next() (tick int64, due int, answered bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	due, answered = len(t.due), t.answers
	t.answers = false
	t.last = max(t.now(), t.last+1)
	t.due = append(t.due, t.last)
	return t.last, due, answered
}

// answered settles a tick and the ones before it, which the same answer covers.
func (t *ticks) answered(tick uint64) (asOf int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.Index(t.due, int64(tick)) //nolint:gosec // times after 1970
	if i < 0 {
		return 0, false
	}
	t.due, t.answers = slices.Delete(t.due, 0, i+1), true
	return int64(tick), true //nolint:gosec // as above
}
