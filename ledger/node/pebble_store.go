package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"

	"svc-wallet/wallet"
)

// pebbleStore is the rows in Pebble, for one goroutine. State rows and keys it reads through one
// iterator a group, because a Get does not use the filters of the last level, where most of the
// data is (IterOptions.UseL6Filters): most keys asked for are new, and each would cost the read of
// a data block.
type pebbleStore struct {
	db  *pebble.DB
	it  *pebble.Iterator // sees the store as it was at the first read after rest
	buf []byte
}

// rest lets go of what the iterator pins. The next read sees what was written since.
func (s *pebbleStore) rest() error {
	if s.it == nil {
		return nil
	}
	err := s.it.Close()
	s.it = nil
	return err
}

func (s *pebbleStore) account(k wallet.Account) (accountRow, error) {
	s.buf = appendAccountKey(s.buf[:0], k)
	return seek[accountRow](s)
}

func (s *pebbleStore) balance(k wallet.BalanceKey) (balanceRow, error) {
	s.buf = appendBalanceKey(s.buf[:0], k)
	return seek[balanceRow](s)
}

func (s *pebbleStore) supply(k wallet.Asset) (supplyRow, error) {
	s.buf = appendSupplyKey(s.buf[:0], k)
	return seek[supplyRow](s)
}

func (s *pebbleStore) key(k keyName) (keyRow, error) {
	s.buf = appendKeyKey(s.buf[:0], k)
	return seek[keyRow](s)
}

// seek reads the row under s.buf; the zero row where there is none.
func seek[R any, P interface {
	*R
	decode([]byte) error
}](s *pebbleStore) (row R, err error) {
	if s.it == nil {
		if s.it, err = s.db.NewIter(&pebble.IterOptions{UseL6Filters: true}); err != nil {
			return row, err
		}
	}
	if !s.it.SeekPrefixGE(s.buf) {
		return row, s.it.Error()
	}
	value, err := s.it.ValueAndErr()
	if err != nil {
		return row, err
	}
	return row, P(&row).decode(value)
}

func (s *pebbleStore) receipt(id wallet.TxID) (receiptRow, error) { return loadReceipt(s.db, id) }

// loadReceipt reads a receipt; the zero row where there is none.
func loadReceipt(from pebble.Reader, id wallet.TxID) (r receiptRow, err error) {
	value, closer, err := from.Get(appendReceiptKey(nil, id))
	if errors.Is(err, pebble.ErrNotFound) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	err = r.decode(id, value)
	return r, errors.Join(err, closer.Close())
}

// load reads a row; the zero row where there is none.
func load[R any, P interface {
	*R
	decode([]byte) error
}](from pebble.Reader, key []byte) (row R, err error) {
	value, closer, err := from.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return row, nil
	}
	if err != nil {
		return row, err
	}
	err = P(&row).decode(value)
	return row, errors.Join(err, closer.Close())
}

// A mark is written into Pebble's log with every group, and when the engine comes to rest. It
// says which version was durable by then, and so it vouches for the log before it.
//
// Why: Pebble takes a damaged place in its newest log, or in its manifest, for the torn end of a
// crash and drops what follows. It means to notice by the sync offsets in the chunks behind
// (FormatWALSyncChunks), but it looks only at later 32 KiB blocks, and v2.1.7 counts whole blocks
// out of the offset, so that most damage to acknowledged commits passes silently
// (TestDamagedLogIsRefused). Marks survive in the bytes behind the damage, and no store is opened
// that stands before the highest of them.
//
// Layout: magic 8, version 8, CRC-32C of both 4.
const markMagic = "\xb6wallet\x01"

const markSize = len(markMagic) + 8 + 4

func appendMark(dst []byte, durable uint64) []byte {
	at := len(dst)
	dst = binary.BigEndian.AppendUint64(append(dst, markMagic...), durable)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[at:], crc32.MakeTable(crc32.Castagnoli)))
}

// highestMark is the highest version that a mark in data vouches for; 0 where there is none. A
// mark that Pebble cut in two at a chunk's border is missed, which the next one makes good.
func highestMark(data []byte) (durable uint64) {
	for {
		at := bytes.Index(data, []byte(markMagic))
		if at < 0 || len(data)-at < markSize {
			return durable
		}
		v := binary.BigEndian.Uint64(data[at+len(markMagic):])
		if bytes.Equal(data[at:at+markSize], appendMark(nil, v)) {
			durable = max(durable, v)
		}
		data = data[at+1:]
	}
}

