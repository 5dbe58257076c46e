package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"svc-wallet/wallet"
)

// damaged is a store that can be copied and spoiled: all files of the folder db, and what was
// answered from it.
type damaged struct {
	files   map[string][]byte
	seen    uint64
	answers []answer
}

// newDamaged makes a store of some groups, and takes its files from under it as a power cut does,
// or after it was closed.
func newDamaged(t *testing.T, closed bool) *damaged {
	t.Helper()
	fs := vfs.NewCrashableMem()
	e := mustOpen(t, fs, "db")
	var book ledgerBook
	for n := range 30 {
		batch := make([]wallet.Transfer, 0, 4)
		for payer := range 4 {
			batch = append(batch, payment(payer, n))
		}
		out := make([]wallet.Result, len(batch))
		if err := e.Commit(context.Background(), batch, out); err != nil {
			t.Fatal(err)
		}
		book.add(batch, out)
		if n == 10 { // some of it in a table, the rest in the log
			if err := e.db.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	d := &damaged{files: map[string][]byte{}}
	d.seen, d.answers = book.copy()
	if closed {
		mustClose(t, e)
	} else {
		mustRest(t, e)
	}
	names, err := fs.List("db")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := readFile(fs, fs.PathJoin("db", name))
		if err != nil {
			t.Fatal(err)
		}
		d.files[name] = data
	}
	if !closed {
		mustClose(t, e)
	}
	return d
}

// mustRest waits until the engine has left its mark at rest.
func mustRest(t *testing.T, e *pebbleEngine) {
	t.Helper()
	for durable := uint64(0); durable < e.Seq(); {
		at, _, err := vouched("db", e.fs)
		if err != nil {
			t.Fatal(err)
		}
		durable = at
	}
}

// open opens a copy in which one file was changed; change returns nil to remove it.
func (d *damaged) open(t *testing.T, name string, change func([]byte) []byte) (*pebbleEngine, error) {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll("db", 0o700); err != nil {
		t.Fatal(err)
	}
	for file, data := range d.files {
		data = append([]byte(nil), data...) // under -race MemFS spoils what it is given to write
		if file == name {
			if data = change(data); data == nil {
				continue
			}
		}
		f, err := fs.Create(fs.PathJoin("db", file), vfs.WriteCategoryUnspecified)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = f.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var opened atomic.Bool
	defer opened.Store(true)
	return openPebble("db", Options{Now: frozen, Fatal: func(err error) {
		if !opened.Load() { // it would end the process before the refusal is told
			t.Errorf("fatal while opening: %v", err)
		}
	}}, fs)
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
	}
	return false
}

// TestDamageIsRefused: one flipped byte anywhere in any file, or a file cut short or lost, never
// makes a store that opens and lacks something. It is refused with a text that names the folder,
// or it was a byte that means nothing.
func TestDamageIsRefused(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, closed := range []bool{false, true} {
		d := newDamaged(t, closed)
		for name, data := range d.files {
			kind := name[:min(strings.IndexAny(name+".-", ".-"), len(name))]
			if i := strings.LastIndexByte(name, '.'); i > 0 && kind != "marker" {
				kind = name[i+1:]
			}
			t.Run(fmt.Sprintf("closed=%v/%s", closed, name), func(t *testing.T) {
				refused, tried := 0, 0
				try := func(what string, change func([]byte) []byte) {
					e, err := d.open(t, name, change)
					tried++
					if d.check(t, e, err) {
						refused++
					}
					if t.Failed() {
						t.Fatal(what)
					}
				}
				for range trials(min(len(data), 60)) {
					at, bit := rng.IntN(len(data)), byte(1)<<rng.IntN(8)
					try(fmt.Sprintf("flipped %#x at %d of %d", bit, at, len(data)), func(b []byte) []byte { b[at] ^= bit; return b })
				}
				for range trials(min(len(data), 5)) {
					at := rng.IntN(len(data))
					if kind != "log" { // a log may lose its end: see TestTornLog
						try(fmt.Sprintf("cut at %d of %d", at, len(data)), func(b []byte) []byte { return b[:at] })
					}
				}
				if kind != "log" && kind != "LOCK" && kind != "OPTIONS" {
					try("removed", func([]byte) []byte { return nil })
				}
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

// TestTornLog: the end of the newest log may be torn, by a crash amid a write. The store opens
// with every group before.
func TestTornLog(t *testing.T) {
	d := newDamaged(t, false)
	for name, data := range d.files {
		if !strings.HasSuffix(name, ".log") || len(data) == 0 {
			continue
		}
		// What follows the last mark that was written with a group is that group, at most.
		last := strings.LastIndex(string(data[:len(data)-markSize-20]), markMagic) - 100
		for cut := len(data); cut > last; cut -= 1 + (len(data)-last)/trials(40) {
			e, err := d.open(t, name, func(b []byte) []byte { return b[:cut] })
			if err != nil {
				t.Fatalf("cut at %d of %d: %v", cut, len(data), err)
			}
			if e.Seq() < d.seen-8 {
				t.Errorf("cut at %d of %d: version %d of %d", cut, len(data), e.Seq(), d.seen)
			}
			mustClose(t, e)
		}
	}
}

// TestRefusedStores: what is no store of this version, is in use or does not balance is refused
// with a text that says so, and is left as it was.
func TestRefusedStores(t *testing.T) {
	set := func(key, value []byte) func(*pebble.Batch) {
		return func(b *pebble.Batch) { _ = b.Set(key, value, nil) }
	}
	asset := wallet.Must(wallet.ParseAsset("ron"))
	some := balanceRow{amount: wallet.Minor(5), seq: 1}
	key := appendBalanceKey(nil, wallet.BalanceKey{Account: wallet.Must(wallet.ParseAccount("thief")), Asset: asset})
	for name, c := range map[string]struct {
		change func(*pebble.Batch)
		want   string
	}{
		"newer":       {set([]byte(formatKey), binary.BigEndian.AppendUint32(nil, storeFormat+1)), "use a newer version"},
		"foreign":     {func(b *pebble.Batch) { _ = b.Delete([]byte(formatKey), nil); set(key, some.append(nil))(b) }, "no ledger store"},
		"stale":       {set(key, some.append(nil)), "rows are missing or stale"},
		"unbalanced":  {func(b *pebble.Batch) { forge(b, key, some.append(nil)) }, "do not balance"},
		"misshapen":   {set(key, []byte("x")), "has not the layout"},
		"odd name":    {set([]byte{kindBalance, 200, 'a'}, some.append(nil)), "has not the layout"},
		"odd asset":   {set([]byte{kindSupply, ' '}, some.append(nil)), "has not the layout"},
		"odd format":  {set([]byte(formatKey), []byte("x")), "has not the layout"},
		"odd head":    {set([]byte(headKey), []byte("x")), "has not the layout"},
		"odd ledger":  {set([]byte(ledgerKey), []byte("x")), "has not the layout"},
		"head behind": {func(b *pebble.Batch) { _ = b.LogData(appendMark(nil, 99), nil) }, "has lost commits: version 99"},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			mustClose(t, mustOpen(t, fs, "db"))
			db, err := pebble.Open("db", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: pebbleLogger{&pebbleEngine{opts: Options{}.withDefaults()}}})
			if err != nil {
				t.Fatal(err)
			}
			b := db.NewBatch()
			c.change(b)
			if err := errors.Join(db.Apply(b, pebble.Sync), b.Close(), db.Close()); err != nil {
				t.Fatal(err)
			}
			for range 2 { // it is refused again
				_, err = openPebble("db", Options{Now: frozen}, fs)
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "node: db: ") {
					t.Fatalf("got %v, want …%s…", err, c.want)
				}
			}
		})
	}
}

// forge adds a balance with the right digest, as a bug of ours might.
func forge(b *pebble.Batch, key, row []byte) {
	h := headRow{digest: rowHash(key, row)}
	_ = b.Set(key, row, nil)
	_ = b.Set([]byte(headKey), h.append(nil), nil)
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

// TestNewerPebble: a store that a newer Pebble wrote is refused, naming the folder.
func TestNewerPebble(t *testing.T) {
	d := newDamaged(t, true)
	for name, data := range d.files {
		if strings.HasPrefix(name, "marker.format-version.") {
			delete(d.files, name)
			d.files[name[:len(name)-3]+"900"] = data
		}
	}
	if _, err := d.open(t, "", nil); err == nil || !strings.Contains(err.Error(), "db: ") || !strings.Contains(err.Error(), "900") {
		t.Errorf("got %v", err)
	}
}

// TestUnwritableFolder: a folder that cannot be made is refused.
func TestUnwritableFolder(t *testing.T) {
	if _, err := OpenPebble("/dev/null/db", Options{Now: frozen}); err == nil || !strings.Contains(err.Error(), "/dev/null/db: cannot make the folder") {
		t.Errorf("got %v", err)
	}
}

// TestHighestMark: marks are found anywhere, the highest counts, and damaged ones do not.
func TestHighestMark(t *testing.T) {
	junk := strings.Repeat("x\xb6wallet", 3)
	data := []byte(junk)
	data = append(appendMark(data, 7), junk...)
	data = append(appendMark(data, 300), junk...)
	data = append(appendMark(data, 9), markMagic...)
	if got := highestMark(data); got != 300 {
		t.Errorf("got %d, want 300", got)
	}
	data[strings.Index(string(data), "\x01\x2c")] ^= 4 // the 300
	if got := highestMark(data); got != 9 {
		t.Errorf("got %d, want 9", got)
	}
	for i := range data {
		highestMark(data[:i])
	}
}
