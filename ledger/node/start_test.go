package node

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"svc-wallet/wallet"
)

// crowdPays fills a store with payments between so many accounts. The keys look like UUIDs.
func crowdPays(t testing.TB, e *pebbleEngine, accounts, payments int) {
	t.Helper()
	name := func(i int) wallet.Account {
		return wallet.Must(wallet.ParseAccount(fmt.Sprintf("account-%07d", i%accounts)))
	}
	rules := payment(0, 1).Rules
	asset := payment(0, 1).Asset
	for at := 0; at < accounts+payments; at += 256 {
		batch := make([]wallet.Payment, 0, 256)
		for i := at; i < min(at+256, accounts+payments); i++ {
			t := wallet.Payment{Op: wallet.Issue, To: name(i), Asset: asset, Amount: wallet.Minor(1 << 20), Nonce: 1, Rules: rules}
			if n := i - accounts; n >= 0 {
				t = wallet.Payment{
					Op: wallet.Transfer, From: name(7919 * n), To: name(7919*n + 104729), Asset: asset, Amount: wallet.Minor(1),
					Nonce: uint64(n/accounts + 1), Rules: rules,
				}
			}
			t.Idem = wallet.Must(wallet.ParseIdemKey(fmt.Sprintf("%08x-0000-4000-8000-%012x", uint32(i)*2654435761, i)))
			t.Fingerprint = t.Hash()
			batch = append(batch, t)
		}
		for _, r := range send(t, e, batch...) {
			if r.Code != wallet.OK {
				t.Fatal(r.Code.Name())
			}
		}
	}
	mustApply(t, e)
}

// TestStartReadsTheTailOnly: what a start reads of a store that was closed does not grow with the
// payments in it, and of one that was killed it is what the journal has beyond the state at most.
// Method: the reads are counted, of a store and of one five times as large.
func TestStartReadsTheTailOnly(t *testing.T) {
	read := func(payments int, closed bool) int64 {
		mem := vfs.NewCrashableMem()
		opts := Options{Now: frozen, segment: 256 << 10, fill: 4 << 10}
		e, err := openPebble("db", opts, mem)
		if err != nil {
			t.Fatal(err)
		}
		crowdPays(t, e, 200, payments)
		if closed {
			mustClose(t, e)
		} else {
			if err := e.db.Flush(); err != nil {
				t.Fatal(err)
			}
			send(t, e, ownIssue(1), ownIssue(2)) // a tail
			mustApply(t, e)
			defer mustClose(t, e)
			mem = mem.CrashClone(vfs.CrashCloneCfg{})
		}
		var reads atomic.Int64
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind == errorfs.OpFileRead || op.Kind == errorfs.OpFileReadAt {
				reads.Add(1)
			}
			return nil
		}))
		again, err := openPebble("db", opts, fs)
		if err != nil {
			t.Fatal(err)
		}
		defer mustClose(t, again)
		return reads.Load()
	}
	for _, closed := range []bool{true, false} {
		small, large := read(2000, closed), read(10_000, closed)
		if large > 2*small+100 {
			t.Errorf("closed %v: %d reads at a start, %d with five times the payments", closed, small, large)
		}
	}
}

// BenchmarkStart: the start of a node whose store has so many payments of 200,000 accounts, after it
// was closed and after it was killed, and the bytes that the store takes. Say how many with
// START_PAYMENTS, 1,000,000 by default:
//
//	go test ./ledger/node -run '^$' -bench Start -benchtime 5x
func BenchmarkStart(b *testing.B) {
	payments := 1_000_000
	if text := os.Getenv("START_PAYMENTS"); text != "" {
		payments, _ = strconv.Atoi(text)
	}
	opts := Options{Now: func() int64 { return time.Now().UnixNano() }}
	fs := vfs.Default
	dir := b.TempDir()
	e, err := openPebble(dir+"/full", opts, fs)
	if err != nil {
		b.Fatal(err)
	}
	crowdPays(b, e, 200_000, payments)
	copyFolder(b, dir+"/full", dir+"/killed")
	mustClose(b, e)
	e, err = openPebble(dir+"/empty", opts, fs)
	if err != nil {
		b.Fatal(err)
	}
	mustClose(b, e)
	for _, name := range []string{"empty", "full", "killed"} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				copied := b.TempDir() + "/copy"
				copyFolder(b, dir+"/"+name, copied)
				syscall.Sync() // or the start waits for the copy
				b.StartTimer()
				e, err := openPebble(copied, opts, fs)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				mustClose(b, e)
				b.StartTimer()
			}
			b.ReportMetric(float64(folderSize(b, dir+"/"+name)), "bytes")
		})
	}
}

func copyFolder(b *testing.B, from, to string) {
	b.Helper()
	if ok, err := vfs.Clone(vfs.Default, vfs.Default, from, to); err != nil || !ok {
		b.Fatal(ok, err)
	}
}

func folderSize(b *testing.B, dir string) (size int64) {
	b.Helper()
	names, err := vfs.Default.List(dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range names {
		info, err := os.Stat(dir + "/" + name)
		switch {
		case err != nil:
			b.Fatal(err)
		case info.IsDir():
			size += folderSize(b, dir+"/"+name)
		default:
			size += info.Size()
		}
	}
	return size
}
