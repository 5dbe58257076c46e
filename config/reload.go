package config

import (
	"fmt"
	"sync"
)

// Reloader reads the configuration again while the sidecar runs. What is wrong changes nothing:
// the last good configuration stays in force.
type Reloader struct {
	from  Sources
	apply func(*Config) error

	mu    sync.Mutex // one reload at a time
	force *Config    // in force
}

// NewReloader reloads from where inForce was loaded from. apply puts a new configuration in
// force, all of it, or none of it where it returns an error (a certificate that does not load,
// say). It has the new value of every key that may change, and the old one of the others.
func NewReloader(from Sources, inForce *Config, apply func(*Config) error) *Reloader {
	return &Reloader{from: from, force: inForce, apply: apply}
}

// Reload loads and applies. ignored names the keys that were changed but wait for a restart. The
// error is Faults, or what apply said.
func (r *Reloader) Reload() (ignored []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next, err := Load(r.from)
	if err != nil {
		return nil, err
	}
	ignored = next.keep(r.force)
	if faults := next.conflicts(nil); len(faults) > 0 {
		// Good by itself, but not together with what waits for a restart.
		return ignored, faults
	}
	if err := r.apply(next); err != nil {
		return ignored, fmt.Errorf("apply the configuration: %w", err)
	}
	r.force = next
	return ignored, nil
}

// keep takes back the changes that need a restart, and names them.
func (c *Config) keep(old *Config) (ignored []string) {
	for i := range table().rows {
		s := &table().rows[i]
		if s.effect != atRestart || c.text(s.key) == old.text(s.key) {
			continue
		}
		s.put(c, s.get(old))
		c.sources[s.key] = old.source(s.key)
		ignored = append(ignored, s.key)
	}
	return ignored
}
