package node

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"svc-wallet/wallet"
)

// Times and bounds of checks of a whole store.
const (
	maxAlike   = 10             // faults of a kind that a report tells; all are counted
	checkRate  = 4 << 20        // bytes a second that a running node's own check reads
	checkFirst = time.Minute    // after the opening
	checkRest  = 24 * time.Hour // between two
	checkStep  = 256 << 10      // bytes between two looks at the clock
)

// VerifyPebble reads the whole store in dir, which no node may have open, and changes nothing: every
// record and receipt of the journal, that each payment's rows point to it and that there are no
// others, every row of the state, its digest, and for each asset that the balances sum to what was
// issued less what was burned, in the state and in the journal. Memory does not grow with the
// number of payments or accounts. progress is told from time to time how far it is, of about total
// bytes. The error says why there is no report.
func VerifyPebble(ctx context.Context, dir string, progress func(done, total int64)) (*Report, error) {
	return verifyPebble(ctx, dir, vfs.Default, progress)
}

func verifyPebble(ctx context.Context, dir string, fs vfs.FS, progress func(done, total int64)) (*Report, error) {
	p := &pebbleEngine{opts: Options{Now: func() int64 { return 0 }}.withDefaults(), dir: dir, fs: fs, journal: journal{fs, fs.PathJoin(dir, journalDir)}}
	p.failed = make(chan struct{})
	if _, err := fs.Stat(dir); err != nil {
		return nil, p.refuse("there is no store", err)
	}
	if err := p.seemsStore(); err != nil {
		return nil, p.refuse("there is no store", err)
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		return nil, p.refuse("a node uses the folder, stop it first", err)
	}
	report, err := p.verify(ctx, progress)
	return report, errors.Join(err, lock.Close())
}

// seemsStore keeps the check from making a lock in a folder that is none of a store.
func (p *pebbleEngine) seemsStore() error {
	names, err := p.fs.List(p.dir)
	if err == nil && !slices.ContainsFunc(names, func(n string) bool {
		return n == journalDir || n == stateDir || strings.HasPrefix(n, "MANIFEST-") // of format 1
	}) {
		err = errors.New("the folder has no journal")
	}
	return err
}

func (p *pebbleEngine) verify(ctx context.Context, progress func(done, total int64)) (*Report, error) {
	c := &checker{fs: p.fs, report: newReport(), sums: make(map[wallet.Asset]supplyRow)}
	s, err := p.survey()
	c.report.Ledger = hex.EncodeToString(s.ledger[:])
	var bad *damageError
	if errors.As(err, &bad) || pebble.IsCorruptionError(err) {
		c.report.fault("%s", firstLine(err.Error()))
		c.report.unjudged("payments and state: a start refuses the store, and more than it reads was not read")
		return c.report, nil
	}
	if err != nil {
		return nil, p.refuse("cannot open the store", err)
	}
	if !s.vouched {
		c.report.fault("%s", errUnvouched)
	}
	if len(s.segments) == 0 {
		return nil, p.refuse("there is no store", errors.New("the folder is empty"))
	}
	read := pebbleOptions(p)
	read.ReadOnly = true
	db, err := pebble.Open(p.fs.PathJoin(p.dir, stateDir), read)
	if err != nil {
		return nil, p.refuse("cannot open the state", err)
	}
	rows, _ := db.EstimateDiskUsage([]byte{0}, []byte{0xff}) // only for the progress
	total := int64(rows)                                     //nolint:gosec // not that large
	for i := range s.segments {
		total += max(s.segments[i].end, s.end.offset)
	}
	var done int64
	c.spend = func(n int64) error {
		done = min(done+n, total)
		progress(done, total)
		return ctx.Err()
	}
	s.segments[len(s.segments)-1].end = s.end.offset
	c.kept = max(s.pruned.first, 1)
	err = errors.Join(c.journal(db, s.segments, s.state.seq, s.seq), c.state(db))
	c.report.sumUp()
	return c.report, errors.Join(err, db.Close())
}
