package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// plant is a regression that is put into a copy of one file.
type plant struct {
	name     string
	file     string
	old, new string // the one place, and what stands there instead
}

// plants are the regressions that the gate must find, one of each kind.
var plants = []plant{ //nolint:gochecknoglobals // a table
	{
		"a sleep of a millisecond in each answer", "proxy/wire.go",
		"\tctx.SetStatusCode(code.HTTP())\n", "\ttime.Sleep(time.Millisecond)\n\tctx.SetStatusCode(code.HTTP())\n",
	},
	{
		"four allocations in each answer", "proxy/wire.go",
		"\tctx.Response.SetBody(v.Reply)\n", "\tfor range 4 {\n\t\tv.Reply = append([]byte(nil), v.Reply...)\n\t}\n\tctx.Response.SetBody(v.Reply)\n",
	},
	{
		"a lock over each commit", "ledger/committer.go",
		"\tpatience := deadline - c.opts.Now()\n", "\tplanted.Lock()\n\tdefer planted.Unlock()\n\tpatience := deadline - c.opts.Now()\n",
	},
	{
		"a row more of each payment", "ledger/node/journal.go",
		"\tplaceEvery = 16 ", "\tplaceEvery = 1 ",
	},
}

// source is the file with the regression in it.
func (p *plant) source(root string) (path string, text []byte, err error) {
	if path, err = filepath.Abs(filepath.Join(root, p.file)); err != nil {
		return "", nil, err
	}
	text, err = os.ReadFile(path) //nolint:gosec // a file of this project
	if err != nil {
		return "", nil, err
	}
	if n := bytes.Count(text, []byte(p.old)); n != 1 {
		return "", nil, fmt.Errorf("%s: %q is there %d times", p.file, p.old, n)
	}
	text = bytes.Replace(text, []byte(p.old), []byte(p.new), 1)
	if strings.Contains(p.new, "planted.Lock") {
		text = append(text, "\nvar planted sync.Mutex\n"...)
	}
	return path, text, nil
}

// build builds the program with the regression to the file bin.
func (p *plant) build(ctx context.Context, root, bin string) error {
	path, text, err := p.source(root)
	if err != nil {
		return err
	}
	replaced, overlay := bin+".go", bin+".json"
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: replaced}})
	if err != nil {
		return err
	}
	for file, text := range map[string][]byte{replaced: text, overlay: list} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-trimpath", "-o", bin, "./cmd/svc-wallet") //nolint:gosec // a build of this project
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", p.name, err, out)
	}
	return nil
}

func prove(ctx context.Context, args []string) error {
	c := contest{}
	fs := flag.NewFlagSet("prove", flag.ContinueOnError)
	c.flags(fs)
	times := fs.Int("times", 20, "how often the program is held against itself")
	if err := fs.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "svc-wallet-planted")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	c.base = c.bin
	for i := range plants {
		c.head = filepath.Join(dir, fmt.Sprint(i))
		if err := plants[i].build(ctx, ".", c.head); err != nil {
			return err
		}
		failed, err := c.decide(ctx, os.Stdout)
		if err != nil {
			return err
		}
		if len(failed) == 0 {
			return fmt.Errorf("%s: the gate let it through", plants[i].name)
		}
		fmt.Printf("\n%s: found by %s\n", plants[i].name, strings.Join(failed, ", "))
	}
	c.head = c.bin
	for n := range *times {
		failed, err := c.decide(ctx, io.Discard)
		if err != nil {
			return err
		}
		if len(failed) > 0 {
			return fmt.Errorf("a build against itself, time %d: %s", n+1, strings.Join(failed, ", "))
		}
	}
	fmt.Printf("\nall %d plants were found, and %d times out of %d a build held against itself passed\n", len(plants), *times, *times)
	return nil
}
