package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"svc-wallet/wallet"
)

// checker reads a whole store. spend is told of what was read, and may wait or end it.
type checker struct {
	folder folder
	spend  func(bytes int64) error
	report *Report
	kept   uint64                     // the first payment that is kept
	upTo   uint64                     // the last payment that sums has
	sums   map[wallet.Asset]supplyRow // of the journal
	txid   wallet.TxID                // of the last payment read
	seek   bool                       // the next row of the index is to be looked for
	unread int64                      // bytes that spend was not told of yet
}

func newChecker(f folder, spend func(bytes int64) error) *checker {
	return &checker{folder: f, spend: spend, report: &Report{Told: []string{}, Unjudged: []string{}}, sums: make(map[wallet.Asset]supplyRow)}
}

// journal reads every record of the segments, which end with payment last, and the rows of payments up
// to version upTo, where there is a state: db may be nil.
func (c *checker) journal(db pebble.Reader, segments []segment, upTo, last uint64) error {
	c.upTo = upTo
	c.report.First, c.report.Last, c.report.StateSeq = c.kept, last, upTo
	for i := range segments {
		end := last
		if i+1 < len(segments) {
			end = segments[i+1].first - 1
		}
		if err := c.segment(db, &segments[i], end); err != nil {
			return err
		}
	}
	return nil
}

// segment goes on at the next whole record where one does not check, and counts what lies between.
func (c *checker) segment(db pebble.Reader, g *segment, last uint64) error {
	r, done, err := c.folder.openSegment(g, headerSize, g.first-1, g.chain)
	if err != nil {
		return err
	}
	defer done()
	var it *pebble.Iterator
	if db != nil {
		if it, err = db.NewIter(&pebble.IterOptions{LowerBound: []byte{kindPlace}, UpperBound: []byte{kindPlace + 1}}); err != nil {
			return err
		}
		defer func() { _ = it.Close() }()
	}
	c.seek = true
	for {
		rec, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			if err := c.record(db, it, g, &rec); err != nil {
				return err
			}
			continue
		}
		if more, err := c.skip(r, last, err); !more {
			return err
		}
	}
}

// skip tells of damage and goes on behind it.
func (c *checker) skip(r *journalReader, last uint64, damage error) (more bool, err error) {
	if !errors.As(damage, new(*damageError)) {
		return false, damage
	}
	from, to, at := r.seq+1, last, r.at
	if more, err = r.skip(last); err != nil {
		return false, err
	}
	if more {
		to = r.seq
	}
	c.seek = true
	switch {
	case from == to:
		c.report.Unread++
		c.report.fault("%s; payment %d lies there and was not read", damage, from)
	case from < to:
		c.report.Unread += to - from + 1
		c.report.fault("%s; payments %d to %d lie there and were not read", damage, from, to)
	default:
		c.report.fault("%s; no payment is missing there", damage)
	}
	return more, c.read(r.at - at)
}

// record holds a record's payments against their rows. it walks the index beside the journal.
func (c *checker) record(db pebble.Reader, it *pebble.Iterator, g *segment, rec *record) error {
	read := c.report.Payments
	err := rec.each(g.name, func(i int, offset int64, paid *receiptRow) error {
		c.report.Payments++
		if bytes.Compare(paid.TxID[:], c.txid[:]) <= 0 {
			c.report.fault("%s: payment %d has an id that does not follow", g.name, paid.seq)
		}
		c.txid = paid.TxID
		if paid.seq > c.upTo || db == nil {
			return nil
		}
		c.sum(paid)
		if paid.seq < c.kept {
			return nil // it is being pruned, with its rows
		}
		if i%placeEvery == 0 {
			want := indexRow{place{g.first, offset}, byte(min(placeEvery, rec.count-i))} //nolint:gosec // at most placeEvery
			c.index(it, paid, &want)
		}
		id, err := load[txidRow](db, appendKeyKey(nil, hashKey(paid.Holder(), paid.Idem)))
		if err != nil {
			c.report.fault("payment %d: %v", paid.seq, err)
		} else if id.TxID != paid.TxID {
			c.report.fault("state: the key of payment %d, %s, tells of %s", paid.seq, paid.TxID, id.TxID)
		}
		return nil
	})
	if errors.As(err, new(*damageError)) {
		lost := uint64(rec.count) - (c.report.Payments - read) //nolint:gosec // not negative
		c.report.fault("%v; %d payments behind it cannot be read", err, lost)
		c.report.Unread += lost
		c.seek, err = true, nil
	}
	c.report.JournalBytes += rec.end - rec.begin
	return errors.Join(err, c.read(rec.end-rec.begin))
}

