package node

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Names in the store's folder.
const (
	journalDir = "journal"
	stateDir   = "state"
)

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
	s, err := p.survey()
	if err != nil {
		return errors.Join(p.refuse("cannot open the store", err), lock.Close())
	}
	if err := p.untilFailure(func() error { return p.takeOver(s) }); err != nil {
		return p.refuse("cannot open the store", errors.Join(err, p.letGo()))
	}
	if !s.vouched {
		p.opts.Log.WithField("reason", errUnvouched.Error()).Error("durable_lost")
	}
	p.opened.Store(true) // first, so that a failure of this very moment is told by one of the two
	if failure := p.failure.Load(); failure != nil {
		return p.refuse("cannot open the store", errors.Join(*failure, p.letGo()))
	}
	return nil
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
	case <-p.failed:
		return *p.failure.Load()
	}
}

func (p *pebbleEngine) closeAll() error {
	var errs []error
	if p.db != nil {
		errs = append(errs, p.db.Close())
	}
	if p.disk.file != nil {
		errs = append(errs, p.disk.close())
	}
	if p.durable != nil {
		errs = append(errs, p.durable.file.Close())
	}
	return errors.Join(append(errs, p.lock.Close())...)
}

// refuse is why a folder is not opened, in one line: Pebble's errors have more for its authors.
func (p *pebbleEngine) refuse(what string, err error) error {
	var d *damageError
	if pebble.IsCorruptionError(err) || errors.As(err, &d) {
		what = "the store is damaged"
	}
	return &refusal{p.dir, what, err}
}

type refusal struct {
	dir, what string
	cause     error
}

func (r *refusal) Error() string {
	return fmt.Sprintf("node: %s: %s: %s", r.dir, r.what, firstLine(r.cause.Error()))
}

func (r *refusal) Unwrap() error { return r.cause }

// segment is a file of the journal. end is where its records end; 0 for the newest, which knows it not.
type segment struct {
	header
	name string
	size int64
	end  int64
}

// survey is what lies in the folder.
type survey struct {
	ledger   [16]byte
	segments []segment
	leftover string // a segment that a crash left without a whole header
	state    headRow
	pruned   prunedRow
	seq      uint64 // the last payment of the journal
	end      place
	chain    uint64
	tail     int64 // bytes of the journal that the state has not
	vouched  bool  // the file durable says how far the journal went
}

func (p *pebbleEngine) survey() (s survey, err error) {
	names, err := p.fs.List(p.dir)
	if err != nil {
		return s, err
	}
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "MANIFEST-") }) {
		return s, errors.New("the store has format 1, which had no journal and is not read any more; start with a new folder")
	}
	durable, vouched, err := readDurable(p.fs, p.dir)
	if err != nil {
		return s, err
	}
	if err := s.readState(p); err != nil {
		return s, err
	}
	if err := s.listSegments(p.fs, p.journal.dir); err != nil {
		return s, err
	}
	if err := s.followTail(p.fs); err != nil {
		return s, err
	}
	if durable > s.seq {
		return s, damagef(journalDir, "payments are missing: %d had been made durable, it ends at %d", durable, s.seq)
	}
	s.vouched = vouched || s.seq == 0
	return s, nil
}

// readState opens Pebble read-only: what it takes for leftovers it would delete.
func (s *survey) readState(p *pebbleEngine) error {
	dir := p.fs.PathJoin(p.dir, stateDir)
	names, err := p.fs.List(dir)
	if isAbsent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	desc, err := pebble.Peek(dir, p.fs)
	if err != nil {
		return err
	}
	if !desc.Exists {
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".sst") }) {
			return damagef(stateDir, "there are data but no manifest that tells what they are")
		}
		return nil
	}
	read := pebbleOptions(p)
	read.ReadOnly = true
	db, err := pebble.Open(dir, read)
	if err != nil {
		return err
	}
	s.state, err = load[headRow](db, []byte(headKey))
	if err == nil {
		s.pruned, err = load[prunedRow](db, []byte(prunedKey))
	}
	return errors.Join(err, db.Close())
}

