package config

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"svc-wallet/host"
)

// rule is something that settings must keep together.
type rule struct {
	broken  bool
	key     string // what is at fault
	other   string // what else is looked at; "" is nothing
	problem string
}

// broken are the faults of the rules that are broken. A rule about a key that is already at fault is
// passed over: what stands there is not what was meant.
func broken(rules []rule, known Faults, text, source func(key string) string) (faults Faults) {
	for _, r := range rules {
		if r.broken && !known.name(r.key) && !known.name(r.other) {
			faults = append(faults, Fault{r.key, host.Plain(text(r.key)), source(r.key), r.problem})
		}
	}
	return faults
}

// conflicts are the faults of settings that are right each by itself.
func (c *Config) conflicts(known Faults) Faults {
	limits := said{}
	for i := range table().rows {
		if s := &table().rows[i]; s.effect == onPush && s.get(c) != nil {
			limits[s.key] = s.get(c)
		}
	}
	rules := slices.Concat(c.needs(), c.serverRules(), c.wayRules(), limits.pairs(), limits.bounds(c))
	return broken(rules, known, c.text, c.source)
}

// needs are the rules that one setting makes no sense without another.
func (c *Config) needs() (rules []rule) {
	needs := func(key, other string) {
		rules = append(rules, rule{c.text(key) != "" && c.text(other) == "", key, other, "needs " + other})
	}
	for _, section := range []string{"xds", "ledger"} {
		needs(section+".tls_cert_file", section+".tls_key_file")
		needs(section+".tls_key_file", section+".tls_cert_file")
		needs(section+".tls_cert_file", section+".tls_ca_file")
		needs(section+".tls_server_name", section+".tls_ca_file")
	}
	needs("xds.spiffe_id", "xds.tls_ca_file")
	for _, key := range []string{"xds.certificate", "xds.client_ca", "xds.root_keys"} {
		rules = append(rules, rule{c.text(key) != "" && !c.XDS.On(), key, "xds.addr", "needs xds.addr or xds.sds_addr"})
	}
	return rules
}

func (c *Config) serverRules() []rule {
	const required = "must be set: the wallet listener speaks only TLS"
	pushed := c.XDS.Certificate != ""
	judged := c.TLS.ClientAuth != ClientAuthOff
	return []rule{
		{c.BindAddr == c.MetricsAddr && !strings.HasSuffix(c.BindAddr, ":0"), "metrics_addr", "bind_addr", "is bind_addr too"},
		{c.BodyMemory < 2*c.Ceilings.MaxBodyBytes, "body_memory", "ceilings.max_body_bytes", "is under twice ceilings.max_body_bytes, " + printSize(c.Ceilings.MaxBodyBytes)},
		{c.TLS.CertFile == "" && (!pushed || c.TLS.KeyFile != ""), "tls.cert_file", "xds.certificate", required},
		{c.TLS.KeyFile == "" && (!pushed || c.TLS.CertFile != ""), "tls.key_file", "xds.certificate", required},
		{judged && c.TLS.ClientCAFile == "" && c.XDS.ClientCA == "", "tls.client_auth", "tls.client_ca_file", "needs tls.client_ca_file"},
		{!judged && c.TLS.ClientCAFile != "", "tls.client_ca_file", "tls.client_auth", "does nothing while tls.client_auth is off"},
		{!judged && c.XDS.ClientCA != "", "xds.client_ca", "tls.client_auth", "does nothing while tls.client_auth is off"},
		{c.Auth.RootKeysFile == "" && c.XDS.RootKeys == "", "auth.root_keys_file", "xds.root_keys", "must be set: without root keys no capability verifies"},
	}
}

