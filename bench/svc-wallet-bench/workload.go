package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// kind is a kind of request.
type kind uint8

const (
	balance kind = iota
	tx
	transfer
	issue
	burn
	replay    // a payment again, under its own key
	gzipped   // a transfer whose compressed body is near the ratio cap
	oversized // a body over the size cap
	numKinds
)

// String is the kind's name in a mix and in results.
func (k kind) String() string {
	return [numKinds]string{"balance", "tx", "transfer", "issue", "burn", "replay", "gzip", "oversized"}[k]
}

func (k kind) isRead() bool { return k <= tx }

// mix is how often each kind comes, relative to the others.
type mix [numKinds]float64

// pick takes a kind at random.
func (m *mix) pick() kind {
	sum := 0.0
	for _, share := range m {
		sum += share
	}
	at := rand.Float64() * sum //nolint:gosec // a workload
	for k, share := range m {
		if at -= share; at < 0 {
			return kind(k)
		}
	}
	return balance
}

// parseMix reads shares such as balance=90,tx=5,transfer=5.
func parseMix(text string) (m mix, err error) {
	for part := range strings.SplitSeq(text, ",") {
		name, share, _ := strings.Cut(part, "=")
		at := slices.IndexFunc(slices.Collect(kinds), func(k kind) bool { return k.String() == name })
		if at < 0 {
			return m, fmt.Errorf("mix: there is no kind %q", name)
		}
		if m[at], err = strconv.ParseFloat(share, 64); err != nil || math.IsNaN(m[at]) || m[at] <= 0 || m[at] > 1e6 {
			return m, fmt.Errorf("mix: %q is no share", share)
		}
	}
	return m, nil
}

func kinds(yield func(kind) bool) {
	for k := range numKinds {
		if !yield(k) {
			return
		}
	}
}

// phase is a part of a scenario.
type phase struct {
	name   string
	mix    mix
	factor float64 // of the rate
	share  float64 // of the duration
	crowd  int     // times the connections
	closed bool    // as fast as the answers come, instead of at a rate
}

// gateScenario is what builds are compared by: latency where there is room, then all that goes through.
const gateScenario = "gate"

// scenarios are the canonical workloads of the contract (docs/performance.md), and the gate's.
func scenarios() map[string][]phase {
	write := mix{balance: 65, tx: 5, transfer: 20, issue: 5, burn: 5}
	replays := write
	replays[replay] = 1
	hostile := write
	hostile[transfer], hostile[gzipped], hostile[oversized] = 10, 10, 1
	return map[string][]phase{
		"read_heavy":            {{"read_heavy", mix{balance: 95, tx: 5}, 1, 1, 1, false}},
		"write_mix":             {{"write_mix", write, 1, 1, 1, false}},
		"replay_backpressure":   {{"write_mix", write, 1, .3, 1, false}, {"replays", replays, 1, .3, 1, false}, {"overload", replays, 10, .4, 8, false}},
		"adversarial_transport": {{"adversarial_transport", hostile, 1, 1, 1, false}},
		gateScenario:            {{"at_rate", write, 1, .5, 1, false}, {"full_load", write, 1, .5, 1, true}},
	}
}

func scenarioNames() []string { return slices.Sorted(maps.Keys(scenarios())) }

// phases are those of the options' scenario, or of its mix.
func (o *options) phases() ([]phase, error) {
	if math.IsNaN(o.rate) || o.rate <= 0 || o.connections < 1 || o.duration <= 0 {
		return nil, errors.New("rate, connections and duration are positive")
	}
	if o.mix != "" {
		m, err := parseMix(o.mix)
		if err != nil {
			return nil, err
		}
		return enough(o, []phase{{"mix", m, 1, 1, 1, o.closed}})
	}
	phases := scenarios()[o.scenario]
	if phases == nil {
		return nil, fmt.Errorf("there is no scenario %q: %s", o.scenario, strings.Join(scenarioNames(), ", "))
	}
	for i := range phases {
		phases[i].closed = phases[i].closed || o.closed
	}
	return enough(o, phases)
}

// enough refuses a run with so few accounts that its payments would wait for one another.
func enough(o *options, phases []phase) ([]phase, error) {
	for _, p := range phases {
		if need := 2 * o.connections * p.crowd; o.accounts < need {
			return nil, fmt.Errorf("%d accounts are too few for %d connections in %s: at least %d", o.accounts, o.connections*p.crowd, p.name, need)
		}
	}
	return phases, nil
}
