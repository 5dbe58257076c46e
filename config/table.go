package config

import (
	"slices"
	"time"

	"svc-wallet/wallet"
)

// settings is the table of everything that may be set, in the order of docs/configuration.md. No
// other place knows a key's field, default or range.
func settings() []setting {
	shared := limits()
	var inForce, shadow, ceilings []setting
	for i := range shared {
		inForce = append(inForce, shared[i].inForce())
		shadow = append(shadow, shared[i].inShadow(i))
		if shared[i].ceiling != "" {
			ceilings = append(ceilings, shared[i].inCeilings())
		}
	}
	return slices.Concat(serverSettings(), walletSettings(), inForce, limitSettings(), shadow, ledgerSettings(), xdsSettings(), logSettings(), ceilings)
}

func serverSettings() []setting {
	return []setting{
		{key: "bind_addr", flag: "bind", def: "0.0.0.0:8443", value: at(func(c *Config) *string { return &c.BindAddr }, listenAddr()), help: "address of the wallet listener (TLS)"},
		{key: "metrics_addr", flag: "metrics", def: "127.0.0.1:9090", value: at(func(c *Config) *string { return &c.MetricsAddr }, listenAddr()), help: "address of the admin listener (plain HTTP: keep it on loopback or behind a network policy)"},
		{key: "max_conns", flag: "max-conns", def: "1024", value: at(func(c *Config) *int { return &c.MaxConns }, integer(1, 1<<20)), help: "most connections to the wallet listener at once; at that, connections on which no valid token has come make room first"},
		{key: "max_conns_per_addr", def: "0", value: at(func(c *Config) *int { return &c.MaxConnsPerAddr }, integer(0, 1<<20)), help: "most of these from one address, an IPv6 /64 counting as one; 0 is no such limit, for clients behind one load balancer"},
		{key: "conn_max_age", def: "1h", value: at(func(c *Config) *time.Duration { return &c.ConnMaxAge }, duration(0, 7*24*time.Hour)), help: "age at which a connection is closed, with its next answer or while idle; up to a tenth less, so that not all leave at once; 0 is never"},
		{key: "body_memory", def: "64MiB", value: at(func(c *Config) *int { return &c.BodyMemory }, size(1<<10, 1<<36)), help: "memory of all request bodies over 4KiB together, as they arrive; where it is in use, such a request gets 429"},
		{key: "read_timeout", flag: "read-timeout", def: "5s", value: at(func(c *Config) *time.Duration { return &c.ReadTimeout }, duration(10*time.Millisecond, 5*time.Minute)), help: "longest TLS handshake, longest wait for the first byte after it, and longest reading of a request"},
		{key: "write_timeout", flag: "write-timeout", def: "5s", value: at(func(c *Config) *time.Duration { return &c.WriteTimeout }, duration(10*time.Millisecond, 5*time.Minute)), help: "longest writing of a response"},
		{key: "idle_timeout", flag: "idle-timeout", def: "1m", value: at(func(c *Config) *time.Duration { return &c.IdleTimeout }, duration(10*time.Millisecond, time.Hour)), help: "how long a connection may wait for its next request"},
		{key: "drain_deadline", def: "5s", value: at(func(c *Config) *time.Duration { return &c.DrainDeadline }, duration(100*time.Millisecond, 5*time.Minute)), help: "how long requests under way may go on after a signal to stop"},
		{key: "workers", def: "0", value: at(func(c *Config) *int { return &c.Workers }, integer(0, 1024)), help: "goroutines that commit batches; 0 is the number of CPUs, at most half of max_conns and at least 1. WALLET_WORKERS sets it too"},
		{key: "amnesia", flag: "amnesia", def: "false", value: at(func(c *Config) *bool { return &c.Amnesia }, toggle()), help: "write no file"},

		{key: "tls.cert_file", flag: "tls-cert", effect: onReload, value: at(func(c *Config) *string { return &c.TLS.CertFile }, fileName()), help: "certificate chain of the wallet listener, PEM; required"},
		{key: "tls.key_file", flag: "tls-key", effect: onReload, value: at(func(c *Config) *string { return &c.TLS.KeyFile }, fileName()), help: "private key of the wallet listener, PEM; required"},
		{key: "tls.client_ca_file", effect: onReload, value: at(func(c *Config) *string { return &c.TLS.ClientCAFile }, fileName()), help: "certificates that client certificates are verified against, PEM"},
		{key: "tls.client_auth", def: "off", value: at(func(c *Config) *ClientAuth { return &c.TLS.ClientAuth }, oneOf(ClientAuthOff, ClientAuthRequest, ClientAuthRequire)), help: "whether clients show a certificate; one that is shown must verify"},
		{key: "tls.pq", flag: "pq", def: "hybrid", value: at(func(c *Config) *PQ { return &c.TLS.PQ }, oneOf(PQOff, PQHybrid, PQRequire)), help: "post-quantum key exchange: off offers X25519 and P-256, hybrid X25519MLKEM768 before these, require nothing but X25519MLKEM768"},

		{key: "auth.root_keys_file", flag: "root-keys", effect: onReload, value: at(func(c *Config) *string { return &c.Auth.RootKeysFile }, fileName()), help: "root keys of capabilities, one a line as KEY_ID and 64 hex digits; nobody else may read the file (mode 0600, or 0640 of root and the process's group); required"},
		{key: "auth.cache_entries", def: "4096", value: at(func(c *Config) *int { return &c.Auth.CacheEntries }, integer(1, 1<<20)), help: "verified tokens that are remembered"},
		{key: "auth.subject_entries", def: "16384", value: at(func(c *Config) *int { return &c.Auth.SubjectEntries }, integer(1, 1<<20)), help: "subjects whose rate is kept"},
		{key: "auth.strangers_per_second", def: "100", value: at(func(c *Config) *uint64 { return &c.Auth.StrangersPerSecond }, natural(1, 1000000)), help: "requests a second without a valid token that are told why; more get 429. Valid tokens never wait for this"},
	}
}

