package control

import (
	"net/http"
	"time"

	"svc-wallet/host"
)

// sidecarView is a sidecar as the API shows it.
type sidecarView struct {
	ID             string              `json:"id"`
	Cluster        string              `json:"cluster"`
	Group          string              `json:"group"`
	Region         string              `json:"region,omitempty"`
	Zone           string              `json:"zone,omitempty"`
	SubZone        string              `json:"sub_zone,omitempty"`
	Protocol       string              `json:"protocol"`
	ConnectedSince string              `json:"connected_since,omitempty"`
	GoneSince      string              `json:"gone_since,omitempty"`
	Types          map[string]typeView `json:"types"`
}

type typeView struct {
	State   string       `json:"state,omitempty"` // of what is served now: accepted, refused or waiting; absent: it is gone
	Served  string       `json:"served"`
	Acked   string       `json:"acked"`  // what it has in force, as far as it has said; "": nothing, or what it had before it connected
	LagMS   int64        `json:"lag_ms"` // since served was sent, while it is not answered
	Refused *refusedView `json:"refused,omitempty"`
}

// refusedView is the last NACK, which stays when a later version was taken.
type refusedView struct {
	Version string `json:"version"`
	Reason  string `json:"reason"`
	At      string `json:"at"`
}

// getSidecars lists the sidecars, or those of a group.
func (p *Plane) getSidecars(w http.ResponseWriter, r *http.Request) {
	served, now, group := p.state.Load().served, p.opts.Now(), r.URL.Query().Get("group")
	list := []sidecarView{}
	for _, row := range p.fleet.list() {
		if v := row.view(served, now); group == "" || v.Group == group {
			list = append(list, v)
		}
	}
	host.WriteJSON(w, http.StatusOK, map[string][]sidecarView{"sidecars": list})
}

func (s *sidecar) view(served *groups, now int64) sidecarView {
	v := sidecarView{
		ID: s.id, Cluster: s.cluster, Group: served.route.group(s.id, s.cluster),
		Region: s.region, Zone: s.zone, SubZone: s.subZone, Protocol: "sotw", Types: map[string]typeView{},
	}
	if s.delta {
		v.Protocol = "delta"
	}
	if s.streams > 0 {
		v.ConnectedSince = instant(s.since)
	} else {
		v.GoneSince = instant(s.since)
	}
	for k := range numKinds {
		progress := &s.kinds[k]
		if progress.served == "" {
			continue
		}
		t := typeView{Served: progress.served, Acked: progress.acked}
		if s.streams > 0 {
			t.State = s.standing(k, served.serves(v.Group)).String()
		}
		if progress.waiting {
			t.LagMS = (now - progress.servedAt) / int64(time.Millisecond)
		}
		if n := progress.refused; n.version != "" {
			t.Refused = &refusedView{n.version, n.reason, instant(n.at)}
		}
		v.Types[k.String()] = t
	}
	return v
}

func instant(nanos int64) string {
	return time.Unix(0, nanos).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}
