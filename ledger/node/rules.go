package node

import (
	"encoding/binary"
	"math"

	"svc-wallet/wallet"
)

// The rows of the books, as every engine keeps them. The zero row is that of what was never seen.
type (
	accountRow struct {
		debit, issue uint64 // last nonce of each lane
	}

	balanceRow struct {
		amount wallet.Amount
		seq    uint64      // version that wrote the row; 0: there is none
		daily  [2]dailyRow // what the debit and the issue lane moved
	}

	dailyRow struct {
		day   uint32 // of the last move: days since 1970, UTC
		moved wallet.Amount
	}

	supplyRow struct{ issued, burned wallet.Amount } // of an asset, since ever

	keyHash [16]byte // of the holder and the key of a payment

	receiptRow struct {
		wallet.Receipt
		seq         uint64
		fingerprint [32]byte // of the request that it was made by
	}
)

// rows are those that one payment is judged against and changes. An issue has no from and debit, a
// burn no to and credit.
type rows struct {
	from, to      *accountRow
	debit, credit *balanceRow
	supply        *supplyRow
}

// spender returns the lane's last nonce and the lane's daily total, both the holder's.
func (r *rows) spender(t *wallet.Payment) (last *uint64, daily *dailyRow) {
	if t.Op == wallet.Issue {
		return &r.to.issue, &r.credit.daily[1]
	}
	return &r.from.debit, &r.debit.daily[0]
}

// judgeKey is rule 1: Replayed, KeyReused, or OK where no payment was made under the key.
func judgeKey(made *receiptRow, t *wallet.Payment) wallet.Code {
	if made == nil {
		return wallet.OK
	}
	if made.fingerprint != t.Fingerprint {
		return wallet.KeyReused
	}
	return wallet.Replayed
}

// judge is rules 2 to 4, in the order of CONTRACT §1: nonce, ceilings, funds. It changes nothing. To
// a refusal it adds what would have passed.
func judge(r *rows, t *wallet.Payment, millis int64, out *wallet.Result) wallet.Code {
	last, daily := r.spender(t)
	if lo, ok := nonceFits(*last, t); !ok {
		out.NextNonce = lo
		return wallet.NonceConflict
	}
	if left := leftOf(t.Rules.DailyCeiling, movedOn(daily, millis)); t.Amount.Cmp(left) > 0 {
		out.Limit, out.Remaining, out.ResetsAt = wallet.DailyCeiling, left, (int64(dayOf(millis))+1)*dayMillis
		return wallet.LimitsExceeded
	}
	if r.credit != nil {
		if left := leftOf(t.Rules.MaxAccountTotal, r.credit.amount); t.Amount.Cmp(left) > 0 {
			out.Limit, out.Remaining = wallet.AccountTotal, left
			return wallet.LimitsExceeded
		}
	}
	if t.Op == wallet.Issue {
		if left := leftOf(wallet.MaxAmount(), r.supply.issued); t.Amount.Cmp(left) > 0 {
			out.Limit, out.Remaining = wallet.SupplyTotal, left
			return wallet.LimitsExceeded
		}
	}
	if r.debit != nil && r.debit.amount.Cmp(t.Amount) < 0 {
		return wallet.InsufficientFunds
	}
	return wallet.OK
}

// leftOf is what a limit leaves where used is used already, perhaps under a wider limit.
func leftOf(limit, used wallet.Amount) wallet.Amount {
	left, ok := limit.Sub(used)
	if !ok {
		return wallet.Amount{}
	}
	return left
}

// nonceFits returns the lowest nonce that the lane takes, 0 where there is none left, and whether
// t's is in the range that starts there.
func nonceFits(last uint64, t *wallet.Payment) (lo uint64, ok bool) {
	if last == math.MaxUint64 {
		return 0, false
	}
	lo = max(last+1, t.Rules.NonceStart)
	if t.Rules.NonceMaxGap == 0 || t.Nonce < lo {
		return lo, false
	}
	return lo, t.Nonce-lo < t.Rules.NonceMaxGap // t.Nonce <= lo-1+gap, without overflow
}

// apply makes what judge passed happen, and tells the lane's total of the day. After judge it cannot
// fail: no sum overflows.
func apply(r *rows, t *wallet.Payment, seq uint64, millis int64) (moved wallet.Amount) {
	last, daily := r.spender(t)
	*last = t.Nonce
	moved, _ = movedOn(daily, millis).Add(t.Amount)
	*daily = dailyRow{day: dayOf(millis), moved: moved}
	if r.debit != nil {
		r.debit.amount, _ = r.debit.amount.Sub(t.Amount)
		r.debit.seq = seq
	}
	if r.credit != nil {
		r.credit.amount, _ = r.credit.amount.Add(t.Amount)
		r.credit.seq = seq
	}
	switch t.Op {
	case wallet.Issue:
		r.supply.issued, _ = r.supply.issued.Add(t.Amount)
	case wallet.Burn:
		r.supply.burned, _ = r.supply.burned.Add(t.Amount)
	default: // a transfer leaves the supply alone
	}
	return moved
}

// movedOn is what the lane moved on the UTC day of millis.
func movedOn(d *dailyRow, millis int64) wallet.Amount {
	if d.day != dayOf(millis) {
		return wallet.Amount{}
	}
	return d.moved
}

const dayMillis = 24 * 60 * 60 * 1000

func dayOf(millis int64) uint32 {
	return uint32(millis / dayMillis) //nolint:gosec // 48 bits of milliseconds at most
}

// millisOf is the time in a transaction id: a ULID starts with 48 bits of it. It is never before the
// commit's time, and after it where an earlier commit's clock was ahead.
func millisOf(id wallet.TxID) int64 {
	return int64(binary.BigEndian.Uint64(id[:8]) >> 16)
}
