package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/wallet"
)

// evidence is what this process knows of the ledger that it pays into, by which it tells whether
// another endpoint is of the same one (docs/decisions/019-one-ledger-for-a-process.md).
type evidence struct {
	mu sync.Mutex
	known
}

// known is what a process knows of its ledger at one moment.
type known struct {
	name *ledgerName // what the last stream told; nil: none has told anything
	seen uint64      // the highest version that a commit or a stream told
	last commit      // the newest one that was acknowledged to this process
	paid bool        // a payment may have been sent
}

// ledgerName is what the first message of a watch stream tells; either may be empty.
type ledgerName struct{ ledger, history []byte }

type commit struct {
	seq  uint64
	txid wallet.TxID
}

// errUnfit is wrapped by what is wrong with an endpoint that answers.
var errUnfit = errors.New("not to be used")

// same says whether both are names of one ledger. A name that is not told is nobody's.
func (n *ledgerName) same(m *ledgerName) bool {
	if len(n.ledger) > 0 && len(m.ledger) > 0 {
		return bytes.Equal(n.ledger, m.ledger)
	}
	return len(n.history) > 0 && bytes.Equal(n.history, m.history)
}

// saw notes a version that the ledger has told.
func (e *evidence) saw(seq uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = max(e.seen, seq)
}

// committed notes that a batch may have been sent, and the newest commit in its results, which are nil
// where it was not answered.
func (e *evidence) committed(out []wallet.Result) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.paid = true
	for i := range out {
		if r := &out[i]; r.Seq > e.last.seq {
			e.last = commit{r.Seq, r.Receipt.TxID}
		}
	}
	e.seen = max(e.seen, e.last.seq)
}

func (e *evidence) now() known {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known
}

// named notes what a stream of the endpoint in use tells.
func (e *evidence) named(n *ledgerName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.name = n
}

// adopt forgets what was known: the ledger of that name is the process's one, as it is at version seq.
func (e *evidence) adopt(n *ledgerName, seq uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.name, e.last, e.seen = n, commit{}, seq
}

// join says why an endpoint of that name may not be moved to; nil: its ledger is the process's one,
// as it is from now on where none is known yet.
func (e *evidence) join(n *ledgerName) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.name == nil && e.paid:
		return fmt.Errorf("%w: a payment was sent to a ledger that has not told its name", errUnfit)
	case e.name != nil && !e.name.same(n):
		return fmt.Errorf("%w: it is another ledger", errUnfit)
	}
	e.name = n
	return nil
}

// prove checks that the endpoint at l has all that this process knows to be committed: its stream
// reaches the version seen, and it has the newest acknowledged payment. errUnfit: it has not.
func (e *evidence) prove(ctx context.Context, l *link) (*ledgerName, error) {
	known := e.now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := l.node.Watch(ctx)
	if err != nil {
		return nil, err
	}
	_ = stream.Send(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_From{}}) // Recv tells why not
	m, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	name := &ledgerName{m.GetLedger(), m.GetHistory()}
	if known.name != nil && !known.name.same(name) {
		return nil, fmt.Errorf("%w: it is another ledger", errUnfit)
	}
	for m.GetSeq() < known.seen {
		at := m.GetSeq()
		if m, err = stream.Recv(); err != nil && ctx.Err() == nil {
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("%w: it is at version %d, %d was committed: %w", errUnfit, at, known.seen, err)
		}
	}
	if d, err := known.lacks(ctx, l); err != nil {
		return nil, err
	} else if d != nil {
		return nil, fmt.Errorf("%w: %w", errUnfit, d)
	}
	return name, nil
}

// lacks asks whether the newest acknowledged payment is there. That finds a copy which was made
// before the payment and has since gone its own way past its version. nil: it is there, or there was
// none.
func (k *known) lacks(ctx context.Context, l *link) (*Doubt, error) {
	if k.last.seq == 0 {
		return nil, nil //nolint:nilnil // nothing to look for is no doubt
	}
	res, err := l.node.Transaction(ctx, &ledgerpb.TransactionRequest{Txid: k.last.txid[:]})
	switch {
	case status.Code(err) == codes.NotFound:
		return &Doubt{Kind: lacksPayment, Reason: "it lacks the acknowledged payment " + k.last.txid.String()}, nil
	case err != nil:
		return nil, err
	case res.GetSeq() != k.last.seq || !bytes.Equal(res.GetReceipt().GetTxid(), k.last.txid[:]):
		return &Doubt{Kind: lacksPayment, Reason: fmt.Sprintf("it has the acknowledged payment %s at another version", k.last.txid)}, nil
	}
	return nil, nil //nolint:nilnil // no doubt
}

// check says whether what a stream at the endpoint in use tells, its name and its version, can be of
// the ledger that this process has paid into. An error says that it cannot be found out now.
func (k *known) check(ctx context.Context, l *link, n *ledgerName, seq uint64) (*Doubt, error) {
	switch other := k.name != nil && len(k.name.ledger) > 0 && len(n.ledger) > 0 && !k.name.same(n); {
	case other && (k.seen > 0 || k.paid):
		return &Doubt{Kind: otherLedger, Reason: "it is another ledger"}, nil
	case other:
		return nil, nil //nolint:nilnil // nothing was known of the one before
	case seq < k.seen:
		return &Doubt{Kind: ledgerBehind, Reason: fmt.Sprintf("it is at version %d, %d was committed", seq, k.seen)}, nil
	default:
		return k.lacks(ctx, l)
	}
}
