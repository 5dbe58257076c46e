package xds

import (
	"maps"
	"sync/atomic"
	"testing"
	"time"
)

// TestInitialFetch: the first start waits until each type has been told of, if only that there is
// nothing, or for so long and no longer; one after it goes by the last good file. The clock is the
// test's.
func TestInitialFetch(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		var skew atomic.Int64
		clock := func(o *Options) { o.Now = func() int64 { return time.Now().UnixNano() + skew.Load() } }
		p := startPlane(t)
		flags := map[string]string{
			"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits,runtime,cluster,endpoint", "xds.runtime_names": "a,b",
			"xds.initial_fetch_timeout": "5m",
		}
		w := newSidecar(t, setup{flags: flags, opts: clock})
		l := p.stream(t)
		l.asks(extensionURL)
		waits := func(what string, want bool) {
			t.Helper()
			if w.Fetching() != want || w.Unfetched() {
				t.Errorf("%s: fetching %v, unfetched %v", what, w.Fetching(), w.Unfetched())
			}
		}
		waits("at first", true)
		l.answer(l.push(extensionURL, "bad", limits(`{"queue": 0}`)))
		waits("after a refused push", true)
		l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)))
		if protocol == "delta" {
			l.acked(l.push(runtimeURL, "1", []named{layer("a", `{}`)}))
			waits("with one layer of two", true)
			l.acked(l.push(runtimeURL, "1", nil, "b"))
		} else {
			l.acked(l.push(runtimeURL, "1", []named{layer("a", `{}`)}))
		}
		waits("without clusters", true)
		skew.Store(int64(6 * time.Minute))
		if w.Fetching() || !w.Unfetched() {
			t.Errorf("in the end: fetching %v, unfetched %v", w.Fetching(), w.Unfetched())
		}
		skew.Store(0)
		l.acked(l.push(clusterURL, "1", []named{clusterOf(`{"name": "ledger", "type": "EDS"}`)}))
		waits("without endpoints", true)
		l.asks(endpointURL)
		l.acked(l.push(endpointURL, "1", []named{assignmentOf("ledger", "/1")}))
		waits("with everything", false)
		w.stop()

		flags["xds.addr"] = "unix:/nowhere"
		flags["xds.last_good_file"] = w.store.path
		w = newSidecar(t, setup{flags: flags, opts: clock})
		waits("with the last good file", false)
		for name, other := range map[string]string{"xds.limits_name": "other.limits", "xds.runtime_names": "a,b,c"} {
			named := maps.Clone(flags)
			named[name] = other
			w = newSidecar(t, setup{flags: named, opts: clock})
			waits("with a name that the file does not tell of, "+other, true)
		}
		flags["xds.root_keys"] = "keys" // which no file tells of
		w = newSidecar(t, setup{flags: flags, opts: clock})
		waits("with a secret", true)
		flags["xds.initial_fetch_timeout"] = "0s"
		w = newSidecar(t, setup{flags: flags, opts: clock})
		waits("where it does not wait", false)
	})
}
