package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"svc-wallet/bench/rig"
)

const (
	window  = 200 * time.Millisecond // in which a stopped node must be noticed, where there is a CPU
	noMore  = time.Second            // nothing excuses more of silence than this
	lookAt  = 2 * time.Millisecond   // between looks at readiness
	lookFor = time.Minute            // for a turn of it
)

// starvation is what happened to one build: with a healthy node, and then with one that was stopped.
type starvation struct {
	answers, refused, other int // of payments; refused is 503 RETRY_LATER
	turns                   int // of readiness, from ready to not
	quiet, starved          []notice
}

// notice is how long it took until a stopped node showed in readiness, and how much of that the
// sidecar's threads waited for a CPU: at most, since several may have waited at once.
type notice struct{ took, waited time.Duration }

// lawful says that it was within the rule (docs/decisions/025): a tick that comes late by some time is
// worth less by as much, so lateness counts twice; and after a second it counts no more.
func (n notice) lawful() bool { return n.took <= min(window+2*n.waited, noMore+n.waited) }

// starve runs both builds in turn at full load beside burners busy processes. Nothing is wrong with the
// node, so no payment should be refused and readiness should not turn. Then it is stopped, which should
// be noticed. Run all of it on one CPU.
func starve(ctx context.Context, builds [2]string, rounds int, span time.Duration, clients, burners int) error {
	fmt.Printf("GOMAXPROCS %d, %s, %d connections, %d busy processes, %d rounds of %s\n",
		runtime.GOMAXPROCS(0), runtime.Version(), clients, burners, rounds, span)
	var all [2]starvation
	for round := range rounds {
		for turn := range builds {
			b := (round + turn) % 2
			if err := all[b].measure(ctx, builds[b], span, clients, burners); err != nil {
				return fmt.Errorf("%s: %w", builds[b], err)
			}
		}
	}
	for b, name := range [...]string{"before", "after"} {
		s := &all[b]
		fmt.Printf("\n%s: %d answers, %d of them RETRY_LATER, %d others that are not 200; readiness turned %d times\n", name, s.answers, s.refused, s.other, s.turns)
		tell("  a stopped node, noticed on a quiet CPU:", s.quiet)
		tell("  a stopped node, noticed at full load:  ", s.starved)
	}
	return nil
}

func tell(what string, all []notice) {
	slices.SortFunc(all, func(a, b notice) int { return int(a.took - b.took) })
	lawful := 0
	for _, n := range all {
		if n.lawful() {
			lawful++
		}
	}
	middle, last := all[len(all)/2], all[len(all)-1]
	fmt.Printf("%s median %v (%v without a CPU), at most %v (%v); %d of %d by the rule\n", what,
		middle.took.Round(time.Millisecond), middle.waited.Round(time.Millisecond),
		last.took.Round(time.Millisecond), last.waited.Round(time.Millisecond), lawful, len(all))
}

