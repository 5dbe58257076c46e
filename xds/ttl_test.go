package xds

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// TestTTL: a resource with a ttl is in force for so long, or as long as heartbeats without a body say
// that it lives, also when the control plane is away and after a restart; then it falls back. A
// heartbeat of what is not there asks for it again in a delta. The clock is the test's.
func TestTTL(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		var skew atomic.Int64
		p := startPlane(t)
		flags := map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits,cluster"}
		clock := func(o *Options) { o.Now = func() int64 { return time.Now().UnixNano() + skew.Load() } }
		w := newSidecar(t, setup{flags: flags, opts: clock})
		pass := func(d time.Duration) {
			skew.Add(int64(d))
			w.wake <- struct{}{}
		}
		l := p.stream(t)
		l.asks(extensionURL)
		l.acked(l.push(extensionURL, "0", limits(`{"max_amount_per_op": "9"}`)))
		if protocol == "delta" { // a heartbeat of another version is none of what is held, whose life it does not end
			l.acked(l.push(extensionURL, "other", lasting(time.Minute, named{name: "svc-wallet.limits"})))
			l.asks(extensionURL) // to leave it
			l.asks(extensionURL)
			pass(2 * time.Minute)
			l.acked(l.push(extensionURL, "0", limits(`{"max_amount_per_op": "9"}`)))
			if w.amount() != "9" || w.Updates("limits", "expired") != 0 {
				t.Errorf("%s is in force", w.amount())
			}
		}
		l.acked(l.push(extensionURL, "1", lasting(time.Hour, limits(`{"max_amount_per_op": "7"}`)...)))
		pass(50 * time.Minute)
		alive := lasting(time.Hour, named{name: "svc-wallet.limits"})
		l.acked(l.push(extensionURL, "1", alive))
		pass(50 * time.Minute)
		if w.amount() != "7" || w.Updates("limits", "expired") != 0 {
			t.Errorf("with a heartbeat %s is in force", w.amount())
		}
		if st := w.status().Resources[0]; st.Expires == "" || st.State != "accepted" {
			t.Errorf("%+v", st)
		}
		l.end <- nil
		<-l.ctx.Done()
		pass(20 * time.Minute)
		await(t, "the end of it", func() bool { return w.amount() == staticAmount })
		if st := w.status().Resources[0]; st.State != "expired" || w.Updates("limits", "expired") != 1 {
			t.Errorf("%+v, counted %v", st, w.counts("limits"))
		}

		l = p.stream(t)
		l.asks(extensionURL)
		l.acked(l.push(extensionURL, "1", alive)) // of what is not there any more
		if protocol == "delta" {
			if r := l.asks(extensionURL); len(r.names) > 0 || !slices.Equal(r.dropped, []string{"svc-wallet.limits"}) {
				t.Errorf("%+v", r)
			}
			if r := l.asks(extensionURL); !slices.Equal(r.names, []string{"svc-wallet.limits"}) {
				t.Errorf("%+v", r)
			}
		}
		l.acked(l.push(extensionURL, "2", lasting(time.Hour, limits(`{"max_amount_per_op": "6"}`)...)))
		for _, ttl := range []time.Duration{0, -time.Second} {
			if got := l.answer(l.push(extensionURL, "bad", lasting(ttl, limits(`{"max_amount_per_op": "5"}`)...))); got != "svc-wallet.limits: ttl: is not a positive duration" {
				t.Error(got)
			}
		}
		// The same version with a ttl that is right is another response.
		l.acked(l.push(extensionURL, "bad", lasting(time.Hour, limits(`{"max_amount_per_op": "5"}`)...)))
		l.acked(l.push(extensionURL, "3", lasting(1<<62, limits(`{"max_amount_per_op": "6"}`)...)))
		l.acked(l.push(extensionURL, "4", lasting(time.Hour, limits(`{"max_amount_per_op": "6"}`)...)))

		// A heartbeat alone removes nothing, though each other response of this type tells of all.
		l.acked(l.push(clusterURL, "1", append([]named{clusterOf(`{"name": "auth"}`)}, lasting(time.Hour, ledgerAt("", "/a"))...)))
		l.acked(l.push(clusterURL, "1", lasting(time.Hour, named{name: "ledger"})))
		if states := w.states(); states["auth"] != "accepted" || states["ledger"] != "accepted" {
			t.Errorf("%v", states)
		}
		w.stop()

		flags["xds.last_good_file"], flags["xds.addr"] = w.store.path, "unix:/nowhere"
		w = newSidecar(t, setup{flags: flags, opts: clock})
		if w.amount() != "6" || !slices.Equal(w.endpoints(), []string{"unix:/a"}) {
			t.Errorf("after a restart %s is in force, and %v", w.amount(), w.endpoints())
		}
		pass(2 * time.Hour)
		await(t, "the end of it", func() bool { return w.amount() == staticAmount && w.endpoints() == nil })
		w.stop()
		w = newSidecar(t, setup{flags: flags, opts: clock, idle: true})
		if states := w.states(); w.amount() != staticAmount || states["ledger"] != "waiting" || states["auth"] != "last good" {
			t.Errorf("after another restart %s is in force, %v", w.amount(), states)
		}
	})
}

// TestUnconfirmed: Istiod sends no removal of limits, only a response with nothing in it. The resource
// is then asked for again: it stays in force, but is shown as unconfirmed unless it is told of. Two
// empty responses do not have it asked for twice.
func TestUnconfirmed(t *testing.T) {
	p := startPlane(t)
	w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.types": "limits", "xds.resource_timeout": "2s"}})
	l := p.stream(t)
	l.asks(extensionURL)
	l.acked(l.push(extensionURL, "", limits(`{"max_amount_per_op": "7"}`)))
	again := func() {
		t.Helper()
		l.acked(l.push(extensionURL, "", nil))
		if r := l.asks(extensionURL); !slices.Equal(r.dropped, []string{"svc-wallet.limits"}) {
			t.Errorf("%+v", r)
		}
		if r := l.asks(extensionURL); !slices.Equal(r.names, []string{"svc-wallet.limits"}) {
			t.Errorf("%+v", r)
		}
	}
	again()
	nonce := l.push(extensionURL, "", nil)
	if r := next(t, "the answer", l.reqs); r.nonce != nonce {
		t.Errorf("%+v", r)
	}
	await(t, "the doubt", func() bool { return w.states()["svc-wallet.limits"] == "unconfirmed" })
	if n := w.Updates("limits", "timed_out"); n != 1 || w.amount() != "7" {
		t.Errorf("%s in force, %d timed out", w.amount(), n)
	}
	again()
	l.acked(l.push(extensionURL, "", limits(`{"max_amount_per_op": "7"}`)))
	if st := w.states(); st["svc-wallet.limits"] != "accepted" {
		t.Errorf("%v", st)
	}
	l.acked(l.push(extensionURL, "", limits(`{}`))) // how limits are lifted where nothing is ever removed
	if w.amount() != staticAmount {
		t.Errorf("%s in force", w.amount())
	}
}

// states are those of /config by name.
func (w *sidecar) states() map[string]string {
	states := map[string]string{}
	for _, r := range w.status().Resources {
		states[r.Name] = r.State
	}
	return states
}
