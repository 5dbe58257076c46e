package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"svc-wallet/host"
)

// maxGroups bounds the files of a folder.
const maxGroups = 1024

// source is where documents are kept: one file, which is the group default, or a folder with a
// file for each group.
type source struct {
	path string // absolute
	dir  bool
}

// file is a group's file, as it was read.
type file struct {
	path  string
	raw   []byte
	err   error // it cannot be read as it should
	twins bool  // because another file is the same group's
}

// openSource wants something at path: a name that was mistyped must not look like no limits.
func openSource(path string) (source, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return source{}, fmt.Errorf("limits: %w", err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return source{}, fmt.Errorf("limits: %w", err)
	}
	s := source{abs, info.IsDir()}
	if !s.dir && !known(abs) {
		return source{}, fmt.Errorf("limits: %s: the extension is none of .json, .yaml, .yml and .toml", abs)
	}
	return s, nil
}

// folder is what has to be watched to notice each change.
func (s source) folder() string {
	if s.dir {
		return s.path
	}
	return filepath.Dir(s.path)
}

// read reads the files. An error says that nothing is known of any of them.
func (s source) read() (map[string]file, error) {
	if !s.dir {
		raw, err := readFile(s.path)
		if errors.Is(err, fs.ErrNotExist) {
			return map[string]file{}, nil
		}
		return map[string]file{defaultGroup: {path: s.path, raw: raw, err: err}}, nil
	}
	entries, err := os.ReadDir(s.path)
	if err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	found := map[string]file{}
	for _, e := range entries {
		path := filepath.Join(s.path, e.Name())
		if strings.HasPrefix(e.Name(), ".") || !known(path) || e.IsDir() {
			continue // Kubernetes' ..data, an editor's copy, a note
		}
		group := strings.TrimSuffix(e.Name(), filepath.Ext(path))
		switch other, twice := found[group]; {
		case twice:
			other.err, other.twins = fmt.Errorf("%s is there as well: a group has one file", e.Name()), true
			found[group] = other
		case !isGroup(group):
			found[group] = file{path: path, err: errors.New("the name of a group is [a-z0-9][a-z0-9_.-]{0,62}")}
		default:
			f := file{path: path}
			if f.raw, f.err = readFile(path); errors.Is(f.err, fs.ErrNotExist) {
				continue // removed since the folder was read
			}
			found[group] = f
		}
	}
	if len(found) > maxGroups {
		return nil, fmt.Errorf("limits: there are more than %d groups in %s", maxGroups, s.path)
	}
	return found, nil
}

// file is where the API writes a group.
func (s source) file(group string) string {
	if s.dir {
		return filepath.Join(s.path, group+".json")
	}
	return s.path
}

// byHand says whether the limits are one file in a format that the API does not write.
func (s source) byHand() bool { return !s.dir && filepath.Ext(s.path) != ".json" }

func known(path string) bool {
	return slices.Contains([]string{".json", ".yaml", ".yml", ".toml"}, filepath.Ext(path))
}

func isGroup(name string) bool {
	for i, c := range name {
		alnum := (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')
		if !alnum && (i == 0 || !strings.ContainsRune("_.-", c)) {
			return false
		}
	}
	return name != "" && len(name) <= 63
}

// readFile reads a group's file. Who is told of the error knows its name.
func readFile(path string) ([]byte, error) {
	raw, err := host.ReadFile(path, maxDocument)
	if of := (*fs.PathError)(nil); errors.As(err, &of) {
		err = of.Err
	}
	return raw, err
}

// write replaces a file as a whole. One that is there keeps its mode; a new one has 0600.
func write(path string, content []byte) error {
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	return host.WriteFile(path, content, mode)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return host.SyncFolder(filepath.Dir(path))
}
