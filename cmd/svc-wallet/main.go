// Command svc-wallet is a sidecar that stands in front of a ledger node and makes paying through
// it safe and fast. docs/architecture.md is the map of the code.
//
// This package is the composition root: it makes the clock, the logger and the random source,
// builds the parts, wires them, runs them and drains them. Each subcommand is one file, named after it.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"svc-wallet/host"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program but for the process it runs in.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	// Never given back: where nothing reloads, or no longer, SIGHUP must not end the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)

	root := newRoot(hup)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil || errors.Is(err, errStopped) {
		return exitOK
	}
	_, _ = fmt.Fprintln(stderr, "svc-wallet: "+err.Error())
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitError
}

// errStopped is a start that a signal ended.
var errStopped = errors.New("stopped before it began")

// starting runs a phase of a start that may take long, or for ever on a sick disk. Where ctx ends first
// it does not wait: nothing was served yet, so nothing was acknowledged, and the process just ends.
func starting[T any](ctx context.Context, phase func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := phase()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, errStopped
	}
}

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func newRoot(hup <-chan os.Signal) *cobra.Command {
	root := &cobra.Command{
		Use:           "svc-wallet",
		Short:         "A sidecar that makes paying through a ledger safe and fast",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_ = cmd.Help()
			return usageError{errors.New("a subcommand is needed")}
		},
	}
	root.AddCommand(devCommand(), serveCommand(hup), ledgerCommand(hup), controlCommand(hup), tokenCommand(),
		checkCommand(), verifyReceiptCommand(), versionCommand())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	return root
}

// newLogger writes one JSON object a line (or text for a person) with the names of CONTRACT §6.
func newLogger(w io.Writer, format, level string) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(w)
	const stamp = "2006-01-02T15:04:05.000Z07:00"
	fields := logrus.FieldMap{logrus.FieldKeyTime: "ts", logrus.FieldKeyMsg: "event"}
	if format == "text" {
		log.SetFormatter(&logrus.TextFormatter{FieldMap: fields, FullTimestamp: true, TimestampFormat: stamp})
	} else {
		log.SetFormatter(&logrus.JSONFormatter{FieldMap: fields, TimestampFormat: stamp})
	}
	l, err := logrus.ParseLevel(level)
	if err != nil || l < logrus.ErrorLevel || l > logrus.DebugLevel {
		return nil, fmt.Errorf("log level %.20q is none of debug, info, warning, error", level)
	}
	log.SetLevel(l)
	log.AddHook(serviceField{})
	return log, nil
}

// serviceField puts the field service on every line.
type serviceField struct{}

func (serviceField) Levels() []logrus.Level { return logrus.AllLevels }

func (serviceField) Fire(e *logrus.Entry) error {
	if _, ok := e.Data["service"]; !ok {
		e.Data["service"] = "svc-wallet"
	}
	return nil
}

// newID makes a ULID in text.
func newID(now func() int64) string {
	return ulid.MustNew(uint64(now()/int64(time.Millisecond)), rand.Reader).String() //nolint:gosec // after 1970
}

// join puts the errors of several parts on one line.
func join(errs ...error) error {
	err := errors.Join(errs...)
	if err == nil {
		return nil
	}
	return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
}

// watched runs a server, and as long as it runs has its files read again when they change. A signal of hup
// has them read at once, together with what reload reads.
func watched(ctx context.Context, files *host.Files, hup <-chan os.Signal, reload func(), serve func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		return serve(ctx)
	})
	g.Go(func() error { return files.Run(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-hup:
				reload()
				files.Look()
			}
		}
	})
	return g.Wait()
}