func walletSettings() []setting {
	return []setting{
		{key: "wallet.staleness_window", flag: "staleness", def: "250ms", effect: onPush, value: at(func(c *Config) *time.Duration { return &c.limits.StalenessWindow }, duration(10*time.Millisecond, 5*time.Second)), help: "oldest balance that is served while the ledger answers"},
		{key: "wallet.max_stale", def: "30s", value: at(func(c *Config) *time.Duration { return &c.Wallet.MaxStale }, duration(10*time.Millisecond, time.Hour)), help: "oldest balance that is served while the ledger does not answer"},
		{key: "wallet.idempotency_ttl", flag: "idem-ttl", def: "24h", value: at(func(c *Config) *time.Duration { return &c.Wallet.IdempotencyTTL }, duration(time.Minute, 72*time.Hour)), help: "how long this sidecar itself remembers the receipt of a key, and answers repeats without asking the ledger, which keeps keys as long as receipts"},
		{key: "wallet.idempotency_entries", def: "65536", value: at(func(c *Config) *int { return &c.Wallet.IdempotencyEntries }, integer(1, 1<<22)), help: "receipts kept here for replay; older ones are the ledger's to replay"},
		{key: "wallet.nonce_start", def: "1", value: at(func(c *Config) *uint64 { return &c.Wallet.NonceStart }, natural(1, 1<<63-1)), help: "lowest nonce of an account that has none yet"},
		{key: "wallet.nonce_mode", def: "gaps", value: at(func(c *Config) *NonceMode { return &c.Wallet.NonceMode }, oneOf(NonceGaps, NonceContiguous)), help: "gaps: a nonce is above the last one by at most nonce_max_gap; contiguous: by exactly 1"},
		{key: "wallet.nonce_max_gap", def: "9007199254740992", value: at(func(c *Config) *uint64 { return &c.Wallet.NonceMaxGap }, natural(1, 1<<63-1)), help: "largest step from one nonce to the next; 1 when nonce_mode is contiguous"},
		{key: "wallet.cache_entries", def: "65536", value: at(func(c *Config) *int { return &c.Wallet.CacheEntries }, integer(1, 1<<22)), help: "balances kept here"},
		{key: "wallet.shards", def: "64", value: at(func(c *Config) *int { return &c.Wallet.Shards }, integer(1, 1024)), help: "parts of each of these tables, each with its own lock"},
	}
}

// numShadows is the number of rows of limits.
const numShadows = 13

// maxAccountTotal is 2^128-1-10^9, CONTRACT §7.
const maxAccountTotal = "340282366920938463463374607430768211455"

