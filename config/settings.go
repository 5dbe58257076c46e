package config

import (
	"strings"
	"time"

	"svc-wallet/wallet"
)

// setting is one row of the table of everything that may be set.
type setting struct {
	key     string // path in the file
	flag    string // name of the flag; "" is none
	value   value  // the field it sets, with its type and range
	def     string // default, as a word
	effect  effect
	help    string
	ceiling string // default of the ceiling, for the rows of Limits.capped
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
func (s setting) name() string { return s.key[strings.LastIndexByte(s.key, '.')+1:] }

// env is the name of the setting's environment variable.
func (s setting) env() string {
	return "SVC_WALLET_" + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
}

// pushName is the member that sets a pushed setting in ParsePush's object. The member x of the
// object shadow is shadow.x.
func (s setting) pushName() string {
	if strings.HasPrefix(s.key, shadowSection+".") {
		return s.key
	}
	name := strings.TrimPrefix(strings.TrimPrefix(s.key, "limits."), "wallet.")
	return strings.ReplaceAll(name, ".", "_")
}

// settings is the table, bound to the fields of c. It is the only place that knows a key.
func (c *Config) settings() []setting {
	l := &c.limits
	var all []setting
	add := func(rows ...setting) { all = append(all, rows...) }

	add(
		setting{key: "bind_addr", flag: "bind", def: "0.0.0.0:8443", value: listenAddr(&c.BindAddr), help: "address of the wallet listener (TLS)"},
		setting{key: "metrics_addr", flag: "metrics", def: "127.0.0.1:9090", value: listenAddr(&c.MetricsAddr), help: "address of the admin listener (plain HTTP: keep it on loopback or behind a network policy)"},
		setting{key: "max_conns", flag: "max-conns", def: "1024", value: integer(&c.MaxConns, 1, 1<<20), help: "most connections to the wallet listener at once"},
		setting{key: "read_timeout", flag: "read-timeout", def: "5s", value: duration(&c.ReadTimeout, 10*time.Millisecond, 5*time.Minute), help: "longest TLS handshake, and longest reading of a request"},
		setting{key: "write_timeout", flag: "write-timeout", def: "5s", value: duration(&c.WriteTimeout, 10*time.Millisecond, 5*time.Minute), help: "longest writing of a response"},
		setting{key: "idle_timeout", flag: "idle-timeout", def: "1m", value: duration(&c.IdleTimeout, 10*time.Millisecond, time.Hour), help: "how long a connection may wait for its next request"},
		setting{key: "drain_deadline", def: "5s", value: duration(&c.DrainDeadline, 100*time.Millisecond, 5*time.Minute), help: "how long requests under way may go on after a signal to stop"},
		setting{key: "workers", def: "0", value: integer(&c.Workers, 0, 1024), help: "goroutines that commit batches; 0 is the number of CPUs, at most half of max_conns and at least 1. WALLET_WORKERS sets it too"},
		setting{key: "amnesia", flag: "amnesia", def: "false", value: toggle{&c.Amnesia}, help: "write no file"},
	)
	add(
		setting{key: "tls.cert_file", flag: "tls-cert", value: fileName(&c.TLS.CertFile), effect: onReload, help: "certificate chain of the wallet listener, PEM; required"},
		setting{key: "tls.key_file", flag: "tls-key", value: fileName(&c.TLS.KeyFile), effect: onReload, help: "private key of the wallet listener, PEM; required"},
		setting{key: "tls.client_ca_file", value: fileName(&c.TLS.ClientCAFile), effect: onReload, help: "certificates that client certificates are verified against, PEM"},
		setting{key: "tls.client_auth", def: "off", value: oneOf(&c.TLS.ClientAuth, ClientAuthOff, ClientAuthRequest, ClientAuthRequire), help: "whether clients show a certificate; one that is shown must verify"},
		setting{key: "tls.pq", flag: "pq", def: "hybrid", value: oneOf(&c.TLS.PQ, PQOff, PQHybrid, PQRequire), help: "post-quantum key exchange: off is X25519 only, hybrid offers X25519MLKEM768 first, require takes nothing else"},
		setting{key: "tls.ticket_rotation", def: "1h", value: duration(&c.TLS.TicketRotation, time.Minute, 24*time.Hour), help: "how long a session ticket key is used"},
	)
	add(
		setting{key: "auth.root_keys_file", flag: "root-keys", value: fileName(&c.Auth.RootKeysFile), effect: onReload, help: "root keys of capabilities, one a line as KEY_ID and 64 hex digits, mode 0600; required"},
		setting{key: "auth.cache_entries", def: "4096", value: integer(&c.Auth.CacheEntries, 1, 1<<20), help: "verified tokens that are remembered"},
		setting{key: "auth.subject_entries", def: "16384", value: integer(&c.Auth.SubjectEntries, 1, 1<<20), help: "subjects whose rate is kept"},
	)
	add(
		setting{key: "wallet.staleness_window", flag: "staleness", def: "250ms", value: duration(&l.StalenessWindow, 10*time.Millisecond, 5*time.Second), effect: onPush, help: "oldest balance that is served while the ledger answers"},
		setting{key: "wallet.max_stale", def: "30s", value: duration(&c.Wallet.MaxStale, 10*time.Millisecond, time.Hour), help: "oldest balance that is served while the ledger does not answer"},
		setting{key: "wallet.idempotency_ttl", flag: "idem-ttl", def: "24h", value: duration(&c.Wallet.IdempotencyTTL, time.Minute, 72*time.Hour), help: "how long an idempotency key replays its receipt"},
		setting{key: "wallet.idempotency_entries", def: "65536", value: integer(&c.Wallet.IdempotencyEntries, 1, 1<<22), help: "receipts kept here for replay; older ones are the ledger's to replay"},
		setting{key: "wallet.nonce_start", def: "1", value: integer(&c.Wallet.NonceStart, 1, 1<<63-1), help: "lowest nonce of an account that has none yet"},
		setting{key: "wallet.nonce_mode", def: "gaps", value: oneOf(&c.Wallet.NonceMode, NonceGaps, NonceContiguous), help: "gaps: a nonce is above the last one by at most nonce_max_gap; contiguous: by exactly 1"},
		setting{key: "wallet.nonce_max_gap", def: "9007199254740992", value: integer(&c.Wallet.NonceMaxGap, 1, 1<<63-1), help: "largest step from one nonce to the next; 1 when nonce_mode is contiguous"},
		setting{key: "wallet.nonce_entries", def: "65536", value: integer(&c.Wallet.NonceEntries, 1, 1<<22), help: "nonces under way at once; more are refused with 429"},
		setting{key: "wallet.cache_entries", def: "65536", value: integer(&c.Wallet.CacheEntries, 1, 1<<22), help: "balances kept here"},
		setting{key: "wallet.shards", def: "64", value: integer(&c.Wallet.Shards, 1, 1024), help: "parts of each of these tables, each with its own lock"},
	)
	add(l.capped("limits")...)
	add(
		setting{key: "limits.request_deadline", def: "5s", value: duration(&l.RequestDeadline, 10*time.Millisecond, 5*time.Minute), effect: onPush, help: "how long a request may take; after it the outcome of a payment under way is unknown"},
		setting{key: "limits.revoked_tokens", value: names{&l.RevokedTokens}, effect: onPush, help: "ids of tokens that are refused"},
		setting{key: "limits.revoked_keys", value: names{&l.RevokedKeys}, effect: onPush, help: "ids of root keys whose tokens are refused"},
		setting{key: "limits.writes_enabled", def: "true", value: share{&l.WritesEnabled}, effect: onPush, help: "payments that are let through; the others get 503"},
		setting{key: "limits.reads_enabled", def: "true", value: share{&l.ReadsEnabled}, effect: onPush, help: "reads that are let through; the others get 503"},
	)
	for r := RouteBalance; r < NumRoutes; r++ {
		add(setting{key: "limits." + r.String() + "_enabled", def: "true", value: share{&l.RouteEnabled[r]}, effect: onPush, help: "requests of the route " + r.String() + " that are let through, of those that writes_enabled or reads_enabled leaves"})
	}
	add(setting{key: "limits.overrides", value: overrides{&l.Overrides}, effect: onPush, help: "exceptions, see below"})
	for i, s := range c.shadow.shadowed() {
		s.value = maybe{s.value, &c.watched[i]}
		add(s)
	}
	add(
		setting{key: "ledger.addr", flag: "ledger", def: "unix:/run/svc-wallet/ledger.sock", value: dialAddr(&c.Ledger.Addr), help: "the ledger node; anything but a Unix socket or a loopback address needs ledger.tls_ca_file"},
		setting{key: "ledger.timeout", def: "1s", value: duration(&l.LedgerTimeout, time.Millisecond, time.Minute), effect: onPush, help: "longest call to the ledger node"},
		setting{key: "ledger.connect_timeout", def: "1s", value: duration(&l.LedgerConnectTimeout, time.Millisecond, time.Minute), effect: onPush, help: "longest wait for a connection to the ledger node; connections made later obey it"},
		setting{key: "ledger.retries", def: "3", value: integer(&l.Retries, 0, 10), effect: onPush, help: "calls after the first one that failed"},
		setting{key: "ledger.backoff_min", def: "50ms", value: duration(&c.Ledger.BackoffMin, time.Millisecond, time.Minute), help: "pause before the first retry; it doubles each time"},
		setting{key: "ledger.backoff_max", def: "1s", value: duration(&c.Ledger.BackoffMax, time.Millisecond, time.Minute), help: "longest pause before a retry"},
		setting{key: "ledger.backoff_jitter", def: "20ms", value: duration(&c.Ledger.BackoffJitter, 0, time.Minute), help: "up to this much, at random, is added to each pause"},
		setting{key: "ledger.tls_ca_file", value: fileName(&c.Ledger.TLSCAFile), help: "certificates that the ledger node's is verified against, PEM; TLS is spoken where this is set"},
		setting{key: "ledger.tls_cert_file", value: fileName(&c.Ledger.TLSCertFile), help: "certificate chain shown to the ledger node, PEM"},
		setting{key: "ledger.tls_key_file", value: fileName(&c.Ledger.TLSKeyFile), help: "private key of that certificate, PEM"},
		setting{key: "ledger.tls_server_name", value: hostName(&c.Ledger.TLSServerName), help: "name expected in the ledger node's certificate, where it is not the host of ledger.addr"},
	)
	add(
		setting{key: "breaker.errors", def: "20", value: integer(&l.BreakerErrors, 1, 10000), effect: onPush, help: "failed calls to the ledger node within 10 s that open the breaker"},
		setting{key: "breaker.open", def: "5s", value: duration(&l.BreakerOpenFor, 100*time.Millisecond, 5*time.Minute), effect: onPush, help: "how long the breaker stays open before it probes"},
		setting{key: "breaker.probes", def: "10", value: integer(&l.BreakerProbes, 1, 1000), effect: onPush, help: "good calls that close a half-open breaker, and the most it lets through"},
	)
	add(c.xdsSettings()...)
	add(
		setting{key: "log.format", flag: "log-format", def: "json", value: oneOf(&c.Log.Format, "json", "text"), help: "form of a log line"},
		setting{key: "log.level", flag: "log-level", def: "info", value: oneOf(&c.Log.Level, "error", "warning", "info", "debug"), effect: onReload, help: "least severe lines that are logged"},
		setting{key: "log.sample_reads", def: "100", value: integer(&c.Log.SampleReads, 0, 1000000), help: "one in so many successful reads is logged; 0 is none, 1 is all"},
	)
	for _, s := range c.Ceilings.capped("ceilings") {
		add(setting{key: s.key, def: s.ceiling, value: s.value, help: "the most that limits." + s.name() + " may be, here or pushed"})
	}
	return all
}

// capped are the settings that have a ceiling: the amounts, rates and sizes. The same rows,
// bound to Config.Ceilings, are the ceilings.
func (l *Limits) capped(section string) []setting {
	rows := []setting{
		{key: "max_amount_per_op", flag: "max-amount", def: "100000000000000000000", ceiling: "1000000000000000000000000", value: amount(&l.MaxAmountPerOp, wallet.Minor(1), wallet.MaxAmount()), help: "largest amount of one payment, in minor units"},
		{key: "daily_ceiling", flag: "daily-ceiling", def: "10000000000000000000000", ceiling: "100000000000000000000000000", value: amount(&l.DailyCeiling, wallet.Minor(1), wallet.MaxAmount()), help: "most that an account may move of an asset in one UTC day, in minor units"},
		{key: "max_account_total", def: maxAccountTotal, ceiling: maxAccountTotal, value: amount(&l.MaxAccountTotal, wallet.Minor(1), wallet.MaxAmount()), help: "most that a credited balance may become, in minor units"},
		{key: "rate_per_second", def: "10000", ceiling: "1000000", value: integer(&l.RatePerSecond, 1, 1e9), help: "requests a second, from all clients"},
		{key: "rate_burst", def: "20000", ceiling: "2000000", value: integer(&l.RateBurst, 1, 1e9), help: "requests that may come at once, from all clients"},
		{key: "subject_rate_per_second", def: "0", ceiling: "1000000", value: integer(&l.SubjectRate, 0, 1e9), help: "requests a second of one subject; 0, with subject_burst 0, is no such limit"},
		{key: "subject_burst", def: "0", ceiling: "2000000", value: integer(&l.SubjectBurst, 0, 1e9), help: "requests of one subject that may come at once"},
		{key: "inflight", def: "1024", ceiling: "16384", value: integer(&l.InFlight, 1, 1<<20), help: "requests under way at once; more are refused with 429"},
		{key: "queue", def: "512", ceiling: "8192", value: integer(&l.Queue, 1, 65536), help: "payments that wait for a batch; more are refused with 429"},
		{key: "batch_max", def: "256", ceiling: "1024", value: integer(&l.BatchMax, 1, 1024), help: "payments in one commit"},
		{key: "max_body_bytes", def: "1MiB", ceiling: "8MiB", value: size(&l.MaxBodyBytes, 256, 64<<20), help: "largest request body, before and after decompression"},
		{key: "decompress_ratio_cap", def: "10", ceiling: "100", value: integer(&l.DecompressRatioCap, 1, 1000), help: "how many times its compressed size a body may become"},
	}
	for i := range rows {
		rows[i].key = section + "." + rows[i].key
		rows[i].effect = onPush
	}
	return rows
}

// numShadowed is the number of rows of Limits.shadowed.
const numShadowed = 13

// shadowed are the settings that may be watched before they are changed: the limits that refuse.
func (l *Limits) shadowed() (rows []setting) {
	all := append(l.capped(shadowSection),
		setting{key: "shadow.revoked_tokens", value: names{&l.RevokedTokens}},
		setting{key: "shadow.revoked_keys", value: names{&l.RevokedKeys}})
	for _, s := range all {
		if s.name() == "batch_max" { // it refuses nothing
			continue
		}
		rows = append(rows, setting{key: s.key, value: s.value, effect: onPush, help: "limits." + s.name() + " as it might become: what it would refuse is counted, and let through"})
	}
	return rows
}

// maxAccountTotal is 2^128-1-10^9, CONTRACT §7.
const maxAccountTotal = "340282366920938463463374607430768211455"
