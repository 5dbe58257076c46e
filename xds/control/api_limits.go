package control

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"svc-wallet/host"
)

// groupView is a group as the API shows it.
type groupView struct {
	Group    string   `json:"group"`
	File     string   `json:"file"`
	Version  string   `json:"version,omitempty"` // absent: no good document came yet
	Sidecars int      `json:"sidecars"`
	Refused  []string `json:"refused,omitempty"` // what is wrong with the file; an earlier version is served
}

func (p *Plane) view(s *state, name string, sidecars map[string]int) groupView {
	g := s.groups[name]
	v := groupView{Group: name, File: g.file, Sidecars: sidecars[name], Refused: g.refused}
	if g.doc != nil {
		v.Version = g.doc.version
	}
	return v
}

func (p *Plane) getGroups(w http.ResponseWriter, _ *http.Request) {
	s := p.state.Load()
	sidecars := p.fleet.connected(s.served.route)
	out := struct {
		Groups  []groupView `json:"groups"`
		Failed  string      `json:"failed,omitempty"` // the source cannot be read; all is as it was
		Without int         `json:"without_group"`    // sidecars in the default group while it has no document
	}{Groups: []groupView{}}
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		out.Groups = append(out.Groups, p.view(s, name, sidecars))
	}
	if s.failed != nil {
		out.Failed = s.failed.Error()
	}
	if s.served.docs[defaultGroup] == nil {
		out.Without = sidecars[defaultGroup]
	}
	host.WriteJSON(w, http.StatusOK, out)
}

func (p *Plane) getGroup(w http.ResponseWriter, r *http.Request) {
	g, ok := p.state.Load().groups[r.PathValue("group")]
	if !ok || g.doc == nil {
		refuse(w, notFound, "there is no such group, or no good document of it yet", g.refused)
		return
	}
	w.Header().Set("ETag", g.doc.etag())
	if listed(r.Header.Values("If-None-Match"), g.doc.etag()) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	host.SetJSONHeaders(w)
	_, _ = w.Write(g.doc.readable())
}

// etag is strong: equal tags are equal documents.
func (d *document) etag() string { return etag(d.version) }

func etag(version string) string { return `"` + version + `"` }

// readable is the document as a person reads it, and as it is written to a file: on lines, where it is then not
// larger than one that would be read again.
func (d *document) readable() []byte {
	text := d.text.Clone()
	if err := text.Indent(jsontext.WithIndent("  ")); err != nil {
		panic("control: a document in force is no JSON: " + err.Error())
	}
	if len(text) >= maxDocument {
		text = d.text.Clone()
	}
	return append(text, '\n')
}

// conditionsHold judges If-Match and If-None-Match. One that is there and empty, as where a client's variable
// for the tag is, names nothing, and so If-Match does not hold.
func conditionsHold(h http.Header, exists bool, tag string) bool {
	match, none := h.Values("If-Match"), h.Values("If-None-Match")
	return (match == nil || (exists && listed(match, tag))) && (none == nil || !exists || !listed(none, tag))
}

// listed says whether an If-Match or If-None-Match names tag.
func listed(headers []string, tag string) bool {
	for one := range strings.SplitSeq(strings.Join(headers, ","), ",") {
		if one = strings.TrimSpace(one); one == "*" || (one == tag && one != "") {
			return true
		}
	}
	return false
}
