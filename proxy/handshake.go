package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
)

// handshakeCause is why a handshake failed, as a label.
type handshakeCause uint8

const (
	causeOther         handshakeCause = iota
	causeTimeout                      // not over in time
	causeClosed                       // the client went away
	causeNotTLS                       // plain HTTP, or something else
	causeVersion                      // the client knows no TLS 1.3
	causeNoCertificate                // none was shown, and one is demanded
	causeCertificate                  // the client's does not verify
	causeRemote                       // the client refused: as a rule, our certificate
	numHandshakeCauses
)

var handshakeCauses = [numHandshakeCauses]string{ //nolint:gochecknoglobals // a table
	"other", "timeout", "closed", "not_tls", "version", "no_certificate", "certificate", "refused_by_client",
}

func (h handshakeCause) String() string { return handshakeCauses[h] }

// causeOf tells apart what crypto/tls has types for, and by its texts what it has none for.
func causeOf(err error) handshakeCause {
	var op *net.OpError
	switch text := err.Error(); {
	case isTimeout(err):
		return causeTimeout
	case errors.As(err, new(tls.RecordHeaderError)):
		return causeNotTLS
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return causeCertificate
	case errors.As(err, &op) && op.Op == "remote error":
		return causeRemote
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return causeClosed
	case strings.Contains(text, "unsupported versions"):
		return causeVersion
	case strings.Contains(text, "didn't provide a certificate"):
		return causeNoCertificate
	default:
		return causeOther
	}
}

const (
	handshakesPerSecond = 20  // lines; all are counted
	maxHandshakeReason  = 256 // bytes: it may quote a certificate
)

// handshakeFailed counts, and at debug tells why: who comes may be any stranger.
func (l *listener) handshakeFailed(c *conn, err error) {
	cause := causeOf(err)
	l.metrics.handshakeFailed(cause)
	if !l.debugs() || !l.told.take(l.now(), handshakesPerSecond) {
		return
	}
	reason := err.Error()
	fields := logrus.Fields{"peer_addr": c.addr.String(), "cause": cause.String(), "reason": reason[:min(len(reason), maxHandshakeReason)]}
	if left := l.told.told(l.now()); left > 0 {
		fields["left_out"] = left
	}
	l.log.WithFields(fields).Debug("handshake_refused")
}

// debugs says whether lines of the level debug are wanted, where the logger tells.
func (l *listener) debugs() bool {
	log, ok := l.log.(*logrus.Logger)
	return !ok || log.IsLevelEnabled(logrus.DebugLevel)
}
