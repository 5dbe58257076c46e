package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"svc-wallet/config"
	"svc-wallet/filters"
	"svc-wallet/host"
	"svc-wallet/xds/control"
)

// devToken is how long the banner's token lives.
const devToken = 24 * time.Hour

func devCommand() *cobra.Command {
	var dir, bind, metrics string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Everything in one process on an embedded ledger, with lines to paste",
		Long: "Runs a ledger node (Pebble under DIR/ledger), a control plane (groups under DIR/limits.d) and a\n" +
			"sidecar that obeys both, with a self-signed certificate and root keys that the first run makes,\n" +
			"prints requests that are ready to paste, and writes DIR/dev.env. Run again on the same DIR it\n" +
			"goes on where it was. SVC_WALLET_* variables count as they do for serve.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := newDevFolder(dir)
			if err != nil {
				return err
			}
			return dev(cmd.Context(), d, bind, metrics, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "folder for ledger, keys and dev.env (default a fresh temporary folder)")
	cmd.Flags().StringVar(&bind, "bind", "127.0.0.1:8443", "address of the wallet routes; port 0 takes a free one")
	cmd.Flags().StringVar(&metrics, "metrics", "127.0.0.1:9090", "address of the admin listener; port 0 takes a free one")
	return cmd
}

// dev runs the node, the control plane and the sidecar until ctx ends, the sidecar first to stop.
func dev(ctx context.Context, d devFolder, bind, metrics string, stdout, stderr io.Writer) error {
	cfg, err := d.configure(bind, metrics)
	if err != nil {
		return err
	}
	log, err := newLogger(stderr, cfg.Log.Format, cfg.Log.Level)
	if err != nil {
		return err
	}
	clock := newClock(log)
	token, err := d.mint(clock.Wall)
	if err != nil {
		return err
	}

	plane, err := d.controlPlane(cfg, log, clock.Now)
	if err != nil {
		return err
	}
	node, err := starting(ctx, func() (*ledgerNode, error) {
		return openNode(ledgerOptions{engine: "pebble", data: filepath.Join(string(d), "ledger"), listen: cfg.Ledger.Addr}, log, clock.Wall)
	})
	if errors.Is(err, errStopped) {
		return err
	}
	if err != nil {
		return join(err, plane.Close())
	}
	side, err := listeningSidecar(cfg, log, clock)
	if err != nil {
		return join(err, node.close(), plane.Close())
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	below, stop := context.WithCancel(context.WithoutCancel(ctx)) // what outlives the drain of the sidecar
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return node.run(below, nil) })
	g.Go(func() error { return plane.Run(below) })
	g.Go(func() error {
		defer stop()
		return side.run(ctx)
	})
	g.Go(func() error {
		if !side.ready(below) {
			return nil
		}
		err := d.announce(devAddrs{
			wallet: side.server.Addr().String(), admin: side.server.AdminAddr().String(), control: plane.APIAddr().String(),
		}, cfg, token, stdout)
		if err != nil {
			cancel()
		}
		return err
	})
	return g.Wait()
}

// listeningSidecar is newSidecar with its ports taken: those of dev are fixed ones, which another dev may have.
func listeningSidecar(cfg *config.Config, log *logrus.Logger, clock *clock) (*sidecar, error) {
	side, err := newSidecar(cfg, log, clock)
	if err != nil {
		return nil, err
	}
	if err = side.server.Listen(); errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w; free ports are taken by --bind 127.0.0.1:0 --metrics 127.0.0.1:0", err)
	}
	if err != nil {
		return nil, join(err, side.close())
	}
	return side, nil
}

// controlPlane makes the control plane and binds its listeners.
func (d devFolder) controlPlane(cfg *config.Config, log *logrus.Logger, now func() int64) (*control.Plane, error) {
	groups := filepath.Join(string(d), "limits.d")
	if err := os.MkdirAll(groups, 0o700); err != nil {
		return nil, err
	}
	plane, err := control.New(control.Options{
		Source: groups, Listen: cfg.XDS.Addrs[0], API: "127.0.0.1:0", AllowEmpty: true, Log: log, Now: now,
	})
	if err != nil {
		return nil, err
	}
	return plane, plane.Listen()
}

