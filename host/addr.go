package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Addr is where a server listens: a Unix socket, or a TCP port of a host. The zero value is nowhere
// (docs/decisions/032-an-address-is-judged-once.md).
type Addr struct {
	network string // "unix", "tcp"
	path    string // of the socket
	host    string // a name or an IP address, with its zone; "": every address of this machine
	port    uint16
}

// ParseAddr reads an address that can be dialled: unix:PATH, or HOST:PORT where HOST is a name, an IPv4
// address, or an IPv6 address in brackets. The error does not repeat text.
//
// A PATH may be relative. An abstract one (@NAME) is refused: it has no owner and no mode, so whoever
// comes first has it.
func ParseAddr(text string) (Addr, error) {
	a, err := ParseListenAddr(text)
	if err == nil && a.network == "tcp" && (a.host == "" || a.port == 0) {
		return Addr{}, malformed("the host is empty or the port is 0")
	}
	return a, err
}

// ParseListenAddr reads where to listen. It is ParseAddr, but for an empty HOST, which is every address
// of the machine, and port 0, which takes a free one.
func ParseListenAddr(text string) (Addr, error) {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return Addr{}, malformed("only visible ASCII characters may be in it")
		}
	}
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		return parsePath(path)
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return Addr{}, malformed(err.(*net.AddrError).Err) //nolint:errorlint,forcetypeassert // it always is one
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Addr{}, malformed("invalid port")
	}
	if text[0] != ':' && !isHost(host, text[0] == '[') {
		return Addr{}, malformed("invalid host")
	}
	return Addr{network: "tcp", host: host, port: uint16(n)}, nil
}

func malformed(why string) error { return fmt.Errorf("want unix:PATH or HOST:PORT: %s", why) }

func parsePath(path string) (Addr, error) {
	const most = 107 // sun_path less its final zero, unix(7)
	switch {
	case path == "":
		return Addr{}, malformed("the path is empty")
	case path[0] == '@':
		return Addr{}, malformed("an abstract socket has no owner")
	case len(path) > most:
		return Addr{}, malformed(fmt.Sprintf("the path is longer than %d bytes", most))
	}
	return Addr{network: "unix", path: path}, nil
}

func isHost(host string, brackets bool) bool {
	if brackets {
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Is6()
	}
	for i := range len(host) {
		c := host[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return len(host) <= 253
}

// AddrOf is the address of a listener or a connection.
func AddrOf(a net.Addr) Addr {
	if a.Network() == "unix" {
		return Addr{network: "unix", path: a.String()}
	}
	addr, _ := ParseListenAddr(a.String()) // what is no address is the zero value, which is not local
	return addr
}

// String is what ParseListenAddr reads.
func (a Addr) String() string {
	switch a.network {
	case "unix":
		return "unix:" + a.path
	case "tcp":
		return a.hostPort()
	default:
		return ""
	}
}

func (a Addr) hostPort() string { return net.JoinHostPort(a.host, strconv.Itoa(int(a.port))) }

// Path is a Unix socket's, and "" of another address.
func (a Addr) Path() string { return a.path }

// Host is a name or an IP address without brackets, and "" of a Unix socket.
func (a Addr) Host() string { return a.host }

// Port is 0 of a Unix socket.
func (a Addr) Port() uint16 { return a.port }

// IsLocal says whether what is sent there cannot leave this machine.
func (a Addr) IsLocal() bool { return a.network == "unix" || isLoopback(a.host) }

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || (err == nil && ip.Unmap().IsLoopback())
}

// Dial connects to a as d says.
func (a Addr) Dial(ctx context.Context, d *net.Dialer) (net.Conn, error) {
	if a.network == "unix" {
		return d.DialContext(ctx, a.network, a.path)
	}
	return d.DialContext(ctx, a.network, a.hostPort())
}

// ListenOptions say who may connect to a listener. The zero value is the process's user, through a Unix
// socket, and whoever is on this machine, through TCP.
type ListenOptions struct {
	Group  string // may connect too, to a Unix socket, which must be one then; a name or a number
	Remote bool   // so may other machines, to a TCP port
}

// Listen listens on an address that ParseListenAddr reads. A Unix socket that nobody answers on is
// replaced; anything else that is in its place is left alone and refused.
func Listen(addr string, o ListenOptions) (net.Listener, error) {
	a, err := ParseListenAddr(addr)
	var ln net.Listener
	switch {
	case err != nil:
	case a.network == "unix":
		ln, err = listenUnix(a.path, o.Group)
	case o.Group != "":
		err = errors.New("only a Unix socket has a group")
	default:
		ln, err = listenTCP(a.hostPort(), o.Remote)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", addr, err)
	}
	return ln, nil
}

func listenTCP(addr string, remote bool) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err == nil && !remote && !AddrOf(ln.Addr()).IsLocal() {
		return nil, errors.Join(errors.New("only loopback may be served without TLS"), ln.Close())
	}
	return ln, err
}

// listenUnix makes a socket of mode 0600, or with a group 0660.
func listenUnix(path, group string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// bind gives the file the mode that the socket has, so it never has a wider one.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), 0o600) })
		return errors.Join(err, failed)
	}}
	ln, err := private.Listen(context.Background(), "unix", path) // binding does not block
	if err != nil || group == "" {
		return ln, err
	}
	if err := admit(path, group); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// admit lets a group connect to a socket.
func admit(path, group string) error {
	id, err := strconv.Atoi(group)
	if err != nil {
		g, err := user.LookupGroup(group)
		if err != nil {
			return err
		}
		if id, err = strconv.Atoi(g.Gid); err != nil {
			return err
		}
	}
	if err := os.Chown(path, -1, id); err != nil {
		return err
	}
	return os.Chmod(path, 0o660) //nolint:gosec // the group is meant to connect
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("the file exists and is no socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(errors.New("another process answers on it"), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("the socket is in use or out of reach: %w", err)
	}
	return os.Remove(path)
}
