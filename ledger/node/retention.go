package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/sirupsen/logrus"
)

const (
	// MinRetention is the least time that payments can be kept for.
	MinRetention = 30 * 24 * time.Hour

	pruneRest  = time.Hour // between two looks for old segments
	pruneBatch = 256       // payments whose rows go at once
)

// prune is the pruner of a ledger that keeps payments for a limited time only. It removes whole
// segments, the oldest first, when all payments in one are old enough.
func (p *pebbleEngine) prune() {
	p.opts.Log.WithField("older_than", p.opts.Retention.String()).Info("pruning")
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-p.closing:
			return
		}
		for more := true; more; {
			var err error
			if more, err = p.pruneOldest(); err != nil && !errors.Is(err, ErrClosed) {
				p.opts.Log.WithField("reason", firstLine(err.Error())).Error("prune_failed")
			}
		}
		next.Reset(pruneRest)
	}
}

// pruneOldest removes the oldest segment if it is old enough, and says whether it did. The steps:
//
//	mark   the pruned row names the next segment as the first that is kept, in the first batch that
//	       deletes rows. A crash before the state was flushed leaves both undone, or done in part.
//	erase  the rows of its payments. A crash leaves some of them.
//	flush  so that the mark outlives what comes now.
//	remove the file. A crash before leaves it.
//
// A segment below the mark is one that a crash left; it is erased again and removed.
func (p *pebbleEngine) pruneOldest() (removed bool, err error) {
	if err := p.current(context.Background()); err != nil { // the state has whatever may be erased
		return false, err
	}
	s, err := p.segments()
	if err != nil || len(s.segments) < 2 {
		return false, err
	}
	oldest, next := &s.segments[0], &s.segments[1]
	if s.pruned.first < next.first {
		if old, err := p.allOld(oldest, next); err != nil || !old {
			return false, err
		}
	}
	if err := p.eraseSegment(oldest, prunedRow{max(s.pruned.first, next.first), next.chain}); err != nil {
		return false, err
	}
	if err := p.flush(); err != nil {
		return false, err
	}
	if err := p.fs.Remove(oldest.name); err != nil {
		return false, err
	}
	p.opts.Log.WithFields(logrus.Fields{"payments": next.first - oldest.first, "kept_from": next.first}).Info("pruned")
	return true, syncFolder(p.fs, p.journal())
}

// youngest is the time before which payments are older than the retention, Unix milliseconds. What it
// removes is gone for good, so it takes the earliest of three times: the clock's, the last payment's,
// and that of the last payment before this opening and what has elapsed since by the monotonic clock.
// A clock that went ahead, with payments or without, removes nothing, unless a whole life of the node
// before had it too.
func (p *pebbleEngine) youngest(last int64) int64 {
	return min(last, p.opts.Now()/1e6, p.began+p.opts.Elapsed().Milliseconds()) - p.opts.Retention.Milliseconds()
}

// allOld says whether every payment of the segment is older than the retention. The first payment of
// the next segment is looked at first, since it settles most cases.
func (p *pebbleEngine) allOld(g, next *segment) (bool, error) {
	at, err := load[headRow](p.db, []byte(headKey))
	if err != nil {
		return false, err
	}
	newest := *next
	if newest.end == 0 {
		newest.end = at.end.offset
	}
	limit := p.youngest(at.millis)
	for paid, err := range p.payments(&newest) {
		if err != nil || paid.Millis > limit {
			return false, err
		}
		break
	}
	for paid, err := range p.payments(g) {
		if err != nil || paid.Millis > limit {
			return false, err
		}
	}
	return true, nil
}

func (p *pebbleEngine) eraseSegment(g *segment, pruned prunedRow) error {
	var some []*receiptRow
	for paid, err := range p.payments(g) {
		if err != nil {
			return err
		}
		if some = append(some, paid); len(some) == pruneBatch {
			if err := p.erase(some, pruned); err != nil {
				return err
			}
			some = some[:0]
		}
	}
	return p.erase(some, pruned)
}

// erase deletes the rows of some payments. Nobody else writes the state meanwhile, so no row can change
// between the look at it and its deletion. A key that a later payment was made under since is that one's.
func (p *pebbleEngine) erase(all []*receiptRow, pruned prunedRow) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	select {
	case <-p.closing:
		return ErrClosed
	case <-p.over:
		return p.gone()
	default:
	}
	b := p.db.NewBatch()
	defer func() { _ = b.Close() }()
	var key []byte
	for _, paid := range all {
		key = appendKeyKey(key[:0], hashKey(paid.Holder(), paid.Idem))
		id, err := load[txidRow](p.db, key)
		if err != nil {
			return err
		}
		if id.TxID == paid.TxID {
			_ = b.Delete(key, nil)
		}
		key = appendPlaceKey(key[:0], paid.TxID)
		if at, err := load[indexRow](p.db, key); err != nil {
			return err
		} else if at.n > 0 {
			_ = b.Delete(key, nil)
		}
	}
	_ = b.Set([]byte(prunedKey), pruned.append(nil), nil)
	if err := p.db.Apply(b, pebble.NoSync); err != nil {
		err = fmt.Errorf("node: %s: cannot write the state: %w", p.dir, err)
		p.fail(err)
		return err
	}
	return nil
}

// flush puts the state on the disk, unless the store fails: Pebble would try for ever.
func (p *pebbleEngine) flush() error {
	flushed, err := p.db.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-flushed:
		return nil
	case <-p.over:
		return p.gone()
	}
}
