package filters

import "svc-wallet/wallet"

// LimitName names a limit in the error's details. The names are part of the wire contract.
type LimitName uint8

// The limits. Those that a token sets are told apart from those of the configuration, because
// another token may do.
const (
	NoLimit LimitName = iota
	LimitAmount
	LimitDaily
	LimitTotal
	LimitSupply
	LimitTokenAmount
	LimitTokenDaily
	LimitBody
	NumLimitNames
)

var limitNames = [NumLimitNames]struct{ name, message string }{ //nolint:gochecknoglobals // a table
	NoLimit:          {"", ""},
	LimitAmount:      {"max_amount_per_op", "amount_minor is over the cap of one operation"},
	LimitDaily:       {"daily_ceiling", "the account would move more of the asset than it may on one UTC day"},
	LimitTotal:       {"max_account_total", "the credited account would hold more of the asset than it may"},
	LimitSupply:      {"asset_supply", "more of the asset would be issued than 2^128-1 in all"},
	LimitTokenAmount: {"token_max_amount", "amount_minor is over the capability's max_amount"},
	LimitTokenDaily:  {"token_daily", "the account would move more of the asset than the capability's daily lets it move on one UTC day"},
	LimitBody:        {"max_body_bytes", "the body is over the cap, before or after decompression"},
}

// String is the name on the wire.
func (n LimitName) String() string { return limitNames[min(n, NumLimitNames-1)].name }

// LimitHit is which limit refused a request.
type LimitHit struct {
	Name      LimitName
	Told      bool          // Remaining is told
	Remaining wallet.Amount // the largest amount that would have passed
	ResetsAt  int64         // when the limit begins anew, Unix milliseconds; 0: not by time
}

// over refuses x for a limit, with what is told of it.
func (x *Exchange) over(hit LimitHit) wallet.Code {
	x.Limit, x.Detail = hit, limitNames[hit.Name].message
	return wallet.LimitsExceeded
}

// The reasons of a NonceConflict, which are part of the wire contract.
const (
	NonceTooLow    = "too_low"    // at or below the last one, or below the first one that is allowed
	NonceBeyondGap = "beyond_gap" // further above the last one than is allowed
	NonceLaneEnded = "lane_ended" // the last one was 2^64-1
	NonceReserved  = "reserved"   // spent by another request that was under way
)

// undecided is for a payment whose rows or receipt the ledger cannot read.
const undecided = "the ledger cannot read at present whether this payment was made, so the outcome is unknown (details.outcome is unknown): retry with the same key"

// conflict refuses x for its nonce.
func (x *Exchange) conflict(next uint64, reason string) {
	if next == 0 {
		reason = NonceLaneEnded
	}
	x.NextNonce, x.Reason = next, reason
	switch reason {
	case NonceTooLow:
		x.Detail = "the nonce is below the lowest that will do, details.next_nonce"
	case NonceBeyondGap:
		x.Detail = "the nonce is further above the account's last one than is allowed; details.next_nonce is the lowest that will do"
	case NonceReserved:
		x.Detail = "another request of the account was under way with this nonce and has spent it; details.next_nonce is the lowest that may do"
	case NonceLaneEnded:
		x.Detail = "the account has spent the nonce 2^64-1 in this lane; none is left"
	}
}

// toldLimit is what the ledger tells of a limit, to whomever it then concerns.
type toldLimit struct {
	limit     wallet.Limit
	remaining wallet.Amount
	resetsAt  int64
}

// Explain adds to x what the ledger told with its refusal, as far as the capability may know it. What
// the credited account holds is the business of who may read it: to others the total that it may reach
// is not told as a remainder.
func Explain(x *Exchange, r *wallet.Result) {
	switch r.Code {
	case wallet.NonceConflict:
		reason := NonceTooLow
		if x.Payment.Nonce >= r.NextNonce {
			reason = NonceBeyondGap
		}
		x.conflict(r.NextNonce, reason)
	case wallet.LimitsExceeded:
		x.explainLimit(toldLimit{r.Limit, r.Remaining, r.ResetsAt})
	case wallet.Uncertain:
		if r.Undecided {
			x.Detail = undecided
		}
	default: // nothing is told
	}
}

func (x *Exchange) explainLimit(told toldLimit) {
	x.told = told
	hit := LimitHit{Told: true, Remaining: told.remaining, ResetsAt: told.resetsAt}
	switch told.limit {
	case wallet.DailyCeiling:
		hit.Name = x.dailyLimit()
	case wallet.AccountTotal:
		hit.Name = LimitTotal
		if !x.Grant.Allows(wallet.Read, x.Payment.To, x.Payment.Asset) {
			hit.Told, hit.Remaining = false, wallet.Amount{}
		}
	case wallet.SupplyTotal:
		hit.Name = LimitSupply
	default:
		return // the node does not tell
	}
	_ = x.over(hit) // the code is said already
}

// dailyLimit is which of the two bounds of a day is the smaller one, and so in force.
func (x *Exchange) dailyLimit() LimitName {
	if x.Grant.Daily.Cmp(x.capsUnder(x.Limits).DailyCeiling) < 0 {
		return LimitTokenDaily
	}
	return LimitDaily
}

// Outrun marks a read as one that asked for a later version than the ledger's.
func (x *Exchange) Outrun(seq uint64) {
	x.Outran, x.Seq = true, seq
	x.Detail = "the ledger has not reached the version that X-Min-Ledger-Seq asks for; details.ledger_seq is where it is"
}
