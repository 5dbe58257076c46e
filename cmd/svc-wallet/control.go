package main

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"svc-wallet/host"
	"svc-wallet/xds/control"
)

func controlCommand(hup <-chan os.Signal) *cobra.Command {
	var o control.Options
	var certs tlsFlags
	var debug admin
	var logs logFlags
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
			if o.Log, err = logs.open(cmd.ErrOrStderr()); err != nil {
				return err
			}
			clock := newClock(o.Log)
			o.Now = clock.Now
			files := host.NewFiles(o.Log, clock.Wall)
			if o.TLS, err = certs.open(files, "control"); err != nil {
				return err
			}
			if len(o.ClientIDs)+len(o.BindNodes) > 0 && o.TLS == nil {
				return usageError{errors.New("--client-id and --bind-node mean nothing without --tls-ca")}
			}
			return join(runControl(cmd.Context(), o, &debug, files, hup))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Source, "limits", "", "file or folder of limits")
	f.StringVar(&o.Listen, "listen", "", "unix:PATH or HOST:PORT, for sidecars")
	f.StringVar(&o.Group, "socket-group", "", "group whose sidecars may connect to unix:PATH, besides the user's; a name or a number")
	f.StringVar(&o.API, "api", "127.0.0.1:18001", "unix:PATH or HOST:PORT of the HTTP API; empty for none")
	certs.bind(f, "tls-ca", "of both listeners")
	f.StringArrayVar(&o.ClientIDs, "client-id", nil, "URI SAN of a client that may change limits, * is any characters; may be repeated")
	f.StringArrayVar(&o.BindNodes, "bind-node", nil, "URI SAN that a sidecar's certificate must have, {id} and {cluster} are its node's, * is any characters; may be repeated: one must fit")
	f.StringVar(&o.Names.Limits, "limits-name", "svc-wallet.limits", "name of the resource of limits")
	f.StringVar(&o.Names.Runtime, "runtime-name", "svc-wallet.runtime", "name of the runtime layer")
	f.IntVar(&o.MaxSidecars, "max-sidecars", 10_000, "sidecars that are known at once; those that left longest ago are forgotten first")
	f.BoolVar(&o.AllowEmpty, "allow-empty", false, "start on a folder without a document, or without that of a group that had one, which lifts what was pushed before")
	debug.bind(f)
	logs.bind(f)
	return cmd
}

// runControl makes the control plane, binds its listeners and serves until ctx ends.
func runControl(ctx context.Context, o control.Options, debug *admin, files *host.Files, hup <-chan os.Signal) error {
	plane, err := control.New(o)
	if err != nil {
		return err
	}
	if err := plane.Listen(); err != nil {
		return err
	}
	log := o.Log.WithField("addr", plane.Addr())
	if addr := plane.APIAddr(); addr != nil {
		log = log.WithField("api", addr.String())
	}
	said, err := debug.listen(plane.Metrics(), log)
	if err != nil {
		return errors.Join(err, plane.Close())
	}
	said.Info("listening")
	return watched(ctx, files, hup, plane.Reload, debug.beside(plane.Run))
}
