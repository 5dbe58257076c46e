package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"svc-wallet/bench/link"
)

// controlAddr is where a link obeys. A socket without a file: it is gone with its process, however that ends.
const controlAddr = "@svc-wallet-chaos"

// controlIn bounds a command, and maxCommand its length.
const (
	controlIn  = 5 * time.Second
	maxCommand = 4096
)

// order is a command to a link.
type order struct {
	Set *link.Settings `json:"set"` // nil: only tell
}

// answer is what a link tells.
type answer struct {
	Net      string        `json:"net"` // the namespace's file
	Settings link.Settings `json:"settings"`
	Stats    link.Stats    `json:"stats"`
	Refused  string        `json:"refused,omitempty"`
}

func listen() (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: controlAddr, Net: "unix"})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, errors.New("a link runs already: end it first")
	}
	return l, err
}

// obey takes one command after another until control is closed.
func obey(control *net.UnixListener, l *link.Link) error {
	for {
		c, err := control.AcceptUnix()
		if err != nil {
			return err
		}
		_ = serve(c, l) // whoever asked has gone
		_ = c.Close()
	}
}

func serve(c *net.UnixConn, l *link.Link) error {
	if err := c.SetDeadline(time.Now().Add(controlIn)); err != nil {
		return err
	}
	var in order
	out := answer{}
	err := json.NewDecoder(io.LimitReader(c, maxCommand)).Decode(&in)
	switch {
	case err != nil:
		return err
	case !ours(c):
		out.Refused = "the link is another user's"
		return json.NewEncoder(c).Encode(out)
	case in.Set != nil:
		if err := in.Set.Check(); err != nil {
			out.Refused = err.Error()
			break
		}
		l.Set(*in.Set)
	}
	out.Net, out.Settings, out.Stats = l.Net(), l.Settings(), l.Stats()
	return json.NewEncoder(c).Encode(out)
}

// ours says that the other end is of this user. A socket without a file has no permissions.
func ours(c *net.UnixConn) (is bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		is = err == nil && int(cred.Uid) == os.Getuid()
	})
	return is && err == nil
}

// ask sends a command to the link; nil only asks.
func ask(ctx context.Context, set *link.Settings) (got answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, controlIn)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", controlAddr)
	if err != nil {
		return got, fmt.Errorf("no link runs (`chaos link` makes one, and --dev DEV needs none): %w", err)
	}
	defer c.Close() //nolint:errcheck // what it had to tell was read
	if err := c.SetDeadline(time.Now().Add(controlIn)); err != nil {
		return got, err
	}
	if err := json.NewEncoder(c).Encode(order{set}); err != nil {
		return got, err
	}
	if err := json.NewDecoder(io.LimitReader(c, maxCommand)).Decode(&got); err != nil {
		return got, err
	}
	if got.Refused != "" {
		err = errors.New(got.Refused)
	}
	return got, err
}
