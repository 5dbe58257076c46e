package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"svc-wallet/config"
	"svc-wallet/docs"
	"svc-wallet/filters"
	"svc-wallet/host"
	"svc-wallet/ledger"
	"svc-wallet/proxy"
	"svc-wallet/xds"
)

func serveCommand(hup <-chan os.Signal) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the sidecar alone",
		Long:  "Runs the sidecar. Flags win over SVC_WALLET_* variables, those over the file, the file over defaults.",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from := sources(file, cmd.Flags())
			cfg, err := config.Load(from)
			if err != nil {
				return err
			}
			log, err := newLogger(cmd.ErrOrStderr(), cfg.Log.Format, cfg.Log.Level)
			if err != nil {
				return err
			}
			if limit := limitMemory(""); limit > 0 {
				log.WithField("bytes", limit).Info("memory_limit")
			}
			side, err := starting(cmd.Context(), func() (*sidecar, error) { return newSidecar(cfg, log, newClock(log)) })
			if err != nil {
				return err
			}
			side.reloader, side.hup = config.NewReloader(from, cfg, side.apply), hup
			return side.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file, TOML or YAML")
	config.BindFlags(cmd.Flags())
	return cmd
}

func sources(file string, flags *pflag.FlagSet) config.Sources {
	return config.Sources{File: file, Env: os.Environ(), Flags: flags, CPUs: runtime.GOMAXPROCS(0)}
}

// sidecar is the parts of `serve`, built and wired. A request goes through them from the top.
type sidecar struct {
	server    *proxy.Server
	committer *ledger.Committer
	reader    *ledger.Reader
	client    *ledger.Client
	plane     *xds.Client // nil: nothing is pushed

	live     *config.Live
	stack    *config.Stack
	static   *config.Config // below stack's layers; after newSidecar, reload's goroutine only
	keys     rootKeys
	files    *host.Files // of certificates and keys
	log      *logrus.Logger
	reloader *config.Reloader
	hup      <-chan os.Signal // nil: nothing is reloaded
}

// newSidecar builds the parts. Nothing runs, and nothing was sent, until run. What the control
// plane said last, as the disk has it, is in force from here on.
func newSidecar(cfg *config.Config, log *logrus.Logger, clock *clock) (*sidecar, error) {
	s := &sidecar{live: new(config.Live), static: cfg, files: host.NewFiles(log, clock.Wall), log: log}
	s.stack = config.NewStack(cfg, s.live)
	s.keys.watched = s.files.Watch("root_keys", host.ReadSecret)
	if err := s.keys.turn(cfg.Auth.RootKeysFile); err != nil {
		return nil, join(err)
	}
	l := cfg.Ledger
	tlsConfig, err := clientTLS(s.files, "ledger", host.CertFiles{Cert: l.TLSCertFile, Key: l.TLSKeyFile, CA: l.TLSCAFile}, l.TLSServerName)
	if err != nil {
		return nil, err
	}
	breaker := ledger.NewBreaker("ledger", s.live, clock.Now)
	breaker.LogTo(log)
	s.client, err = ledger.Dial(cfg.Ledger.Addr, ledger.DialOptions{
		TLS:            tlsConfig,
		OnUp:           breaker.Probe,
		OnDoubt:        func() { s.server.Forget() },
		Timeout:        func() time.Duration { return s.live.Load().LedgerTimeout },
		ConnectTimeout: func() time.Duration { return s.live.Load().LedgerConnectTimeout },
		Now:            clock.Now,
		Log:            log,
	})
	if err != nil {
		return nil, err
	}
	if err := s.build(cfg, breaker, clock); err != nil {
		return nil, join(err, s.close())
	}
	return s, nil
}

// build makes what stands on the client of the ledger.
func (s *sidecar) build(cfg *config.Config, breaker *ledger.Breaker, clock *clock) (err error) {
	metrics := proxy.NewMetrics()
	backoff := host.Backoff{First: cfg.Ledger.BackoffMin, Most: cfg.Ledger.BackoffMax, Jitter: cfg.Ledger.BackoffJitter}
	s.reader = ledger.NewReader(s.client, breaker, s.live, ledger.ReaderOptions{
		Shards: cfg.Wallet.Shards, Entries: cfg.Wallet.CacheEntries, MaxStale: cfg.Wallet.MaxStale, Now: clock.Now, Observer: metrics,
		Backoff: backoff, StallAfter: cfg.Ledger.StallAfter, Log: s.log, OnTurn: func() { s.server.Turned() },
	})
	s.committer, err = ledger.NewCommitter(s.client, breaker, s.live, ledger.CommitterOptions{
		Workers: cfg.Workers, MaxQueue: cfg.Ceilings.Queue, Now: clock.Now, Observer: metrics, OnResult: s.reader.Learn,
		Backoff: backoff,
		OnPanic: func(v any, stack []byte) {
			s.log.WithFields(logrus.Fields{"reason": fmt.Sprint(v), "stack": string(stack)}).Error("batch_panicked")
		},
	})
	if err != nil {
		return err
	}
	deps := proxy.Deps{
		Live: s.live, Stack: s.stack, Keys: &s.keys.ring, Files: s.files, Committer: s.committer, Reader: s.reader, Breaker: breaker,
		Endpoints: s.client, Standing: s.client,
		Metrics: metrics, Log: s.log, Now: clock.Now, Clock: clock, Entropy: rand.Reader,
		Build: build(), OpenAPI: docs.OpenAPI,
	}
	if cfg.XDS.On() {
		if s.plane, err = s.follow(cfg, clock); err != nil {
			return err
		}
		deps.ControlPlane = s.plane
	}
	s.server, err = proxy.New(cfg, deps)
	return err
}

