package main

import (
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory makes the garbage collector work harder before the process's memory cgroup is full,
// rather than be killed at a moment when half of what is allocated is garbage. The tenth that it
// leaves is for what the collector does not count: stacks of C, the binary, the kernel's buffers.
// It returns the limit, or 0 where there is no cgroup's or GOMEMLIMIT has set one.
func limitMemory(root string) int64 {
	limit := memoryMax(root)
	if limit == math.MaxInt64 || debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return 0
	}
	limit = limit / 10 * 9
	debug.SetMemoryLimit(limit)
	return limit
}

// memoryMax is the least limit of the memory cgroups that the process is in, or MaxInt64. root is the
// file system's. In a container the names that the kernel tells may be the host's, of which only the
// top of the hierarchy is to be seen, so all folders on the way there are asked.
func memoryMax(root string) int64 {
	least := int64(math.MaxInt64)
	groups, err := os.ReadFile(root + "/proc/self/cgroup") //nolint:gosec // root is a test's or nothing
	if err != nil {
		return least
	}
	for line := range strings.Lines(string(groups)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, dir, _ := strings.Cut(rest, ":")
		file, mount := "memory.max", "/sys/fs/cgroup"
		switch controllers {
		case "": // version 2
		case "memory":
			file, mount = "memory.limit_in_bytes", mount+"/memory"
		default:
			continue
		}
		for dir = path.Clean("/" + dir); ; dir = path.Dir(dir) {
			least = min(least, readLimit(root+mount+dir+"/"+file))
			if dir == "/" {
				break
			}
		}
	}
	return least
}

// readLimit is a cgroup's limit, or MaxInt64 where it has none. Version 1 says so with a number
// near that.
func readLimit(file string) int64 {
	const none = math.MaxInt64 / 2
	text, err := os.ReadFile(file) //nolint:gosec // names from the kernel
	if err != nil {
		return math.MaxInt64
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n <= 0 || n > none {
		return math.MaxInt64
	}
	return n
}
