package node

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"
)

// Names in the store's folder.
const (
	journalDir = "journal"
	stateDir   = "state"
)

// folder is where a store lies.
type folder struct {
	fs  vfs.FS
	dir string
}

func (f folder) journal() string { return f.fs.PathJoin(f.dir, journalDir) }
func (f folder) state() string   { return f.fs.PathJoin(f.dir, stateDir) }

// openStore locks the folder, finds out what is there without changing anything, and only then lets
// Pebble in, does again what a crash took from the state, and makes the journal ready for the next
// record. It reads the headers of the segments and what the journal has beyond the state, and so
// takes no longer for a large store. A crash anywhere here leaves what it found.
func (p *pebbleEngine) openStore() error {
	if err := makeFolder(p.fs, p.dir); err != nil {
		return p.refuse("cannot make the folder", err)
	}
	lock, err := pebble.LockDirectory(p.dir, p.fs)
	if err != nil {
		return p.refuse("the folder is in use by another process, or cannot be locked", err)
	}
	p.lock = lock
	s, err := p.survey(true)
	if err != nil {
		return errors.Join(p.refuse("cannot open the store", err), lock.Close())
	}
	if err := p.untilFailure(func() error { return p.takeOver(s) }); err != nil {
		return p.refuse("cannot open the store", errors.Join(err, p.letGo()))
	}
	p.tell(&s)
	p.opened.Store(true) // first, so that a failure of this very moment is told by one of the two
	if failure := p.failure.Load(); failure != nil {
		return p.refuse("cannot open the store", errors.Join(*failure, p.letGo()))
	}
	return nil
}

// tell logs what was amiss and is mended now.
func (p *pebbleEngine) tell(s *survey) {
	if err := s.vouched(); err != nil {
		line := p.opts.Log.WithFields(logrus.Fields{"reason": err.Error(), "durable": s.durable.seq, "journal": s.seq})
		if s.durable.whole == 0 {
			line.Error("durable_lost")
		} else {
			line.Error("durable_damaged")
		}
	}
	if s.torn > 0 {
		p.opts.Log.WithFields(logrus.Fields{"file": s.tornIn, "offset": s.tornAt, "bytes": s.torn, "payments": s.seq}).Warn("torn_record_cut")
	}
}

// letGo closes what takeOver opened. Where Pebble failed, that may take until its disk is well again,
// and nobody waits: the process ends.
func (p *pebbleEngine) letGo() error {
	if p.failure.Load() == nil {
		return p.closeAll()
	}
	go func() {
		<-p.taken
		_ = p.closeAll()
	}()
	return nil
}

// untilFailure gives up on take as soon as Pebble tells that it cannot write: Pebble would try again
// for ever, in its own opening too.
func (p *pebbleEngine) untilFailure(take func() error) error {
	p.taken = make(chan struct{})
	var err error
	go func() {
		defer close(p.taken)
		err = take()
	}()
	select {
	case <-p.taken:
		return err
	case <-p.over:
		return *p.failure.Load()
	}
}

func (p *pebbleEngine) closeAll() error {
	var errs []error
	if p.db != nil {
		errs = append(errs, p.db.Close())
	}
	if p.writer.file != nil {
		errs = append(errs, p.writer.file.Close())
	}
	if p.durable != nil {
		errs = append(errs, p.durable.file.Close())
	}
	return errors.Join(append(errs, p.lock.Close())...)
}

// refuse is why a folder is not opened, in one line: Pebble's errors have more for its authors.
func (f folder) refuse(what string, err error) error {
	var d *damageError
	if pebble.IsCorruptionError(err) || errors.As(err, &d) {
		what = "the store is damaged"
	}
	return &refusal{f.dir, what, err}
}

type refusal struct {
	dir, what string
	cause     error
}

func (r *refusal) Error() string {
	return fmt.Sprintf("node: %s: %s: %s", r.dir, r.what, firstLine(r.cause.Error()))
}

func (r *refusal) Unwrap() error { return r.cause }

