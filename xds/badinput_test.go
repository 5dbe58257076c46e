package xds

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"svc-wallet/config"
	"svc-wallet/host"
)

// TestBadPush: whatever is wrong with a response, it is refused with its reason, nothing of it is
// in force, and the next good one is taken. Both variants.
func TestBadPush(t *testing.T) {
	const name = "svc-wallet.limits"
	good := limits(`{"max_amount_per_op": "5"}`)[0]
	cases := []struct {
		name      string
		resources []named
		want      string
		delta     bool // only there
	}{
		{name: "garbage", resources: []named{{name, &anypb.Any{TypeUrl: extensionURL, Value: []byte("\xff\x00garbage")}}}, want: "is not a valid message"},
		{name: "garbage inside", resources: []named{{name, pack(&core.TypedExtensionConfig{Name: name, TypedConfig: &anypb.Any{TypeUrl: typePrefix + structNew, Value: []byte("\xff")}})}}, want: "typed_config: is not a valid message"},
		{name: "no body", resources: []named{{name, &anypb.Any{}}}, want: `is a "", not a envoy.config.core.v3.TypedExtensionConfig`},
		{name: "wrong type", resources: []named{{name, layer("x", "{}").body}}, want: "is a envoy.service.runtime.v3.Runtime, not a"},
		{name: "wrong name", resources: []named{{name, pack(&core.TypedExtensionConfig{Name: "other"})}}, want: name + ": is named other inside", delta: true},
		{name: "duplicate names", resources: []named{good, good}, want: name + ": is there twice"},
		{name: "beyond 2^53", resources: limits(`{"rate_per_second": 9007199254740993}`), want: name + ": rate_per_second: 9.007199254740992e+15 is not under 2^53"},
		{name: "fraction", resources: limits(`{"rate_per_second": 0.5}`), want: name + ": rate_per_second: 0.5 is not a whole number"},
		{name: "negative", resources: limits(`{"rate_per_second": -5}`), want: name + ": limits.rate_per_second: -5 (from push) is not"},
		{name: "zero", resources: limits(`{"max_amount_per_op": "0"}`), want: name + `: limits.max_amount_per_op: "0" (from push) is not in 1…`},
		{name: "negative amount", resources: limits(`{"max_amount_per_op": "-1"}`), want: name + `: limits.max_amount_per_op: "-1" (from push) is not a whole amount`},
		{name: "over the ceiling", resources: limits(`{"max_amount_per_op": "1000000000000000000000001"}`), want: name + ": limits.max_amount_per_op: 1000000000000000000000001 (from xds limits svc-wallet.limits) is over ceilings.max_amount_per_op, 1000000000000000000000000"},
		{name: "one of two is bad", resources: limits(`{"max_amount_per_op": "5", "queue": 0}`), want: name + ": limits.queue: 0"},
		{name: "everything at once", resources: limits(`{"queue": 0, "inflight": 0, "x": 1}`), want: name + ": x: unknown key (from push)\n" + name + ": limits.inflight: 0 (from push) is not in 1…1048576\n" + name + ": limits.queue: 0 (from push) is not in 1…65536"},
		{name: "a megabyte", resources: limits(`{"revoked_keys": ["` + strings.Repeat("a", 2<<20) + `"]}`), want: "is larger than 1MiB"},
	}
	protocols(t, func(t *testing.T, protocol string) {
		p := startPlane(t)
		w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits"}})
		l := p.stream(t)
		l.asks(extensionURL)
		l.acked(l.push(extensionURL, "good", limits(`{"max_amount_per_op": "7"}`)))
		refused := uint64(0)
		for _, c := range cases {
			if c.delta && protocol != "delta" {
				continue
			}
			refused++
			got := l.answer(l.push(extensionURL, c.name, c.resources))
			if !strings.Contains(got, c.want) || len(got) > maxReason+8 {
				t.Errorf("%s: NACK %q, want %q", c.name, got, c.want)
			}
			if w.amount() != "7" || w.live.Load().Queue != 512 {
				t.Fatalf("%s: %s is in force", c.name, w.amount())
			}
			if st := w.status().Resources[0]; st.Refused == nil || st.Refused.Version != c.name || st.Refused.Reason != got || st.Version != "good" {
				t.Errorf("%s: status %+v", c.name, st)
			}
		}
		if n := w.Updates("limits", "refused"); n != refused {
			t.Errorf("counted %d refusals, want %d", n, refused)
		}
		l.acked(l.push(extensionURL, "better", limits(`{"max_amount_per_op": "8"}`)))
		if st := w.status().Resources[0]; w.amount() != "8" || st.Refused != nil || st.State != "accepted" {
			t.Errorf("%s in force, status %+v", w.amount(), st)
		}
	})
}

