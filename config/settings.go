package config

import (
	"slices"
	"strings"
	"sync"
	"time"

	"svc-wallet/wallet"
)

// row is one row of the table of everything that may be set.
type row struct {
	key    string              // path in the file
	flag   string              // name of the flag; "" is none
	bind   func(*Config) value // the field it sets, with its type and range
	def    string              // default, as a word
	effect effect
	help   string
}

// setting is a row together with the field of one Config.
type setting struct {
	row
	value value
}

// effect says how a setting may be changed while the sidecar runs.
type effect uint8

const (
	atRestart effect = iota // not at all
	onReload                // by a reload
	onPush                  // by a reload and by the control plane
)

func (e effect) String() string {
	return [...]string{atRestart: "restart", onReload: "reload", onPush: "reload, push"}[e]
}

// name is the key without its section.
func (r row) name() string { return r.key[strings.LastIndexByte(r.key, '.')+1:] }

// env is the name of the setting's environment variable.
func (r row) env() string {
	return "SVC_WALLET_" + strings.ToUpper(strings.ReplaceAll(r.key, ".", "_"))
}

// pushName is the member that sets a pushed setting in ParsePush's object. The member x of the
// object shadow is shadow.x.
func (r row) pushName() string {
	if strings.HasPrefix(r.key, shadowSection+".") {
		return r.key
	}
	name := strings.TrimPrefix(strings.TrimPrefix(r.key, "limits."), "wallet.")
	return strings.ReplaceAll(name, ".", "_")
}

// index is the table and how to find a row in it.
type index struct {
	rows    []row // in the order of docs/configuration.md
	byKey   map[string]*row
	pushKey map[string]string // the key of each pushName
}

// table is made once: rows are bound to a Config only where its field is looked at, so that a push
// costs what it says and not what could be said.
var table = sync.OnceValue(func() *index { //nolint:gochecknoglobals // a table, never written
	t := &index{rows: allRows(), byKey: map[string]*row{}, pushKey: map[string]string{}}
	for i := range t.rows {
		r := &t.rows[i]
		t.byKey[r.key] = r
		if r.effect == onPush {
			t.pushKey[r.pushName()] = r.key
		}
	}
	return t
})

// settings is the table, bound to the fields of c.
func (c *Config) settings() []setting {
	all := make([]setting, 0, len(table().rows))
	for _, r := range table().rows {
		all = append(all, setting{r, r.bind(c)})
	}
	return all
}

