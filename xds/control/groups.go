package control

import (
	"maps"
	"slices"
)

// defaultGroup has the sidecars that no other group names or matches.
const defaultGroup = "default"

// groups are the documents in force and the way from a sidecar to its group. It is immutable.
type groups struct {
	docs  map[string]*document
	route *router
	none  snapshot // of a group without a document
}

// newGroups keeps the router of before where the same sidecars are named, so that nobody has to be
// routed anew for a change of limits.
func newGroups(docs map[string]*document, before *groups, none snapshot) *groups {
	g := &groups{docs: docs, none: none}
	same := func(a, b *document) bool {
		return slices.Equal(a.match.IDs, b.match.IDs) && slices.Equal(a.match.Clusters, b.match.Clusters)
	}
	if before != nil && maps.EqualFunc(docs, before.docs, same) {
		g.route = before.route
	} else {
		g.route = newRouter(docs)
	}
	return g
}

// serves is what a group's sidecars are told.
func (g *groups) serves(group string) *snapshot {
	if d := g.docs[group]; d != nil {
		return &d.serves
	}
	return &g.none
}

// router knows each sidecar's group. Of several that fit, the first by name counts.
type router struct {
	ids, clusters         map[string]string // to groups, by exact name
	idGlobs, clusterGlobs []pattern
}

type pattern struct {
	glob  glob
	group string
}

func newRouter(docs map[string]*document) *router {
	r := &router{ids: map[string]string{}, clusters: map[string]string{}}
	for _, group := range slices.Sorted(maps.Keys(docs)) {
		r.idGlobs = split(docs[group].match.IDs, group, r.ids, r.idGlobs)
		r.clusterGlobs = split(docs[group].match.Clusters, group, r.clusters, r.clusterGlobs)
	}
	return r
}

// split puts exact names into one place and globs into another.
func split(entries []string, group string, exact map[string]string, globs []pattern) []pattern {
	for _, e := range entries {
		if g := newGlob(e); len(g) > 1 {
			globs = append(globs, pattern{g, group})
		} else if _, taken := exact[e]; !taken {
			exact[e] = group
		}
	}
	return globs
}

// group is the group of a sidecar: the one that names its id, else matches it, else names its
// cluster, else matches that, else the default.
func (r *router) group(id, cluster string) string {
	if group, ok := r.ids[id]; ok {
		return group
	}
	if group, ok := first(r.idGlobs, id); ok {
		return group
	}
	if group, ok := r.clusters[cluster]; ok {
		return group
	}
	if group, ok := first(r.clusterGlobs, cluster); ok {
		return group
	}
	return defaultGroup
}

func first(globs []pattern, s string) (string, bool) {
	for _, p := range globs {
		if p.glob.matches(s) {
			return p.group, true
		}
	}
	return "", false
}