// plainPath is a path that stands in a shell as it is.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9_./+@-]+$`)

// devFolder is the absolute path of dev's folder.
type devFolder string

func newDevFolder(dir string) (devFolder, error) {
	if dir == "" {
		tmp, err := os.MkdirTemp("", "svc-wallet-dev-")
		return devFolder(tmp), err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if !plainPath.MatchString(abs) {
		return "", usageError{fmt.Errorf("--dir %q: shells read dev.env, so the path may have only letters, digits and any of _ . / + @ -", abs)}
	}
	return devFolder(abs), os.MkdirAll(abs, 0o700)
}

// configure loads what `serve` would load from flags that name the folder's files.
func (d devFolder) configure(bind, metrics string) (*config.Config, error) {
	at, err := host.ParseListenAddr(bind)
	if err != nil {
		return nil, usageError{fmt.Errorf("--bind: %w", err)}
	}
	cert, key, err := writeSelfSigned(string(d), at.Host(), time.Now())
	if err != nil {
		return nil, err
	}
	keys, err := d.rootKeys()
	if err != nil {
		return nil, err
	}
	ledger, err := d.socket("ledger.sock")
	if err != nil {
		return nil, err
	}
	plane, err := d.socket("xds.sock")
	if err != nil {
		return nil, err
	}
	flags := pflag.NewFlagSet("dev", pflag.ContinueOnError)
	config.BindFlags(flags)
	for name, value := range map[string]string{
		"bind": bind, "metrics": metrics, "tls-cert": cert, "tls-key": key, "root-keys": keys,
		"ledger": ledger, "xds": plane, "log-level": "warning",
	} {
		if err := flags.Set(name, value); err != nil {
			return nil, fmt.Errorf("--%s: %w", name, err)
		}
	}
	from := sources("", flags)
	from.Env = append([]string{"SVC_WALLET_XDS_LAST_GOOD_FILE=" + filepath.Join(string(d), "last-good.json")}, from.Env...)
	return config.Load(from)
}

// rootKeys returns the folder's root key file, made on the first run.
func (d devFolder) rootKeys() (string, error) {
	file := filepath.Join(string(d), "root.keys")
	if _, err := os.Stat(file); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	var key [32]byte
	_, _ = rand.Read(key[:]) // which never fails
	return file, host.WriteFile(file, []byte("dev "+hex.EncodeToString(key[:])+"\n"), 0o600)
}

// socket returns where one of the parts listens: in the folder, or in a temporary one if the
// folder's path is too long for a socket.
func (d devFolder) socket(name string) (string, error) {
	at := "unix:" + filepath.Join(string(d), name)
	if _, err := host.ParseAddr(at); err == nil {
		return at, nil
	}
	tmp, err := os.MkdirTemp("", "svc-wallet-")
	return "unix:" + filepath.Join(tmp, name), err
}

// mint makes the token that may do everything on every account.
func (d devFolder) mint(now func() int64) (string, error) {
	keys, err := filters.LoadKeys(filepath.Join(string(d), "root.keys"))
	if err != nil {
		return "", err
	}
	exp := time.Unix(0, now()).Add(devToken).Unix()
	return filters.MintToken(keys, newID(now), []string{
		"aud = svc-wallet", fmt.Sprintf("exp = %d", exp), "actions = read,issue,transfer,burn", "accounts = *", "sub = dev",
	})
}

// devAddrs is where dev listens, HOST:PORT each.
type devAddrs struct{ wallet, admin, control string }

// announce writes dev.env and prints the banner, once the sidecar is ready.
func (d devFolder) announce(at devAddrs, cfg *config.Config, token string, stdout io.Writer) error {
	walletURL, adminURL := "https://"+at.wallet, "http://"+at.admin
	env := []struct{ key, value string }{
		{"WALLET_URL", walletURL},
		{"ADMIN_URL", adminURL},
		{"CONTROL_URL", "http://" + at.control},
		{"CA_FILE", cfg.TLS.CertFile},
		{"TOKEN", token},
		{"LEDGER_ADDR", cfg.Ledger.Addr},
		{"XDS_ADDR", cfg.XDS.Addrs[0]},
		{"ROOT_KEYS_FILE", cfg.Auth.RootKeysFile},
	}
	var b strings.Builder
	for _, e := range env {
		fmt.Fprintf(&b, "%s=%s\n", e.key, e.value)
	}
	file := filepath.Join(string(d), "dev.env")
	if err := host.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return banner.Execute(stdout, struct{ Env, Wallet, Admin, Dir string }{file, walletURL, adminURL, string(d)})
}

// banner shows each thing that a client can do, and each refusal worth knowing. The keys are
// fixed, so pasting it again, or after a restart, shows replays.
var banner = template.Must(template.New("banner").Parse( //nolint:gochecknoglobals // a text
	`svc-wallet dev is ready: {{.Wallet}} (admin {{.Admin}}), data in {{.Dir}}
Paste into another terminal:

  . '{{.Env}}'
  w() { curl -sS --cacert "$CA_FILE" -H "Authorization: Bearer $TOKEN" -w '  [%{http_code}]\n' "$@"; }
  pay() { op=$1 key=$2 body=$3; shift 3; w -H 'Content-Type: application/json' -H "Idempotency-Key: $key" -d "$body" "$WALLET_URL/v1/$op" "$@"; }

  pay issue    demo-1 '{"to":"alice","asset":"ron","amount_minor":"1000","nonce":1}'
  r=$(pay transfer demo-2 '{"from":"alice","to":"bob","asset":"ron","amount_minor":"250","nonce":1}'); echo "$r"
  echo '-- the same receipt again:'
  pay transfer demo-2 '{"from":"alice","to":"bob","asset":"ron","amount_minor":"250","nonce":1}' -i
  w "$WALLET_URL/v1/balance?account=bob&asset=ron"
  w "$WALLET_URL/v1/tx/$(echo "$r" | grep -o 'tx_[0-9A-Z]*')"
  w "$WALLET_URL/v1/tx?account=alice&idem=demo-2"
  pay burn     demo-3 '{"from":"bob","asset":"ron","amount_minor":"50","nonce":1}'

  echo '-- refused: funds, spent nonce, reused key, no token'
  pay transfer demo-4 '{"from":"alice","to":"bob","asset":"ron","amount_minor":"9999","nonce":2}'
  pay transfer demo-5 '{"from":"alice","to":"bob","asset":"ron","amount_minor":"1","nonce":1}'
  pay transfer demo-2 '{"from":"alice","to":"bob","asset":"ron","amount_minor":"1","nonce":9}'
  curl -sS --cacert "$CA_FILE" "$WALLET_URL/v1/balance?account=bob&asset=ron"; echo

  echo '-- a lower cap and a kill switch, pushed by the control plane; then back'
  limit() { curl -sS -X PATCH "$CONTROL_URL/limits/default?wait=5s" -d "$1"; }
  limit '{"max_amount_per_op":"100"}'
  pay transfer demo-6 '{"from":"alice","to":"bob","asset":"ron","amount_minor":"101","nonce":2}'
  limit '{"writes_enabled":false}'
  pay transfer demo-6 '{"from":"alice","to":"bob","asset":"ron","amount_minor":"1","nonce":2}'
  limit '{"max_amount_per_op":null,"writes_enabled":null}'

  curl -sS "$ADMIN_URL/readyz"; echo; curl -sS "$ADMIN_URL/metrics" | grep '^wallet_.* [1-9]'

Ctrl-C drains and stops. Start again with --dir '{{.Dir}}' and all of it is still there; source dev.env again.
`,
))
