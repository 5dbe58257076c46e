package config

import (
	"sync"
	"time"
)

// Layer is one of the places that pushed settings come from. A later one wins, field by field.
type Layer uint8

// The layers over the static configuration.
const (
	LayerCluster Layer = iota // CDS: what the ledger's cluster says of queue, time-outs and breaker
	LayerLimits               // ECDS: svc-wallet.limits
	LayerRuntime              // RTDS: single knobs and kill switches
	numLayers
)

// Origin says where a pushed layer is from.
type Origin struct {
	Resource string // such as "limits svc-wallet.limits"
	Version  string // the resource's, as the control plane names it
	At       int64  // when it came, Unix nanoseconds
	Disk     bool   // it was read from the last good file, and the control plane has said nothing yet
}

// String is the source of the settings, as Effective and faults name it.
func (o Origin) String() string {
	switch {
	case o.Resource == "":
		return "push" // that has not come from anywhere yet
	case o.Disk:
		return "last good " + o.Resource
	default:
		return "xds " + o.Resource
	}
}

// Stack is what is in force and why: the static configuration with the pushed layers over it. It is the
// one writer of Live.
//
// A layer that is taken away uncovers what is below it, so removal falls back to the static
// configuration and never to no limit at all. Nor is it ever refused: each layer is held against
// the static configuration by itself, so nothing unfit waits below another (decision 015).
type Stack struct {
	live *Live

	mu     sync.Mutex
	static *Config
	layers [numLayers]pushed
}

type pushed struct {
	patch *Patch // nil: there is none
	from  Origin
	fits  *Config // the static configuration that it was last found fit for
}

// NewStack puts the static configuration in force.
func NewStack(static *Config, live *Live) *Stack {
	live.Store(static.Limits())
	return &Stack{live: live, static: static}
}

// Config is the static configuration below the layers. What Set says of a push depends on nothing
// else.
func (s *Stack) Config() *Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.static
}

// Effective lists every setting as it is in force, in the order of docs/configuration.md.
func (s *Stack) Effective() []Effective {
	s.mu.Lock()
	static, layers := s.static, s.layers
	s.mu.Unlock()
	all := static.Effective()
	for _, l := range layers {
		for i := range all {
			if l.patch == nil {
				break
			}
			key := all[i].Key
			if _, there := l.patch.said[key]; there {
				all[i] = Effective{key, l.patch.said.text(key), l.from.String(), l.from.Version, when(l.from.At)}
			}
		}
	}
	return all
}

// Set puts a layer in force, or takes it away where p is nil. The error is Faults, and then all
// stays as it was.
func (s *Stack) Set(l Layer, p *Patch, from Origin) error {
	return s.SetWith(l, p, from, func() error { return nil })
}

// SetWith is Set of what must come together with something else, which also puts in force once p is
// known to fit: where it fails all stays as it was, and its error is the answer. also must not use s.
func (s *Stack) SetWith(l Layer, p *Patch, from Origin, also func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.adopt(s.static, s.with(l, pushed{patch: p, from: from}), also)
}

// Rebase puts another static configuration below the layers.
func (s *Stack) Rebase(static *Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.adopt(static, s.layers, func() error { return nil })
}

func (s *Stack) with(l Layer, p pushed) [numLayers]pushed {
	layers := s.layers
	layers[l] = p
	return layers
}

func (s *Stack) adopt(static *Config, layers [numLayers]pushed, also func() error) error {
	layers, err := fit(static, layers)
	if err == nil {
		err = also()
	}
	if err != nil {
		return err
	}
	s.static, s.layers = static, layers
	s.live.Store(static.under(layers[:]...))
	return nil
}

// fit holds each layer against static by itself, and notes where it fits.
func fit(static *Config, layers [numLayers]pushed) ([numLayers]pushed, error) {
	var faults Faults
	for i := range layers {
		if l := &layers[i]; l.patch != nil && l.fits != static {
			faults = append(faults, l.patch.unfit(static, l.from)...)
			l.fits = static
		}
	}
	if len(faults) > 0 {
		return layers, faults
	}
	return layers, nil
}

// under are c's limits with layers over them, lowest first. Each field is the topmost layer's that speaks
// of it.
func (c *Config) under(layers ...pushed) *Limits {
	next := *c
	for _, l := range layers {
		if l.patch == nil {
			continue
		}
		for key, v := range l.patch.said {
			table().byKey[key].put(&next, v)
		}
	}
	next.resolveShadow()
	return &next.limits
}

// when is a time as /config shows it.
func when(nanos int64) string {
	if nanos == 0 {
		return ""
	}
	return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano)
}