// measure starts the program afresh.
func (s *starvation) measure(ctx context.Context, binary string, span time.Duration, clients, burners int) (err error) {
	r, err := rig.Start(ctx, binary, unlimited...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	conns := make([]*client, clients)
	for i := range conns {
		if conns[i], err = dial(ctx, r, i); err != nil {
			return err
		}
		defer conns[i].conn.Close() //nolint:errcheck // nothing is under way
		if err := conns[i].fundPatiently(r.Token); err != nil {
			return err
		}
	}
	n, err := stopNode(ctx, r)
	if err != nil {
		return err
	}
	s.quiet = append(s.quiet, n)
	quench, err := burn(burners, span+lookFor)
	defer quench()
	if err != nil {
		return err
	}
	return s.load(ctx, r, conns, span)
}

// load has all clients pay for span, and then stops the node under them.
func (s *starvation) load(ctx context.Context, r *rig.Rig, conns []*client, span time.Duration) error {
	var counting, stopped atomic.Bool
	var count sync.Mutex // of s
	errs := make([]error, len(conns))
	var running sync.WaitGroup
	for i, c := range conns {
		running.Go(func() {
			for n := 1; !stopped.Load() && errs[i] == nil; {
				status, body, err := c.ask(works[1].request(r.Token, i, n))
				if errs[i] = err; status == http.StatusOK {
					n++
				}
				if counting.Load() && err == nil {
					count.Lock()
					s.add(status, body)
					count.Unlock()
				}
			}
		})
	}
	counting.Store(true)
	turns, err := watch(ctx, r, span)
	counting.Store(false)
	s.turns += turns
	if err == nil {
		var n notice
		n, err = stopNode(ctx, r)
		s.starved = append(s.starved, n)
	}
	stopped.Store(true)
	running.Wait()
	return errors.Join(append(errs, err)...)
}

func (s *starvation) add(status int, body []byte) {
	switch s.answers++; {
	case status == http.StatusOK:
	case bytes.Contains(body, []byte(`"RETRY_LATER"`)):
		s.refused++
	default:
		s.other++
	}
}

// fundPatiently is fund on a machine where the ledger may look stalled meanwhile.
func (c *client) fundPatiently(token string) (err error) {
	for begun := time.Now(); time.Since(begun) < lookFor; time.Sleep(lookAt) {
		if err = c.fund(token); err == nil {
			return nil
		}
	}
	return err
}

// watch counts turns of readiness from ready to not.
func watch(ctx context.Context, r *rig.Rig, span time.Duration) (turns int, err error) {
	last := http.StatusOK
	for begun := time.Now(); time.Since(begun) < span; time.Sleep(lookAt) {
		now, err := readiness(ctx, r)
		if err != nil {
			return turns, err
		}
		if now != last && last == http.StatusOK {
			turns++
		}
		last = now
	}
	return turns, nil
}

// stopNode stops the node of a sidecar that is ready until the sidecar has noticed.
func stopNode(ctx context.Context, r *rig.Rig) (n notice, err error) {
	if err := until(ctx, r, http.StatusOK); err != nil {
		return n, err
	}
	before, err := r.Sidecar.Waited()
	if err != nil {
		return n, err
	}
	begun := time.Now()
	if err := r.Node.Signal(syscall.SIGSTOP); err != nil {
		return n, err
	}
	err = until(ctx, r, http.StatusServiceUnavailable)
	n.took = time.Since(begun)
	after, err2 := r.Sidecar.Waited()
	n.waited = min(n.took, max(0, after-before))
	err3 := r.Node.Signal(syscall.SIGCONT)
	return n, errors.Join(err, err2, err3, until(ctx, r, http.StatusOK))
}

func until(ctx context.Context, r *rig.Rig, status int) error {
	for begun := time.Now(); time.Since(begun) < lookFor; time.Sleep(lookAt) {
		if now, err := readiness(ctx, r); err != nil || now == status {
			return err
		}
	}
	return fmt.Errorf("readiness is not %d within %v", status, lookFor)
}

func readiness(ctx context.Context, r *rig.Rig) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.AdminAddr+"/readyz", nil)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, errors.Join(err, res.Body.Close())
}

// burn starts busy processes, which end by themselves after most, or by quench.
func burn(burners int, most time.Duration) (quench func(), err error) {
	var all []*exec.Cmd
	quench = func() {
		for _, cmd := range all {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	self, err := os.Executable()
	for range burners {
		if err != nil {
			break
		}
		cmd := exec.Command(self, "-burn", strconv.FormatInt(most.Milliseconds(), 10)+"ms") //nolint:gosec,noctx // this program; quench ends it
		if err = cmd.Start(); err == nil {
			all = append(all, cmd)
		}
	}
	return quench, err
}

// busy is what a burner does.
func busy(span time.Duration) {
	for begun := time.Now(); time.Since(begun) < span; {
	}
}
