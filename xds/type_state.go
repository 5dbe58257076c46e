package xds

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"lukechampine.com/blake3"

	"svc-wallet/config"
)

// typeState is what is known of one type of resource, but for the values. Client.mu guards it.
type typeState struct {
	typeInfo
	names func() []string // those that are for us, in order of precedence

	held map[string]*resource // in force
	// answered says that the control plane, or the last good file, has told of all names once.
	answered bool
	version  string // state of the world: of the response accepted last
	past     []past // oldest first
	refused  refused
	missing  map[string]bool   // asked for, and not sent in time
	gone     map[string]string // why it is not there, as /config says it
}

func newTypeState(info typeInfo, names func() []string) typeState {
	return typeState{typeInfo: info, names: names, held: map[string]*resource{}, missing: map[string]bool{}, gone: map[string]string{}}
}

// resource is what is known of one that is in force, but for its value.
type resource struct {
	version string
	at      int64    // when it came, Unix nanoseconds
	expires int64    // when it is taken away unless it is told of again; 0: never
	disk    bool     // from the last good file: the control plane has not spoken of it yet
	ignored []string // fields that are passed over
}

// origin is where a layer of config.Stack comes from.
func (h *resource) origin(name string) config.Origin {
	if h == nil {
		return config.Origin{}
	}
	return config.Origin{Resource: name, Version: h.version, At: h.at, Disk: h.disk}
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
func (f *refused) known(r *response, now int64, under *config.Config) bool {
	return f.times > 0 && f.version == r.version && f.under == under && now-f.at < int64(judgedFor) && f.sum == r.digest()
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
		if b.ttl != nil {
			part(fmt.Append(nil, b.ttl.GetSeconds(), b.ttl.GetNanos()))
		}
	}
	part([]byte(wildcard)) // no resource has this name
	for _, name := range r.removed {
		part([]byte(name))
	}
	h.Sum(sum[:0])
	return sum
}

// unspoken stands for a version in a request, so that the control plane says what it has, or that it
// has nothing. No control plane gives a resource this version.
const unspoken = "svc-wallet/ask"

// request is what is asked for. A resource whose version nobody vouches for is claimed in a version
// that no control plane has: one from the disk of another run, since a control plane that was set up
// anew counts from the same numbers, and one without a version. To leave it out would not do, for
// then nothing would be said where it has been removed.
//
// provoke does so with one resource more: a control plane that has nothing new says nothing, and
// would look like one that is dead.
func (t *typeState) request(provoke bool) request {
	r := request{names: t.subscribes(), wildcard: t.wildcard, version: t.version, versions: map[string]string{}}
	for name, h := range t.held {
		r.versions[name] = h.version
		if h.disk || h.version == "" {
			r.versions[name] = unspoken
		}
	}
	if provoke {
		r.version = ""
		r.versions[slices.Min(slices.Collect(maps.Keys(t.held)))] = unspoken
	}
	return r
}

// subscribes are the names that are asked for; none where all are.
func (t *typeState) subscribes() []string {
	if t.wildcard {
		return nil
	}
	return t.names()
}

// awaits are the names that the control plane owes an answer for after a subscription.
func (t *typeState) awaits() (names []string) {
	if t.wildcard {
		if len(t.held) == 0 {
			return []string{wildcard}
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

// back reports whether a version comes again that was in force before the present one.
func (t *typeState) back(name, version string) bool {
	h := t.held[name]
	return version != "" && h != nil && h.version != version && slices.Contains(t.past, past{name, version})
}

// hold makes next what is in force.
func (t *typeState) hold(next map[string]*resource) {
	for name, h := range t.held {
		n := next[name]
		if h.version == "" || (n != nil && n.version == h.version) {
			continue
		}
		p := past{name, h.version}
		t.past = append(slices.DeleteFunc(t.past, func(q past) bool { return q == p }), p)
		t.past = t.past[max(0, len(t.past)-maxPast):]
	}
	t.held = next
}

// absent is what /config says of a resource that the control plane said it has not.
const absent = "absent"

// noteAnswer notes what an accepted response was about.
func (t *typeState) noteAnswer(r *response, ch *change) {
	t.version, t.refused = r.version, refused{}
	delete(t.missing, wildcard)
	for _, name := range ch.sent {
		delete(t.missing, name)
		delete(t.gone, name)
	}
	names := t.names()
	for _, name := range r.removed {
		delete(t.missing, name)
		if slices.Contains(names, name) {
			t.gone[name] = absent
		}
	}
	t.answered = t.answered || r.full || t.wildcard || !slices.ContainsFunc(names, func(name string) bool {
		h := t.held[name]
		return t.gone[name] == "" && (h == nil || h.disk)
	})
}

// unanswered says that the first answer is still owed.
func (t *typeState) unanswered() bool { return !t.answered && (t.wildcard || len(t.names()) > 0) }

// expired are the names of what has outlived its time at now, and when the next one will have.
func (t *typeState) expired(now int64) (names []string, next int64) {
	for name, h := range t.held {
		switch {
		case h.expires == 0:
		case h.expires <= now:
			names = append(names, name)
		case next == 0 || h.expires < next:
			next = h.expires
		}
	}
	slices.Sort(names)
	return names, next
}
