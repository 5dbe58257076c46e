package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	logrustest "github.com/sirupsen/logrus/hooks/test"

	"svc-wallet/ledger/wire"
	"svc-wallet/wallet"
)

// verified is the report on a copy of a store.
func (d *damaged) verified(t *testing.T) (*Report, error) {
	t.Helper()
	fs := vfs.NewMem()
	d.put(t, fs)
	last := int64(0)
	r, err := verifyPebble(context.Background(), "db", fs, func(done, total int64) {
		if done < last || done > total {
			t.Errorf("read %d of %d after %d", done, total, last)
		}
		last = done
	})
	for file, data := range filesOf(t, fs, "db", "") {
		if was, ok := d.files[file]; file != "LOCK" && file != "state/LOCK" && (!ok || string(was) != string(data)) {
			t.Errorf("the check changed %s", file)
		}
	}
	return r, err
}

// TestVerifySound: a store that was closed, killed, pruned or is new is sound, and everything in it
// was read.
func TestVerifySound(t *testing.T) {
	for _, closed := range []bool{false, true} {
		d := newDamaged(t, closed)
		r, err := d.verified(t)
		if err != nil || r.Faults != 0 || r.Payments != d.seen || r.First != 1 || r.JournalBytes == 0 || r.StateRows == 0 {
			t.Errorf("closed %v: %v, %+v", closed, err, r)
		}
	}
	fs := vfs.NewMem()
	mustClose(t, mustOpen(t, fs, "db"))
	if r, err := verifyPebble(context.Background(), "db", fs, func(int64, int64) {}); err != nil || r.Faults != 0 {
		t.Errorf("a new store: %v, %+v", err, r)
	}
}

// TestVerifyTellsJournalFromState: of a killed store the last payment is the journal's, and how far the
// state is stands apart.
func TestVerifyTellsJournalFromState(t *testing.T) {
	d := newDamaged(t, false)
	r, err := d.verified(t)
	if err != nil || r.Last != d.seen || r.Payments != d.seen || r.StateSeq >= d.seen {
		t.Errorf("%d payments were made: %v, %+v", d.seen, err, r)
	}
}

// TestVerifyRefuses: what is no store, or is in use, is no sound one.
func TestVerifyRefuses(t *testing.T) {
	fs := vfs.NewMem()
	none := func(int64, int64) {}
	if _, err := verifyPebble(context.Background(), "db", fs, none); err == nil || !strings.Contains(err.Error(), "db: there is no store") {
		t.Errorf("no folder: %v", err)
	}
	e := mustOpen(t, fs, "db")
	if _, err := verifyPebble(context.Background(), "db", fs, none); err == nil || !strings.Contains(err.Error(), "a node uses the folder, stop it first") {
		t.Errorf("in use: %v", err)
	}
	mustClose(t, e)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	big := vfs.NewMem()
	e = mustOpen(t, big, "db")
	for at := 0; at < 3*MaxCommit; at += MaxCommit {
		batch := make([]wallet.Payment, MaxCommit)
		for n := range batch {
			batch[n] = payment(0, at+n)
		}
		send(t, e, batch...)
	}
	mustClose(t, e)
	if _, err := verifyPebble(ended, "db", big, none); !errors.Is(err, context.Canceled) {
		t.Errorf("a check that was given up: %v", err)
	}
}

