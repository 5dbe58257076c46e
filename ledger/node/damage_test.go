package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"

	"svc-wallet/wallet"
)

// damaged is a store that can be copied and spoiled: all files of the folder db, by their paths in
// it, and what was answered from it.
type damaged struct {
	files   map[string][]byte
	seen    uint64
	answers []answer
}

// newDamaged makes a store of several segments, and takes its files from under it as a kill does,
// or after it was closed.
func newDamaged(t *testing.T, closed bool) *damaged {
	t.Helper()
	fs := vfs.NewCrashableMem()
	e := mustOpen(t, fs, "db")
	d := fillStore(t, e, 30)
	if closed {
		mustClose(t, e)
	}
	d.files = filesOf(t, fs, "db", "")
	if !closed {
		mustClose(t, e)
	}
	return d
}

// fillStore commits groups of four payments, and has the state written after a third of them.
func fillStore(t *testing.T, e *pebbleEngine, groups int) *damaged {
	t.Helper()
	var book ledgerBook
	for n := range groups {
		batch := make([]wallet.Payment, 0, 4)
		for payer := range 4 {
			batch = append(batch, payment(payer, n))
		}
		book.add(batch, send(t, e, batch...))
		if n == groups/3 {
			mustApply(t, e)
			if err := e.db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustApply(t, e)
	d := &damaged{}
	d.seen, d.answers = book.copy()
	return d
}

// mustApply waits until the state has everything that is durable.
func mustApply(t testing.TB, e *pebbleEngine) {
	t.Helper()
	if err := e.applied.await(context.Background(), e.Seq()); err != nil {
		t.Fatal(err)
	}
}

func filesOf(t *testing.T, fs vfs.FS, dir, under string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	names, err := fs.List(fs.PathJoin(dir, under))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		file := path.Join(under, name)
		info, err := fs.Stat(fs.PathJoin(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			for name, data := range filesOf(t, fs, dir, file) {
				files[name] = data
			}
			continue
		}
		f, err := fs.Open(fs.PathJoin(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		files[file] = data
	}
	return files
}

// put writes the files into the folder db of a file system.
func (d *damaged) put(t *testing.T, fs vfs.FS) {
	t.Helper()
	for file, data := range d.files {
		name := fs.PathJoin("db", file)
		if err := fs.MkdirAll(fs.PathDir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = f.Write(append([]byte(nil), data...)); err != nil { // under -race MemFS spoils what it is given to write
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// spoiled is a copy in which one file was changed; change returns nil to remove it.
func (d *damaged) spoiled(name string, change func([]byte) []byte) *damaged {
	c := &damaged{map[string][]byte{}, d.seen, d.answers}
	for file, data := range d.files {
		if file == name {
			if data = change(append([]byte(nil), data...)); data == nil {
				continue
			}
		}
		c.files[file] = data
	}
	return c
}

// open opens a copy, and sees to it that a refusal changes nothing that the state cannot be made from.
func (d *damaged) open(t *testing.T) (*pebbleEngine, error) {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll("db", 0o700); err != nil {
		t.Fatal(err)
	}
	d.put(t, fs)
	opts := small(Options{})
	var opened atomic.Bool
	defer opened.Store(true)
	opts.Fatal = func(err error) {
		if !opened.Load() { // it would end the process before the refusal is told
			t.Errorf("fatal while opening: %v", err)
		}
	}
	e, err := openPebble("db", opts, fs)
	if err != nil {
		for file, data := range filesOf(t, fs, "db", "") {
			if was, ok := d.files[file]; (!ok || string(was) != string(data)) && file != "LOCK" && !strings.HasPrefix(file, stateDir+"/") {
				t.Errorf("a refusal changed %s", file)
			}
		}
	}
	return e, err
}

// check fails where the store opened and then has other answers than it gave. Errors are right
// answers of a damaged store; silence is not.
func (d *damaged) check(t *testing.T, e *pebbleEngine, err error) (refused bool) {
	t.Helper()
	if err != nil {
		if !strings.Contains(err.Error(), "db: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("refused without naming the folder, or in more than one line: %v", err)
		}
		return true
	}
	defer func() { _ = e.Close() }()
	if e.Seq() < d.seen {
		t.Errorf("version %d was shown, the damaged store opened at %d", d.seen, e.Seq())
	}
	for _, a := range d.answers {
		r, _, err := e.Transaction(context.Background(), a.result.Receipt.TxID)
		if errors.Is(err, wallet.NotFound) || (err == nil && r != a.result.Receipt) {
			t.Errorf("%s reads as %+v, %v", a.result.Receipt.TxID, r, err)
		}
		out := send(t, e, a.transfer)[0]
		if out.Code != wallet.Replayed && out.Code != wallet.Uncertain {
			t.Errorf("%s is paid again, or refused: %s", a.result.Receipt.TxID, out.Code.Name())
		}
	}
	return false
}

// TestDamageIsNeverSilent: one flipped byte anywhere in any file of journal or state, or a file cut
// short or lost, never makes a store that opens and lacks something, or pays again what was paid.
// It is refused with a text that names the folder, or reads that meet it fail, or it was a byte that
// means nothing.
func TestDamageIsNeverSilent(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, closed := range []bool{false, true} {
		d := newDamaged(t, closed)
		for name, data := range d.files {
			t.Run(fmt.Sprintf("closed=%v/%s", closed, name), func(t *testing.T) {
				refused, tried := 0, 0
				try := func(what string, change func([]byte) []byte) {
					spoiled := d.spoiled(name, change)
					e, err := spoiled.open(t)
					tried++
					if d.check(t, e, err) {
						refused++
					}
					if t.Failed() {
						t.Fatal(what)
					}
				}
				for range trials(min(len(data), 12)) {
					at, bit := rng.IntN(len(data)), byte(1)<<rng.IntN(8)
					try(fmt.Sprintf("flipped %#x at %d of %d", bit, at, len(data)), func(b []byte) []byte { b[at] ^= bit; return b })
				}
				for range trials(min(len(data), 3)) {
					at := rng.IntN(len(data))
					try(fmt.Sprintf("cut at %d of %d", at, len(data)), func(b []byte) []byte { return b[:at] })
				}
				try("removed", func([]byte) []byte { return nil })
				t.Logf("%d bytes: %d of %d refused", len(data), refused, tried)
			})
		}
	}
}

// trials is how many of n there is time for.
func trials(n int) int {
	if underRace {
		return (n + 5) / 6
	}
	return n
}

// segmentsOf are the names of the journal's files, in order.
func (d *damaged) segmentsOf() (names []string) {
	for file := range d.files {
		if strings.HasPrefix(file, journalDir+"/") {
			names = append(names, file)
		}
	}
	slices.Sort(names)
	return names
}

// borders are the ends of the records of a segment.
func borders(t *testing.T, data []byte) (ends []int) {
	t.Helper()
	at := headerSize
	for at+recordHead < len(data) && binary.BigEndian.Uint32(data[at:]) != 0 {
		at += recordHead + int(binary.BigEndian.Uint32(data[at+4:])) + recordTail
		ends = append(ends, at)
	}
	return ends
}

// TestLostSegmentIsRefused: a start notices that a segment of the journal, the oldest, the newest or
// one between, is removed, empty, cut at its header or at any record's border, replaced by another of
// the same ledger or by one of another ledger. Nothing is paid again.
func TestLostSegmentIsRefused(t *testing.T) {
	for _, closed := range []bool{false, true} {
		d := newDamaged(t, closed)
		names, other := d.segmentsOf(), newDamaged(t, closed)
		if len(names) < 4 {
			t.Fatalf("only %d segments", len(names))
		}
		for i, name := range names {
			changes := map[string]func([]byte) []byte{
				"removed":                      func([]byte) []byte { return nil },
				"empty":                        func([]byte) []byte { return []byte{} },
				"cut at its header":            func(b []byte) []byte { return b[:headerSize] },
				"replaced by its neighbour":    func([]byte) []byte { return d.files[names[(i+1)%len(names)]] },
				"replaced by another ledger's": func([]byte) []byte { return other.files[name] },
				"nothing but zeros":            func(b []byte) []byte { return make([]byte, len(b)) },
				"its records are zeros":        func(b []byte) []byte { return append(b[:headerSize:headerSize], make([]byte, len(b))...) },
				"its last record is overwritten": func(b []byte) []byte {
					ends := borders(t, b)
					return append(b[:ends[len(ends)-1]-40], make([]byte, 40)...)
				},
			}
			for _, end := range borders(t, d.files[name])[:len(borders(t, d.files[name]))-1] {
				changes[fmt.Sprintf("cut at record border %d", end)] = func(b []byte) []byte { return b[:end] }
				changes[fmt.Sprintf("zeros from record border %d", end)] = func(b []byte) []byte {
					return append(b[:end:end], make([]byte, len(b)-end)...)
				}
			}
			for what, change := range changes {
				if e, err := d.spoiled(name, change).open(t); err == nil {
					t.Errorf("closed %v: %s %s: it opened at version %d of %d", closed, name, what, e.Seq(), d.seen)
					mustClose(t, e)
				} else if !strings.Contains(err.Error(), "node: db: the store is damaged: ") {
					t.Errorf("%s %s: %v", name, what, err)
				}
			}
		}
	}
}

// TestPaidTwiceAfterALostLog is how the loss of an older log was found: on real files, a dozen
// accounts pay until there is a second segment, each pays once more, the process is killed, and the
// first segment is lost. The node must not start. (A copy of the folder from under the running engine
// is what a kill leaves.)
func TestPaidTwiceAfterALostLog(t *testing.T) {
	dir := t.TempDir()
	e := mustOpen(t, vfs.Default, dir)
	defer mustClose(t, e)
	accounts := make([]wallet.Account, 12)
	pay := func(i, n int) {
		tr := payment(0, 0)
		tr.To, tr.Nonce, tr.Idem = accounts[i], uint64(n+1), wallet.Must(wallet.ParseIdemKey(fmt.Sprint("key-", n)))
		tr.Fingerprint = tr.Hash()
		if r := send(t, e, tr)[0]; r.Code != wallet.OK {
			t.Fatal(r.Code.Name())
		}
	}
	rounds := 0
	for n := 0; n < 2; rounds++ {
		for i := range accounts {
			accounts[i] = wallet.Must(wallet.ParseAccount(fmt.Sprint("dozen-", i)))
			pay(i, rounds)
		}
		names, err := vfs.Default.List(vfs.Default.PathJoin(dir, journalDir))
		if err != nil {
			t.Fatal(err)
		}
		n = len(names)
	}
	for i := range accounts {
		pay(i, rounds)
	}
	mustApply(t, e)
	d := &damaged{files: filesOf(t, vfs.Default, dir, "")}
	oldest := d.segmentsOf()[0]
	for what, change := range map[string]func([]byte) []byte{
		"removed":               func([]byte) []byte { return nil },
		"truncated to 0":        func([]byte) []byte { return []byte{} },
		"truncated to a record": func(b []byte) []byte { return b[:borders(t, b)[3]] },
		"as it was":             func(b []byte) []byte { return b },
	} {
		copied := t.TempDir()
		onDisk(t, d.spoiled(oldest, change), copied)
		again, err := openPebble(copied, small(Options{}), vfs.Default)
		switch {
		case err == nil && what == "as it was":
			mustClose(t, again)
		case err == nil:
			t.Errorf("%s: it started with %d payments", what, again.Seq())
			mustClose(t, again)
		case what == "as it was" || !strings.Contains(err.Error(), "the store is damaged"):
			t.Errorf("%s: %v", what, err)
		}
	}
}

// onDisk writes the files into a real folder.
func onDisk(t *testing.T, d *damaged, dir string) {
	t.Helper()
	for file, data := range d.files {
		name := vfs.Default.PathJoin(dir, file)
		if err := vfs.Default.MkdirAll(vfs.Default.PathDir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := vfs.Default.Create(name, vfs.WriteCategoryUnspecified)
		if err == nil {
			_, err = f.Write(data)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDurableIsLost: without the file that says what was durable, or with one that a power cut left
// at an older version, a whole journal opens as it is.
func TestDurableIsLost(t *testing.T) {
	d := newDamaged(t, false)
	older := newDamaged(t, false).files[durableName]
	for what, change := range map[string]func([]byte) []byte{
		"removed":         func([]byte) []byte { return nil },
		"empty":           func([]byte) []byte { return []byte{} },
		"one slot is bad": func(b []byte) []byte { b[10] ^= 1; return b },
		"stale":           func([]byte) []byte { return older[:durableSize] },
	} {
		e, err := d.spoiled(durableName, change).open(t)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if e.Seq() != d.seen {
			t.Errorf("%s: it opened at %d of %d", what, e.Seq(), d.seen)
		}
		mustClose(t, e)
	}
}

// TestDurableIsMissed: with no word of how far the journal was acknowledged, a cut end would pass for
// one that was never written. So verify calls it a fault and a start tells of it, once: it makes the
// file anew. So they do where one of its two marks is damaged.
func TestDurableIsMissed(t *testing.T) {
	d := newDamaged(t, false)
	for what, missed := range map[string]struct {
		change func([]byte) []byte
		told   string
	}{
		"whole":              {func(b []byte) []byte { return b }, ""},
		"both slots are bad": {func(b []byte) []byte { b[10] ^= 1; b[durableApart+10] ^= 1; return b }, "durable_lost"},
		"removed":            {func([]byte) []byte { return nil }, "durable_lost"},
		"empty":              {func([]byte) []byte { return []byte{} }, "durable_lost"},
		"one slot is bad":    {func(b []byte) []byte { b[10] ^= 1; return b }, "durable_damaged"},
		"the other is bad":   {func(b []byte) []byte { b[durableApart+10] ^= 1; return b }, "durable_damaged"},
		"cut behind a slot":  {func(b []byte) []byte { return b[:durableSize] }, "durable_damaged"},
		"cut before a slot":  {func(b []byte) []byte { return b[:durableApart] }, "durable_damaged"},
	} {
		fs := vfs.NewMem()
		d.spoiled(durableName, missed.change).put(t, fs)
		r, err := verifyPebble(context.Background(), "db", fs, func(int64, int64) {})
		if err != nil || (r.Faults > 0) != (missed.told != "") {
			t.Errorf("%s: verify says %+v, %v", what, r, err)
		}
		for _, told := range []string{missed.told, ""} {
			log, hook := logrustest.NewNullLogger()
			e, err := openPebble("db", small(Options{Log: log}), fs)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			mustClose(t, e)
			said := ""
			for _, l := range hook.AllEntries() {
				if l.Level <= logrus.WarnLevel {
					said += l.Message
				}
			}
			if said != told {
				t.Errorf("%s: it said %q, want %q", what, said, told)
			}
		}
	}
}

// TestTornEnd: the newest record may be torn by a crash before it was told of. The store opens with
// every payment before it, goes on, and nothing of the torn one ever comes back.
func TestTornEnd(t *testing.T) {
	d := newDamaged(t, false)
	names := d.segmentsOf()
	newest := names[len(names)-1]
	ends := borders(t, d.files[newest])
	last, end := headerSize, ends[len(ends)-1]
	if len(ends) > 1 {
		last = ends[len(ends)-2]
	}
	before := d.seen - 4 // the last group
	told := d.vouchedUpTo(before)
	for torn := last + 1; torn < end; torn += 1 + (end-last)/trials(60) {
		for what, change := range map[string]func([]byte) []byte{
			"cut":   func(b []byte) []byte { return b[:torn] },
			"zeros": func(b []byte) []byte { clear(b[torn:]); return b },
			"hole":  func(b []byte) []byte { clear(b[last : last+1+(torn-last)/2]); return b },
		} {
			e, err := told.spoiled(newest, change).open(t)
			if err != nil {
				t.Fatalf("%s at %d of %d..%d: %v", what, torn, last, end, err)
			}
			if e.Seq() != before {
				t.Fatalf("%s at %d of %d..%d: version %d, want %d", what, torn, last, end, e.Seq(), before)
			}
			send(t, e, ownIssue(1))
			mustClose(t, e)
			again, err := openPebble("db", small(Options{}), e.fs)
			if err != nil || again.Seq() != before+1 {
				t.Fatalf("%s at %d, afterwards: %v", what, torn, err)
			}
			mustClose(t, again)
		}
	}
}

// vouchedUpTo is a copy in which the file durable says that payment seq was made durable last.
func (d *damaged) vouchedUpTo(seq uint64) *damaged {
	return d.spoiled(durableName, func([]byte) []byte {
		slot := binary.BigEndian.AppendUint64([]byte(durableMagic), seq)
		slot = binary.BigEndian.AppendUint32(slot, checksum(slot))
		return append(append(slot, make([]byte, durableApart-durableSize)...), slot...)
	})
}

// TestNothingIsCutUnvouched: where the file durable is lost, or has lost the mark that would tell, a start
// does not cut off what may be payments that were acknowledged and then damaged: it refuses, changes
// nothing and says how to go on, and that way leads to a store that starts without them. Method: flipped
// bits in the last records of a killed store, and in the header and the record of a segment that has only one.
func TestNothingIsCutUnvouched(t *testing.T) {
	d := newDamaged(t, false)
	names := d.segmentsOf()
	newest := names[len(names)-1]
	lost := func(d *damaged) *damaged { return d.spoiled(durableName, func([]byte) []byte { return nil }) }
	half := func(d *damaged) *damaged {
		return d.spoiled(durableName, func(b []byte) []byte { b[10] ^= 1; return b })
	}
	flipped := func(from int) *damaged { // in every record from that one on, by its number from the end
		return d.spoiled(newest, func(b []byte) []byte {
			ends := append([]int{headerSize}, borders(t, b)...)
			for _, at := range ends[max(0, len(ends)-1-from) : len(ends)-1] {
				b[at+recordHead+9] ^= 4
			}
			return b
		})
	}
	headless := func(b []byte) []byte { b[20] ^= 1; return b }
	for what, c := range map[string]*damaged{
		"lost, one record":               lost(flipped(1)),
		"lost, all records of a segment": lost(flipped(100)),
		"lost, and the header too":       lost(flipped(100).spoiled(newest, headless)),
		"half lost, one record":          half(flipped(1).vouchedUpTo(d.seen - 4)),
	} {
		e, err := c.open(t)
		if err == nil {
			t.Errorf("%s: it opened at %d of %d", what, e.Seq(), d.seen)
			mustClose(t, e)
			continue
		}
		var cut int
		_, how, ok := strings.Cut(err.Error(), "run truncate -s ")
		if _, scan := fmt.Sscan(how, &cut); !ok || scan != nil {
			t.Fatalf("%s: it says only %v", what, err)
		}
		if r, err := c.verified(t); err != nil || r.Faults == 0 {
			t.Errorf("%s: verify says %+v, %v", what, r, err)
		}
		if e, err = c.spoiled(newest, func(b []byte) []byte { return b[:cut] }).open(t); err != nil {
			t.Errorf("%s: cut at %d as it says: %v", what, cut, err)
			continue
		}
		mustClose(t, e)
	}
}

// TestStateIsRemade: a state that is lost is made again from the journal, and is the same.
func TestStateIsRemade(t *testing.T) {
	d := newDamaged(t, true)
	lost := &damaged{map[string][]byte{}, d.seen, d.answers}
	for file, data := range d.files {
		if !strings.HasPrefix(file, stateDir+"/") {
			lost.files[file] = data
		}
	}
	was, err := d.open(t)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, was)
	is, err := lost.open(t)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, is)
	if a, b := dump(t, was.db), dump(t, is.db); a != b {
		t.Errorf("the state was\n%s\nand is\n%s", a, b)
	}
}

func dump(t *testing.T, db *pebble.DB) string {
	t.Helper()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for ok := it.First(); ok; ok = it.Next() {
		fmt.Fprintf(&b, "%x %x\n", it.Key(), it.Value())
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestRefusedStores: what is no store of this format is refused with a text that says so.
func TestRefusedStores(t *testing.T) {
	newer := newDamaged(t, true)
	first := newer.segmentsOf()[0]
	for name, c := range map[string]struct {
		d    *damaged
		want string
	}{
		"format 1": {&damaged{files: map[string][]byte{"MANIFEST-000001": {1}, "000002.log": {}}}, "the store has format 1, which had no journal and is not read any more"},
		"a newer format": {newer.spoiled(first, func(b []byte) []byte {
			b[11]++
			binary.BigEndian.PutUint32(b[headerSize-4:], checksum(b[:headerSize-4]))
			return b
		}), "written by a newer version: the store has format 3, this version knows 2"},
		"a stranger in the journal": {&damaged{files: map[string][]byte{"journal/notes.txt": {}}}, "notes.txt: has no place in the journal"},
		"tables without a manifest": {&damaged{files: map[string][]byte{"state/000007.sst": {}}}, "no manifest that tells what they are"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := c.d.open(t); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "node: db: ") {
				t.Fatalf("got %v, want …%s…", err, c.want)
			}
		})
	}
}

// TestFolderInUse: a second engine on the folder is refused, and the first goes on.
func TestFolderInUse(t *testing.T) {
	dir := t.TempDir()
	e := mustOpen(t, vfs.Default, dir)
	if _, err := OpenPebble(dir, Options{Now: frozen}); err == nil || !strings.Contains(err.Error(), dir+": the folder is in use by another process") {
		t.Errorf("got %v", err)
	}
	mustClose(t, e)
	e = mustOpen(t, vfs.Default, dir)
	mustClose(t, e)
}

// TestNewerPebble: a state that a newer Pebble wrote is refused, naming the folder.
func TestNewerPebble(t *testing.T) {
	d := newDamaged(t, true)
	for name, data := range d.files {
		if strings.HasPrefix(name, "state/marker.format-version.") {
			delete(d.files, name)
			d.files[name[:len(name)-3]+"900"] = data
		}
	}
	if _, err := d.open(t); err == nil || !strings.Contains(err.Error(), "db: ") || !strings.Contains(err.Error(), "900") {
		t.Errorf("got %v", err)
	}
}

// TestUnwritableFolder: a folder that cannot be made is refused.
func TestUnwritableFolder(t *testing.T) {
	if _, err := OpenPebble("/dev/null/db", Options{Now: frozen}); err == nil || !strings.Contains(err.Error(), "/dev/null/db: cannot make the folder") {
		t.Errorf("got %v", err)
	}
}
