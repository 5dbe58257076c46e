//go:build loadprograms

package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestLoadPrograms runs each line of docs/performance.md for another load program for two seconds against `dev`, and
// wants it to say that it sent something and was answered. Method: the page's own text, in a shell, with the
// variables of dev.env.
func TestLoadPrograms(t *testing.T) {
	page, err := os.ReadFile("../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## Other load programs")
	section, _, _ = strings.Cut(section, "\n## ")
	d := startDev(t, t.TempDir(), "SVC_WALLET_LIMITS_RATE_PER_SECOND=1000000", "SVC_WALLET_LIMITS_RATE_BURST=1000000")
	told := map[string]*regexp.Regexp{
		"wrk":        regexp.MustCompile(`(?s)[1-9]\d* requests in`),
		"vegeta":     regexp.MustCompile(`Success\s+\[ratio\]\s+100\.00%`),
		"bombardier": regexp.MustCompile(`2xx - [1-9]\d*, 3xx - 0, 4xx - 0, 5xx - 0`),
		"write_mix":  regexp.MustCompile(`checks_succeeded\.*: 100\.00%`),
		"read_heavy": regexp.MustCompile(`checks_succeeded\.*: 100\.00%`),
		"contract":   regexp.MustCompile(`checks_succeeded\.*: 100\.00%`),
	}
	ran := 0
	for block := range strings.SplitSeq(section, "```sh\n") {
		line, _, ok := strings.Cut(block, "\n```")
		if !ok || strings.HasPrefix(line, "go install") {
			continue
		}
		line = strings.NewReplacer("10m", "2s", "-rate=3000", "-rate=500", "RATE=2500", "RATE=200", "RATE=4000", "RATE=200", "-r 4000", "-r 200").Replace(line)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", line)
		cmd.Dir = ".."
		cmd.Env = os.Environ()
		for name, value := range d.env {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		out, err := cmd.CombinedOutput()
		cancel()
		wanted := 0
		for name, text := range told {
			if strings.Contains(line, name) {
				wanted++
				if err != nil || !text.Match(out) || bytes.Contains(out, []byte("Non-2xx")) {
					t.Errorf("%s\n%v\n%s", line, err, out)
				}
			}
		}
		if wanted == 0 {
			t.Errorf("nothing is known of %q", line)
		}
		ran++
	}
	if ran != len(told)+1 { // wrk twice
		t.Errorf("%d lines, not %d", ran, len(told)+1)
	}
	d.stop()
}
