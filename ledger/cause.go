package ledger

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/status"

	"svc-wallet/host"
)

const (
	maxCause    = 256 // bytes of a cause in logs and in /readyz
	maxCauses   = 16  // that are told apart
	causeAgain  = time.Minute
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
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	return strings.ToValidUTF8(text[:min(len(text), maxCause)], "")
}

// causes logs why the ledger is away: each cause once, and then, with how often it came again, at
// most once a minute. The zero value has logged nothing.
type causes struct {
	mu    sync.Mutex
	known map[string]*causeCount
}

type causeCount struct {
	at       int64 // when it was logged last
	repeated int   // since then
}

func (c *causes) tell(log logrus.FieldLogger, text string, now int64) {
	c.mu.Lock()
	if c.known == nil || len(c.known) > maxCauses {
		c.known = make(map[string]*causeCount)
	}
	k := c.known[text]
	if k != nil && now-k.at < int64(causeAgain) {
		k.repeated++
		c.mu.Unlock()
		return
	}
	fields := logrus.Fields{"reason": text}
	if k != nil && k.repeated > 0 {
		fields["repeated"] = k.repeated
	}
	c.known[text] = &causeCount{at: now}
	c.mu.Unlock()
	log.WithFields(fields).Warn("ledger_away")
}

// orSilent is log, or one that logs nothing.
func orSilent(log logrus.FieldLogger) logrus.FieldLogger {
	if log != nil {
		return log
	}
	return host.Silent()
}
