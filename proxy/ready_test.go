package proxy_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"svc-wallet/config"
)

// turn is a line of the log that says that readiness has turned.
type turn struct {
	Event, Level, Missing, Reason string
	Unsaid                        int `json:"unsaid_turns"`
}

// turns are those that the log holds.
func (r *rig) turns() (all []turn) {
	r.t.Helper()
	for line := range strings.Lines(r.logged.String()) {
		var one turn
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			r.t.Fatalf("%q: %v", line, err)
		}
		if one.Event == "ready" || one.Event == "unready" {
			all = append(all, one)
		}
	}
	return all
}

// Goal: every turn of readiness is one line, which names what is missing, and why the ledger takes no
// payments where that is it. Method: no limits, a full queue, both, none of it, the node's end;
// what the lines say is held against what /readyz says.
func TestTurnsOfReadinessAreLogged(t *testing.T) {
	r := newRig(t, rigOptions{})
	mark := 0
	await := func(what string) turn {
		t.Helper()
		var found turn
		r.eventually("a line of what is missing: "+what, func() bool {
			all := r.turns()
			for i, one := range all[mark:] {
				if one.Missing == what {
					mark, found = mark+i+1, one
					return true
				}
			}
			return false
		})
		return found
	}
	await("")
	for _, step := range []struct {
		missing string
		limits  func(*config.Limits)
	}{
		{"policy_ready", func(l *config.Limits) { l.InFlight = 0 }},
		{"queue_ok", func(l *config.Limits) { l.Queue = 0 }},
		{"policy_ready queue_ok", func(l *config.Limits) { l.InFlight, l.Queue = 0, 0 }},
		{"", func(*config.Limits) {}},
	} {
		r.limit(step.limits)
		await(step.missing)
	}
	r.node()
	gone := await("ledger_ready")
	var told struct{ Reason string }
	r.eventually("readyz tells the same", func() bool {
		_, body := r.adminGet("/readyz")
		return json.Unmarshal([]byte(body), &told) == nil && told.Reason != ""
	})
	if !strings.Contains(gone.Reason+told.Reason, "connect") {
		t.Errorf("the cause is %q in the log, %q in /readyz", gone.Reason, told.Reason)
	}

	said := "nothing"
	for i, one := range r.turns() {
		if one.Missing == said || (one.Missing == "") != (one.Event == "ready") || (one.Event == "ready") != (one.Level == "info") {
			t.Errorf("line %d is no turn: %+v after %q", i, one, said)
		}
		if (one.Reason != "") != strings.Contains(one.Missing, "ledger_ready") {
			t.Errorf("line %d: the cause of %q is %q", i, one.Missing, one.Reason)
		}
		said = one.Missing
	}
}

// Goal: what is missing while a sidecar starts is no warning, and becomes one, once, where it stays missing.
// Method: no root keys, and time goes on by ten seconds.
func TestStartIsNoWarning(t *testing.T) {
	r := newRig(t, rigOptions{noKeys: true, shut: true})
	says := func(line string) func() bool {
		return func() bool { return strings.Contains(r.logged.String(), line) }
	}
	r.eventually("it says that it starts", says(`"event":"starting","level":"info"`))
	if all := r.turns(); len(all) > 0 {
		t.Errorf("turns while it starts: %+v", all)
	}
	r.clock.ahead.Add(int64(10 * time.Second))
	r.eventually("it says that it should be up", func() bool { return len(r.turns()) > 0 })
	r.clock.ahead.Add(int64(10 * time.Second))
	if all := r.turns(); len(all) != 1 || all[0].Level != "warning" || all[0].Missing != "auth_ready" {
		t.Errorf("turns: %+v", all)
	}
}

// Goal: readiness that flickers does not fill the log: ten lines in ten seconds, and the next one says
// how many turns were left out. Method: limits come and go, and time goes on in steps of ten seconds.
func TestTurnsOfReadinessAreBounded(t *testing.T) {
	r := newRig(t, rigOptions{})
	flips, first := 0, -1
	r.eventually("turns are left out", func() bool {
		flips++
		r.limit(func(l *config.Limits) { l.InFlight *= flips % 2 })
		r.server.Turned()
		if flips%100 == 0 {
			r.clock.ahead.Add(int64(10 * time.Second))
		}
		for i, one := range r.turns() {
			if one.Unsaid > 0 {
				first = i
				return true
			}
		}
		return false
	})
	if first < 10 {
		t.Errorf("after %d lines turns were left out", first)
	}
	r.limit(func(*config.Limits) {})
}
