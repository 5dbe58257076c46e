package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"svc-wallet/host"
	"svc-wallet/ledger/node"
)

// ledgerOptions are the flags of `ledger`.
type ledgerOptions struct {
	engine, data  string
	listen, group string
	retention     time.Duration
	tls           tlsFlags
	admin         admin
}

func ledgerCommand(hup <-chan os.Signal) *cobra.Command {
	var o ledgerOptions
	var logs logFlags
	cmd := &cobra.Command{
		Use:   "ledger --data DIR --listen unix:PATH",
		Short: "Run a ledger node",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "listen"); err != nil {
				return err
			}
			log, err := logs.open(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			n, err := starting(cmd.Context(), func() (*ledgerNode, error) { return openNode(o, log, newClock(log).Wall) })
			if err != nil {
				return err
			}
			said, err := n.admin.listen(node.Metrics(n.engine), log.WithField("addr", n.listener.Addr().String()))
			if err != nil {
				return join(err, n.close())
			}
			said.Info("listening")
			return n.run(cmd.Context(), hup)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.engine, "engine", "pebble", "pebble (durable) or memory (for tests)")
	f.StringVar(&o.data, "data", "", "folder of the pebble engine")
	f.StringVar(&o.listen, "listen", "", "unix:PATH or HOST:PORT")
	f.StringVar(&o.group, "socket-group", "", "group that may connect to unix:PATH, besides the user; a name or a number")
	o.tls.bind(f, "client-ca", "for HOST:PORT")
	f.DurationVar(&o.retention, "retention", 0, "remove payments older than this, 720h or more; 0 keeps them for ever")
	o.admin.bind(f)
	logs.bind(f)
	cmd.AddCommand(verifyStoreCommand())
	return cmd
}

// ledgerNode is an open engine and the listener that it will be served on.
type ledgerNode struct {
	engine   node.Engine
	listener net.Listener
	files    *host.Files // of certificates and keys
	opts     node.ServeOptions
	admin    admin
}

// openNode opens the engine and the listener; nothing runs yet. The engine comes first: a store
// that is damaged or in use must not take over the socket. now is the time of commits.
func openNode(o ledgerOptions, log *logrus.Logger, now func() int64) (*ledgerNode, error) {
	files := host.NewFiles(log, now)
	tlsConfig, err := o.tls.open(files, "ledger")
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
	return &ledgerNode{engine, ln, files, node.ServeOptions{TLS: tlsConfig, Log: log}, o.admin}, nil
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
		return node.OpenMemory(opts)
	default:
		return nil, usageError{fmt.Errorf("--engine %.40q is neither pebble nor memory", o.engine)}
	}
}

// run serves until ctx ends, then closes the store.
func (n *ledgerNode) run(ctx context.Context, hup <-chan os.Signal) error {
	err := watched(ctx, n.files, hup, func() {}, n.admin.beside(func(ctx context.Context) error {
		return node.Serve(ctx, n.listener, n.engine, n.opts)
	}))
	return join(err, n.engine.Close())
}

// close is for a node that never ran.
func (n *ledgerNode) close() error {
	return join(n.listener.Close(), n.engine.Close())
}
