package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// rule is something that settings must keep together.
type rule struct {
	broken  bool
	key     string // what is at fault
	other   string // what else is looked at; "" is nothing
	problem string
}

// conflicts are the rules that c breaks. A rule about a key that is already at fault is passed
// over: what stands there is not what was meant.
func (c *Config) conflicts(known Faults) (faults Faults) {
	return c.broken(append(c.rules(), c.limitRules()...), known)
}

func (c *Config) broken(rules []rule, known Faults) (faults Faults) {
	for _, r := range rules {
		if r.broken && !known.name(r.key) && !known.name(r.other) {
			faults = append(faults, Fault{r.key, plain(table().byKey[r.key].bind(c).String()), c.source(r.key), r.problem})
		}
	}
	return faults
}

func (c *Config) rules() []rule {
	l := &c.Ledger
	_, unixSocket := strings.CutPrefix(l.Addr, "unix:")
	return append(c.xdsRules(), []rule{
		{c.BindAddr == c.MetricsAddr && !strings.HasSuffix(c.BindAddr, ":0"), "metrics_addr", "bind_addr", "is bind_addr too"},
		{c.BodyMemory < 2*c.Ceilings.MaxBodyBytes, "body_memory", "ceilings.max_body_bytes", "is under twice ceilings.max_body_bytes, " + showSize(c.Ceilings.MaxBodyBytes)},
		{c.TLS.CertFile == "" && (c.XDS.Certificate == "" || c.TLS.KeyFile != ""), "tls.cert_file", "xds.certificate", "must be set: the wallet listener speaks only TLS"},
		{c.TLS.KeyFile == "" && (c.XDS.Certificate == "" || c.TLS.CertFile != ""), "tls.key_file", "xds.certificate", "must be set: the wallet listener speaks only TLS"},
		{c.TLS.ClientAuth != ClientAuthOff && c.TLS.ClientCAFile == "" && c.XDS.ClientCA == "", "tls.client_auth", "tls.client_ca_file", "needs tls.client_ca_file"},
		{c.TLS.ClientAuth == ClientAuthOff && c.TLS.ClientCAFile != "", "tls.client_ca_file", "tls.client_auth", "does nothing while tls.client_auth is off"},
		{c.Auth.RootKeysFile == "" && c.XDS.RootKeys == "", "auth.root_keys_file", "xds.root_keys", "must be set: without root keys no capability verifies"},
		{c.Wallet.NonceMode == NonceContiguous && c.isSet("wallet.nonce_max_gap") && c.Wallet.NonceMaxGap != 1, "wallet.nonce_max_gap", "wallet.nonce_mode", "is not 1 although wallet.nonce_mode is contiguous"},
		{l.BackoffMin > l.BackoffMax, "ledger.backoff_min", "ledger.backoff_max", "is over ledger.backoff_max, " + showDuration(l.BackoffMax)},
		{l.TLSCertFile != "" && l.TLSKeyFile == "", "ledger.tls_cert_file", "ledger.tls_key_file", "needs ledger.tls_key_file"},
		{l.TLSKeyFile != "" && l.TLSCertFile == "", "ledger.tls_key_file", "ledger.tls_cert_file", "needs ledger.tls_cert_file"},
		{l.TLSCertFile != "" && l.TLSCAFile == "", "ledger.tls_cert_file", "ledger.tls_ca_file", "needs ledger.tls_ca_file"},
		{l.TLSServerName != "" && l.TLSCAFile == "", "ledger.tls_server_name", "ledger.tls_ca_file", "needs ledger.tls_ca_file"},
		{l.TLSCAFile != "" && unixSocket, "ledger.tls_ca_file", "ledger.addr", "does nothing: no TLS is spoken over a Unix socket"},
		{l.TLSCAFile == "" && !unixSocket && !loopback(l.Addr), "ledger.addr", "ledger.tls_ca_file", "needs ledger.tls_ca_file: it is neither a Unix socket nor a loopback address"},
	}...)
}