// TestVerifyFindsDamage: a flipped byte anywhere in a record of the journal, and rows that a bug or a
// lost write left wrong, are found, with their place.
func TestVerifyFindsDamage(t *testing.T) {
	d := newDamaged(t, true)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range d.segmentsOf() {
		ends := borders(t, d.files[name])
		for range 6 {
			at := rng.IntN(ends[len(ends)-1])
			r, err := d.spoiled(name, func(b []byte) []byte { b[at] ^= 4; return b }).verified(t)
			if err != nil || r.Faults == 0 || !strings.Contains(r.Told[0], name[len(journalDir)+1:]) && !strings.Contains(r.Told[0], journalDir) {
				t.Errorf("%s at %d: %v, %+v", name, at, err, r)
			}
		}
	}
	a := d.answers[9]
	key := appendKeyKey(nil, hashKey(a.transfer.Holder(), a.transfer.Idem))
	balance := appendBalanceKey(nil, wallet.BalanceKey{Account: a.transfer.From, Asset: a.transfer.Asset})
	supply := appendSupplyKey(nil, a.transfer.Asset)
	index := appendPlaceKey(nil, d.answers[16].result.Receipt.TxID)
	for name, c := range map[string]struct {
		change func(*pebble.Batch)
		want   string
	}{
		"a key is lost":          {func(b *pebble.Batch) { _ = b.Delete(key, nil) }, "the key of payment 10"},
		"a key tells of another": {func(b *pebble.Batch) { _ = b.Set(key, d.answers[3].result.Receipt.TxID[:], nil) }, "the key of payment 10"},
		"a key of no payment":    {func(b *pebble.Batch) { _ = b.Set(append(key[:1:1], make([]byte, 16)...), key[1:], nil) }, "121 keys tell of payments, 120 payments are kept"},
		"an index row is lost":   {func(b *pebble.Batch) { _ = b.Delete(index, nil) }, "the index has no row for payment 17"},
		"an index row too many": {func(b *pebble.Batch) {
			_ = b.Set(appendPlaceKey(nil, wallet.TxID{255}), (&indexRow{place{1, 60}, 1}).append(nil), nil)
		}, "the index leads to 121 payments, 120 are kept"},
		"the index leads astray": {func(b *pebble.Batch) { _ = b.Set(index, (&indexRow{place{1, 60}, 4}).append(nil), nil) }, "the index leads elsewhere for payment 17"},
		"a balance is lost":      {func(b *pebble.Batch) { _ = b.Delete(balance, nil) }, "rows are missing or stale"},
		"money is made": {func(b *pebble.Batch) {
			_ = b.Set(balance, (&balanceRow{amount: wallet.MaxAmount(), seq: 9}).append(nil), nil)
		}, "the books do not balance"},
		"the supply is wrong": {func(b *pebble.Batch) { _ = b.Set(supply, (&supplyRow{issued: wallet.Minor(5)}).append(nil), nil) }, "the journal issued"},
		"a row of no kind":    {func(b *pebble.Batch) { _ = b.Set([]byte("zebra"), nil, nil) }, "zebra"},
		"a row of no shape":   {func(b *pebble.Batch) { _ = b.Set(key, []byte("x"), nil) }, errRow.Error()},
	} {
		fs := vfs.NewMem()
		d.put(t, fs)
		o := pebbleOptions(fs, readLogger{})
		db, err := pebble.Open("db/state", o)
		if err != nil {
			t.Fatal(err)
		}
		b := db.NewBatch()
		c.change(b)
		if err := errors.Join(db.Apply(b, pebble.NoSync), db.Flush(), db.Close()); err != nil {
			t.Fatal(err)
		}
		r, err := verifyPebble(context.Background(), "db", fs, func(int64, int64) {})
		if err != nil || !strings.Contains(strings.Join(r.Told, "\n"), c.want) {
			t.Errorf("%s: %v, %+v", name, err, r)
		}
	}
}

