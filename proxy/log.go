package proxy

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/sirupsen/logrus"
	"github.com/valyala/fasthttp"
	"lukechampine.com/blake3"

	"svc-wallet/wallet"
)

// requestLog writes the line of a request (CONTRACT §6). It never holds a token, a root key or an
// Authorization header, and an account only as a keyed hash: lines of one process can be matched
// with one another, but an account cannot be found by hashing every name.
type requestLog struct {
	log    *logrus.Logger
	key    [32]byte
	away   func() string // why the ledger takes no payments; empty: it does
	fault  func() string // the same, or else why the last call failed that did
	sample uint64        // one in so many successful reads; 0 is none
	reads  atomic.Uint64

	strangers allowance
}

// strangersPerSecond is how many payments are logged at info that were refused before their
// sender was known: enough to see that it happens, too few to fill a disk. Metrics count all.
const strangersPerSecond = 20

// allowance lets so many through in a second.
type allowance struct{ second, used atomic.Int64 }

func (a *allowance) take(now int64) bool {
	second := now / 1e9
	if last := a.second.Load(); last != second && a.second.CompareAndSwap(last, second) {
		a.used.Store(0)
	}
	return a.used.Add(1) <= strangersPerSecond
}

func newRequestLog(deps Deps, sample int) (*requestLog, error) {
	l := &requestLog{log: deps.Log, key: deps.LogKey, sample: uint64(max(0, sample))}
	if l.key == [32]byte{} {
		if _, err := io.ReadFull(deps.Entropy, l.key[:]); err != nil {
			return nil, fmt.Errorf("key of the hashes in logs: %w", err)
		}
	}
	return l, nil
}

// level is where a request's line goes: a payment that was not applied is what operators are
// asked about, so it is said at info, as is a sample of the reads and of what strangers try.
func (l *requestLog) level(v *visit) logrus.Level {
	applied := v.code.Outcome() == wallet.Applied
	switch {
	case v.Op > wallet.Read && !applied && (v.Grant != nil || l.strangers.take(v.Now)):
		return logrus.InfoLevel
	case v.Op == wallet.Read && applied && l.sample > 0 && l.reads.Add(1)%l.sample == 0:
		return logrus.InfoLevel
	default:
		return logrus.DebugLevel
	}
}

// request writes the line, if the level is enabled; it does no work before it knows that.
func (l *requestLog) request(ctx *fasthttp.RequestCtx, v *visit, now int64) {
	level := l.level(v)
	if !l.log.IsLevelEnabled(level) {
		return
	}
	f := logrus.Fields{
		"corr_id":    v.Origin.Corr.String(),
		"peer_addr":  v.conn.addr.String(),
		"method":     method(ctx),
		"route":      v.route.id.path(),
		"status":     v.code.HTTP(),
		"latency_ms": float64((now-v.Now)/1e3) / 1e3,
	}
	if v.Op != wallet.NoOp {
		f["op"] = v.Op.String()
	}
	if v.code.Outcome() != wallet.Applied {
		f["reason"] = l.reason(v.code)
	} else if id, ok := bytes.CutPrefix(v.Reply, []byte(`{"txid":"`)); ok {
		f["txid"] = string(id[:bytes.IndexByte(id, '"')])
	}
	if v.Shadowed != 0 {
		f["shadow"] = v.Shadowed.String()
	}
	l.payment(f, v)
	l.log.WithFields(f).Log(level, "request")
}

// reason is the code, and where the ledger did not answer, what kept it.
func (l *requestLog) reason(code wallet.Code) string {
	why := ""
	switch code {
	case wallet.RetryLater:
		why = l.away()
	case wallet.UpstreamUnavailable, wallet.Unreadable, wallet.Uncertain:
		why = l.fault()
	default:
	}
	if why == "" {
		return reason(code)
	}
	return reason(code) + ": " + why
}

// payment adds what was decoded, which is nothing where the request did not get that far.
func (l *requestLog) payment(f logrus.Fields, v *visit) {
	if t := &v.Transfer; t.Fingerprint != ([32]byte{}) {
		f["asset"] = t.Asset.String()
		f["amount_minor"] = t.Amount.String()
		f["nonce"] = t.Nonce
		f["idem"] = t.Idem.String()
		f["account_hash"] = l.hash(t.Holder())
	} else if b := &v.Balance; !b.Asset.IsZero() {
		f["asset"] = b.Asset.String()
		f["account_hash"] = l.hash(b.Account)
	}
}

// hash is the first half of BLAKE3-256 of the account under the key.
func (l *requestLog) hash(a wallet.Account) string {
	h := blake3.New(16, l.key[:])
	var buf [64]byte
	_, _ = h.Write(a.Append(buf[:0])) // never fails
	return hex.EncodeToString(h.Sum(nil))
}

// method is the request's method if HTTP knows it, as a client may send any word.
func method(ctx *fasthttp.RequestCtx) string {
	switch m := string(ctx.Method()); m {
	case "GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT":
		return m
	default:
		return otherMethod
	}
}

// edgeLog takes what fasthttp logs. Its arguments may quote a request, token and all, so only the
// format is kept.
type edgeLog struct{ log *logrus.Logger }

// Printf implements fasthttp.Logger.
func (l edgeLog) Printf(format string, _ ...any) {
	l.log.WithField("reason", format).Debug("edge")
}
