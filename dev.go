package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"svc-wallet/config"
	"svc-wallet/filters"
)

// devToken is how long the banner's token lives.
const devToken = 24 * time.Hour

func devCommand() *cobra.Command {
	var dir, bind, metrics string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Everything in one process on an embedded ledger, with lines to paste",
		Long: "Runs a ledger node (Pebble under DIR/ledger) and a sidecar before it, with a self-signed\n" +
			"certificate and root keys that the first run makes, prints requests that are ready to paste,\n" +
			"and writes DIR/dev.env. Run again on the same DIR it goes on where it was. SVC_WALLET_*\n" +
			"variables count as they do for serve.",
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

// dev runs the node and the sidecar until ctx ends, the sidecar first to stop.
func dev(ctx context.Context, d devFolder, bind, metrics string, stdout, stderr io.Writer) error {
	cfg, err := d.configure(bind, metrics)
	if err != nil {
		return err
	}
	now := newClock()
	log, err := newLogger(stderr, cfg.Log.Format, cfg.Log.Level)
	if err != nil {
		return err
	}
	token, err := d.mint(now)
	if err != nil {
		return err
	}

	node, err := openNode(ledgerOptions{engine: "pebble", data: filepath.Join(string(d), "ledger"), listen: cfg.Ledger.Addr}, log, now)
	if err != nil {
		return err
	}
	side, err := newSidecar(cfg, log, now)
	if err != nil {
		return join(err, node.close())
	}

	nodeCtx, stopNode := context.WithCancel(context.WithoutCancel(ctx))
	defer stopNode()
	var g errgroup.Group
	g.Go(func() error { return node.run(nodeCtx) })
	g.Go(func() error {
		defer stopNode() // the node outlives the drain of the sidecar
		return side.run(ctx, func() error {
			return d.announce(side.server.Addr().String(), side.server.AdminAddr().String(), cfg, token, stdout)
		})
	})
	return g.Wait()
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
	host, _, err := net.SplitHostPort(bind)
	if err != nil {
		return nil, usageError{fmt.Errorf("--bind: %w", err)}
	}
	cert, key, err := writeSelfSigned(string(d), host, time.Now())
	if err != nil {
		return nil, err
	}
	keys, err := d.rootKeys()
	if err != nil {
		return nil, err
	}
	socket, err := d.socket()
	if err != nil {
		return nil, err
	}
	flags := pflag.NewFlagSet("dev", pflag.ContinueOnError)
	config.BindFlags(flags)
	for name, value := range map[string]string{
		"bind": bind, "metrics": metrics, "tls-cert": cert, "tls-key": key, "root-keys": keys,
		"ledger": "unix:" + socket, "log-level": "warning",
	} {
		if err := flags.Set(name, value); err != nil {
			return nil, fmt.Errorf("--%s: %w", name, err)
		}
	}
	return config.Load(sources("", flags))
}

// rootKeys returns the folder's root key file, made on the first run.
func (d devFolder) rootKeys() (string, error) {
	file := filepath.Join(string(d), "root.keys")
	if _, err := os.Stat(file); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return "", err
	}
	return file, writeFile(file, []byte("dev "+hex.EncodeToString(key[:])+"\n"), 0o600)
}

// maxSocketPath is what sockaddr_un holds, less the final zero.
const maxSocketPath = 107

// socket returns where the node listens: in the folder, or in a temporary one if the folder's
// path is too long for a socket.
func (d devFolder) socket() (string, error) {
	path := filepath.Join(string(d), "ledger.sock")
	if len(path) <= maxSocketPath {
		return path, nil
	}
	tmp, err := os.MkdirTemp("", "svc-wallet-")
	return filepath.Join(tmp, "ledger.sock"), err
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

// announce writes dev.env and prints the banner, once the sidecar is ready.
func (d devFolder) announce(wallet, admin string, cfg *config.Config, token string, stdout io.Writer) error {
	walletURL, adminURL := "https://"+wallet, "http://"+admin
	env := []struct{ key, value string }{
		{"WALLET_URL", walletURL},
		{"ADMIN_URL", adminURL},
		{"CA_FILE", cfg.TLS.CertFile},
		{"TOKEN", token},
		{"LEDGER_ADDR", cfg.Ledger.Addr},
		{"ROOT_KEYS_FILE", cfg.Auth.RootKeysFile},
	}
	var b strings.Builder
	for _, e := range env {
		fmt.Fprintf(&b, "%s=%s\n", e.key, e.value)
	}
	file := filepath.Join(string(d), "dev.env")
	if err := writeFile(file, []byte(b.String()), 0o600); err != nil {
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
  pay burn     demo-3 '{"from":"bob","asset":"ron","amount_minor":"50","nonce":1}'

  echo '-- refused: funds, spent nonce, reused key, no token'
  pay transfer demo-4 '{"from":"alice","to":"bob","asset":"ron","amount_minor":"9999","nonce":2}'
  pay transfer demo-5 '{"from":"alice","to":"bob","asset":"ron","amount_minor":"1","nonce":1}'
  pay transfer demo-2 '{"from":"alice","to":"bob","asset":"ron","amount_minor":"1","nonce":9}'
  curl -sS --cacert "$CA_FILE" "$WALLET_URL/v1/balance?account=bob&asset=ron"; echo

  curl -sS "$ADMIN_URL/readyz"; echo; curl -sS "$ADMIN_URL/metrics" | grep ^wallet_

Ctrl-C drains and stops. Start again with --dir '{{.Dir}}' and all of it is still there.
`,
))
