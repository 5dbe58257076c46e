package xds

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"svc-wallet/config"
	"svc-wallet/host"
)

// anyType is a type of resource that a client has subscribed to, whatever its values are. Client.mu
// is held at each call.
type anyType interface {
	state() *typeState
	read(r *response, now int64) (*change, error)
	without(names []string) *change
	restored(items []lastItem, now int64) (*change, error)
	items() ([]lastItem, error)
}

// typed is a type of resource with the values that are in force.
type typed[T any] struct {
	typeState
	rt     resourceType[T]
	values map[string]T
	// put puts a whole set in force, or returns why not and has changed nothing.
	put func(next set[T]) error
}

// set are the resources of a type and their values, by name.
type set[T any] struct {
	held   map[string]*resource
	values map[string]T
}

func newTyped[T any](t resourceType[T], names func() []string, put func(set[T]) error) *typed[T] {
	return &typed[T]{typeState: newTypeState(t.typeInfo, names), rt: t, values: map[string]T{}, put: put}
}

func (t *typed[T]) state() *typeState { return &t.typeState }

// present is a copy of what is in force.
func (t *typed[T]) present() set[T] { return set[T]{maps.Clone(t.held), maps.Clone(t.values)} }

func (s set[T]) drop(name string) {
	delete(s.held, name)
	delete(s.values, name)
}

// change is what would become of a type.
type change struct {
	apply      func() error // puts it in force; an error is why not, and nothing has changed
	sent       []string     // names that are for us and that the response brings
	removed    []string     // that were in force
	stale      []string     // said to live on, and not in force
	heartbeat  bool         // there is nothing in it but that resources live on
	rolledBack bool
	unexpected int // resources that nobody asked for
}

// applying is the change to next.
func (t *typed[T]) applying(ch *change, next set[T]) *change {
	for name := range t.held {
		if next.held[name] == nil {
			ch.removed = append(ch.removed, name)
		}
	}
	slices.Sort(ch.removed)
	ch.apply = func() error {
		if err := t.put(next); err != nil {
			var own config.Faults
			if errors.As(err, &own) && len(next.held) > 0 { // the stack names the key, and not yet the resource
				return fault(t.culprit(next.held), err)
			}
			return err
		}
		t.hold(next.held)
		t.values = next.values
		return nil
	}
	return ch
}

// culprit names the resource, or the resources, of which the stack takes one push.
func (t *typeState) culprit(next map[string]*resource) string {
	name := ""
	for _, n := range t.names() {
		if next[n] != nil && (name == "" || !t.wildcard) {
			name = n // of several layers the last one is on top
		}
	}
	return cmp.Or(name, t.name)
}

// maxTTL bounds a lifetime, so that its end is a time.
const maxTTL = int64(100 * 365 * 24 * time.Hour)

// maxFaults bounds the faults that are gathered of one response.
const maxFaults = 100

// read decodes and checks a response. The error has a line for each fault.
func (t *typed[T]) read(r *response, now int64) (*change, error) {
	next, ch := set[T]{map[string]*resource{}, map[string]T{}}, &change{}
	ch.heartbeat = len(r.bodies) > 0 && len(r.removed) == 0 && !slices.ContainsFunc(r.bodies, func(b body) bool { return b.resource != nil })
	if !r.full || !t.allInSotW || ch.heartbeat {
		next = t.present()
	}
	var faults []error
	for i := range r.bodies {
		if err := t.readBody(&r.bodies[i], r.full, now, next, ch); err != nil {
			faults = append(faults, err)
		}
		if len(faults) > maxFaults {
			break // a NACK holds no more
		}
	}
	for _, name := range r.removed {
		if slices.Contains(ch.sent, name) {
			faults = append(faults, fault(name, errors.New("is both sent and removed")))
		}
		next.drop(name)
	}
	return t.applying(ch, next), errors.Join(faults...)
}

// readBody takes one resource of a response into next.
func (t *typed[T]) readBody(b *body, full bool, now int64, next set[T], ch *change) error {
	name, value, err := t.openBody(b)
	if err != nil {
		return err
	}
	switch {
	case !slices.Contains(t.names(), name):
		if !t.wildcard {
			ch.unexpected++
		}
		return nil
	case slices.Contains(ch.sent, name):
		return fault(name, errors.New("is there twice"))
	}
	ch.sent = append(ch.sent, name)
	h := &resource{version: b.version, at: now}
	if ttl := b.ttl; ttl != nil {
		if ttl.CheckValid() != nil || ttl.AsDuration() <= 0 {
			return fault(name, errors.New("ttl: is not a positive duration"))
		}
		h.expires = now + min(int64(ttl.AsDuration()), maxTTL)
	}
	if b.resource == nil { // it lives on, where it is the one that is meant
		if held := t.held[name]; held == nil || (!full && b.version != held.version) {
			ch.stale = append(ch.stale, name)
		} else {
			on := *held
			on.expires = h.expires
			next.held[name], next.values[name] = &on, t.values[name]
		}
		return nil
	}
	v, fields, err := value()
	if err != nil {
		return fault(name, err)
	}
	h.ignored = fields
	ch.rolledBack = ch.rolledBack || t.back(name, h.version)
	next.held[name], next.values[name] = h, v
	return nil
}

// openBody returns the name of a resource, and how to have its value. What bears a name that is not for
// us is not looked into.
func (t *typed[T]) openBody(b *body) (name string, value func() (T, []string, error), err error) {
	if b.name != "" && (b.resource == nil || !slices.Contains(t.names(), b.name)) {
		return b.name, nil, nil
	}
	at := cmp.Or(b.name, "resource")
	name, value, err = t.rt.open(b.resource)
	switch {
	case err != nil:
		return "", nil, fault(at, err)
	case b.name != "" && name != b.name:
		return "", nil, fault(at, fmt.Errorf("is named %s inside", host.Plain(name)))
	}
	return name, value, nil
}

// without is the change that takes resources away.
func (t *typed[T]) without(names []string) *change {
	next := t.present()
	for _, name := range names {
		next.drop(name)
	}
	return t.applying(&change{}, next)
}
