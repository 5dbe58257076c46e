package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"
)

// Times and bounds of checks of a whole store.
const (
	maxAlike   = 10             // faults of a kind that a report tells; all are counted
	checkRate  = 4 << 20        // bytes a second that a running node's own check reads
	checkFirst = time.Minute    // after the opening
	checkRest  = 24 * time.Hour // between two
	checkStep  = 256 << 10      // bytes between two looks at the clock
)

// VerifyPebble reads the whole store in dir, which no node may have open, and changes nothing: every
// record and receipt of the journal, that each payment's rows point to it and that there are no
// others, every row of the state, its digest, and for each asset that the balances sum to what was
// issued less what was burned, in the state and in the journal. Memory does not grow with the
// number of payments or accounts. progress is told from time to time how far it is, of about total
// bytes. The error says why there is no report.
func VerifyPebble(ctx context.Context, dir string, progress func(done, total int64)) (*Report, error) {
	return verifyPebble(ctx, dir, vfs.Default, progress)
}

func verifyPebble(ctx context.Context, dir string, fs vfs.FS, progress func(done, total int64)) (*Report, error) {
	f := folder{fs, dir}
	if err := f.seemsStore(); err != nil {
		return nil, f.refuse("there is no store", err)
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		return nil, f.refuse("a node uses the folder, stop it first", err)
	}
	report, err := f.verify(ctx, progress)
	return report, errors.Join(err, lock.Close())
}

// seemsStore keeps the check from making a lock in a folder that is none of a store.
func (f folder) seemsStore() error {
	if _, err := f.fs.Stat(f.dir); err != nil {
		return err
	}
	names, err := f.fs.List(f.dir)
	if err == nil && !slices.ContainsFunc(names, func(n string) bool {
		return n == journalDir || n == stateDir || strings.HasPrefix(n, "MANIFEST-") // of format 1
	}) {
		err = errors.New("the folder has no journal")
	}
	return err
}

func (f folder) verify(ctx context.Context, progress func(done, total int64)) (*Report, error) {
	c := newChecker(f, nil)
	lost := f.stateFault()
	if lost != nil {
		c.report.fault("state: %s", firstLine(lost.Error()))
		c.report.unjudged("keys, index, balances and sums: there is no state to hold the journal against")
	}
	s, err := f.survey(lost == nil)
	c.report.Ledger = hex.EncodeToString(s.ledger[:])
	if errors.As(err, new(*damageError)) || pebble.IsCorruptionError(err) {
		c.report.fault("%s", firstLine(err.Error()))
		c.report.unjudged("payments and state: a start refuses the store, and more than it reads was not read")
		return c.report, nil
	}
	if err != nil {
		return nil, f.refuse("cannot open the store", err)
	}
	if err := s.vouched(); err != nil {
		c.report.fault("%s", err)
	}
	if len(s.segments) == 0 {
		return nil, f.refuse("there is no store", errors.New("the folder is empty"))
	}
	if lost != nil {
		return c.report, c.all(ctx, nil, &s, 0, progress)
	}
	db, err := f.readOnly()
	if err != nil {
		return nil, f.refuse("cannot open the state", err)
	}
	rows, _ := db.EstimateDiskUsage([]byte{0}, []byte{0xff}) // only for the progress
	err = c.all(ctx, db, &s, int64(rows), progress)          //nolint:gosec // not that large
	return c.report, errors.Join(err, db.Close())
}

// stateFault says why there is no state that a start could go by.
func (f folder) stateFault() error {
	desc, err := pebble.Peek(f.state(), f.fs)
	if isAbsent(err) || (err == nil && !desc.Exists) {
		return errors.New("it is missing; a start makes it again from the journal, unless payments were pruned")
	}
	if err == nil {
		err = (&survey{folder: f}).readState()
	}
	if err != nil {
		return fmt.Errorf("it cannot be read: %w", err)
	}
	return nil
}

// all reads the journal, and the state of about that many bytes. Where there is none, db is nil.
func (c *checker) all(ctx context.Context, db *pebble.DB, s *survey, stateBytes int64, progress func(done, total int64)) error {
	total := stateBytes
	for i := range s.segments {
		total += max(s.segments[i].end, s.end.offset)
	}
	var done int64
	c.spend = func(n int64) error {
		done = min(done+n, total)
		progress(done, total)
		return ctx.Err()
	}
	s.segments[len(s.segments)-1].end = s.end.offset
	var err error
	if c.kept = max(s.pruned.first, 1); db == nil {
		c.kept = s.segments[0].first
		err = c.journal(nil, s.segments, s.seq, s.seq)
	} else {
		err = errors.Join(c.journal(db, s.segments, s.head.seq, s.seq), c.state(db))
	}
	c.report.sumUp()
	return err
}

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
