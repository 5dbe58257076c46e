package node

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

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