// allRows are the rows of the table, which is the only place that knows a key. Those of capped,
// watchable and xdsRows are among them.
func allRows() (all []row) {
	add := func(rows ...row) { all = append(all, rows...) }

	add(
		row{key: "bind_addr", flag: "bind", def: "0.0.0.0:8443", bind: func(c *Config) value { return listenAddr(&c.BindAddr) }, help: "address of the wallet listener (TLS)"},
		row{key: "metrics_addr", flag: "metrics", def: "127.0.0.1:9090", bind: func(c *Config) value { return listenAddr(&c.MetricsAddr) }, help: "address of the admin listener (plain HTTP: keep it on loopback or behind a network policy)"},
		row{key: "max_conns", flag: "max-conns", def: "1024", bind: func(c *Config) value { return integer(&c.MaxConns, 1, 1<<20) }, help: "most connections to the wallet listener at once; at that, connections on which no valid token has come make room first"},
		row{key: "max_conns_per_addr", def: "0", bind: func(c *Config) value { return integer(&c.MaxConnsPerAddr, 0, 1<<20) }, help: "most of these from one address, an IPv6 /64 counting as one; 0 is no such limit, for clients behind one load balancer"},
		row{key: "conn_max_age", def: "1h", bind: func(c *Config) value { return duration(&c.ConnMaxAge, 0, 7*24*time.Hour) }, help: "age at which a connection is closed, with its next answer or while idle; up to a tenth less, so that not all leave at once; 0 is never"},
		row{key: "body_memory", def: "64MiB", bind: func(c *Config) value { return size(&c.BodyMemory, 1<<10, 1<<36) }, help: "memory of all request bodies over 4KiB together, as they arrive; where it is in use, such a request gets 429"},
		row{key: "read_timeout", flag: "read-timeout", def: "5s", bind: func(c *Config) value { return duration(&c.ReadTimeout, 10*time.Millisecond, 5*time.Minute) }, help: "longest TLS handshake, longest wait for the first byte after it, and longest reading of a request"},
		row{key: "write_timeout", flag: "write-timeout", def: "5s", bind: func(c *Config) value { return duration(&c.WriteTimeout, 10*time.Millisecond, 5*time.Minute) }, help: "longest writing of a response"},
		row{key: "idle_timeout", flag: "idle-timeout", def: "1m", bind: func(c *Config) value { return duration(&c.IdleTimeout, 10*time.Millisecond, time.Hour) }, help: "how long a connection may wait for its next request"},
		row{key: "drain_deadline", def: "5s", bind: func(c *Config) value { return duration(&c.DrainDeadline, 100*time.Millisecond, 5*time.Minute) }, help: "how long requests under way may go on after a signal to stop"},
		row{key: "workers", def: "0", bind: func(c *Config) value { return integer(&c.Workers, 0, 1024) }, help: "goroutines that commit batches; 0 is the number of CPUs, at most half of max_conns and at least 1. WALLET_WORKERS sets it too"},
		row{key: "amnesia", flag: "amnesia", def: "false", bind: func(c *Config) value { return toggle{&c.Amnesia} }, help: "write no file"},
	)
	add(
		row{key: "tls.cert_file", flag: "tls-cert", bind: func(c *Config) value { return fileName(&c.TLS.CertFile) }, effect: onReload, help: "certificate chain of the wallet listener, PEM; required"},
		row{key: "tls.key_file", flag: "tls-key", bind: func(c *Config) value { return fileName(&c.TLS.KeyFile) }, effect: onReload, help: "private key of the wallet listener, PEM; required"},
		row{key: "tls.client_ca_file", bind: func(c *Config) value { return fileName(&c.TLS.ClientCAFile) }, effect: onReload, help: "certificates that client certificates are verified against, PEM"},
		row{key: "tls.client_auth", def: "off", bind: func(c *Config) value {
			return oneOf(&c.TLS.ClientAuth, ClientAuthOff, ClientAuthRequest, ClientAuthRequire)
		}, help: "whether clients show a certificate; one that is shown must verify"},
		row{key: "tls.pq", flag: "pq", def: "hybrid", bind: func(c *Config) value { return oneOf(&c.TLS.PQ, PQOff, PQHybrid, PQRequire) }, help: "post-quantum key exchange: off offers X25519 and P-256, hybrid X25519MLKEM768 before these, require nothing but X25519MLKEM768"},
		row{key: "tls.ticket_rotation", def: "1h", bind: func(c *Config) value { return duration(&c.TLS.TicketRotation, time.Minute, 24*time.Hour) }, help: "how long a session ticket key is used"},
	)
	add(
		row{key: "auth.root_keys_file", flag: "root-keys", bind: func(c *Config) value { return fileName(&c.Auth.RootKeysFile) }, effect: onReload, help: "root keys of capabilities, one a line as KEY_ID and 64 hex digits; nobody else may read the file (mode 0600, or 0640 of root and the process's group); required"},
		row{key: "auth.cache_entries", def: "4096", bind: func(c *Config) value { return integer(&c.Auth.CacheEntries, 1, 1<<20) }, help: "verified tokens that are remembered"},
		row{key: "auth.subject_entries", def: "16384", bind: func(c *Config) value { return integer(&c.Auth.SubjectEntries, 1, 1<<20) }, help: "subjects whose rate is kept"},
		row{key: "auth.strangers_per_second", def: "100", bind: func(c *Config) value { return natural(&c.Auth.StrangersPerSecond, 1, 1000000) }, help: "requests a second without a valid token that are told why; more get 429. Valid tokens never wait for this"},
	)
	add(
		row{key: "wallet.staleness_window", flag: "staleness", def: "250ms", bind: func(c *Config) value { return duration(&c.limits.StalenessWindow, 10*time.Millisecond, 5*time.Second) }, effect: onPush, help: "oldest balance that is served while the ledger answers"},
		row{key: "wallet.max_stale", def: "30s", bind: func(c *Config) value { return duration(&c.Wallet.MaxStale, 10*time.Millisecond, time.Hour) }, help: "oldest balance that is served while the ledger does not answer"},
		row{key: "wallet.idempotency_ttl", flag: "idem-ttl", def: "24h", bind: func(c *Config) value { return duration(&c.Wallet.IdempotencyTTL, time.Minute, 72*time.Hour) }, help: "how long this sidecar itself remembers the receipt of a key, and answers repeats without asking the ledger, which keeps keys as long as receipts"},
		row{key: "wallet.idempotency_entries", def: "65536", bind: func(c *Config) value { return integer(&c.Wallet.IdempotencyEntries, 1, 1<<22) }, help: "receipts kept here for replay; older ones are the ledger's to replay"},
		row{key: "wallet.nonce_start", def: "1", bind: func(c *Config) value { return natural(&c.Wallet.NonceStart, 1, 1<<63-1) }, help: "lowest nonce of an account that has none yet"},
		row{key: "wallet.nonce_mode", def: "gaps", bind: func(c *Config) value { return oneOf(&c.Wallet.NonceMode, NonceGaps, NonceContiguous) }, help: "gaps: a nonce is above the last one by at most nonce_max_gap; contiguous: by exactly 1"},
		row{key: "wallet.nonce_max_gap", def: "9007199254740992", bind: func(c *Config) value { return natural(&c.Wallet.NonceMaxGap, 1, 1<<63-1) }, help: "largest step from one nonce to the next; 1 when nonce_mode is contiguous"},
		row{key: "wallet.nonce_entries", def: "65536", bind: func(c *Config) value { return integer(&c.Wallet.NonceEntries, 1, 1<<22) }, help: "nonces under way at once; more are refused with 429"},
		row{key: "wallet.cache_entries", def: "65536", bind: func(c *Config) value { return integer(&c.Wallet.CacheEntries, 1, 1<<22) }, help: "balances kept here"},
		row{key: "wallet.shards", def: "64", bind: func(c *Config) value { return integer(&c.Wallet.Shards, 1, 1024) }, help: "parts of each of these tables, each with its own lock"},
	)
	for _, r := range capped {
		add(r.in("limits", func(c *Config) *Limits { return &c.limits }))
	}
	add(
		row{key: "limits.request_deadline", def: "5s", bind: func(c *Config) value { return duration(&c.limits.RequestDeadline, 10*time.Millisecond, 5*time.Minute) }, effect: onPush, help: "how long a request may take; after it the outcome of a payment under way is unknown"},
		row{key: "limits.revoked_tokens", bind: func(c *Config) value { return names{&c.limits.RevokedTokens} }, effect: onPush, help: "ids of tokens that are refused"},
		row{key: "limits.revoked_keys", bind: func(c *Config) value { return names{&c.limits.RevokedKeys} }, effect: onPush, help: "ids of root keys whose tokens are refused"},
		row{key: "limits.writes_enabled", def: "true", bind: func(c *Config) value { return share{&c.limits.WritesEnabled} }, effect: onPush, help: "payments that are let through; the others get 503"},
		row{key: "limits.reads_enabled", def: "true", bind: func(c *Config) value { return share{&c.limits.ReadsEnabled} }, effect: onPush, help: "reads that are let through; the others get 503"},
	)
	for r := RouteBalance; r < NumRoutes; r++ {
		add(row{key: "limits." + r.String() + "_enabled", def: "true", bind: func(c *Config) value { return share{&c.limits.RouteEnabled[r]} }, effect: onPush, help: "requests of the route " + r.String() + " that are let through, of those that writes_enabled or reads_enabled leaves"})
	}
	add(row{key: "limits.overrides", bind: func(c *Config) value { return overrides{&c.limits.Overrides} }, effect: onPush, help: "exceptions, see below"})
	for i, r := range watchable {
		s := r.in(shadowSection, func(c *Config) *Limits { return &c.shadow })
		add(row{
			key: s.key, effect: onPush, bind: func(c *Config) value { return maybe{s.bind(c), &c.watched[i]} },
			help: "limits." + r.name + " as it might become: what it would refuse is counted, and let through",
		})
	}
	add(
		row{key: "ledger.addr", flag: "ledger", def: "unix:/run/svc-wallet/ledger.sock", bind: func(c *Config) value { return dialAddr(&c.Ledger.Addr) }, help: "the ledger node; anything but a Unix socket or a loopback address needs ledger.tls_ca_file"},
		row{key: "ledger.timeout", def: "1s", bind: func(c *Config) value { return duration(&c.limits.LedgerTimeout, time.Millisecond, time.Minute) }, effect: onPush, help: "longest call to the ledger node"},
		row{key: "ledger.connect_timeout", def: "1s", bind: func(c *Config) value { return duration(&c.limits.LedgerConnectTimeout, time.Millisecond, time.Minute) }, effect: onPush, help: "longest wait for a connection to the ledger node; connections made later obey it"},
		row{key: "ledger.stall_after", def: "150ms", bind: func(c *Config) value { return duration(&c.Ledger.StallAfter, 50*time.Millisecond, 10*time.Second) }, help: "silence of the ledger node after which it counts as stalled: payments are refused and /readyz is 503; time in which this process or the node had no CPU does not count, up to 1 s"},
		row{key: "ledger.retries", def: "3", bind: func(c *Config) value { return integer(&c.limits.Retries, 0, 10) }, effect: onPush, help: "calls after the first one that failed"},
		row{key: "ledger.backoff_min", def: "50ms", bind: func(c *Config) value { return duration(&c.Ledger.BackoffMin, time.Millisecond, time.Minute) }, help: "pause before the first retry; it doubles each time"},
		row{key: "ledger.backoff_max", def: "1s", bind: func(c *Config) value { return duration(&c.Ledger.BackoffMax, time.Millisecond, time.Minute) }, help: "longest pause before a retry"},
		row{key: "ledger.backoff_jitter", def: "20ms", bind: func(c *Config) value { return duration(&c.Ledger.BackoffJitter, 0, time.Minute) }, help: "up to this much, at random, is added to each pause"},
		row{key: "ledger.tls_ca_file", bind: func(c *Config) value { return fileName(&c.Ledger.TLSCAFile) }, help: "certificates that the ledger node's is verified against, PEM; TLS is spoken where this is set"},
		row{key: "ledger.tls_cert_file", bind: func(c *Config) value { return fileName(&c.Ledger.TLSCertFile) }, help: "certificate chain shown to the ledger node, PEM"},
		row{key: "ledger.tls_key_file", bind: func(c *Config) value { return fileName(&c.Ledger.TLSKeyFile) }, help: "private key of that certificate, PEM"},
		row{key: "ledger.tls_server_name", bind: func(c *Config) value { return hostName(&c.Ledger.TLSServerName) }, help: "name expected in the ledger node's certificate, where it is not the host of ledger.addr"},
	)
	add(
		row{key: "breaker.errors", def: "20", bind: func(c *Config) value { return integer(&c.limits.BreakerErrors, 1, 10000) }, effect: onPush, help: "failed calls to the ledger node within 10 s that open the breaker"},
		row{key: "breaker.open", def: "5s", bind: func(c *Config) value { return duration(&c.limits.BreakerOpenFor, 100*time.Millisecond, 5*time.Minute) }, effect: onPush, help: "how long the breaker stays open before it probes"},
		row{key: "breaker.probes", def: "10", bind: func(c *Config) value { return integer(&c.limits.BreakerProbes, 1, 1000) }, effect: onPush, help: "good calls that close a half-open breaker, and the most it lets through"},
	)
	add(xdsRows()...)
	add(
		row{key: "log.format", flag: "log-format", def: "json", bind: func(c *Config) value { return oneOf(&c.Log.Format, "json", "text") }, help: "form of a log line"},
		row{key: "log.level", flag: "log-level", def: "info", bind: func(c *Config) value { return oneOf(&c.Log.Level, "error", "warning", "info", "debug") }, effect: onReload, help: "least severe lines that are logged"},
		row{key: "log.sample_reads", def: "100", bind: func(c *Config) value { return integer(&c.Log.SampleReads, 0, 1000000) }, help: "one in so many successful reads is logged; 0 is none, 1 is all"},
	)
	for _, r := range capped {
		s := r.in("ceilings", func(c *Config) *Limits { return &c.Ceilings })
		add(row{key: s.key, def: r.ceiling, bind: s.bind, help: "the most that limits." + r.name + " may be, here or pushed"})
	}
	return all
}

