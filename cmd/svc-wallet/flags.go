package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"svc-wallet/host"
)

// noArgs refuses positional arguments as a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s%.80q is no command or argument", within(cmd), args[0])}
	}
	return nil
}

// within names the subcommand that an error is of; main says the program's name.
func within(cmd *cobra.Command) string {
	_, sub, ok := strings.Cut(cmd.CommandPath(), " ")
	if !ok {
		return ""
	}
	return sub + ": "
}

// required refuses as a usage error a command line without one of the flags.
func required(cmd *cobra.Command, flags ...string) error {
	for _, f := range flags {
		if !cmd.Flags().Changed(f) {
			return usageError{fmt.Errorf("%s--%s is needed", within(cmd), f)}
		}
	}
	return nil
}

// logFlags are those of the log, for commands without a configuration.
type logFlags struct{ format, level string }

func (l *logFlags) bind(f *pflag.FlagSet) {
	f.StringVar(&l.format, "log-format", "json", "json or text")
	f.StringVar(&l.level, "log-level", "info", "debug, info, warning or error")
}

func (l *logFlags) open(w io.Writer) (*logrus.Logger, error) {
	log, err := newLogger(w, l.format, l.level)
	if err != nil {
		return nil, usageError{err}
	}
	return log, nil
}

// tlsFlags name the files of a listener that demands certificates. The zero value is none.
type tlsFlags struct {
	files  host.CertFiles
	caFlag string
}

func (t *tlsFlags) bind(f *pflag.FlagSet, caFlag, of string) {
	t.caFlag = caFlag
	f.StringVar(&t.files.Cert, "tls-cert", "", "certificate "+of)
	f.StringVar(&t.files.Key, "tls-key", "", "key of the certificate")
	f.StringVar(&t.files.CA, caFlag, "", "authority of the clients' certificates, which are then demanded")
}

// open reads the files, and adds them to those that are watched. It returns nil where none is given: whether
// that will do depends on the address.
func (t *tlsFlags) open(files *host.Files, name string) (func() *tls.Config, error) {
	if t.files == (host.CertFiles{}) {
		return nil, nil //nolint:nilnil // no TLS is a valid choice
	}
	if t.files.Cert == "" || t.files.Key == "" || t.files.CA == "" {
		return nil, usageError{fmt.Errorf("--tls-cert, --tls-key and --%s go together", t.caFlag)}
	}
	certs, err := files.Certs(name, t.files)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert, --tls-key, --%s: %w", t.caFlag, err)
	}
	return certs.Server, nil
}
