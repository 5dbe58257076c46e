package ledger

import (
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxThreads bounds what is read of one process.
const maxThreads = 256

// socketKernel is the kernel's word on a Unix socket and on the process at its other end.
type socketKernel struct {
	conn syscall.RawConn
	dir  string // of the process's threads in /proc; empty: it cannot be seen, or is this one
}

// kernelOf returns nil for anything but a Unix socket. The process is the one that listened; it is
// not to be seen from another PID namespace, and then only the socket is asked.
func kernelOf(c net.Conn) kernel {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	k := &socketKernel{conn: raw}
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil && cred.Pid > 0 && int(cred.Pid) != os.Getpid() {
			k.dir = "/proc/" + strconv.Itoa(int(cred.Pid)) + "/task"
		}
	})
	return k
}

func (k *socketKernel) unread() (some bool) {
	_ = k.conn.Control(func(fd uintptr) {
		n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		some = err == nil && n > 0
	})
	return some
}

// busy sums up /proc/PID/task/TID/schedstat: nanoseconds on a CPU, nanoseconds waiting for one, and
// a count. A thread that is stopped, sleeps or waits for a disk does neither.
func (k *socketKernel) busy() (ns time.Duration, ok bool) {
	if k.dir == "" {
		return 0, false
	}
	tasks, err := os.Open(k.dir)
	if err != nil {
		return 0, false
	}
	defer func() { _ = tasks.Close() }()
	threads, err := tasks.Readdirnames(maxThreads)
	for _, id := range threads {
		text, err := os.ReadFile(k.dir + "/" + id + "/schedstat") //nolint:gosec // of the kernel's making
		fields := strings.Fields(string(text))
		if err != nil || len(fields) < 2 {
			continue // the thread has ended
		}
		for _, field := range fields[:2] {
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, false
			}
			ns += time.Duration(n)
		}
	}
	return ns, err == nil
}