// TestVerifyGoesOnBehindDamage: a damaged record costs the report what lies in that record, exactly, and
// nothing else: neither the records behind it, nor faults that only follow from it. Method: a flipped bit
// in one entry of every record of every segment but the end of the newest, which a start reads itself, and
// a stretch of zeros over two records.
func TestVerifyGoesOnBehindDamage(t *testing.T) {
	d := newDamaged(t, true)
	names := d.segmentsOf()
	for _, name := range names {
		data := d.files[name]
		ends := borders(t, data)
		begin := headerSize
		for i, end := range ends[:len(ends)-1] {
			first, count := binary.BigEndian.Uint64(data[begin+8:]), uint64(binary.BigEndian.Uint32(data[begin+16:]))
			middle := begin + recordHead + 20
			r, err := d.spoiled(name, func(b []byte) []byte { b[middle] ^= 4; return b }).verified(t)
			where := fmt.Sprintf("payments %d to %d lie there and were not read", first, first+count-1)
			if count == 1 {
				where = fmt.Sprintf("payment %d lies there and was not read", first)
			}
			if err != nil || r.Faults != 1 || r.Unread != count || r.Payments != d.seen-count || len(r.Unjudged) != 1 || !strings.Contains(r.Told[0], where) {
				t.Errorf("%s, record %d of payments from %d: %v, %+v", name, i, first, err, r)
			}
			if next := ends[i+1]; i+2 < len(ends) {
				lost := count + uint64(binary.BigEndian.Uint32(data[end+16:]))
				r, err := d.spoiled(name, func(b []byte) []byte { clear(b[begin:next]); return b }).verified(t)
				if err != nil || r.Faults != 1 || r.Unread != lost || r.Payments != d.seen-lost {
					t.Errorf("%s, two records of zeros from payment %d on: %v, %+v", name, first, err, r)
				}
			}
			begin = end
		}
	}
}

// TestVerifyWithoutState: where the state is missing or cannot be read that is one fault, and the journal is
// judged all the same: it is sound, or its damage is told.
func TestVerifyWithoutState(t *testing.T) {
	for what, spoil := range map[string]func(d *damaged){
		"it is missing": func(d *damaged) {
			for name := range d.files {
				if strings.HasPrefix(name, stateDir) {
					delete(d.files, name)
				}
			}
		},
		"it cannot be read": func(d *damaged) {
			for name, text := range d.files {
				if strings.HasPrefix(name, stateDir+"/MANIFEST-") {
					d.files[name] = bytes.Repeat([]byte{0xff}, len(text))
				}
			}
		},
	} {
		d := newDamaged(t, true)
		spoil(d)
		r, err := d.verified(t)
		if err != nil || r.Faults != 1 || !strings.HasPrefix(r.Told[0], "state: "+what) || r.Payments != d.seen || r.Last != d.seen || r.Unread != 0 || len(r.Unjudged) != 1 {
			t.Errorf("%s: %v, %+v", what, err, r)
		}
		oldest := d.segmentsOf()[0]
		r, err = d.spoiled(oldest, func(b []byte) []byte { b[headerSize+recordHead+20] ^= 4; return b }).verified(t)
		if err != nil || r.Faults != 2 || r.Unread == 0 || r.Payments != d.seen-r.Unread {
			t.Errorf("%s, and a record is damaged: %v, %+v", what, err, r)
		}
	}
}

// TestVerifyGroupsFaults: many faults of one kind are told ten times and then counted, in words, and what
// cannot be judged is no fault. Method: all keys are lost; a block of a table of the state is damaged.
func TestVerifyGroupsFaults(t *testing.T) {
	fs := vfs.NewMem()
	e := mustOpen(t, fs, "db")
	for at := range 3 {
		batch := make([]wallet.Payment, 1000)
		for n := range batch {
			batch[n] = ownIssue(1000*at + n)
		}
		send(t, e, batch...)
	}
	mustClose(t, e)
	for name, data := range filesOf(t, fs, "db", "") {
		if strings.HasSuffix(name, ".sst") {
			flip(t, fs, "db/"+name, len(data)/2) // a block of keys
		}
	}
	r, err := verifyPebble(context.Background(), "db", fs, func(int64, int64) {})
	if err != nil || r.Faults < 2*maxAlike || len(r.Told) > 3*maxAlike || len(r.Unjudged) != 1 || r.Unread != 0 {
		t.Fatalf("%v, %+v", err, r)
	}
	told := strings.Join(r.Told, "\n")
	if !strings.Contains(told, "the key with hash ") || !strings.Contains(told, " more like: payment ") || strings.Contains(told, `\x`) {
		t.Error(told)
	}
}