// takeOver opens what was surveyed for writing.
func (p *pebbleEngine) takeOver(s survey) error {
	fresh := len(s.segments) == 0
	if fresh {
		s.ledger = newName()
	}
	if err := makeFolder(p.fs, p.journal()); err != nil {
		return err
	}
	var err error
	if p.db, err = p.openState(); err != nil {
		return err
	}
	p.compacts.Store(true)
	p.store = &stateStore{db: p.db, folder: p.folder}
	p.books = newBooks(p.store, &p.opts, s.head.head)
	p.out.ledger, p.out.segment, p.window.head.digest = s.ledger, p.opts.segment, s.head.digest
	p.out.end, p.out.chain = s.head.end, s.head.chain
	if err := p.catchUp(&s); err != nil {
		return err
	}
	if s.leftover != "" {
		if err := p.fs.Remove(s.leftover); err != nil {
			return err
		}
	}
	p.writer = journalWriter{fs: p.fs, dir: p.journal(), fill: p.opts.fill, elapsed: p.opts.Elapsed}
	if fresh {
		p.out.end = place{1, headerSize}
		err = p.writer.begin(&header{ledger: s.ledger, first: 1})
	} else {
		err = p.writer.open(p.out.end)
	}
	if err != nil {
		return err
	}
	p.id = Identity{s.ledger, newName()}
	p.durable, err = openDurable(p.fs, p.dir, s.durable, s.seq)
	return err
}

// catchUp does the tail again.
func (p *pebbleEngine) catchUp(s *survey) error {
	if s.tail == 0 {
		return nil
	}
	if s.head.seq == 0 {
		p.opts.Log.WithField("payments", s.seq).Info("state_rebuilt")
	}
	return p.redo(s)
}

// redo reads the state through one iterator for many records, since one for each is most of the work.
// The books keep what was changed since that iterator was made.
func (p *pebbleEngine) redo(s *survey) error {
	defer p.store.rest()
	seen, unseen := p.books.group(), 0 // the last group that the iterator has; payments since
	at := slices.IndexFunc(s.segments, func(g segment) bool { return g.first == p.out.end.segment })
	for i := at; i < len(s.segments); i++ {
		g := &s.segments[i]
		if i > at {
			p.out.end = place{g.first, headerSize}
		}
		if p.books.head.seq == s.seq {
			continue // what lies here is a torn end, if anything
		}
		for rec, err := range p.records(g, p.out.end.offset, p.books.head.seq, p.out.chain) {
			if err == nil {
				err = p.redoRecord(g, &rec)
			}
			if err != nil {
				return err
			}
			if unseen += rec.count; unseen >= windowMost {
				if err := p.saveRedone(); err != nil {
					return err
				}
				p.store.rest()
				seen, unseen = p.books.group(), 0
			}
			p.books.settle(seen)
			if p.books.head.seq == s.seq {
				break // behind it there may be a torn end
			}
		}
	}
	return p.saveRedone()
}

func (p *pebbleEngine) saveRedone() error {
	b := p.db.NewBatch()
	p.window.write(b)
	return errors.Join(p.db.Apply(b, pebble.NoSync), b.Close())
}

func (p *pebbleEngine) redoRecord(g *segment, rec *record) error {
	p.books.begin(0)
	var entries []int64
	err := rec.each(g.name, func(i int, offset int64, paid *receiptRow) error {
		if i%placeEvery == 0 {
			entries = append(entries, offset)
		}
		return p.books.redo(paid)
	})
	if err == nil && !p.books.balanced() {
		err = damagef(g.name, "the record at %d makes or loses money", rec.begin)
	}
	if err != nil {
		return err
	}
	p.conserved.Add(1)
	p.out.end, p.out.chain = place{g.first, rec.end}, rec.chain
	did := p.books.effects(&p.out, entries)
	p.window.take(&did)
	return nil
}

// makeFolder makes a folder that is there after a crash, too.
func makeFolder(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	parent := fs.PathDir(dir)
	if parent != dir {
		if err := makeFolder(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncFolder(fs, parent)
}

func isAbsent(err error) bool { return errors.Is(err, iofs.ErrNotExist) }