// openStore locks the folder, checks the store without changing it and only then opens it: what
// Pebble takes for leftovers it deletes, which would destroy what a rescue needs.
func openStore(p *pebbleEngine) (db *pebble.DB, at headRow, ledger [16]byte, err error) {
	dir, fs := p.dir, p.fs
	refuse := func(what string, err error) (*pebble.DB, headRow, [16]byte, error) {
		if pebble.IsCorruptionError(err) {
			what = "the store is damaged"
		}
		return nil, headRow{}, ledger, &refusal{dir, what, err}
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return refuse("cannot make the folder", err)
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		return refuse("the folder is in use by another process, or cannot be locked", err)
	}
	defer func() { _ = lock.Close() }() // an open database holds it too
	opts := pebbleOptions(p, lock)
	if at, err = inspect(dir, opts); err != nil {
		return refuse("cannot open the store", err)
	}
	if db, err = pebble.Open(dir, opts); err != nil {
		return refuse("cannot open the store", err)
	}
	if ledger, err = begin(db, at); err != nil {
		return refuse("cannot write the store", errors.Join(err, db.Close()))
	}
	p.opened.Store(true) // first, so that a failure of this very moment is told by one of the two
	if failure := p.failure.Load(); failure != nil {
		return refuse("cannot open the store", errors.Join(*failure, db.Close()))
	}
	return db, at, ledger, nil
}

// refusal is why a folder is not opened, in one line: Pebble's errors have more for its authors.
type refusal struct {
	dir, what string
	cause     error
}

func (r *refusal) Error() string {
	return fmt.Sprintf("node: %s: %s: %s", r.dir, r.what, firstLine(r.cause.Error()))
}

// firstLine leaves out the stack traces that Pebble's texts go on with.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

func (r *refusal) Unwrap() error { return r.cause }

// begin puts a new store's first rows on the disk, and a mark into the fresh log. A store that was
// made before ledgers had names gets one.
func begin(db *pebble.DB, at headRow) (ledger [16]byte, err error) {
	name, err := load[nameRow](db, []byte(ledgerKey))
	if err != nil {
		return ledger, err
	}
	b := db.NewBatch()
	defer func() { _ = b.Close() }()
	if at.seq == 0 {
		_ = b.Set([]byte(formatKey), binary.BigEndian.AppendUint32(nil, storeFormat), nil)
		_ = b.Set([]byte(headKey), at.append(nil), nil)
	}
	if name == (nameRow{}) {
		name = nameRow(newName())
		_ = b.Set([]byte(ledgerKey), name[:], nil)
	}
	_ = b.LogData(appendMark(nil, at.seq), nil)
	return name, db.Apply(b, pebble.Sync)
}

// closeStore leaves a mark in the log that the flush began, for the manifest's last entry, which
// is the flush.
func closeStore(db *pebble.DB, durable uint64, sound bool) error {
	var err error
	if sound {
		if err = db.Flush(); err == nil {
			err = db.LogData(appendMark(nil, durable), pebble.Sync)
		}
	}
	return errors.Join(err, db.Close())
}

func pebbleOptions(p *pebbleEngine, lock *pebble.Lock) *pebble.Options {
	o := &pebble.Options{
		FS:                          p.fs,
		Lock:                        lock,
		FormatMajorVersion:          pebble.FormatNewest,
		CacheSize:                   blockCache,
		MaxOpenFiles:                openFiles,
		MemTableSize:                memTable,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       2,
		L0StopWritesThreshold:       1000, // slow compactions cost reads a little, a stop costs payments
		Logger:                      pebbleLogger{p},
		EventListener: &pebble.EventListener{BackgroundError: func(err error) {
			p.fail(fmt.Errorf("node: %s: flush or compaction failed: %w", p.dir, err))
		}},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most keys asked for are new
	}
	return o
}

// pebbleLogger takes Pebble's last words as the engine's end: Pebble does not expect Fatalf to
// return, and where it does nothing is acknowledged any more. While the store is being opened nothing
// is logged: the refusal says it, in one line.
type pebbleLogger struct{ p *pebbleEngine }

func (l pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	if l.p.opened.Load() {
		l.p.opts.Log.WithFields(logrus.Fields{"event": "pebble", "reason": firstLine(fmt.Sprintf(format, args...))}).Error("the store reports an error")
	}
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.p.fail(fmt.Errorf("node: %s: the store failed: %s", l.p.dir, firstLine(fmt.Sprintf(format, args...))))
}

