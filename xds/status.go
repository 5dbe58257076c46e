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
// the control plane has not spoken of it yet), waiting, timed out or absent (the control plane said
// that it has none).
type ResourceStatus struct {
	Type    string      `json:"type"`
	Name    string      `json:"name"`
	State   string      `json:"state"`
	Version string      `json:"version,omitempty"`
	Time    string      `json:"time,omitempty"` // when it came, RFC 3339
	Source  string      `json:"source,omitempty"`
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
	for _, s := range c.sources {
		st.Sources = append(st.Sources, SourceStatus{s.name, s.addr, s.connected, clock(s.since), s.lastError})
		for _, t := range s.topics {
			st.Resources = append(st.Resources, t.status(s.connected)...)
		}
	}
	if c.store != nil {
		st.LastGood = &FileStatus{c.store.path, c.store.failure()}
	}
	return st
}

func (t *topic) status(connected bool) (all []ResourceStatus) {
	names := t.names()
	for name := range t.missing {
		if !slices.Contains(names, name) {
			names = append(slices.Clip(names), name)
		}
	}
	for _, name := range names {
		r := ResourceStatus{Type: t.name, Name: name}
		h := t.held[name]
		switch {
		case h != nil && h.disk:
			r.State, r.Source = "last good", "last good"
		case h != nil:
			r.State, r.Source = "accepted", "xds"
		case t.missing[name]:
			r.State = "timed out"
		case connected && (t.wild || t.gone[name]):
			r.State = "absent"
		default:
			r.State = "waiting"
		}
		if h != nil {
			r.Version, r.Time = h.version, clock(h.at)
		}
		if f := &t.refused; f.times > 0 {
			r.Refused = &NACKStatus{f.version, f.reason, clock(f.shown), f.times}
		}
		all = append(all, r)
	}
	return all
}

// clock is a time as /config shows it.
func clock(nanos int64) string {
	if nanos == 0 {
		return ""
	}
	return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano)
}
