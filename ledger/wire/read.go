package wire

import (
	"fmt"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/wallet"
)

// EncodeLookup makes the request.
func EncodeLookup(keys []wallet.BalanceKey) *ledgerpb.LookupRequest {
	const perKey, bytes = 2, 24
	x := newTexts(perKey*len(keys), bytes)
	for i := range keys {
		add(&x, keys[i].Account)
		add(&x, keys[i].Asset)
	}
	next := x.cut()
	messages := make([]ledgerpb.BalanceKey, len(keys))
	req := &ledgerpb.LookupRequest{Keys: make([]*ledgerpb.BalanceKey, len(keys))}
	for i := range messages {
		messages[i].Account, messages[i].Asset = next(), next()
		req.Keys[i] = &messages[i]
	}
	return req
}

// DecodeKey reads a key; false where it names no balance.
func DecodeKey(m interface {
	GetAccount() string
	GetAsset() string
},
) (key wallet.BalanceKey, ok bool) {
	var err1, err2 error
	key.Account, err1 = wallet.ParseAccount(m.GetAccount())
	key.Asset, err2 = wallet.ParseAsset(m.GetAsset())
	return key, err1 == nil && err2 == nil
}

// EncodeBalances makes figures, of a lookup, a result or a change.
func EncodeBalances(in []wallet.Balance) []*ledgerpb.Balance {
	const perBalance, bytes = 2, 16
	x := newTexts(perBalance*len(in), bytes)
	for i := range in {
		add(&x, in[i].Key.Account)
		add(&x, in[i].Key.Asset)
	}
	next, out := x.cut(), make([]*ledgerpb.Balance, len(in))
	messages := make([]struct { // of one balance, laid out together
		balance ledgerpb.Balance
		amount  ledgerpb.Amount
	}, len(in))
	for i := range in {
		m := &messages[i]
		m.balance.Account, m.balance.Asset = next(), next()
		m.balance.Amount, m.balance.Nonce, m.balance.Seq = encodeAmount(&m.amount, in[i].Amount), in[i].Nonce, in[i].Seq
		out[i] = &m.balance
	}
	return out
}

func decodeBalance(m *ledgerpb.Balance) (wallet.Balance, bool) {
	key, ok := DecodeKey(m)
	amount, told := decodeAmount(m.GetAmount())
	return wallet.Balance{Key: key, Amount: amount, Nonce: m.GetNonce(), Seq: m.GetSeq()}, ok && told
}

// DecodeLookup fills out, which is as long as keys, or touches nothing of it.
func DecodeLookup(keys []wallet.BalanceKey, res *ledgerpb.LookupResponse, out []wallet.Balance) error {
	if len(res.GetBalances()) != len(keys) {
		return fmt.Errorf("%w: %d balances for %d keys", ErrMalformed, len(res.GetBalances()), len(keys))
	}
	figures := make([]wallet.Balance, len(keys))
	for i, key := range keys {
		var ok bool
		if figures[i], ok = decodeBalance(res.GetBalances()[i]); !ok || figures[i].Key != key {
			return fmt.Errorf("%w: balance %d is not the one asked for", ErrMalformed, i)
		}
	}
	copy(out, figures)
	return nil
}

// EncodeReceipt makes the answer to a question for a receipt.
func EncodeReceipt(r *wallet.Receipt, seq uint64) *ledgerpb.TransactionResponse {
	return &ledgerpb.TransactionResponse{Seq: seq, Receipt: &ledgerpb.Receipt{
		Txid: append([]byte(nil), r.TxID[:]...), Op: ops.encode(r.Op), From: r.From.String(), To: r.To.String(),
		Asset: r.Asset.String(), Amount: encodeAmount(new(ledgerpb.Amount), r.Amount), Nonce: r.Nonce,
		IdempotencyKey: r.Idem.String(), UnixMillis: r.Millis,
	}}
}

// DecodeReceipt reads that answer; asked says whether the receipt is the one that was asked for.
func DecodeReceipt(res *ledgerpb.TransactionResponse, asked func(*wallet.Receipt) bool) (wallet.Receipt, uint64, error) {
	r, ok := decodeReceipt(res.GetReceipt())
	if !ok || !asked(&r) || res.GetSeq() == 0 {
		return wallet.Receipt{}, 0, fmt.Errorf("%w: not the receipt of that payment", ErrMalformed)
	}
	return r, res.GetSeq(), nil
}

// decodeReceipt reads a receipt that says all that one must say, and nothing that none can.
func decodeReceipt(m *ledgerpb.Receipt) (r wallet.Receipt, ok bool) {
	var errs [4]error
	r.Op, r.Nonce, r.Millis = ops.decode(m.GetOp()), m.GetNonce(), m.GetUnixMillis()
	r.From, errs[0] = decodeAccount(m.GetFrom())
	r.To, errs[1] = decodeAccount(m.GetTo())
	r.Asset, errs[2] = wallet.ParseAsset(m.GetAsset())
	r.Idem, errs[3] = wallet.IdemKeyFromText(m.GetIdempotencyKey())
	r.Amount, _ = decodeAmount(m.GetAmount()) // none is zero, which is no payment's
	copy(r.TxID[:], m.GetTxid())
	t := r.Payment()
	return r, errs == [4]error{} && t.WellFormed() && len(m.GetTxid()) == len(r.TxID) && !r.TxID.IsZero() && r.Millis > 0 && r.Millis <= maxMillis
}

// DecodeChange reads a step of the stream after version at. A node may send a large step as several
// messages, of which all but the last bear the version before it; so a figure may be of a later
// version than its message.
func DecodeChange(at uint64, m *ledgerpb.WatchResponse) (wallet.Change, error) {
	if m.GetSeq() < at {
		// Not the history that the copy was made of: the ledger was restored, or is another one.
		return wallet.Change{}, fmt.Errorf("%w: version went back from %d to %d", ErrBacklog, at, m.GetSeq())
	}
	c := wallet.Change{Seq: m.GetSeq()}
	if len(m.GetBalances()) > 0 {
		c.Balances = make([]wallet.Balance, len(m.GetBalances()))
	}
	for i, b := range m.GetBalances() {
		var ok bool
		if c.Balances[i], ok = decodeBalance(b); !ok {
			return wallet.Change{}, fmt.Errorf("%w: balance %d of step %d", ErrMalformed, i, m.GetSeq())
		}
	}
	return c, nil
}
