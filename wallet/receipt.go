package wallet

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/oklog/ulid/v2"
)

// TxID names a committed payment: a ULID, written with the prefix tx_.
type TxID ulid.ULID

// ErrTxID is the grammar of transaction ids.
var ErrTxID = errors.New("txid must be tx_ and a ULID in upper case")

// ParseTxID reads `tx_` + ULID in its canonical upper-case form. The zero ULID names nothing and
// is refused.
func ParseTxID[T ~string | ~[]byte](s T) (TxID, error) {
	var id ulid.ULID
	if len(s) != 3+ulid.EncodedSize || string(s[:3]) != "tx_" {
		return TxID{}, ErrTxID
	}
	var text, again [ulid.EncodedSize]byte
	copy(text[:], s[3:])
	if id.UnmarshalText(text[:]) != nil || id.MarshalTextTo(again[:]) != nil || text != again || id.IsZero() {
		return TxID{}, ErrTxID
	}
	return TxID(id), nil
}

// IsZero reports the zero id, which names nothing.
func (id TxID) IsZero() bool { return id == TxID{} }

// Append appends the text form to dst.
func (id TxID) Append(dst []byte) []byte {
	var text [ulid.EncodedSize]byte
	_ = ulid.ULID(id).MarshalTextTo(text[:]) // fails only on a buffer of another size
	dst = append(dst, "tx_"...)
	return append(dst, text[:]...)
}

// String is the text form.
func (id TxID) String() string { return string(id.Append(nil)) }

// Receipt is the ledger's word that a payment is durable. The ledger keeps these fields; the
// JSON and its hash follow from them, so every replay is byte-identical.
type Receipt struct {
	TxID     TxID
	Op       Op
	From, To Account // zero where the operation has none
	Asset    Asset
	Amount   Amount
	Nonce    uint64
	Idem     IdemKey
	Millis   int64 // commit time, Unix milliseconds
}

// Payment is what r is the receipt of, without its fingerprint, rules and origin.
func (r *Receipt) Payment() Payment {
	return Payment{Op: r.Op, From: r.From, To: r.To, Asset: r.Asset, Amount: r.Amount, Nonce: r.Nonce, Idem: r.Idem}
}

// timeLayout is the layout of receipts and balances: RFC 3339, UTC, milliseconds.
const timeLayout = "2006-01-02T15:04:05.000Z"

// AppendTime appends Unix milliseconds as RFC 3339 UTC with milliseconds. Package time takes
// 36 ns for time.RFC3339 and 170 ns for timeLayout, and every read and receipt needs this.
func AppendTime(dst []byte, millis int64) []byte {
	t := time.UnixMilli(millis).UTC()
	ms := t.Nanosecond() / int(time.Millisecond)
	dst = t.AppendFormat(dst, time.RFC3339)
	return append(dst[:len(dst)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z') //nolint:gosec // digits
}

// Holder is the nonce-bearing account, which the idempotency key belongs to (Payment.Holder).
func (r *Receipt) Holder() Account {
	if r.Op == Issue {
		return r.To
	}
	return r.From
}

// AppendJSON appends the receipt in the member order of CONTRACT §1, absent members left out.
// receipt_hash is `b3:` + hex BLAKE3-256 of the canonical JSON of every other member.
func (r *Receipt) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"txid":"`...)
	dst = r.TxID.Append(dst)
	dst = append(dst, `","op":"`...)
	dst = append(dst, r.Op.String()...)
	if !r.From.IsZero() {
		dst = append(dst, `","from":"`...)
		dst = r.From.Append(dst)
	}
	if !r.To.IsZero() {
		dst = append(dst, `","to":"`...)
		dst = r.To.Append(dst)
	}
	dst = append(dst, `","asset":"`...)
	dst = r.Asset.Append(dst)
	dst = append(dst, `","amount_minor":"`...)
	dst = r.Amount.Append(dst)
	dst = append(dst, `","nonce":`...)
	dst = strconv.AppendUint(dst, r.Nonce, 10)
	dst = append(dst, `,"idem":"`...)
	dst = appendEscaped(dst, r.Idem)
	dst = append(dst, `","ts":"`...)
	dst = AppendTime(dst, r.Millis)
	dst = append(dst, `","receipt_hash":"b3:`...)
	sum := r.Hash()
	dst = hex.AppendEncode(dst, sum[:])
	return append(dst, `"}`...)
}

// AppendCanonical appends what receipt_hash covers: every other member, sorted by name, without
// spaces. This is RFC 8785 except for nonces above 2^53: RFC 8785 would round them to a double,
// which would give two payments one hash.
func (r *Receipt) AppendCanonical(dst []byte) []byte {
	dst = append(dst, `{"amount_minor":"`...)
	dst = r.Amount.Append(dst)
	dst = append(dst, `","asset":"`...)
	dst = r.Asset.Append(dst)
	if !r.From.IsZero() {
		dst = append(dst, `","from":"`...)
		dst = r.From.Append(dst)
	}
	dst = append(dst, `","idem":"`...)
	dst = appendEscaped(dst, r.Idem)
	dst = append(dst, `","nonce":`...)
	dst = strconv.AppendUint(dst, r.Nonce, 10)
	dst = append(dst, `,"op":"`...)
	dst = append(dst, r.Op.String()...)
	if !r.To.IsZero() {
		dst = append(dst, `","to":"`...)
		dst = r.To.Append(dst)
	}
	dst = append(dst, `","ts":"`...)
	dst = AppendTime(dst, r.Millis)
	dst = append(dst, `","txid":"`...)
	dst = r.TxID.Append(dst)
	return append(dst, `"}`...)
}

// Hash is BLAKE3-256 of the canonical JSON.
func (r *Receipt) Hash() [32]byte {
	var buf [512]byte
	return sum256(r.AppendCanonical(buf[:0]))
}

// appendEscaped escapes the only two characters of a key that JSON strings must escape.
func appendEscaped(dst []byte, k IdemKey) []byte {
	for _, c := range k.b[:k.n] {
		if c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, c)
	}
	return dst
}

