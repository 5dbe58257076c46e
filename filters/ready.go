package filters

import "svc-wallet/wallet"

// Ready is the filter "ready": it refuses payments while the sidecar drains or the ledger
// stalls, before any work is spent on them. The zero value is never ready.
type Ready struct {
	Writable func() bool
}

// Check answers RetryLater unless payments can be taken: nothing was done.
func (f Ready) Check(*Exchange) wallet.Code {
	if f.Writable == nil || !f.Writable() {
		return wallet.RetryLater
	}
	return wallet.Pass
}