// TestVerifyMakesNothing: a folder that is no store's is refused, and stays as it was.
func TestVerifyMakesNothing(t *testing.T) {
	for _, file := range []string{"", "notes.txt"} {
		fs := vfs.NewMem()
		err := fs.MkdirAll("db", 0o700)
		if err == nil && file != "" {
			_, err = fs.Create("db/"+file, vfs.WriteCategoryUnspecified)
		}
		if err != nil {
			t.Fatal(err)
		}
		if r, err := verifyPebble(context.Background(), "db", fs, func(int64, int64) {}); err == nil || !strings.Contains(err.Error(), "there is no store") {
			t.Errorf("%q: %+v, %v", file, r, err)
		}
		if names, err := fs.List("db"); err != nil || strings.Join(names, "") != file {
			t.Errorf("%q: afterwards there are %v, %v", file, names, err)
		}
	}
}

// TestRetentionIsTold: a node that prunes says so at its start, and one that does not says nothing.
func TestRetentionIsTold(t *testing.T) {
	for retention, want := range map[time.Duration]int{0: 0, MinRetention: 1} {
		log, hook := logrustest.NewNullLogger()
		e, err := openPebble("db", small(Options{Log: log, Retention: retention}), vfs.NewMem())
		if err != nil {
			t.Fatal(err)
		}
		mustClose(t, e)
		told := 0
		for _, l := range hook.AllEntries() {
			if l.Message == "pruning" && l.Data["older_than"] == MinRetention.String() {
				told++
			}
		}
		if told != want {
			t.Errorf("retention %s was told %d times", retention, told)
		}
	}
}

