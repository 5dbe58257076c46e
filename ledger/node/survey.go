package node

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// survey is what lies in a folder.
type survey struct {
	folder
	ledger   [16]byte
	segments []segment
	leftover string  // a segment that a crash left without a whole header
	head     headRow // of the state
	pruned   prunedRow
	seq      uint64 // the last payment of the journal
	end      place
	chain    uint64
	tail     int64 // bytes of the journal that the state has not
	durable  durableMarks
	torn     int64  // bytes behind the last whole record that are not zeros
	tornIn   string // the file that they are in
	tornAt   int64  // where they may be cut off
	alone    bool   // there is no state to go by
}

// segment is a file of the journal. end is where its records end; 0 for the newest, which knows it not.
type segment struct {
	header
	name string
	size int64
	end  int64
}

// survey looks at what lies in the folder. Without the state, which only a check does without, it reads
// the payments of the last segment alone.
func (f folder) survey(withState bool) (s survey, err error) {
	s.folder = f
	names, err := f.fs.List(f.dir)
	if err != nil {
		return s, err
	}
	if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "MANIFEST-") }) {
		return s, errors.New("the store has format 1, which had no journal and is not read any more; start with a new folder")
	}
	if s.durable, err = readDurable(f.fs, f.dir); err != nil {
		return s, err
	}
	if s.alone = !withState; withState {
		if err := s.readState(); err != nil {
			return s, err
		}
	}
	if err := s.listSegments(); err != nil {
		return s, err
	}
	if n := len(s.segments); s.alone && n > 0 {
		last := &s.segments[n-1]
		s.head.seq, s.head.end, s.head.chain = last.first-1, place{last.first, headerSize}, last.chain
	}
	if err := s.followTail(); err != nil {
		return s, err
	}
	if s.durable.seq > s.seq {
		return s, damagef(journalDir, "payments are missing: %d had been made durable, it ends at %d", s.durable.seq, s.seq)
	}
	return s, s.mayCut()
}

// readState opens Pebble read-only: what it takes for leftovers it would delete.
func (s *survey) readState() error {
	names, err := s.fs.List(s.state())
	if isAbsent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	desc, err := pebble.Peek(s.state(), s.fs)
	if err != nil {
		return err
	}
	if !desc.Exists {
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasSuffix(n, ".sst") }) {
			return damagef(stateDir, "there are data but no manifest that tells what they are")
		}
		return nil
	}
	db, err := s.readOnly()
	if err != nil {
		return err
	}
	s.head, err = load[headRow](db, []byte(headKey))
	if err == nil {
		s.pruned, err = load[prunedRow](db, []byte(prunedKey))
	}
	return errors.Join(err, db.Close())
}