// limits are those that refuse, so each may be a shadow before it is put in force. The amounts, rates
// and sizes have a ceiling.
func limits() []limit {
	return []limit{
		{name: "max_amount_per_op", flag: "max-amount", def: "100000000000000000000", ceiling: "1000000000000000000000000", in: limitAt(func(l *Limits) *wallet.Amount { return &l.MaxAmountPerOp }, amount()), help: "largest amount of one payment, in minor units"},
		{name: "daily_ceiling", flag: "daily-ceiling", def: "10000000000000000000000", ceiling: "100000000000000000000000000", in: limitAt(func(l *Limits) *wallet.Amount { return &l.DailyCeiling }, amount()), help: "most that an account may move of an asset in one UTC day, in minor units"},
		{name: "max_account_total", def: maxAccountTotal, ceiling: maxAccountTotal, in: limitAt(func(l *Limits) *wallet.Amount { return &l.MaxAccountTotal }, amount()), help: "most that a credited balance may become, in minor units"},
		{name: "rate_per_second", def: "10000", ceiling: "1000000", in: limitAt(func(l *Limits) *uint64 { return &l.RatePerSecond }, natural(1, 1e9)), help: "requests a second, from all clients"},
		{name: "rate_burst", def: "20000", ceiling: "2000000", in: limitAt(func(l *Limits) *uint64 { return &l.RateBurst }, natural(1, 1e9)), help: "requests that may come at once, from all clients"},
		{name: "subject_rate_per_second", def: "0", ceiling: "1000000", in: limitAt(func(l *Limits) *uint64 { return &l.SubjectRate }, natural(0, 1e9)), help: "requests a second of one subject; 0, with subject_burst 0, is no such limit"},
		{name: "subject_burst", def: "0", ceiling: "2000000", in: limitAt(func(l *Limits) *uint64 { return &l.SubjectBurst }, natural(0, 1e9)), help: "requests of one subject that may come at once"},
		{name: "inflight", def: "1024", ceiling: "16384", in: limitAt(func(l *Limits) *int { return &l.InFlight }, integer(1, 1<<20)), help: "requests under way at once; more are refused with 429"},
		{name: "queue", def: "512", ceiling: "8192", in: limitAt(func(l *Limits) *int { return &l.Queue }, integer(1, 65536)), help: "payments that wait for a batch; more are refused with 429"},
		{name: "max_body_bytes", def: "1MiB", ceiling: "8MiB", in: limitAt(func(l *Limits) *int { return &l.MaxBodyBytes }, size(256, 64<<20)), help: "largest request body, before and after decompression"},
		{name: "decompress_ratio_cap", def: "10", ceiling: "100", in: limitAt(func(l *Limits) *int { return &l.DecompressRatioCap }, integer(1, 1000)), help: "how many times its compressed size a body may become"},
		{name: "revoked_tokens", in: limitAt(func(l *Limits) *map[string]struct{} { return &l.RevokedTokens }, names()), help: "ids of tokens that are refused"},
		{name: "revoked_keys", in: limitAt(func(l *Limits) *map[string]struct{} { return &l.RevokedKeys }, names()), help: "ids of root keys whose tokens are refused"},
	}
}

// limitSettings are the limits that stand in no other section.
func limitSettings() []setting {
	all := []setting{
		{key: "limits.batch_max", def: "256", effect: onPush, value: at(func(c *Config) *int { return &c.limits.BatchMax }, integer(1, 1024)), help: "payments in one commit"},
		{key: "limits.request_deadline", def: "5s", effect: onPush, value: at(func(c *Config) *time.Duration { return &c.limits.RequestDeadline }, duration(10*time.Millisecond, 5*time.Minute)), help: "how long a request may take; after it the outcome of a payment under way is unknown"},
		{key: "limits.writes_enabled", def: "true", effect: onPush, value: at(func(c *Config) *Fraction { return &c.limits.WritesEnabled }, share()), help: "payments that are let through; the others get 503"},
		{key: "limits.reads_enabled", def: "true", effect: onPush, value: at(func(c *Config) *Fraction { return &c.limits.ReadsEnabled }, share()), help: "reads that are let through; the others get 503"},
	}
	for r := wallet.RouteBalance; r <= wallet.RouteBurn; r++ {
		all = append(all, setting{
			key: "limits." + r.String() + "_enabled", def: "true", effect: onPush, value: at(func(c *Config) *Fraction { return &c.limits.RouteEnabled[r] }, share()),
			help: "requests of the route " + r.String() + " that are let through, of those that writes_enabled or reads_enabled leaves",
		})
	}
	return append(all, setting{
		key: "limits.overrides", effect: onPush, value: at(func(c *Config) **Overrides { return &c.limits.Overrides }, overrides()),
		help: "limits of some tokens, subjects, accounts, assets or routes instead of these, see below",
	})
}

