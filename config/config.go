// Package config says what may be set, reads it from file, environment and flags, and refuses
// what is wrong with every fault at once. table.go holds the one table of keys; parsing, defaults,
// environment names, flags, the effective print, the reference page and the limits that a control
// plane pushes all follow from it. Config is what the static sources say, Patch what a push says,
// Stack what is in force and why, and Limits what a request sees of it (decision 031).
//
// Invariant: a *Config that Load returned, and a *Limits that it or a Stack holds, lie within every
// range and ceiling, and nobody changes them afterwards.
package config

import (
	"cmp"
	"time"

	"github.com/spf13/pflag"
)

// Config is everything that may be set, as Load found it. It does not change: a reload makes a
// new one. docs/configuration.md describes each key.
type Config struct {
	BindAddr      string // of the wallet listener, HOST:PORT
	MetricsAddr   string // of the admin listener, HOST:PORT
	MaxConns      int
	ConnMaxAge    time.Duration // 0: any
	BodyMemory    int           // bytes
	ReadTimeout   time.Duration
	WriteTimeout  time.Duration
	IdleTimeout   time.Duration
	DrainDeadline time.Duration
	Workers       int // committing goroutines, resolved: at least 1

	MaxConnsPerAddr int  // 0: as many as MaxConns
	Amnesia         bool // no file is written

	TLS    TLS
	Auth   Auth
	Wallet Wallet
	Ledger Ledger
	XDS    XDS
	Log    Log

	// Ceilings bound the limits, static and pushed. Only the amounts, rates and sizes have one;
	// the other fields are zero. Whoever sizes a buffer at start sizes it by these.
	Ceilings Limits

	limits  Limits            // see Limits
	shadow  [numShadows]any   // what the section shadow says, by the order of limits; nil: nothing
	sources map[string]string // where each key's value is from; a key not in it has its default
}

// TLS is the wallet listener's TLS 1.3.
type TLS struct {
	CertFile     string // PEM chain
	KeyFile      string // PEM
	ClientCAFile string // PEM bundle that client certificates are verified against
	ClientAuth   ClientAuth
	PQ           PQ
}

// ClientAuth says what the listener asks of clients.
type ClientAuth string

// What may be asked. A certificate that is given must verify, whether required or not.
const (
	ClientAuthOff     ClientAuth = "off"
	ClientAuthRequest ClientAuth = "request"
	ClientAuthRequire ClientAuth = "require"
)

// PQ says which key exchanges the listener offers.
type PQ string

// The key exchanges.
const (
	PQOff     PQ = "off"     // X25519, then P-256
	PQHybrid  PQ = "hybrid"  // X25519MLKEM768 first, then X25519 and P-256
	PQRequire PQ = "require" // X25519MLKEM768 only
)

// Auth is how capabilities are checked.
type Auth struct {
	RootKeysFile   string // CONTRACT §3; nobody else may read it
	CacheEntries   int    // verified tokens
	SubjectEntries int    // subjects whose rate is kept

	StrangersPerSecond uint64 // requests without a valid token that are told so
}

// Wallet is how payments and balances are handled.
type Wallet struct {
	MaxStale           time.Duration // oldest balance served while the ledger stalls
	IdempotencyTTL     time.Duration
	IdempotencyEntries int
	NonceStart         uint64
	NonceMode          NonceMode
	NonceMaxGap        uint64 // resolved: 1 when contiguous
	CacheEntries       int    // balances
	Shards             int    // of each of these tables
}

// NonceMode says how nonces of a lane follow one another.
type NonceMode string

// The modes.
const (
	NonceGaps       NonceMode = "gaps"       // each above the last one, by at most NonceMaxGap
	NonceContiguous NonceMode = "contiguous" // each the last one plus 1
)

// ClientTLS is how a peer is spoken to. TLS is spoken where TLSCAFile is set, and must be to
// anything but a Unix socket or a loopback address.
type ClientTLS struct {
	TLSCAFile     string
	TLSCertFile   string
	TLSKeyFile    string
	TLSServerName string // expected in the peer's certificate; empty: the host of its address
}

// Ledger is the way to the ledger node.
type Ledger struct {
	Addr          string        // unix:PATH or HOST:PORT
	StallAfter    time.Duration // silence after which the node counts as stalled
	BackoffMin    time.Duration
	BackoffMax    time.Duration
	BackoffJitter time.Duration // at most this is added to each pause
	ClientTLS
}

// Log is what is logged, and how.
type Log struct {
	Format      string // json or text
	Level       string // error, warning, info or debug, as logrus names them
	SampleReads int    // one in so many successful reads is logged; 0: none
}

