package filters

import "svc-wallet/wallet"

// Switch is the filter "switch": it keeps out what an operator has switched off, wholly or for a
// share of requests. Which ones of a share is chance, so a client that retries gets through where
// its like do.
type Switch struct{}

// Check answers RetryLater for a route that is off: nothing was done. Zero limits, and an exchange
// without a route, are off.
func (Switch) Check(x *Exchange) wallet.Code {
	if !x.Limits.Enabled(x.Route).Takes() {
		return x.Refuse(wallet.RetryLater, switchedOff)
	}
	return wallet.Pass
}

const switchedOff = "this operation is switched off by the operator"

// SwitchedOff is Switch for a request that Switch judges later, once more: it keeps out only what is
// off wholly, so that a share is drawn once.
type SwitchedOff struct{}

// Check answers as Switch does.
func (SwitchedOff) Check(x *Exchange) wallet.Code {
	if x.Limits.Enabled(x.Route) == 0 {
		return x.Refuse(wallet.RetryLater, switchedOff)
	}
	return wallet.Pass
}