// follow makes the client of the control plane. Secrets come only once it runs, when the server
// that takes them is there.
func (s *sidecar) follow(cfg *config.Config, clock *clock) (*xds.Client, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name of this sidecar to the control plane: %w", err)
	}
	x := cfg.XDS
	tlsConfig, err := clientTLS(s.files, "xds", host.CertFiles{Cert: x.TLSCertFile, Key: x.TLSKeyFile, CA: x.TLSCAFile}, x.TLSServerName)
	if err != nil {
		return nil, err
	}
	return xds.New(cfg, xds.Targets{
		Stack:       s.stack,
		Endpoints:   s.client.SetEndpoints,
		Certificate: func(certPEM, keyPEM []byte) error { return s.server.SetCertificate(certPEM, keyPEM) },
		ClientCA:    func(pem []byte) error { return s.server.SetClientCA(pem) },
		RootKeys:    s.keys.push,
	}, xds.Options{TLS: tlsConfig, Now: clock.Now, Today: clock.Wall, Log: s.log, Version: version, Hostname: name})
}

// run serves until ctx ends and all is drained.
func (s *sidecar) run(ctx context.Context) error {
	if err := s.server.Listen(); err != nil {
		return join(err, s.close())
	}
	reading, stopReading := context.WithCancel(context.WithoutCancel(ctx)) // what a drain still needs
	var g errgroup.Group
	g.Go(func() error { return s.client.Run(reading) })
	g.Go(func() error { return s.reader.Run(reading) })
	if s.plane != nil {
		g.Go(func() error { return s.plane.Run(reading) })
	}
	err := watched(ctx, s.files, s.hup, s.reload, s.server.Run)
	stopReading()
	return join(err, g.Wait(), s.close())
}

// close is for what run does not end.
func (s *sidecar) close() error { return s.client.Close() }

// ready waits for the ledger's first heartbeat, and reports whether it came before ctx ended.
func (s *sidecar) ready(ctx context.Context) bool {
	for !s.reader.Healthy() {
		if !host.Sleep(ctx, 5*time.Millisecond) {
			return false
		}
	}
	return true
}

// reload reads the configuration anew. A bad one changes nothing.
func (s *sidecar) reload() {
	before := s.static.Effective()
	ignored, err := s.reloader.Reload()
	if err != nil {
		s.log.WithField("reason", err.Error()).Error("reload_refused")
		return
	}
	if len(ignored) > 0 {
		s.log.WithField("keys", strings.Join(ignored, " ")).Warn("reload_needs_restart")
	}
	s.log.WithField("keys", strings.Join(changed(before, s.static.Effective()), " ")).Info("reloaded")
}

// changed names the keys whose value or source is another one. Both lists have the same keys in the same
// order.
func changed(before, after []config.Effective) (keys []string) {
	for i := range min(len(before), len(after)) {
		if before[i] != after[i] {
			keys = append(keys, after[i].Key)
		}
	}
	return keys
}

// apply puts a new static configuration in force, all of it or none. What was pushed stays over it.
func (s *sidecar) apply(cfg *config.Config) error {
	if file := cfg.Auth.RootKeysFile; file != "" { // what turn would find below, before anything has changed
		if _, err := filters.LoadKeys(file); err != nil {
			return err
		}
	}
	level, err := logrus.ParseLevel(cfg.Log.Level)
	if err != nil {
		return err
	}
	if err := s.stack.Rebase(cfg); err != nil {
		return err
	}
	if err := s.server.Reload(cfg); err != nil {
		return join(err, s.stack.Rebase(s.static))
	}
	if err := s.keys.turn(cfg.Auth.RootKeysFile); err != nil {
		return join(err, s.server.Reload(s.static), s.stack.Rebase(s.static))
	}
	s.static = cfg
	s.log.SetLevel(level)
	return nil
}

// rootKeys keeps the root keys in force: the pushed ones, else those of the file, else none, and
// then no token verifies. The zero value has none.
type rootKeys struct {
	ring    filters.KeyRing
	watched *host.Watched // the file

	mu           sync.Mutex
	file, pushed *filters.Keys // nil: none; mu
}

// turn takes the keys of the file, "" for none, and follows its changes. On an error all stays as it was.
func (k *rootKeys) turn(file string) error {
	return k.watched.Turn(func(contents [][]byte) error {
		if err := k.take(&k.file, contents[0]); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		return nil
	}, file)
}

// push takes keys from the control plane; nil takes them away again.
func (k *rootKeys) push(text []byte) error { return k.take(&k.pushed, text) }

// take puts keys into a place of k, and in force what is then to be.
func (k *rootKeys) take(place **filters.Keys, text []byte) error {
	var keys *filters.Keys
	if text != nil {
		var err error
		if keys, err = filters.ParseKeys(bytes.NewReader(text)); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	*place = keys
	k.enforce()
	return nil
}

func (k *rootKeys) enforce() { k.ring.Store(cmp.Or(k.pushed, k.file, new(filters.Keys))) }

// clientTLS is nil for a peer that is reached without TLS, which whoever dials it judges.
func clientTLS(files *host.Files, name string, paths host.CertFiles, serverName string) (func() *tls.Config, error) {
	if paths.CA == "" {
		return nil, nil
	}
	certs, err := files.Certs(name, paths)
	if err != nil {
		return nil, fmt.Errorf("certificates of %s: %w", name, err)
	}
	return func() *tls.Config {
		c := certs.Client()
		c.ServerName = serverName
		return c
	}, nil
}
