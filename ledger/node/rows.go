package node

import (
	"encoding/binary"
	"errors"

	"lukechampine.com/blake3"

	"svc-wallet/wallet"
)

// Layout of the state, format 2: what Pebble holds, all of it made from the journal (journal.go).
// Integers are big-endian. A key starts with its kind; the value of each kind has one fixed layout.
// Any change takes a new storeFormat.
//
//	a account            debit nonce 8, issue nonce 8
//	b len account asset  amount 16, version 8, {day 4, moved 16} for debit and issue
//	s asset              issued 16, burned 16
//	k hash 16            txid 16: the payment under (account, key), whose BLAKE3 starts with hash
//	t txid               place 16, n 1: where its entry begins in the journal, the first of n entries
//	m head               version 8, txid 16, time 8, digest 8, place 16, chain 8
//	m pruned             version 8, chain 8: payments below this version are gone, or are going
const storeFormat = 2

const (
	kindAccount = 'a'
	kindBalance = 'b'
	kindKey     = 'k'
	kindPlace   = 't'
	kindSupply  = 's'
)

const (
	headKey   = "mhead"
	prunedKey = "mpruned"
)

const (
	accountSize = 8 + 8
	balanceSize = 16 + 8 + 2*(4+16)
	supplySize  = 16 + 16
	placeSize   = 8 + 8
	indexSize   = placeSize + 1
	headSize    = 8 + 16 + 8 + 8 + placeSize + 8
	prunedSize  = 8 + 8

	receiptMinSize = 1 + 8 + 16 + 8 + 16 + 8 + 32
	receiptMaxSize = receiptMinSize + 3*(1+64) + (1 + 32)
)

// errRow is what a row of another shape than the layout's is refused with. Checksums find damage
// before, so a row like this was written by something else.
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

// appendKeyKey names a row by a hash, which makes it short and of one length. Two names with one
// hash are not to be found; should there be, the journal's entry tells whose it is.
func appendKeyKey(dst []byte, k keyName) []byte {
	var buf [1 + 2*64]byte
	sum := blake3.Sum256(k.key.Append(appendText(buf[:0], k.holder)))
	return append(append(dst, kindKey), sum[:16]...)
}

func appendPlaceKey(dst []byte, id wallet.TxID) []byte {
	return append(append(dst, kindPlace), id[:]...)
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

func (r *balanceRow) append(dst []byte) []byte {
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

func (r *receiptRow) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, byte(r.Op)), r.seq)
	dst = append(dst, r.TxID[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Millis)) //nolint:gosec // not negative
	dst = appendAmount(dst, r.Amount)
	dst = binary.BigEndian.AppendUint64(dst, r.Nonce)
	dst = append(dst, r.fingerprint[:]...)
	dst = appendText(dst, r.From)
	dst = appendText(dst, r.To)
	dst = appendText(dst, r.Asset)
	return appendText(dst, r.Idem)
}

func (r *receiptRow) decode(b []byte) error {
	if len(b) < receiptMinSize {
		return errRow
	}
	*r = receiptRow{seq: binary.BigEndian.Uint64(b[1:])}
	r.Op, r.Amount, r.Nonce = wallet.Op(b[0]), amountAt(b[33:]), binary.BigEndian.Uint64(b[49:])
	r.Millis = int64(binary.BigEndian.Uint64(b[25:])) //nolint:gosec // looked at below
	copy(r.TxID[:], b[9:])
	copy(r.fingerprint[:], b[57:])
	var texts [4][]byte
	b = b[receiptMinSize:]
	for i := range texts {
		if len(b) == 0 || len(b) <= int(b[0]) {
			return errRow
		}
		end := 1 + int(b[0]) // as bytes, 1 + 255 would be 0
		texts[i], b = b[1:end], b[end:]
	}
	var errs [4]error
	if len(texts[0]) > 0 {
		r.From, errs[0] = wallet.ParseAccount(texts[0])
	}
	if len(texts[1]) > 0 {
		r.To, errs[1] = wallet.ParseAccount(texts[1])
	}
	r.Asset, errs[2] = wallet.ParseAsset(texts[2])
	r.Idem, errs[3] = wallet.IdemKeyFromText(texts[3])
	as := r.Payment()
	if len(b) > 0 || r.seq == 0 || r.Millis < 0 || errs != [4]error{} || !as.WellFormed() {
		return errRow
	}
	return nil
}

type txidRow struct{ wallet.TxID }

func (r *txidRow) append(dst []byte) []byte { return append(dst, r.TxID[:]...) }

func (r *txidRow) decode(b []byte) error {
	if len(b) != len(r.TxID) {
		return errRow
	}
	copy(r.TxID[:], b)
	return nil
}

// place is where in the journal something begins or ends. Offsets count from the segment's start.
type place struct {
	segment uint64 // the version that it starts with
	offset  int64
}

func (r *place) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, r.segment)
	return binary.BigEndian.AppendUint64(dst, uint64(r.offset)) //nolint:gosec // not negative
}

func (r *place) decode(b []byte) error {
	if len(b) != placeSize || b[8]&0x80 != 0 {
		return errRow
	}
	*r = place{binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint64(b[8:]))} //nolint:gosec // the sign was looked at
	return nil
}

// indexRow is where n entries of the journal begin, one behind the other.
type indexRow struct {
	place
	n byte
}

func (r *indexRow) append(dst []byte) []byte { return append(r.place.append(dst), r.n) }

func (r *indexRow) decode(b []byte) error {
	if len(b) != indexSize || b[placeSize] == 0 || b[placeSize] > placeEvery {
		return errRow
	}
	r.n = b[placeSize]
	return r.place.decode(b[:placeSize])
}

// headRow is where the state stands, and where in the journal the next record begins.
type headRow struct {
	head
	digest uint64 // sum of the hashes of all account, balance and supply rows
	end    place
	chain  uint64 // of the record that ends there
}

func (r *headRow) append(dst []byte) []byte {
	dst = append(binary.BigEndian.AppendUint64(dst, r.seq), r.txid[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.millis)) //nolint:gosec // not negative
	dst = binary.BigEndian.AppendUint64(dst, r.digest)
	return binary.BigEndian.AppendUint64(r.end.append(dst), r.chain)
}

func (r *headRow) decode(b []byte) error {
	if len(b) != headSize {
		return errRow
	}
	r.seq, r.millis = binary.BigEndian.Uint64(b), int64(binary.BigEndian.Uint64(b[24:])) //nolint:gosec // as it was written
	copy(r.txid[:], b[8:])
	r.digest, r.chain = binary.BigEndian.Uint64(b[32:]), binary.BigEndian.Uint64(b[56:])
	return r.end.decode(b[40:56])
}

// prunedRow is the oldest payment that is kept, and the chain up to the one before it.
type prunedRow struct{ first, chain uint64 }

func (r *prunedRow) append(dst []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, r.first), r.chain)
}

func (r *prunedRow) decode(b []byte) error {
	if len(b) != prunedSize {
		return errRow
	}
	*r = prunedRow{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
	return nil
}
