package xds

import (
	"slices"
	"time"
)

// Status is what /config shows. It holds no secret.
type Status struct {
	Sources   []SourceStatus   `json:"sources"`
	Resources []ResourceStatus `json:"resources"`
	LastGood  *FileStatus      `json:"last_good,omitempty"`
}

// SourceStatus is one control plane, or the local agent.
type SourceStatus struct {
	Name      string `json:"name"`
	Addr      string `json:"addr"` // in use, or tried
	Connected bool   `json:"connected"`
	Since     string `json:"since,omitempty"` // RFC 3339
	LastError string `json:"last_error,omitempty"`
}

// ResourceStatus is one resource that was asked for. Its state is accepted, last good (from disk;
// the control plane has not spoken of it yet), unconfirmed (in force, and asked for again in vain),
// waiting, timed out, absent (the control plane said that it has none) or expired.
type ResourceStatus struct {
	Type    string      `json:"type"`
	Name    string      `json:"name"`
	State   string      `json:"state"`
	Version string      `json:"version,omitempty"`
	Time    string      `json:"time,omitempty"`    // when it came, RFC 3339
	Expires string      `json:"expires,omitempty"` // RFC 3339
	Source  string      `json:"source,omitempty"`
	Ignored []string    `json:"ignored,omitempty"` // fields of it that the sidecar passes over
	Refused *NACKStatus `json:"refused,omitempty"` // the type's last response, where it was refused
}

// NACKStatus is a response that was refused.
type NACKStatus struct {
	Version string `json:"version,omitempty"`
	Reason  string `json:"reason"`
	Time    string `json:"time"` // when it came last, RFC 3339
	Times   int    `json:"times"`
}

// FileStatus is the last good file.
type FileStatus struct {
	File  string `json:"file"`
	Error string `json:"error,omitempty"` // why it could not be written
}

// Status is what was asked for, what came, and what was refused and why: a Status, for /config.
func (c *Client) Status() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := Status{Sources: []SourceStatus{}, Resources: []ResourceStatus{}}
	for _, s := range c.servers {
		st.Sources = append(st.Sources, SourceStatus{s.name, s.addr, s.connected, clock(s.since), s.lastError})
		for _, t := range s.types {
			st.Resources = append(st.Resources, t.state().status(s.connected)...)
		}
	}
	if c.store != nil {
		st.LastGood = &FileStatus{c.store.path, c.store.failure()}
	}
	return st
}

func (t *typeState) status(connected bool) (all []ResourceStatus) {
	names := t.names()
	for name := range t.missing {
		if !slices.Contains(names, name) {
			names = append(slices.Clip(names), name)
		}
	}
	for _, name := range names {
		r := ResourceStatus{Type: t.name, Name: name}
		r.State, r.Source = t.stateOf(name, connected)
		if h := t.held[name]; h != nil {
			r.Version, r.Time, r.Expires, r.Ignored = h.version, clock(h.at), clock(h.expires), h.ignored
		}
		if f := &t.refused; f.times > 0 {
			r.Refused = &NACKStatus{f.version, f.reason, clock(f.shown), f.times}
		}
		all = append(all, r)
	}
	return all
}

// stateOf is the state of a resource, and where what is in force of it is from.
func (t *typeState) stateOf(name string, connected bool) (state, source string) {
	h, gone := t.held[name], t.gone[name]
	switch {
	case h != nil && h.disk:
		return "last good", "last good"
	case h != nil && t.missing[name]:
		return "unconfirmed", "xds"
	case h != nil:
		return "accepted", "xds"
	case t.missing[name]:
		return "timed out", ""
	case gone != "" && gone != absent:
		return gone, ""
	case connected && (gone != "" || (t.wildcard && t.answered)):
		return absent, ""
	default:
		return "waiting", ""
	}
}

// clock is a time as /config shows it.
func clock(nanos int64) string {
	if nanos == 0 {
		return ""
	}
	return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano)
}
