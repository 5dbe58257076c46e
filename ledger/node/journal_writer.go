package node

import (
	"bytes"
	"errors"

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
