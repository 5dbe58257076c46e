package xds

import "testing"

// TestLimits: what is pushed is in force before it is acknowledged, a refused push changes nothing
// and says why, and a removal falls back. One stream, in both variants.
func TestLimits(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		p := startPlane(t)
		w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits"}})
		l := p.stream(t)
		first := l.asks(extensionURL)
		if len(first.names) != 1 || first.names[0] != "svc-wallet.limits" || first.node.GetId() != "wallet-1" {
			t.Fatalf("first request: %+v", first)
		}
		l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)))
		if w.amount() != "7" {
			t.Fatalf("in force: %s", w.amount())
		}
		got := l.answer(l.push(extensionURL, "2", limits(`{"queue": 0, "quue": 1}`)))
		want := "svc-wallet.limits: quue: unknown key (from push)\nsvc-wallet.limits: limits.queue: 0 (from push) is not in 1…65536"
		if got != want {
			t.Fatalf("NACK: %q, want %q", got, want)
		}
		if w.amount() != "7" {
			t.Fatalf("in force: %s", w.amount())
		}
		l.acked(l.push(extensionURL, "3", limits(`{"max_amount_per_op": "8"}`)))
		if w.amount() != "8" {
			t.Fatalf("in force: %s", w.amount())
		}
		l.acked(l.push(extensionURL, "4", nil, "svc-wallet.limits"))
		if want := map[string]string{"delta": staticAmount, "sotw": "8"}[protocol]; w.amount() != want {
			t.Fatalf("in force: %s, want %s", w.amount(), want)
		}
	})
}
