// Package node is the ledger node that svc-wallet ships: ledger.v1.LedgerNode served over an
// Engine, which keeps a journal, and its state in Pebble.
//
// Its entry is Serve; OpenPebble and OpenMemory make the engine, on disk and in memory. The rules
// (rules.go) judge and apply every payment over the books (books.go).
//
// Invariants: a refusal changes nothing; nothing is acknowledged, looked up or watched before it
// is durable; for every asset the balances sum to what was issued less what was burned.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/host"
	"svc-wallet/wallet"
)

// Engine keeps the books. Its first five methods are those of ledger.Ledger, with the same
// contract; ledger/contract is the suite that every engine passes.
type Engine interface {
	// Commit judges batch in order, applies what passes in one atomic durable step and fills out.
	// Where ctx ends before the batch is taken up, nothing is done, then or later; where it ends
	// afterwards, the work goes on and its outcome is unknown to the caller. out is untouched on
	// every error.
	Commit(ctx context.Context, batch []wallet.Payment, out []wallet.Result) error

	// Lookup fills out[i] with the durable figures of keys[i], all of one version.
	Lookup(ctx context.Context, keys []wallet.BalanceKey, out []wallet.Balance) error

	// Transaction returns a durable receipt and its version; wallet.NotFound where there is none.
	Transaction(ctx context.Context, txid wallet.TxID) (wallet.Receipt, uint64, error)

	// Payment is Transaction by the nonce-bearing account and the key that it paid under.
	Payment(ctx context.Context, account wallet.Account, key wallet.IdemKey) (wallet.Receipt, uint64, error)

	// Watch calls on with every durable change after version from, in order. from 0 calls it with
	// the present version and no balances first. While on blocks, changes gather in the backlog;
	// when they have run out of it the watch ends with wire.ErrLagged.
	Watch(ctx context.Context, from uint64, on func(wallet.Change)) error

	// Identity names the ledger, from the making of its store on, and this opening of it. A copy of
	// a store names the same ledger, each opening has another name.
	Identity() Identity

	// Clock is how long this opening has lasted, in milliseconds from 1 on. It never goes back, and
	// no wall clock moves it. A Commit is refused with wire.ErrLate where it comes to be taken up after
	// the last moment that its call names by this clock.
	Clock() uint64

	// Seq is the durable version.
	Seq() uint64

	// Stats is how the engine does.
	Stats() Stats

	// Close finishes what was taken up, ends every watch and releases the store.
	Close() error
}

// Identity is what an engine tells of itself to those who keep a copy, or move between endpoints.
type Identity struct{ Ledger, Opening [16]byte }

// Stats is how an engine does. Counts are of this opening.
type Stats struct {
	ConservationOK     uint64 // checks that found the books balanced
	ConservationFailed uint64 // and those that found money made or lost
	Damaged            uint64 // reads that met damage in the store; each failed, with wire.ErrDamaged or an unknown outcome, and nothing else did
	StoreOK            uint64 // checks of the whole store, beside its work, that found it sound
	StoreFailed        uint64 // and those that found damage
	Lagged             uint64 // watches that were cut off for being too slow

	// The disk has not answered for so long that commits must be expected to time out. Heartbeats say
	// so meanwhile, so that sidecars refuse payments for certain instead of sending them into an unknown
	// outcome.
	Stalled bool
}

// opening is what every engine has of one opening of its ledger.
type opening struct {
	bus               *bus
	id                Identity
	clock             openingClock
	conserved, failed atomic.Uint64
}

func (o *opening) Identity() Identity { return o.id }

func (o *opening) Clock() uint64 { return o.clock.millis() }

func (o *opening) Seq() uint64 { return o.bus.at.Load() }

func (o *opening) Watch(ctx context.Context, from uint64, on func(wallet.Change)) error {
	return o.bus.watch(ctx, from, on)
}

func (o *opening) stats() Stats {
	return Stats{ConservationOK: o.conserved.Load(), ConservationFailed: o.failed.Load(), Lagged: o.bus.lagged.Load()}
}

// newName is random, so no two are the same.
func newName() (n [16]byte) {
	_, _ = rand.Read(n[:]) // never fails (since Go 1.24)
	return n
}

// Errors of an Engine besides those of package wire.
var (
	ErrClosed   = errors.New("node: engine is closed")
	ErrWatchers = errors.New("node: too many watchers")
)

// Bounds of one call and of what is shared.
const (
	MaxCommit   = 4096 // payments a Commit
	MaxLookup   = 4096 // keys a Lookup
	MaxWatchers = 64   // watches at once

	defaultBacklog = 65536
)

// Options are what an engine is given besides its place. Now is required; the rest has defaults.
type Options struct {
	Now          func() int64       // Unix nanoseconds, the time of commits (commitMillis says how it may step)
	Entropy      io.Reader          // of transaction ids; crypto/rand by default
	Log          logrus.FieldLogger // nothing is logged by default
	WatchBacklog int                // balance updates kept for watchers; 65536 by default

	// Elapsed is the time since some moment, by a clock that never goes back; the machine's monotonic
	// one by default.
	Elapsed func() time.Duration

	// Fatal is told of an error after which nothing may be acknowledged any more, such as a failed
	// fsync. By default it logs the error and ends the process. If it returns, the engine answers
	// every later call with the error.
	Fatal func(error)

	// Retention is how long payments are kept at least, MinRetention or more; 0 is for ever. Who asks
	// for a payment that is gone is told that there is none, and its key is free.
	Retention time.Duration

	segment, fill int64 // of the journal, for tests
}

func (o Options) withDefaults() Options {
	if o.Entropy == nil {
		o.Entropy = rand.Reader
	}
	if o.Log == nil {
		o.Log = host.Silent()
	}
	if o.Elapsed == nil {
		o.Elapsed = sinceNow()
	}
	if o.WatchBacklog <= 0 {
		o.WatchBacklog = defaultBacklog
	}
	if o.segment <= 0 {
		o.segment = segmentBytes
	}
	if o.fill <= 0 {
		o.fill = fillBytes
	}
	if o.Fatal == nil {
		log := o.Log
		o.Fatal = func(err error) { log.WithField("reason", err.Error()).Fatal("ledger_fatal") }
	}
	return o
}

func checkCommit(batch []wallet.Payment, out []wallet.Result) error {
	if len(batch) != len(out) || len(batch) > MaxCommit {
		return fmt.Errorf("node: commit of %d payments into %d results, at most %d", len(batch), len(out), MaxCommit)
	}
	return nil
}

func checkLookup(keys []wallet.BalanceKey, out []wallet.Balance) error {
	if len(keys) != len(out) || len(keys) > MaxLookup {
		return fmt.Errorf("node: lookup of %d keys into %d balances, at most %d", len(keys), len(out), MaxLookup)
	}
	return nil
}
