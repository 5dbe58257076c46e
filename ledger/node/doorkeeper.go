package node

import (
	"net"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/credentials"

	"svc-wallet/host"
)

// doorkeeper logs why a handshake was refused, which gRPC tells nobody: who comes is one of our own
// sidecars, and something about its certificates or ours is wrong. Each reason of each address is told
// once, and then once a minute with how often it came again.
type doorkeeper struct {
	credentials.TransportCredentials
	engine Engine // its clock
	log    logrus.FieldLogger
	told   host.Repeats
}

func (d *doorkeeper) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := d.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		d.tell(raw.RemoteAddr(), err)
	}
	return conn, info, err
}

// maxReason is how many bytes of a reason are logged: it may quote a certificate.
const maxReason = 256

func (d *doorkeeper) tell(from net.Addr, err error) {
	peer, _, splitErr := net.SplitHostPort(from.String())
	if splitErr != nil {
		peer = from.String()
	}
	reason := err.Error()
	reason = reason[:min(len(reason), maxReason)]
	const milli = int64(1e6)
	if fields, tell := d.told.Tell(peer+" "+reason, int64(d.engine.Clock())*milli); tell { //nolint:gosec // milliseconds of this process
		fields["peer_addr"], fields["reason"] = peer, reason
		d.log.WithFields(fields).Info("handshake_refused")
	}
}