// index holds the next row of the index against the entry that it must point to.
func (c *checker) index(it *pebble.Iterator, paid *receiptRow, want *indexRow) {
	key := appendPlaceKey(nil, paid.TxID)
	ok := false
	if c.seek {
		ok = it.SeekGE(key)
	} else {
		ok = it.Next()
	}
	c.seek = it.Error() != nil
	switch {
	case it.Error() != nil:
		c.report.fault("state: index of payment %d: %s", paid.seq, firstLine(it.Error().Error()))
	case !ok || !bytes.Equal(it.Key(), key):
		c.report.fault("state: the index has no row for payment %d, %s, or one of no payment before it", paid.seq, paid.TxID)
		it.SeekLT(append(key, 0)) // so that the next row is the next payment's
	case !bytes.Equal(it.Value(), want.append(nil)):
		c.report.fault("state: the index leads elsewhere for payment %d, %s", paid.seq, paid.TxID)
	}
}

func (c *checker) sum(paid *receiptRow) {
	s := c.sums[paid.Asset]
	switch paid.Op {
	case wallet.Issue:
		s.issued, _ = s.issued.Add(paid.Amount)
	case wallet.Burn:
		s.burned, _ = s.burned.Add(paid.Amount)
	default:
		return
	}
	c.sums[paid.Asset] = s
}

func (c *checker) read(n int64) error {
	if c.unread += n; c.unread < checkStep {
		return nil
	}
	n, c.unread = c.unread, 0
	return c.spend(n)
}

// state reads every row of one version of the state.
func (c *checker) state(db pebble.Reader) error {
	head, err := load[headRow](db, []byte(headKey))
	if err != nil {
		c.report.fault("%v", err)
		c.report.unjudged("the rows of the state, and its sums: they cannot be counted without the head")
		return nil
	}
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	a := auditor{balances: make(map[wallet.Asset]wallet.Amount), supplies: make(map[wallet.Asset]supplyRow)}
	for ok := it.First(); ok; ok = it.Next() {
		c.report.StateRows++
		if err := a.add(it.Key(), it.Value()); err != nil {
			a.misread++
			c.report.fault("state: %s: %v", rowName(it.Key()), err)
		}
		if err := c.read(int64(len(it.Key()) + len(it.Value()))); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		c.report.fault("state: row %d and those behind it cannot be read: %s", c.report.StateRows+1, firstLine(err.Error()))
		c.report.unjudged("the sums of the state, its digest and the numbers of its rows: it was not read to its end")
		return nil
	}
	if a.digest != head.digest {
		c.report.fault("state: rows are missing or stale: their digest is %x, version %d had %x", a.digest, head.seq, head.digest)
	}
	if kept := head.seq + 1 - min(c.kept, head.seq+1); a.keys != kept {
		c.report.fault("state: %d keys tell of payments, %d payments are kept", a.keys, kept)
	}
	if kept := head.seq + 1 - min(c.kept, head.seq+1); a.indexed != kept {
		c.report.fault("state: the index leads to %d payments, %d are kept", a.indexed, kept)
	}
	if a.misread > 0 {
		c.report.unjudged("the sums: %d rows of the state cannot be read", a.misread)
		return nil
	}
	if c.report.Unread > 0 {
		c.report.unjudged("the sums of the journal against those of the state: %d payments cannot be read", c.report.Unread)
	}
	c.balance(&a, head.seq == c.upTo && c.kept == 1 && c.report.Unread == 0)
	return nil
}

