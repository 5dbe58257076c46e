package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"svc-wallet/wallet"
)

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
