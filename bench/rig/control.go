package rig

import (
	"context"
	"errors"
	"os"
	"os/exec"
)

// StartAll is Start with a control plane that the sidecar obeys, and an admin listener of each process:
// Process.Listens("admin_addr"). The control plane's API is its Listens("api").
func StartAll(ctx context.Context, binary string, env ...string) (*Rig, error) {
	r, err := New(ctx, binary)
	if err != nil {
		return nil, err
	}
	admin, socket := []string{"--metrics", "127.0.0.1:0"}, "unix:"+r.Path("xds.sock")
	env = append(env, "SVC_WALLET_XDS_ADDR="+socket, "SVC_WALLET_XDS_LAST_GOOD_FILE="+r.Path("last-good.json"))
	if err = r.startControl(ctx, socket, admin...); err == nil {
		err = r.start(ctx, nil, env, admin...)
	}
	if err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

// startControl starts the control plane without a document.
func (r *Rig) startControl(ctx context.Context, socket string, flags ...string) (err error) {
	limits := r.Path("limits")
	if err := os.Mkdir(limits, 0o700); err != nil {
		return err
	}
	args := []string{"control", "--limits", limits, "--allow-empty", "--listen", socket, "--api", "127.0.0.1:0"}
	r.Control, err = Run(ctx, exec.Command(r.binary, append(args, flags...)...)) //nolint:gosec,noctx // the program under test; Stop ends it
	return err
}
