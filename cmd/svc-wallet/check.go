package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"svc-wallet/config"
)

func checkCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Validate a configuration and print the effective one with each value's source",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(sources(file, cmd.Flags()))
			if err != nil {
				return err
			}
			for _, e := range cfg.Effective() {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%-32s %-42s # %s\n", e.Key, e.Value, e.Source); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file, TOML or YAML")
	config.BindFlags(cmd.Flags())
	return cmd
}
