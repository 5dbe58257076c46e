package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
)

// watching is a set of two files that must hold the same text, and what was made of it.
type watching struct {
	t     *testing.T
	files *Files
	set   *Watched
	hook  *test.Hook
	a, b  string
	mu    sync.Mutex
	text  string // in force
	uses  int
}

func newWatching(t *testing.T) *watching {
	t.Helper()
	log, hook := test.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	dir := t.TempDir()
	w := &watching{t: t, files: NewFiles(log, func() int64 { return time.Now().UnixNano() }), hook: hook, a: filepath.Join(dir, "a"), b: filepath.Join(dir, "b")}
	w.set = w.files.Watch("pair", ReadFile)
	w.put("one", "one")
	if err := w.set.Turn(w.use, w.a, "", w.b); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *watching) use(contents [][]byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.uses++
	if contents[1] != nil {
		w.t.Error("no file has content")
	}
	if string(contents[0]) != string(contents[2]) {
		return errors.New("a and b do not match")
	}
	w.text = string(contents[0])
	return nil
}

func (w *watching) put(a, b string) {
	w.t.Helper()
	put(w.t, w.a, a)
	put(w.t, w.b, b)
}

// sees looks twice, and demands what is then in force and what was logged: the second look has
// nothing new.
func (w *watching) sees(text string, events ...string) {
	w.t.Helper()
	w.hook.Reset()
	w.files.Look()
	uses := w.uses
	w.files.Look()
	if w.text != text {
		w.t.Errorf("in force is %q, want %q", w.text, text)
	}
	if w.uses != uses {
		w.t.Error("the same files were used again")
	}
	var got []string
	for _, e := range w.hook.AllEntries() {
		got = append(got, e.Message)
		if e.Data["files"] != "pair" {
			w.t.Errorf("the log does not say which files: %v", e.Data)
		}
	}
	if strings.Join(got, " ") != strings.Join(events, " ") {
		w.t.Errorf("logged %v, want %v", got, events)
	}
}

// TestChangesAreNoticed changes files in the ways that programs do: each is in force at the next look.
func TestChangesAreNoticed(t *testing.T) {
	w := newWatching(t)
	w.sees("one")

	before, err := os.Stat(w.a)
	if err != nil {
		t.Fatal(err)
	}
	w.put("two", "two") // in place, of the same size, and then with the old time
	for _, path := range []string{w.a, w.b} {
		if err := os.Chtimes(path, before.ModTime(), before.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	w.sees("two", "files_reloaded")

	for _, path := range []string{w.a, w.b} { // renamed over
		if err := WriteFile(path, []byte("three"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.sees("three", "files_reloaded")
	w.put("three", "three") // touched
	w.sees("three")
	if w.set.Applied() != 2 || w.set.Refused() != 0 || w.set.Name() != "pair" {
		t.Errorf("applied %d, refused %d", w.set.Applied(), w.set.Refused())
	}
}

// TestSymbolicLinkSwap changes files as Kubernetes does: all of them at once, behind ..data.
func TestSymbolicLinkSwap(t *testing.T) {
	w := newWatching(t)
	dir := t.TempDir()
	swap := func(version, text string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, version, "a"), text)
		put(t, filepath.Join(dir, version, "b"), text)
		if err := os.Symlink(version, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	swap("..1", "first")
	for _, name := range []string{"a", "b"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.set.Turn(w.use, filepath.Join(dir, "a"), "", filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	w.sees("first")
	swap("..2", "second")
	if err := os.RemoveAll(filepath.Join(dir, "..1")); err != nil {
		t.Fatal(err)
	}
	w.sees("second", "files_reloaded")
}

// TestLastGoodStays makes the files unfit in each way and good again: what was good stays in force,
// and each fault is said and counted once.
func TestLastGoodStays(t *testing.T) {
	w := newWatching(t)
	w.put("two", "one")
	w.sees("one", "files_refused")
	w.sees("one")
	w.put("two", "tw")
	w.sees("one") // the same fault of other content
	w.put("two", "two")
	w.sees("two", "files_reloaded")

	w.put("three", "")
	w.sees("two", "files_refused")
	w.put("two", "two")
	w.sees("two", "files_as_before")

	if err := os.Remove(w.b); err != nil {
		t.Fatal(err)
	}
	w.sees("two", "files_refused")
	w.put("two", "two") // it came back as it was
	w.sees("two", "files_as_before")
	if err := os.Remove(w.a); err != nil {
		t.Fatal(err)
	}
	w.sees("two", "files_refused")
	w.put("four", "four")
	w.sees("four", "files_reloaded")
	put(t, w.a, strings.Repeat("x", maxWatched+1))
	w.sees("four", "files_refused")
	if w.set.Applied() != 2 || w.set.Refused() != 5 {
		t.Errorf("applied %d, refused %d", w.set.Applied(), w.set.Refused())
	}
}

// TestTurn turns to other files: a failure leaves the old ones watched, a success forgets them.
func TestTurn(t *testing.T) {
	w := newWatching(t)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := w.set.Turn(w.use, a, "", b); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files that are not there: %v", err)
	}
	put(t, a, "x")
	put(t, b, "y")
	if err := w.set.Turn(w.use, a, "", b); err == nil {
		t.Error("unfit files were turned to")
	}
	w.put("two", "two")
	w.sees("two", "files_reloaded")
	put(t, b, "x")
	if err := w.set.Turn(w.use, a, "", b); err != nil {
		t.Fatal(err)
	}
	w.put("three", "three")
	w.sees("x")

	w.files.Watch("empty", ReadFile) // is no file yet, and no fault
	w.sees("x")
	if len(w.files.Watched()) != 2 {
		t.Error("not all sets are listed")
	}
}

// TestRun looks by itself, every second, until it is told to end.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatching(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.files.Run(ctx) }()
		synctest.Wait()
		w.put("two", "two")
		time.Sleep(lookEvery) // of the bubble's clock
		synctest.Wait()
		w.mu.Lock()
		if w.text != "two" {
			t.Errorf("in force is %q", w.text)
		}
		w.mu.Unlock()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
