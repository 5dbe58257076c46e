package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/sirupsen/logrus"
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
	writeJSON(w, http.StatusOK, out)
}

func (p *Plane) getGroup(w http.ResponseWriter, r *http.Request) {
	g, ok := p.state.Load().groups[r.PathValue("group")]
	if !ok || g.doc == nil {
		refuse(w, notFound, "there is no such group, or no good document of it yet", g.refused)
		return
	}
	w.Header().Set("ETag", g.doc.etag())
	if match := r.Header.Get("If-None-Match"); match != "" && listed(match, g.doc.etag()) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	setHeaders(w)
	_, _ = w.Write(g.doc.readable())
}

// etag is strong: equal tags are equal documents.
func (d *document) etag() string { return `"` + d.version + `"` }

// readable is the document as a person reads it, and as it is written to a file.
func (d *document) readable() []byte {
	text := d.text.Clone()
	if err := text.Indent(jsontext.WithIndent("  ")); err != nil {
		panic("control: a document in force is no JSON: " + err.Error())
	}
	return append(text, '\n')
}

// listed says whether an If-Match or If-None-Match names tag.
func listed(header, tag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		if one = strings.TrimSpace(one); one == "*" || one == tag {
			return true
		}
	}
	return false
}

// change is what a PUT did, or with dry_run would do.
type change struct {
	Group    string         `json:"group"`
	Version  string         `json:"version"`
	Sidecars int            `json:"sidecars"` // connected ones, in the group after the change
	Changes  []memberChange `json:"changes"`
	DryRun   bool           `json:"dry_run,omitempty"`
	Answers  *answers       `json:"answers,omitempty"` // with wait
}

// maxWait bounds wait.
const maxWait = time.Minute

// memberChange is a member of the document that differs; null is absent.
type memberChange struct {
	Member string          `json:"member"`
	From   json.RawMessage `json:"from"`
	To     json.RawMessage `json:"to"`
}

func (p *Plane) putGroup(w http.ResponseWriter, r *http.Request) {
	name, dry := r.PathValue("group"), r.URL.Query().Get("dry_run")
	wait, err := waitOf(r)
	switch {
	case err != nil:
		refuse(w, badRequest, "wait is a duration such as 5s, at most "+maxWait.String(), nil)
		return
	case !p.mayChange(r):
		refuse(w, forbidden, "this client may not change limits", nil)
		return
	case !isGroup(name):
		refuse(w, badRequest, "the name of a group is [a-z0-9][a-z0-9_.-]{0,62}", nil)
		return
	case dry != "" && dry != "true" && dry != "false":
		refuse(w, badRequest, "dry_run is true or false", nil)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDocument))
	if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
		refuse(w, tooLarge, "a document has at most 1MiB", nil)
		return
	} else if err != nil {
		return // the client is gone
	}
	doc, err := parseDocument(body, p.opts.Names)
	if err != nil {
		refuse(w, badRequest, "the document is refused", err.(Faults)) //nolint:errorlint,forcetypeassert // its only error
		return
	}
	out, status, problem := p.put(r, name, doc, dry == "true")
	if problem != nil {
		refuse(w, problem.code, problem.message, nil)
		return
	}
	if !out.DryRun {
		w.Header().Set("ETag", doc.etag())
		if wait > 0 {
			out.Answers = p.await(w, r, name, wait)
		}
	}
	writeJSON(w, status, out)
}

// waitOf is how long a client wants to wait for the sidecars' answers; 0 where it does not.
func waitOf(r *http.Request) (time.Duration, error) {
	text := r.URL.Query().Get("wait")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err == nil && (d < 0 || d > maxWait) {
		err = errors.New("out of range")
	}
	return d, err
}

// await waits until each connected sidecar of a group has answered to what it is served, and tells
// what they said.
func (p *Plane) await(w http.ResponseWriter, r *http.Request, name string, wait time.Duration) *answers {
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + apiTimeout)); err != nil { //nolint:forbidigo // the runtime holds deadlines against its own clock
		wait = min(wait, apiTimeout/2)
	}
	late := time.NewTimer(wait)
	defer late.Stop()
	look := time.NewTicker(2*time.Millisecond + time.Duration(p.fleet.size())*time.Microsecond) // a look costs by the sidecar
	defer look.Stop()
	for {
		a := p.fleet.answers(p.state.Load().served, name)
		if a.Waiting == 0 {
			return &a
		}
		select {
		case <-late.C:
			return &a
		case <-r.Context().Done():
			return &a
		case <-look.C:
		}
	}
}

// problem is why a change is refused.
type problem struct {
	code    code
	message string
}

