package ledger

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

const (
	// maxMessage bounds a message: the 4 MiB that gRPC is used to, and 1 KiB for each of the 4,096
	// transfers that the largest batch may have (one takes at most 0.5 KiB, its result 0.8).
	maxMessage = 4<<20 + 4096<<10

	// window is HTTP/2's: a batch fits it, so it never waits for a window update.
	window = 1 << 20

	tickEvery = 25 * time.Millisecond
	maxTicks  = 1024 // unanswered ones, 25 s: then the stream is dead
	maxCorrs  = 16   // requests that a lookup names

	// deadAfter is how long sent bytes may stay unacknowledged before the connection is given up
	// (grpc-go sets TCP_USER_TIMEOUT to it). Ticks see to it that there are always such bytes.
	deadAfter = 2 * time.Second
)

// DialOptions are what a Client may have besides an address.
type DialOptions struct {
	TLS            func() *tls.Config   // for each handshake; nil: plain, which TCP allows to loopback only
	Timeout        func() time.Duration // of a call whose context has no deadline; nil: none
	ConnectTimeout func() time.Duration // of a connection made later; nil: 1 s
	Now            func() int64         // Unix nanoseconds, never backwards
	Log            logrus.FieldLogger   // nil: nothing is logged
	OnUp           func()               // is told when an endpoint has proved itself, after a move or anew; nil: nobody
	OnDoubt        func()               // is told when the ledger in use is not the one paid into; nil: nobody
}

// Client is the Ledger at the other end of a gRPC connection. It keeps one connection and looks
// for a lost node every 50 ms to 1 s; calls fail at once while there is none. It does not retry:
// that is its callers' business. While Run runs it moves between the endpoints of SetEndpoints.
type Client struct {
	opts    DialOptions
	dialled string // the address given to Dial
	pace    pace

	link     atomic.Pointer[link] // in use; written under mu
	standing standing
	doubt    atomic.Pointer[Doubt] // nil: none; written under mu
	doubts   [NumDoubts]atomic.Uint64

	// history is what the last watch stream told of; versions of another one mean nothing here.
	// So a Client vouches for one copy at a time.
	history atomic.Pointer[[]byte]

	moves, refused atomic.Uint64
	states         atomic.Pointer[[]EndpointState]
	wake           chan struct{} // room for one: wanted has changed

	mu      sync.Mutex
	wanted  []string                // preferred first, never empty
	warming string                  // the endpoint that Run waits for
	giveUp  context.CancelCauseFunc // ends that wait
	retired []*link                 // not yet closed, at most maxRetired
	closed  bool
}

var _ Ledger = (*Client)(nil)

// Dial makes a client of the node at addr, `unix:PATH` or `HOST:PORT`. It does not wait for the
// node to be there. Close ends it.
func Dial(addr string, opts DialOptions) (*Client, error) {
	opts.Log = orSilent(opts.Log)
	c := &Client{opts: opts, dialled: addr, wake: make(chan struct{}, 1), pace: usualPace}
	l, err := connect(addr, &c.opts)
	if err != nil {
		return nil, err
	}
	c.link.Store(l)
	c.wanted = []string{addr}
	c.states.Store(&[]EndpointState{{Addr: addr, Status: EndpointInUse}})
	return c, nil
}

// Close ends the connections and all calls.
func (c *Client) Close() error {
	c.mu.Lock()
	open := append(c.retired, c.link.Load())
	c.closed, c.retired = true, nil
	c.mu.Unlock()
	var errs []error
	for _, l := range open {
		errs = append(errs, l.conn.Close())
	}
	return errors.Join(errs...)
}

// Commit implements Ledger. It is meant for the opening of the ledger that the last stream told of,
// until the attempt's time is over. What the node says that it did not take up counts as not sent.
func (c *Client) Commit(ctx context.Context, batch []wallet.Transfer, out []wallet.Result) error {
	req := wire.EncodeCommit(batch)
	err := c.call(ctx, OpCommit, func(ctx context.Context, l *link, a *attempt) error {
		if err := c.barred(l); err != nil {
			return err
		}
		c.fence(ctx, l, a)
		req.History, req.Clock = a.history, a.last
		res, err := l.node.Commit(ctx, req)
		if a.last > 0 && status.Code(err) == codes.Aborted {
			return fmt.Errorf("%w: %w", wire.ErrLate, err)
		}
		if err != nil {
			return err
		}
		a.clock = res.GetClock()
		return wire.DecodeCommit(batch, res, out)
	})
	if err == nil {
		c.standing.committed(out)
	}
	if !errors.Is(err, ErrNotSent) && !c.standing.paid.Load() {
		c.standing.paid.Store(true)
	}
	return err
}