func (c *Config) xdsRules() []rule {
	x := &c.XDS
	on := len(x.Addrs) > 0
	secrets := x.Certificate != "" || x.ClientCA != "" || x.RootKeys != ""
	nowhere := !on && x.SDSAddr == ""
	far := ""
	for _, a := range x.Addrs {
		if !strings.HasPrefix(a, "unix:") && !loopback(a) {
			far = a
		}
	}
	return []rule{
		{far != "" && x.TLSCAFile == "", "xds.addr", "xds.tls_ca_file", fmt.Sprintf("needs xds.tls_ca_file: %s is neither a Unix socket nor a loopback address", plain(far))},
		{on && len(x.Types) == 0 && (!secrets || x.SDSAddr != ""), "xds.types", "", "names nothing to ask for"},
		{on && slices.Contains(x.Types, XDSRuntime) && len(x.RuntimeNames) == 0, "xds.runtime_names", "xds.types", "names nothing although xds.types has runtime"},
		{x.TLSCertFile != "" && x.TLSKeyFile == "", "xds.tls_cert_file", "xds.tls_key_file", "needs xds.tls_key_file"},
		{x.TLSKeyFile != "" && x.TLSCertFile == "", "xds.tls_key_file", "xds.tls_cert_file", "needs xds.tls_cert_file"},
		{x.TLSCertFile != "" && x.TLSCAFile == "", "xds.tls_cert_file", "xds.tls_ca_file", "needs xds.tls_ca_file"},
		{x.TLSServerName != "" && x.TLSCAFile == "", "xds.tls_server_name", "xds.tls_ca_file", "needs xds.tls_ca_file"},
		{x.SPIFFEID != "" && x.TLSCAFile == "", "xds.spiffe_id", "xds.tls_ca_file", "needs xds.tls_ca_file"},
		{x.TLSServerName != "" && x.SPIFFEID != "", "xds.tls_server_name", "xds.spiffe_id", "does nothing beside xds.spiffe_id"},
		{x.SDSAddr != "" && !secrets, "xds.sds_addr", "", "does nothing: no secret is named"},
		{x.ClientCA != "" && c.TLS.ClientAuth == ClientAuthOff, "xds.client_ca", "tls.client_auth", "does nothing while tls.client_auth is off"},
		{x.Certificate != "" && nowhere, "xds.certificate", "xds.addr", "needs xds.addr or xds.sds_addr"},
		{x.ClientCA != "" && nowhere, "xds.client_ca", "xds.addr", "needs xds.addr or xds.sds_addr"},
		{x.RootKeys != "" && nowhere, "xds.root_keys", "xds.addr", "needs xds.addr or xds.sds_addr"},
	}
}

// limitRules are the rules that a push must keep as well.
func (c *Config) limitRules() []rule {
	l := &c.limits
	rules := c.pairRules()
	if l.StalenessWindow > c.Wallet.MaxStale {
		rules = append(rules, rule{true, "wallet.staleness_window", "wallet.max_stale", "is over wallet.max_stale, " + showDuration(c.Wallet.MaxStale)})
	}
	if problem := l.Overrides.over(&c.Ceilings); problem != "" {
		rules = append(rules, rule{true, "limits.overrides", "", "is wrong: " + problem})
	}
	over := func(section string, l *Limits, r limitRow) {
		if r.ceiling == "" || !r.above(l, &c.Ceilings) {
			return
		}
		top := "ceilings." + r.name
		problem := fmt.Sprintf("is over %s, %s (from %s)", top, r.bind(&c.Ceilings), c.source(top))
		rules = append(rules, rule{true, section + "." + r.name, top, problem})
	}
	for _, r := range capped {
		over("limits", l, r)
	}
	for i, r := range watchable {
		if c.watched[i] { // it is there to be put in force one day
			over(shadowSection, &c.shadow, r)
		}
	}
	return rules
}

// pairRules are the rules of limits that hold without regard to anything else.
func (c *Config) pairRules() []rule {
	odd := func(l *Limits) bool { return (l.SubjectRate == 0) != (l.SubjectBurst == 0) }
	rate, burst := c.watches("subject_rate_per_second"), c.watches("subject_burst")
	return []rule{
		{odd(&c.limits), "limits.subject_burst", "limits.subject_rate_per_second", "must be 0 exactly where limits.subject_rate_per_second is"},
		{rate != burst, "shadow.subject_burst", "shadow.subject_rate_per_second", "must be set exactly where shadow.subject_rate_per_second is"},
		{rate && burst && odd(&c.shadow), "shadow.subject_burst", "shadow.subject_rate_per_second", "must be 0 exactly where shadow.subject_rate_per_second is"},
	}
}

// watches says whether the limit of that name is under watch.
func (c *Config) watches(name string) bool {
	return c.watched[slices.IndexFunc(watchable, func(r limitRow) bool { return r.name == name })]
}

// loopback says whether addr, HOST:PORT, cannot leave the machine.
func loopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr) // "" is no loopback
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && ip.Unmap().IsLoopback())
}
