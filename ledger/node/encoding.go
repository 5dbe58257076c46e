package node

import (
	"encoding/binary"
	"errors"

	"svc-wallet/wallet"
)

// Layout of the store, version 1. Integers are big-endian. A key starts with its kind; the value
// of each kind has one fixed layout. Any change takes a new storeFormat, except a new row of kind m
// that older versions may pass over.
//
//	a account                     debit nonce 8, issue nonce 8
//	b len account asset           amount 16, version 8, {day 4, moved 16} for debit and issue
//	s asset                       issued 16, burned 16
//	k len holder key              fingerprint 32, txid 16
//	r txid                        op 1, version 8, time 8, amount 16, nonce 8, {len, text} of from, to, asset, key
//	m format                      storeFormat 4
//	m head                        version 8, txid 16, time 8, digest 8
//	m ledger                      name 16: random, from the making of the store on
const storeFormat = 1

const (
	kindAccount = 'a'
	kindBalance = 'b'
	kindKey     = 'k'
	kindMeta    = 'm'
	kindReceipt = 'r'
	kindSupply  = 's'
)

const (
	formatKey = "mformat"
	headKey   = "mhead"
	ledgerKey = "mledger"
)

const (
	accountSize    = 8 + 8
	balanceSize    = 16 + 8 + 2*(4+16)
	supplySize     = 16 + 16
	keySize        = 32 + 16
	headSize       = 8 + 16 + 8 + 8
	receiptMinSize = 1 + 8 + 8 + 16 + 8
)

// errRow is what a row of another shape than the layout's is refused with. Pebble's block
// checksums find damage before, so a row like this was written by something else.
var errRow = errors.New("a row has not the layout of this version")

func appendAccountKey(dst []byte, a wallet.Account) []byte {
	return a.Append(append(dst, kindAccount))
}

func appendBalanceKey(dst []byte, k wallet.BalanceKey) []byte {
	return k.Asset.Append(appendText(append(dst, kindBalance), k.Account))
}

func appendSupplyKey(dst []byte, a wallet.Asset) []byte {
	return a.Append(append(dst, kindSupply))
}

func appendKeyKey(dst []byte, k keyName) []byte {
	return k.key.Append(appendText(append(dst, kindKey), k.holder))
}

func appendReceiptKey(dst []byte, id wallet.TxID) []byte {
	return append(append(dst, kindReceipt), id[:]...)
}

// appendText appends a length byte and the text. It is generic because an identifier in an
// interface would be a copy on the heap.
func appendText[T interface{ Append([]byte) []byte }](dst []byte, text T) []byte {
	at := len(dst)
	dst = text.Append(append(dst, 0))
	dst[at] = byte(len(dst) - at - 1) //nolint:gosec // identifiers have at most 64 bytes
	return dst
}

func appendAmount(dst []byte, a wallet.Amount) []byte {
	hi, lo := a.Bits()
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, hi), lo)
}

func amountAt(b []byte) wallet.Amount {
	return wallet.AmountFromBits(binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]))
}

func (r *accountRow) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, r.debit)
	return binary.BigEndian.AppendUint64(dst, r.issue)
}

