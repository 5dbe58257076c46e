package ledger

import (
	"context"
	"errors"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// Transaction returns a receipt and a version that it holds, which is minSeq at least; or
// wallet.NotFound, RetryLater (the ledger has not reached minSeq, and the version is where it is; or it
// is in doubt), UpstreamUnavailable, Unreadable.
func (r *Reader) Transaction(
	txid wallet.TxID, l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
) (wallet.Receipt, uint64, wallet.Code) {
	return r.find(l, minSeq, origin, deadline, func(ctx context.Context) (wallet.Receipt, uint64, error) {
		return r.ledger.Transaction(ctx, txid)
	})
}

// Payment is Transaction by the nonce-bearing account and the key that it paid under.
func (r *Reader) Payment(
	account wallet.Account, key wallet.IdemKey, l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
) (wallet.Receipt, uint64, wallet.Code) {
	return r.find(l, minSeq, origin, deadline, func(ctx context.Context) (wallet.Receipt, uint64, error) {
		return r.ledger.Payment(ctx, account, key)
	})
}

// find asks the ledger for a receipt once it has reached minSeq.
func (r *Reader) find(
	l *config.Limits, minSeq uint64, origin wallet.Origin, deadline int64,
	ask func(context.Context) (wallet.Receipt, uint64, error),
) (receipt wallet.Receipt, seq uint64, code wallet.Code) {
	lost := r.ledgerIs().ctx
	switch deadline = r.patience(deadline); {
	case r.doubted():
		return wallet.Receipt{}, minSeq, wallet.RetryLater
	case lost.Err() != nil:
		return wallet.Receipt{}, minSeq, wallet.UpstreamUnavailable
	case !r.reach(minSeq, l, deadline):
		return wallet.Receipt{}, r.Seq(), wallet.RetryLater
	}
	code = wallet.OK
	ctx, cancel := context.WithCancel(withOrigins(context.Background(), []wallet.Origin{origin}))
	defer cancel()
	defer context.AfterFunc(lost, func() { r.linger(ctx); cancel() })()
	err := r.caller.do(ctx, MethodTransaction, deadline, func(ctx context.Context) (err error) {
		receipt, seq, err = ask(ctx)
		if errors.Is(err, wallet.NotFound) {
			code = wallet.NotFound // which is an answer, not a failure
			return nil
		}
		return err
	})
	if err != nil {
		code = unanswered(err)
	}
	return receipt, max(seq, minSeq), code
}

// linger waits, once the ledger is lost, for as long as one that is not silent may still answer.
func (r *Reader) linger(ctx context.Context) {
	if r.ledgerIs().state != ledgerSilent {
		sleep(ctx, brief)
	}
}
