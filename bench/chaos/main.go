// Command chaos delays and loses packets between a sidecar and its node, on kernels with netem and without.
//
// On a kernel without it, the node runs in a namespace of a link's (package link), and settings change while it runs:
//
//	chaos link &
//	chaos exec svc-wallet ledger --listen 198.18.0.2:7420 …
//	chaos on --delay 40ms --jitter 10ms --loss 0.5%
//	chaos off
//
// On one with netem, `--dev DEV` puts the same on packets that leave by a device, with tc:
//
//	chaos on --dev eth0 --delay 40ms --jitter 10ms --loss 0.5%
//	chaos off --dev eth0
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"svc-wallet/bench/link"
)

const usage = `usage: chaos link|exec|on|off|show [flags]

  link  joins a namespace of its own to this machine, until it is ended (Ctrl-C), which removes it
  exec  runs a program in that namespace: chaos exec PROGRAM ARGUMENTS
  on    delays and loses packets between the two, in both directions; with --dev those that leave by a device (tc netem)
  off   lets all pass again
  show  what is set, and what became of packets

chaos COMMAND -h lists the flags. All of it takes root.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	command := ""
	if len(os.Args) > 1 {
		command = os.Args[1]
	}
	commands := map[string]func(context.Context, []string) error{"link": join, "exec": inside, "on": on, "off": off, "show": show}
	do := commands[command]
	if do == nil {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	if err := do(ctx, os.Args[2:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// join makes a link and obeys the other commands until ctx ends.
func join(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("link", flag.ContinueOnError)
	if err := fs.Parse(args); err != nil {
		return err
	}
	control, err := listen()
	if err != nil {
		return err
	}
	l, err := link.New()
	if err != nil {
		return errors.Join(err, control.Close())
	}
	fmt.Printf("%s here, %s for what `chaos exec` runs; Ctrl-C removes it\n", l.Here, l.There)
	stop := context.AfterFunc(ctx, func() { _ = control.Close() })
	defer stop()
	err = obey(control, l)
	if ctx.Err() != nil {
		err = nil // control was closed for that
	}
	return errors.Join(err, l.Close())
}

// inside becomes another program, in the namespace.
func inside(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("exec: no program is named")
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	got, err := ask(ctx, nil)
	if err != nil {
		return err
	}
	if err := link.Enter(got.Net); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", program, syscall.Exec(program, args, os.Environ())) //nolint:gosec // what it is for
}

func on(ctx context.Context, args []string) error {
	var s link.Settings
	fs := flag.NewFlagSet("on", flag.ContinueOnError)
	dev := fs.String("dev", "", "network device, for tc netem; else the link")
	s.Bind(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := s.Check(); err != nil {
		return err
	}
	if *dev != "" {
		return netem(ctx, *dev, &s)
	}
	return tell(ask(ctx, &s))
}

func off(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("off", flag.ContinueOnError)
	dev := fs.String("dev", "", "network device that `on` was given")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *dev != "" {
		return netem(ctx, *dev, nil)
	}
	return tell(ask(ctx, &link.Settings{}))
}

func show(ctx context.Context, _ []string) error { return tell(ask(ctx, nil)) }

func tell(got answer, err error) error {
	if err != nil {
		return err
	}
	fmt.Printf("%s\n%d packets passed, %d were lost, %d were over the limit\n", got.Settings, got.Stats.Passed, got.Stats.Lost, got.Stats.Overflowed)
	return nil
}
