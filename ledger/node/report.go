package node

import (
	"fmt"
	"slices"
)

// Report is what a check of a whole store found. It is sound where Faults is 0.
type Report struct {
	Ledger       string   `json:"ledger"`
	First        uint64   `json:"first_payment"` // of those that are kept
	Last         uint64   `json:"last_payment"`
	Payments     uint64   `json:"payments_read"`
	JournalBytes int64    `json:"journal_bytes"`
	StateRows    uint64   `json:"state_rows"`
	Faults       uint64   `json:"faults"`
	Unread       uint64   `json:"payments_unread"` // lie where the journal is damaged
	Told         []string `json:"fault_list"`      // the first of each kind, each with its place, and how many more
	Unjudged     []string `json:"not_judged"`      // what could not be judged because of faults, and is none itself

	kinds []alike
}

// alike are the faults of one kind.
type alike struct {
	format, first string
	n             uint64
}

// fault counts a fault. Those with one format are of one kind.
func (r *Report) fault(format string, args ...any) {
	r.Faults++
	i := slices.IndexFunc(r.kinds, func(k alike) bool { return k.format == format })
	if i < 0 {
		i = len(r.kinds)
		r.kinds = append(r.kinds, alike{format, fmt.Sprintf(format, args...), 0})
	}
	if r.kinds[i].n++; r.kinds[i].n <= maxAlike {
		r.Told = append(r.Told, fmt.Sprintf(format, args...))
	}
}

// sumUp tells of the faults that were only counted.
func (r *Report) sumUp() {
	for _, k := range r.kinds {
		if k.n > maxAlike {
			r.Told = append(r.Told, fmt.Sprintf("%d more like: %s", k.n-maxAlike, k.first))
		}
	}
}

func (r *Report) unjudged(format string, args ...any) {
	r.Unjudged = append(r.Unjudged, fmt.Sprintf(format, args...))
}
