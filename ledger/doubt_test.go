package ledger

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	logrustest "github.com/sirupsen/logrus/hooks/test"

	"svc-wallet/ledger/node"
	"svc-wallet/wallet"
)

// Goal: a ledger that comes back under a running sidecar older than it was, or as another one, is
// told from itself: no payment is sent to it, it is logged and counted once, and no read is answered
// by it, from the moment that it is there. The right one ends the doubt by coming back, and an operator ends it by accepting. Method: a
// store's folder is copied, paid into, and taken away from under the socket for its copy, for that
// copy after it has gone its own way past the version seen, and for an empty store.
func TestLedgerThatWentBack(t *testing.T) {
	for name, tc := range map[string]struct {
		kind  DoubtKind
		other func(t *testing.T, old string) node.Engine
	}{
		"an older copy": {ledgerBehind, func(t *testing.T, old string) node.Engine { return pebbleBooks(t, old) }},
		"a copy that went on": {lacksPayment, func(t *testing.T, old string) node.Engine {
			e := pebbleBooks(t, old)
			for n := range uint64(5) {
				pays(t, e, 2, n+1)
			}
			return e
		}},
		"an empty ledger": {otherLedger, func(t *testing.T, _ string) node.Engine { return pebbleBooks(t, t.TempDir()) }},
	} {
		t.Run(name, func(t *testing.T) {
			home, old := t.TempDir(), filepath.Join(t.TempDir(), "old")
			e := pebbleBooks(t, home)
			pays(t, e, 1, 1)
			if err := errors.Join(e.Close(), os.CopyFS(old, os.DirFS(home))); err != nil {
				t.Fatal(err)
			}
			e = pebbleBooks(t, home)
			at, stop := serveBooks(t, e, socket(t))
			log, lines := logrustest.NewNullLogger()
			var forgot atomic.Int64
			m := moveWith(t, at, DialOptions{Now: clock, Log: log, OnDoubt: func() { forgot.Add(1) }})
			until(t, "healthy", m.reader.Healthy)
			pays(t, m, 1, 2)
			readAll := reads(t, m, issueTo(1, 2))
			endReads := readsGoOn(readAll)
			stop()
			_ = e.Close()

			went := tc.other(t, old)
			version := went.Seq()
			_, stop = serveBooks(t, went, at)
			until(t, "in doubt", func() bool { return m.Doubt() != nil })
			until(t, "watched", m.reader.Healthy)
			endReads()
			d := m.Doubt()
			if d.Kind != tc.kind || d.Seen != 2 || d.Seq != version || forgot.Load() == 0 || m.Doubts(tc.kind) != 1 {
				t.Errorf("%v: %+v, forgot %d times, counted %d", d, d, forgot.Load(), m.Doubts(tc.kind))
			}
			out := make([]wallet.Result, 1)
			if err := m.Commit(t.Context(), []wallet.Payment{*issueTo(3, 1)}, out); !errors.Is(err, ErrNotSent) || went.Seq() != version {
				t.Errorf("a payment: %v, version %d", err, went.Seq())
			}
			want := wallet.Amount{}
			if tc.kind != otherLedger {
				want = wallet.Minor(1)
			}
			for what, code := range readAll() {
				if code != wallet.RetryLater {
					t.Errorf("%s: %v", what, code)
				}
			}
			told := 0
			for _, l := range lines.AllEntries() {
				if l.Message == "ledger_went_back" && l.Data["version"] == version && l.Data["version_seen"] == uint64(2) {
					told++
				}
			}
			if told != 1 {
				t.Errorf("%d lines of %v", told, lines.AllEntries())
			}

			if name == "an older copy" { // the operator puts the right one back
				stop()
				_ = went.Close()
				e = pebbleBooks(t, home)
				serveBooks(t, e, at)
				until(t, "itself again", func() bool { return m.Doubt() == nil && m.reader.Healthy() })
				for what, code := range readAll() {
					if code != wallet.OK {
						t.Errorf("%s of the right one: %v", what, code)
					}
				}
				pays(t, m, 3, 1)
				if e.Seq() != 3 || m.Accept() != nil {
					t.Errorf("version %d", e.Seq())
				}
				return
			}
			if got := m.Accept(); got != d || m.Doubt() != nil || m.Accept() != nil {
				t.Errorf("accepted %v", got)
			}
			if b, _, code := m.reader.Balance(ronOf(1), m.live.Load(), 0, wallet.Origin{}, soon()); code != wallet.OK || b.Amount != want {
				t.Errorf("a balance that was accepted: %v, %v, want %v", code, b.Amount, want)
			}
			if _, _, code := m.reader.Payment(account(1), issueTo(1, 2).Idem, m.live.Load(), 0, wallet.Origin{}, soon()); code != wallet.NotFound {
				t.Errorf("a payment that was lost: %v", code)
			}
			pays(t, m, 3, 1)
			if went.Seq() != version+1 {
				t.Errorf("version %d after a payment, %d before", went.Seq(), version)
			}
			broke := m.reader.Reconnects()
			stop() // and what was accepted is the one from now on
			serveBooks(t, went, at)
			until(t, "the accepted one is back", func() bool {
				return m.reader.Reconnects() > broke && m.reader.Healthy() && m.barred(m.link.Load()) == nil
			})
			pays(t, m, 3, 2)
		})
	}
}

