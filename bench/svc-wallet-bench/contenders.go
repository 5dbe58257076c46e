package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"svc-wallet/bench/rig"
)

const bareName = "bare fasthttp handler"

// contender is something that answers the requests of a wallet, or some of them.
type contender struct {
	name        string
	needs       []string // programs
	reads, pays bool
	start       func(ctx context.Context, bin string) (*stand, error)
}

// contenders are svc-wallet and its peers. A proxy is measured before a handler that answers at once, and without
// it.
func contenders() []contender {
	return []contender{
		{bareName, nil, true, true, func(ctx context.Context, bin string) (*stand, error) { return standOf(ctx, bin, bareHandler) }},
		{"svc-wallet", nil, true, true, ourselves},
		{"nginx", []string{"nginx"}, true, false, func(ctx context.Context, bin string) (*stand, error) { return standOf(ctx, bin, nginx) }},
		{"HAProxy", []string{"haproxy"}, true, false, func(ctx context.Context, bin string) (*stand, error) { return standOf(ctx, bin, haproxy) }},
		{"PostgreSQL, a transaction a payment", []string{"initdb", "postgres"}, false, true, func(ctx context.Context, bin string) (*stand, error) { return standOf(ctx, bin, postgres) }},
	}
}

// missing is a program that the contender needs and that is not here.
func (c *contender) missing() string {
	for _, program := range c.needs {
		if _, err := exec.LookPath(program); err != nil {
			return program
		}
	}
	return ""
}

// stand is a contender at work.
type stand struct {
	rig   *rig.Rig
	all   []*rig.Process
	count []*rig.Process // whose CPU is the contender's
}

func (s *stand) cpu() (sum time.Duration, err error) {
	for _, p := range s.count {
		used, bad := p.TreeCPU()
		sum, err = sum+used, errors.Join(err, bad)
	}
	return sum, err
}

// stop ends what was started last first.
func (s *stand) stop() error {
	for i := len(s.all) - 1; i >= 0; i-- {
		_ = s.all[i].Stop() // how a peer takes SIGTERM is its own affair
	}
	return s.rig.Stop()
}

func ourselves(ctx context.Context, bin string) (*stand, error) {
	r, err := rig.Start(ctx, bin, unlimited()...)
	if err != nil {
		return nil, err
	}
	return &stand{rig: r, count: []*rig.Process{r.Sidecar, r.Node}}, nil
}

