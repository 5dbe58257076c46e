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
	for _, c := range criteria() {
		times, verdict := c.worse(&old, r), ""
		if times > c.most {
			verdict = ", more than the gate allows"
			worse = append(worse, fmt.Errorf("%s: worse by × %.3f", c.name, times))
		}
		fmt.Printf("  %s: %.4g → %.4g, worse by × %.3f%s\n", c.name, c.of(&old), c.of(r), times, verdict)
	}
	if more := r.Phases[0].Shed - old.Phases[0].Shed; more > mostShed {
		worse = append(worse, fmt.Errorf("shed: %.3f %% → %.3f %%", old.Phases[0].Shed*100, r.Phases[0].Shed*100))
	}
	if len(worse) > 0 && old.Machine != r.Machine {
		fmt.Println("the baseline is of another machine, so this fails nothing")
		return nil
	}
	return errors.Join(worse...)
}
