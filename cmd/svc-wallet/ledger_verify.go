package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"svc-wallet/ledger/node"
)

// verifyStoreCommand reads a whole store.
func verifyStoreCommand() *cobra.Command {
	var data string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify --data DIR",
		Short: "Read every payment, key, balance and sum of a stopped node's store, and say what is damaged",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "data"); err != nil {
				return err
			}
			show, wipe := percentage(cmd.ErrOrStderr())
			report, err := node.VerifyPebble(cmd.Context(), data, show)
			wipe()
			if err != nil {
				return err
			}
			return tellReport(cmd.OutOrStdout(), data, report, asJSON)
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "folder of the store; its node must be stopped")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as one JSON object")
	return cmd
}

// tellReport prints what was found. A damaged store is an error, so that it shows in the exit code.
func tellReport(w io.Writer, data string, r *node.Report, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(w).Encode(r); err != nil {
			return err
		}
	} else {
		for _, f := range r.Told {
			_, _ = fmt.Fprintln(w, f)
		}
		for _, u := range r.Unjudged {
			_, _ = fmt.Fprintln(w, "not judged:", u)
		}
		_, _ = fmt.Fprintf(w, "%d payments in %d bytes of journal, %d rows of state, %d payments that were not read: %s\n",
			r.Payments, r.JournalBytes, r.StateRows, r.Unread, faults(r.Faults))
	}
	if r.Faults > 0 {
		return fmt.Errorf("%s: the store is damaged: %s, the first: %s", data, faults(r.Faults), r.Told[0])
	}
	return nil
}

func faults(n uint64) string {
	if n == 1 {
		return "1 fault"
	}
	return fmt.Sprintf("%d faults", n)
}

// percentage shows how far something is on one line of a terminal, and nothing elsewhere.
func percentage(w io.Writer) (show func(done, total int64), wipe func()) {
	f, ok := w.(*os.File)
	if !ok {
		return func(int64, int64) {}, func() {}
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func(int64, int64) {}, func() {}
	}
	shown := int64(-1)
	show = func(done, total int64) {
		if percent := 100 * done / max(total, 1); percent != shown {
			shown = percent
			_, _ = fmt.Fprintf(f, "\rverified %3d %% [%-50s]", percent, strings.Repeat("=", int(percent/2)))
		}
	}
	return show, func() {
		if shown >= 0 {
			_, _ = fmt.Fprintf(f, "\r%70s\r", "")
		}
	}
}