// fence notes for how long the call may be taken up: for as long as its caller waits.
func (c *Client) fence(ctx context.Context, l *link, a *attempt) {
	patience := lostLimit
	if deadline, has := ctx.Deadline(); has {
		patience = max(time.Until(deadline), 0)
	}
	now := c.opts.Now()
	a.until = now + int64(patience+lostMargin)
	if o := l.opening.Load(); o != nil {
		a.history, a.last = o.history, o.at(now+int64(patience))
	}
}

// Lookup implements Ledger.
func (c *Client) Lookup(ctx context.Context, keys []wallet.BalanceKey, out []wallet.Balance) error {
	req := wire.EncodeLookup(keys)
	return c.read(ctx, OpLookup, func(ctx context.Context, l *link) error {
		res, err := l.node.Lookup(ctx, req)
		if err != nil {
			return err
		}
		return wire.DecodeLookup(keys, res, out)
	})
}

// Transaction implements Ledger.
func (c *Client) Transaction(ctx context.Context, txid wallet.TxID) (wallet.Receipt, uint64, error) {
	return c.transaction(ctx, &ledgerpb.TransactionRequest{Txid: txid[:]}, func(r *wallet.Receipt) bool { return r.TxID == txid })
}

// Payment implements Ledger.
func (c *Client) Payment(ctx context.Context, account wallet.Account, key wallet.IdemKey) (wallet.Receipt, uint64, error) {
	req := &ledgerpb.TransactionRequest{Account: account.String(), IdempotencyKey: key.String()}
	return c.transaction(ctx, req, func(r *wallet.Receipt) bool { return r.Holder() == account && r.Idem == key })
}

// transaction asks for a receipt; asked says whether an answer is the one that was asked for.
func (c *Client) transaction(
	ctx context.Context, req *ledgerpb.TransactionRequest, asked func(*wallet.Receipt) bool,
) (r wallet.Receipt, seq uint64, err error) {
	err = c.read(ctx, OpTransaction, func(ctx context.Context, l *link) error {
		res, err := l.node.Transaction(ctx, req)
		if status.Code(err) == codes.NotFound {
			return wallet.NotFound
		}
		if err != nil {
			return err
		}
		r, seq, err = wire.DecodeReceipt(res, asked)
		return err
	})
	return r, seq, err
}

// read is call for what is told to a client: only by a ledger that is not in doubt, neither before it
// is asked nor after. What came back in between may have answered.
func (c *Client) read(ctx context.Context, op Op, do func(context.Context, *link) error) error {
	return c.call(ctx, op, func(ctx context.Context, l *link, _ *attempt) error {
		if err := c.vouched(ctx, l); err != nil {
			return err
		}
		err := do(ctx, l)
		if err == nil || errors.Is(err, wallet.NotFound) {
			if barred := c.barred(l); barred != nil {
				return barred
			}
		}
		return err
	})
}

// call makes a unary call. Its error is wallet.NotFound as it is, or says what was attempted and
// wraps ErrNotSent, context.DeadlineExceeded or neither.
func (c *Client) call(ctx context.Context, op Op, do func(context.Context, *link, *attempt) error) error {
	if _, has := ctx.Deadline(); !has && c.opts.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.Timeout())
		defer cancel()
	}
	a, _ := ctx.Value(attemptKey{}).(*attempt)
	if a == nil {
		a = new(attempt)
		ctx = context.WithValue(ctx, attemptKey{}, a)
	}
	l := c.enter()
	defer l.leave()
	err := do(named(ctx), l, a)
	switch {
	case err == nil, errors.Is(err, wallet.NotFound):
		return err
	case !a.sent.Load(), errors.Is(err, wire.ErrLate):
		return fmt.Errorf("ledger %s: %w: %w", op, ErrNotSent, err)
	case status.Code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("ledger %s: %w: %w", op, context.DeadlineExceeded, err)
	case status.Code(err) == codes.DataLoss:
		return fmt.Errorf("ledger %s: %w: %w", op, wire.ErrDamaged, err)
	default:
		return fmt.Errorf("ledger %s: %w", op, err)
	}
}

// sentHandler notes that a call's request was handed to the connection. gRPC raises OutPayload in
// the calling goroutine, after the whole message was queued for writing and before the call can
// return; no other path writes it. So without the event the node has seen headers at most, and a
// call without a message does nothing. gRPC's transparent retry, which WithDisableRetry leaves on,
// repeats only what the node has not processed, under a context made of the same one, so the mark
// covers all its attempts. (grpc v1.85: csAttempt.sendMsg; TestNotSent.)
type sentHandler struct{}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutPayload); ok {
		if a, ok := ctx.Value(attemptKey{}).(*attempt); ok {
			a.sent.Store(true)
		}
	}
}

func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sentHandler) HandleConn(context.Context, stats.ConnStats)                       {}

// originsKey is where a context keeps the requests that a call serves.
type originsKey struct{}

// withOrigins says which requests a lookup or transaction call serves. (A commit says it in each
// transfer.)
func withOrigins(ctx context.Context, origins []wallet.Origin) context.Context {
	return context.WithValue(ctx, originsKey{}, origins)
}