func xdsRows() []row {
	return []row{
		{key: "xds.addr", flag: "xds", bind: func(c *Config) value {
			return words{&c.XDS.Addrs, "address", "at most 8 addresses, each unix:PATH or HOST:PORT", 8, isDialAddr}
		}, help: "control planes, the preferred one first; none: nothing is pushed. Anything but a Unix socket or a loopback address needs xds.tls_ca_file"},
		{key: "xds.protocol", def: "delta", bind: func(c *Config) value { return oneOf(&c.XDS.Protocol, XDSDelta, XDSSotW) }, help: "variant of the protocol: delta is incremental, sotw the state of the world"},
		{key: "xds.types", def: "limits,runtime,cluster,endpoint", bind: func(c *Config) value {
			return words{&c.XDS.Types, "list", "any of limits, runtime, cluster, endpoint", 4, isXDSType}
		}, help: "what is asked for. A control plane may end the whole stream over a type that it does not serve: Istio serves no runtime"},
		{key: "xds.node_id", bind: func(c *Config) value { return label(&c.XDS.NodeID) }, help: "name of this sidecar to the control plane; by default the host's, which is the pod's"},
		{key: "xds.node_cluster", def: "svc-wallet", bind: func(c *Config) value { return label(&c.XDS.NodeCluster) }, help: "name of the group of sidecars that this one belongs to"},
		{key: "xds.region", bind: func(c *Config) value { return label(&c.XDS.Region) }, help: "locality of this sidecar"},
		{key: "xds.zone", bind: func(c *Config) value { return label(&c.XDS.Zone) }, help: "locality of this sidecar"},
		{key: "xds.sub_zone", bind: func(c *Config) value { return label(&c.XDS.SubZone) }, help: "locality of this sidecar"},
		{key: "xds.metadata_file", bind: func(c *Config) value { return fileName(&c.XDS.MetadataFile) }, help: "metadata of this sidecar, as a Kubernetes downward API volume writes labels: a line is name=\"value\""},
		{key: "xds.tls_ca_file", bind: func(c *Config) value { return fileName(&c.XDS.TLSCAFile) }, help: "certificates that the control plane's is verified against, PEM; TLS is spoken where this is set"},
		{key: "xds.tls_cert_file", bind: func(c *Config) value { return fileName(&c.XDS.TLSCertFile) }, help: "certificate chain shown to the control plane, PEM"},
		{key: "xds.tls_key_file", bind: func(c *Config) value { return fileName(&c.XDS.TLSKeyFile) }, help: "private key of that certificate, PEM"},
		{key: "xds.tls_server_name", bind: func(c *Config) value { return hostName(&c.XDS.TLSServerName) }, help: "name expected in the control plane's certificate, where it is not the host of xds.addr"},
		{key: "xds.spiffe_id", bind: func(c *Config) value { return text{&c.XDS.SPIFFEID, "name", "a SPIFFE id, spiffe://…", isSPIFFE} }, help: "the only URI SAN that the control plane's certificate may have; its host name is then not looked at"},
		{key: "xds.limits_name", def: "svc-wallet.limits", bind: func(c *Config) value {
			return text{&c.XDS.LimitsName, "name", "a name of 1 to 253 visible ASCII characters", isResource}
		}, help: "name of the ECDS resource that holds the limits"},
		{key: "xds.runtime_names", def: "svc-wallet.runtime", bind: func(c *Config) value { return words{&c.XDS.RuntimeNames, "list", "at most 8 names", 8, isResource} }, help: "names of the RTDS layers; a later one wins"},
		{key: "xds.sds_addr", bind: func(c *Config) value { return text{&c.XDS.SDSAddr, "address", "unix:PATH", isUnix} }, help: "local agent that serves secrets, such as SPIRE's; by default they come from xds.addr"},
		{key: "xds.certificate", bind: func(c *Config) value { return label(&c.XDS.Certificate) }, help: "name of the secret with the wallet listener's certificate; tls.cert_file holds until it comes"},
		{key: "xds.client_ca", bind: func(c *Config) value { return label(&c.XDS.ClientCA) }, help: "name of the secret with the certificates that client certificates are verified against"},
		{key: "xds.root_keys", bind: func(c *Config) value { return label(&c.XDS.RootKeys) }, help: "name of the generic secret with the root keys of capabilities, in the form of auth.root_keys_file"},
		{key: "xds.last_good_file", def: "/var/lib/svc-wallet/last-good.json", bind: func(c *Config) value { return fileName(&c.XDS.LastGoodFile) }, help: "what the control plane said last, which is in force at a start without it; holds no secret. Empty, or with amnesia: nothing is written"},
		{key: "xds.resource_timeout", def: "15s", bind: func(c *Config) value { return duration(&c.XDS.ResourceTimeout, 100*time.Millisecond, 5*time.Minute) }, help: "how long the control plane may take to send what was asked for"},
		{key: "xds.initial_fetch_timeout", def: "15s", bind: func(c *Config) value { return duration(&c.XDS.InitialFetchTimeout, 0, 5*time.Minute) }, help: "how long a start waits, unready, for the control plane's first answer of each type that the last good file does not tell of; then the sidecar is ready and degraded. 0: it does not wait"},
	}
}

