package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"svc-wallet/filters"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, narrow and explain capabilities",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("token: mint, attenuate or inspect?")}
		},
	}
	cmd.AddCommand(mintCommand(), attenuateCommand(), inspectCommand())
	return cmd
}

// caveatFlags are the caveats of CONTRACT §3 as flags. An absent flag adds no caveat.
type caveatFlags struct {
	ttl     time.Duration
	actions []string
	text    map[string]*string
	raw     []string
	given   func(flag string) bool
}

// textCaveats are the caveats whose flag carries the value as it is, with what it means.
var textCaveats = []struct{ name, help string }{ //nolint:gochecknoglobals // a table
	{"accounts", "accounts, comma-separated; a trailing * covers a prefix"},
	{"assets", "assets, comma-separated; a trailing * covers a prefix"},
	{"max_amount", "largest amount of one payment, in minor units"},
	{"daily", "the most that an account may have moved on the UTC day, by whichever token, when this one is used; minor units"},
	{"peer", "spiffe:// id that the client certificate must carry"},
	{"cidr", "network that the client must come from"},
	{"sub", "name for audit; rates run by the token's id"},
}

func (c *caveatFlags) bind(cmd *cobra.Command) {
	f := cmd.Flags()
	c.given = f.Changed
	f.DurationVar(&c.ttl, "ttl", 0, "how long from now the capability lives, such as 1h")
	f.StringSliceVar(&c.actions, "actions", nil, "of read, issue, transfer, burn")
	c.text = map[string]*string{}
	for _, t := range textCaveats {
		c.text[t.name] = f.String(strings.ReplaceAll(t.name, "_", "-"), "", t.help)
	}
	f.StringArrayVar(&c.raw, "caveat", nil, "any caveat as it stands, such as 'nbf = 1700000000'; may be repeated")
}

// list returns the caveats that the flags ask for.
func (c *caveatFlags) list(now int64) ([]string, error) {
	var list []string
	if c.given("ttl") && c.ttl <= 0 {
		return nil, usageError{errors.New("--ttl must be more than 0")}
	}
	if c.given("ttl") {
		list = append(list, fmt.Sprintf("exp = %d", time.Unix(0, now).Add(c.ttl).Unix()))
	}
	if c.given("actions") {
		list = append(list, "actions = "+strings.Join(c.actions, ","))
	}
	for _, t := range textCaveats {
		if c.given(strings.ReplaceAll(t.name, "_", "-")) {
			list = append(list, t.name+" = "+*c.text[t.name]) // an empty one is refused, not left out: that would widen
		}
	}
	return append(list, c.raw...), nil
}

func mintCommand() *cobra.Command {
	var keyFile, id string
	var caveats caveatFlags
	cmd := &cobra.Command{
		Use:   "mint --root-keys FILE --ttl 1h --actions read,transfer --accounts acc_1",
		Short: "Make a capability with the first root key of FILE",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := required(cmd, "root-keys"); err != nil {
				return err
			}
			list, err := caveats.list(timeOfDay())
			if err != nil {
				return err
			}
			keys, err := filters.LoadKeys(keyFile)
			if err != nil {
				return join(err)
			}
			if id == "" {
				id = newID(timeOfDay)
			}
			token, err := filters.MintToken(keys, id, append([]string{"aud = svc-wallet"}, list...))
			if err != nil {
				return join(err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	cmd.Flags().StringVar(&keyFile, "root-keys", "", "file of root keys, mode 0600")
	cmd.Flags().StringVar(&id, "id", "", "token id, by which it can be revoked (default a ULID)")
	caveats.bind(cmd)
	return cmd
}

func attenuateCommand() *cobra.Command {
	var caveats caveatFlags
	cmd := &cobra.Command{
		Use:   "attenuate [TOKEN]",
		Short: "Narrow a capability (from stdin without TOKEN); needs no key",
		Args:  atMostOneToken,
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := caveats.list(timeOfDay())
			if err != nil {
				return err
			}
			if len(list) == 0 {
				return usageError{errors.New("attenuate: no caveat to add")}
			}
			token, err := readToken(cmd, args)
			if err != nil {
				return err
			}
			if token, err = filters.AttenuateToken(token, list); err != nil {
				return join(err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	caveats.bind(cmd)
	return cmd
}

func inspectCommand() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use:   "inspect [TOKEN]",
		Short: "Explain a capability (from stdin without TOKEN); verifies it if given the keys; ends with 1 where it is refused now",
		Args:  atMostOneToken,
		RunE: func(cmd *cobra.Command, args []string) error {
			token, err := readToken(cmd, args)
			if err != nil {
				return err
			}
			var keys *filters.Keys
			if keyFile != "" {
				if keys, err = filters.LoadKeys(keyFile); err != nil {
					return join(err)
				}
			}
			seen, err := filters.InspectToken(token, keys, timeOfDay())
			if err != nil {
				return join(err)
			}
			if _, err = fmt.Fprint(cmd.OutOrStdout(), seen); err != nil {
				return err
			}
			return seen.Fault()
		},
	}
	cmd.Flags().StringVar(&keyFile, "root-keys", "", "file of root keys to verify the signature with")
	return cmd
}

func atMostOneToken(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usageError{fmt.Errorf("%stakes one token", within(cmd))}
	}
	return nil
}

// maxTokenInput is more than any token: 4 KiB in base64, and white space.
const maxTokenInput = 16 << 10

// readToken takes the token from the argument or stdin. On stdin it stays out of the process
// list and the shell's history.
func readToken(cmd *cobra.Command, args []string) (string, error) {
	if len(args) == 1 && args[0] != "-" {
		return args[0], nil
	}
	data, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxTokenInput))
	return strings.TrimSpace(string(data)), err
}
