// Package proxy is the edge: it turns TLS connections and HTTP requests into exchanges, hands them
// to the filters and the ledger, and turns the answers back into HTTP. It has one entry, Server;
// routes.go is its table.
//
// Invariant: the edge decides nothing about a payment. It refuses only what could be read in two
// ways, is too large or is not JSON, and after a filter chain began it does no more than write
// down the answer.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/valyala/fasthttp"

	"svc-wallet/config"
	"svc-wallet/filters"
	"svc-wallet/host"
	"svc-wallet/ledger"
	"svc-wallet/wallet"
)

const (
	// headerBytes bounds the request line and the headers: a token of 4 KiB takes 5.5 KiB in
	// base64.
	headerBytes = 8 << 10

	// drainQuiet is how long a connection must be idle during a drain before it is closed. A
	// client that sends in that time is still answered, and told to close.
	drainQuiet = 250 * time.Millisecond
)

// Deps is what a Server stands on. All of it outlives Run: the owner keeps the reader running
// until Run has returned, and closes the ledger client after that.
type Deps struct {
	Live         *config.Live  // the limits in force, for requests
	Stack        *config.Stack // what is in force and where it is from, for operators
	Keys         *filters.KeyRing
	Files        *host.Files       // the listener's are added; the owner runs it
	Committer    *ledger.Committer // Run drains and closes it
	Reader       *ledger.Reader
	Breaker      *ledger.Breaker
	Endpoints    Endpoints    // of the ledger; nil: there is only the one
	Standing     Standing     // of the ledger; nil: it is never in doubt
	ControlPlane ControlPlane // nil: there is none
	Metrics      *Metrics
	Log          *logrus.Logger
	LogKey       [32]byte     // keys the hashes of accounts in logs; zero: a random key of this process
	Now          func() int64 // Unix nanoseconds, never backwards
	Clock        Clock        // nil: the time of day is Now
	Entropy      io.Reader
	Build        Build
	OpenAPI      []byte // the document of the wallet routes, which the admin listener shows
}

// Clock knows how the time of day, which may be set wrong and back, differs from Now.
type Clock interface {
	Skew() int64                      // nanoseconds that the time of day is ahead of Now; 0 as a rule
	Steps() (doubted, adopted uint64) // of the machine's clock: not believed at once, and believed in the end
}

// steadyClock is a Clock that nobody sets.
type steadyClock struct{}

func (steadyClock) Skew() int64             { return 0 }
func (steadyClock) Steps() (uint64, uint64) { return 0, 0 }

// ControlPlane is what operators are told of the one that pushes. Its methods are called at once by
// several goroutines, for each scrape and each look at /config.
type ControlPlane interface {
	Connected() bool
	Fetching() bool            // the start waits for the first answer of a type: readiness and payments wait as well
	Unfetched() bool           // that wait ran out, and the answer has not come since
	VersionAge() time.Duration // how long nobody has vouched for what is in force; 0 while connected
	Types() []string           // of resources; they and the outcomes stay the same, and are few
	Outcomes() []string        // of updates
	Updates(typ, outcome string) uint64
	Status() any // what encodes to JSON: what was asked for, what came, what was refused; no secret
}

// Endpoints is what operators are told of the ways to the ledger. Its methods are called as
// ControlPlane's are.
type Endpoints interface {
	Moves() uint64        // to another endpoint
	RefusedMoves() uint64 // because an endpoint is another ledger, or behind
	EndpointStates() []ledger.EndpointState
}

// Standing is whether the ledger in use is the one that this process has paid into. Its methods are
// called as ControlPlane's are.
type Standing interface {
	Doubt() *ledger.Doubt             // nil: it is
	Doubts(k ledger.DoubtKind) uint64 // how often one arose
	Accept() *ledger.Doubt            // takes it for the one from now on; nil: there was no doubt
}

// Build says what runs.
type Build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Go       string `json:"go"`
	Features string `json:"features"`
}

// Server is the wallet listener and the admin listener.
type Server struct {
	deps        Deps
	cfg         *config.Config // as it was at start: what waits for a restart
	metrics     *Metrics
	log         *requestLog
	ids         *corrIDs
	auth        *filters.Auth
	idempotency *filters.Idempotency
	table       [wallet.NumRoutes]route
	bodies      budget
	certs       *certs
	http        *fasthttp.Server
	admin       *http.Server
	visits      sync.Pool

	listener *listener    // after Listen
	adminLn  net.Listener // after Listen

	bound     atomic.Bool
	draining  atomic.Bool
	drainOnce sync.Once
	drainAsk  chan struct{} // closed by POST /drain
	turned    chan struct{} // room for one: readiness may have turned
}

// New builds a Server, reads its certificate and starts nothing.
func New(cfg *config.Config, deps Deps) (*Server, error) {
	if deps.Clock == nil {
		deps.Clock = steadyClock{}
	}
	s := &Server{deps: deps, cfg: cfg, metrics: deps.Metrics, drainAsk: make(chan struct{}), turned: make(chan struct{}, 1)}
	var err error
	if s.ids, err = newCorrIDs(deps.Entropy); err != nil {
		return nil, err
	}
	if s.log, err = newRequestLog(deps, cfg.Log.SampleReads); err != nil {
		return nil, err
	}
	s.log.away, s.log.fault = s.ledgerAway, s.ledgerFault
	wall := func() int64 { return deps.Now() + deps.Clock.Skew() }
	if s.certs, err = newCerts(cfg.TLS, deps.Files, deps.Entropy, deps.Now, wall, deps.Log); err != nil {
		return nil, err
	}
	s.visits.New = func() any { return new(visit) }
	s.auth = filters.NewAuth(deps.Keys, cfg.Auth.CacheEntries, cfg.Auth.StrangersPerSecond)
	s.bodies.most = int64(cfg.BodyMemory)
	s.idempotency = filters.NewIdempotency(cfg.Wallet.Shards, cfg.Wallet.IdempotencyEntries, cfg.Wallet.IdempotencyTTL)
	s.table = s.routes(cfg)
	s.http = s.edge(cfg)
	s.admin = s.newAdmin(cfg)
	s.metrics.watch(&s.deps, s.auth, &s.bodies)
	return s, nil
}

