package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/wallet"
)

// standing is what this process knows of the ledger that it pays into, by which it tells whether
// another endpoint is of the same one (docs/decisions/019-a-process-pays-into-one-ledger.md).
type standing struct {
	paid atomic.Bool   // a payment may have been sent
	seen atomic.Uint64 // the highest version that a commit or a stream told

	mu   sync.Mutex
	name *ledgerName // what the last stream told; nil: none has told anything
	last commit      // the newest one that was acknowledged to this process
}

// ledgerName is what the first message of a watch stream tells; either may be empty.
type ledgerName struct{ ledger, history []byte }

type commit struct {
	seq  uint64
	txid wallet.TxID
}

// errUnfit is wrapped by what is wrong with an endpoint that answers.
var errUnfit = errors.New("not to be used")

func (n *ledgerName) told() bool { return len(n.ledger) > 0 || len(n.history) > 0 }

// same says whether both are names of one ledger. A name that is not told is nobody's.
func (n *ledgerName) same(m *ledgerName) bool {
	if len(n.ledger) > 0 && len(m.ledger) > 0 {
		return bytes.Equal(n.ledger, m.ledger)
	}
	return len(n.history) > 0 && bytes.Equal(n.history, m.history)
}

// saw notes a version that the ledger has told.
func (s *standing) saw(seq uint64) {
	for old := s.seen.Load(); old < seq && !s.seen.CompareAndSwap(old, seq); old = s.seen.Load() {
	}
}

// committed notes the newest commit in the results of a batch.
func (s *standing) committed(out []wallet.Result) {
	var newest commit
	for i := range out {
		if r := &out[i]; r.Seq > newest.seq {
			newest = commit{r.Seq, r.Receipt.TxID}
		}
	}
	if newest.seq == 0 {
		return
	}
	s.saw(newest.seq) // first, for prove
	s.mu.Lock()
	if newest.seq > s.last.seq {
		s.last = newest
	}
	s.mu.Unlock()
}

// told notes what a stream of the endpoint in use tells. An endpoint that names another ledger
// than before, as a memory engine does after a restart, is its operator's word: it stays in use,
// and what was known of the old ledger counts for nothing.
func (s *standing) told(n *ledgerName) (other bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other = s.name != nil && !s.name.same(n) && (s.name.told() || n.told()); other {
		s.seen.Store(0)
		s.last = commit{}
	}
	s.name = n
	return other
}

// join says why an endpoint of that name may not be moved to; nil: its ledger is the process's one,
// as it is from now on where none is known yet.
func (s *standing) join(n *ledgerName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.name == nil && s.paid.Load():
		return fmt.Errorf("%w: a payment was sent to a ledger that has not told its name", errUnfit)
	case s.name != nil && !s.name.same(n):
		return fmt.Errorf("%w: it is another ledger", errUnfit)
	}
	s.name = n
	return nil
}

// prove checks that the endpoint at l has all that this process knows to be committed: its stream
// reaches the version seen, and it has the newest acknowledged payment. The second finds a copy that
// was made before that payment and has since gone its own way past its version. errUnfit: it has not.
func (s *standing) prove(ctx context.Context, l *link) (*ledgerName, error) {
	s.mu.Lock()
	last, known := s.last, s.name
	s.mu.Unlock()
	due := s.seen.Load()

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
	if known != nil && !known.same(name) {
		return nil, fmt.Errorf("%w: it is another ledger", errUnfit)
	}
	for m.GetSeq() < due {
		at := m.GetSeq()
		if m, err = stream.Recv(); err != nil && ctx.Err() == nil {
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("%w: it is at version %d, %d was committed: %w", errUnfit, at, due, err)
		}
	}
	if last.seq == 0 {
		return name, nil
	}
	res, err := l.node.Transaction(ctx, &ledgerpb.TransactionRequest{Txid: last.txid[:]})
	switch {
	case status.Code(err) == codes.NotFound:
		return nil, fmt.Errorf("%w: it lacks the acknowledged payment %s", errUnfit, last.txid)
	case err != nil:
		return nil, err
	case res.GetSeq() != last.seq || !bytes.Equal(res.GetReceipt().GetTxid(), last.txid[:]):
		return nil, fmt.Errorf("%w: it has the acknowledged payment %s at another version", errUnfit, last.txid)
	}
	return name, nil
}
