package main

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

// TestMemoryMax reads the limits of cgroups of both versions from copies of the kernel's files, in a
// container and out of one: the least one counts, and what is not a limit is none.
func TestMemoryMax(t *testing.T) {
	const none = math.MaxInt64
	for _, tc := range []struct {
		name, groups string
		files        map[string]string
		want         int64
	}{
		{"version 2", "0::/a/b\n", map[string]string{"a/b/memory.max": "300\n", "a/memory.max": "max\n"}, 300},
		{"a parent's is less", "0::/a/b\n", map[string]string{"a/b/memory.max": "300\n", "a/memory.max": "200\n"}, 200},
		{"a container sees only the top", "0::/../../pod\n", map[string]string{"memory.max": "400\n"}, 400},
		{"version 1", "5:cpu:/x\n4:memory:/a\n0::/\n", map[string]string{"memory/a/memory.limit_in_bytes": "500\n"}, 500},
		{"version 1 without a limit", "4:memory:/a\n", map[string]string{"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, none},
		{"not a number", "0::/\n", map[string]string{"memory.max": "\n"}, none},
		{"no file", "0::/\n", nil, none},
		{"no cgroups", "", nil, none},
	} {
		root := t.TempDir()
		put := func(name, text string) {
			name = filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		put("proc/self/cgroup", tc.groups)
		for name, text := range tc.files {
			put("sys/fs/cgroup/"+name, text)
		}
		if got := memoryMax(root); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}
