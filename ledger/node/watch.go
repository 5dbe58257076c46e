package node

import (
	"bytes"
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// Watch has three goroutines: this one sends, one receives ticks and one stands in the engine's
// watch. The receiver ends when this one returns, since that ends the stream; it keeps nothing.
func (s *server) Watch(stream ledgerpb.LedgerNode_WatchServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ask, ok := first.GetAsk().(*ledgerpb.WatchRequest_From)
	if !ok {
		return status.Error(codes.InvalidArgument, "the first message must name a version")
	}
	if otherHistory(ask.From, first.GetHistory(), s.identity.Opening[:]) {
		return s.status("watch", wire.ErrBacklog)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	changes, ended := make(chan wallet.Change), make(chan error, 1)
	go s.follow(ctx, ask.From, changes, ended)
	w := &watching{
		stream: stream, engine: s.engine, ticks: make(chan tick, 1),
		sent: ask.From, placed: ask.From > 0 && ask.From <= s.engine.Seq(), untold: &s.identity,
	}
	go w.receive()
	err, followed := w.send(changes, ended, s.serving.Done())
	cancel()
	if !followed {
		<-ended //nolint:errcheck // it ended because ctx did
	}
	return s.status("watch", err)
}

// follow stands in the engine's watch. Its blocking is what makes a slow reader lag.
func (s *server) follow(ctx context.Context, from uint64, changes chan<- wallet.Change, ended chan<- error) {
	err := errors.New("node: watch panicked")
	defer func() {
		if p := recover(); p != nil {
			s.logPanic(p)
		}
		ended <- err
	}()
	err = s.engine.Watch(ctx, from, func(c wallet.Change) {
		select {
		case changes <- c:
		case <-ctx.Done():
		}
	})
}

type watching struct {
	stream ledgerpb.LedgerNode_WatchServer
	engine Engine
	ticks  chan tick // room for one

	// The sender's.
	sent   uint64    // version that the caller has
	placed bool      // which is known: from 0 on, the engine's first change says it
	untold *Identity // to be told yet
}

// otherHistory says that a copy at version from is not of this history. A copy that does not say
// what it is of is its owner's business.
func otherHistory(from uint64, copied, ours []byte) bool {
	return from > 0 && len(copied) > 0 && !bytes.Equal(copied, ours)
}

// tick is answered once the version that was durable at its receipt has been sent.
type tick struct{ id, due uint64 }

// receive keeps only the newest of the ticks that wait: it vouches for more than those before it.
// It ends with the stream; what is no tick is ignored, for later versions of the protocol.
func (w *watching) receive() {
	for {
		req, err := w.stream.Recv()
		if err != nil {
			return
		}
		ask, ok := req.GetAsk().(*ledgerpb.WatchRequest_Tick)
		if !ok {
			continue
		}
		select {
		case <-w.ticks: // the sender did not come to it
		default:
		}
		w.ticks <- tick{ask.Tick, w.engine.Seq()} // room: only this goroutine adds
	}
}

// send sends changes and heartbeats until one of the three ends it; followed says that it was the
// engine's watch.
func (w *watching) send(changes <-chan wallet.Change, ended <-chan error, closing <-chan struct{}) (err error, followed bool) {
	var pending *tick // takes no newer one until answered, so that a late sender still sends beats
	for {
		ticks := w.ticks
		if pending != nil {
			ticks = nil
		}
		select {
		case c := <-changes:
			if err := w.sendChange(c); err != nil {
				return err, false
			}
		case t := <-ticks:
			pending = &t
		case err := <-ended:
			return err, true
		case <-closing:
			return ErrClosed, false
		}
		if pending != nil && w.placed && w.sent >= pending.due {
			if err := w.sendBeat(pending.id); err != nil {
				return err, false
			}
			pending = nil
		}
	}
}

// sendChange cuts a large change into messages: until the last, the caller has what it had.
func (w *watching) sendChange(c wallet.Change) error {
	for len(c.Balances) > maxWatchChunk {
		if err := w.tell(&ledgerpb.WatchResponse{Seq: w.sent, Balances: wire.EncodeBalances(c.Balances[:maxWatchChunk])}); err != nil {
			return err
		}
		c.Balances = c.Balances[maxWatchChunk:]
	}
	w.sent, w.placed = c.Seq, true
	return w.tell(&ledgerpb.WatchResponse{Seq: c.Seq, Balances: wire.EncodeBalances(c.Balances)})
}

func (w *watching) sendBeat(id uint64) error {
	s := w.engine.Stats()
	return w.tell(&ledgerpb.WatchResponse{Seq: w.sent, Heartbeat: &ledgerpb.Heartbeat{
		Tick: id, Clock: w.engine.Clock(), Stalled: s.Stalled,
		ConservationOk: s.ConservationOK, ConservationFailed: s.ConservationFailed,
	}})
}

// tell sends m, the first one with the names.
func (w *watching) tell(m *ledgerpb.WatchResponse) error {
	if w.untold != nil {
		m.History, m.Ledger = w.untold.Opening[:], w.untold.Ledger[:]
		w.untold = nil
	}
	return w.stream.Send(m)
}