// listSegments reads the headers, and that each segment goes on where the one before ends.
func (s *survey) listSegments() error {
	names, err := s.fs.List(s.journal())
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
		g, err := readHeader(s.fs, s.fs.PathJoin(s.journal(), name))
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
		if err := s.link(i); err != nil {
			return err
		}
	}
	if s.leftover != "" {
		return s.lookAtLeftover()
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

// lookAtLeftover refuses a file that is no torn beginning, because there is something in it.
func (s *survey) lookAtLeftover() error {
	f, err := s.fs.Open(s.leftover)
	if err != nil {
		return err
	}
	rest, err := readFrom(f, 0)
	if err = errors.Join(err, f.Close()); err == nil && goodRecord(rest) {
		return damagef(s.leftover, "its header does not check")
	}
	if len(rest) > headerSize { // a header may be torn, but behind it there are only zeros then
		s.noteTorn(s.leftover, 0, rest[headerSize:])
	}
	return err
}

// link holds segment i against the one before.
func (s *survey) link(i int) error {
	g := &s.segments[i]
	if i == 0 {
		if s.ledger = g.ledger; s.alone {
			return nil // what was pruned is told by the state
		}
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
	if chain, err := s.chainAt(before, before.end); err != nil || chain != g.chain {
		return damagef(before.name, "does not end where the next one begins")
	}
	return nil
}

// chainAt is the chain of the record that ends at offset.
func (f folder) chainAt(g *segment, offset int64) (uint64, error) {
	if offset == headerSize {
		return g.chain, nil
	}
	file, err := f.fs.Open(g.name)
	if err != nil {
		return 0, err
	}
	b := make([]byte, recordTail)
	_, err = file.ReadAt(b, offset-recordTail)
	return binary.BigEndian.Uint64(b), errors.Join(err, file.Close())
}

// followTail reads the journal from where the state stands.
func (s *survey) followTail() error {
	s.seq, s.end, s.chain = s.head.seq, s.head.end, s.head.chain
	if len(s.segments) == 0 {
		if s.seq > 0 {
			return damagef(journalDir, "it is missing: payments up to %d had been made", s.seq)
		}
		return nil
	}
	if s.seq == 0 && !s.alone {
		if first := s.segments[0].first; first != 1 {
			return damagef(stateDir, "it is missing, and the journal begins with payment %d", first)
		}
		s.end = place{1, headerSize}
	}
	at := slices.IndexFunc(s.segments, func(g segment) bool { return g.first == s.end.segment })
	if at < 0 {
		return damagef(journalDir, "payments are missing: %d had been made durable, it ends before", s.seq)
	}
	if chain, err := s.chainAt(&s.segments[at], s.end.offset); err != nil || chain != s.chain {
		return damagef(s.segments[at].name, "has no record that ends at %d, where the state stands", s.end.offset)
	}
	s.head.end = s.end
	for i := at; i < len(s.segments); i++ {
		if err := s.follow(&s.segments[i]); err != nil {
			return err
		}
	}
	return nil
}

// follow reads the records of a segment from s.end, or from its beginning.
func (s *survey) follow(g *segment) error {
	if g.first != s.end.segment {
		s.end = place{g.first, headerSize}
	}
	r, done, err := s.openSegment(g, s.end.offset, s.seq, s.chain)
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
	case g.end > 0:
		return nil
	}
	rest, err := r.rest()
	if err == nil && goodRecord(rest) {
		return damagef(g.name, "at %d there is no whole record, but behind it there are some", r.at)
	}
	s.noteTorn(g.name, r.at, rest)
	return err // zeros, or the torn end of a crash
}

// openSegment reads the records of a segment from offset on, behind payment seq.
func (f folder) openSegment(g *segment, offset int64, seq, chain uint64) (*journalReader, func(), error) {
	file, err := f.fs.Open(g.name, vfs.SequentialReadsOption)
	if err != nil {
		return nil, nil, err
	}
	end := g.end
	if end == 0 {
		end = g.size
	}
	from := io.NewSectionReader(file, offset, max(0, end-offset))
	r := &journalReader{name: g.name, file: file, from: bufio.NewReaderSize(from, readAhead), at: offset, end: g.end, seq: seq, chain: chain}
	return r, func() { _ = file.Close() }, nil
}

// records reads them one after the other. An error is the last that it yields.
func (f folder) records(g *segment, offset int64, seq, chain uint64) iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		r, done, err := f.openSegment(g, offset, seq, chain)
		if err != nil {
			yield(record{}, err)
			return
		}
		defer done()
		for err == nil {
			var rec record
			if rec, err = r.next(); errors.Is(err, io.EOF) || !yield(rec, err) {
				return
			}
		}
	}
}

// payments reads those of a whole segment.
func (f folder) payments(g *segment) iter.Seq2[*receiptRow, error] {
	return func(yield func(*receiptRow, error) bool) {
		for rec, err := range f.records(g, headerSize, g.first-1, g.chain) {
			if err == nil {
				err = rec.each(g.name, func(_ int, _ int64, paid *receiptRow) error {
					if !yield(paid, nil) {
						return io.EOF
					}
					return nil
				})
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

const readAhead = 256 << 10
