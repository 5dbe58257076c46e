// Command xds measures how long a limit takes from a control plane to the sidecars that enforce it,
// and what that costs the control plane. It runs `svc-wallet control` as a process of its own and,
// in this one, as many xDS clients as there would be sidecars, each with limits of its own. A push
// is a PUT to the control plane's API; it is enforced by a sidecar once the limits that its
// requests would load hold the new value.
//
// Both processes share the machine, so with many sidecars most of the time is theirs, not the
// control plane's: `cpu a push` is the control plane's alone.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/config"
	"svc-wallet/wallet"
	"svc-wallet/xds"
)

func main() {
	binary := flag.String("bin", "bin/svc-wallet", "the program under test")
	sizes := flag.String("sidecars", "10,100,1000", "numbers of sidecars, one run each")
	pushes := flag.Int("pushes", 50, "pushes a run")
	protocol := flag.String("protocol", "delta", "delta or sotw")
	flag.Parse()
	if err := bench(*binary, *sizes, *protocol, *pushes); err != nil {
		fmt.Fprintln(os.Stderr, "bench xds:", err)
		os.Exit(1)
	}
}

func bench(binary, sizes, protocol string, pushes int) error {
	fmt.Printf("%d CPUs, %s, %d pushes a run, %s\n\n", runtime.NumCPU(), runtime.Version(), pushes, protocol)
	fmt.Printf("%9s %10s %10s %10s %14s %14s\n", "sidecars", "p50", "p99", "max", "memory/stream", "cpu/push")
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 {
			return fmt.Errorf("-sidecars: %q is no number of sidecars", size)
		}
		if err := run(binary, protocol, n, pushes); err != nil {
			return fmt.Errorf("%d sidecars: %w", n, err)
		}
	}
	return nil
}

// run is one row of the table.
func run(binary, protocol string, n, pushes int) error {
	dir, err := os.MkdirTemp("", "bench-xds")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	plane, err := startPlane(ctx, binary, dir)
	if err != nil {
		return err
	}
	defer plane.stop()
	if err := plane.put(ctx, 1); err != nil {
		return err
	}
	empty, err := plane.rss()
	if err != nil {
		return err
	}

	fleet, err := startFleet(ctx, plane.addr, protocol, n)
	if err != nil {
		return err
	}
	defer fleet.stop()
	if _, err := fleet.enforced(ctx, 1, time.Now()); err != nil {
		return err
	}
	full, err := plane.rss()
	if err != nil {
		return err
	}
	before, err := plane.cpu()
	if err != nil {
		return err
	}
	var delays []time.Duration
	for i := range pushes {
		amount, begin := uint64(1000+i), time.Now()
		if err := plane.put(ctx, amount); err != nil {
			return err
		}
		each, err := fleet.enforced(ctx, amount, begin)
		if err != nil {
			return err
		}
		delays = append(delays, each...)
	}
	after, err := plane.cpu()
	if err != nil {
		return err
	}
	slices.Sort(delays)
	at := func(share float64) time.Duration {
		return delays[min(len(delays)-1, int(share*float64(len(delays))))].Round(10 * time.Microsecond)
	}
	fmt.Printf("%9d %10v %10v %10v %10.1f KiB %14v\n", n, at(0.5), at(0.99), at(1),
		float64(full-empty)/1024/float64(n), ((after - before) / time.Duration(pushes)).Round(10*time.Microsecond))
	return nil
}