// ErrReceipt wraps everything that VerifyReceipt finds wrong.
var ErrReceipt = errors.New("receipt does not verify")

// VerifyReceipt reads a receipt in any member order and spacing, and recomputes its hash. It
// returns the receipt, or an error that wraps ErrReceipt and says what is wrong.
func VerifyReceipt(data []byte) (Receipt, error) {
	var w receiptJSON
	if err := json.Unmarshal(data, &w, json.RejectUnknownMembers(true)); err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	r, err := w.receipt()
	if err != nil {
		return Receipt{}, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	sum := r.Hash()
	if want := "b3:" + hex.EncodeToString(sum[:]); w.Hash != want {
		return Receipt{}, fmt.Errorf("%w: receipt_hash is %.80q, the members hash to %q", ErrReceipt, w.Hash, want)
	}
	return r, nil
}

// receiptJSON is a receipt as any JSON writer may have laid it out. An absent member stays nil or
// empty, and so does null, which no receipt holds: from and to are kept raw to tell the two apart.
type receiptJSON struct {
	TxID   string         `json:"txid"`
	Op     string         `json:"op"`
	From   jsontext.Value `json:"from"`
	To     jsontext.Value `json:"to"`
	Asset  string         `json:"asset"`
	Amount string         `json:"amount_minor"`
	Nonce  uint64         `json:"nonce"`
	Idem   string         `json:"idem"`
	TS     string         `json:"ts"`
	Hash   string         `json:"receipt_hash"`
}

// receipt checks every member and says all that is wrong, in one line.
func (w *receiptJSON) receipt() (r Receipt, err error) {
	var wrong []string
	check := func(member string, err error) {
		if err != nil {
			wrong = append(wrong, member+": "+err.Error())
		}
	}
	r.TxID, err = ParseTxID(w.TxID)
	check("txid", err)
	r.Op, err = w.op()
	check("op", err)
	if w.From != nil {
		r.From, err = parseQuotedAccount(w.From)
		check("from", err)
	}
	if w.To != nil {
		r.To, err = parseQuotedAccount(w.To)
		check("to", err)
	}
	if r.From == r.To { // also where both are absent
		check("to", errors.New("must differ from from"))
	}
	r.Asset, err = ParseAsset(w.Asset)
	check("asset", err)
	if r.Amount, err = ParseAmount(w.Amount); err == nil && r.Amount.IsZero() {
		err = errors.New("must not be zero")
	}
	check("amount_minor", err)
	if r.Nonce = w.Nonce; r.Nonce == 0 {
		check("nonce", errors.New("must be an integer of 1 to 2^64-1"))
	}
	r.Idem, err = IdemKeyFromText(w.Idem)
	check("idem", err)
	r.Millis, err = parseTime(w.TS)
	check("ts", err)
	if wrong != nil {
		return Receipt{}, errors.New(strings.Join(wrong, "; "))
	}
	return r, nil
}

// op is the operation, if it is one that has just the accounts that are there.
func (w *receiptJSON) op() (Op, error) {
	op, ok := ParseOp(w.Op)
	if !ok || op == Read {
		return NoOp, errors.New("must be issue, transfer or burn")
	}
	if (w.From == nil) != (op == Issue) || (w.To == nil) != (op == Burn) {
		return NoOp, errors.New("issue has only to, burn only from, transfer both")
	}
	return op, nil
}

func parseQuotedAccount(v jsontext.Value) (Account, error) {
	text, err := jsontext.AppendUnquote(nil, v)
	if err != nil { // no string
		return Account{}, ErrAccount
	}
	return ParseAccount(text)
}

// parseTime is the inverse of AppendTime. time.Parse alone would also take 5:00:00,000Z, of
// which the canonical JSON says something else.
func parseTime(s string) (millis int64, err error) {
	t, err := time.Parse(timeLayout, s)
	if err != nil || t.Format(timeLayout) != s {
		return 0, errors.New("must be RFC 3339 in UTC with milliseconds")
	}
	return t.UnixMilli(), nil
}
