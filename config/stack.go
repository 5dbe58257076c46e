package config

import (
	"maps"
	"sync"
	"sync/atomic"
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

// Stack is the static configuration with the pushed layers over it. It is the one writer of Live.
//
// A layer that is taken away uncovers what is below it, so removal falls back to the static
// configuration and never to no limit at all. Nor is it ever refused: each layer is held against
// the static configuration by itself, so nothing unfit waits below another (decision 015).
type Stack struct {
	live  *Live
	force atomic.Pointer[Config]

	mu     sync.Mutex
	static *Config
	layers [numLayers]pushed
}

type pushed struct {
	push *Push // nil: there is none
	from Origin
	fits *Config // the static configuration that it was last found fit for
}

// NewStack puts the static configuration in force.
func NewStack(static *Config, live *Live) *Stack {
	s := &Stack{live: live, static: static}
	s.force.Store(static)
	live.Store(static.Limits())
	return s
}

// Config is what is in force; its Effective tells each setting's source.
func (s *Stack) Config() *Config { return s.force.Load() }

// Admit says whether Set would refuse p under the present configuration. It changes nothing.
func (s *Stack) Admit(l Layer, p *Push) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	layers := s.with(l, pushed{push: p})
	_, err := merge(s.static, &layers)
	return err
}

// Set puts a layer in force, or takes it away where p is nil. The error is Faults, and then all
// stays as it was.
func (s *Stack) Set(l Layer, p *Push, from Origin) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	layers := s.with(l, pushed{push: p, from: from})
	next, err := merge(s.static, &layers)
	if err != nil {
		return err
	}
	s.layers = layers
	s.adopt(next)
	return nil
}

// Rebase puts another static configuration below the layers.
func (s *Stack) Rebase(static *Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	layers := s.layers
	next, err := merge(static, &layers)
	if err != nil {
		return err
	}
	s.static, s.layers = static, layers
	s.adopt(next)
	return nil
}

func (s *Stack) adopt(next *Config) {
	s.force.Store(next)
	s.live.Store(next.Limits())
}

func (s *Stack) with(l Layer, p pushed) [numLayers]pushed {
	layers := s.layers
	layers[l] = p
	return layers
}

// merge lays the layers over static. Each field is the topmost layer's that speaks of it. Any of
// them may be over a ceiling, which is looked for in each by itself, and noted in it where it is not.
func merge(static *Config, layers *[numLayers]pushed) (*Config, error) {
	var faults Faults
	var alone *Config // one layer over static, where there is no other
	pushes := 0
	for i := range layers {
		l := &layers[i]
		if l.push == nil {
			continue
		}
		pushes++
		if l.fits == static {
			continue
		}
		one := static.under(*l)
		unfit := one.broken(one.limitRules(), nil)
		if faults = append(faults, unfit...); len(unfit) == 0 {
			l.fits, alone = static, one
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	if pushes == 1 && alone != nil {
		return alone, nil
	}
	return static.under(layers[:]...), nil
}

// under is c with layers over it, lowest first.
func (c *Config) under(layers ...pushed) *Config {
	next := *c
	next.sources, next.origins = maps.Clone(c.sources), map[string]Origin{}
	for _, l := range layers {
		if l.push != nil {
			next.takePush(l.push, l.from)
		}
	}
	next.resolveShadow()
	return &next
}

// when is a time as /config shows it.
func when(nanos int64) string {
	if nanos == 0 {
		return ""
	}
	return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano)
}