// TestUnexpected: a response about a type that was not asked for is counted and left unanswered,
// since an answer would subscribe to it; a resource that was not asked for is counted, and the
// rest of its response taken.
func TestUnexpected(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		p := startPlane(t)
		w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits"}})
		l := p.stream(t)
		l.asks(extensionURL)
		l.push(runtimeURL, "1", []named{layer("svc-wallet.runtime", `{"svc-wallet.queue": 5}`)})
		l.push("", "1", nil)
		other := named{"other", pack(&core.TypedExtensionConfig{Name: "other"})}
		nonce := l.push(extensionURL, "1", append(limits(`{"max_amount_per_op": "7"}`), other))
		if r := next(t, "the answer", l.reqs); r.nonce != nonce || r.reason != "" {
			t.Errorf("answered %+v", r)
		}
		if w.amount() != "7" || w.live.Load().Queue != 512 {
			t.Errorf("%s is in force", w.amount())
		}
		if a, b := w.Updates("other", "unexpected"), w.Updates("limits", "unexpected"); a != 2 || b != 1 {
			t.Errorf("counted %d and %d", a, b)
		}
	})
}

// TestRollback: a version that comes again is obeyed and counted; one that merely follows is not.
func TestRollback(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		p := startPlane(t)
		w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits"}})
		l := p.stream(t)
		l.asks(extensionURL)
		for i, v := range []struct {
			version, amount string
			back            uint64
		}{{"2", "2", 0}, {"3", "3", 0}, {"2", "2", 1}, {"2", "2", 1}, {"1", "1", 1}, {"3", "3", 2}, {"", "9", 2}, {"", "8", 2}} {
			l.acked(l.push(extensionURL, v.version, limits(`{"max_amount_per_op": "`+v.amount+`"}`)))
			if n := w.Updates("limits", "rolled_back"); w.amount() != v.amount || n != v.back {
				t.Fatalf("step %d: %s in force, %d rollbacks", i, w.amount(), n)
			}
		}
		for i := range 100 {
			l.acked(l.push(extensionURL, "many"+strings.Repeat("x", i), limits(`{}`)))
		}
		if n := len(w.types[0].state().past); n > maxPast {
			t.Errorf("%d versions are remembered", n)
		}
	})
}

// TestTooLarge: a push of 10 MB ends the stream without a word of it in force, and the sidecar comes
// back, each time after a longer wait.
func TestTooLarge(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		var waits atomic.Int64
		p := startPlane(t, grpc.MaxSendMsgSize(64<<20))
		w := newSidecar(t, setup{
			flags:  map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits"},
			timing: func(tm *timing) { tm.jitter = func(n int64) int64 { waits.Store(n); return 0 } },
		})
		l := p.stream(t)
		l.asks(extensionURL)
		l.acked(l.push(extensionURL, "good", limits(`{"max_amount_per_op": "7"}`)))
		huge := limits(`{"revoked_keys": ["` + strings.Repeat("a", 10<<20) + `"]}`)
		for range 5 {
			l.send(l.message(extensionURL, "huge", "n", huge, nil))
			<-l.ctx.Done()
			l = p.stream(t)
		}
		if st := w.status().Sources[0]; !strings.Contains(st.LastError, "ResourceExhausted") || st.Connected {
			t.Errorf("status %+v", st)
		}
		if w.amount() != "7" {
			t.Errorf("%s is in force", w.amount())
		}
		if n := time.Duration(waits.Load()); n != 16*time.Millisecond { // 1 ms, and doubled for each that followed
			t.Errorf("the last wait was up to %s", n)
		}
		l.asks(extensionURL)
		l.acked(l.push(extensionURL, "better", limits(`{"max_amount_per_op": "8"}`)))
	})
}

