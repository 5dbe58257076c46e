package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/pprof/profile"

	"svc-wallet/bench/rig"
)

const (
	traceFor  = 2                     // seconds; a trace of more is too long to look at
	timed     = 4                     // kinds of profiles that take the time of the flag
	longest   = 60                    // seconds, which the program allows a profile
	pushEvery = 10 * time.Millisecond // so that the control plane has something to do
)

// profiles takes profiles of sidecar, node and control plane while a scenario runs.
func profiles(ctx context.Context, args []string) error {
	var o options
	var dir string
	fs := flag.NewFlagSet("profile", flag.ContinueOnError)
	o.flags(fs)
	o.workload(fs)
	fs.StringVar(&dir, "dir", "bin/profiles", "folder for the profiles")
	if err := fs.Parse(args); err != nil {
		return err
	}
	return profileAll(ctx, &o, dir)
}

// profileAll profiles each phase of a scenario, on processes of its own.
func profileAll(ctx context.Context, o *options, dir string) (err error) {
	phases, err := o.phases()
	if err != nil {
		return err
	}
	for i := range phases {
		if s := o.secondsOf(&phases[i]); s < 1 || s > longest {
			return fmt.Errorf("%s: a profile would take %d s, and takes 1 to %d: change --duration", phases[i].name, s, longest)
		}
	}
	r, err := rig.StartAll(ctx, o.bin, unlimited()...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	l := &load{o: o, rig: r, pool: newPool(o.accounts)}
	defer l.crowd(0)
	l.crowd(o.connections)
	if err := l.fund(ctx); err != nil {
		return err
	}
	if err := l.run(ctx, &phases[0], o.warmup, nil); err != nil {
		return err
	}
	for i := range phases {
		if err := l.profile(ctx, &phases[i], filepath.Join(dir, phases[i].name)); err != nil {
			return fmt.Errorf("%s: %w", phases[i].name, err)
		}
	}
	_, err = l.count(ctx)
	return err
}

// secondsOf is how long each of a phase's profiles may take, so that all of them are taken under load.
func (o *options) secondsOf(p *phase) int {
	return (int(o.duration.Seconds()*p.share) - traceFor) / timed
}

// profile runs one phase and writes its profiles into a folder.
func (l *load) profile(ctx context.Context, p *phase, dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	l.crowd(l.o.connections * p.crowd)
	defer l.crowd(l.o.connections)
	seconds := l.o.secondsOf(p)
	under, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, 5)
	var pushed sync.WaitGroup
	pushed.Go(func() { errs[0] = l.push(under) })
	var all sync.WaitGroup
	all.Go(func() {
		errs[1] = l.run(ctx, p, time.Duration(timed*seconds+traceFor+1)*time.Second, nil)
	})
	for i, of := range []struct {
		name string
		*rig.Process
	}{{"sidecar", l.rig.Sidecar}, {"node", l.rig.Node}, {"control", l.rig.Control}} {
		all.Go(func() { errs[2+i] = take(ctx, of.Listens("admin_addr"), filepath.Join(dir, of.name), seconds) })
	}
	all.Wait()
	stop()
	pushed.Wait()
	return errors.Join(errs...)
}

// take writes the profiles of a process, one after another, so that none is in another's: what watches
// contention costs CPU. Those without a time are of the moment.
func take(ctx context.Context, addr, prefix string, seconds int) error {
	for _, p := range []struct{ path, file string }{
		{fmt.Sprintf("profile?seconds=%d", seconds), ".cpu.pb.gz"},
		{fmt.Sprintf("allocs?seconds=%d", seconds), ".allocs.pb.gz"},
		{fmt.Sprintf("mutex?seconds=%d", seconds), ".mutex.pb.gz"},
		{fmt.Sprintf("block?seconds=%d", seconds), ".block.pb.gz"},
		{fmt.Sprintf("trace?seconds=%d", traceFor), ".trace"},
		{"goroutine", ".goroutine.pb.gz"},
		{"heap?gc=1", ".heap.pb.gz"},
	} {
		if err := download(ctx, "http://"+addr+"/debug/pprof/"+p.path, prefix+p.file); err != nil {
			return err
		}
	}
	return draw(prefix+".cpu.pb.gz", prefix+".svg")
}

func download(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // was read to its end
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", url, res.Status, body)
	}
	return os.WriteFile(file, body, 0o600)
}

// draw makes a flame graph of a CPU profile, and says what of it there is to look at.
func draw(from, to string) error {
	text, err := os.ReadFile(from) //nolint:gosec // was just written
	if err != nil {
		return err
	}
	p, err := profile.ParseData(text)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	root, err := fold(p)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	cpu, span := time.Duration(root.nanos), time.Duration(p.DurationNanos)
	said := fmt.Sprintf("%s of CPU in %s", cpu.Round(10*time.Millisecond), span.Round(10*time.Millisecond))
	fmt.Printf("%-50s %s\n", to, said)
	phase, process := filepath.Base(filepath.Dir(to)), strings.TrimSuffix(filepath.Base(to), ".svg")
	return save(to, []byte(root.svg(fmt.Sprintf("%s, %s: %s", phase, process, said))))
}

// push lowers and lifts a limit that no payment of a workload meets, until ctx ends.
func (l *load) push(ctx context.Context) error {
	for n := 0; pause(ctx, pushEvery) == nil; n++ {
		body := fmt.Sprintf(`{"max_amount_per_op":"1000000000%d"}`, n%2)
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+l.rig.Control.Listens("api")+"/limits/default", strings.NewReader(body))
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			return err
		}
		_ = res.Body.Close()
		if res.StatusCode/100 != 2 {
			return fmt.Errorf("PUT: %s", res.Status)
		}
	}
	return nil
}
