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

const receiptMaxSize = 1 + 8 + 16 + 8 + 16 + 8 + 32 + 3*(1+64) + (1 + 32)

// errRow refuses a row of another shape than the layout's. Checksums find damage before, so a row like
// this was written by something else.
var errRow = errors.New("the row is malformed")

func appendAccountKey(dst []byte, a wallet.Account) []byte {
	return a.Append(append(dst, kindAccount))
}

func appendBalanceKey(dst []byte, k wallet.BalanceKey) []byte {
	return k.Asset.Append(appendText(append(dst, kindBalance), k.Account))
}

func appendSupplyKey(dst []byte, a wallet.Asset) []byte {
	return a.Append(append(dst, kindSupply))
}

// appendKeyKey names a row by a hash, which makes it short and of one length. Two keys with one
// hash are not to be found; should there be, the fingerprint tells the payments apart, and the second is refused.
func appendKeyKey(dst []byte, k keyHash) []byte {
	return append(append(dst, kindKey), k[:]...)
}

func hashKey(holder wallet.Account, key wallet.IdemKey) keyHash {
	var buf [1 + 2*64]byte
	sum := blake3.Sum256(key.Append(appendText(buf[:0], holder)))
	return keyHash(sum[:16])
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

func append64(dst []byte, values ...uint64) []byte {
	for _, v := range values {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	return dst
}

func appendAmount(dst []byte, a wallet.Amount) []byte {
	hi, lo := a.Bits()
	return append64(dst, hi, lo)
}

// cursor reads a row from its beginning. What is not there reads as zero, and end tells.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if len(c.b) < n {
		c.b, c.bad = nil, true
		return make([]byte, n)
	}
	taken := c.b[:n]
	c.b = c.b[n:]
	return taken
}

func (c *cursor) byte() byte            { return c.take(1)[0] }
func (c *cursor) u32() uint32           { return binary.BigEndian.Uint32(c.take(4)) }
func (c *cursor) u64() uint64           { return binary.BigEndian.Uint64(c.take(8)) }
func (c *cursor) amount() wallet.Amount { return wallet.AmountFromBits(c.u64(), c.u64()) }
func (c *cursor) text() []byte          { return c.take(int(c.byte())) }

// int reads what is not negative.
func (c *cursor) int() int64 {
	n := int64(c.u64()) //nolint:gosec // looked at next
	c.bad = c.bad || n < 0
	return n
}

func (c *cursor) place() place { return place{c.u64(), c.int()} }

// end says whether the row had all that was read, and nothing else.
func (c *cursor) end() error {
	if c.bad || len(c.b) > 0 {
		return errRow
	}
	return nil
}

func (r *accountRow) append(dst []byte) []byte { return append64(dst, r.debit, r.issue) }

func (r *accountRow) decode(b []byte) error {
	c := cursor{b: b}
	*r = accountRow{c.u64(), c.u64()}
	return c.end()
}

func (r *balanceRow) append(dst []byte) []byte {
	dst = append64(appendAmount(dst, r.amount), r.seq)
	for _, d := range r.daily {
		dst = appendAmount(binary.BigEndian.AppendUint32(dst, d.day), d.moved)
	}
	return dst
}

func (r *balanceRow) decode(b []byte) error {
	c := cursor{b: b}
	r.amount, r.seq = c.amount(), c.u64()
	for i := range r.daily {
		r.daily[i] = dailyRow{c.u32(), c.amount()}
	}
	return c.end()
}

func (r *supplyRow) append(dst []byte) []byte {
	return appendAmount(appendAmount(dst, r.issued), r.burned)
}

func (r *supplyRow) decode(b []byte) error {
	c := cursor{b: b}
	*r = supplyRow{c.amount(), c.amount()}
	return c.end()
}

func (r *receiptRow) append(dst []byte) []byte {
	dst = append64(append(dst, byte(r.Op)), r.seq)
	dst = append64(append(dst, r.TxID[:]...), uint64(r.Millis)) //nolint:gosec // not negative
	dst = append64(appendAmount(dst, r.Amount), r.Nonce)
	dst = append(dst, r.fingerprint[:]...)
	dst = appendText(dst, r.From)
	dst = appendText(dst, r.To)
	dst = appendText(dst, r.Asset)
	return appendText(dst, r.Idem)
}

func (r *receiptRow) decode(b []byte) error {
	c := cursor{b: b}
	var errs [4]error
	*r = receiptRow{}
	r.Op, r.seq = wallet.Op(c.byte()), c.u64()
	copy(r.TxID[:], c.take(len(r.TxID)))
	r.Millis, r.Amount, r.Nonce = c.int(), c.amount(), c.u64()
	copy(r.fingerprint[:], c.take(len(r.fingerprint)))
	if text := c.text(); len(text) > 0 {
		r.From, errs[0] = wallet.ParseAccount(text)
	}
	if text := c.text(); len(text) > 0 {
		r.To, errs[1] = wallet.ParseAccount(text)
	}
	r.Asset, errs[2] = wallet.ParseAsset(c.text())
	r.Idem, errs[3] = wallet.IdemKeyFromText(c.text())
	if t := r.Payment(); c.end() != nil || r.seq == 0 || errs != [4]error{} || !t.WellFormed() {
		return errRow
	}
	return nil
}

type txidRow struct{ wallet.TxID }

func (r *txidRow) append(dst []byte) []byte { return append(dst, r.TxID[:]...) }

func (r *txidRow) decode(b []byte) error {
	c := cursor{b: b}
	copy(r.TxID[:], c.take(len(r.TxID)))
	return c.end()
}

// place is where in the journal something begins or ends. Offsets count from the segment's start.
type place struct {
	segment uint64 // the version that it starts with
	offset  int64
}

func (r *place) append(dst []byte) []byte {
	return append64(dst, r.segment, uint64(r.offset)) //nolint:gosec // not negative
}

// indexRow is where n entries of the journal begin, one behind the other.
type indexRow struct {
	place
	n byte
}

func (r *indexRow) append(dst []byte) []byte { return append(r.place.append(dst), r.n) }

func (r *indexRow) decode(b []byte) error {
	c := cursor{b: b}
	*r = indexRow{c.place(), c.byte()}
	c.bad = c.bad || r.n == 0 || r.n > placeEvery
	return c.end()
}

// headRow is where the state stands, and where in the journal the next record begins.
type headRow struct {
	head
	digest uint64 // sum of the hashes of all account, balance and supply rows
	end    place
	chain  uint64 // of the record that ends there
}

func (r *headRow) append(dst []byte) []byte {
	dst = append(append64(dst, r.seq), r.txid[:]...)
	dst = append64(dst, uint64(r.millis), r.digest) //nolint:gosec // not negative
	return append64(r.end.append(dst), r.chain)
}

func (r *headRow) decode(b []byte) error {
	c := cursor{b: b}
	r.seq = c.u64()
	copy(r.txid[:], c.take(len(r.txid)))
	r.millis, r.digest, r.end, r.chain = c.int(), c.u64(), c.place(), c.u64()
	return c.end()
}

// prunedRow is the oldest payment that is kept, and the chain up to the one before it.
type prunedRow struct{ first, chain uint64 }

func (r *prunedRow) append(dst []byte) []byte { return append64(dst, r.first, r.chain) }

func (r *prunedRow) decode(b []byte) error {
	c := cursor{b: b}
	*r = prunedRow{c.u64(), c.u64()}
	return c.end()
}
