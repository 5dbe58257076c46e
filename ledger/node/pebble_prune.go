package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"svc-wallet/wallet"
)

// prune is one step of forgetting: the idempotency records that the pruner found to be too old,
// for the writer to delete.
type prune struct {
	records []keyName
	owners  []wallet.TxID // records[i] is deleted if it still belongs to owners[i]
	upTo    wallet.TxID   // receipts up to this one are done
	done    chan error
}

// prune is the pruner: every so often it walks on through the receipts, which lie in order of
// time, from where it was to those that are keepKeys old. So no index of records by age is needed.
func (p *pebbleEngine) prune() {
	next := time.NewTimer(pruneRest)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-p.closing:
			return
		}
		for more := true; more; {
			var err error
			if more, err = p.pruneStep(); err != nil {
				p.opts.Log.WithField("event", "prune_failed").WithError(err).Error("old idempotency records stay")
				more = false
			}
		}
		next.Reset(pruneRest)
	}
}

// pruneStep does at most pruneStep receipts and says whether there are more. Reading them here
// brings the rows into the block cache, so that the writer need not wait for the disk.
func (p *pebbleEngine) pruneStep() (more bool, err error) {
	s, err := p.oldRecords()
	if err != nil || s == nil {
		return false, err
	}
	select {
	case p.prunes <- s:
		return true, <-s.done
	case <-p.closing:
		return false, nil
	}
}

// oldRecords finds the next step's work, nil where there is none. Age is counted to the last
// commit, which no step of the clock takes back.
func (p *pebbleEngine) oldRecords() (*prune, error) {
	from, err := load[txidRow](p.db, []byte(prunedKey))
	if err != nil {
		return nil, p.unread(err)
	}
	at, err := load[headRow](p.db, []byte(headKey))
	if err != nil {
		return nil, p.unread(err)
	}
	var end wallet.TxID
	binary.BigEndian.PutUint64(end[:8], uint64(max(0, millisOf(at.txid)-keepKeys.Milliseconds()))<<16)
	it, err := p.db.NewIter(&pebble.IterOptions{
		LowerBound: append(appendReceiptKey(nil, from.id), 0), // after it
		UpperBound: appendReceiptKey(nil, end),
	})
	if err != nil {
		return nil, p.unread(err)
	}
	s := &prune{done: make(chan error, 1)}
	for n, ok := 0, it.First(); ok && n < pruneReceipts && err == nil; n, ok = n+1, it.Next() {
		err = p.oldRecord(s, it)
	}
	if err = errors.Join(err, it.Close()); err != nil {
		return nil, p.unread(err)
	}
	if s.upTo.IsZero() {
		return nil, nil
	}
	return s, nil
}

// oldRecord adds the idempotency record of the receipt at it, if the record still is its own.
func (p *pebbleEngine) oldRecord(s *prune, it *pebble.Iterator) error {
	copy(s.upTo[:], it.Key()[1:])
	var r receiptRow
	if err := r.decode(s.upTo, it.Value()); err != nil {
		return err
	}
	name := keyName{holderOf(&r.Receipt), r.Idem}
	record, err := load[keyRow](p.db, appendKeyKey(nil, name))
	if err == nil && record.txid == r.TxID {
		s.records, s.owners = append(s.records, name), append(s.owners, r.TxID)
	}
	return err
}

// erase is the writer's part. It looks again, because a later payment may have taken the key over
// since. It needs no sync: what a crash undoes is done again.
func (p *pebbleEngine) erase(s *prune) error {
	if failure := p.failure.Load(); failure != nil {
		return *failure
	}
	b := p.db.NewBatch()
	defer func() { _ = b.Close() }()
	for i, name := range s.records {
		p.key = appendKeyKey(p.key[:0], name)
		record, err := load[keyRow](p.db, p.key)
		if err != nil {
			return p.unread(err)
		}
		if record.txid == s.owners[i] {
			_ = b.Delete(p.key, nil)
		}
	}
	_ = b.Set([]byte(prunedKey), s.upTo[:], nil)
	if err := p.db.Apply(b, pebble.NoSync); err != nil {
		err = fmt.Errorf("node: %s: cannot write: %w", p.dir, err)
		p.fail(err)
		return err
	}
	return nil
}
