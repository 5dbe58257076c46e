package host

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestParseAddr judges each kind of address once for every program: may it be dialled, may it be listened
// on, and does it stay on this machine; by a table.
func TestParseAddr(t *testing.T) {
	const refused, listens, dials = "refused", "listens", "dials"
	path := "/" + strings.Repeat("p", 106)
	name := strings.Repeat("n", 253)
	for _, c := range []struct {
		text  string
		want  string
		local bool
	}{
		{"unix:/run/ledger.sock", dials, true},
		{"unix:rel.sock", dials, true},
		{"unix:./@odd", dials, true},
		{"unix:" + path, dials, true}, // 107 bytes
		{"unix:" + path + "p", refused, false},
		{"unix:" + path[:106], dials, true},
		{"unix:", refused, false},
		{"unix:@abstract", refused, false},
		{"unix:/a b", refused, false},
		{"unix:/ü", refused, false},
		{"unix:/\x00", refused, false},

		{"localhost:1", dials, true},
		{"LOCALHOST:19", dials, true},
		{"localhost.example:1", dials, false},
		{"127.0.0.1:65535", dials, true},
		{"127.9.9.9:1", dials, true},
		{"[::1]:1", dials, true},
		{"[::ffff:127.0.0.1]:1", dials, true},
		{"[::ffff:10.0.0.1]:1", dials, false},
		{"[fe80::1%eth0]:1", dials, false},
		{"[::1%lo]:1", dials, true},
		{"0.0.0.0:1", dials, false},
		{"[::]:1", dials, false},
		{"10.0.0.7:7000", dials, false},
		{"ledger_0.svc-a:7000", dials, false},
		{name + ":1", dials, false},
		{name + "n:1", refused, false},

		{":1", listens, false},
		{":0", listens, false},
		{"h:0", listens, false},
		{"127.0.0.1:0", listens, true},

		{"", refused, false},
		{"h", refused, false},
		{"h:", refused, false},
		{"h:65536", refused, false},
		{"h:-1", refused, false},
		{"h:+1", refused, false},
		{"h:http", refused, false},
		{"::1:1", refused, false},
		{"[h]:1", refused, false},
		{"[]:1", refused, false},
		{"[127.0.0.1]:1", refused, false},
		{"[::1", refused, false},
		{"user@h:1", refused, false},
		{"http://h:1", refused, false},
		{"a b:7000", refused, false},
		{"ü:1", refused, false},
	} {
		addr, err := ParseListenAddr(c.text)
		dialled, noDial := ParseAddr(c.text)
		got := refused
		switch {
		case err == nil && noDial == nil:
			got = dials
		case err == nil:
			got = listens
		}
		if got != c.want || addr.IsLocal() != c.local {
			t.Errorf("%q %s, local %v; want %s, %v", c.text, got, addr.IsLocal(), c.want, c.local)
		}
		if err == nil && addr.String() != c.text {
			t.Errorf("%q is written %q", c.text, addr)
		}
		if noDial == nil && dialled != addr || noDial != nil && dialled != (Addr{}) {
			t.Errorf("%q: to dial %v, to listen %v", c.text, dialled, addr)
		}
		for _, err := range []error{err, noDial} {
			if err != nil && !strings.HasPrefix(err.Error(), "want unix:PATH or HOST:PORT: ") {
				t.Errorf("%q: %v", c.text, err)
			}
		}
	}
}

// TestNoAddr: the zero value is nowhere.
func TestNoAddr(t *testing.T) {
	var a Addr
	if a.String() != "" || a.IsLocal() || a.Path() != "" || a.Host() != "" || a.Port() != 0 {
		t.Errorf("%+v", a)
	}
	if c, err := a.Dial(context.Background(), new(net.Dialer)); err == nil {
		t.Errorf("dialled %v", c.RemoteAddr())
	}
}

// FuzzParseAddr: what is read is written so that it is read again, and what can be dialled has the bounds
// of a kernel's and a resolver's address.
func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{"unix:/a", "unix:@a", "h:1", ":0", "[::1%a]:080", "[::ffff:1.2.3.4]:5", "127.0.0.1:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseListenAddr(text)
		if err != nil {
			return
		}
		again, err := ParseListenAddr(a.String())
		if err != nil || again != a {
			t.Fatalf("%q is %+v, written %q, and read as %+v, %v", text, a, a, again, err)
		}
		d, err := ParseAddr(text)
		if err != nil {
			return
		}
		if d != a || len(d.Path()) > 107 || len(d.Host()) > 253 || (d.Path() == "") != (d.Host() != "" && d.Port() != 0) {
			t.Fatalf("%q is dialled as %+v", text, d)
		}
	})
}

