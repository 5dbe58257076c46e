package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"svc-wallet/host"
)

// admin is the admin listener of a process that is no sidecar. The zero value has none.
type admin struct {
	addr     string
	listener net.Listener
	server   *http.Server
}

func (a *admin) bind(f *pflag.FlagSet) {
	f.StringVar(&a.addr, "metrics", "", "unix:PATH or HOST:PORT of the admin listener: /metrics and /debug/pprof/; empty for none")
}

// listen takes the address where there is one, and adds it to the line that says where a process listens.
func (a *admin) listen(metrics http.Handler, log logrus.FieldLogger) (logrus.FieldLogger, error) {
	if a.addr == "" {
		return log, nil
	}
	var err error
	if a.listener, err = host.ListenAdmin(a.addr); err != nil {
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	a.server = host.NewAdmin(a.addr, host.AdminRoutes(metrics, build()))
	return log.WithField("admin_addr", a.listener.Addr().String()), nil
}

// beside is serve with the listener beside it, until serve has returned: so a drain can be looked at.
func (a *admin) beside(serve func(context.Context) error) func(context.Context) error {
	if a.listener == nil {
		return serve
	}
	return func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error {
			if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve the admin listener: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			defer a.server.Close() //nolint:errcheck // nobody is asked for
			return serve(ctx)
		})
		return g.Wait()
	}
}
