package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"svc-wallet/host"
	"svc-wallet/ledger/node"
)

// ledgerOptions are the flags of `ledger`.
type ledgerOptions struct {
	engine, data              string
	listen, group             string
	retention                 time.Duration
	tlsCert, tlsKey, clientCA string
}

func ledgerCommand(hup <-chan os.Signal) *cobra.Command {
	var o ledgerOptions
	var format, level string
	cmd := &cobra.Command{
		Use:   "ledger --data DIR --listen unix:PATH",
		Short: "Run a ledger node",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "listen"); err != nil {
				return err
			}
			log, err := newLogger(cmd.ErrOrStderr(), format, level)
			if err != nil {
				return usageError{err}
			}
			n, err := starting(cmd.Context(), func() (*ledgerNode, error) { return openNode(o, log, newClock(log).Wall) })
			if err != nil {
				return err
			}
			log.WithField("addr", n.listener.Addr().String()).Info("listening")
			return n.run(cmd.Context(), hup)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.engine, "engine", "pebble", "pebble (durable) or memory (for tests)")
	f.StringVar(&o.data, "data", "", "folder of the pebble engine")
	f.StringVar(&o.listen, "listen", "", "unix:PATH or HOST:PORT")
	f.StringVar(&o.group, "socket-group", "", "group that may connect to unix:PATH, besides the user; a name or a number")
	f.StringVar(&o.tlsCert, "tls-cert", "", "certificate for HOST:PORT")
	f.StringVar(&o.tlsKey, "tls-key", "", "key of the certificate")
	f.StringVar(&o.clientCA, "client-ca", "", "authority of the clients' certificates, which are then demanded")
	f.DurationVar(&o.retention, "retention", 0, "remove payments older than this, 720h or more; 0 keeps them for ever")
	f.StringVar(&format, "log-format", "json", "json or text")
	f.StringVar(&level, "log-level", "info", "debug, info, warning or error")
	cmd.AddCommand(verifyStoreCommand())
	return cmd
}

// verifyStoreCommand reads a whole store.
func verifyStoreCommand() *cobra.Command {
	var data string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify --data DIR",
		Short: "Read every payment, key, balance and sum of a stopped node's store, and say what is damaged",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "data"); err != nil {
				return err
			}
			show, wipe := percentage(cmd.ErrOrStderr())
			report, err := node.VerifyPebble(cmd.Context(), data, show)
			wipe()
			if err != nil {
				return err
			}
			return tellReport(cmd.OutOrStdout(), data, report, asJSON)
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "folder of the store; its node must be stopped")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as one JSON object")
	return cmd
}

// tellReport prints what was found. A damaged store is an error, so that it shows in the exit code.
func tellReport(w io.Writer, data string, r *node.Report, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(w).Encode(r); err != nil {
			return err
		}
	} else {
		for _, f := range r.Told {
			_, _ = fmt.Fprintln(w, f)
		}
		for _, u := range r.Unjudged {
			_, _ = fmt.Fprintln(w, "not judged:", u)
		}
		_, _ = fmt.Fprintf(w, "%d payments in %d bytes of journal, %d rows of state, %d payments that were not read: %s\n",
			r.Payments, r.JournalBytes, r.StateRows, r.Unread, faults(r.Faults))
	}
	if r.Faults > 0 {
		return fmt.Errorf("%s: the store is damaged: %s, the first: %s", data, faults(r.Faults), r.Told[0])
	}
	return nil
}

func faults(n uint64) string {
	if n == 1 {
		return "1 fault"
	}
	return fmt.Sprintf("%d faults", n)
}

// percentage shows how far something is on one line of a terminal, and nothing elsewhere.
func percentage(w io.Writer) (show func(done, total int64), wipe func()) {
	f, ok := w.(*os.File)
	if !ok {
		return func(int64, int64) {}, func() {}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func(int64, int64) {}, func() {}
	}
	shown := int64(-1)
	show = func(done, total int64) {
		if percent := 100 * done / max(total, 1); percent != shown {
			shown = percent
			_, _ = fmt.Fprintf(f, "\rverified %3d %% [%-50s]", percent, strings.Repeat("=", int(percent/2)))
		}
	}
	return show, func() {
		if shown >= 0 {
			_, _ = fmt.Fprintf(f, "\r%70s\r", "")
		}
	}
}

// ledgerNode is an open engine and the listener that it will be served on.
type ledgerNode struct {
	engine   node.Engine
	listener net.Listener
	files    *host.Files // of certificates and keys
	opts     node.ServeOptions
}

// openNode opens the engine and the listener; nothing runs yet. The engine comes first: a store
// that is damaged or in use must not take over the socket. now is the time of commits.
func openNode(o ledgerOptions, log *logrus.Logger, now func() int64) (*ledgerNode, error) {
	files := host.NewFiles(log, now)
	tlsConfig, err := o.tls(files)
	if err != nil {
		return nil, err
	}
	engine, err := o.open(log, now)
	if err != nil {
		return nil, err
	}
	ln, err := host.Listen(o.listen, host.ListenOptions{Group: o.group, Remote: tlsConfig != nil})
	if err != nil {
		return nil, join(err, engine.Close())
	}
	return &ledgerNode{engine, ln, files, node.ServeOptions{TLS: tlsConfig, Log: log}}, nil
}

func (o *ledgerOptions) open(log *logrus.Logger, now func() int64) (node.Engine, error) {
	if o.retention != 0 && (o.retention < node.MinRetention || o.engine != "pebble") {
		return nil, usageError{fmt.Errorf("--retention %s: payments are kept for %s at least, by the pebble engine", o.retention, node.MinRetention)}
	}
	opts := node.Options{Now: now, Entropy: rand.Reader, Log: log, Retention: o.retention}
	switch o.engine {
	case "pebble":
		if o.data == "" {
			return nil, usageError{fmt.Errorf("--engine pebble needs --data")}
		}
		return node.OpenPebble(o.data, opts)
	case "memory":
		log.WithField("reason", "the memory engine forgets everything when it stops").Warn("ledger_forgets")
		return node.OpenMemory(opts), nil
	default:
		return nil, usageError{fmt.Errorf("--engine %.40q is neither pebble nor memory", o.engine)}
	}
}

// tls is nil where no certificate is given.
func (o *ledgerOptions) tls(files *host.Files) (func() *tls.Config, error) {
	if o.tlsCert == "" && o.tlsKey == "" && o.clientCA == "" {
		return nil, nil // no TLS is a valid choice, judged in openNode
	}
	if o.tlsCert == "" || o.tlsKey == "" || o.clientCA == "" {
		return nil, usageError{fmt.Errorf("--tls-cert, --tls-key and --client-ca go together")}
	}
	certs, err := files.Certs("ledger", host.CertFiles{Cert: o.tlsCert, Key: o.tlsKey, CA: o.clientCA})
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key, --client-ca: %w", err)
	}
	return certs.Server, nil
}

// run serves until ctx ends, then closes the store. A signal of hup has the certificates read at once.
func (n *ledgerNode) run(ctx context.Context, hup <-chan os.Signal) error {
	watching, stop := context.WithCancel(ctx)
	var watch errgroup.Group
	watch.Go(func() error { return watchFiles(watching, n.files, hup, func() {}) })
	err := node.Serve(ctx, n.listener, n.engine, n.opts)
	stop()
	return join(err, watch.Wait(), n.engine.Close())
}

// close is for a node that never ran.
func (n *ledgerNode) close() error {
	return join(n.listener.Close(), n.engine.Close())
}