// named puts the origins into the call's metadata: x-corr-id for each request, up to 16, and the
// first traceparent, which cannot be repeated.
func named(ctx context.Context) context.Context {
	origins, _ := ctx.Value(originsKey{}).([]wallet.Origin)
	md := metadata.MD{}
	for i := range min(len(origins), maxCorrs) {
		if o := &origins[i]; !o.Corr.IsZero() {
			md.Append("x-corr-id", o.Corr.String())
		}
		if o := &origins[i]; !o.Trace.IsZero() && len(md["traceparent"]) == 0 {
			md.Set("traceparent", o.Trace.String())
		}
	}
	if len(md) == 0 {
		return ctx
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// Watch implements Ledger.
func (c *Client) Watch(ctx context.Context, from uint64, on func(wallet.Change)) error {
	return c.watch(ctx, from, on, nil, nil)
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
	return c.watch(ctx, from, on, beat, tick)
}

type watchStream = grpc.BidiStreamingClient[ledgerpb.WatchRequest, ledgerpb.WatchResponse]

func (c *Client) watch(
	ctx context.Context, from uint64, on func(wallet.Change), beat func(Beat), tick func(time.Duration),
) error {
	l, known := c.link.Load(), c.standing.known() // known before the node is asked, so it must have that
	outer := ctx
	ctx, cancel, stop := l.watching(ctx)
	defer stop()
	stream, err := l.node.Watch(ctx)
	if err != nil {
		return watchError(ctx, err)
	}
	// An error of Send is the stream's, which Recv tells.
	_ = stream.Send(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_From{From: from}, History: c.copied(from)})
	t := ticks{now: c.opts.Now, kernel: l.carrier.kernel}
	if beat != nil {
		ended := make(chan struct{})
		defer func() { cancel(nil); <-ended }()
		go func() {
			defer close(ended)
			if err := t.send(ctx, stream, tick); err != nil {
				cancel(err)
			}
		}()
	}
	err = watchError(ctx, c.receive(ctx, l, stream, from, &t, known, on, beat))
	if l.isRetired() && !errors.Is(err, wire.ErrBacklog) && !errors.Is(err, wire.ErrLagged) {
		return errMoved // the connection may have been closed before ctx was
	}
	if beat != nil && outer.Err() == nil {
		l.unproved.Store(true) // nobody sees what comes back at its other end
	}
	return err
}

// Await waits for d, but where the connection is lost no longer than until there is one again; false if
// ctx ended first.
func (c *Client) Await(ctx context.Context, d time.Duration) bool { return c.link.Load().await(ctx, d) }

// copied is the history of a copy at version from; nil where there is no copy.
func (c *Client) copied(from uint64) []byte {
	if h := c.history.Load(); h != nil && from > 0 {
		return *h
	}
	return nil
}

func (c *Client) receive(
	ctx context.Context, l *link, stream watchStream, at uint64, t *ticks, known known,
	on func(wallet.Change), beat func(Beat),
) error {
	var newest uint64 // of the figures
	var name *ledgerName
	judged := false
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if h := m.GetHistory(); len(h) > 0 {
			c.history.Store(&h)
		}
		if name == nil {
			name = &ledgerName{m.GetLedger(), m.GetHistory()}
		}
		change, err := wire.DecodeChange(at, m)
		if err != nil {
			return err
		}
		at = change.Seq
		if judged {
			c.saw(at)
		}
		for i := range change.Balances {
			newest = max(newest, change.Balances[i].Seq)
		}
		h := m.GetHeartbeat()
		if h != nil && newest > at {
			// Such a figure would never be replaced, so the copy must go.
			return fmt.Errorf("%w: a figure of version %d in a stream at %d", wire.ErrBacklog, newest, at)
		}
		if len(change.Balances) > 0 || h == nil {
			on(change)
		}
		if h == nil {
			continue
		}
		asOf, ok := t.answered(h.GetTick())
		if !ok {
			return fmt.Errorf("%w: heartbeat for a tick that is not due", wire.ErrMalformed)
		}
		if !judged { // by now the stream has told all that was durable when it was opened
			if err := c.judge(ctx, l, name, at, asOf, known); err != nil {
				return err
			}
			judged = true
		}
		l.answered.Store(asOf)
		if h.GetClock() > 0 {
			l.opening.Store(&opening{name.history, h.GetClock(), asOf})
		}
		beat(Beat{
			AsOf: asOf, Seq: change.Seq,
			ConservationOK: h.GetConservationOk(), ConservationFailed: h.GetConservationFailed(),
			Stalled: h.GetStalled(),
		})
	}
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
	for i, due := range t.due {
		if uint64(due) == tick { //nolint:gosec // times after 1970
			t.due = append(t.due[:0], t.due[i+1:]...)
			t.answers = true
			return due, true
		}
	}
	return 0, false
}