// wayRules are those of the ways to the ledger and to the control plane.
func (c *Config) wayRules() []rule {
	l, x := &c.Ledger, &c.XDS
	contiguous := c.Wallet.NonceMode == NonceContiguous && c.source("wallet.nonce_max_gap") != "default"
	on, secrets := len(x.Addrs) > 0, x.Certificate+x.ClientCA+x.RootKeys != ""
	exposed := slices.IndexFunc(x.Addrs, func(addr string) bool { return !stays(addr) })
	far := ""
	if exposed >= 0 {
		far = host.Plain(x.Addrs[exposed])
	}
	return []rule{
		{contiguous && c.Wallet.NonceMaxGap != 1, "wallet.nonce_max_gap", "wallet.nonce_mode", "is not 1 although wallet.nonce_mode is contiguous"},
		{l.BackoffMin > l.BackoffMax, "ledger.backoff_min", "ledger.backoff_max", "is over ledger.backoff_max, " + printDuration(l.BackoffMax)},
		{l.TLSCAFile != "" && strings.HasPrefix(l.Addr, "unix:"), "ledger.tls_ca_file", "ledger.addr", "does nothing: no TLS is spoken over a Unix socket"},
		{l.TLSCAFile == "" && !stays(l.Addr), "ledger.addr", "ledger.tls_ca_file", "needs ledger.tls_ca_file: it is neither a Unix socket nor a loopback address"},
		{x.TLSCAFile == "" && far != "", "xds.addr", "xds.tls_ca_file", fmt.Sprintf("needs xds.tls_ca_file: %s is neither a Unix socket nor a loopback address", far)},
		{on && len(x.Types) == 0 && (!secrets || x.SDSAddr != ""), "xds.types", "", "names nothing to ask for"},
		{on && len(x.RuntimeNames) == 0 && slices.Contains(x.Types, XDSRuntime), "xds.runtime_names", "xds.types", "names nothing although xds.types has runtime"},
		{x.TLSServerName != "" && x.SPIFFEID != "", "xds.tls_server_name", "xds.spiffe_id", "does nothing beside xds.spiffe_id"},
		{x.SDSAddr != "" && !secrets, "xds.sds_addr", "", "does nothing: no secret is named"},
	}
}

// said is what is said of limits: a value for each key, of its setting's type.
type said map[string]any

func (s said) text(key string) string { return table().byKey[key].print(s[key]) }

// pairs are the rules of limits that make sense only together. Were one alone in a layer, its other half
// could be taken away with another layer.
func (s said) pairs() (rules []rule) {
	for _, section := range []string{"limits.", "shadow."} {
		rate, burst := section+"subject_rate_per_second", section+"subject_burst"
		perSecond, hasRate := s[rate].(uint64)
		atOnce, hasBurst := s[burst].(uint64)
		rules = append(
			rules,
			rule{hasRate && !hasBurst, rate, burst, "needs " + burst + " beside it"},
			rule{hasBurst && !hasRate, burst, rate, "needs " + rate + " beside it"},
			rule{hasRate && hasBurst && (perSecond == 0) != (atOnce == 0), burst, rate, "must be 0 exactly where " + rate + " is"},
		)
	}
	return rules
}

// bounds are the rules that c's own settings set to limits.
func (s said) bounds(c *Config) (rules []rule) {
	if window, there := s["wallet.staleness_window"].(time.Duration); there && window > c.Wallet.MaxStale {
		rules = append(rules, rule{true, "wallet.staleness_window", "wallet.max_stale", "is over wallet.max_stale, " + printDuration(c.Wallet.MaxStale)})
	}
	if o, there := s["limits.overrides"].(*Overrides); there {
		problem := o.over(&c.Ceilings)
		rules = append(rules, rule{problem != "", "limits.overrides", "", "is wrong: " + problem})
	}
	for i := range table().rows {
		limit := &table().rows[i]
		v, there := s[limit.key]
		if !there || limit.ceiling == "" {
			continue
		}
		top := table().byKey[limit.ceiling].get(c)
		problem := fmt.Sprintf("is over %s, %s (from %s)", limit.ceiling, limit.print(top), c.source(limit.ceiling))
		rules = append(rules, rule{limit.above(v, top), limit.key, limit.ceiling, problem})
	}
	return rules
}

// stays says whether what is sent to addr cannot leave the machine.
func stays(addr string) bool {
	a, err := host.ParseAddr(addr)
	return err == nil && a.IsLocal()
}