func ledgerSettings() []setting {
	return slices.Concat([]setting{
		{key: "ledger.addr", flag: "ledger", def: "unix:/run/svc-wallet/ledger.sock", value: at(func(c *Config) *string { return &c.Ledger.Addr }, dialAddr()), help: "the ledger node; anything but a Unix socket or a loopback address needs ledger.tls_ca_file"},
		{key: "ledger.timeout", def: "1s", effect: onPush, value: at(func(c *Config) *time.Duration { return &c.limits.LedgerTimeout }, duration(time.Millisecond, time.Minute)), help: "longest call to the ledger node"},
		{key: "ledger.connect_timeout", def: "1s", effect: onPush, value: at(func(c *Config) *time.Duration { return &c.limits.LedgerConnectTimeout }, duration(time.Millisecond, time.Minute)), help: "longest wait for a connection to the ledger node; connections made later obey it"},
		{key: "ledger.stall_after", def: "150ms", value: at(func(c *Config) *time.Duration { return &c.Ledger.StallAfter }, duration(50*time.Millisecond, 10*time.Second)), help: "silence of the ledger node after which it counts as stalled: payments are refused and /readyz is 503; time in which this process or the node had no CPU, or the network sent lost packets again, and one round trip do not count, up to 1 s"},
		{key: "ledger.retries", def: "3", effect: onPush, value: at(func(c *Config) *int { return &c.limits.Retries }, integer(0, 10)), help: "calls after the first one that failed"},
		{key: "ledger.backoff_min", def: "50ms", value: at(func(c *Config) *time.Duration { return &c.Ledger.BackoffMin }, duration(time.Millisecond, time.Minute)), help: "pause before the first retry; it doubles each time"},
		{key: "ledger.backoff_max", def: "1s", value: at(func(c *Config) *time.Duration { return &c.Ledger.BackoffMax }, duration(time.Millisecond, time.Minute)), help: "longest pause before a retry"},
		{key: "ledger.backoff_jitter", def: "20ms", value: at(func(c *Config) *time.Duration { return &c.Ledger.BackoffJitter }, duration(0, time.Minute)), help: "up to this much, at random, is added to each pause"},
	}, clientTLS("ledger", "ledger node", func(c *Config) *ClientTLS { return &c.Ledger.ClientTLS }), []setting{
		{key: "breaker.errors", def: "20", effect: onPush, value: at(func(c *Config) *int { return &c.limits.BreakerErrors }, integer(1, 10000)), help: "failed calls to the ledger node within 10 s that open the breaker"},
		{key: "breaker.open", def: "5s", effect: onPush, value: at(func(c *Config) *time.Duration { return &c.limits.BreakerOpenFor }, duration(100*time.Millisecond, 5*time.Minute)), help: "how long the breaker stays open before it probes"},
		{key: "breaker.probes", def: "10", effect: onPush, value: at(func(c *Config) *int { return &c.limits.BreakerProbes }, integer(1, 1000)), help: "good calls that close a half-open breaker, and the most it lets through"},
	})
}

// clientTLS are the rows of a section that says how peer is spoken to.
func clientTLS(section, peer string, of func(*Config) *ClientTLS) []setting {
	return []setting{
		{key: section + ".tls_ca_file", value: at(func(c *Config) *string { return &of(c).TLSCAFile }, fileName()), help: "certificates that the " + peer + "'s is verified against, PEM; TLS is spoken where this is set"},
		{key: section + ".tls_cert_file", value: at(func(c *Config) *string { return &of(c).TLSCertFile }, fileName()), help: "certificate chain shown to the " + peer + ", PEM"},
		{key: section + ".tls_key_file", value: at(func(c *Config) *string { return &of(c).TLSKeyFile }, fileName()), help: "private key of that certificate, PEM"},
		{key: section + ".tls_server_name", value: at(func(c *Config) *string { return &of(c).TLSServerName }, hostName()), help: "name expected in the " + peer + "'s certificate, where it is not the host of " + section + ".addr"},
	}
}

