// Package wire translates between the vocabulary and the node protocol (ledger.proto), for the client
// in package ledger and for the node: functions that make messages, and functions that read them.
//
// Invariant: neither side trusts the other. What a node reads comes out as a payment that parses, or as
// the zero Payment, which every engine refuses. What a client reads is checked field by field against
// the question, because a malformed answer that reads as paid is money lost: it comes out as an error or
// as wallet.Uncertain, never as more.
package wire

import (
	"errors"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/wallet"
)

// What both sides tell apart, each with the status that carries it.
var (
	ErrBacklog = errors.New("changes are no longer held")                                                  // OUT_OF_RANGE
	ErrLagged  = errors.New("watcher too slow")                                                            // RESOURCE_EXHAUSTED
	ErrDamaged = errors.New("the ledger's store is damaged there")                                         // DATA_LOSS; the node is well, and asking again would meet the same damage
	ErrLate    = errors.New("past its last moment, or of another opening of the ledger; nothing was done") // ABORTED
)

// ErrMalformed wraps what is wrong with an answer that contradicts the protocol or its question.
var ErrMalformed = errors.New("malformed answer of the node")

// maxMillis is the last millisecond of the year 9999, which the format of receipts can show.
const maxMillis = 253402300799999

// pairs is a table of one idea in both languages. What it does not hold is the zero value: no operation,
// no limit, an unknown outcome.
type pairs[A, B comparable] []struct {
	ours A
	wire B
}

func (p pairs[A, B]) encode(a A) (b B) {
	for i := range p {
		if p[i].ours == a {
			return p[i].wire
		}
	}
	return b
}

func (p pairs[A, B]) decode(b B) (a A) {
	for i := range p {
		if p[i].wire == b {
			return p[i].ours
		}
	}
	return a
}

//nolint:gochecknoglobals // tables
var (
	ops = pairs[wallet.Op, ledgerpb.Op]{
		{wallet.Issue, ledgerpb.Op_OP_ISSUE},
		{wallet.Transfer, ledgerpb.Op_OP_TRANSFER},
		{wallet.Burn, ledgerpb.Op_OP_BURN},
	}
	verdicts = pairs[wallet.Code, ledgerpb.Verdict]{
		{wallet.OK, ledgerpb.Verdict_VERDICT_APPLIED},
		{wallet.Replayed, ledgerpb.Verdict_VERDICT_REPLAYED},
		{wallet.KeyReused, ledgerpb.Verdict_VERDICT_KEY_REUSED},
		{wallet.NonceConflict, ledgerpb.Verdict_VERDICT_NONCE_CONFLICT},
		{wallet.LimitsExceeded, ledgerpb.Verdict_VERDICT_LIMITS_EXCEEDED},
		{wallet.InsufficientFunds, ledgerpb.Verdict_VERDICT_INSUFFICIENT_FUNDS},
		{wallet.BadRequest, ledgerpb.Verdict_VERDICT_INVALID},
	}
	limits = pairs[wallet.Limit, ledgerpb.Limit]{
		{wallet.DailyCeiling, ledgerpb.Limit_LIMIT_DAILY_CEILING},
		{wallet.AccountTotal, ledgerpb.Limit_LIMIT_ACCOUNT_TOTAL},
		{wallet.SupplyTotal, ledgerpb.Limit_LIMIT_SUPPLY},
	}
)

// texts collects the identifiers of a message in one buffer, so that they cost one string together.
type texts struct {
	buf  []byte
	ends []int
}

func newTexts(n, bytes int) texts { return texts{make([]byte, 0, n*bytes), make([]int, 0, n)} }

// add is generic because an identifier in an interface would be a copy on the heap.
func add[T interface{ Append([]byte) []byte }](x *texts, s T) {
	x.buf = s.Append(x.buf)
	x.ends = append(x.ends, len(x.buf))
}

// cut returns a function that yields the texts in the order they were added.
func (x *texts) cut() func() string {
	all, start, i := string(x.buf), 0, 0
	return func() string {
		s := all[start:x.ends[i]]
		start = x.ends[i]
		i++
		return s
	}
}

// traceText is a wallet.Trace that can be appended.
type traceText wallet.Trace

func (t traceText) Append(dst []byte) []byte { return append(dst, wallet.Trace(t).String()...) }

func encodeAmount(m *ledgerpb.Amount, a wallet.Amount) *ledgerpb.Amount {
	m.Hi, m.Lo = a.Bits()
	return m
}

// decodeAmount says whether there is one; else it is zero.
func decodeAmount(m *ledgerpb.Amount) (wallet.Amount, bool) {
	return wallet.AmountFromBits(m.GetHi(), m.GetLo()), m != nil
}

// decodeAccount takes an empty text for no account.
func decodeAccount(s string) (wallet.Account, error) {
	if s == "" {
		return wallet.Account{}, nil
	}
	return wallet.ParseAccount(s)
}
