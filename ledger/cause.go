package ledger

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/status"

	"svc-wallet/host"
)

const (
	maxCause    = 256 // bytes of a cause in logs and in /readyz
	causeStall  = "heartbeats stay away: the ledger is stalled"
	causeDisk   = "the ledger says that it cannot make commits durable: its disk is stalled"
	causeUnseen = "the ledger has not answered yet"
)

// cause is err in one line for operators, without gRPC's wrapping. Errors of a connection and of a
// node's status hold no secrets and no accounts.
func cause(err error) string {
	text := err.Error()
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) && s.GRPCStatus() != nil {
		text = s.GRPCStatus().Message()
		if inner, ok := strings.CutPrefix(text, `connection error: desc = "`); ok {
			text = strings.TrimSuffix(inner, `"`)
		}
		for _, wrapping := range [...]string{"transport: ", "Error while dialing: ", "authentication handshake failed: "} {
			text = strings.TrimPrefix(text, wrapping)
		}
	}
	text = localAddr.ReplaceAllString(text, "")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	return strings.ToValidUTF8(text[:min(len(text), maxCause)], "")
}

// localAddr is this side's address, which is another one in each connection.
var localAddr = regexp.MustCompile(`(\d+\.\d+\.\d+\.\d+|\[[0-9a-f:.%a-z]+\]):\d+->`)

// broken is what a connection that the other side closed ends with. It says nothing of why.
var broken = [...]string{"broken pipe", "connection reset by peer", "EOF", "use of closed network connection"} //nolint:gochecknoglobals // a table

// telling is the more telling of two reasons of one outage. A node that refuses our certificate says so
// in one try, and in the next one the connection is merely found closed.
func telling(before, now string) string {
	if before != "" && slices.ContainsFunc(broken[:], func(end string) bool { return strings.HasSuffix(now, end) }) {
		return before
	}
	return now
}

// orSilent is log, or one that logs nothing.
func orSilent(log logrus.FieldLogger) logrus.FieldLogger {
	if log != nil {
		return log
	}
	return host.Silent()
}
