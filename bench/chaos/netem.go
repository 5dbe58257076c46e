package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"svc-wallet/bench/link"
)

// netem has the kernel do s to what leaves by dev; nil takes it off. tc is given the name netem each time, so it
// neither replaces nor removes a queue that somebody else has put there.
func netem(ctx context.Context, dev string, s *link.Settings) error {
	if s == nil {
		out, err := tc(ctx, "del", dev)
		if strings.Contains(out, "handle of zero") || strings.Contains(out, "must match existing") {
			return nil // there is none
		}
		return err
	}
	out, err := tc(ctx, "add", dev, s.Netem()...)
	switch {
	case err == nil:
	case strings.Contains(out, "kind is unknown"):
		return fmt.Errorf("this kernel has no netem (sch_netem); `chaos link` needs none: %w", err)
	case strings.Contains(out, "File exists"), strings.Contains(out, "Exclusivity flag"):
		_, err = tc(ctx, "change", dev, s.Netem()...)
	}
	if err == nil {
		fmt.Printf("netem on what leaves by %s: %s\nwhat comes in by it is not delayed or lost: put the same on at the other end, or twice as much here\n", dev, strings.Join(s.Netem(), " "))
	}
	return err
}

func tc(ctx context.Context, do, dev string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "tc", append([]string{"qdisc", do, "dev", dev, "root", "netem"}, args...)...) //nolint:gosec // what it is for
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = errors.Join(fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err), errors.New(strings.TrimSpace(string(out))))
	}
	return string(out), err
}
