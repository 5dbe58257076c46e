package config

import (
	"bytes"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"svc-wallet/wallet"
)

func minor(n uint64) wallet.Amount { return wallet.Minor(n) }

// FuzzTOML and FuzzYAML feed the bytes of a configuration file: nothing panics, and what is
// accepted lies in every range, by checks that do not use the table.
func FuzzTOML(f *testing.F) { fuzzFile(f, ".toml", "=", "[", "]\n") }

// FuzzYAML is FuzzTOML's other half.
func FuzzYAML(f *testing.F) { fuzzFile(f, ".yaml", ":", "", ":\n") }

func fuzzFile(f *testing.F, ext, is, open, shut string) {
	f.Add([]byte(""))
	sections := map[string]string{}
	for _, s := range table().rows {
		section, key, nested := strings.Cut(s.key, ".")
		line := tomlText(s, word(s.def))
		if !nested {
			f.Add([]byte(section + is + " " + line + "\n"))
			continue
		}
		sections[section] += " " + key + is + " " + line + "\n"
		f.Add([]byte(open + section + shut + " " + key + is + " " + line + "\n"))
	}
	for section, lines := range sections {
		f.Add([]byte(open + section + shut + lines))
	}
	f.Add([]byte("a" + is + " [[1,2],{}]\n"))
	f.Add([]byte("a: &a {b: *a}\n<<: *a\n---\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, unreadable := parseFile("w"+ext, raw)
		c, err := build(2, unreadable, file, envLayer(required()))
		if err != nil {
			if err.Error() == "" {
				t.Error("refused without a reason")
			}
			return
		}
		checkConfig(t, c)
	})
}

// FuzzParsePush feeds the bytes of a push: what is accepted reads back from its own text as the same
// push, and where it fits under the ceilings its limits lie in every range.
func FuzzParsePush(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"queue":1,"queue":2}`))
	f.Add([]byte(`{"revoked_keys":["a","b"],"max_amount_per_op":"5","staleness_window":"1s","inflight":1e3}`))
	for _, s := range table().rows {
		if s.effect == onPush {
			f.Add([]byte(pushText(s, examples(s)[0])))
		}
	}
	f.Add([]byte(`{"shadow":{"queue":1,"subject_rate_per_second":1,"subject_burst":1},"writes_enabled":"1.5%"}`))
	f.Add([]byte(`{"overrides":[{"token":"t","subject":"s","account":"a*","asset":"ron","route":"tx","max_amount_per_op":"1","max_account_total":"1"},{"token":"t","subject_burst":1,"subject_rate_per_second":1}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := ParsePush(raw)
		if err != nil {
			if err.Error() == "" || len(err.Error()) > 1<<20 {
				t.Errorf("refused with a reason of %d bytes", len(err.Error()))
			}
			return
		}
		again, err := ParsePush(p.JSON())
		if err != nil || !bytes.Equal(p.JSON(), again.JSON()) || p.Len() != again.Len() {
			t.Fatalf("%s reads back as %v %v", p.JSON(), again, err)
		}
		s := NewStack(defaults(), new(Live))
		if err := s.Set(LayerLimits, p, Origin{}); err != nil {
			return
		}
		l, top := s.live.Load(), &s.Config().Ceilings
		if checkLimits(t, l, top); l.Shadow != nil {
			checkLimits(t, l.Shadow, top)
		}
		who := Asker{Route: wallet.RouteTx, Token: "t", Subject: "s"}
		caps := l.CapsFor(&who)
		if caps.MaxAmountPerOp.IsZero() || caps.MaxAmountPerOp.Cmp(top.MaxAmountPerOp) > 0 {
			t.Errorf("an override gives %v", caps.MaxAmountPerOp)
		}
	})
}

// FuzzOverrides feeds overrides as a variable or a flag holds them: what is accepted reads back from
// its own print, which is JSON.
func FuzzOverrides(f *testing.F) {
	f.Add("")
	f.Add("[]")
	f.Add(`[{"asset":"ron","max_amount_per_op":"1"}]`)
	f.Add(`[{"token":"t","subject":"a \"b","daily_ceiling":"2","max_account_total":"3"},{"route":"issue","rate_per_second":1,"rate_burst":2}]`)
	f.Add(`[{"account":"a*","asset":"ron","route":"burn","max_amount_per_op":"1"},{"subject":"s","subject_rate_per_second":1,"subject_burst":1}]`)
	f.Fuzz(func(t *testing.T, text string) {
		k := overrides()
		o, problem := k.read(word(text))
		if problem != "" {
			if o != nil {
				t.Error("something is read of what is refused")
			}
			return
		}
		print := k.print(o)
		if again, problem := k.read(word(print)); problem != "" || k.print(again) != print {
			t.Errorf("%q prints as %q, which reads back as %q %s", text, print, k.print(again), problem)
		}
		if o != nil && !json.Valid([]byte(print)) {
			t.Errorf("%q is not JSON", print)
		}
	})
}

