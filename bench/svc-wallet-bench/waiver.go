package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// waiver lets one figure be worse than its gate allows, for a while and for a reason.
type waiver struct {
	Figure  string  `json:"figure"`
	Most    float64 `json:"most"`    // times worse
	Cause   string  `json:"cause"`   // the root cause, and what will mend it
	Given   string  `json:"given"`   // YYYY-MM-DD
	Expires string  `json:"expires"` // YYYY-MM-DD, the last day on which it holds

	from, until time.Time
}

const (
	leastCause = 40                  // characters that say why
	mostTerm   = 92 * 24 * time.Hour // a quarter
)

// readWaivers reads the file and returns those that hold now. There is one a quarter at most. No file is no
// waiver.
func readWaivers(path string, now time.Time) (in []waiver, err error) {
	text, err := os.ReadFile(path) //nolint:gosec // the file that the caller names
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []waiver
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	quarters := map[string]bool{}
	for i := range all {
		w := &all[i]
		if err := w.check(); err != nil {
			return nil, fmt.Errorf("%s, waiver %d: %w", path, i+1, err)
		}
		quarter := fmt.Sprintf("%d/%d", w.from.Year(), (w.from.Month()-1)/3)
		if quarters[quarter] {
			return nil, fmt.Errorf("%s, waiver %d: there is another one of the same quarter", path, i+1)
		}
		quarters[quarter] = true
		if !now.Before(w.from) && now.Before(w.until) {
			in = append(in, *w)
		}
	}
	return in, nil
}

func (w *waiver) check() (err error) {
	var err2 error
	w.from, err = time.Parse(time.DateOnly, w.Given)
	w.until, err2 = time.Parse(time.DateOnly, w.Expires)
	w.until = w.until.AddDate(0, 0, 1)
	known := w.Figure == "shed"
	for _, f := range criteria() {
		known = known || f.name == w.Figure
	}
	switch {
	case err != nil || err2 != nil:
		return errors.Join(err, err2)
	case !known:
		return fmt.Errorf("there is no figure %q", w.Figure)
	case len(w.Cause) < leastCause:
		return errors.New("the cause says too little: what is the root cause, and what will mend it?")
	case !w.until.After(w.from) || w.until.Sub(w.from) > mostTerm:
		return errors.New("it expires after it was given, within a quarter")
	}
	return nil
}

// waived says that a figure may be so many times worse.
func waived(waivers []waiver, figure string, times float64) bool {
	for i := range waivers {
		if waivers[i].Figure == figure && times <= waivers[i].Most {
			return true
		}
	}
	return false
}
