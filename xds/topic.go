package xds

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"lukechampine.com/blake3"

	"svc-wallet/config"
	"svc-wallet/host"
)

// topic is what is known of one type of resource of one source. Client.mu guards it.
type topic struct {
	kind
	names func() []string // those that are for us, in order of precedence
	// put puts a whole set in force, or returns why not and has changed nothing.
	put func(next map[string]*held) error

	held map[string]*held
	// answered says that the control plane, or the last good file, has told of all names once.
	answered bool
	version  string // state of the world: of the response accepted last
	past     []past // oldest first
	refused  refused
	missing  map[string]bool // asked for, and not sent in time
	gone     map[string]bool // the control plane said that it has none
}

// held is one resource that is in force.
type held struct {
	version string
	at      int64 // when it came, Unix nanoseconds
	disk    bool  // from the last good file: the control plane has not spoken of it yet
	value   any
}

func (h *held) origin(resource string) config.Origin {
	return config.Origin{Resource: resource, Version: h.version, At: h.at, Disk: h.disk}
}

// past is a version that was in force before another.
type past struct{ name, version string }

// maxPast bounds the versions that are remembered, to know a rollback by.
const maxPast = 16

// refused is the response that was refused last.
type refused struct {
	sum     [32]byte
	times   int // in a row, the same; 0: none was refused since one was accepted
	version string
	reason  string
	at      int64          // when it was judged
	shown   int64          // when it came last
	under   *config.Config // what it was judged under
}

// judgedFor is how long the judgement of a refused response holds. What it depends on outside of
// the configuration, such as an endpoint's history, may change.
const judgedFor = time.Minute

// known reports whether the verdict on a response is known already.
func (f *refused) known(r *response, sum func() [32]byte, now int64, under *config.Config) bool {
	return f.times > 0 && f.version == r.version && f.under == under && now-f.at < int64(judgedFor) && f.sum == sum()
}

// digest is the response but for its nonce. Each part is preceded by its length.
func (r *response) digest() (sum [32]byte) {
	h := blake3.New(32, nil)
	part := func(text []byte) {
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text)))) // a hash cannot fail
		_, _ = h.Write(text)
	}
	part([]byte(r.version))
	for _, b := range r.bodies {
		part([]byte(b.name))
		part([]byte(b.version))
		part([]byte(b.resource.GetTypeUrl()))
		part(b.resource.GetValue())
	}
	part([]byte(everything)) // no resource has this name
	for _, name := range r.removed {
		part([]byte(name))
	}
	h.Sum(sum[:0])
	return sum
}

// unspoken stands for a version in a claim, so that the control plane says what it has, or that it
// has nothing. No control plane gives a resource this version.
const unspoken = "svc-wallet/ask"

// claim is what the topic asks for. A resource whose version nobody vouches for is claimed in a
// version that no control plane has: one from the disk of another run, since a control plane that
// was set up anew counts from the same numbers, and one without a version. To leave it out would
// not do, for then nothing would be said where it has been removed.
//
// provoke does so with one resource more: a control plane that has nothing new says nothing, and
// would look like one that is dead.
func (t *topic) claim(provoke bool) claim {
	c := claim{names: t.asks(), wild: t.wild, version: t.version, versions: map[string]string{}}
	for name, h := range t.held {
		c.versions[name] = h.version
		if h.disk || h.version == "" {
			c.versions[name] = unspoken
		}
	}
	if provoke {
		c.version = ""
		c.versions[slices.Min(slices.Collect(maps.Keys(t.held)))] = unspoken
	}
	return c
}

// asks are the names that are asked for; none where all are.
func (t *topic) asks() []string {
	if t.wild {
		return nil
	}
	return t.names()
}

// awaits are the names that the control plane owes an answer for after a claim.
func (t *topic) awaits() (names []string) {
	if t.wild {
		if len(t.held) == 0 {
			return []string{everything}
		}
		return nil
	}
	for _, name := range t.names() {
		if h := t.held[name]; h == nil || h.disk {
			names = append(names, name)
		}
	}
	return names
}

