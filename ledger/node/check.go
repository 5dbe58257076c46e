package node

import (
	"errors"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
)

// check is the checker of a running node: it reads the whole store, slowly, and again and again.
func (p *pebbleEngine) check() {
	next := time.NewTimer(checkFirst)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-p.closing:
			return
		}
		wait := time.NewTimer(0)
		err := p.checkStore(func(n int64) error {
			wait.Reset(time.Duration(n) * time.Second / checkRate)
			select {
			case <-wait.C:
				return nil
			case <-p.closing:
				return ErrClosed
			}
		})
		wait.Stop()
		if err != nil && !errors.Is(err, ErrClosed) {
			p.opts.Log.WithField("reason", firstLine(err.Error())).Error("store_check_failed")
		}
		next.Reset(checkRest)
	}
}

// segments surveys the journal beside the engine's work.
func (p *pebbleEngine) segments() (s survey, err error) {
	s.folder = p.folder
	if s.pruned, err = load[prunedRow](p.db, []byte(prunedKey)); err == nil {
		err = s.listSegments()
	}
	return s, err
}

// checkStore reads the store as it is meanwhile: the journal up to the version that the state has
// now, then one later version of the state. A segment that goes away meanwhile was pruned.
func (p *pebbleEngine) checkStore(spend func(int64) error) error {
	at, err := load[headRow](p.db, []byte(headKey))
	if err != nil || at.seq == 0 {
		return err
	}
	s, err := p.segments()
	if err != nil {
		return err
	}
	newest := slices.IndexFunc(s.segments, func(g segment) bool { return g.first == at.end.segment })
	if newest < 0 {
		return damagef(journalDir, "its newest segment is missing")
	}
	s.segments[newest].end = at.end.offset
	c := newChecker(p.folder, spend)
	c.kept = max(s.pruned.first, 1)
	if err := c.journal(p.db, s.segments[:newest+1], at.seq, at.seq); err != nil {
		if again, _ := load[prunedRow](p.db, []byte(prunedKey)); again != s.pruned {
			return nil // it is for the next round
		}
		return err
	}
	snap := p.db.NewSnapshot()
	defer func() { _ = snap.Close() }()
	if again, err := load[prunedRow](snap, []byte(prunedKey)); err != nil || again != s.pruned {
		return err
	}
	if err := c.state(snap); err != nil {
		return err
	}
	c.report.sumUp()
	p.checked(c.report)
	return nil
}

func (p *pebbleEngine) checked(r *Report) {
	line := p.opts.Log.WithFields(logrus.Fields{"payments": r.Payments, "rows": r.StateRows, "faults": r.Faults})
	if r.Faults == 0 {
		p.sound.Add(1)
		line.Info("store_checked")
		return
	}
	p.unsound.Add(1)
	line.WithField("reason", r.Told[0]).Error("store_damaged")
}
