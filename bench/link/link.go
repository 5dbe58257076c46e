// Package link is a piece of network between two programs of this machine: a network namespace that is joined to
// the one of this process by an emulator of packets, which delays, loses and slows them as `tc netem` does, and
// needs no netem in the kernel. TCP runs over it as over any other network, so what is lost is sent again by TCP.
//
// New makes it. Nothing of it has a name outside the process that made it: the namespace and the devices live as
// long as that process, or a program that runs inside, so a process that was killed leaves nothing behind.
package link

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
)

// Link joins this process's network to one of its own, whose only other end it is. Close ends it.
type Link struct {
	Here  netip.Addr // of this process's end
	There netip.Addr // of the end in the namespace
	net   *os.File   // the namespace

	settings atomic.Pointer[Settings]
	devices  [2]*os.File // here, there
	pipes    [2]*pipe
	all      sync.WaitGroup
}

// New makes a link that passes all on at once. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN, as root has them, and
// /dev/net/tun.
func New() (*Link, error) {
	l := new(Link)
	l.settings.Store(&Settings{})
	if err := l.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("a network of its own cannot be made here, which takes Linux, root and /dev/net/tun: %w", err), l.Close())
	}
	for i := range l.pipes {
		p := newPipe(&l.settings, l.devices[i], l.devices[1-i])
		l.pipes[i] = p
		l.all.Go(p.read)
		l.all.Go(p.write)
	}
	return l, nil
}

// Unavailable says of an error of New that this machine lets no link be made. Any other is a fault of the link.
func Unavailable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errors.ErrUnsupported)
}

// Set changes what happens to packets from now on, in both directions. Those on their way arrive as they would have.
func (l *Link) Set(s Settings) { l.settings.Store(&s) }

// Settings are those in force.
func (l *Link) Settings() Settings { return *l.settings.Load() }

// Stats are what became of the packets of both directions.
func (l *Link) Stats() (sum Stats) {
	for _, p := range l.pipes {
		sum.Passed += p.passed.Load()
		sum.Lost += p.lost.Load()
		sum.Overflowed += p.overflowed.Load()
	}
	return sum
}

// Stats count packets.
type Stats struct {
	Passed     uint64 `json:"passed"`
	Lost       uint64 `json:"lost"`       // by Settings.Loss
	Overflowed uint64 `json:"overflowed"` // because Settings.Limit packets were on their way
}

// Close ends the emulator and takes both devices away. Programs in the namespace keep it, without a way out.
func (l *Link) Close() error {
	var errs []error
	for _, d := range l.devices {
		if d != nil {
			errs = append(errs, d.Close())
		}
	}
	for _, p := range l.pipes {
		if p != nil {
			p.end()
		}
	}
	l.all.Wait()
	if l.net != nil {
		errs = append(errs, l.net.Close())
	}
	return errors.Join(errs...)
}