// standOf makes a rig without a node and has start put a peer up in it.
func standOf(ctx context.Context, bin string, start func(context.Context, *stand) error) (*stand, error) {
	r, err := rig.New(ctx, bin)
	if err != nil {
		return nil, err
	}
	s := &stand{rig: r}
	if err := start(ctx, s); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// run starts a program that says where it listens, and counts its CPU where it is the contender's.
func (s *stand) run(ctx context.Context, cmd *exec.Cmd, counts bool) (*rig.Process, error) {
	p, err := rig.Run(ctx, cmd)
	if err != nil {
		return nil, err
	}
	s.all = append(s.all, p)
	if counts {
		s.count = append(s.count, p)
	}
	return p, nil
}

// self runs a command of this program.
func (s *stand) self(ctx context.Context, counts bool, args ...string) (addr string, err error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	p, err := s.run(ctx, exec.Command(program, args...), counts) //nolint:gosec,noctx // this program; stop ends it
	if err != nil {
		return "", err
	}
	return p.Listens("addr"), nil
}

func bareHandler(ctx context.Context, s *stand) (err error) {
	s.rig.Addr, err = s.self(ctx, true, "answer", "-tls", s.rig.Path("tls"))
	return err
}

// before starts a proxy before a handler that answers at once.
func (s *stand) before(ctx context.Context, file, text, command string) error {
	upstream, err := s.self(ctx, false, "answer")
	if err != nil {
		return err
	}
	if s.rig.Addr, err = freeAddr(); err != nil {
		return err
	}
	pem := s.rig.Path("tls.pem")
	cert, err := os.ReadFile(s.rig.Path("tls.crt"))
	key, err2 := os.ReadFile(s.rig.Path("tls.key"))
	if err := errors.Join(err, err2, os.WriteFile(pem, append(cert, key...), 0o600)); err != nil { //nolint:gosec // in the folder of the rig
		return err
	}
	config := s.rig.Path(file)
	text = os.Expand(text, func(name string) string {
		return map[string]string{"ADDR": s.rig.Addr, "UPSTREAM": upstream, "DIR": filepath.Dir(config), "PEM": pem}[name]
	})
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	told := fmt.Sprintf(`echo '{"addr":"%s"}'; exec %s`, s.rig.Addr, fmt.Sprintf(command, config))
	if _, err := s.run(ctx, exec.Command("sh", "-c", told), true); err != nil { //nolint:gosec,noctx // as above
		return err
	}
	return answers(ctx, "tcp", s.rig.Addr)
}

func nginx(ctx context.Context, s *stand) error {
	return s.before(ctx, "nginx.conf", `daemon off; worker_processes auto; pid ${DIR}/nginx.pid; error_log stderr error;
events { worker_connections 1024; }
http {
  access_log off; keepalive_requests 100000000;
  upstream ledger { server ${UPSTREAM}; keepalive 256; }
  server {
    listen ${ADDR} ssl; ssl_certificate ${DIR}/tls.crt; ssl_certificate_key ${DIR}/tls.key; ssl_protocols TLSv1.3;
    location / { proxy_pass http://ledger; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
`, "nginx -p . -c %s")
}

func haproxy(ctx context.Context, s *stand) error {
	return s.before(ctx, "haproxy.cfg", `global
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend wallet
  bind ${ADDR} ssl crt ${PEM} ssl-min-ver TLSv1.3
  default_backend ledger
backend ledger
  server ledger ${UPSTREAM}
`, "haproxy -db -f %s")
}

// postgres is a server with its defaults, of which each commit is synced, behind a handler of a transaction a
// payment. It does not run as root, so root runs it as the user postgres, whose it then is.
func postgres(ctx context.Context, s *stand) error {
	data := s.rig.Path("postgres")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	as := &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		owner, err := user.Lookup("postgres")
		if err != nil {
			return err
		}
		uid, _ := strconv.Atoi(owner.Uid)
		gid, _ := strconv.Atoi(owner.Gid)
		as.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}                            //nolint:gosec // ids of the system's
		if err := errors.Join(os.Chown(data, uid, gid), os.Chmod(filepath.Dir(data), 0o755)); err != nil { //nolint:gosec // it has to pass through
			return err
		}
	}
	init := exec.CommandContext(ctx, "initdb", "--username=wallet", "--auth=trust", "-D", data) //nolint:gosec // a program of the system's
	init.SysProcAttr, init.Dir = as, data
	if out, err := init.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	told := fmt.Sprintf(`echo '{"addr":"%[1]s"}'; exec postgres -D %[1]s -k %[1]s -c listen_addresses='' -c max_connections=100`, data)
	db := exec.Command("sh", "-c", told) //nolint:gosec,noctx // as above
	db.SysProcAttr, db.Dir = as, data
	if _, err := s.run(ctx, db, true); err != nil {
		return err
	}
	err := answers(ctx, "unix", filepath.Join(data, ".s.PGSQL.5432"))
	if err != nil {
		return err
	}
	s.rig.Addr, err = s.self(ctx, true, "answer", "-tls", s.rig.Path("tls"), "-postgres", "host="+data+" user=wallet dbname=postgres pool_max_conns=32")
	return err
}

// freeAddr is an address of this machine that nobody listens on.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // is closed at once
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// answers waits until somebody listens.
func answers(ctx context.Context, network, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			return conn.Close()
		}
		if pause(ctx, 10*time.Millisecond) != nil {
			return err
		}
	}
}