// balance holds the state's sums against each other and against the journal's, which are all of
// them where whole says so, and else a part.
func (c *checker) balance(a *auditor, whole bool) {
	for asset, sum := range a.balances {
		s := a.supplies[asset]
		if want, _ := s.issued.Sub(s.burned); sum != want {
			c.report.fault("the books do not balance: balances of %s sum to %s, issued less burned is %s", asset, sum, want)
		}
	}
	for asset, s := range a.supplies {
		j := c.sums[asset]
		if j.issued.Cmp(s.issued) > 0 || j.burned.Cmp(s.burned) > 0 || (whole && j != s) {
			c.report.fault("the journal issued %s and burned %s of %s, the state says %s and %s", j.issued, j.burned, asset, s.issued, s.burned)
		}
		if _, ok := a.balances[asset]; !ok && s.issued != s.burned {
			c.report.fault("the books do not balance: nobody has any %s, issued %s, burned %s", asset, s.issued, s.burned)
		}
	}
	for asset := range c.sums {
		if _, ok := a.supplies[asset]; !ok {
			c.report.fault("the journal issued %s, of which the state has nothing", asset)
		}
	}
}

// auditor sums up the state. Sums are modulo 2^128.
type auditor struct {
	balances      map[wallet.Asset]wallet.Amount
	supplies      map[wallet.Asset]supplyRow
	digest        uint64
	keys, indexed uint64
	misread       uint64 // rows
}

func (a *auditor) add(key, value []byte) error {
	switch key[0] {
	case kindAccount:
		a.digest += rowHash(key, value)
		return new(accountRow).decode(value)
	case kindBalance:
		a.digest += rowHash(key, value)
		var r balanceRow
		if len(key) < 2 || len(key) < 2+int(key[1]) {
			return errRow
		}
		asset, err := wallet.ParseAsset(key[2+key[1]:])
		if err != nil || r.decode(value) != nil {
			return errRow
		}
		a.balances[asset], _ = a.balances[asset].Add(r.amount)
	case kindSupply:
		a.digest += rowHash(key, value)
		var r supplyRow
		asset, err := wallet.ParseAsset(key[1:])
		if err != nil || r.decode(value) != nil {
			return errRow
		}
		a.supplies[asset] = r
	case kindKey:
		a.keys++
		return new(txidRow).decode(value)
	case kindPlace:
		var r indexRow
		err := r.decode(value)
		a.indexed += uint64(r.n)
		return err
	default:
		if string(key) != headKey && string(key) != prunedKey {
			return errRow
		}
	}
	return nil
}

// Report is what a check of a whole store found. It is sound where Faults is 0.
type Report struct {
	Ledger       string   `json:"ledger"`
	First        uint64   `json:"first_payment"` // of those that are kept
	Last         uint64   `json:"last_payment"`  // of the journal
	Payments     uint64   `json:"payments_read"`
	JournalBytes int64    `json:"journal_bytes"`
	StateSeq     uint64   `json:"state_payment"` // the last payment that the state has; after a kill a start does the rest again
	StateRows    uint64   `json:"state_rows"`
	Faults       uint64   `json:"faults"`
	Unread       uint64   `json:"payments_unread"` // lie where the journal is damaged
	Told         []string `json:"fault_list"`      // the first of each kind, each with its place, and how many more
	Unjudged     []string `json:"not_judged"`      // what could not be judged because of faults, and is none itself

	kinds []alike
}

// alike are the faults of one kind.
type alike struct {
	format, first string
	n             uint64
}

// fault counts a fault. Those with one format are of one kind.
func (r *Report) fault(format string, args ...any) {
	r.Faults++
	i := slices.IndexFunc(r.kinds, func(k alike) bool { return k.format == format })
	if i < 0 {
		i = len(r.kinds)
		r.kinds = append(r.kinds, alike{format, fmt.Sprintf(format, args...), 0})
	}
	if r.kinds[i].n++; r.kinds[i].n <= maxAlike {
		r.Told = append(r.Told, fmt.Sprintf(format, args...))
	}
}

// sumUp tells of the faults that were only counted.
func (r *Report) sumUp() {
	for _, k := range r.kinds {
		if k.n > maxAlike {
			r.Told = append(r.Told, fmt.Sprintf("%d more like: %s", k.n-maxAlike, k.first))
		}
	}
}

func (r *Report) unjudged(format string, args ...any) {
	r.Unjudged = append(r.Unjudged, fmt.Sprintf(format, args...))
}
