package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"svc-wallet/wallet"
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
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "svc-wallet %s\ncommit   %s\ngo       %s\nfeatures %s\n",
				version, commit(), runtime.Version(), features)
			return err
		},
	}
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

// maxReceipt bounds what verify-receipt reads: a receipt is at most about 700 bytes.
const maxReceipt = 64 << 10

func verifyReceiptCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify-receipt [FILE]",
		Short: "Recompute receipt_hash of a receipt on stdin or in FILE",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return noArgs(cmd, args[1:])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			in := cmd.InOrStdin()
			if len(args) == 1 && args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close() //nolint:errcheck // only read
				in = f
			}
			data, err := io.ReadAll(io.LimitReader(in, maxReceipt+1))
			if err != nil {
				return err
			}
			if len(data) > maxReceipt {
				return errors.New("no receipt is that long")
			}
			r, err := wallet.VerifyReceipt(data)
			if err != nil {
				return join(err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "ok %s\n", r.TxID)
			return err
		},
	}
}
