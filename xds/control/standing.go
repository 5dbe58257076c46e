package control

// standing is what a sidecar says to what it is served now. Of several types the greatest counts.
type standing uint8

const (
	unasked standing = iota // it does not ask for this type, or not yet
	accepted
	refused
	waiting // it has not answered yet
	numStandings
)

// String is the standing in the API.
func (s standing) String() string {
	return [numStandings]string{"", "accepted", "refused", "waiting"}[s]
}

// tally counts sidecars by their standing.
type tally struct {
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"` // GET /sidecars tells why
	Waiting  int `json:"waiting"`
}

func (t *tally) count(s standing) {
	switch s {
	case accepted:
		t.Accepted++
	case refused:
		t.Refused++
	case waiting:
		t.Waiting++
	default: // it is not asked
	}
}

// answers is what the connected sidecars of a group say: to all that they are served, and by type, since
// xDS has each type accepted or refused by itself.
type answers struct {
	tally
	Types map[string]*tally `json:"types,omitempty"`
}

// answers counts them.
func (f *fleet) answers(g *groups, group string) answers {
	a := answers{Types: map[string]*tally{}}
	serves := g.serves(group)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, row := range f.rows {
		if row.streams == 0 || g.route.group(row.id, row.cluster) != group {
			continue
		}
		all := accepted
		for k := range numKinds {
			s := row.standing(k, serves)
			all = max(all, s)
			if s != unasked && a.Types[k.String()] == nil {
				a.Types[k.String()] = &tally{}
			}
			if s != unasked {
				a.Types[k.String()].count(s)
			}
		}
		a.count(all)
	}
	return a
}

// standing holds a type of a connected sidecar against what its group is served. The versions of endpoints
// are not compared, because a sidecar asks for those of the clusters that it was told of, and may be sent
// none; what is on its way counts.
func (s *sidecar) standing(k kind, serves *snapshot) standing {
	p, now := &s.kinds[k], &serves.sotw[k]
	if s.delta {
		now = &serves.delta[k]
	}
	switch {
	case p.queued || p.settling:
		return waiting
	case p.served == "":
		return unasked
	case p.waiting || (k != kindEndpoint && p.served != now.version):
		return waiting
	case p.refuses && p.refused.version == p.served:
		return refused
	default:
		return accepted
	}
}
