package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// durableFile says which version was durable, apart from the journal that it vouches for: after a
// crash of the process the version that was acknowledged, after a power cut that or an earlier one.
// It is written after each sync of the journal, and itself synced only where a segment begins and at
// each start, so that it is always there. It has two slots, written in turn, so that a crash leaves one
// whole; a start makes both whole, so that one that is not is damage.
type durableFile struct {
	file vfs.File
	next int64 // slot
}

const (
	durableName  = "durable"
	durableMagic = "\xb6durable"
	durableSize  = 8 + 8 + 4
	durableApart = 4096 // two slots never share a sector
)

// durableMarks are what the file says.
type durableMarks struct {
	seq   uint64 // the newest version that it vouches for
	whole int    // slots of two
	next  int64  // the slot to be written next: one that is not whole, or the older one
}

// openDurable opens the file in which was was read, or makes it, and makes both slots say seq, one after
// the other, and the only whole one last.
func openDurable(fs vfs.FS, dir string, was durableMarks, seq uint64) (*durableFile, error) {
	f, err := fs.OpenReadWrite(fs.PathJoin(dir, durableName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	d := &durableFile{file: f, next: was.next}
	for range 2 {
		if err := errors.Join(d.write(seq), f.Sync()); err != nil {
			return d, err
		}
	}
	return d, syncFolder(fs, dir)
}

func (d *durableFile) write(seq uint64) error {
	b := binary.BigEndian.AppendUint64([]byte(durableMagic), seq)
	b = binary.BigEndian.AppendUint32(b, checksum(b))
	_, err := d.file.WriteAt(b, d.next*durableApart)
	d.next = 1 - d.next
	return err
}

// readDurable says nothing where there is no file.
func readDurable(fs vfs.FS, dir string) (d durableMarks, err error) {
	f, err := fs.Open(fs.PathJoin(dir, durableName))
	if isAbsent(err) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	b, err := io.ReadAll(io.LimitReader(f, durableApart+durableSize))
	var seqs [2]uint64
	var bad [2]bool
	for i := range seqs {
		slot := b[min(i*durableApart, len(b)):]
		slot = slot[:min(durableSize, len(slot))]
		if bad[i] = len(slot) < durableSize || string(slot[:8]) != durableMagic || checksum(slot[:16]) != binary.BigEndian.Uint32(slot[16:]); !bad[i] {
			seqs[i] = binary.BigEndian.Uint64(slot[8:])
			d.whole++
		}
	}
	d.seq = max(seqs[0], seqs[1])
	if bad[1] || (!bad[0] && seqs[1] < seqs[0]) {
		d.next = 1
	}
	if bad[0] {
		d.next = 0
	}
	return d, errors.Join(err, f.Close())
}

// errUnvouched is no reason to refuse a store: what the journal holds is whole. But had its end been
// cut off as well, nobody would know.
var errUnvouched = errors.New("the file " + durableName + " is missing or damaged, so that nothing tells whether the journal has lost its end")

// vouched is what is wrong with the file that vouches for the journal, nil for nothing. A journal that
// goes on behind the mark of the one slot that is left has what the other one told of, at least: marks
// are one group apart.
func (s *survey) vouched() error {
	switch d := s.durable; {
	case d.whole == 2 || s.seq == 0:
		return nil
	case d.whole == 0:
		return errUnvouched
	case d.seq < s.seq:
		return fmt.Errorf("one of the two marks in the file %s is damaged; the other says %d, and the journal goes on to payment %d", durableName, d.seq, s.seq)
	default:
		return fmt.Errorf("one of the two marks in the file %s is damaged; the other says %d, where the journal ends, so that nothing tells whether it has lost its end", durableName, d.seq)
	}
}

// mayCut says whether what lies behind the last whole record can be a record that a crash tore, of
// which nobody was told. Only a file that says how far the journal was acknowledged tells that from
// payments that were damaged.
func (s *survey) mayCut() error {
	if s.torn == 0 || s.durable.whole == 2 || (s.durable.whole == 1 && s.durable.seq < s.seq) {
		return nil
	}
	return damagef(s.tornIn, "behind payment %d, from byte %d on, %d bytes are no whole record, and the file %s, which is missing or damaged, "+
		"does not tell whether they were acknowledged; put back that file, or a copy of the folder, or, to give up what they were, "+
		"keep a copy of the folder and run truncate -s %d on this file", s.seq, s.tornAt, s.torn, durableName, s.tornAt)
}

// noteTorn notes what lies behind the last whole record of a file: zeros, or what a start cuts off.
func (s *survey) noteTorn(name string, at int64, rest []byte) {
	if n := len(bytes.TrimRight(rest, "\x00")); n > 0 {
		s.torn, s.tornIn, s.tornAt = int64(n), name, at
	}
}