func (r *accountRow) decode(b []byte) error {
	if len(b) != accountSize {
		return errRow
	}
	*r = accountRow{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
	return nil
}

func (r *balanceRow) append(dst []byte) []byte { //nolint:unparam // saveState gives it a buffer
	dst = appendAmount(dst, r.amount)
	dst = binary.BigEndian.AppendUint64(dst, r.seq)
	for _, d := range r.daily {
		dst = binary.BigEndian.AppendUint32(dst, d.day)
		dst = appendAmount(dst, d.moved)
	}
	return dst
}

func (r *balanceRow) decode(b []byte) error {
	if len(b) != balanceSize {
		return errRow
	}
	r.amount, r.seq = amountAt(b), binary.BigEndian.Uint64(b[16:])
	for i := range r.daily {
		d := b[24+20*i:]
		r.daily[i] = dailyRow{binary.BigEndian.Uint32(d), amountAt(d[4:])}
	}
	return nil
}

func (r *supplyRow) append(dst []byte) []byte {
	return appendAmount(appendAmount(dst, r.issued), r.burned)
}

func (r *supplyRow) decode(b []byte) error {
	if len(b) != supplySize {
		return errRow
	}
	*r = supplyRow{amountAt(b), amountAt(b[16:])}
	return nil
}

func (r *keyRow) append(dst []byte) []byte {
	return append(append(dst, r.fingerprint[:]...), r.txid[:]...)
}

func (r *keyRow) decode(b []byte) error {
	if len(b) != keySize {
		return errRow
	}
	copy(r.fingerprint[:], b)
	copy(r.txid[:], b[32:])
	return nil
}

// append leaves out the transaction id, which is the row's key.
func (r *receiptRow) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, byte(r.Op)), r.seq)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Millis)) //nolint:gosec // not negative
	dst = appendAmount(dst, r.Amount)
	dst = binary.BigEndian.AppendUint64(dst, r.Nonce)
	dst = appendText(dst, r.From)
	dst = appendText(dst, r.To)
	dst = appendText(dst, r.Asset)
	return appendText(dst, r.Idem)
}

func (r *receiptRow) decode(id wallet.TxID, b []byte) error {
	if len(b) < receiptMinSize {
		return errRow
	}
	*r = receiptRow{seq: binary.BigEndian.Uint64(b[1:])}
	r.TxID, r.Millis = id, int64(binary.BigEndian.Uint64(b[9:])) //nolint:gosec // checked below
	r.Op, r.Amount, r.Nonce = wallet.Op(b[0]), amountAt(b[17:]), binary.BigEndian.Uint64(b[33:])
	var texts [4]string
	b = b[receiptMinSize:]
	for i := range texts {
		if len(b) == 0 || len(b) <= int(b[0]) {
			return errRow
		}
		end := 1 + int(b[0]) // as bytes, 1 + 255 would be 0
		texts[i], b = string(b[1:end]), b[end:]
	}
	var errs [4]error
	if texts[0] != "" {
		r.From, errs[0] = wallet.ParseAccount(texts[0])
	}
	if texts[1] != "" {
		r.To, errs[1] = wallet.ParseAccount(texts[1])
	}
	r.Asset, errs[2] = wallet.ParseAsset(texts[2])
	r.Idem, errs[3] = bareKey(texts[3])
	as := wallet.Transfer{
		Op: r.Op, From: r.From, To: r.To, Asset: r.Asset, Amount: r.Amount, Nonce: r.Nonce, Idem: r.Idem,
	}
	if len(b) > 0 || r.seq == 0 || r.Millis < 0 || errs != [4]error{} || !wellFormed(&as) {
		return errRow
	}
	return nil
}

// headRow is where the store stands.
type headRow struct {
	head
	digest uint64 // sum of the hashes of all account, balance and supply rows
}

func (r *headRow) append(dst []byte) []byte {
	dst = append(binary.BigEndian.AppendUint64(dst, r.seq), r.txid[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.millis)) //nolint:gosec // not negative
	return binary.BigEndian.AppendUint64(dst, r.digest)
}

func (r *headRow) decode(b []byte) error {
	if len(b) != headSize {
		return errRow
	}
	r.seq, r.digest = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[32:])
	r.millis = int64(binary.BigEndian.Uint64(b[24:])) //nolint:gosec // as it was written
	copy(r.txid[:], b[8:])
	return nil
}

type formatRow struct{ version uint32 }

func (r *formatRow) decode(b []byte) error {
	if len(b) != 4 {
		return errRow
	}
	r.version = binary.BigEndian.Uint32(b)
	return nil
}

type nameRow [16]byte

func (r *nameRow) decode(b []byte) error {
	if len(b) != len(r) {
		return errRow
	}
	copy(r[:], b)
	return nil
}