// TestLarge: a response of a little less than 4 MiB, far over the window of the stream, is taken.
func TestLarge(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		p := startPlane(t)
		w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits"}})
		l := p.stream(t)
		l.asks(extensionURL)
		all := limits(`{"max_amount_per_op": "7"}`)
		for i := range 4 {
			name := fmt.Sprint("other", i)
			all = append(all, named{name, pack(&core.TypedExtensionConfig{Name: name, TypedConfig: &anypb.Any{Value: make([]byte, 1<<20-1024)}})})
		}
		l.acked(l.push(extensionURL, "large", all))
		if w.amount() != "7" || w.Updates("limits", "unexpected") != 4 {
			t.Errorf("%s is in force, %v", w.amount(), w.counts("limits"))
		}
	})
}

// TestRefusedFlood: the same refused response thousands of times, unasked for, is decoded once and
// answered now and then, while the other types of the stream go on and a good response is taken at
// once.
func TestRefusedFlood(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		p := startPlane(t)
		w := newSidecar(t, setup{
			flags:  map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits,runtime"},
			timing: func(tm *timing) { tm.nack = host.Backoff{First: time.Hour, Most: time.Hour} },
		})
		decodes := 0
		w.countDecodes(&decodes)
		l := p.stream(t)
		l.asks(extensionURL)
		l.asks(runtimeURL)
		bad := limits(`{"queue": 0}`)
		if reason := l.answer(l.push(extensionURL, "bad", bad)); !strings.Contains(reason, "limits.queue") {
			t.Fatal(reason)
		}
		const n = 10000
		for range n {
			l.push(extensionURL, "bad", bad)
		}
		// Nothing was sent for them: the answer to this one is the next request.
		nonce := l.push(runtimeURL, "1", []named{layer("svc-wallet.runtime", `{"svc-wallet.queue": 5}`)})
		if r := next(t, "the answer", l.reqs); r.nonce != nonce || r.reason != "" {
			t.Fatalf("%+v", r)
		}
		if got := w.Updates("limits", "refused"); got != n+1 || w.live.Load().Queue != 5 {
			t.Errorf("counted %d refusals, queue %d", got, w.live.Load().Queue)
		}
		if decodes != 1 {
			t.Errorf("decoded %d times", decodes)
		}
		l.acked(l.push(extensionURL, "good", limits(`{"max_amount_per_op": "7"}`)))
		if w.amount() != "7" {
			t.Errorf("%s is in force", w.amount())
		}
		if reason := l.answer(l.push(extensionURL, "bad", bad)); reason == "" { // not delayed: another one was accepted since
			t.Error("the refused response was accepted")
		}
	})
}

// countDecodes counts the resources of limits that are decoded. Client.mu is held where they are.
func (w *sidecar) countDecodes(n *int) {
	limits := w.types[0].(*typed[*config.Patch])
	decode := limits.rt.decode
	limits.rt.decode = func(raw []byte) (string, func() (*config.Patch, []string, error), error) {
		*n++
		return decode(raw)
	}
}

// TestRefusedLoop: a server that sends a refused version again at each NACK, as a snapshot cache
// does, gets the NACK after waits of a second and two: it neither spins nor keeps a correction waiting.
func TestRefusedLoop(t *testing.T) {
	tm := realTiming()
	var got []time.Duration
	for i := range 9 {
		got = append(got, tm.nack.Pause(i-2))
	}
	want := []time.Duration{0, 0, 1e9, 2e9, 2e9, 2e9, 2e9, 2e9, 2e9} // what corrects it waits behind the NACK
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%v, want %v", got, want)
		}
	}
	protocols(t, func(t *testing.T, protocol string) {
		p := startPlane(t)
		w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits"}})
		l := p.stream(t)
		l.asks(extensionURL)
		for i := range 20 {
			if reason := l.answer(l.push(extensionURL, "bad", limits(`{"queue": 0}`))); !strings.Contains(reason, "limits.queue") {
				t.Fatalf("%d: %q", i, reason)
			}
		}
		if st := w.status().Resources[0]; st.Refused.Times != 20 {
			t.Errorf("%+v", st.Refused)
		}
		// A reload that changes what the response is judged by has it judged anew.
		decodes := 0
		w.locked(func() { w.countDecodes(&decodes) })
		reloaded := *w.cfg
		if err := w.stack.Rebase(&reloaded); err != nil {
			t.Fatal(err)
		}
		l.answer(l.push(extensionURL, "bad", limits(`{"queue": 0}`)))
		l.answer(l.push(extensionURL, "bad", limits(`{"queue": 0}`)))
		if st := w.status().Resources[0]; st.Refused.Times != 22 || decodes != 1 {
			t.Errorf("%+v, decoded %d times", st.Refused, decodes)
		}
	})
}

