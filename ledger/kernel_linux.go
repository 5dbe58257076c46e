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

// kernelOf is the kernel's word on a socket; nil for what is none.
func kernelOf(c net.Conn) kernel {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	switch c.(type) {
	case *net.UnixConn:
		return unixKernel(raw)
	case *net.TCPConn:
		return &tcpKernel{socketKernel: socketKernel{conn: raw}}
	default:
		return nil
	}
}

// socketKernel is the kernel's word on a socket and, of a Unix socket, on the process at its other end.
type socketKernel struct {
	conn syscall.RawConn
	dir  string // of the process's threads in /proc; empty: it cannot be seen, or is this one
}

// unixKernel sees the process that listened. It is not to be seen from another PID namespace, and then
// only the socket is asked.
func unixKernel(raw syscall.RawConn) *socketKernel {
	k := &socketKernel{conn: raw}
	_ = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil && cred.Pid > 0 && int(cred.Pid) != os.Getpid() {
			k.dir = "/proc/" + strconv.Itoa(int(cred.Pid)) + "/task"
		}
	})
	return k
}

// network is none on a Unix socket.
func (k *socketKernel) network() (holds bool, roundTrip time.Duration) { return false, 0 }

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

// tcpKernel is the kernel's word on a TCP connection.
type tcpKernel struct {
	socketKernel

	early uint32 // packets that have come before one that was lost or overtaken, since the beginning
}

// network says that it holds something up where the other machine has been heard within two ticks, as jitter
// may make of one, and all the same a packet is being sent again in either direction, or some are not sent yet.
// What came after a lost packet waits for it (RFC 9293, section 3.4), so the node may have answered and nobody can
// read it. Where a packet is lost on the way there, the other machine's acknowledgements go on, and name what
// has come after it; where one is lost on the way here, what the node has sent since comes early. Not sent yet
// is what congestion control keeps back: BBR lets only four packets be on their way for 200 ms of each 10 s. Of
// a network that is cut, and of a machine that is off, nothing is heard.
func (k *tcpKernel) network() (holds bool, roundTrip time.Duration) {
	_ = k.conn.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		early := info.Rcv_ooopack - k.early
		k.early = info.Rcv_ooopack
		heard := min(info.Last_ack_recv, info.Last_data_recv) <= uint32(2*tickEvery/time.Millisecond)
		holds = heard && (early > 0 || info.Sacked > 0 || info.Lost > 0 || info.Retrans > 0 || info.Notsent_bytes > 0)
		roundTrip = time.Duration(info.Rtt) * time.Microsecond
	})
	return holds, roundTrip
}
