package filters

import (
	"svc-wallet/config"
	"svc-wallet/wallet"
)

// Caps is the filter "caps": it refuses an amount that no state of the ledger would admit, and
// tells the ledger the rules that only it can check. Its own fields come from the static
// configuration; their zero values make the ledger refuse every payment.
type Caps struct {
	NonceStart  uint64 // lowest nonce of a fresh lane
	NonceMaxGap uint64 // largest step above the last nonce; 1 is contiguous
}

// Check holds the amount against the caps that hold for the payment and of the capability. One amount that
// is over a day's ceiling or over an account's total by itself can never be applied; sums are
// the ledger's. A refusal speaks of this attempt: limits may have been wider when an earlier one
// was applied (docs/decisions/007). A read passes.
func (f Caps) Check(x *Exchange) wallet.Code {
	if x.Op == wallet.Read {
		return wallet.Pass
	}
	caps := x.capsUnder(x.Limits)
	amount, daily := x.Payment.Amount, caps.DailyCeiling.Min(x.Grant.Daily)
	switch {
	case amount.Cmp(caps.MaxAmountPerOp) > 0:
		return x.over(LimitHit{Name: LimitAmount, Told: true, Remaining: caps.MaxAmountPerOp})
	case amount.Cmp(x.Grant.MaxAmount) > 0:
		return x.over(LimitHit{Name: LimitTokenAmount, Told: true, Remaining: x.Grant.MaxAmount})
	case amount.Cmp(daily) > 0:
		return x.over(LimitHit{Name: x.dailyLimit()}) // on no day; what remains of this one is the ledger's to tell
	case x.Op != wallet.Burn && amount.Cmp(caps.MaxAccountTotal) > 0:
		return x.over(LimitHit{Name: LimitTotal})
	default:
		x.Payment.Rules = wallet.Rules{
			DailyCeiling:    daily,
			MaxAccountTotal: caps.MaxAccountTotal,
			NonceStart:      f.NonceStart,
			NonceMaxGap:     f.NonceMaxGap,
		}
		return wallet.Pass
	}
}

// Shadow implements Shadower.
func (Caps) Shadow(x *Exchange, l *config.Limits) (over ShadowSet) {
	if x.Op == wallet.Read {
		return 0
	}
	amount, caps := x.Payment.Amount, x.capsUnder(l)
	over.set(ShadowAmount, amount.Cmp(caps.MaxAmountPerOp) > 0)
	over.set(ShadowDaily, amount.Cmp(caps.DailyCeiling.Min(x.Grant.Daily)) > 0)
	over.set(ShadowTotal, x.Op != wallet.Burn && amount.Cmp(caps.MaxAccountTotal) > 0)
	return over
}