// TestListen: on each kind of address a listener is had, its own address is the one that a client
// dials, and a connection is made.
func TestListen(t *testing.T) {
	t.Chdir(t.TempDir())
	for addr, prefix := range map[string]string{
		"127.0.0.1:0": "127.0.0.1:", "localhost:0": "", "[::1]:0": "[::1]:", "unix:rel.sock": "unix:rel.sock",
		"unix:" + filepath.Join(t.TempDir(), "s"): "unix:/",
	} {
		ln, err := Listen(addr, ListenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		a := AddrOf(ln.Addr())
		if parsed, err := ParseAddr(a.String()); err != nil || parsed != a || !strings.HasPrefix(a.String(), prefix) || !a.IsLocal() {
			t.Errorf("%s: listens on %s, %v", addr, a, err)
		}
		c, err := a.Dial(context.Background(), new(net.Dialer))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := AddrOf(c.RemoteAddr()); got != a {
			t.Errorf("%s: connected to %s", addr, got)
		}
	}
}

// TestListenReach: without Remote no other machine can reach a port, by whatever name it was asked for.
func TestListenReach(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0"} {
		if ln, err := Listen(addr, ListenOptions{}); err == nil || !strings.Contains(err.Error(), "only loopback may be served without TLS") {
			t.Errorf("%s: %v, %v", addr, ln, err)
		}
		ln, err := Listen(addr, ListenOptions{Remote: true})
		if err != nil {
			t.Fatal(err)
		}
		if AddrOf(ln.Addr()).IsLocal() {
			t.Errorf("%s is local", ln.Addr())
		}
		_ = ln.Close()
	}
}

// TestListenUnix: a socket left by a dead process is replaced; one that answers, or a file that is no
// socket, is not touched. Whatever the umask, the new socket is its owner's, and a group's only if
// one is named.
func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	defer syscall.Umask(syscall.Umask(0))
	var ln net.Listener
	for group, mode := range map[string]os.FileMode{"": 0o600, strconv.Itoa(os.Getegid()): 0o660} {
		if ln, err = Listen("unix:"+path, ListenOptions{Group: group}); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("group %q: mode %v, %v", group, info.Mode(), err)
		}
		if _, err := Listen("unix:"+path, ListenOptions{}); err == nil || !strings.Contains(err.Error(), "another process answers") {
			t.Errorf("a socket in use: %v", err)
		}
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Listen("unix:"+path, ListenOptions{Group: "no-such-group"}); err == nil || !strings.Contains(err.Error(), "no-such-group") {
		t.Errorf("a group that is not there: %v", err)
	}
	if ln, err := Listen("127.0.0.1:0", ListenOptions{Group: "0"}); err == nil || !strings.Contains(err.Error(), "only a Unix socket") {
		t.Errorf("a port of a group: %v, %v", ln, err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket of a failure is left: %v", err)
	}
	put(t, path, "precious")
	if _, err := Listen("unix:"+path, ListenOptions{}); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if data, err := os.ReadFile(path); string(data) != "precious" {
		t.Errorf("the file is now %q, %v", data, err)
	}
	for _, addr := range []string{"unix:" + path + "/x", "unix:" + filepath.Dir(path) + "/no/such", "unix:", "127.0.0.1", "no.such.host.invalid:1", ""} {
		if ln, err := Listen(addr, ListenOptions{}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("listen on %q: ", addr)) {
			t.Errorf("%q is %v, %v", addr, ln, err)
		}
	}
}

// TestGuard: what a browser sends for a page of another origin is refused, whatever the method, and on
// loopback what asks for another name; programs and same-origin pages pass. By a table.
func TestGuard(t *testing.T) {
	for _, c := range []struct {
		method, host, header, value string
		loopback, anywhere          int
	}{
		{"GET", "localhost", "", "", 200, 200},
		{"GET", "LOCALHOST:80", "", "", 200, 200},
		{"GET", "127.0.0.1:80", "", "", 200, 200},
		{"PUT", "[::1]:80", "Sec-Fetch-Site", "same-origin", 200, 200},
		{"PUT", "[::1]", "Origin", "http://[::1]", 200, 200},
		{"GET", "evil.example", "", "", 403, 200},
		{"GET", "127.0.0.1.evil.example:80", "", "", 403, 200},
		{"GET", "10.0.0.7", "", "", 403, 200},
		{"GET", "", "", "", 403, 200},
		{"GET", "localhost", "Origin", "https://evil.example", 403, 403},
		{"HEAD", "localhost", "Sec-Fetch-Site", "cross-site", 403, 403},
		{"PUT", "localhost", "Sec-Fetch-Site", "same-site", 403, 403},
	} {
		for onLoopback, want := range map[bool]int{true: c.loopback, false: c.anywhere} {
			ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { WriteJSON(w, http.StatusOK, r.Method) })
			guarded := Guard(ok, onLoopback, func(w http.ResponseWriter, why string) { http.Error(w, why, http.StatusForbidden) })
			r, w := httptest.NewRequest(c.method, "/", nil), httptest.NewRecorder()
			r.Host = c.host
			if c.header != "" {
				r.Header.Set(c.header, c.value)
			}
			guarded.ServeHTTP(w, r)
			if w.Code != want || want == 200 && w.Body.String() != fmt.Sprintf("%q\n", c.method) {
				t.Errorf("%+v, on loopback %v: %d %s", c, onLoopback, w.Code, w.Body)
			}
		}
	}
}
