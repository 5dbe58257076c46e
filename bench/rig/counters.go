package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// CPU is what the process has used since its start. Linux counts it in hundredths of a second.
func (p *Process) CPU() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, fields, _ := strings.Cut(string(stat), ") ") // the name may hold anything
	var state string
	var skip int64
	var user, system int64
	_, err = fmt.Sscan(fields, &state, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &user, &system)
	return time.Duration(user+system) * 10 * time.Millisecond, err
}

// RSS is how much of the machine's memory the process has, in bytes.
func (p *Process) RSS() (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	var size, resident int64
	_, err = fmt.Sscan(string(text), &size, &resident)
	return resident * int64(os.Getpagesize()), err
}

// FDs is how many files and connections the process has open.
func (p *Process) FDs() (int, error) {
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return len(open), err
}

// TreeCPU is what the process and all that it has started have used, also those that have ended.
func (p *Process) TreeCPU() (sum time.Duration, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	parents, used := map[int]int{}, map[int]time.Duration{}
	for _, file := range stats {
		text, err := os.ReadFile(file) //nolint:gosec // a file of the kernel's
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		_, fields, _ := strings.Cut(string(text), ") ")
		at := strings.Fields(fields) // from the third on: proc(5)
		parents[pid], _ = strconv.Atoi(at[1])
		for _, ticks := range at[11:15] { // its own, user and system, and those of children that have ended
			n, _ := strconv.ParseInt(ticks, 10, 64)
			used[pid] += time.Duration(n) * 10 * time.Millisecond
		}
	}
	for pid, cpu := range used {
		for at := pid; at > 1; at = parents[at] {
			if at == p.cmd.Process.Pid {
				sum += cpu
				break
			}
		}
	}
	return sum, err
}

// Listens is the address that the process has told under a name.
func (p *Process) Listens(name string) string { return p.listens[name] }

// Written is how many bytes the process has written, to files and to sockets.
func (p *Process) Written() (n int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "wchar: ")
	_, err = fmt.Sscan(rest, &n)
	return n, err
}

// Waited is how long the process's threads have waited for a CPU, together. A thread that ends takes
// its time along, and few do.
func (p *Process) Waited() (sum time.Duration, err error) {
	tasks := fmt.Sprintf("/proc/%d/task", p.cmd.Process.Pid)
	threads, err := os.ReadDir(tasks)
	for _, thread := range threads {
		text, err := os.ReadFile(filepath.Join(tasks, thread.Name(), "schedstat")) //nolint:gosec // a file of the kernel's
		if err != nil {
			continue // it has ended
		}
		var ran, waited time.Duration
		if _, err := fmt.Sscan(string(text), (*int64)(&ran), (*int64)(&waited)); err != nil {
			return 0, err
		}
		sum += waited
	}
	return sum, err
}
