package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"svc-wallet/proxy"
)

// version and revision are set by the linker (see Makefile).
var (
	version  = "unknown"
	revision string //nolint:gochecknoglobals // only the linker writes it
)

// features are what this binary can do that another build may not.
const features = "tls1.3 x25519mlkem768 macaroon-v2 pebble memory"

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print version, commit, Go and features",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := build()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "svc-wallet %s\ncommit   %s\ngo       %s\nfeatures %s\n", b.Version, b.Commit, b.Go, b.Features)
			return err
		},
	}
}

func build() proxy.Build {
	return proxy.Build{Version: version, Commit: commit(), Go: runtime.Version(), Features: features}
}

// commit is what the Makefile or else the Go tool recorded of the checkout; builds without either
// say so.
func commit() string {
	if revision != "" {
		return revision
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return "unknown"
}
