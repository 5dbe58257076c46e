package config

import (
	"errors"
	"os"
	"slices"
	"testing"
)

// TestReload walks one file through changes that take effect, wait for a restart, are wrong, are
// wrong together with what waits, and are refused by who applies them. After each step the
// configuration in force is the last good one.
func TestReload(t *testing.T) {
	file := writeFile(t, ".toml", "")
	from := Sources{File: file, Env: required(), CPUs: 2}
	inForce := mustLoad(t, from)
	var refuse error
	r := NewReloader(from, inForce, func(next *Config) error {
		if refuse == nil {
			inForce = next
		}
		return refuse
	})

	for _, step := range []struct {
		name, file string
		refuse     error
		ignored    []string
		want       string // error
		queue      int    // in force afterwards
		level      string
	}{
		{name: "what changes", file: "limits.queue = 100\nlog.level = \"debug\"", queue: 100, level: "debug"},
		{name: "what waits", file: "limits.queue = 101\nbind_addr = \":1\"\nceilings.queue = 9000\nworkers = 7\namnesia = true\nxds.addr = \"unix:/x\"\ntls.pq = \"off\"", ignored: []string{"bind_addr", "workers", "amnesia", "tls.pq", "xds.addr", "ceilings.queue"}, queue: 101, level: "info"},
		{name: "what still waits", file: "limits.queue = 102\nbind_addr = \":1\"", ignored: []string{"bind_addr"}, queue: 102, level: "info"},
		{name: "wrong", file: "limits.queue = 0", want: "limits.queue: 0 (from F) is not in 1…65536", queue: 102, level: "info"},
		{
			name: "wrong with what waits", file: "limits.queue = 9000\nceilings.queue = 9000", ignored: []string{"ceilings.queue"},
			want: "limits.queue: 9000 (from F) is over ceilings.queue, 8192 (from default)", queue: 102, level: "info",
		},
		{name: "refused", file: "limits.queue = 103", refuse: errors.New("no such certificate"), want: "apply the configuration: no such certificate", queue: 102, level: "info"},
		{name: "good again", file: "limits.queue = 104", queue: 104, level: "info"},
	} {
		if err := os.WriteFile(file, []byte(step.file), 0o600); err != nil {
			t.Fatal(err)
		}
		refuse = step.refuse
		ignored, err := r.Reload()
		if step.want != "" || err != nil {
			wantFaults(t, err, step.want, file)
		}
		if !slices.Equal(ignored, step.ignored) {
			t.Errorf("%s: ignored %v, want %v", step.name, ignored, step.ignored)
		}
		if inForce.Limits().Queue != step.queue || inForce.Log.Level != step.level {
			t.Errorf("%s: queue %d and level %s in force", step.name, inForce.Limits().Queue, inForce.Log.Level)
		}
		if inForce.BindAddr != "0.0.0.0:8443" || inForce.source("bind_addr") != "default" || inForce.Workers != 2 || inForce.Ceilings.Queue != 8192 ||
			inForce.Amnesia || inForce.TLS.PQ != PQHybrid || len(inForce.XDS.Addrs) != 0 {
			t.Errorf("%s: what waits for a restart has changed: %+v", step.name, inForce)
		}
	}
}
