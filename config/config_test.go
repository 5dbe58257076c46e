package config

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"svc-wallet/wallet"
)

// required is an environment with what has no default.
func required(more ...string) []string {
	return append([]string{
		"SVC_WALLET_TLS_CERT_FILE=/etc/tls.crt", "SVC_WALLET_TLS_KEY_FILE=/etc/tls.key",
		"SVC_WALLET_AUTH_ROOT_KEYS_FILE=/etc/root.keys",
	}, more...)
}

// set puts what a source says into c's field of that key.
func set(c *Config, key string, raw any) (problem string) {
	return strings.TrimPrefix(c.apply(layer{map[string]any{key: raw}, func(string) string { return "" }}).Error(), key+": ")
}

func mustLoad(t *testing.T, from Sources) *Config {
	t.Helper()
	c, err := Load(from)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// writeFile writes a configuration with the given extension and returns its path.
func writeFile(t *testing.T, ext, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "w"+ext)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func flags(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	fs.String("config", "", "a flag of the command that is no setting")
	BindFlags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return fs
}

// TestDefaults holds the defaults against CONTRACT §7, written out by hand.
func TestDefaults(t *testing.T) {
	c := mustLoad(t, Sources{Env: required(), CPUs: 4})
	l := c.Limits()
	for _, v := range []struct {
		name      string
		got, want any
	}{
		{"bind_addr", c.BindAddr, "0.0.0.0:8443"},
		{"metrics_addr", c.MetricsAddr, "127.0.0.1:9090"},
		{"max_conns", c.MaxConns, 1024},
		{"body memory", c.BodyMemory, 64 << 20},
		{"read", c.ReadTimeout, 5 * time.Second},
		{"write", c.WriteTimeout, 5 * time.Second},
		{"idle", c.IdleTimeout, time.Minute},
		{"drain", c.DrainDeadline, 5 * time.Second},
		{"workers", c.Workers, 4},
		{"amnesia", c.Amnesia, false},
		{"pq", c.TLS.PQ, PQHybrid},
		{"client auth", c.TLS.ClientAuth, ClientAuthOff},
		{"request deadline", l.RequestDeadline, 5 * time.Second},
		{"body", l.MaxBodyBytes, 1 << 20},
		{"ratio", l.DecompressRatioCap, 10},
		{"inflight", l.InFlight, 1024},
		{"queue", l.Queue, 512},
		{"batch", l.BatchMax, 256},
		{"rate", l.RatePerSecond, uint64(10000)},
		{"burst", l.RateBurst, uint64(20000)},
		{"subject rate", l.SubjectRate, uint64(0)},
		{"subject burst", l.SubjectBurst, uint64(0)},
		{"staleness", l.StalenessWindow, 250 * time.Millisecond},
		{"max stale", c.Wallet.MaxStale, 30 * time.Second},
		{"idem ttl", c.Wallet.IdempotencyTTL, 24 * time.Hour},
		{"amount", l.MaxAmountPerOp.String(), "1" + strings.Repeat("0", 20)},
		{"daily", l.DailyCeiling.String(), "1" + strings.Repeat("0", 22)},
		{"nonce start", c.Wallet.NonceStart, uint64(1)},
		{"nonce mode", c.Wallet.NonceMode, NonceGaps},
		{"nonce gap", c.Wallet.NonceMaxGap, uint64(1) << 53},
		{"shards", c.Wallet.Shards, 64},
		{"ledger timeout", l.LedgerTimeout, time.Second},
		{"retries", l.Retries, 3},
		{"backoff", [3]time.Duration{c.Ledger.BackoffMin, c.Ledger.BackoffMax, c.Ledger.BackoffJitter}, [3]time.Duration{50e6, 1e9, 20e6}},
		{"breaker errors", l.BreakerErrors, 20},
		{"breaker open", l.BreakerOpenFor, 5 * time.Second},
		{"breaker probes", l.BreakerProbes, 10},
		{"log", c.Log, Log{"json", "info", 100}},
		{"revoked", len(l.RevokedKeys) + len(l.RevokedTokens), 0},
	} {
		if v.got != v.want {
			t.Errorf("%s: got %v, want %v", v.name, v.got, v.want)
		}
	}
	if headroom, ok := wallet.MaxAmount().Sub(l.MaxAccountTotal); !ok || headroom != wallet.Minor(1e9) {
		t.Errorf("max_account_total is 2^128-1 less %v", headroom)
	}
}

// TestForms reads the same settings from TOML, YAML, the environment and flags, and wants the
// same configuration each time.
func TestForms(t *testing.T) {
	toml := writeFile(t, ".toml", `
bind_addr = "[::]:443"
amnesia = true
max_conns = 99

[tls]
pq = "off"

[limits]
max_amount_per_op = 5
daily_ceiling = "20000000000000000000000"
max_body_bytes = "512KiB"
revoked_tokens = ["b", "a"]

[wallet]
staleness_window = "1s"
`)
	yaml := `---
# the same in YAML
bind_addr: "[::]:443"
amnesia: true
max_conns: 99
tls: {pq: off}
limits:
  max_amount_per_op: 5
  daily_ceiling: "20000000000000000000000"
  max_body_bytes: 524288
  revoked_tokens: [b, a]
wallet:
  staleness_window: 1000ms
ledger: # nothing is set here
log: {}
`
	env := required("SVC_WALLET_BIND_ADDR=[::]:443", "SVC_WALLET_AMNESIA=true", "SVC_WALLET_MAX_CONNS=99", "SVC_WALLET_TLS_PQ=off",
		"SVC_WALLET_LIMITS_MAX_AMOUNT_PER_OP=5", "SVC_WALLET_LIMITS_DAILY_CEILING=20000000000000000000000",
		"SVC_WALLET_LIMITS_MAX_BODY_BYTES=512KiB", "SVC_WALLET_LIMITS_REVOKED_TOKENS=b,a", "SVC_WALLET_WALLET_STALENESS_WINDOW=1s")
	rest := required("SVC_WALLET_LIMITS_MAX_BODY_BYTES=512KiB", "SVC_WALLET_LIMITS_REVOKED_TOKENS=b,a", "PATH=/bin", "NOT A VARIABLE")
	want := describe(mustLoad(t, Sources{File: toml, Env: required(), CPUs: 2}))
	for name, from := range map[string]Sources{
		"yaml": {File: writeFile(t, ".yaml", yaml), Env: required(), CPUs: 2},
		"yml":  {File: writeFile(t, ".yml", yaml), Env: required(), CPUs: 2},
		"env":  {Env: env, CPUs: 2},
		"flags": {Env: rest, CPUs: 2, Flags: flags(t, "--bind=[::]:443", "--amnesia", "--max-conns", "99", "--pq", "off",
			"--max-amount=5", "--daily-ceiling=20000000000000000000000", "--staleness=1s")},
	} {
		if got := describe(mustLoad(t, from)); got != want {
			t.Errorf("%s gives\n%s\nTOML gives\n%s", name, got, want)
		}
	}
	for _, line := range []string{"amnesia true", "limits.max_amount_per_op 5", "limits.max_body_bytes 512KiB", "limits.revoked_tokens a,b", "tls.pq off", "wallet.staleness_window 1s"} {
		if !strings.Contains(want, line+"\n") {
			t.Errorf("%q is not in\n%s", line, want)
		}
	}
}

// describe lists every setting without its source.
func describe(c *Config) string {
	var b strings.Builder
	for _, e := range c.Effective() {
		b.WriteString(e.Key + " " + e.Value + "\n")
	}
	return b.String()
}

// TestResolved checks what follows from other settings, by a table.
func TestResolved(t *testing.T) {
	for _, v := range []struct {
		env  string
		cpus int
		want int
	}{
		{"", 8, 8},
		{"", 0, 1},
		{"SVC_WALLET_MAX_CONNS=10", 8, 5},
		{"SVC_WALLET_MAX_CONNS=1", 8, 1},
		{"SVC_WALLET_WORKERS=3", 8, 3},
		{"WALLET_WORKERS=3", 8, 3},
	} {
		if c := mustLoad(t, Sources{Env: required(v.env), CPUs: v.cpus}); c.Workers != v.want {
			t.Errorf("%q with %d CPUs: %d workers, want %d", v.env, v.cpus, c.Workers, v.want)
		}
	}
	if c := mustLoad(t, Sources{Env: required("SVC_WALLET_WALLET_NONCE_MODE=contiguous")}); c.Wallet.NonceMaxGap != 1 {
		t.Errorf("contiguous with a gap of %d", c.Wallet.NonceMaxGap)
	}
}

// TestWorkersAlias gives both names of the number of workers, in both orders: its own name wins.
func TestWorkersAlias(t *testing.T) {
	both := []string{"SVC_WALLET_WORKERS=3", "WALLET_WORKERS=5"}
	for range 2 {
		c := mustLoad(t, Sources{Env: required(both...)})
		if c.Workers != 3 || c.source("workers") != "SVC_WALLET_WORKERS" {
			t.Errorf("%v: %d workers from %s", both, c.Workers, c.source("workers"))
		}
		slices.Reverse(both)
	}
}

// TestKubernetesVariables ignores what Kubernetes adds for a Service whose name starts with
// svc-wallet, and checks that no key could ever be taken for such a variable.
func TestKubernetesVariables(t *testing.T) {
	mustLoad(t, Sources{Env: required(
		"SVC_WALLET_SERVICE_HOST=10.0.0.1", "SVC_WALLET_SERVICE_PORT=8443", "SVC_WALLET_SERVICE_PORT_HTTPS=8443",
		"SVC_WALLET_PORT=tcp://10.0.0.1:8443", "SVC_WALLET_PORT_8443_TCP=tcp://10.0.0.1:8443", "SVC_WALLET_PORT_8443_TCP_PROTO=tcp",
		"SVC_WALLET_PORT_8443_TCP_PORT=8443", "SVC_WALLET_PORT_8443_TCP_ADDR=10.0.0.1",
		"SVC_WALLET_LEDGER_SERVICE_HOST=10.0.0.2", "SVC_WALLET_LEDGER_PORT_7000_TCP_ADDR=10.0.0.2",
	)})
	for _, s := range table().rows {
		if kubernetes.MatchString(s.env()) {
			t.Errorf("%s looks like a variable of Kubernetes", s.env())
		}
	}
}

// TestEffective checks that every setting is listed once with its source, that the print of each
// value reads back as the same value, and that the order is that of the table.
func TestEffective(t *testing.T) {
	file := writeFile(t, ".toml", "[limits]\nqueue = 77\ninflight = 5\n")
	c := mustLoad(t, Sources{File: file, Env: required("SVC_WALLET_LIMITS_INFLIGHT=6"), Flags: flags(t, "--max-amount", "8")})
	sources := map[string]string{
		"limits.queue": file, "limits.inflight": "SVC_WALLET_LIMITS_INFLIGHT", "limits.max_amount_per_op": "--max-amount",
		"tls.cert_file": "SVC_WALLET_TLS_CERT_FILE", "tls.key_file": "SVC_WALLET_TLS_KEY_FILE", "auth.root_keys_file": "SVC_WALLET_AUTH_ROOT_KEYS_FILE",
	}
	rows, seen, scratch := table().rows, map[string]bool{}, defaults()
	for i, e := range c.Effective() {
		want, ok := sources[e.Key]
		if !ok {
			want = "default"
		}
		if e.Source != want || e.Key != rows[i].key || seen[e.Key] {
			t.Errorf("%+v: want source %s and key %s, once", e, want, rows[i].key)
		}
		seen[e.Key] = true
		if problem := set(scratch, e.Key, word(e.Value)); problem != "" || scratch.text(e.Key) != e.Value {
			t.Errorf("%s: %q reads back as %q %s", e.Key, e.Value, scratch.text(e.Key), problem)
		}
	}
}

// TestTable holds every row against the rules of the table: names, help, that a field keeps what it
// had when something is wrong, and that a default that is pushed lies under its ceiling (which Load
// checks).
func TestTable(t *testing.T) {
	name := regexp.MustCompile(`^([a-z]+\.)?[a-z]+(_[a-z]+)*$`)
	seen := map[string]string{}
	once := func(kind, name, key string) {
		if other, again := seen[kind+name]; again && name != "" {
			t.Errorf("%s and %s share the %s %s", other, key, kind, name)
		}
		seen[kind+name] = key
	}
	for _, s := range table().rows {
		if !name.MatchString(s.key) || s.help == "" || s.kind == "" || s.allowed == "" || strings.ContainsAny(s.help, "|`") {
			t.Errorf("%+v is not a proper row", s)
		}
		c := defaults()
		if before := c.text(s.key); set(c, s.key, []any{[]any{}}) == "" || c.text(s.key) != before {
			t.Errorf("%s: %q is now %q, from a list of a list", s.key, before, c.text(s.key))
		}
		once("variable", s.env(), s.key)
		once("flag", s.flag, s.key)
		if s.effect == onPush {
			once("member", s.pushName(), s.key)
		}
	}
}

// TestFlags wants exactly the flags of CONTRACT §8, and that help shows type and default.
func TestFlags(t *testing.T) {
	want := strings.Fields("amnesia bind daily-ceiling idem-ttl idle-timeout ledger log-format log-level max-amount max-conns " +
		"metrics pq read-timeout root-keys staleness tls-cert tls-key write-timeout xds")
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	BindFlags(fs)
	var got []string
	fs.VisitAll(func(f *pflag.Flag) { got = append(got, f.Name) })
	if slices.Sort(want); !slices.Equal(got, want) {
		t.Errorf("flags are\n%v\nwant\n%v", got, want)
	}
	for _, line := range []string{`--bind address .*\(default 0.0.0.0:8443\)`, `--amnesia +write no file`, `--idem-ttl duration .*\(default 24h\)`} {
		if !regexp.MustCompile(line).MatchString(fs.FlagUsages()) {
			t.Errorf("%s does not match\n%s", line, fs.FlagUsages())
		}
	}
}

// TestLive checks that a Live denies everything before the first Store, and that Load does not
// allocate.
func TestLive(t *testing.T) {
	var live Live
	if l := live.Load(); l.Queue != 0 || l.InFlight != 0 || !l.MaxAmountPerOp.IsZero() {
		t.Errorf("an empty Live allows %+v", l)
	}
	limits := mustLoad(t, Sources{Env: required()}).Limits()
	live.Store(limits)
	if live.Load() != limits {
		t.Error("Load does not return what was stored")
	}
	if n := testing.AllocsPerRun(100, func() { _ = live.Load().Queue }); n != 0 {
		t.Errorf("Load allocates %v times", n)
	}
}

// TestFaultsAreErrors checks that what Load returns can be taken apart.
func TestFaultsAreErrors(t *testing.T) {
	_, err := Load(Sources{Env: required("SVC_WALLET_LIMITS_QUEUE=0")})
	var faults Faults
	if !errors.As(err, &faults) || len(faults) != 1 {
		t.Fatalf("got %v", err)
	}
	if want := (Fault{"limits.queue", `"0"`, "SVC_WALLET_LIMITS_QUEUE", "is not in 1…65536"}); faults[0] != want {
		t.Errorf("got %+v, want %+v", faults[0], want)
	}
}