// change is what a response would make of a topic.
type change struct {
	next       map[string]*held
	removed    []string
	rolledBack bool
	unexpected int // resources that nobody asked for
}

// read decodes and checks a response. The error has a line for each fault.
func (t *topic) read(r *response, now int64) (change, error) {
	ch := change{next: map[string]*held{}}
	if !r.full || !t.whole {
		maps.Copy(ch.next, t.held)
	}
	wanted := map[string]bool{}
	for _, name := range t.names() {
		wanted[name] = true
	}
	seen := map[string]bool{}
	var faults []error
	for i := range r.bodies {
		b := &r.bodies[i]
		name, h, err := t.readBody(b, wanted)
		if err == nil && seen[name] {
			err = fault(name, errors.New("is there twice"))
		}
		seen[name] = true
		if err != nil {
			faults = append(faults, err)
		} else if wanted[name] {
			t.take(&ch, name, h, now)
		} else if !t.wild {
			ch.unexpected++
		}
		if len(faults) > maxFaults {
			break // a NACK holds no more
		}
	}
	for _, name := range r.removed {
		if seen[name] {
			faults = append(faults, fault(name, errors.New("is both sent and removed")))
		}
		delete(ch.next, name)
	}
	for name := range t.held {
		if ch.next[name] == nil {
			ch.removed = append(ch.removed, name)
		}
	}
	slices.Sort(ch.removed)
	return ch, errors.Join(faults...)
}

// take puts a resource into the change; one without a value lives on.
func (t *topic) take(ch *change, name string, h *held, now int64) {
	if h == nil {
		if t.held[name] != nil {
			ch.next[name] = t.held[name]
		}
		return
	}
	h.at = now
	ch.rolledBack = ch.rolledBack || t.back(name, h.version)
	ch.next[name] = h
}

// maxFaults bounds the faults that are gathered of one response.
const maxFaults = 100

// readBody returns the name of a resource, and its value where it is wanted and has one.
func (t *topic) readBody(b *body, wanted map[string]bool) (string, *held, error) {
	if b.name != "" && (!wanted[b.name] || b.resource == nil) {
		return b.name, nil, nil
	}
	at := b.name
	if at == "" {
		at = "resource"
	}
	msg, err := t.open(b.resource)
	if err != nil {
		return at, nil, fault(at, err)
	}
	name := t.nameOf(msg)
	if b.name != "" && name != b.name {
		return b.name, nil, fault(b.name, fmt.Errorf("is named %s inside", host.Plain(name)))
	}
	if !wanted[name] {
		return name, nil, nil
	}
	value, err := t.kind.read(msg)
	if err != nil {
		return name, nil, fault(name, err)
	}
	return name, &held{version: b.version, value: value}, nil
}

// back reports whether a version comes again that was in force before the present one.
func (t *topic) back(name, version string) bool {
	h := t.held[name]
	return version != "" && h != nil && h.version != version && slices.Contains(t.past, past{name, version})
}

// adopt makes the change the present.
func (t *topic) adopt(r *response, ch change) {
	for name, h := range t.held {
		n := ch.next[name]
		if h.version == "" || (n != nil && n.version == h.version) {
			continue
		}
		p := past{name, h.version}
		t.past = append(slices.DeleteFunc(t.past, func(q past) bool { return q == p }), p)
		t.past = t.past[max(0, len(t.past)-maxPast):]
	}
	t.held, t.version = ch.next, r.version
	delete(t.missing, everything)
	for name := range ch.next {
		delete(t.missing, name)
		delete(t.gone, name)
	}
	names := t.names()
	for _, name := range r.removed {
		delete(t.missing, name)
		if slices.Contains(names, name) {
			t.gone[name] = true
		}
	}
	t.refused = refused{}
	t.answered = t.answered || r.full || t.wild || !slices.ContainsFunc(names, func(name string) bool {
		h := t.held[name]
		return !t.gone[name] && (h == nil || h.disk)
	})
}