// fleet is xDS clients with limits of their own.
type fleet struct {
	lives  []*config.Live
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

func startFleet(ctx context.Context, addr, protocol string, n int) (*fleet, error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &fleet{cancel: cancel}
	log := logrus.New()
	log.SetOutput(io.Discard)
	start := time.Now()
	now := func() int64 { return start.UnixNano() + int64(time.Since(start)) }
	for i := range n {
		cfg, err := config.Load(config.Sources{CPUs: 1, Env: []string{
			"SVC_WALLET_TLS_CERT_FILE=unused", "SVC_WALLET_TLS_KEY_FILE=unused", "SVC_WALLET_AUTH_ROOT_KEYS_FILE=unused",
			"SVC_WALLET_AMNESIA=true", "SVC_WALLET_XDS_ADDR=" + addr, "SVC_WALLET_XDS_PROTOCOL=" + protocol,
			fmt.Sprintf("SVC_WALLET_XDS_NODE_ID=wallet-%d", i),
		}})
		if err != nil {
			f.stop()
			return nil, err
		}
		live := new(config.Live)
		client, err := xds.New(cfg, xds.Targets{
			Stack:     config.NewStack(cfg, live),
			Endpoints: func([]string) error { return nil },
		}, xds.Options{Now: now, Log: log, Version: "bench", Hostname: "bench"})
		if err != nil {
			f.stop()
			return nil, err
		}
		f.lives = append(f.lives, live)
		f.ended.Go(func() { _ = client.Run(ctx) })
	}
	return f, nil
}

func (f *fleet) stop() {
	f.cancel()
	f.ended.Wait()
}

// enforced waits until every sidecar has the amount as its cap, and returns how long after begin
// each had it. It looks every millisecond, which is how exact the figures are: to look more often would
// take the processor from those who are looked at.
func (f *fleet) enforced(ctx context.Context, amount uint64, begin time.Time) ([]time.Duration, error) {
	want := wallet.Minor(amount)
	waiting := slices.Clone(f.lives)
	var delays []time.Duration
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(waiting) > 0 {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%d sidecars do not have the cap %d: %w", len(waiting), amount, ctx.Err())
		case <-tick.C:
		}
		since := time.Since(begin)
		waiting = slices.DeleteFunc(waiting, func(l *config.Live) bool {
			if l.Load().MaxAmountPerOp != want {
				return false
			}
			delays = append(delays, since)
			return true
		})
	}
	return delays, nil
}

// plane is the control plane's process.
type plane struct {
	cmd       *exec.Cmd
	addr, api string
}

func startPlane(ctx context.Context, binary, dir string) (*plane, error) {
	limits := filepath.Join(dir, "limits.d")
	if err := os.Mkdir(limits, 0o700); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binding does not block
	if err != nil {
		return nil, err
	}
	p := &plane{addr: "unix:" + filepath.Join(dir, "x.sock"), api: ln.Addr().String()}
	if err := ln.Close(); err != nil {
		return nil, err
	}
	p.cmd = exec.CommandContext(ctx, binary, "control", "--limits", limits, "--allow-empty", "--listen", p.addr, "--api", p.api, "--log-level", "error") //nolint:gosec // the person who runs it names it
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for ctx.Err() == nil {
		resp, err := http.Get("http://" + p.api + "/healthz") //nolint:noctx // bounded by the loop
		if err == nil {
			return p, resp.Body.Close()
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil, errors.Join(ctx.Err(), p.cmd.Process.Kill())
}

func (p *plane) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt)
	_ = p.cmd.Wait()
}

func (p *plane) put(ctx context.Context, amount uint64) error {
	body := strings.NewReader(fmt.Sprintf(`{"max_amount_per_op":"%d"}`, amount))
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+p.api+"/limits/default", body)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	said, err := io.ReadAll(resp.Body)
	if err := cmp.Or(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("PUT: %s: %s", resp.Status, said)
	}
	return nil
}

// rss is the resident memory of the control plane, in bytes.
func (p *plane) rss() (int64, error) {
	fields, err := p.proc("statm")
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// cpu is the processor time of the control plane, to a hundredth of a second (proc(5): utime and
// stime, in clock ticks, of which Linux has 100 a second).
func (p *plane) cpu() (time.Duration, error) {
	fields, err := p.proc("stat")
	if err != nil {
		return 0, err
	}
	user, err := strconv.ParseInt(fields[13], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[14], 10, 64)
	return time.Duration(user+system) * (time.Second / 100), err
}

func (p *plane) proc(file string) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
	return strings.Fields(string(data)), err
}