// TestCheckOfARunningNode: the node's own check reads the whole store beside its work, finds it
// sound, and finds damage that no reader has met.
func TestCheckOfARunningNode(t *testing.T) {
	fs := vfs.NewMem()
	e := mustOpen(t, fs, "db")
	defer mustClose(t, e)
	d := fillStore(t, e, 30)
	var stop atomic.Bool
	var book ledgerBook
	wait := pay(e, &book, 1000, &stop)
	read := int64(0)
	for range 3 {
		err := e.checkStore(func(n int64) error {
			if read += n; read > 1<<20 {
				stop.Store(true) // else a store may grow faster than a starved check reads
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	wait()
	if s := e.Stats(); s.StoreOK != 3 || s.StoreFailed != 0 {
		t.Errorf("%+v", s)
	}
	d.files = filesOf(t, fs, "db", "")
	oldest := d.segmentsOf()[0]
	flip(t, fs, "db/"+oldest, borders(t, d.files[oldest])[1]+recordHead+30)
	if err := e.checkStore(func(int64) error { return nil }); err != nil {
		t.Error(err)
	}
	if s := e.Stats(); s.StoreOK != 3 || s.StoreFailed != 1 {
		t.Errorf("afterwards %+v", s)
	}
}

// flip flips a bit under an open store.
func flip(t *testing.T, fs vfs.FS, name string, at int) {
	t.Helper()
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, int64(at))
	if err == nil {
		b[0] ^= 1
		_, err = f.WriteAt(b, int64(at))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedReadFailsAlone: a receipt that is damaged fails who reads it, each time, and nobody else;
// its payer's retry stays unknown, the others of the same call are answered. It is counted, and told
// once a second. The engine goes on.
func TestDamagedReadFailsAlone(t *testing.T) {
	fs := vfs.NewMem()
	e := mustOpen(t, fs, "db")
	d := fillStore(t, e, 30)
	mustClose(t, e)
	d.files = filesOf(t, fs, "db", "")
	oldest := d.segmentsOf()[0]
	bad := d.answers[1] // the second entry of the first record
	first := entryHead + int(d.files[oldest][headerSize+recordHead])<<8 + int(d.files[oldest][headerSize+recordHead+1])
	flip(t, fs, "db/"+oldest, headerSize+recordHead+first+entryHead+40)

	log, hook := logrustest.NewNullLogger()
	var now atomic.Int64
	now.Store(start)
	again, err := openPebble("db", small(Options{Now: now.Load, Log: log, Fatal: func(err error) { t.Errorf("fatal: %v", err) }}), fs)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, again)
	for range 3 {
		if _, _, err := again.Transaction(context.Background(), bad.result.Receipt.TxID); !errors.Is(err, wire.ErrDamaged) {
			t.Errorf("the damaged receipt: %v", err)
		}
	}
	if _, _, err := again.Payment(context.Background(), bad.transfer.Holder(), bad.transfer.Idem); !errors.Is(err, wire.ErrDamaged) {
		t.Errorf("the damaged payment: %v", err)
	}
	for i, a := range d.answers {
		if r, _, err := again.Transaction(context.Background(), a.result.Receipt.TxID); i != 1 && (err != nil || r != a.result.Receipt) {
			t.Errorf("receipt %d: %v", i, err)
		}
	}
	out := send(t, again, d.answers[0].transfer, bad.transfer, ownIssue(7), d.answers[2].transfer)
	for i, want := range []wallet.Code{wallet.Replayed, wallet.Uncertain, wallet.OK, wallet.Replayed} {
		if out[i].Code != want {
			t.Errorf("payment %d of the call is %s, want %s", i, out[i].Code.Name(), want.Name())
		}
	}
	if n := again.Stats().Damaged; n != 6 {
		t.Errorf("%d reads met damage", n)
	}
	lines := func() (n int) {
		for _, l := range hook.AllEntries() {
			if l.Message == "store_damaged" {
				n++
			}
		}
		return n
	}
	if n := lines(); n != 1 {
		t.Errorf("%d lines within a second", n)
	}
	now.Add(int64(damageEvery))
	_, _, _ = again.Transaction(context.Background(), bad.result.Receipt.TxID)
	if n := lines(); n != 2 {
		t.Errorf("%d lines after a second", n)
	}
}

// TestDamagedTableFailsAlone: a block of a table of the state with a flipped bit fails the reads that
// need it. The engine is not ended by them, nor by a compaction that meets the block.
func TestDamagedTableFailsAlone(t *testing.T) {
	fs := vfs.NewMem()
	e := mustOpen(t, fs, "db")
	for at := range 3 {
		batch := make([]wallet.Payment, 1000)
		for n := range batch {
			batch[n] = ownIssue(1000*at + n)
		}
		send(t, e, batch...)
	}
	mustClose(t, e)
	d := &damaged{files: filesOf(t, fs, "db", "")}
	for name, data := range d.files {
		if strings.HasSuffix(name, ".sst") {
			flip(t, fs, "db/"+name, len(data)/3)
		}
	}
	e = mustOpen(t, fs, "db")
	defer mustClose(t, e)
	failed := 0
	for n := range 3000 {
		tr := ownIssue(n)
		err := e.Lookup(context.Background(), []wallet.BalanceKey{{Account: tr.To, Asset: tr.Asset}}, make([]wallet.Balance, 1))
		if err != nil && !errors.Is(err, wire.ErrDamaged) {
			t.Fatal(err)
		}
		if err != nil {
			failed++
		}
	}
	if failed == 0 || failed == 3000 {
		t.Errorf("%d of 3000 lookups met damage", failed)
	}
	for n := range 100 {
		switch r := send(t, e, ownIssue(10_000+n))[0]; r.Code {
		case wallet.OK:
		case wallet.Uncertain:
			failed++
		default:
			t.Errorf("a new payment is %s", r.Code.Name())
		}
	}
	mustApply(t, e)
	if err := e.db.Flush(); err != nil {
		t.Fatal(err)
	}
	// Pebble's own compaction may have met the block before this one, which then has to wait until
	// Pebble tries there again.
	ctx, stop := context.WithTimeout(context.Background(), 3*time.Minute) // only where it never comes
	defer stop()
	for e.Stats().Damaged == uint64(failed) && ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		if err := e.db.Compact(once, []byte{0}, []byte{0xff}, false); err == nil {
			t.Error("a compaction did not meet the damage")
		}
		cancel()
	}
	if e.Stats().Damaged == uint64(failed) {
		t.Error("the compaction's damage was not counted")
	}
}

// TestFullDiskAtStart: where the state cannot be written the start is refused, in one line, also when
// it is Pebble's flush that finds it, which Pebble would try again for ever.
func TestFullDiskAtStart(t *testing.T) {
	for what, match := range map[string]string{"nothing can be written": "", "tables cannot be written": ".sst"} {
		mem := vfs.NewMem()
		e := mustOpen(t, mem, "db")
		payments := 0
		for range 4 { // more than a memtable
			batch := make([]wallet.Payment, MaxCommit)
			for n := range batch {
				batch[n] = ownIssue(payments + n)
			}
			payments += len(send(t, e, batch...))
		}
		mustClose(t, e)
		if err := mem.RemoveAll("db/state"); err != nil { // so that all of it is done again
			t.Fatal(err)
		}
		var full atomic.Bool
		full.Store(true)
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if full.Load() && strings.HasSuffix(op.Path, match) && (op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpFileWriteAt) {
				return syscall.ENOSPC
			}
			return nil
		}))
		_, err := openPebble("db", small(Options{Fatal: func(err error) { t.Errorf("fatal: %v", err) }}), fs)
		if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%s: %v", what, err)
		}
		full.Store(false) // lets the flush end, and with it what held the folder
		for err = errors.New("not yet"); err != nil; {
			if e, err = openPebble("db", small(Options{}), mem); err == nil && e.Seq() != uint64(payments) {
				t.Errorf("%s: with room again there are %d of %d payments", what, e.Seq(), payments)
			}
		}
		mustClose(t, e)
	}
}

