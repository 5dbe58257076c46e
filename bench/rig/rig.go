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
	"io/fs"
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
	Control   *Process      // nil: nothing is pushed
	Ready     time.Duration // from the sidecar's start until it takes payments
	Revision  string        // the program's, by itself

	dir, binary string
}

// New makes a rig without processes: a folder under the temporary one, a certificate and a token of the program
// binary.
func New(ctx context.Context, binary string) (r *Rig, err error) { return newRig(ctx, binary, nil) }

func newRig(ctx context.Context, binary string, far *Far) (r *Rig, err error) {
	r = &Rig{binary: binary}
	if r.dir, err = os.MkdirTemp("", "svc-wallet-rig"); err != nil {
		return nil, err
	}
	if err := r.credentials(ctx, far.ips()...); err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

// Start makes a rig and runs the program binary as a node and a sidecar. env, `NAME=value`, is the sidecar's
// besides this process's own.
func Start(ctx context.Context, binary string, env ...string) (r *Rig, err error) {
	return StartFar(ctx, binary, nil, env...)
}

// StartFar is Start with the node far away, and mTLS between the two; nil is the machine's own socket.
func StartFar(ctx context.Context, binary string, far *Far, env ...string) (r *Rig, err error) {
	if r, err = newRig(ctx, binary, far); err != nil {
		return nil, err
	}
	if err := r.start(ctx, far, env); err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

// start runs the node, with flags of its own, and the sidecar.
func (r *Rig) start(ctx context.Context, far *Far, env []string, node ...string) error {
	version, err := exec.CommandContext(ctx, r.binary, "version").Output() //nolint:gosec // the program under test
	if err != nil {
		return err
	}
	_, commit, _ := strings.Cut(string(version), "commit")
	r.Revision, _, _ = strings.Cut(strings.TrimSpace(commit), "\n")
	at, err := r.startNode(ctx, far, node...)
	if err != nil {
		return err
	}
	env = append(env, r.trusts(far)...)
	serve := exec.Command(r.binary, "serve", "--bind", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--ledger", at, //nolint:gosec,noctx // the program under test; Stop ends it
		"--root-keys", r.Path("root.keys"), "--tls-cert", r.Path("tls.crt"), "--tls-key", r.Path("tls.key"))
	serve.Env = append(os.Environ(), env...)
	begun := time.Now()
	if r.Sidecar, err = Run(ctx, serve); err != nil {
		return err
	}
	if r.Addr, r.AdminAddr = r.Sidecar.listens["addr"], r.Sidecar.listens["admin_addr"]; r.Addr == "" || r.AdminAddr == "" {
		return fmt.Errorf("%s did not say where it listens", r.binary)
	}
	err = r.ready(ctx)
	r.Ready = time.Since(begun)
	return err
}

// Path is a file in the rig's folder. tls.crt and tls.key are the certificate, for 127.0.0.1.
func (r *Rig) Path(name string) string { return filepath.Join(r.dir, name) }

// Report is what `svc-wallet ledger verify` says of a store.
type Report struct {
	Payments uint64 `json:"payments_read"`
	Faults   int    `json:"faults"`
	State    int64  `json:"-"` // bytes that the store's state has on disk
}

// Verify ends both processes and has the whole store read and held against itself.
func (r *Rig) Verify(ctx context.Context) (report Report, err error) {
	if err := errors.Join(r.Sidecar.Stop(), r.Node.Stop()); err != nil {
		return report, err
	}
	out, err := exec.CommandContext(ctx, r.binary, "ledger", "verify", "--json", "--data", r.Path("ledger")).Output() //nolint:gosec // the program under test
	if bad := json.Unmarshal(out, &report); bad != nil {
		return report, errors.Join(err, bad)
	}
	err = filepath.WalkDir(r.Path("ledger/state"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			report.State += info.Size()
		}
		return err
	})
	return report, err // what is wrong with the store is in the report
}

// Stop ends the processes, waits for them and removes the folder.
func (r *Rig) Stop() error {
	var errs []error
	for _, p := range []*Process{r.Sidecar, r.Control, r.Node} {
		if p != nil {
			errs = append(errs, p.Stop())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

// credentials makes a root key, a certificate for 127.0.0.1 and other addresses, and a token.
func (r *Rig) credentials(ctx context.Context, ips ...net.IP) error {
	var root [32]byte
	_, _ = rand.Read(root[:]) // never fails (since Go 1.24)
	if err := os.WriteFile(r.Path("root.keys"), []byte("k1 "+hex.EncodeToString(root[:])+"\n"), 0o600); err != nil {
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
		KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: append(ips, net.IPv4(127, 0, 0, 1)),
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
		os.WriteFile(r.Path("tls.crt"), cert, 0o600),
		os.WriteFile(r.Path("tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600),
	)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	r.TLS = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	token, err := exec.CommandContext(ctx, r.binary, "token", "mint", "--root-keys", r.Path("root.keys"), "--ttl", "24h", //nolint:gosec // the program under test
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

// Run starts cmd and waits until it says where it listens: a line of JSON with a member whose name ends in addr.
func Run(ctx context.Context, cmd *exec.Cmd) (*Process, error) {
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
	return nil, errors.Join(fmt.Errorf("%v does not listen\n%s", cmd.Args, p.tail()), p.Stop())
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
		if event, ours := line["event"]; ours && event != "listening" {
			continue
		}
		for key, value := range line {
			if text, ok := value.(string); ok && (strings.HasSuffix(key, "addr") || key == "api") {
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

// Stop ends the process and waits for it: by SIGTERM, and SIGKILL where that does not do.
func (p *Process) Stop() error {
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

// Signal sends the process a signal.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }
