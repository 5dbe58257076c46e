package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"svc-wallet/host"
)

// TestFaults holds the exact text of every kind of fault: a file, variables and flags on one
// side, the lines of the error on the other. F stands for the file.
func TestFaults(t *testing.T) {
	for _, v := range []struct {
		name, ext, file string
		env, flags      []string
		want            string
	}{
		{name: "range", file: "[limits]\nqueue = 0", want: `limits.queue: 0 (from F) is not in 1…65536`},
		{name: "range from a variable", env: []string{"SVC_WALLET_LIMITS_QUEUE=65537"}, want: `limits.queue: "65537" (from SVC_WALLET_LIMITS_QUEUE) is not in 1…65536`},
		{name: "range from a flag", flags: []string{"--max-conns=0"}, want: `max_conns: "0" (from --max-conns) is not in 1…1048576`},
		{name: "range from the other name", env: []string{"WALLET_WORKERS=2000"}, want: `workers: "2000" (from WALLET_WORKERS) is not in 0…1024`},
		{name: "negative", file: "max_conns = -1", want: `max_conns: -1 (from F) is not an integer in 1…1048576`},
		{name: "string for a number", file: `max_conns = "512"`, want: `max_conns: "512" (from F) is not an integer in 1…1048576`},
		{name: "float for a number", file: "max_conns = 1.5", want: `max_conns: 1.5 (from F) is not an integer in 1…1048576`},
		{name: "bool for a number", file: "max_conns = true", want: `max_conns: true (from F) is not an integer in 1…1048576`},
		{name: "list for a number", file: "max_conns = [1]", want: `max_conns: a list (from F) is not an integer in 1…1048576`},
		{name: "date for a number", file: "max_conns = 2026-01-02", want: `max_conns: 2026-01-02 (from F) is not an integer in 1…1048576`},
		{name: "null", ext: ".yaml", file: "max_conns:", want: `max_conns: null (from F) is not an integer in 1…1048576`},
		{name: "empty variable", env: []string{"SVC_WALLET_MAX_CONNS="}, want: `max_conns: "" (from SVC_WALLET_MAX_CONNS) is not an integer in 1…1048576`},
		{name: "duration without unit", file: "idle_timeout = 5", want: `idle_timeout: 5 (from F) is not a duration with its unit, such as 250ms, in 10ms…1h`},
		{name: "duration out of range", file: `wallet.staleness_window = "1ms"`, want: `wallet.staleness_window: "1ms" (from F) is not in 10ms…5s`},
		{name: "time to live", flags: []string{"--idem-ttl=73h"}, want: `wallet.idempotency_ttl: "73h" (from --idem-ttl) is not in 1m…72h`},
		{name: "size", file: `limits.max_body_bytes = "1MB"`, want: `limits.max_body_bytes: "1MB" (from F) is not a size in bytes, KiB or MiB in 256…64MiB`},
		{name: "size out of range", file: `limits.max_body_bytes = "65MiB"`, want: `limits.max_body_bytes: "65MiB" (from F) is not in 256…64MiB`},
		{name: "float amount", file: "limits.max_amount_per_op = 1e20", want: `limits.max_amount_per_op: 1e+20 (from F) is not a whole amount, in quotes where it is large, in 1…340282366920938463463374607431768211455`},
		{name: "amount that other readers of YAML round", ext: ".yaml", file: "limits: {max_amount_per_op: 100000000000000000001}", want: `limits.max_amount_per_op: 100000000000000000001 (from F) is not a whole amount, in quotes where it is large, in 1…340282366920938463463374607431768211455`},
		{name: "amount that TOML cannot hold", file: "\nlimits.max_amount_per_op = 100000000000000000001", want: `F: line 2, column 28: toml: couldn't parse decimal number: strconv.ParseInt: parsing "100000000000000000001": value out of range`},
		{name: "amount of zero", flags: []string{"--max-amount=0"}, want: `limits.max_amount_per_op: "0" (from --max-amount) is not in 1…340282366920938463463374607431768211455`},
		{name: "word", flags: []string{"--pq=yes"}, want: `tls.pq: "yes" (from --pq) is not one of off, hybrid, require`},
		{name: "bool", flags: []string{"--amnesia=1"}, want: `amnesia: "1" (from --amnesia) is not true or false`},
		{name: "bool in quotes", file: `amnesia = "true"`, want: `amnesia: "true" (from F) is not true or false`},
		{name: "address", flags: []string{"--bind=8443"}, want: `bind_addr: "8443" (from --bind) is not HOST:PORT`},
		{name: "port", flags: []string{"--bind=:65536"}, want: `bind_addr: ":65536" (from --bind) is not HOST:PORT`},
		{name: "ledger address", flags: []string{"--ledger=:9000"}, want: `ledger.addr: ":9000" (from --ledger) is not unix:PATH or HOST:PORT`},
		{name: "ledger socket", flags: []string{"--ledger=unix:"}, want: `ledger.addr: "unix:" (from --ledger) is not unix:PATH or HOST:PORT`},
		{name: "names", file: `limits.revoked_keys = ["a b"]`, want: `limits.revoked_keys: a list (from F) is not a list of at most 65536 names, each of 1 to 64 visible ASCII characters but no comma`},
		{name: "names that are numbers", file: `limits.revoked_keys = [1]`, want: `limits.revoked_keys: a list (from F) is not a list of at most 65536 names, each of 1 to 64 visible ASCII characters but no comma`},
		{name: "a name that is empty", env: []string{"SVC_WALLET_LIMITS_REVOKED_KEYS=a,"}, want: `limits.revoked_keys: "a," (from SVC_WALLET_LIMITS_REVOKED_KEYS) is not a list of at most 65536 names, each of 1 to 64 visible ASCII characters but no comma`},
		{name: "hostile text", file: `log.level = "\u001b[2J\nlimits.queue: fine` + strings.Repeat("x", 100) + `"`, want: `log.level: "\x1b[2J\nlimits.queue: fine` + strings.Repeat("x", 57) + `…" (from F) is not one of error, warning, info, debug`},

		{name: "unknown key", file: "[limits]\nquue = 1", want: `limits.quue: unknown key (from F)`},
		{name: "unknown section", file: "[limit]\nqueue = 1", want: `limit.queue: unknown key (from F)`},
		{name: "unknown key with odd characters", file: "\"a\\nb\" = 1", want: `"a\nb": unknown key (from F)`},
		{name: "unknown variable", env: []string{"SVC_WALLET_QUEUE=1"}, want: `SVC_WALLET_QUEUE: unknown key (from the environment)`},
		{name: "section that is a value", file: "limits = 5", want: `limits: 5 (from F) is not a section of keys`},
		{name: "section that is a list", file: "[[limits]]\nqueue = 1", want: `limits: a list (from F) is not a section of keys`},
		{name: "key that is a section", file: "[bind_addr]\nqueue = 1", want: `bind_addr.queue: unknown key (from F)`},
		{name: "key that is an empty section", file: "[bind_addr]", want: `bind_addr: a section (from F) is not HOST:PORT`},

		{name: "key twice in TOML", file: "workers = 1\nworkers = 2", want: `F: toml: key workers is already defined`},
		{name: "key twice in YAML", ext: ".yaml", file: "workers: 1\nworkers: 2", want: `F: line 2, column 1: workers is there twice`},
		{name: "key twice by a dotted name", file: "\"limits.queue\" = 1\n[limits]\nqueue = 2", want: `F: the name "limits.queue" has a dot in it: write it below its section`},
		{name: "number as a name", ext: ".yaml", file: "limits: {1: 2}", want: `F: line 1, column 10: a name is not text`},
		{name: "section in a section", file: "[limits.deep]\nqueue = 2", want: `F: deep is a section within a section: there are none`},
		{name: "two YAML documents", ext: ".yaml", file: "workers: 1\n---\nworkers: 2", want: `F: there is more than one YAML document`},
		{name: "no mapping", ext: ".yaml", file: "- 1", want: `F: line 1, column 1: is not a mapping of names to values`},
		{name: "extension", ext: ".json", file: "{}", want: `F: the extension of a configuration is .toml, .yaml or .yml`},
		{name: "too large", file: "#" + strings.Repeat("x", maxDocument), want: `F: cannot read the configuration: is larger than 1MiB`},

		{
			name: "all at once, also what a higher layer hides",
			file: "max_conns = 0\nnope = 1\n[limits]\nqueue = 5\ninflight = \"a\"", env: []string{"SVC_WALLET_MAX_CONNS=7", "SVC_WALLET_LIMITS_QUEUE=b"}, flags: []string{"--pq=c", "--bind=d"},
			want: `limits.inflight: "a" (from F) is not an integer in 1…1048576
max_conns: 0 (from F) is not in 1…1048576
nope: unknown key (from F)
limits.queue: "b" (from SVC_WALLET_LIMITS_QUEUE) is not an integer in 1…65536
bind_addr: "d" (from --bind) is not HOST:PORT
tls.pq: "c" (from --pq) is not one of off, hybrid, require`,
		},
		{
			name: "a bad file does not hide bad flags", file: "[", flags: []string{"--pq=c"},
			want: `F: line 1, column 2: toml: expected key but found none
tls.pq: "c" (from --pq) is not one of off, hybrid, require`,
		},
	} {
		t.Run(v.name, func(t *testing.T) {
			if v.ext == "" {
				v.ext = ".toml"
			}
			file := writeFile(t, v.ext, v.file)
			_, err := Load(Sources{File: file, Env: required(v.env...), Flags: flags(t, v.flags...)})
			wantFaults(t, err, v.want, file)
		})
	}
}

func wantFaults(t *testing.T, err error, want, file string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no fault, want\n%s", want)
	}
	if got := strings.ReplaceAll(err.Error(), host.Plain(file), "F"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestConflicts breaks each rule between settings, by variables, and holds the text of the fault.
func TestConflicts(t *testing.T) {
	for _, v := range []struct{ env, want string }{
		{"BIND_ADDR=127.0.0.1:9090", `metrics_addr: 127.0.0.1:9090 (from default) is bind_addr too`},
		{"BIND_ADDR=:0 METRICS_ADDR=:0", ``},
		{"TLS_CERT_FILE=", `tls.cert_file: "" (from SVC_WALLET_TLS_CERT_FILE) must be set: the wallet listener speaks only TLS`},
		{"TLS_KEY_FILE=", `tls.key_file: "" (from SVC_WALLET_TLS_KEY_FILE) must be set: the wallet listener speaks only TLS`},
		{"AUTH_ROOT_KEYS_FILE=", `auth.root_keys_file: "" (from SVC_WALLET_AUTH_ROOT_KEYS_FILE) must be set: without root keys no capability verifies`},
		{"TLS_CLIENT_AUTH=require", `tls.client_auth: require (from SVC_WALLET_TLS_CLIENT_AUTH) needs tls.client_ca_file`},
		{"TLS_CLIENT_CA_FILE=ca.pem", `tls.client_ca_file: ca.pem (from SVC_WALLET_TLS_CLIENT_CA_FILE) does nothing while tls.client_auth is off`},
		{"TLS_CLIENT_AUTH=require TLS_CLIENT_CA_FILE=ca.pem", ``},
		{"WALLET_NONCE_MODE=contiguous WALLET_NONCE_MAX_GAP=2", `wallet.nonce_max_gap: 2 (from SVC_WALLET_WALLET_NONCE_MAX_GAP) is not 1 although wallet.nonce_mode is contiguous`},
		{"WALLET_NONCE_MODE=contiguous WALLET_NONCE_MAX_GAP=1", ``},
		{"WALLET_MAX_STALE=100ms", `wallet.staleness_window: 250ms (from default) is over wallet.max_stale, 100ms`},
		{"LEDGER_BACKOFF_MIN=2s", `ledger.backoff_min: 2s (from SVC_WALLET_LEDGER_BACKOFF_MIN) is over ledger.backoff_max, 1s`},
		{"LEDGER_ADDR=localhost:7000", ``},
		{"LEDGER_ADDR=[::ffff:127.0.0.1]:7000", ``},
		{"LEDGER_ADDR=ledger:7000", `ledger.addr: ledger:7000 (from SVC_WALLET_LEDGER_ADDR) needs ledger.tls_ca_file: it is neither a Unix socket nor a loopback address`},
		{"LEDGER_ADDR=ledger:7000 LEDGER_TLS_CA_FILE=ca LEDGER_TLS_SERVER_NAME=l LEDGER_TLS_CERT_FILE=c LEDGER_TLS_KEY_FILE=k", ``},
		{"LEDGER_TLS_CA_FILE=ca", `ledger.tls_ca_file: ca (from SVC_WALLET_LEDGER_TLS_CA_FILE) does nothing: no TLS is spoken over a Unix socket`},
		{"LEDGER_ADDR=ledger:7000 LEDGER_TLS_CA_FILE=ca LEDGER_TLS_CERT_FILE=c", `ledger.tls_cert_file: c (from SVC_WALLET_LEDGER_TLS_CERT_FILE) needs ledger.tls_key_file`},
		{"LEDGER_ADDR=ledger:7000 LEDGER_TLS_CA_FILE=ca LEDGER_TLS_KEY_FILE=k", `ledger.tls_key_file: k (from SVC_WALLET_LEDGER_TLS_KEY_FILE) needs ledger.tls_cert_file`},
		{"LEDGER_TLS_CERT_FILE=c LEDGER_TLS_KEY_FILE=k", `ledger.tls_cert_file: c (from SVC_WALLET_LEDGER_TLS_CERT_FILE) needs ledger.tls_ca_file`},
		{"LEDGER_TLS_SERVER_NAME=n", `ledger.tls_server_name: n (from SVC_WALLET_LEDGER_TLS_SERVER_NAME) needs ledger.tls_ca_file`},
		{"LIMITS_SUBJECT_BURST=5", `limits.subject_burst: 5 (from SVC_WALLET_LIMITS_SUBJECT_BURST) must be 0 exactly where limits.subject_rate_per_second is`},
		{"LIMITS_SUBJECT_RATE_PER_SECOND=5", `limits.subject_burst: 0 (from default) must be 0 exactly where limits.subject_rate_per_second is`},
		{"LIMITS_SUBJECT_RATE_PER_SECOND=5 LIMITS_SUBJECT_BURST=5", ``},
		{"CEILINGS_QUEUE=511", `limits.queue: 512 (from default) is over ceilings.queue, 511 (from SVC_WALLET_CEILINGS_QUEUE)`},
		{"LIMITS_QUEUE=8193", `limits.queue: 8193 (from SVC_WALLET_LIMITS_QUEUE) is over ceilings.queue, 8192 (from default)`},
		{"LIMITS_MAX_AMOUNT_PER_OP=9 CEILINGS_MAX_AMOUNT_PER_OP=8", `limits.max_amount_per_op: 9 (from SVC_WALLET_LIMITS_MAX_AMOUNT_PER_OP) is over ceilings.max_amount_per_op, 8 (from SVC_WALLET_CEILINGS_MAX_AMOUNT_PER_OP)`},
		{"LIMITS_MAX_BODY_BYTES=9MiB", `limits.max_body_bytes: 9MiB (from SVC_WALLET_LIMITS_MAX_BODY_BYTES) is over ceilings.max_body_bytes, 8MiB (from default)`},
		{"SHADOW_QUEUE=8193", `shadow.queue: 8193 (from SVC_WALLET_SHADOW_QUEUE) is over ceilings.queue, 8192 (from default)`},
		{"SHADOW_QUEUE=8192", ``},
		{"SHADOW_SUBJECT_BURST=5", `shadow.subject_burst: 5 (from SVC_WALLET_SHADOW_SUBJECT_BURST) needs shadow.subject_rate_per_second beside it`},
		{"SHADOW_SUBJECT_RATE_PER_SECOND=5", `shadow.subject_rate_per_second: 5 (from SVC_WALLET_SHADOW_SUBJECT_RATE_PER_SECOND) needs shadow.subject_burst beside it`},
		{"SHADOW_SUBJECT_RATE_PER_SECOND=5 SHADOW_SUBJECT_BURST=0", `shadow.subject_burst: 0 (from SVC_WALLET_SHADOW_SUBJECT_BURST) must be 0 exactly where shadow.subject_rate_per_second is`},
		{"SHADOW_SUBJECT_RATE_PER_SECOND=5 SHADOW_SUBJECT_BURST=5", ``},
		{`LIMITS_OVERRIDES=[{"route":"tx","rate_per_second":1000001,"rate_burst":2000001}]`, `limits.overrides: "[{\"rate_burst\":2000001,\"rate_per_second\":1000001,\"route\":\"tx\"}]" (from SVC_WALLET_LIMITS_OVERRIDES) is wrong: item 1: rate_per_second is over ceilings.rate_per_second; item 1: rate_burst is over ceilings.rate_burst`},
		{`LIMITS_OVERRIDES=[{"route":"tx","rate_per_second":1000000,"rate_burst":2000000}]`, ``},

		{"XDS_ADDR=localhost:1,unix:/run/x,[::1]:2", ``},
		{"XDS_ADDR=localhost:1,control:1,b:2", `xds.addr: "localhost:1,control:1,b:2" (from SVC_WALLET_XDS_ADDR) needs xds.tls_ca_file: control:1 is neither a Unix socket nor a loopback address`},
		{"XDS_ADDR=control:1 XDS_TLS_CA_FILE=ca XDS_TLS_CERT_FILE=c XDS_TLS_KEY_FILE=k XDS_TLS_SERVER_NAME=n", ``},
		{"XDS_ADDR=control:1 XDS_TLS_CA_FILE=ca XDS_SPIFFE_ID=spiffe://a/b", ``},
		{"XDS_TYPES=", ``},
		{"XDS_ADDR=:1 XDS_TYPES=x", `xds.addr: ":1" (from SVC_WALLET_XDS_ADDR) is not at most 8 addresses, each unix:PATH or HOST:PORT
xds.types: "x" (from SVC_WALLET_XDS_TYPES) is not any of limits, runtime, cluster, endpoint`},
		{"XDS_ADDR=unix:/x XDS_TYPES=", `xds.types: "" (from SVC_WALLET_XDS_TYPES) names nothing to ask for`},
		{"XDS_ADDR=unix:/x XDS_TYPES= XDS_ROOT_KEYS=r", ``},
		{"XDS_ADDR=unix:/x XDS_TYPES= XDS_ROOT_KEYS=r XDS_SDS_ADDR=unix:/y", `xds.types: "" (from SVC_WALLET_XDS_TYPES) names nothing to ask for`},
		{"XDS_ADDR=unix:/x XDS_RUNTIME_NAMES=", `xds.runtime_names: "" (from SVC_WALLET_XDS_RUNTIME_NAMES) names nothing although xds.types has runtime`},
		{"XDS_ADDR=unix:/x XDS_RUNTIME_NAMES= XDS_TYPES=limits", ``},
		{"XDS_LIMITS_NAME=", `xds.limits_name: "" (from SVC_WALLET_XDS_LIMITS_NAME) is not a name of 1 to 253 visible ASCII characters`},
		{"XDS_TLS_CA_FILE=ca XDS_TLS_CERT_FILE=c", `xds.tls_cert_file: c (from SVC_WALLET_XDS_TLS_CERT_FILE) needs xds.tls_key_file`},
		{"XDS_TLS_CA_FILE=ca XDS_TLS_KEY_FILE=k", `xds.tls_key_file: k (from SVC_WALLET_XDS_TLS_KEY_FILE) needs xds.tls_cert_file`},
		{"XDS_TLS_CERT_FILE=c XDS_TLS_KEY_FILE=k", `xds.tls_cert_file: c (from SVC_WALLET_XDS_TLS_CERT_FILE) needs xds.tls_ca_file`},
		{"XDS_TLS_SERVER_NAME=n", `xds.tls_server_name: n (from SVC_WALLET_XDS_TLS_SERVER_NAME) needs xds.tls_ca_file`},
		{"XDS_SPIFFE_ID=spiffe://a", `xds.spiffe_id: spiffe://a (from SVC_WALLET_XDS_SPIFFE_ID) needs xds.tls_ca_file`},
		{"XDS_SPIFFE_ID=https://a", `xds.spiffe_id: "https://a" (from SVC_WALLET_XDS_SPIFFE_ID) is not a SPIFFE id, spiffe://…`},
		{"XDS_TLS_CA_FILE=ca XDS_SPIFFE_ID=spiffe://a XDS_TLS_SERVER_NAME=n", `xds.tls_server_name: n (from SVC_WALLET_XDS_TLS_SERVER_NAME) does nothing beside xds.spiffe_id`},
		{"XDS_SDS_ADDR=unix:/x", `xds.sds_addr: unix:/x (from SVC_WALLET_XDS_SDS_ADDR) does nothing: no secret is named`},
		{"XDS_SDS_ADDR=localhost:1", `xds.sds_addr: "localhost:1" (from SVC_WALLET_XDS_SDS_ADDR) is not unix:PATH`},
		{"XDS_CERTIFICATE=a XDS_CLIENT_CA=b XDS_ROOT_KEYS=c TLS_CLIENT_AUTH=request", `xds.certificate: a (from SVC_WALLET_XDS_CERTIFICATE) needs xds.addr or xds.sds_addr
xds.client_ca: b (from SVC_WALLET_XDS_CLIENT_CA) needs xds.addr or xds.sds_addr
xds.root_keys: c (from SVC_WALLET_XDS_ROOT_KEYS) needs xds.addr or xds.sds_addr`},
		{"XDS_SDS_ADDR=unix:/x XDS_CERTIFICATE=a XDS_CLIENT_CA=b XDS_ROOT_KEYS=c TLS_CLIENT_AUTH=request", ``},
		{"XDS_ADDR=unix:/x XDS_CLIENT_CA=b", `xds.client_ca: b (from SVC_WALLET_XDS_CLIENT_CA) does nothing while tls.client_auth is off`},
		{"XDS_ADDR=unix:/x XDS_CERTIFICATE=a XDS_ROOT_KEYS=c TLS_CERT_FILE= TLS_KEY_FILE= AUTH_ROOT_KEYS_FILE=", ``},
		{"XDS_ADDR=unix:/x XDS_CERTIFICATE=a TLS_CERT_FILE=", `tls.cert_file: "" (from SVC_WALLET_TLS_CERT_FILE) must be set: the wallet listener speaks only TLS`},
		{"XDS_ADDR=unix:/x XDS_CERTIFICATE=a TLS_KEY_FILE=", `tls.key_file: "" (from SVC_WALLET_TLS_KEY_FILE) must be set: the wallet listener speaks only TLS`},
		// A rule about a key that is wrong by itself says nothing more.
		{"LIMITS_QUEUE=9000 CEILINGS_QUEUE=x", `ceilings.queue: "x" (from SVC_WALLET_CEILINGS_QUEUE) is not an integer in 1…65536`},
	} {
		t.Run(v.env, func(t *testing.T) {
			var env []string
			for _, e := range strings.Fields(v.env) {
				env = append(env, "SVC_WALLET_"+e)
			}
			_, err := Load(Sources{Env: required(env...)})
			if v.want == "" && err == nil {
				return
			}
			if err == nil {
				t.Fatalf("no fault, want\n%s", v.want)
			}
			if err.Error() != v.want {
				t.Errorf("got\n%v\nwant\n%s", err, v.want)
			}
		})
	}
}

// TestRequired loads nothing at all: the error names what has no default, in one go.
func TestRequired(t *testing.T) {
	_, err := Load(Sources{})
	wantFaults(t, err, `tls.cert_file: "" (from default) must be set: the wallet listener speaks only TLS
tls.key_file: "" (from default) must be set: the wallet listener speaks only TLS
auth.root_keys_file: "" (from default) must be set: without root keys no capability verifies`, "-")
}

// TestUnreadable gives paths that cannot be read as a file.
func TestUnreadable(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.toml")
	_, err := Load(Sources{File: missing})
	wantFaults(t, err, "F: cannot read the configuration: no such file or directory", missing)

	folder := filepath.Join(t.TempDir(), "w.toml")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Load(Sources{File: folder})
	wantFaults(t, err, "F: cannot read the configuration: is not a regular file", folder)
}

// TestHostileFiles feeds files that would make a parser without bounds overflow its stack (which
// kills a process, so a reload would), fill the memory or hang: each is refused.
func TestHostileFiles(t *testing.T) {
	fill := func(s string) string { return strings.Repeat(s, (maxDocument-16)/len(s)) }
	for _, v := range []struct{ ext, file, want string }{
		{".toml", "a = " + fill("["), "opening brackets"},
		{".toml", "a = " + fill("{a="), "opening brackets"},
		{".toml", fill("a.") + "a = 1", "dots in a line"},
		{".toml", "[" + fill("a.") + "a]", "dots in a line"},
		{".yaml", "a: " + fill("["), "opening brackets"},
		{".yaml", "a:\n" + fill("- "), "max depth"},
		{".yaml", "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\n" +
			"e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f]\n", "aliases"},
		{".yaml", "? {a: b}\n: c\n", "a name is not text"},
		{".toml", "log.level = '\xff'", "invalid character"},
		{".toml", fill("x"), "expected ="},
	} {
		_, faults := parseFile("w"+v.ext, []byte(v.file))
		if len(faults) != 1 || !strings.Contains(faults[0].Problem, v.want) || len(faults[0].Problem) > 300 {
			t.Errorf("%.20q…: got %.300v, want %s", v.file, faults, v.want)
		}
	}
}
