package ledger

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
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
	// payments that the largest batch may have (one takes at most 0.5 KiB, its result 0.8).
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
	evidence evidence
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
	c.states.Store(&[]EndpointState{{Addr: addr, Status: endpointInUse}})
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
func (c *Client) Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error {
	req := wire.EncodeCommit(batch)
	err := c.call(ctx, methodCommit, func(ctx context.Context, l *link, a *attempt) error {
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
	switch {
	case err == nil:
		c.evidence.committed(out)
	case !errors.Is(err, ErrNotSent):
		c.evidence.committed(nil)
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
	return c.read(ctx, methodLookup, func(ctx context.Context, l *link) error {
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
	err = c.read(ctx, methodTransaction, func(ctx context.Context, l *link) error {
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
func (c *Client) read(ctx context.Context, m Method, do func(context.Context, *link) error) error {
	return c.call(ctx, m, func(ctx context.Context, l *link, _ *attempt) error {
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
func (c *Client) call(ctx context.Context, m Method, do func(context.Context, *link, *attempt) error) error {
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
		return fmt.Errorf("ledger %s: %w: %w", m, ErrNotSent, err)
	case status.Code(err) == codes.DeadlineExceeded:
		return fmt.Errorf("ledger %s: %w: %w", m, context.DeadlineExceeded, err)
	case status.Code(err) == codes.DataLoss:
		return fmt.Errorf("ledger %s: %w: %w", m, wire.ErrDamaged, err)
	default:
		return fmt.Errorf("ledger %s: %w", m, err)
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

func (sentHandler) HandleConn(context.Context, stats.ConnStats) {}

// originsKey is where a context keeps the requests that a call serves.
type originsKey struct{}

// withOrigins says which requests a lookup or transaction call serves. (A commit says it in each
// payment.)
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
