package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// against holds a result against a stored one, by the gates of the contract. Machines are noisy even from one
// hour to the next, so a baseline is history, and fails a run only where it is of a machine like this one.
func (r *Result) against(path string) error {
	text, err := os.ReadFile(path) //nolint:gosec // the file that the caller names
	if err != nil {
		return err
	}
	var old Result
	if err := json.Unmarshal(text, &old); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if old.Scenario != r.Scenario || old.Rate != r.Rate || len(old.Phases) != len(r.Phases) {
		return fmt.Errorf("%s is of %s at %g/s, this run of %s at %g/s", path, old.Scenario, old.Rate, r.Scenario, r.Rate)
	}
	fmt.Printf("\nagainst %s of %s\n", path, old.At)
	var worse []error
	for i := range r.Phases {
		for _, g := range gates(&old.Phases[i], &r.Phases[i]) {
			verdict := ""
			if g.worse {
				verdict = "  worse than the gate allows"
				worse = append(worse, fmt.Errorf("%s: %s", r.Phases[i].Name, g.text))
			}
			fmt.Printf("  %s: %s%s\n", r.Phases[i].Name, g.text, verdict)
		}
	}
	if len(worse) > 0 && old.Machine != r.Machine {
		fmt.Println("the baseline is of another machine, so this fails nothing")
		return nil
	}
	return errors.Join(worse...)
}

// gated is a figure that a gate looks at.
type gated struct {
	text  string
	worse bool
}

// gates are the contract's: p95 at most 10 % up, answers a second at most 10 % down, CPU and RSS at most 15 % up,
// and at most half a point more that is shed.
func gates(old, now *phaseResult) []gated {
	ratio := func(name string, was, is, least, most float64) gated {
		if was == 0 {
			return gated{name + ": nothing to compare", false}
		}
		return gated{fmt.Sprintf("%s %.3g → %.3g, × %.3f", name, was, is, is/was), is/was < least || is/was > most}
	}
	const none = 1e9
	return []gated{
		ratio("GET p95 ms", old.Reads.P95, now.Reads.P95, 0, 1.1),
		ratio("POST p95 ms", old.Payments.P95, now.Payments.P95, 0, 1.1),
		ratio("answers a second", old.Goodput, now.Goodput, .9, none),
		ratio("CPU µs a request", old.SidecarMicros+old.NodeMicros, now.SidecarMicros+now.NodeMicros, 0, 1.15),
		ratio("RSS", float64(old.SidecarRSS+old.NodeRSS), float64(now.SidecarRSS+now.NodeRSS), 0, 1.15),
		{fmt.Sprintf("shed %.3f %% → %.3f %%", old.Shed*100, now.Shed*100), now.Shed-old.Shed > .005},
	}
}
