package filters

import "svc-wallet/wallet"

// Scope holds the decoded request against the grant. The account that the capability must cover
// is the one whose money or nonce is at stake: To of an issue, From of a transfer or a burn, the
// account of a balance, or that of a payment which is looked for by its key. The other side of a
// payment is never looked at, so a grant over the payee pays nothing.
type Scope struct{}

// notThisAction is what is refused where only the action is known.
const notThisAction = "the capability does not cover this action"

// Check answers Forbidden where the grant does not cover the request. Of a transaction only the
// action is known here, and of a payment that is looked for by its key the action and the account;
// ScopeReceipt and ScopePayment judge the rest once the receipt is found.
func (Scope) Check(x *Exchange) wallet.Code {
	if !x.Grant.AllowsAction(x.Op) {
		return x.Refuse(wallet.Forbidden, notThisAction)
	}
	account, asset := x.Balance.Account, x.Balance.Asset
	if x.Op != wallet.Read {
		// A payment of another kind than the route's would be judged by the wrong account.
		if x.Payment.Op != x.Op {
			panic("filters: the decoded payment is not of the exchange's operation")
		}
		account, asset = x.Payment.Holder(), x.Payment.Asset
	} else if len(x.TxText) > 0 {
		return wallet.Pass
	}
	if x.ByKey && x.Grant.allowsAccount(account) {
		return wallet.Pass
	}
	if !x.Grant.Allows(x.Op, account, asset) {
		return x.Refuse(wallet.Forbidden, "the capability does not cover this account or asset")
	}
	return wallet.Pass
}

// ScopeReceipt reports whether the grant may see the receipt: it may read the asset on one side.
// A receipt that it may not see does not exist for it (NOT_FOUND), or txids could be probed.
func ScopeReceipt(g *Grant, r *wallet.Receipt) bool {
	return g.Allows(wallet.Read, r.From, r.Asset) || g.Allows(wallet.Read, r.To, r.Asset)
}

// ScopePayment reports whether the grant may see the receipt of a payment that account made: it may
// read the asset on that account.
func ScopePayment(g *Grant, account wallet.Account, r *wallet.Receipt) bool {
	return g.Allows(wallet.Read, account, r.Asset)
}
