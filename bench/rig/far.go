package rig

import (
	"context"
	"net"
	"os/exec"
)

// Far is a place for the node that the sidecar reaches by TCP.
type Far struct {
	IP  net.IP                         // of the node
	Run func(start func() error) error // starts the node there
}

func (f *Far) ips() []net.IP {
	if f == nil {
		return nil
	}
	return []net.IP{f.IP}
}

// startNode starts the node, with flags of its own, and returns where it listens.
func (r *Rig) startNode(ctx context.Context, far *Far, flags ...string) (at string, err error) {
	args := append(append([]string{"ledger"}, flags...), "--data", r.Path("ledger"), "--listen")
	if far == nil {
		at = "unix:" + r.Path("ledger.sock")
		r.Node, err = Run(ctx, exec.Command(r.binary, append(args, at)...)) //nolint:gosec,noctx // the program under test; Stop ends it
		return at, err
	}
	args = append(args, net.JoinHostPort(far.IP.String(), "0"),
		"--tls-cert", r.Path("tls.crt"), "--tls-key", r.Path("tls.key"), "--client-ca", r.Path("tls.crt"))
	err = far.Run(func() (err error) {
		r.Node, err = Run(ctx, exec.Command(r.binary, args...)) //nolint:gosec,noctx // as above
		return err
	})
	if err != nil {
		return "", err
	}
	return r.Node.Listens("addr"), nil
}

// trusts is the sidecar's environment for a node that is far away: both show the rig's one certificate.
func (r *Rig) trusts(far *Far) []string {
	if far == nil {
		return nil
	}
	const prefix = "SVC_WALLET_LEDGER_TLS_"
	return []string{prefix + "CA_FILE=" + r.Path("tls.crt"), prefix + "CERT_FILE=" + r.Path("tls.crt"), prefix + "KEY_FILE=" + r.Path("tls.key")}
}
