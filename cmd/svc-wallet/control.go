package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"svc-wallet/host"
	"svc-wallet/xds/control"
)

func controlCommand(hup <-chan os.Signal) *cobra.Command {
	var o control.Options
	var certs host.CertFiles
	var format, level string
	cmd := &cobra.Command{
		Use:   "control --limits FILE|FOLDER --listen unix:PATH|HOST:PORT",
		Short: "Run a control plane that pushes limits to sidecars",
		Long: `Runs a control plane. --limits is a file, which is the group "default", or a folder of
GROUP.json, .yaml, .yml or .toml. Files are watched; SIGHUP reads them again at once. A file that
cannot be read as it should is refused, and what it said before stays in force; so it does where a
file is gone.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := required(cmd, "limits", "listen"); err != nil {
				return err
			}
			secure := certs != host.CertFiles{}
			if secure && (certs.Cert == "" || certs.Key == "" || certs.CA == "") {
				return usageError{errors.New("--tls-cert, --tls-key and --tls-ca go together")}
			} else if len(o.ClientIDs) > 0 && !secure {
				return usageError{errors.New("--client-id means nothing without --tls-ca")}
			}
			if o.Log, err = newLogger(cmd.ErrOrStderr(), format, level); err != nil {
				return usageError{err}
			}
			clock := newClock(o.Log)
			o.Now = clock.Now
			files := host.NewFiles(o.Log, clock.Wall)
			if secure {
				current, err := files.Certs("control", certs)
				if err != nil {
					return fmt.Errorf("--tls-cert, --tls-key, --tls-ca: %w", err)
				}
				o.TLS = current.Server
			}
			return runControl(cmd.Context(), o, files, hup)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Source, "limits", "", "file or folder of limits")
	f.StringVar(&o.Listen, "listen", "", "unix:PATH or HOST:PORT, for sidecars")
	f.StringVar(&o.Group, "socket-group", "", "group whose sidecars may connect to unix:PATH, besides the user's; a name or a number")
	f.StringVar(&o.API, "api", "127.0.0.1:18001", "unix:PATH or HOST:PORT of the HTTP API; empty for none")
	f.StringVar(&certs.Cert, "tls-cert", "", "certificate of both listeners")
	f.StringVar(&certs.Key, "tls-key", "", "key of the certificate")
	f.StringVar(&certs.CA, "tls-ca", "", "authority of the clients' certificates, which both listeners then demand")
	f.StringArrayVar(&o.ClientIDs, "client-id", nil, "URI SAN of a client that may change limits, * is any characters; may be repeated")
	f.StringVar(&o.Names.Limits, "limits-name", "svc-wallet.limits", "name of the resource of limits")
	f.StringVar(&o.Names.Runtime, "runtime-name", "svc-wallet.runtime", "name of the runtime layer")
	f.IntVar(&o.MaxSidecars, "max-sidecars", 10_000, "sidecars that are known at once; those that left longest ago are forgotten first")
	f.BoolVar(&o.AllowEmpty, "allow-empty", false, "start on a folder without a document, which lifts what was pushed before")
	f.StringVar(&format, "log-format", "json", "json or text")
	f.StringVar(&level, "log-level", "info", "debug, info, warning or error")
	return cmd
}

// runControl serves until ctx ends, and reads everything again on each SIGHUP.
func runControl(ctx context.Context, o control.Options, files *host.Files, hup <-chan os.Signal) error {
	plane, err := control.New(o)
	if err != nil {
		return join(err)
	}
	if err := plane.Listen(); err != nil {
		return join(err)
	}
	log := o.Log.WithField("addr", plane.Addr())
	if addr := plane.APIAddr(); addr != nil {
		log = log.WithField("api", addr.String())
	}
	log.Info("listening")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		return plane.Run(ctx)
	})
	g.Go(func() error { return watchFiles(ctx, files, hup, plane.Reload) })
	return join(g.Wait())
}
