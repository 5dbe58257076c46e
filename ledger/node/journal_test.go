package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"svc-wallet/wallet"
)

// TestJournalIsTakenAway: a node whose journal was removed, renamed, replaced or cut under it stops and
// acknowledges nothing more, at the first payment that comes once it has not looked for lookEvery, or
// before it begins a segment. Method: real files, and a clock of the test's.
func TestJournalIsTakenAway(t *testing.T) {
	for what, take := range map[string]func(dir, newest string) error{
		"removed": func(_, newest string) error { return os.Remove(newest) },
		"the folder is renamed": func(dir, _ string) error {
			return os.Rename(dir, dir+"-away")
		},
		"replaced by a copy": func(_, newest string) error {
			data, err := os.ReadFile(newest)
			return errors.Join(err, os.Remove(newest), os.WriteFile(newest, data, 0o600))
		},
		"cut": func(_, newest string) error { return os.Truncate(newest, headerSize) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "db")
			var elapsed atomic.Int64
			var fatal atomic.Int32
			opts := Options{
				Now: frozen, Elapsed: func() time.Duration { return time.Duration(elapsed.Load()) },
				Fatal: func(error) { fatal.Add(1) },
			}
			e, err := openPebble(dir, opts, vfs.Default)
			if err != nil {
				t.Fatal(err)
			}
			send(t, e, payment(0, 0))
			if err := take(dir, filepath.Join(dir, journalDir, segmentName(1))); err != nil {
				t.Fatal(err)
			}
			elapsed.Add(int64(lookEvery))
			out := make([]wallet.Result, 1)
			if err := e.Commit(context.Background(), []wallet.Payment{payment(0, 1)}, out); err == nil || fatal.Load() != 1 {
				t.Errorf("answered %v, %v; stopped %d times", out[0].Code.Name(), err, fatal.Load())
			}
			if e.Seq() != 1 {
				t.Errorf("version %d is told", e.Seq())
			}
			_ = e.Close()
		})
	}
}

// TestNoSegmentElsewhere: a segment is not begun in a folder that was put in the place of the node's, also
// where it has just looked.
func TestNoSegmentElsewhere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	var fatal atomic.Int32
	opts := small(Options{Elapsed: func() time.Duration { return 0 }, Fatal: func(error) { fatal.Add(1) }})
	e, err := openPebble(dir, opts, vfs.Default)
	if err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(dir, journalDir)
	if err := errors.Join(os.Rename(journal, journal+"-away"), os.Mkdir(journal, 0o700)); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < 1000 && err == nil; n++ {
		err = e.Commit(context.Background(), []wallet.Payment{payment(0, n)}, make([]wallet.Result, 1))
	}
	if names, _ := os.ReadDir(journal); err == nil || fatal.Load() != 1 || len(names) > 0 {
		t.Errorf("%v, stopped %d times, %d files in the other folder", err, fatal.Load(), len(names))
	}
	_ = e.Close()
}
