package node

import (
	"bytes"
	"crypto/rand"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sirupsen/logrus"

	"svc-wallet/wallet"
)

// TestWrongClockIsNotForEver: a clock that is 400 days ahead for one commit, or for a whole life of
// the node, leaves nothing behind once it is right: receipts tell the right time again, days end when
// they should, replays are byte-identical, ids go on growing. It is said aloud, at the commit and at
// the start. Method: both engines under a clock that is moved by hand, Pebble closed and opened again
// after each commit too.
func TestWrongClockIsNotForEver(t *testing.T) {
	const day = 24 * time.Hour
	for _, kind := range []string{"model", "pebble", "pebble opened anew"} {
		t.Run(kind, func(t *testing.T) {
			var now atomic.Int64 // several goroutines look
			now.Store(start)
			var lines bytes.Buffer
			log := logrus.New()
			log.SetOutput(&lines)
			opts := Options{Now: now.Load, Log: log}
			fs := vfs.NewMem()
			open := func() Engine {
				if kind == "model" {
					return openModel(opts)
				}
				p, err := openPebble("db", opts, fs)
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			e := open()
			defer func() { mustClose(t, e) }()
			issue := func(n int, amount uint64, want wallet.Code) wallet.Receipt {
				t.Helper()
				tr := ownIssue(0)
				tr.Nonce, tr.Amount, tr.Rules.DailyCeiling = uint64(n), wallet.Minor(amount), wallet.Minor(100)
				tr.Idem = wallet.Must(wallet.ParseIdemKey("k" + strings.Repeat("x", n)))
				tr.Fingerprint = tr.Hash()
				r := send(t, e, tr)[0]
				if r.Code != want {
					t.Fatalf("payment %d of %d: %s, want %s", n, amount, r.Code, want)
				}
				if kind == "pebble opened anew" {
					mustClose(t, e)
					e = open()
				}
				return r.Receipt
			}

			before := issue(1, 60, wallet.OK)
			now.Add(int64(400 * day))
			wrong := issue(2, 100, wallet.OK)
			now.Add(-int64(400*day - time.Minute))
			after := issue(3, 60, wallet.OK)
			if after.Millis != now.Load()/1e6 || wrong.Millis <= after.Millis || string(after.TxID[:]) <= string(wrong.TxID[:]) {
				t.Errorf("after %s at %d and %s at %d came %s at %d, the clock said %d",
					before.TxID, before.Millis, wrong.TxID, wrong.Millis, after.TxID, after.Millis, now.Load()/1e6)
			}
			issue(4, 41, wallet.LimitsExceeded)
			now.Add(int64(day))
			issue(4, 100, wallet.OK)
			if again := issue(2, 100, wallet.Replayed); again != wrong {
				t.Errorf("the replay is %+v, the receipt was %+v", again, wrong)
			}
			if again := issue(3, 60, wallet.Replayed); again != after {
				t.Errorf("the replay is %+v, the receipt was %+v", again, after)
			}
			for event, times := range map[string]int{"ledger_time_went_back": 1, "ledger_clock_behind_last_commit": 0, "ledger_clock_far_ahead_of_last_commit": 0} {
				if got := strings.Count(lines.String(), event); got != times {
					t.Errorf("%d lines of %s, want %d: %s", got, event, times, lines.String())
				}
			}
		})
	}
}

// TestClockAtStart: a start says where the clock and the last commit do not go together.
func TestClockAtStart(t *testing.T) {
	for gap, want := range map[time.Duration]string{
		0:                     "",
		-clockSlack:           "",
		-clockSlack - 1e6:     "ledger_clock_behind_last_commit",
		longIdle:              "",
		longIdle + 1e6:        "ledger_clock_far_ahead_of_last_commit",
		-400 * 24 * time.Hour: "ledger_clock_behind_last_commit",
	} {
		var now atomic.Int64
		now.Store(start)
		var lines bytes.Buffer
		log := logrus.New()
		log.SetOutput(&lines)
		opts := Options{Now: now.Load, Log: log}
		fs := vfs.NewMem()
		for life := range 2 {
			e, err := openPebble("db", opts, fs)
			if err != nil {
				t.Fatal(err)
			}
			if life == 0 {
				send(t, e, ownIssue(0))
				now.Add(int64(gap))
				if lines.Len() > 0 {
					t.Errorf("an empty store's start says %s", lines.String())
				}
			}
			mustClose(t, e)
		}
		if got := lines.String(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%v: %q, want %q", gap, got, want)
		}
	}
}

// TestForkedIDsDiffer: two copies of a store whose last id is ahead of the clock, as after a wrong
// one, do not give one id to two payments.
func TestForkedIDsDiffer(t *testing.T) {
	var ids [2]wallet.TxID
	for i := range ids {
		b := newBooks(&modelStore{}, &Options{Entropy: rand.Reader},
			head{seq: 1, txid: wallet.TxID{0: 0x7f, 15: 9}, millis: start / 1e6})
		b.begin(start)
		h, err := b.next()
		if err != nil {
			t.Fatal(err)
		}
		if ids[i] = h.txid; string(ids[i][:]) <= string(b.head.txid[:]) {
			t.Errorf("%x does not follow %x", ids[i], b.head.txid)
		}
	}
	if ids[0] == ids[1] {
		t.Errorf("both copies named their next payment %s", ids[0])
	}
}