// listSegments reads the headers, and that each segment goes on where the one before ends.
func (s *survey) listSegments(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil && !isAbsent(err) {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		text, ok := strings.CutSuffix(name, ".log")
		first, err := strconv.ParseUint(text, 10, 64)
		if !ok || err != nil || s.leftover != "" {
			return damagef(name, "has no place in the journal")
		}
		g, err := readHeader(fs, fs.PathJoin(dir, name))
		switch {
		case errors.Is(err, errHeader) && name == names[len(names)-1]:
			s.leftover = g.name
			continue
		case errors.Is(err, errHeader):
			return damagef(name, "its header does not check")
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case g.first != first:
			return damagef(name, "begins with payment %d", g.first)
		}
		s.segments = append(s.segments, g)
	}
	for i := range s.segments {
		if err := s.link(fs, i); err != nil {
			return err
		}
	}
	if s.leftover != "" {
		return noRecords(fs, s.leftover)
	}
	return nil
}

func readHeader(fs vfs.FS, name string) (g segment, err error) {
	g.name = name
	f, err := fs.Open(name)
	if err != nil {
		return g, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return g, err
	}
	g.size = info.Size()
	b := make([]byte, headerSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		if ended(err) {
			return g, errHeader
		}
		return g, err
	}
	return g, g.decode(b)
}

// noRecords refuses a file that is no torn beginning, because there is something in it.
func noRecords(fs vfs.FS, name string) error {
	f, err := fs.Open(name)
	if err != nil {
		return err
	}
	rest, err := readFrom(f, 0)
	if err = errors.Join(err, f.Close()); err == nil && goodRecord(rest) {
		return damagef(name, "its header does not check")
	}
	return err
}

// link holds segment i against the one before.
func (s *survey) link(fs vfs.FS, i int) error {
	g := &s.segments[i]
	if i == 0 {
		s.ledger = g.ledger
		if kept := max(s.pruned.first, 1); kept < g.first || (g.first == 1 && g.before != (place{})) ||
			!slices.ContainsFunc(s.segments, func(g segment) bool { return g.first == kept && g.chain == s.pruned.chain }) {
			return damagef(journalDir, "payments from %d on are missing", kept)
		}
		return nil
	}
	before := &s.segments[i-1]
	before.end = g.before.offset
	if g.ledger != s.ledger {
		return damagef(g.name, "is of another ledger")
	}
	if g.before.segment != before.first {
		return damagef(journalDir, "a segment is missing between %d and %d", before.first, g.first)
	}
	if chain, err := chainAt(fs, before, before.end); err != nil || chain != g.chain {
		return damagef(before.name, "does not end where the next one begins")
	}
	return nil
}

// chainAt is the chain of the record that ends at offset.
func chainAt(fs vfs.FS, g *segment, offset int64) (uint64, error) {
	if offset == headerSize {
		return g.chain, nil
	}
	f, err := fs.Open(g.name)
	if err != nil {
		return 0, err
	}
	b := make([]byte, recordTail)
	_, err = f.ReadAt(b, offset-recordTail)
	return binary.BigEndian.Uint64(b), errors.Join(err, f.Close())
}

// followTail reads the journal from where the state stands.
func (s *survey) followTail(fs vfs.FS) error {
	s.seq, s.end, s.chain = s.state.seq, s.state.end, s.state.chain
	if len(s.segments) == 0 {
		if s.seq > 0 {
			return damagef(journalDir, "it is missing: payments up to %d had been made", s.seq)
		}
		return nil
	}
	if s.seq == 0 {
		if first := s.segments[0].first; first != 1 {
			return damagef(stateDir, "it is missing, and the journal begins with payment %d", first)
		}
		s.end = place{1, headerSize}
	}
	at := slices.IndexFunc(s.segments, func(g segment) bool { return g.first == s.end.segment })
	if at < 0 {
		return damagef(journalDir, "payments are missing: %d had been made durable, it ends before", s.seq)
	}
	if chain, err := chainAt(fs, &s.segments[at], s.end.offset); err != nil || chain != s.chain {
		return damagef(s.segments[at].name, "has no record that ends at %d, where the state stands", s.end.offset)
	}
	s.state.end = s.end
	for i := at; i < len(s.segments); i++ {
		if err := s.follow(fs, &s.segments[i]); err != nil {
			return err
		}
	}
	return nil
}

