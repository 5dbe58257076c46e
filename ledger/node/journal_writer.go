package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// journalWriter writes records, one after the other. It is one goroutine's.
type journalWriter struct {
	fs     vfs.FS
	dir    string
	fill   int64
	file   vfs.File // the newest segment
	filled int64    // bytes of it that are there, zeros included
}

// open goes on in a segment that is there, behind end. What a crash left there is wiped first, lest
// a shorter record leave the rest of it behind. A crash here leaves some of it, and it is wiped then.
func (w *journalWriter) open(end place) (err error) {
	name := w.fs.PathJoin(w.dir, segmentName(end.segment))
	if w.file, err = w.fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified); err != nil {
		return err
	}
	rest, err := readFrom(w.file, end.offset)
	if err != nil {
		return err
	}
	w.filled = end.offset + int64(len(rest))
	if len(bytes.Trim(rest, "\x00")) == 0 {
		return nil
	}
	if _, err := w.file.WriteAt(make([]byte, len(rest)), end.offset); err != nil {
		return err
	}
	return w.file.Sync()
}

// begin begins a segment. A crash here leaves a newest segment without a whole header, or none;
// either is begun again.
func (w *journalWriter) begin(h *header) error {
	if w.file != nil {
		if err := w.file.Close(); err != nil {
			return err
		}
	}
	var err error
	if w.file, err = w.fs.OpenReadWrite(w.fs.PathJoin(w.dir, segmentName(h.first)), vfs.WriteCategoryUnspecified); err != nil {
		return err
	}
	w.filled = w.fill
	first := append(h.append(nil), make([]byte, max(0, w.fill-headerSize))...)
	if _, err := w.file.WriteAt(first, 0); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	return syncFolder(w.fs, w.dir)
}

// append writes the record at offset and syncs it. Once it returns nil, the record is durable; when
// it fails, nobody knows, and nothing may be written any more.
func (w *journalWriter) append(record []byte, offset int64) error {
	if end := offset + int64(len(record)); end > w.filled {
		ahead := end + w.fill
		if _, err := w.file.WriteAt(make([]byte, ahead-w.filled), w.filled); err != nil {
			return err
		}
		w.filled = ahead
	}
	if _, err := w.file.WriteAt(record, offset); err != nil {
		return err
	}
	return w.file.SyncData()
}

func syncFolder(fs vfs.FS, dir string) error {
	f, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// durableFile says which version was durable, apart from the journal that it vouches for: after a
// crash of the process the version that was acknowledged, after a power cut that or an earlier one.
// It is written after each sync of the journal, and itself synced only where a segment begins and at
// each start, so that it is always there. Of its two slots one is always whole.
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

func openDurable(fs vfs.FS, dir string) (*durableFile, error) {
	f, err := fs.OpenReadWrite(fs.PathJoin(dir, durableName), vfs.WriteCategoryUnspecified)
	return &durableFile{file: f}, err
}

func (d *durableFile) write(seq uint64) error {
	b := binary.BigEndian.AppendUint64([]byte(durableMagic), seq)
	b = binary.BigEndian.AppendUint32(b, checksum(b))
	_, err := d.file.WriteAt(b, d.next*durableApart)
	d.next = 1 - d.next
	return err
}

// readDurable is the version that the file vouches for; without ok there is no such file, or neither
// slot checks.
func readDurable(fs vfs.FS, dir string) (seq uint64, ok bool, err error) {
	f, err := fs.Open(fs.PathJoin(dir, durableName))
	if isAbsent(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	b, err := io.ReadAll(io.LimitReader(f, durableApart+durableSize))
	for at := 0; at+durableSize <= len(b); at += durableApart {
		slot := b[at : at+durableSize]
		if string(slot[:8]) == durableMagic && checksum(slot[:16]) == binary.BigEndian.Uint32(slot[16:]) {
			seq, ok = max(seq, binary.BigEndian.Uint64(slot[8:])), true
		}
	}
	return seq, ok, errors.Join(err, f.Close())
}
