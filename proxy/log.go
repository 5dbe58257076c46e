package proxy

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
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

	strangers, clients allowance
}

// So many refused requests a second are logged at info, of senders that are not known and of those
// with a valid token: enough to see that it happens, too few to fill a disk. Metrics count all, and a
// line says how many were left out.
const (
	strangersPerSecond = 20
	clientsPerSecond   = 100
)

// allowance lets so many through in a second.
type allowance struct{ second, used, left atomic.Int64 }

func (a *allowance) take(now, most int64) bool {
	second := now / 1e9
	if last := a.second.Load(); last != second && a.second.CompareAndSwap(last, second) {
		a.used.Store(0)
	}
	if a.used.Add(1) <= most {
		return true
	}
	a.left.Add(1)
	return false
}

// told says how many were left out before this second, and forgets them.
func (a *allowance) told(now int64) int64 {
	if a.left.Load() == 0 || a.second.Load() == now/1e9 {
		return 0
	}
	return a.left.Swap(0)
}

// tellLeftOut says how many lines of refused requests were left out.
func (l *requestLog) tellLeftOut(now int64) {
	clients, strangers := l.clients.told(now), l.strangers.told(now)
	if clients+strangers > 0 && !l.log.IsLevelEnabled(logrus.DebugLevel) { // at debug there is a line of each
		l.log.WithFields(logrus.Fields{"clients": clients, "strangers": strangers}).Info("request_lines_left_out")
	}
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

// level is where a request's line goes: a payment that was not applied and a read that failed for a
// reason of ours are what operators are asked about, so they are said at info, as is a sample of the
// other reads. Of those that were refused only so many are, since whoever may read can have as many
// refused as the machine can take.
func (l *requestLog) level(v *visit, now int64) logrus.Level {
	outcome := v.code.Outcome()
	switch {
	case v.Op > wallet.Read && outcome == wallet.Unknown:
		return logrus.InfoLevel
	case v.Op > wallet.Read && outcome == wallet.Refused && l.allows(v, now):
		return logrus.InfoLevel
	case v.Op == wallet.Read && v.code.HTTP() >= 500 && l.allows(v, now):
		return logrus.InfoLevel
	case v.Op == wallet.Read && outcome == wallet.Applied && l.sample > 0 && l.reads.Add(1)%l.sample == 0:
		return logrus.InfoLevel
	default:
		return logrus.DebugLevel
	}
}

// allows says that a refused request's line is one of those that this second has.
func (l *requestLog) allows(v *visit, now int64) bool {
	if v.Grant != nil {
		return l.clients.take(now, clientsPerSecond)
	}
	return l.strangers.take(now, strangersPerSecond)
}

// request writes the line, if the level is enabled; it does no work before it knows that.
func (l *requestLog) request(ctx *fasthttp.RequestCtx, v *visit, now int64) {
	level := l.level(v, now)
	if !l.log.IsLevelEnabled(level) {
		return
	}
	f := logrus.Fields{
		"corr_id":    v.Origin.Corr.String(),
		"peer_addr":  v.conn.addr.String(),
		"method":     method(ctx),
		"route":      v.route.Path(),
		"status":     v.code.HTTP(),
		"latency_ms": float64((now-v.Now)/1e3) / 1e3,
	}
	if v.Op != wallet.NoOp {
		f["op"] = v.Op.String()
	}
	if v.code.Outcome() != wallet.Applied {
		f["reason"] = l.reason(v)
	} else if id, ok := bytes.CutPrefix(v.Reply, []byte(`{"txid":"`)); ok {
		f["txid"] = string(id[:bytes.IndexByte(id, '"')])
	}
	if v.Shadowed != 0 {
		f["shadow"] = v.Shadowed.String()
	}
	l.payment(f, v)
	l.log.WithFields(f).Log(level, "request")
}

// reason is the code, and where the ledger did not answer, what kept it; else the stage or the rule that
// refused.
func (l *requestLog) reason(v *visit) string {
	why := ""
	switch v.code {
	case wallet.RetryLater:
		why = l.away()
	case wallet.UpstreamUnavailable, wallet.Unreadable, wallet.Uncertain:
		why = l.fault()
	default:
	}
	if why = cmp.Or(why, v.Stage, v.Detail); why == "" {
		return reason(v.code)
	}
	return reason(v.code) + ": " + why
}

// payment adds what was decoded, which is nothing where the request did not get that far.
func (l *requestLog) payment(f logrus.Fields, v *visit) {
	if t := &v.Payment; t.Fingerprint != ([32]byte{}) {
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
		return wallet.NoRoute.Method()
	}
}

// edgeLog takes what fasthttp logs.
type edgeLog struct{ log *logrus.Logger }

// edgeArg is how many bytes of an argument of fasthttp's are logged.
const edgeArg = 200

// Printf implements fasthttp.Logger. An error may quote a request, token and all: what it quotes is
// cut off.
func (l edgeLog) Printf(format string, args ...any) {
	if !l.log.IsLevelEnabled(logrus.DebugLevel) {
		return
	}
	texts := make([]any, len(args))
	for i, arg := range args {
		text := fmt.Sprint(arg)
		if _, isErr := arg.(error); isErr {
			text, _, _ = strings.Cut(text, `"`)
		}
		texts[i] = strings.TrimSpace(text[:min(len(text), edgeArg)])
	}
	for _, verb := range []string{"%q", "%d", "%s", "%v"} { // all are text by now
		format = strings.ReplaceAll(format, verb, "%s")
	}
	l.log.WithField("reason", fmt.Sprintf(format, texts...)).Debug("edge")
}