// follow reads the records of a segment from s.end, or from its beginning.
func (s *survey) follow(fs vfs.FS, g *segment) error {
	if g.first != s.end.segment {
		s.end = place{g.first, headerSize}
	}
	r, done, err := openSegment(fs, g, s.end.offset, s.seq, s.chain)
	if err != nil {
		return err
	}
	defer done()
	for err == nil {
		_, err = r.next()
	}
	s.tail += r.at - s.end.offset
	s.seq, s.end.offset, s.chain = r.seq, r.at, r.chain
	var bad *damageError
	switch {
	case !errors.Is(err, io.EOF) && !errors.As(err, &bad):
		return err
	case g.end > 0 && bad != nil:
		return bad
	case g.end > 0 && r.at != g.end:
		return damagef(g.name, "its records end at %d instead of %d", r.at, g.end)
	case g.end > 0:
		return nil
	}
	rest, err := r.rest()
	if err == nil && goodRecord(rest) {
		return damagef(g.name, "at %d there is no whole record, but behind it there are some", r.at)
	}
	return err // zeros, or the torn end of a crash
}

// openSegment reads the records of a segment from offset on, behind payment seq.
func openSegment(fs vfs.FS, g *segment, offset int64, seq, chain uint64) (*journalReader, func(), error) {
	f, err := fs.Open(g.name, vfs.SequentialReadsOption)
	if err != nil {
		return nil, nil, err
	}
	end := g.end
	if end == 0 {
		end = g.size
	}
	from := io.NewSectionReader(f, offset, max(0, end-offset))
	r := &journalReader{name: g.name, file: f, from: bufio.NewReaderSize(from, readAhead), at: offset, seq: seq, chain: chain}
	return r, func() { _ = f.Close() }, nil
}

const readAhead = 256 << 10

// takeOver opens what was surveyed for writing.
func (p *pebbleEngine) takeOver(s survey) error {
	fresh := len(s.segments) == 0
	if fresh {
		s.ledger = newName()
	}
	if err := makeFolder(p.fs, p.journal.dir); err != nil {
		return err
	}
	var err error
	if p.db, err = pebble.Open(p.fs.PathJoin(p.dir, stateDir), pebbleOptions(p)); err != nil {
		return err
	}
	p.compacts.Store(true)
	p.store = &stateStore{db: p.db, journal: p.journal}
	p.books = newBooks(p.store, &p.opts, s.state.head)
	p.out.ledger, p.out.segment, p.out.digest = s.ledger, p.opts.segment, s.state.digest
	p.out.end, p.out.chain = s.state.end, s.state.chain
	if err := p.catchUp(&s); err != nil {
		return err
	}
	if s.leftover != "" {
		if err := p.fs.Remove(s.leftover); err != nil {
			return err
		}
	}
	p.disk = journalWriter{fs: p.fs, dir: p.journal.dir, fill: p.opts.fill}
	if fresh {
		p.out.end = place{1, headerSize}
		err = p.disk.begin(&header{ledger: s.ledger, first: 1})
	} else {
		err = p.disk.open(p.out.end)
	}
	if err != nil {
		return err
	}
	p.id = Identity{s.ledger, newName()}
	if p.durable, err = openDurable(p.fs, p.dir); err != nil {
		return err
	}
	if err := p.durable.write(s.seq); err != nil {
		return err
	}
	return errors.Join(p.durable.file.Sync(), syncFolder(p.fs, p.dir))
}

// catchUp does the tail again.
func (p *pebbleEngine) catchUp(s *survey) error {
	if s.tail == 0 {
		return nil
	}
	if s.state.seq == 0 {
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
		r, done, err := openSegment(p.fs, g, p.out.end.offset, p.books.head.seq, p.out.chain)
		if err != nil {
			return err
		}
		for p.books.head.seq < s.seq {
			rec, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				err = p.redoRecord(g, &rec)
			}
			if err != nil {
				done()
				return err
			}
			if unseen += rec.count; unseen >= maxGroup {
				p.store.rest()
				seen, unseen = p.books.group(), 0
			}
			p.books.settle(seen)
		}
		done()
	}
	return nil
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
	b := p.db.NewBatch()
	p.out.rows(b, p.books, entries)
	return errors.Join(p.db.Apply(b, pebble.NoSync), b.Close())
}

// errUnvouched is no reason to refuse a store: what the journal holds is whole. But had its end been
// cut off as well, nobody would know.
var errUnvouched = errors.New("the file " + durableName + " is missing or damaged, so that nothing tells whether the journal has lost its end")

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