// XDS is how the sidecar obeys a control plane. It does where Addrs is not empty.
type XDS struct {
	Addrs        []string // unix:PATH or HOST:PORT, the preferred one first
	Protocol     XDSProtocol
	Types        []string // of XDSTypes
	NodeID       string
	NodeCluster  string
	Region       string
	Zone         string
	MetadataFile string // a Kubernetes downward API volume's
	ClientTLS
	SPIFFEID        string // the control plane's; empty: its host name is checked
	LimitsName      string // ECDS resource
	RuntimeNames    []string
	SDSAddr         string // unix:PATH of a local agent; empty: secrets come from Addrs
	Certificate     string // SDS resource of the listener's certificate; empty: none
	ClientCA        string // SDS resource of the client trust bundle; empty: none
	RootKeys        string // SDS resource of the macaroon root keys; empty: none
	LastGoodFile    string
	ResourceTimeout time.Duration
	// InitialFetchTimeout is how long a start waits for the first answer of each type; 0: not at all.
	InitialFetchTimeout time.Duration
}

// On says whether anybody is obeyed.
func (x *XDS) On() bool { return len(x.Addrs) > 0 || x.SDSAddr != "" }

// XDSProtocol is the variant of xDS that is spoken.
type XDSProtocol string

// The variants.
const (
	XDSDelta XDSProtocol = "delta"
	XDSSotW  XDSProtocol = "sotw"
)

// The kinds of resource that XDS.Types names.
const (
	XDSLimits   = "limits"   // ECDS
	XDSRuntime  = "runtime"  // RTDS
	XDSCluster  = "cluster"  // CDS
	XDSEndpoint = "endpoint" // EDS
)

// Sources is where a configuration comes from, each one winning over those before it. The zero
// value gives only the defaults, which are not enough: the files of certificate, key and root
// keys have none.
type Sources struct {
	File  string         // TOML (.toml) or YAML (.yaml, .yml), at most 1 MiB; "" is none
	Env   []string       // as os.Environ gives it; SVC_WALLET_… and WALLET_WORKERS are read
	Flags *pflag.FlagSet // as BindFlags made them, parsed; nil is none
	CPUs  int            // to size the workers by
}

// Load reads, checks and resolves a configuration. The error is Faults: everything that is wrong.
func Load(from Sources) (*Config, error) {
	file, unreadable := fileLayer(from.File)
	return build(from.CPUs, unreadable, file, envLayer(from.Env), flagLayer(from.Flags))
}

// build puts layers over the defaults, lowest first. A file that was unreadable may hold what
// seems to be missing, so then only what the other layers say is checked.
func build(cpus int, unreadable Faults, layers ...layer) (*Config, error) {
	c, faults := defaults(), unreadable
	for _, l := range layers {
		faults = append(faults, c.apply(l)...)
	}
	c.resolveShadow()
	if len(unreadable) == 0 {
		faults = append(faults, c.conflicts(faults)...)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	c.resolve(cpus)
	return c, nil
}

// defaults is what holds where no source says otherwise.
func defaults() *Config {
	c := table().defaults
	c.sources = map[string]string{}
	return &c
}

// apply sets the fields that l speaks of.
func (c *Config) apply(l layer) Faults {
	return l.read(func(s *setting, v any) {
		s.put(c, v)
		c.sources[s.key] = l.source(s.key)
	})
}

// resolve fills in what follows from other settings.
func (c *Config) resolve(cpus int) {
	if c.Workers == 0 {
		c.Workers = max(1, min(cpus, c.MaxConns/2))
	}
	if c.Wallet.NonceMode == NonceContiguous {
		c.Wallet.NonceMaxGap = 1
	}
}

// resolveShadow makes the shadow limits: the ones in force, but for those that are set.
func (c *Config) resolveShadow() {
	c.limits.Shadow = nil
	for i := range table().rows {
		s := &table().rows[i]
		if s.shadow == nil || s.get(c) == nil {
			continue
		}
		if c.limits.Shadow == nil {
			inForce := c.limits
			c.limits.Shadow = &inForce
		}
		s.shadow(c, s.get(c))
	}
}

// Limits are the static limits: what is in force until a control plane pushes others.
func (c *Config) Limits() *Limits { return &c.limits }

// Effective is one setting as it is in force.
type Effective struct {
	Key     string `json:"key"`
	Value   string `json:"value"`
	Source  string `json:"source"`            // file, environment variable, flag, "default", or what was pushed
	Version string `json:"version,omitempty"` // of the pushed resource
	Time    string `json:"time,omitempty"`    // when it came, RFC 3339
}

// Effective lists every setting, in the order of docs/configuration.md.
func (c *Config) Effective() []Effective {
	rows := table().rows
	all := make([]Effective, len(rows))
	for i := range rows {
		all[i] = Effective{Key: rows[i].key, Value: rows[i].print(rows[i].get(c)), Source: c.source(rows[i].key)}
	}
	return all
}

// text is the value of a key as a word.
func (c *Config) text(key string) string {
	s := table().byKey[key]
	return s.print(s.get(c))
}

func (c *Config) source(key string) string { return cmp.Or(c.sources[key], "default") }
