// Package ledger is the sidecar's way to the ledger node: a port, a gRPC client behind it, and
// what makes that client fast and safe to use: a committer that batches payments, a reader that
// serves balances from a leased cache, and a breaker that stops calling a node that fails.
//
// Invariant: the ledger decides. Nothing here judges a payment; what is not known to be applied
// or refused is reported as unknown.
package ledger

import (
	"context"
	"errors"

	"svc-wallet/wallet"
)

// Ledger is the port to a ledger. The client, and every engine of ledger/node, implement it, and
// ledger/contract is the suite that they all pass. Implementations are safe for concurrent use
// and keep nothing that they are given.
type Ledger interface {
	// Commit judges batch in order, applies what passes in one atomic durable step and fills out,
	// which is as long as batch. Refusals are results. An error means that no result is known,
	// out is untouched and repeating the call is safe; ErrNotSent says that nothing left this
	// process.
	Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error

	// Lookup fills out[i] with the durable figures of keys[i]. A balance never seen is zero, with
	// its key and version set.
	Lookup(ctx context.Context, keys []wallet.BalanceKey, out []wallet.Balance) error

	// Transaction returns the receipt and version of a committed payment; wallet.NotFound where
	// there is none.
	Transaction(ctx context.Context, txid wallet.TxID) (wallet.Receipt, uint64, error)

	// Payment is Transaction by the nonce-bearing account and the key that it paid under.
	Payment(ctx context.Context, account wallet.Account, key wallet.IdemKey) (wallet.Receipt, uint64, error)

	// Watch calls on for every change after version from, in order, each one durable, until ctx
	// ends or the stream breaks. from 0 starts at the present version. on must not block.
	// wire.ErrBacklog: the changes after from are no longer held, so a copy must start afresh.
	// wire.ErrLagged: on was too slow and the stream was cut off.
	Watch(ctx context.Context, from uint64, on func(wallet.Change)) error
}

// ErrNotSent says that nothing of a call left this process. The errors that the node tells are in
// package wire.
var ErrNotSent = errors.New("not sent")
