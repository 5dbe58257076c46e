package node

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// journalWriter writes records, one after the other. It is one goroutine's.
type journalWriter struct {
	fs      vfs.FS
	dir     string
	fill    int64
	elapsed func() time.Duration
	name    string        // the newest segment's
	file    vfs.File      // the newest segment
	filled  int64         // bytes of it that are there, zeros included
	looked  time.Duration // when inPlace last looked
}

// lookEvery is the time between two looks at whether the journal is still where a start will look for
// it. A look costs two calls of stat.
const lookEvery = 100 * time.Millisecond

// open goes on in a segment that is there, behind end. What a crash left there is wiped first, lest
// a shorter record leave the rest of it behind. A crash here leaves some of it, and it is wiped then.
func (w *journalWriter) open(end place) (err error) {
	w.name = w.fs.PathJoin(w.dir, segmentName(end.segment))
	if w.file, err = w.fs.OpenReadWrite(w.name, vfs.WriteCategoryUnspecified); err != nil {
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
	w.name = w.fs.PathJoin(w.dir, segmentName(h.first))
	if w.file, err = w.fs.OpenReadWrite(w.name, vfs.WriteCategoryUnspecified); err != nil {
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

// inPlace fails where what is appended would not be found by a start: the segment was removed, or its
// folder was renamed, or another file or a shorter one is in its place. It looks every lookEvery, or at
// once.
func (w *journalWriter) inPlace(atOnce bool) error {
	now := w.elapsed()
	if !atOnce && now-w.looked < lookEvery {
		return nil
	}
	w.looked = now
	open, err := w.file.Stat()
	if err != nil {
		return err
	}
	found, err := w.fs.Stat(w.name)
	if err != nil {
		return fmt.Errorf("it was removed or renamed under the node: %w", err)
	}
	if a, ok := open.Sys().(*syscall.Stat_t); ok {
		if b, ok := found.Sys().(*syscall.Stat_t); !ok || a.Dev != b.Dev || a.Ino != b.Ino {
			return fmt.Errorf("another file was put in the place of %s under the node", w.name)
		}
	}
	if found.Size() < w.filled {
		return fmt.Errorf("%s was cut under the node, from %d bytes to %d", w.name, w.filled, found.Size())
	}
	return nil
}

func syncFolder(fs vfs.FS, dir string) error {
	f, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
