// Package rig starts a ledger node and a sidecar as processes of their own, with TLS, a durable
// store and a token that may do everything, for programs that measure them.
package rig

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyIn = time.Minute      // for a process to say where it listens, and to be ready
	stopIn  = 20 * time.Second // for a process to end by itself
)

// Rig is one node with one sidecar. Stop ends both.
type Rig struct {
	Addr      string      // the sidecar's, HOST:PORT
	AdminAddr string      // the sidecar's admin listener
	Token     string      // may do everything on every account
	TLS       *tls.Config // trusts the sidecar
	Node      *Process
	Sidecar   *Process
	Ready     time.Duration // from the sidecar's start until it takes payments

	dir, binary string
}

// Start runs the program binary as a node and a sidecar in a new folder under the temporary one.
// env, `NAME=value`, is the sidecar's besides this process's own.
func Start(ctx context.Context, binary string, env ...string) (r *Rig, err error) {
	r = &Rig{binary: binary}
	if r.dir, err = os.MkdirTemp("", "svc-wallet-rig"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Stop())
		}
	}()
	if err := r.credentials(ctx); err != nil {
		return r, err
	}
	socket := "unix:" + r.path("ledger.sock")
	if r.Node, err = start(ctx, exec.Command(binary, "ledger", "--data", r.path("ledger"), "--listen", socket)); err != nil { //nolint:gosec,noctx // the program under test; Stop ends it
		return r, err
	}
	serve := exec.Command(binary, "serve", "--bind", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--ledger", socket, //nolint:gosec,noctx // as above
		"--root-keys", r.path("root.keys"), "--tls-cert", r.path("tls.crt"), "--tls-key", r.path("tls.key"))
	serve.Env = append(os.Environ(), env...)
	begun := time.Now()
	if r.Sidecar, err = start(ctx, serve); err != nil {
		return r, err
	}
	if r.Addr, r.AdminAddr = r.Sidecar.listens["addr"], r.Sidecar.listens["admin_addr"]; r.Addr == "" || r.AdminAddr == "" {
		return r, fmt.Errorf("%s did not say where it listens", binary)
	}
	err = r.ready(ctx)
	r.Ready = time.Since(begun)
	return r, err
}

// Report is what `svc-wallet ledger verify` says of a store.
type Report struct {
	Payments uint64 `json:"payments_read"`
	Faults   int    `json:"faults"`
}

// Verify ends both processes and has the whole store read and held against itself.
func (r *Rig) Verify(ctx context.Context) (report Report, err error) {
	if err := errors.Join(r.Sidecar.stop(), r.Node.stop()); err != nil {
		return report, err
	}
	out, err := exec.CommandContext(ctx, r.binary, "ledger", "verify", "--json", "--data", r.path("ledger")).Output() //nolint:gosec // the program under test
	if bad := json.Unmarshal(out, &report); bad != nil {
		return report, errors.Join(err, bad)
	}
	return report, nil // what is wrong is in the report
}

// Stop ends the processes, waits for them and removes the folder.
func (r *Rig) Stop() error {
	var errs []error
	for _, p := range []*Process{r.Sidecar, r.Node} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

func (r *Rig) path(name string) string { return filepath.Join(r.dir, name) }

// credentials makes a root key, a certificate for 127.0.0.1 and a token.
func (r *Rig) credentials(ctx context.Context) error {
	var root [32]byte
	_, _ = rand.Read(root[:]) // never fails (since Go 1.24)
	if err := os.WriteFile(r.path("root.keys"), []byte("k1 "+hex.EncodeToString(root[:])+"\n"), 0o600); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rig"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	err = errors.Join(
		os.WriteFile(r.path("tls.crt"), cert, 0o600),
		os.WriteFile(r.path("tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	r.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	token, err := exec.CommandContext(ctx, r.binary, "token", "mint", "--root-keys", r.path("root.keys"), "--ttl", "24h", //nolint:gosec // the program under test
		"--actions", "read,issue,transfer,burn", "--accounts", "*").Output()
	r.Token = strings.TrimSpace(string(token))
	return err
}

// ready waits until payments are taken.
func (r *Rig) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyIn)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.AdminAddr+"/readyz", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the sidecar is not ready: %w", ctx.Err())
		}
	}
}

// Process is one running program.
type Process struct {
	cmd     *exec.Cmd
	exited  chan struct{}
	err     error             // of Wait; read after exited
	listens map[string]string // what its log said of addresses

	mu   sync.Mutex
	last []string // lines of output
}

// start runs cmd and waits until it says where it listens.
func start(ctx context.Context, cmd *exec.Cmd) (*Process, error) {
	pipe, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		_ = pipe.Close()
		return nil, err
	}
	p := &Process{cmd: cmd, exited: make(chan struct{}), listens: map[string]string{}}
	listening := make(chan struct{})
	go p.read(pipe, listening)
	patience := time.NewTimer(readyIn)
	defer patience.Stop()
	select {
	case <-listening:
		return p, nil
	case <-p.exited:
		return nil, fmt.Errorf("%v ended: %w\n%s", cmd.Args, p.err, p.tail())
	case <-ctx.Done():
	case <-patience.C:
	}
	return nil, errors.Join(fmt.Errorf("%v does not listen\n%s", cmd.Args, p.tail()), p.stop())
}

// read follows the output to its end. listening is closed at the first line that tells an address.
func (p *Process) read(pipe io.ReadCloser, listening chan<- struct{}) {
	defer pipe.Close() //nolint:errcheck // was read to its end
	scan := bufio.NewScanner(pipe)
	scan.Buffer(nil, 1<<20)
	for told := false; scan.Scan(); {
		p.mu.Lock()
		p.last = append(p.last[max(0, len(p.last)-20):], scan.Text())
		p.mu.Unlock()
		var line map[string]any
		if told || json.Unmarshal(scan.Bytes(), &line) != nil {
			continue
		}
		for key, value := range line {
			if text, ok := value.(string); ok && strings.HasSuffix(key, "addr") {
				p.listens[key], told = text, true
			}
		}
		if told {
			close(listening)
		}
	}
	p.err = p.cmd.Wait()
	close(p.exited)
}

func (p *Process) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.last, "\n")
}

// stop is SIGTERM, and SIGKILL where that does not do.
func (p *Process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	patience := time.NewTimer(stopIn)
	defer patience.Stop()
	select {
	case <-p.exited:
	case <-patience.C:
		_ = p.cmd.Process.Kill()
		<-p.exited
		return fmt.Errorf("%v had to be killed", p.cmd.Args)
	}
	if p.err != nil {
		return fmt.Errorf("%v: %w\n%s", p.cmd.Args, p.err, p.tail())
	}
	return nil
}

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

// Signal sends the process a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }
