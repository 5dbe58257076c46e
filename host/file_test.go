package host

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestReadFile reads what is a file within the bound, and refuses the rest at once, by a table.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	put(t, path("four"), "four")
	if err := os.Symlink("four", path("link")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		most int64
		want string // what the error says
	}{
		{"four", 4, ""},
		{"link", 4, ""},
		{"four", 3, "larger than 3 bytes"},
		{"four", 0, "larger than 0 bytes"},
		{"pipe", 4, "not a regular file"},
		{".", 4, "not a regular file"},
		{"none", 4, "no such file"},
	} {
		raw, err := ReadFile(path(c.name), c.most)
		switch {
		case c.want == "" && (err != nil || string(raw) != "four"):
			t.Errorf("%s: %q, %v", c.name, raw, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		case c.want != "" && !errors.As(err, new(*fs.PathError)):
			t.Errorf("%s: the error does not name the file: %v", c.name, err)
		}
	}
	for most, want := range map[int64]string{5: "5 bytes", 64 << 10: "64KiB", 4 << 20: "4MiB"} {
		if got := size(most); got != want {
			t.Errorf("%d is called %s", most, got)
		}
	}
}

// TestSecretPermissions is the rule of who may read a secret, by a table; the process is in groups 7
// and 1000.
func TestSecretPermissions(t *testing.T) {
	for _, c := range []struct {
		mode     fs.FileMode
		uid, gid uint32
		want     bool
	}{
		{0o600, 500, 500, true},
		{0o400, 0, 0, true},
		{0o700, 500, 500, true},
		{0o440, 0, 1000, true},
		{0o640, 0, 7, true},
		{0o640, 0, 0, false},      // root's group, which is not ours
		{0o640, 0, 500, false},    // somebody else's group
		{0o640, 500, 1000, false}, // not root's, so its owner may be anybody
		{0o660, 0, 1000, false},
		{0o650, 0, 1000, false},
		{0o620, 0, 1000, false},
		{0o644, 0, 1000, false},
		{0o604, 500, 500, false},
		{0o601, 500, 500, false},
		{0o602, 0, 1000, false},
	} {
		if got := isPrivate(c.mode, &syscall.Stat_t{Uid: c.uid, Gid: c.gid}, []int{7, 1000}); got != c.want {
			t.Errorf("%o of %d:%d: %v", c.mode, c.uid, c.gid, got)
		}
	}
}

// TestReadSecret applies the rule to real files, and once to one laid out as Kubernetes does it.
func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	inside := filepath.Join(dir, "..2026", "keys")
	if err := os.Mkdir(filepath.Dir(inside), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, inside, "secret")
	for link, to := range map[string]string{"..data": "..2026", "keys": "..data/keys"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "keys")
	for mode, want := range map[fs.FileMode]bool{0o600: true, 0o400: true, 0o440: os.Geteuid() == 0, 0o644: false, 0o606: false} {
		if err := os.Chmod(inside, mode); err != nil {
			t.Fatal(err)
		}
		raw, err := ReadSecret(path, 64)
		if (err == nil) != want || want && string(raw) != "secret" {
			t.Errorf("%o: %v", mode, err)
		}
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("the error does not name the file: %v", err)
		}
	}
}

// TestWriteFile replaces a file under readers, which see one content or the other; and a failure
// leaves what was there, and nothing else.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	contents := [][]byte{bytes.Repeat([]byte("a"), 1<<16), bytes.Repeat([]byte("b"), 1<<15)}
	if err := WriteFile(path, contents[0], 0o640); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				raw, err := ReadFile(path, 1<<20)
				if err != nil || !bytes.Equal(raw, contents[0]) && !bytes.Equal(raw, contents[1]) {
					t.Errorf("read %d bytes, %v", len(raw), err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i := range 100 {
		if err := WriteFile(path, contents[i%2], 0o640); err != nil {
			t.Error(err)
		}
	}
	close(done)
	readers.Wait()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "folder"), nil, 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if err := WriteFile(filepath.Join(dir, "none", "f"), nil, 0o600); err == nil {
		t.Error("there is no such folder")
	}
	if err := SyncFolder(filepath.Join(dir, "none")); err == nil {
		t.Error("there is no such folder")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
