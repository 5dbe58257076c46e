package wallet

import "encoding/binary"

// Op is what a request does. The zero value does nothing and is no valid operation.
type Op uint8

// The operations, which are also the actions of a capability (CONTRACT §3).
const (
	NoOp Op = iota
	Read
	Issue
	Transfer // POST /v1/transfer
	Burn
	numOps
)

var ops = [numOps]string{NoOp: "none", Read: "read", Issue: "issue", Transfer: "transfer", Burn: "burn"} //nolint:gochecknoglobals // a table

// String is the operation's name in routes, receipts, caveats and metrics. What is no operation,
// as another program may send it, does nothing.
func (o Op) String() string {
	if o >= numOps {
		o = NoOp
	}
	return ops[o]
}

// ParseOp is the inverse of String; false for what is no operation.
func ParseOp[T ~string | ~[]byte](s T) (Op, bool) {
	for o := Read; o < numOps; o++ {
		if string(s) == o.String() {
			return o, true
		}
	}
	return NoOp, false
}

// Lane is a sequence of nonces of one account. An issuer and an owner never race, because they
// spend different lanes (CONTRACT §2).
type Lane uint8

// The lanes. The zero value is no lane.
const (
	NoLane    Lane = iota
	DebitLane      // transfer and burn, on From
	IssueLane      // issue, on To
)

// Origin says which request an upstream call serves.
type Origin struct {
	Corr  CorrID
	Trace Trace
}

// Rules are the limits that the ledger checks in the commit's own atomic step, because only it
// sees every sidecar's payments. The zero value refuses everything.
type Rules struct {
	DailyCeiling    Amount // most that a lane of (account, asset) may move in one UTC day
	MaxAccountTotal Amount // most that a credited balance may become
	NonceStart      uint64 // lowest nonce of a fresh lane
	NonceMaxGap     uint64 // largest step above the last nonce; 1 is contiguous
}

// Payment is one decoded payment: an issue (no From), a transfer or a burn (no To).
type Payment struct {
	Op          Op
	From, To    Account
	Asset       Asset
	Amount      Amount
	Nonce       uint64
	Idem        IdemKey
	Fingerprint [32]byte // Hash, taken once the rest is set
	Rules       Rules
	Origin      Origin
}

// Holder is the nonce-bearing account: it scopes the idempotency key, and its capability pays.
func (t *Payment) Holder() Account {
	if t.Op == Issue {
		return t.To
	}
	return t.From
}

// Lane is where the nonce is spent.
func (t *Payment) Lane() Lane {
	switch t.Op {
	case Issue:
		return IssueLane
	case Transfer, Burn:
		return DebitLane
	default:
		return NoLane
	}
}

// WellFormed says whether t is a payment at all: the operation's accounts, no others, and none of
// the rest missing. Names were checked by whoever parsed them, so here they are right or missing.
func (t *Payment) WellFormed() bool {
	var hasFrom, hasTo bool
	switch t.Op {
	case Issue:
		hasTo = true
	case Transfer:
		hasFrom, hasTo = true, true
	case Burn:
		hasFrom = true
	default:
		return false
	}
	return hasFrom == !t.From.IsZero() && hasTo == !t.To.IsZero() && t.From != t.To &&
		!t.Asset.IsZero() && !t.Amount.IsZero() && t.Nonce > 0 && !t.Idem.IsZero()
}

// Receipt is the receipt of t as the ledger committed it.
func (t *Payment) Receipt(id TxID, millis int64) Receipt {
	return Receipt{
		TxID: id, Op: t.Op, From: t.From, To: t.To, Asset: t.Asset,
		Amount: t.Amount, Nonce: t.Nonce, Idem: t.Idem, Millis: millis,
	}
}

// Hash is BLAKE3-256 over the decoded request (op, from, to, asset, amount, nonce), so that
// white space and member order do not matter. Its input is fixed for ever: stored fingerprints
// are compared with fresh ones.
func (t *Payment) Hash() [32]byte {
	var buf [2 + 65 + 65 + 33 + 16 + 8]byte
	b := append(buf[:0], 1, byte(t.Op)) // 1: the version of this layout
	for _, id := range [2]Account{t.From, t.To} {
		b = append(b, id.n)
		b = id.Append(b)
	}
	b = append(b, t.Asset.n)
	b = t.Asset.Append(b)
	hi, lo := t.Amount.Bits()
	b = binary.BigEndian.AppendUint64(b, hi)
	b = binary.BigEndian.AppendUint64(b, lo)
	b = binary.BigEndian.AppendUint64(b, t.Nonce)
	return sum256(b)
}

// Balance is one figure of the ledger. An account never seen has zero.
type Balance struct {
	Key    BalanceKey
	Amount Amount
	Nonce  uint64 // last committed nonce of the account's debit lane, whatever the asset
	Seq    uint64 // ledger version: the figure holds every commit up to Seq
}

// Limit is what LimitsExceeded ran into.
type Limit uint8

// The limits that the ledger judges. The zero value is not told.
const (
	NoLimit      Limit = iota
	DailyCeiling       // Rules.DailyCeiling
	AccountTotal       // Rules.MaxAccountTotal
	SupplyTotal        // an asset's total issue would pass 2^128-1
)

// Result is what the ledger made of one transfer. The zero value is Uncertain.
type Result struct {
	Code      Code
	Seq       uint64     // version of the commit, for OK and Replayed
	NextNonce uint64     // lowest nonce that will do, for NonceConflict
	Receipt   Receipt    // for OK and Replayed
	Balances  [2]Balance // the touched balances after the commit, for OK; unused ones are zero
	Undecided bool       // with Uncertain: the ledger did answer, and could not tell
	DayTotal  Amount     // what Rules.DailyCeiling bounds, after the commit, for OK; 0 where the ledger does not tell

	// For LimitsExceeded, where the ledger tells.
	Limit     Limit
	Remaining Amount // the largest amount that the limit would have let through
	ResetsAt  int64  // when the daily ceiling begins anew, Unix milliseconds; 0: not by time
}

// Change is one step of the ledger: the new figures of every balance that changed after the
// previous step and up to version Seq. Applying all steps in order keeps a copy current.
type Change struct {
	Seq      uint64
	Balances []Balance
}
