package link

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// deviceName is numbered by the kernel, the first free one. So links do not meet, in their addresses neither.
const deviceName = "swc%d"

// maxLinks is how many a machine has at once.
const maxLinks = 64

// open makes the namespace and both devices. Addresses are of those that RFC 2544 keeps for measurements.
func (l *Link) open() error {
	name, err := l.device(0)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimPrefix(name, "swc"))
	if err != nil || n >= maxLinks {
		return errors.Join(err, fmt.Errorf("there are %d links on this machine already", maxLinks))
	}
	l.Here, l.There = netip.AddrFrom4([4]byte{198, 18, byte(n), 1}), netip.AddrFrom4([4]byte{198, 18, byte(n), 2}) //nolint:gosec // less than maxLinks
	if err := bring(name, l.Here); err != nil {
		return err
	}
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("namespace: %w", err)
		}
		if l.net, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if name, err = l.device(1); err != nil {
			return err
		}
		return errors.Join(bring(name, l.There), bring("lo", netip.Addr{}))
	})
}

// device makes a TUN device in the namespace of the calling thread. It is there until its file is closed.
func (l *Link) device(i int) (name string, err error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(deviceName)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("TUN device: %w", err), unix.Close(fd))
	}
	l.devices[i] = os.NewFile(uintptr(fd), req.Name()) // after TUNSETIFF, so that the poller sees a device
	return req.Name(), nil
}

// bring gives a device its address, where there is one, and puts it up, in the namespace of the calling thread.
func bring(name string, addr netip.Addr) (err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	do := func(what uint, fill func(*unix.Ifreq) error) {
		if err != nil {
			return
		}
		req, bad := unix.NewIfreq(name)
		if err = bad; err != nil {
			return
		}
		if err = fill(req); err == nil {
			err = unix.IoctlIfreq(fd, what, req)
		}
		if err != nil {
			err = fmt.Errorf("device %s: %w", name, err)
		}
	}
	if addr.IsValid() {
		do(unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr.AsSlice()) })
		do(unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 252}) })
	}
	do(unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil })
	return err
}

// Net is the file of the namespace, by which other programs of root enter it while the link is there.
func (l *Link) Net() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), l.net.Fd()) }

// Run calls f on a thread in the namespace. What f listens on, and each program that it starts, is there.
func (l *Link) Run(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(l.net.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("namespace: %w", err)
		}
		return f()
	})
}

// Enter moves the calling thread into the namespace of a file, for good; whoever calls it becomes another program
// then.
func Enter(file string) error {
	runtime.LockOSThread()
	f, err := os.Open(file) //nolint:gosec // a file of the kernel's
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // was not written to
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	return nil
}

// onThread calls f on a thread that nobody else uses, before or after.
func onThread(f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		ended <- f()
	}()
	return <-ended
}
