package filters

import "svc-wallet/wallet"

// Nonce is the filter "nonce": it lets one request at a time spend a nonce, so that two requests
// racing for one do not both travel to the ledger. It remembers nothing once a request is
// settled: only the ledger knows which nonce is the lowest that will do, and whether a spent one
// belongs to a replay.
type Nonce struct {
	table *claims[nonceKey, wallet.IdemKey]
}

// nonceKey is what a payment spends. The idempotency key tells the claimants apart.
type nonceKey struct {
	holder wallet.Account
	lane   wallet.Lane
	nonce  uint64
}

// NewNonce makes a filter that holds at most entries nonces at a time. shards is rounded up to a
// power of two.
func NewNonce(shards, entries int) *Nonce {
	return &Nonce{table: newClaims[nonceKey, wallet.IdemKey](shards, entries)}
}

// Len counts the nonces held.
func (f *Nonce) Len() int { return f.table.size() }

// Check claims the nonce. Where another request holds it, Check waits for that one's outcome,
// until x.Deadline, which ends in Busy. Then
//   - a payment just applied under another key has spent the nonce: NonceConflict;
//   - anything else (a refusal, an unknown outcome, a replay, or a duplicate of this very
//     payment) says nothing certain of this one, so it goes on to the ledger.
func (f *Nonce) Check(x *Exchange) wallet.Code {
	t := &x.Payment
	key := nonceKey{holder: t.Holder(), lane: t.Lane(), nonce: t.Nonce}
	for {
		first, s := f.table.take(x, &key, &t.Idem)
		switch {
		case s == taken:
			x.nonce = first
			return wallet.Pass
		case s == settled && first.code == wallet.OK && first.owner != t.Idem:
			x.conflict(t.Nonce+1, NonceReserved) // zero, for none, after the last one
			return wallet.NonceConflict
		case s == timeUp || s == full:
			return x.Refuse(wallet.Busy, takenUp)
		}
	}
}

// Settle implements Settler.
func (f *Nonce) Settle(x *Exchange, code wallet.Code) {
	if c := x.nonce; c != nil {
		x.nonce = nil
		f.table.settle(c, x, code)
	}
}