// reads returns a function that makes every kind of read of what the payment p, the last of its
// account's, left behind. What contradicts it is an error: another figure, or that it is not there.
func reads(t *testing.T, m *moving, p *wallet.Payment) func() map[string]wallet.Code {
	t.Helper()
	receipt, _, code := m.reader.Payment(p.To, p.Idem, m.live.Load(), 0, wallet.Origin{}, soon())
	if code != wallet.OK {
		t.Fatal(code)
	}
	key := wallet.BalanceKey{Account: p.To, Asset: p.Asset}
	return func() map[string]wallet.Code {
		b, _, balance := m.reader.Balance(key, m.live.Load(), 0, wallet.Origin{}, soon())
		if balance == wallet.OK && b.Amount != wallet.Minor(p.Nonce) {
			t.Errorf("a balance of %v is told", b.Amount)
		}
		_, _, byID := m.reader.Transaction(receipt.TxID, m.live.Load(), 0, wallet.Origin{}, soon())
		_, _, byKey := m.reader.Payment(p.To, p.Idem, m.live.Load(), 0, wallet.Origin{}, soon())
		var figures [1]wallet.Balance
		looked := wallet.OK
		if err := m.Lookup(t.Context(), []wallet.BalanceKey{key}, figures[:]); err != nil {
			looked = unanswered(err)
		} else if figures[0].Amount != wallet.Minor(p.Nonce) {
			t.Errorf("a lookup tells %v", figures[0].Amount)
		}
		if byID == wallet.NotFound || byKey == wallet.NotFound {
			t.Error("an acknowledged payment is told not to be there")
		}
		return map[string]wallet.Code{"balance": balance, "by id": byID, "by key": byKey, "lookup": looked}
	}
}

// readsGoOn reads all the time until it is ended.
func readsGoOn(read func() map[string]wallet.Code) (end func()) {
	var over atomic.Bool
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for !over.Load() {
				read()
			}
		})
	}
	return func() { over.Store(true); readers.Wait() }
}

// Goal: until what came back has proved itself no payment is sent, also to a node that tells no clock
// and so cannot refuse by itself. Method: a node whose stream ends, and another without a stream.
func TestUnprovedLedgerGetsNoPayment(t *testing.T) {
	first, stop := serveNode(t, namedNode("h", nil))
	m := move(t, first)
	until(t, "healthy", m.reader.Healthy)
	stop()
	until(t, "unproved", func() bool { return m.barred(m.link.Load()) != nil })
	err := m.Commit(t.Context(), []wallet.Payment{*payment(1, 1)}, make([]wallet.Result, 1))
	if !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "not proved itself") {
		t.Error(err)
	}
}