// checkConfig holds a configuration against CONTRACT §7's ranges, by hand.
func checkConfig(t *testing.T, c *Config) {
	t.Helper()
	checkLimits(t, c.Limits(), &c.Ceilings)
	if _, _, err := net.SplitHostPort(c.BindAddr); err != nil {
		t.Error(err)
	}
	if _, _, err := net.SplitHostPort(c.MetricsAddr); err != nil {
		t.Error(err)
	}
	positive := time.Duration(1)
	for _, d := range []struct{ v, lowest, highest time.Duration }{
		{c.ReadTimeout, positive, 5 * time.Minute},
		{c.WriteTimeout, positive, 5 * time.Minute},
		{c.IdleTimeout, positive, time.Hour},
		{c.DrainDeadline, positive, 5 * time.Minute},
		{c.Wallet.IdempotencyTTL, time.Minute, 72 * time.Hour},
		{c.Wallet.MaxStale, c.Limits().StalenessWindow, time.Hour},
		{c.Ledger.BackoffMin, positive, c.Ledger.BackoffMax},
		{c.Ledger.BackoffMax, c.Ledger.BackoffMin, time.Minute},
		{c.Ledger.BackoffJitter, 0, time.Minute},
	} {
		within(t, int(d.v), int(d.lowest), int(d.highest))
	}
	within(t, c.MaxConns, 1, 1<<20)
	within(t, c.BodyMemory, 2*c.Ceilings.MaxBodyBytes, 1<<36)
	within(t, c.Workers, 1, 1024)
	within(t, c.Auth.CacheEntries, 1, 1<<20)
	within(t, c.Auth.SubjectEntries, 1, 1<<20)
	within(t, c.Wallet.IdempotencyEntries, 1, 1<<22)
	within(t, c.Wallet.CacheEntries, 1, 1<<22)
	within(t, c.Wallet.Shards, 1, 1024)
	within(t, c.Log.SampleReads, 0, 1000000)
	if c.Wallet.NonceStart == 0 || c.Wallet.NonceMaxGap == 0 || (c.Wallet.NonceMode == NonceContiguous && c.Wallet.NonceMaxGap != 1) {
		t.Errorf("%+v", c.Wallet)
	}
	if c.TLS.CertFile == "" || c.TLS.KeyFile == "" || c.Auth.RootKeysFile == "" {
		t.Error("what is required is not set")
	}
}

func checkLimits(t *testing.T, l, top *Limits) {
	t.Helper()
	for _, a := range []struct{ v, ceiling wallet.Amount }{
		{l.MaxAmountPerOp, top.MaxAmountPerOp}, {l.DailyCeiling, top.DailyCeiling}, {l.MaxAccountTotal, top.MaxAccountTotal},
	} {
		if a.v.IsZero() || a.v.Cmp(a.ceiling) > 0 {
			t.Errorf("amount %v of at most %v", a.v, a.ceiling)
		}
	}
	within(t, int(l.RatePerSecond), 1, int(top.RatePerSecond))
	within(t, int(l.RateBurst), 1, int(top.RateBurst))
	within(t, int(l.SubjectRate), 0, int(top.SubjectRate))
	within(t, int(l.SubjectBurst), 0, int(top.SubjectBurst))
	if (l.SubjectRate == 0) != (l.SubjectBurst == 0) {
		t.Error("half a subject rate")
	}
	within(t, l.InFlight, 1, top.InFlight)
	within(t, l.Queue, 1, top.Queue)
	within(t, top.Queue, 1, 65536)
	within(t, l.BatchMax, 1, 1024)
	within(t, l.MaxBodyBytes, 256, top.MaxBodyBytes)
	within(t, top.MaxBodyBytes, 256, 64<<20)
	within(t, l.DecompressRatioCap, 1, top.DecompressRatioCap)
	within(t, int(l.StalenessWindow), int(10*time.Millisecond), int(5*time.Second))
	within(t, int(l.RequestDeadline), int(10*time.Millisecond), int(5*time.Minute))
	within(t, int(l.LedgerTimeout), int(time.Millisecond), int(time.Minute))
	within(t, l.Retries, 0, 10)
	within(t, l.BreakerErrors, 1, 10000)
	within(t, int(l.BreakerOpenFor), int(100*time.Millisecond), int(5*time.Minute))
	within(t, l.BreakerProbes, 1, 1000)
	for _, ids := range []map[string]struct{}{l.RevokedTokens, l.RevokedKeys} {
		within(t, len(ids), 0, maxNames)
		for id := range ids {
			within(t, len(id), 1, 64)
		}
	}
}

func within(t *testing.T, v, lowest, highest int) {
	t.Helper()
	if v < lowest || v > highest {
		t.Errorf("%d is not in %d…%d", v, lowest, highest)
	}
}