// inspect checks an existing store read-only and returns where it stands; the zero row for a
// folder without one.
func inspect(dir string, opts *pebble.Options) (at headRow, err error) {
	floor, tables, err := vouched(dir, opts.FS)
	if err != nil {
		return at, err
	}
	desc, err := pebble.Peek(dir, opts.FS)
	if err != nil {
		return at, err
	}
	if !desc.Exists {
		if floor > 0 || tables {
			return at, errors.New("there are data but no manifest that tells what they are")
		}
		return at, nil
	}
	read := *opts
	read.ReadOnly = true
	db, err := pebble.Open(dir, &read)
	if err != nil {
		return at, err
	}
	at, err = audit(db)
	if err = errors.Join(err, db.Close()); err != nil {
		return at, err
	}
	if at.seq < floor {
		return at, fmt.Errorf("the store has lost commits: version %d had been made durable, now it ends at %d", floor, at.seq)
	}
	return at, nil
}

// vouched reads the highest mark in all logs, and whether there are tables.
func vouched(dir string, fs vfs.FS) (floor uint64, tables bool, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return 0, false, err
	}
	for _, name := range names {
		tables = tables || strings.HasSuffix(name, ".sst")
		if !strings.HasSuffix(name, ".log") {
			continue
		}
		data, err := readFile(fs, fs.PathJoin(dir, name))
		if err != nil {
			return 0, false, err
		}
		floor = max(floor, highestMark(data))
	}
	return floor, tables, nil
}

func readFile(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	return data, errors.Join(err, f.Close())
}

// audit reads the whole state: format, digest, and for each asset that the balances sum to what
// was issued less what was burned.
func audit(db *pebble.DB) (at headRow, err error) {
	format, err := load[formatRow](db, []byte(formatKey))
	if err != nil {
		return at, err
	}
	if format.version > storeFormat {
		return at, fmt.Errorf("the store has format %d, this version knows up to %d; use a newer version", format.version, storeFormat)
	}
	if at, err = load[headRow](db, []byte(headKey)); err != nil {
		return at, err
	}
	if _, err := load[nameRow](db, []byte(ledgerKey)); err != nil {
		return at, err
	}
	a := auditor{sums: make(map[wallet.Asset]wallet.Amount)}
	if err := a.read(db); err != nil {
		return at, err
	}
	if format.version == 0 && a.rows > 0 {
		return at, errors.New("this is no ledger store")
	}
	if a.digest != at.digest {
		return at, fmt.Errorf("rows are missing or stale: the state's digest is %x, version %d had %x", a.digest, at.seq, at.digest)
	}
	for asset, sum := range a.sums {
		if !sum.IsZero() {
			return at, fmt.Errorf("the books do not balance: balances of %s do not sum to what was issued less what was burned", asset)
		}
	}
	return at, nil
}

// auditor sums up the state. Sums are of balances less issued plus burned, modulo 2^128.
type auditor struct {
	sums   map[wallet.Asset]wallet.Amount
	digest uint64
	rows   int
}

func (a *auditor) read(db *pebble.DB) error {
	it, err := db.NewIter(nil)
	if err != nil {
		return err
	}
	for _, kind := range []byte{kindAccount, kindBalance, kindSupply} {
		for ok := it.SeekGE([]byte{kind}); ok && it.Key()[0] == kind; ok = it.Next() {
			a.rows++
			a.digest += rowHash(it.Key(), it.Value())
			if err := a.add(it.Key(), it.Value()); err != nil {
				return errors.Join(err, it.Close())
			}
		}
	}
	return it.Close()
}

func (a *auditor) add(key, value []byte) error {
	switch key[0] {
	case kindBalance:
		var r balanceRow
		if len(key) < 2 || len(key) < 2+int(key[1]) {
			return errRow
		}
		asset, err := wallet.ParseAsset(key[2+key[1]:])
		if err != nil || r.decode(value) != nil {
			return errRow
		}
		a.sums[asset], _ = a.sums[asset].Add(r.amount)
	case kindSupply:
		var r supplyRow
		asset, err := wallet.ParseAsset(key[1:])
		if err != nil || r.decode(value) != nil {
			return errRow
		}
		sum, _ := a.sums[asset].Sub(r.issued)
		a.sums[asset], _ = sum.Add(r.burned)
	default: // accounts count in the digest only
	}
	return nil
}