// TestFullDiskAnywhere: whichever write of an opening or of a close is the first that finds no room, the
// opening is refused in one line or the engine ends, and neither waits for room. With room again every
// payment is there. Method: stores that a kill and a close left, and nothing at all, and an n-th write for
// every n. A wait for room never ends here. Pebble's manifest always has room: a flush that failed there
// is tried for ever even with room again, which no test can end (TestFullDiskAtARestart has it).
func TestFullDiskAnywhere(t *testing.T) {
	stores := map[string]*damaged{"new": {}, "killed": newDamaged(t, false), "closed": newDamaged(t, true)}
	takesRoom := []errorfs.OpKind{
		errorfs.OpFileWrite, errorfs.OpFileWriteAt, errorfs.OpCreate, errorfs.OpRename, errorfs.OpLink, errorfs.OpMkdirAll, errorfs.OpReuseForWrite,
	}
	blank := newDamaged(t, false)
	for name := range blank.files {
		if strings.HasPrefix(name, stateDir) {
			delete(blank.files, name)
		}
	}
	stores["without a state"] = blank
	for what, d := range stores {
		refused, failed := 0, 0
		for n := int64(0); ; n++ {
			mem := vfs.NewMem()
			d.put(t, mem)
			var writes atomic.Int64
			var roomy atomic.Bool
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if slices.Contains(takesRoom, op.Kind) && !strings.Contains(op.Path, "MANIFEST") && writes.Add(1) > n && !roomy.Load() {
					return syscall.ENOSPC
				}
				return nil
			}))
			e, err := openPebble("db", small(Options{Fatal: func(err error) { saysNoRoom(t, what, n, err) }}), fs)
			if err != nil {
				refused++
				saysNoRoom(t, what, n, err)
			} else if err := e.Close(); err != nil {
				failed++
				saysNoRoom(t, what, n, errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))) // as the node's command has it
			}
			met := writes.Load() > n
			roomy.Store(true) // lets what is stuck in Pebble end, and with it what held the folder
			for err = errors.New("not yet"); err != nil; {
				if e, err = openPebble("db", small(Options{}), mem); err == nil && e.Seq() != d.seen {
					t.Errorf("%s, write %d: with room again there are %d of %d payments", what, n, e.Seq(), d.seen)
				}
			}
			mustClose(t, e)
			if !met {
				break
			}
		}
		t.Logf("%s: %d openings and %d closes found no room", what, refused, failed)
		if refused == 0 {
			t.Errorf("%s: no opening found no room", what)
		}
	}
}