// TestFloodIsPaced: what comes faster than the budget stays with the server, which cannot send any
// more: memory is bounded, whatever comes.
func TestFloodIsPaced(t *testing.T) {
	p := startPlane(t)
	w := newSidecar(t, setup{
		flags:  map[string]string{"xds.addr": p.addr, "xds.types": "limits"},
		timing: func(tm *timing) { tm.rate, tm.burst = 1, 16<<10 },
	})
	l := p.stream(t)
	l.asks(extensionURL)
	body := limits(`{"revoked_keys": ["` + strings.Repeat("a", 64<<10) + `"]}`)
	sent := make(chan int)
	go func() {
		n := 0
		for l.send(l.message(extensionURL, "bad", "n", body, nil)) == nil && n < 1000 {
			n++
		}
		sent <- n
	}()
	await(t, "a refusal", func() bool { return w.Updates("limits", "refused") == 1 })
	w.stop() // ends the stream, and so the sending
	if n := next(t, "the end of sending", sent); n >= 1000 {
		t.Errorf("the server could send %d responses of 64 KiB", n)
	}
	if n := w.Updates("limits", "refused"); n > 2 {
		t.Errorf("%d responses were judged", n)
	}
}

// TestBudget: a burst is free, and what is beyond it is paid by time. The clock is the test's.
func TestBudget(t *testing.T) {
	now := int64(1)
	b := budget{rate: 1000, burst: 10 * overhead, now: func() int64 { return now }}
	for i := range 10 {
		if d := b.spend(0); d != 0 {
			t.Fatalf("response %d waits %s", i, d)
		}
	}
	if d := b.spend(0); d != 1024*time.Millisecond {
		t.Fatalf("waits %s", d)
	}
	now += int64(time.Hour)
	if d := b.spend(9 * overhead); d != 0 {
		t.Fatalf("after an hour it waits %s", d)
	}
}

// TestClosesOnEveryMessage: what the message said is in force, and the sidecar comes back after the
// first wait each time, since a message had come.
func TestClosesOnEveryMessage(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		var waits, most atomic.Int64
		p := startPlane(t)
		w := newSidecar(t, setup{
			flags: map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits"},
			timing: func(tm *timing) {
				tm.jitter = func(n int64) int64 { waits.Add(1); most.Store(max(most.Load(), n)); return 0 }
			},
		})
		for i := range 10 {
			l := p.stream(t)
			l.asks(extensionURL)
			l.acked(l.push(extensionURL, strings.Repeat("v", i+1), limits(`{"max_amount_per_op": "7"}`)))
			l.end <- nil
			<-l.ctx.Done()
		}
		await(t, "ten waits", func() bool { return waits.Load() >= 10 })
		if n := time.Duration(most.Load()); n != time.Millisecond {
			t.Errorf("it waited up to %s", n)
		}
		if w.amount() != "7" {
			t.Errorf("%s is in force", w.amount())
		}
	})
}

// TestSilentStream: a stream that opens and brings nothing makes way for the next address, and what
// is in force stays.
func TestSilentStream(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		silent, p := startPlane(t), startPlane(t)
		w := newSidecar(t, setup{
			flags:  map[string]string{"xds.addr": silent.addr + "," + p.addr, "xds.protocol": protocol, "xds.types": "limits", "xds.resource_timeout": "100ms"},
			timing: func(tm *timing) { tm.preferred = time.Hour },
		})
		silent.until(t, func(l *line) bool { return l.asksFor(extensionURL) })
		spoken := false
		p.until(t, func(l *line) bool {
			if !l.asksFor(extensionURL) {
				return false
			}
			if w.Connected() && !spoken {
				t.Error("connected to a silent control plane")
			}
			spoken = true
			return l.acks(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)) && w.Connected()
		})
		if w.amount() != "7" || w.VersionAge() != 0 {
			t.Errorf("%s in force, age %s", w.amount(), w.VersionAge())
		}
		if st := w.status().Sources[0]; st.Addr != p.addr || !st.Connected {
			t.Errorf("status %+v", st)
		}
	})
}
