package ledger

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logrustest "github.com/sirupsen/logrus/hooks/test"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/wallet"
)

// Goal: a node on this machine that is away is looked for again and again at one pace, however long
// it is away, so it is found at once when it listens; over a network the pause grows. Method: a socket
// that closes every connection, counted against 60 pauses of our own that are longer than the pace.
func TestLostNodeOnThisMachineIsLookedForOften(t *testing.T) {
	addr := socket(t)
	ln, err := net.Listen("unix", strings.TrimPrefix(addr, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			tries.Add(1)
			c.Close()
		}
	}()
	c := dial(t, addr, DialOptions{Now: clock})
	for range 60 {
		if !c.Await(t.Context(), localPace*5/4) {
			t.Fatal("ended")
		}
	}
	if n := tries.Load(); n < 15 {
		t.Errorf("%d tries in 60 pauses", n)
	}
	ln.Close()
	<-ended
	for addr, local := range map[string]bool{"unix:x": true, "127.0.0.1:1": true, "[::1]:1": true, "localhost:1": true, "ledger:1": false, "10.0.0.1:1": false} {
		at, err := host.ParseAddr(addr)
		if p := paceOf(at); err != nil || (p.MaxDelay == localPace) != local {
			t.Errorf("%s: %+v", addr, p)
		}
	}
}

// Goal: when the ledger is back after a restart, the breaker that its absence opened does not make
// payments wait for its time, and neither does the reader's pause. Method: a breaker that stays open
// for an hour, a node that is away until it is open, and one payment.
func TestBreakerProbesWhenTheLedgerIsBack(t *testing.T) {
	e := memoryBooks(t)
	at, stop := serveBooks(t, e, socket(t))
	live := liveLimits(func(l *config.Limits) {
		l.BreakerOpenFor, l.BreakerErrors, l.BreakerProbes, l.Retries = time.Hour, 3, 1, 0
	})
	log, lines := logrustest.NewNullLogger()
	b := newTestBreaker(live, clock)
	b.LogTo(log)
	m := moveWith(t, at, DialOptions{Now: clock, OnUp: b.Probe})
	k := newTestCommitter(t, m.Client, b, live, CommitterOptions{Workers: 1})
	until(t, "healthy", m.reader.Healthy)
	stop()
	for n := uint64(1); b.State() != BreakerOpen; n++ {
		if r := k.Submit(issueTo(1, n), live.Load(), soon()); r.Code.Outcome() == wallet.Applied {
			t.Fatal("paid to nobody")
		}
	}
	serveBooks(t, e, at)
	until(t, "paid", func() bool {
		r := k.Submit(issueTo(2, 1), live.Load(), soon())
		return r.Code == wallet.OK
	})
	closeNow(t, k)
	var turns []string
	for _, l := range lines.AllEntries() {
		if l.Message == "breaker_turned" {
			turns = append(turns, l.Data["before"].(string)+" to "+l.Data["state"].(string))
			if l.Data["reason"] == "" {
				t.Errorf("a turn without a cause: %v", l.Data)
			}
		}
	}
	if got := strings.Join(turns, ", "); !strings.HasPrefix(got, "closed to open, ") || !strings.HasSuffix(got, "open to half_open, half_open to closed") {
		t.Errorf("turns: %s", got)
	}
}

// Goal: why the ledger is away is logged once for each cause, in words, and then counted; it is told
// to whoever asks. Method: a socket that is not there, that may not be used, that nobody listens on,
// and that is a file; and then a minute of one cause by the clock.
func TestCausesAreLoggedOnce(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	ln, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file or directory", dead: "connection refused", plain: "connection refused",
	} {
		log, lines := logrustest.NewNullLogger()
		c := dial(t, "unix:"+path, DialOptions{Now: clock})
		live := liveLimits(nil)
		r := NewReader(c, newTestBreaker(live, clock), live, ReaderOptions{Now: clock, Log: log})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		until(t, "tried often", func() bool { return r.Reconnects() >= 5 })
		cancel()
		<-ended
		all := lines.AllEntries()
		if len(all) != 1 || all[0].Message != "ledger_away" || all[0].Level != logrus.WarnLevel || !strings.Contains(all[0].Data["reason"].(string), want) {
			t.Errorf("%s: %d lines, %v", want, len(all), all)
		}
		if strings.Contains(all[0].Data["reason"].(string), "rpc error") {
			t.Errorf("not in words: %v", all[0].Data)
		}
	}

	log, lines := logrustest.NewNullLogger()
	var now int64
	r := Reader{opts: ReaderOptions{Log: log, Now: func() int64 { return now }}}
	r.freshness.now.Store(newCondition(ledgerUnseen, ""))
	for i := range int64(121) {
		now = i * int64(time.Second)
		r.away(ledgerSilent, "away")
	}
	now = 0
	r.away(ledgerSilent, "elsewhere")
	all := lines.AllEntries()
	if len(all) != 4 || all[1].Data["repeated"] != 59 || all[2].Data["repeated"] != 59 || all[3].Data["reason"] != "elsewhere" {
		t.Errorf("%d lines: %v", len(all), all)
	}
	pipe := func(from string) error {
		return status.Error(codes.Unavailable, `connection error: desc = "error reading server preface: write tcp `+from+`->192.0.2.1:7443: write: broken pipe"`)
	}
	mere := cause(pipe("127.0.0.1:40712"))
	if again := cause(pipe("[::1]:40713")); again != mere || !strings.Contains(mere, "write tcp 192.0.2.1:7443: ") {
		t.Errorf("one cause from two ports: %q and %q", mere, again)
	}
	refused := "remote error: tls: unknown certificate authority"
	if telling("", mere) != mere || telling(refused, mere) != refused || telling(mere, refused) != refused {
		t.Error("a broken connection hides why it broke")
	}
	long := status.Error(codes.Unavailable, "a\nb"+strings.Repeat("ä", 1000))
	if got := cause(errors.Join(long)); len(got) > maxCause || !strings.HasPrefix(got, "a b") {
		t.Errorf("%q", got)
	}
}