func xdsSettings() []setting {
	return slices.Concat([]setting{
		{key: "xds.addr", flag: "xds", value: at(func(c *Config) *[]string { return &c.XDS.Addrs }, list("address", "at most 8 addresses, each unix:PATH or HOST:PORT", 8, isDialAddr)), help: "control planes, the preferred one first; none: nothing is pushed. Anything but a Unix socket or a loopback address needs xds.tls_ca_file"},
		{key: "xds.protocol", def: "delta", value: at(func(c *Config) *XDSProtocol { return &c.XDS.Protocol }, oneOf(XDSDelta, XDSSotW)), help: "variant of the protocol: delta is incremental, sotw the state of the world"},
		{key: "xds.types", def: "limits,runtime,cluster,endpoint", value: at(func(c *Config) *[]string { return &c.XDS.Types }, list("list", "any of limits, runtime, cluster, endpoint", 4, isXDSType)), help: "what is asked for. A control plane may end the whole stream over a type that it does not serve: Istio serves no runtime"},
		{key: "xds.node_id", value: at(func(c *Config) *string { return &c.XDS.NodeID }, label()), help: "name of this sidecar to the control plane; by default the host's, which is the pod's"},
		{key: "xds.node_cluster", def: "svc-wallet", value: at(func(c *Config) *string { return &c.XDS.NodeCluster }, label()), help: "name of the group of sidecars that this one belongs to"},
		{key: "xds.region", value: at(func(c *Config) *string { return &c.XDS.Region }, label()), help: "locality of this sidecar"},
		{key: "xds.zone", value: at(func(c *Config) *string { return &c.XDS.Zone }, label()), help: "locality of this sidecar"},
		{key: "xds.metadata_file", value: at(func(c *Config) *string { return &c.XDS.MetadataFile }, fileName()), help: "metadata of this sidecar, as a Kubernetes downward API volume writes labels: a line is name=\"value\""},
	}, clientTLS("xds", "control plane", func(c *Config) *ClientTLS { return &c.XDS.ClientTLS }), []setting{
		{key: "xds.spiffe_id", value: at(func(c *Config) *string { return &c.XDS.SPIFFEID }, text("name", "a SPIFFE id, spiffe://…", isSPIFFE)), help: "the only URI SAN that the control plane's certificate may have; its host name is then not looked at"},
		{key: "xds.limits_name", def: "svc-wallet.limits", value: at(func(c *Config) *string { return &c.XDS.LimitsName }, text("name", "a name of 1 to 253 visible ASCII characters", isResource)), help: "name of the ECDS resource that holds the limits"},
		{key: "xds.runtime_names", def: "svc-wallet.runtime", value: at(func(c *Config) *[]string { return &c.XDS.RuntimeNames }, list("list", "at most 8 names", 8, isResource)), help: "names of the RTDS layers; a later one wins"},
		{key: "xds.sds_addr", value: at(func(c *Config) *string { return &c.XDS.SDSAddr }, text("address", "unix:PATH", isUnix)), help: "local agent that serves secrets, such as SPIRE's; by default they come from xds.addr"},
		{key: "xds.certificate", value: at(func(c *Config) *string { return &c.XDS.Certificate }, label()), help: "name of the secret with the wallet listener's certificate; tls.cert_file holds until it comes"},
		{key: "xds.client_ca", value: at(func(c *Config) *string { return &c.XDS.ClientCA }, label()), help: "name of the secret with the certificates that client certificates are verified against"},
		{key: "xds.root_keys", value: at(func(c *Config) *string { return &c.XDS.RootKeys }, label()), help: "name of the generic secret with the root keys of capabilities, in the form of auth.root_keys_file"},
		{key: "xds.last_good_file", def: "/var/lib/svc-wallet/last-good.json", value: at(func(c *Config) *string { return &c.XDS.LastGoodFile }, fileName()), help: "what the control plane said last, which is in force at a start without it; holds no secret. Empty, or with amnesia: nothing is written"},
		{key: "xds.resource_timeout", def: "15s", value: at(func(c *Config) *time.Duration { return &c.XDS.ResourceTimeout }, duration(100*time.Millisecond, 5*time.Minute)), help: "how long the control plane may take to send what was asked for"},
		{key: "xds.initial_fetch_timeout", def: "15s", value: at(func(c *Config) *time.Duration { return &c.XDS.InitialFetchTimeout }, duration(0, 5*time.Minute)), help: "how long a start waits, unready, for the control plane's first answer of each type that the last good file does not tell of; then the sidecar is ready and degraded. 0: it does not wait"},
	})
}

func isXDSType(s string) bool {
	return slices.Contains([]string{XDSLimits, XDSRuntime, XDSCluster, XDSEndpoint}, s)
}

func logSettings() []setting {
	return []setting{
		{key: "log.format", flag: "log-format", def: "json", value: at(func(c *Config) *string { return &c.Log.Format }, oneOf("json", "text")), help: "form of a log line"},
		{key: "log.level", flag: "log-level", def: "info", effect: onReload, value: at(func(c *Config) *string { return &c.Log.Level }, oneOf("error", "warning", "info", "debug")), help: "least severe lines that are logged"},
		{key: "log.sample_reads", def: "100", value: at(func(c *Config) *int { return &c.Log.SampleReads }, integer(0, 1000000)), help: "one in so many successful reads is logged; 0 is none, 1 is all"},
	}
}