func saysNoRoom(t *testing.T, what string, n int64, err error) {
	t.Helper()
	if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("%s, write %d: %v", what, n, err)
	}
}

// TestPruning: payments go when they are older than the retention, whole segments at a time, the
// oldest first, with their keys, and nothing else does; a key is then free. Whatever a crash leaves
// of it is finished by the next opening, and the store is sound all the way.
func TestPruning(t *testing.T) {
	fs := vfs.NewCrashableMem()
	var now, elapsed atomic.Int64
	now.Store(start)
	opts := small(Options{
		Now: now.Load, Elapsed: func() time.Duration { return time.Duration(elapsed.Load()) },
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	e, err := openPebble("db", opts, fs)
	if err != nil {
		t.Fatal(err)
	}
	d := fillStore(t, e, 30)
	e.opts.Retention = MinRetention
	if removed, err := e.pruneOldest(); removed || err != nil {
		t.Errorf("young payments: removed %v, %v", removed, err)
	}
	now.Add(int64(MinRetention) + int64(time.Hour))
	if removed, err := e.pruneOldest(); removed || err != nil {
		t.Errorf("no payment says that the time is right: removed %v, %v", removed, err)
	}
	send(t, e, ownIssue(1))
	mustApply(t, e)
	if removed, err := e.pruneOldest(); removed || err != nil {
		t.Errorf("a clock that went ahead, and a payment by it: removed %v, %v", removed, err)
	}
	elapsed.Add(int64(MinRetention) + int64(time.Hour))
	segments := 0
	clones := []*vfs.MemFS{}
	for {
		clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{}))
		removed, err := e.pruneOldest()
		if err != nil {
			t.Fatal(err)
		}
		if !removed {
			break
		}
		segments++
	}
	if segments < 2 {
		t.Fatalf("%d segments were removed", segments)
	}
	pruned, err := load[prunedRow](e.db, []byte(prunedKey))
	if err != nil {
		t.Fatal(err)
	}
	checkPruned(t, e, d, pruned.first)
	mustClose(t, e)
	clones = append(clones, fs)
	for i, clone := range clones {
		checkSound(t, clone, fmt.Sprintf("clone %d", i))
		again, err := openPebble("db", opts, clone)
		if err != nil {
			t.Fatal(err)
		}
		again.opts.Retention = MinRetention
		for more := true; more; {
			if more, err = again.pruneOldest(); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, again)
		checkSound(t, clone, fmt.Sprintf("clone %d afterwards", i))
	}
}

func checkSound(t *testing.T, fs vfs.FS, what string) {
	t.Helper()
	if r, err := verifyPebble(context.Background(), "db", fs, func(int64, int64) {}); err != nil || r.Faults > 0 {
		t.Errorf("%s: %v, %+v", what, err, r)
	}
}

func checkPruned(t *testing.T, e *pebbleEngine, d *damaged, first uint64) {
	t.Helper()
	ctx := context.Background()
	for _, a := range d.answers {
		_, _, byID := e.Transaction(ctx, a.result.Receipt.TxID)
		_, _, byKey := e.Payment(ctx, a.transfer.Holder(), a.transfer.Idem)
		if gone := a.result.Seq < first; errors.Is(byID, wallet.NotFound) != gone || errors.Is(byKey, wallet.NotFound) != gone {
			t.Errorf("payment %d, kept from %d: %v, %v", a.result.Seq, first, byID, byKey)
		}
	}
}