// edge is fasthttp as we use it: our error answers, our limits, none of its banners.
func (s *Server) edge(cfg *config.Config) *fasthttp.Server {
	return &fasthttp.Server{
		Handler:        s.serve,
		ErrorHandler:   s.refuse,
		HeaderReceived: headOnly,
		ConnState:      follow,
		Logger:         edgeLog{s.deps.Log},

		// The listener's cap is the one that counts; a worker is free only some time after its
		// connection closed.
		Concurrency:                  2 * cfg.MaxConns,
		ReadBufferSize:               headerBytes,
		ReadTimeout:                  cfg.ReadTimeout,
		WriteTimeout:                 cfg.WriteTimeout,
		IdleTimeout:                  cfg.IdleTimeout,
		LazyRequestTime:              true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		DisablePreParseMultipartForm: true,
		SecureErrorLogMessage:        true,
	}
}

// Listen binds both listeners, so that their addresses are known before Run.
func (s *Server) Listen() error {
	if s.listener != nil {
		return nil
	}
	ln, err := host.Listen(s.cfg.BindAddr, host.ListenOptions{Remote: true})
	if err != nil {
		return fmt.Errorf("bind the wallet listener: %w", err)
	}
	if s.adminLn, err = host.ListenAdmin(s.cfg.MetricsAddr); err != nil {
		_ = ln.Close()
		return err
	}
	s.listener = newListener(ln, s.certs, bounds{s.cfg.MaxConns, s.cfg.MaxConnsPerAddr, s.cfg.ConnMaxAge}, s.deps.Now, s.deps.Log, s.metrics)
	s.metrics.watchConnections(s.listener.counts)
	return nil
}

// Addr is the wallet listener's address, after Listen.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// AdminAddr is the admin listener's address, after Listen.
func (s *Server) AdminAddr() net.Addr { return s.adminLn.Addr() }

// Reload takes what may change without a restart from a new configuration: the certificate files.
// It reads them again even if their names are the same. On an error all stays as it was. The limits
// are the stack's to rebase.
func (s *Server) Reload(cfg *config.Config) error { return s.certs.adopt(cfg.TLS) }

// SetCertificate puts a certificate chain and its key, PEM, in place of the static files', at once for
// new connections and for resumed ones. With nil and nil the files count again; where there are
// none the listener refuses handshakes and /readyz says so. On an error, which says what is wrong
// and quotes nothing of the key, all stays as it was. A change of the files does not undo it.
func (s *Server) SetCertificate(certPEM, keyPEM []byte) error {
	return s.certs.setCertificate(certPEM, keyPEM)
}

// SetClientCA puts certificates that client certificates are verified against, PEM, in place of the
// static file's, and has sessions that were opened under others verified anew. With nil the file
// counts again; where there is none no client certificate verifies. It means nothing while
// tls.client_auth is off. On an error all stays as it was.
func (s *Server) SetClientCA(caPEM []byte) error { return s.certs.setClientCA(caPEM) }

// Forget drops every receipt that is remembered for replays: the ledger that acknowledged them has
// gone back, or is another one.
func (s *Server) Forget() { s.idempotency.Forget() }

// Turned says that readiness may have turned, so that the turn is logged at once.
func (s *Server) Turned() {
	select {
	case s.turned <- struct{}{}:
	default: // will be looked at anyway
	}
}

// Run serves until ctx ends or POST /drain asks, then drains, and returns nil where all of that
// went well. It returns early where a listener fails.
func (s *Server) Run(ctx context.Context) error {
	if err := s.Listen(); err != nil {
		return err
	}
	beyond := context.WithoutCancel(ctx)
	tending, stop := context.WithCancel(beyond)
	failed := make(chan error, 2)
	var running sync.WaitGroup
	running.Go(func() { s.certs.run(tending) })
	running.Go(func() { s.listener.run(tending) })
	running.Go(func() { s.logTurns(tending) })
	running.Go(func() { failed <- s.http.Serve(s.listener) })
	running.Go(func() { failed <- s.admin.Serve(s.adminLn) })
	s.bound.Store(true)
	s.deps.Log.WithFields(logrus.Fields{"addr": s.Addr().String(), "admin_addr": s.AdminAddr().String()}).Info("listening")

	var err error
	select {
	case <-ctx.Done():
	case <-s.drainAsk:
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	}
	err = errors.Join(err, s.drain(beyond))
	_ = s.admin.Close()
	stop()
	running.Wait()
	return err
}

// drain takes no more payments, answers what is under way and what still comes in, and closes.
func (s *Server) drain(ctx context.Context) error {
	s.draining.Store(true)
	deadline := s.cfg.DrainDeadline
	s.deps.Log.WithField("connections", s.listener.count()).Info("draining")

	within, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	s.listener.drain(within, deadline, min(drainQuiet, deadline/4))

	within, cancel = context.WithTimeout(ctx, deadline)
	defer cancel()
	if err := s.deps.Committer.Close(within); err != nil {
		return fmt.Errorf("drain the committer: %w", err)
	}
	s.deps.Log.Info("drained")
	return nil
}

// askDrain begins a drain: /readyz and payments answer 503 from now on.
func (s *Server) askDrain() {
	s.draining.Store(true)
	s.drainOnce.Do(func() { close(s.drainAsk) })
}
