// Package contract is the suite that every ledger passes: each engine of ledger/node, the gRPC
// client in front of one, and anybody's node.
//
// Its entry is Run. Cases that a person of the domain can read are in testdata; properties are
// checked against a naive model of its own (model.go), which shares no rule with any engine.
//
// Invariant: after every step, money is conserved and every figure is what the model says.
package contract

import (
	"context"
	"crypto/rand"
	"embed"
	"io/fs"
	"math"
	"path"
	"strings"
	"testing"
	"time"

	"svc-wallet/ledger"
	"svc-wallet/wallet"
)

// Fixture is a ledger under test. Names are made unique for each case, so the ledger need not be
// fresh, but nobody else may use it meanwhile.
type Fixture struct {
	Ledger ledger.Ledger

	// Clock is the ledger's, for cases about days and times to live; they are skipped without.
	Clock Clock

	// Backlog is how many balance updates the ledger keeps for watchers. Cases about running out of
	// it are skipped where it is 0 or over 4096.
	Backlog int

	// DayTotal says that the ledger tells the total of the day with each commit. One that does not
	// conforms too; one that tells it tells the truth.
	DayTotal bool

	// TellsLimits says that the ledger tells which limit a payment ran into, what that leaves and when
	// it begins anew. As with DayTotal, one that does not conforms too.
	TellsLimits bool
}

// Clock is a clock that a test moves.
type Clock interface {
	Now() int64 // Unix nanoseconds
	Advance(time.Duration)
}

// limit is how long one case may take: a hang is a failure, not a wait.
const limit = 3 * time.Minute

//go:embed testdata/*.txt
var scripts embed.FS

// Run runs the suite; open gives a running ledger, and cleans it up through t.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	t.Run("scripts", func(t *testing.T) { runScripts(t, open) })
	for name, test := range map[string]func(*testing.T, Fixture){
		"empty batch":           testEmptyBatch,
		"ended context":         testEndedContext,
		"no such transaction":   testNoSuchTransaction,
		"transaction by id":     testTransaction,
		"payment by its key":    testPayment,
		"total of the day":      testDayTotal,
		"limits tell":           testLimitsTell,
		"random batches":        testRandomBatches,
		"many at once":          testManyAtOnce,
		"same key at once":      testSameKeyAtOnce,
		"watch from now":        testWatchFromNow,
		"watch keeps a copy":    testWatchKeepsCopy,
		"watch shows nonces":    testWatchShowsNonces,
		"watch resumes":         testWatchResumes,
		"watch without backlog": testWatchBacklog,
		"watch too slow":        testWatchLagged,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func runScripts(t *testing.T, open func(t *testing.T) Fixture) {
	files, err := fs.Glob(scripts, "testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	f := open(t)
	for _, file := range files {
		text, err := fs.ReadFile(scripts, file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(path.Base(file), ".txt")
		t.Run(name, func(t *testing.T) { runScript(t, f, string(text)) })
	}
}

// generous are rules that refuse nothing that these tests do.
func generous() wallet.Rules {
	return wallet.Rules{
		DailyCeiling: wallet.MaxAmount(), MaxAccountTotal: wallet.MaxAmount(),
		NonceStart: 1, NonceMaxGap: math.MaxUint64,
	}
}

// names makes names that no other case has used.
type names struct{ prefix string }

func newNames() names { return names{strings.ToLower(rand.Text()[:10])} }

func (n names) account(s string) wallet.Account {
	return wallet.Must(wallet.ParseAccount(n.prefix + ":" + s))
}

func (n names) asset(s string) wallet.Asset {
	return wallet.Must(wallet.ParseAsset(n.prefix + "." + s))
}

func (n names) key(s string) wallet.IdemKey {
	return wallet.Must(wallet.ParseIdemKey(n.prefix + "-" + s))
}

func (n names) balance(account, asset string) wallet.BalanceKey {
	return wallet.BalanceKey{Account: n.account(account), Asset: n.asset(asset)}
}

// sign completes a transfer as the edge does.
func sign(t wallet.Payment) wallet.Payment {
	t.Fingerprint = t.Hash()
	return t
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func commit(t fataler, l ledger.Ledger, batch ...wallet.Payment) []wallet.Result {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out := make([]wallet.Result, len(batch))
	if err := l.Commit(ctx, batch, out); err != nil {
		t.Fatalf("commit of %d: %v", len(batch), err)
	}
	return out
}

func lookup(t fataler, l ledger.Ledger, keys ...wallet.BalanceKey) []wallet.Balance {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out := make([]wallet.Balance, len(keys))
	if err := l.Lookup(ctx, keys, out); err != nil {
		t.Fatalf("lookup of %d: %v", len(keys), err)
	}
	return out
}

// fataler is what *testing.T and *rapid.T have in common here.
type fataler interface {
	Fatalf(format string, args ...any)
}
