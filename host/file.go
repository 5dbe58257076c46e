package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// ReadFile reads a regular file of at most that many bytes. It does not wait where path is something
// else: a pipe could keep it for ever. Its error is a *fs.PathError.
func ReadFile(path string, most int64) ([]byte, error) {
	return read(path, most, func(fs.FileInfo) error { return nil })
}

// ReadSecret is ReadFile of what nobody else may read: a file that only its owner can read, or one of
// root's that besides only this process's group can, as Kubernetes makes Secrets with an fsGroup.
func ReadSecret(path string, most int64) ([]byte, error) {
	return read(path, most, func(info fs.FileInfo) error {
		groups, err := os.Getgroups()
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && isPrivate(info.Mode(), stat, append(groups, os.Getegid())) {
			return nil
		}
		return fmt.Errorf("has mode %v: want 0600 or 0400, or 0640 or 0440 of root and this process's group", info.Mode().Perm())
	})
}

// isPrivate is ReadSecret's rule for a process of these groups.
func isPrivate(mode fs.FileMode, stat *syscall.Stat_t, groups []int) bool {
	const group, others = 0o070, 0o007
	switch {
	case mode&others != 0:
		return false
	case mode&group == 0:
		return true
	default:
		return mode&group == 0o040 && stat.Uid == 0 && slices.Contains(groups, int(stat.Gid))
	}
}

// read looks at the open file, so it cannot be swapped after it was found fit.
func read(path string, most int64, fit func(fs.FileInfo) error) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names it
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	raw, err := readOpen(f, most, fit)
	if err != nil && !errors.As(err, new(*fs.PathError)) {
		err = &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return raw, err
}

func readOpen(f *os.File, most int64, fit func(fs.FileInfo) error) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is not a regular file")
	}
	if err := fit(info); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(raw)) > most {
		return nil, fmt.Errorf("is larger than %s", size(most))
	}
	return raw, err
}

func size(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	default:
		return fmt.Sprintf("%d bytes", n)
	}
}

// WriteFile replaces a file as a whole: whoever reads it, at any time and after a crash, finds the old
// content or the new one. The mode is never wider than asked for, and nothing that somebody else put
// in the way is written to.
func WriteFile(path string, content []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600; the dot hides it from who lists the folder
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // what is wrong has been said
		}
	}()
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncFolder(dir)
}

// SyncFolder makes changes of names in a folder last over a power cut.
func SyncFolder(path string) error {
	d, err := os.Open(path) //nolint:gosec // the operator names it
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
