package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"os"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"svc-wallet/host"
	"svc-wallet/ledger/node"
)

// ledgerOptions are the flags of `ledger`.
type ledgerOptions struct {
	engine, data, listen      string
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
			n, err := openNode(o, log, newClock(log).Wall)
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
	f.StringVar(&o.tlsCert, "tls-cert", "", "certificate for HOST:PORT")
	f.StringVar(&o.tlsKey, "tls-key", "", "key of the certificate")
	f.StringVar(&o.clientCA, "client-ca", "", "authority of the clients' certificates, which are then demanded")
	f.StringVar(&format, "log-format", "json", "json or text")
	f.StringVar(&level, "log-level", "info", "debug, info, warning or error")
	return cmd
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
	files := host.NewFiles(log)
	tlsConfig, err := o.tls(files)
	if err != nil {
		return nil, err
	}
	engine, err := o.open(log, now)
	if err != nil {
		return nil, err
	}
	ln, err := node.Listen(o.listen)
	if err == nil && tlsConfig == nil && !private(ln.Addr()) {
		err = join(fmt.Errorf("--listen %s: only loopback may be served without --tls-cert, --tls-key and --client-ca", o.listen), ln.Close())
	}
	if err != nil {
		return nil, join(err, engine.Close())
	}
	return &ledgerNode{engine, ln, files, node.ServeOptions{TLS: tlsConfig, Log: log}}, nil
}

func (o *ledgerOptions) open(log *logrus.Logger, now func() int64) (node.Engine, error) {
	opts := node.Options{Now: now, Entropy: rand.Reader, Log: log}
	switch o.engine {
	case "pebble":
		if o.data == "" {
			return nil, usageError{fmt.Errorf("--engine pebble needs --data")}
		}
		return node.OpenPebble(o.data, opts)
	case "memory":
		log.Warn("the memory engine forgets everything when it stops")
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

// private reports an address that only this machine can reach.
func private(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
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
