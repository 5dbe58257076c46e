package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"svc-wallet/bench/link"
)

// TestNetem: with --dev the settings go to tc as netem, which is changed where it is there, and taken off without
// touching what is somebody else's; a kernel that has none is named. Method: a tc that notes how it was called, and
// answers as the real one does.
func TestNetem(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho \"$@\" >>" + dir + "/calls\ncase \"$2 $4\" in\n" +
		"'add has') echo 'Error: Exclusivity flag on, cannot modify.' >&2; exit 2;;\n" +
		"'del bare') echo 'Error: Cannot delete qdisc with handle of zero.' >&2; exit 2;;\n" +
		"'add old') echo 'Error: Specified qdisc kind is unknown.' >&2; exit 2;;\nesac\n"
	if err := os.WriteFile(filepath.Join(dir, "tc"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	const set, want = "-delay 40ms -jitter 10ms -correlation 25% -loss 0.5%", "root netem limit 1000 delay 40000us 10000us 25% loss 0.5%"
	for _, dev := range []string{"new", "has"} {
		if err := on(t.Context(), append(strings.Fields(set), "-dev", dev)); err != nil {
			t.Error(err)
		}
	}
	for _, dev := range []string{"new", "bare"} {
		if err := off(t.Context(), []string{"-dev", dev}); err != nil {
			t.Error(err)
		}
	}
	if err := on(t.Context(), []string{"-dev", "old"}); err == nil || !strings.Contains(err.Error(), "no netem") {
		t.Error(err)
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil || string(calls) != strings.Join([]string{
		"qdisc add dev new " + want, "qdisc add dev has " + want, "qdisc change dev has " + want,
		"qdisc del dev new root netem", "qdisc del dev bare root netem", "qdisc add dev old root netem limit 1000",
	}, "\n")+"\n" {
		t.Errorf("%v\n%s", err, calls)
	}
}

// TestCommands: a link is made, obeys while it runs, runs a program in its namespace and is the only one; when it is
// killed, nothing is left of it and the next one starts. Method: the program itself.
func TestCommands(t *testing.T) {
	way, err := link.New()
	if link.Unavailable(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := way.Close(); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(t.TempDir(), "chaos")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	says := func(args ...string) string {
		out, _ := exec.CommandContext(t.Context(), bin, args...).CombinedOutput()
		return string(out)
	}
	start := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), bin, "link")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var why strings.Builder
		cmd.Stderr = &why
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, _ := io.ReadAll(io.LimitReader(out, 10)); !strings.HasPrefix(string(line), "198.18.") {
			_ = cmd.Wait()
			t.Fatal(why.String())
		}
		return cmd
	}
	first := start()
	for _, step := range []struct{ args, want string }{
		{"show", "all passes at once"},
		{"on -delay 40ms -loss 100%", "delay 40000us loss 100%, in each direction"},
		{"show", "delay 40000us"},
		{"on -loss 200%", "0% to 100%"},
		{"link", "runs already"},
		{"exec cat /proc/net/dev", "swc0"},
		{"off", "all passes at once"},
	} {
		if got := says(strings.Fields(step.args)...); !strings.Contains(got, step.want) {
			t.Errorf("%s: %s", step.args, got)
		}
	}
	if devices := strings.Fields(says("exec", "ls", "/proc/self/net/dev_snmp6")); !slices.Equal(devices, []string{"lo", "swc0"}) {
		t.Errorf("in the namespace there are %v", devices)
	}
	_ = first.Process.Kill()
	_ = first.Wait()
	if got := says("show"); !strings.Contains(got, "no link runs") {
		t.Error(got)
	}
	second := start()
	_ = second.Process.Signal(os.Interrupt)
	ended, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	context.AfterFunc(ended, func() { _ = second.Process.Kill() })
	if err := second.Wait(); err != nil {
		t.Errorf("a link that was ended: %v", err)
	}
}