// limitRow is a limit that has a place in several sections: in force, under watch, and as a ceiling.
type limitRow struct {
	name    string // key without its section
	flag    string // see row
	bind    func(*Limits) value
	def     string
	ceiling string // default of the ceiling; "" is none
	help    string
}

// in is the row of a limit in one section, whose fields are in the Limits that of finds.
func (r limitRow) in(section string, of func(*Config) *Limits) row {
	return row{
		key: section + "." + r.name, flag: r.flag, def: r.def, effect: onPush, help: r.help,
		bind: func(c *Config) value { return r.bind(of(c)) },
	}
}

// above says whether a limit with a ceiling is over that of top.
func (r limitRow) above(l, top *Limits) bool {
	return r.bind(l).(bounded).above(r.bind(top)) //nolint:forcetypeassert // what has a ceiling is a number
}

// capped are the limits that have a ceiling: the amounts, rates and sizes.
var capped = []limitRow{ //nolint:gochecknoglobals // a table, never written
	{name: "max_amount_per_op", flag: "max-amount", def: "100000000000000000000", ceiling: "1000000000000000000000000", bind: func(l *Limits) value { return amount(&l.MaxAmountPerOp, wallet.Minor(1), wallet.MaxAmount()) }, help: "largest amount of one payment, in minor units"},
	{name: "daily_ceiling", flag: "daily-ceiling", def: "10000000000000000000000", ceiling: "100000000000000000000000000", bind: func(l *Limits) value { return amount(&l.DailyCeiling, wallet.Minor(1), wallet.MaxAmount()) }, help: "most that an account may move of an asset in one UTC day, in minor units"},
	{name: "max_account_total", def: maxAccountTotal, ceiling: maxAccountTotal, bind: func(l *Limits) value { return amount(&l.MaxAccountTotal, wallet.Minor(1), wallet.MaxAmount()) }, help: "most that a credited balance may become, in minor units"},
	{name: "rate_per_second", def: "10000", ceiling: "1000000", bind: func(l *Limits) value { return natural(&l.RatePerSecond, 1, 1e9) }, help: "requests a second, from all clients"},
	{name: "rate_burst", def: "20000", ceiling: "2000000", bind: func(l *Limits) value { return natural(&l.RateBurst, 1, 1e9) }, help: "requests that may come at once, from all clients"},
	{name: "subject_rate_per_second", def: "0", ceiling: "1000000", bind: func(l *Limits) value { return natural(&l.SubjectRate, 0, 1e9) }, help: "requests a second of one subject; 0, with subject_burst 0, is no such limit"},
	{name: "subject_burst", def: "0", ceiling: "2000000", bind: func(l *Limits) value { return natural(&l.SubjectBurst, 0, 1e9) }, help: "requests of one subject that may come at once"},
	{name: "inflight", def: "1024", ceiling: "16384", bind: func(l *Limits) value { return integer(&l.InFlight, 1, 1<<20) }, help: "requests under way at once; more are refused with 429"},
	{name: "queue", def: "512", ceiling: "8192", bind: func(l *Limits) value { return integer(&l.Queue, 1, 65536) }, help: "payments that wait for a batch; more are refused with 429"},
	{name: "batch_max", def: "256", ceiling: "1024", bind: func(l *Limits) value { return integer(&l.BatchMax, 1, 1024) }, help: "payments in one commit"},
	{name: "max_body_bytes", def: "1MiB", ceiling: "8MiB", bind: func(l *Limits) value { return size(&l.MaxBodyBytes, 256, 64<<20) }, help: "largest request body, before and after decompression"},
	{name: "decompress_ratio_cap", def: "10", ceiling: "100", bind: func(l *Limits) value { return integer(&l.DecompressRatioCap, 1, 1000) }, help: "how many times its compressed size a body may become"},
}

// numShadowed is the number of rows of watchable.
const numShadowed = 13

// watchable are the limits that may be watched before they are changed: those that refuse.
var watchable = append( //nolint:gochecknoglobals // a table, never written
	slices.DeleteFunc(slices.Clone(capped), func(r limitRow) bool { return r.name == "batch_max" }), // it refuses nothing
	limitRow{name: "revoked_tokens", bind: func(l *Limits) value { return names{&l.RevokedTokens} }},
	limitRow{name: "revoked_keys", bind: func(l *Limits) value { return names{&l.RevokedKeys} }},
)

// maxAccountTotal is 2^128-1-10^9, CONTRACT §7.
const maxAccountTotal = "340282366920938463463374607430768211455"