// put writes a document and serves it, or only says what that would do. Nobody is answered in here,
// because a client that reads slowly must not hold up other changes.
func (p *Plane) put(r *http.Request, name string, doc *document, dry bool) (change, int, *problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, problem := p.mayReplace(r, name)
	if problem != nil {
		return change{}, 0, problem
	}
	out := p.compare(name, before.doc, doc)
	if out.DryRun = dry; dry {
		return out, http.StatusOK, nil
	}
	if err := write(p.source.file(name), doc.readable()); err != nil {
		return out, 0, p.failed(name, err)
	}
	p.log.WithFields(logrus.Fields{"group": name, "version": doc.version, "peer": r.RemoteAddr}).Info("limits_put")
	p.reloadGroup(name)
	if now := p.state.Load().groups[name].doc; now == nil || now.version != doc.version {
		return out, 0, p.failed(name, errors.New("something else is in the file by now"))
	}
	if before.file == "" {
		return out, http.StatusCreated, nil
	}
	return out, http.StatusOK, nil
}

// mayReplace reads the source again, so that what is judged is what is there, and holds the group
// against the request's conditions. It is called under p.mu.
func (p *Plane) mayReplace(r *http.Request, name string) (group, *problem) {
	p.reload()
	s := p.state.Load()
	g, exists := s.groups[name]
	tag := ""
	if g.doc != nil {
		tag = g.doc.etag()
	}
	match, none := r.Header.Get("If-Match"), r.Header.Get("If-None-Match")
	switch {
	case s.failed != nil:
		return g, &problem{internal, s.failed.Error()}
	case !p.source.dir && name != defaultGroup:
		return g, &problem{conflict, "the limits are one file, which is the group " + defaultGroup}
	case match != "" && (!exists || !listed(match, tag)), none != "" && exists && listed(none, tag):
		return g, &problem{failedCondition, "the document is another one by now, see its ETag"}
	case g.twins:
		return g, &problem{conflict, "the group has two files: remove one of them"}
	case exists && g.file != p.source.file(name), !p.source.dir && !strings.HasSuffix(p.source.path, ".json"):
		return g, &problem{conflict, "the group is kept in a file that is written by hand: change " + g.file}
	case !exists && len(s.groups) >= maxGroups:
		return g, &problem{conflict, fmt.Sprintf("there are %d groups already", maxGroups)}
	}
	return g, nil
}

// compare says what doc changes in a group, and to how many sidecars.
func (p *Plane) compare(name string, before, doc *document) change {
	served := p.state.Load().served
	docs := maps.Clone(served.docs)
	if docs == nil {
		docs = map[string]*document{}
	}
	docs[name] = doc
	sidecars := p.fleet.connected(newGroups(docs, served, served.none).route)
	return change{Group: name, Version: doc.version, Sidecars: sidecars[name], Changes: differences(before, doc)}
}

func differences(before, after *document) []memberChange {
	from, to := before.members(), after.members()
	names := map[string]struct{}{}
	for name := range from {
		names[name] = struct{}{}
	}
	for name := range to {
		names[name] = struct{}{}
	}
	list := []memberChange{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if string(from[name]) != string(to[name]) {
			list = append(list, memberChange{name, json.RawMessage(from[name]), json.RawMessage(to[name])})
		}
	}
	return list
}

func (d *document) members() map[string]jsontext.Value {
	if d == nil {
		return nil
	}
	list, err := readObject(d.text)
	if err != nil {
		panic("control: a document in force is no JSON object: " + err.Error())
	}
	found := map[string]jsontext.Value{}
	for _, m := range list {
		found[m.name] = m.value
	}
	return found
}

func (p *Plane) deleteGroup(w http.ResponseWriter, r *http.Request) {
	if !p.mayChange(r) {
		refuse(w, forbidden, "this client may not change limits", nil)
		return
	}
	if problem := p.remove(r, r.PathValue("group")); problem != nil {
		refuse(w, problem.code, problem.message, nil)
		return
	}
	setHeaders(w)
	w.WriteHeader(http.StatusNoContent)
}

func (p *Plane) remove(r *http.Request, name string) *problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	g, refused := p.mayReplace(r, name)
	switch {
	case refused != nil:
		return refused
	case g.file == "":
		return &problem{notFound, "there is no such group"}
	case !p.source.dir:
		return &problem{conflict, "the limits are one file, without which no control plane starts: put {} instead"}
	}
	if err := remove(g.file); err != nil {
		return p.failed(name, err)
	}
	p.log.WithFields(logrus.Fields{"group": name, "peer": r.RemoteAddr}).Info("limits_deleted")
	p.reload()
	return nil
}

// failed is for a change that could not be written, or not made to last. What is in the file now
// is served, whichever it is. It is called under p.mu.
func (p *Plane) failed(name string, err error) *problem {
	p.log.WithError(err).WithField("group", name).Error("limits_not_written")
	p.reload()
	return &problem{internal, "the change is not known to be written: " + err.Error()}
}
