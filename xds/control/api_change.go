package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/sirupsen/logrus"

	"svc-wallet/host"
)

// change is what a change of a group did, or with dry_run would do.
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

// order is a change as a client asks for it.
type order struct {
	group string
	dry   bool
	wait  time.Duration
	body  []byte
}

// orderOf reads a change. Where it returns nil it has answered.
func (p *Plane) orderOf(w http.ResponseWriter, r *http.Request) *order {
	o := &order{group: r.PathValue("group")}
	q := r.URL.Query()
	dry, wait := q.Get("dry_run"), q.Get("wait")
	var err error
	if wait != "" {
		o.wait, err = time.ParseDuration(wait)
	}
	switch o.dry = dry == "true"; {
	case err != nil || o.wait < 0 || o.wait > maxWait:
		refuse(w, badRequest, "wait is a duration such as 5s, at most "+maxWait.String(), nil)
		return nil
	case !p.mayChange(r):
		refuse(w, forbidden, "this client may not change limits", nil)
		return nil
	case !isGroup(o.group):
		refuse(w, badRequest, "the name of a group is [a-z0-9][a-z0-9_.-]{0,62}", nil)
		return nil
	case dry != "" && dry != "true" && dry != "false":
		refuse(w, badRequest, "dry_run is true or false", nil)
		return nil
	}
	o.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxDocument))
	if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
		refuse(w, tooLarge, "a document has at most 1MiB", nil)
		return nil
	} else if err != nil {
		return nil // the client is gone
	}
	return o
}

// putGroup makes the body the whole document.
func (p *Plane) putGroup(w http.ResponseWriter, r *http.Request) {
	o := p.orderOf(w, r)
	if o == nil {
		return
	}
	doc, err := parseDocument(o.body, p.opts.Names)
	if err != nil {
		refuse(w, badRequest, "the document is refused", err.(Faults)) //nolint:errorlint,forcetypeassert // its only error
		return
	}
	p.change(w, r, o, func(*document) (*document, *problem) { return doc, nil })
}

// mergePatch is the media type of RFC 7396.
const mergePatch = "application/merge-patch+json"

// patchGroup merges the body into the document in force, by RFC 7396: null takes a member away, and an
// array is replaced as a whole. A group that is not there is made, as if its document were {}.
func (p *Plane) patchGroup(w http.ResponseWriter, r *http.Request) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind == "application/json-patch+json" {
		w.Header().Set("Accept-Patch", mergePatch)
		refuse(w, unsupported, "the one kind of patch is "+mergePatch, nil)
		return
	}
	o := p.orderOf(w, r)
	if o == nil {
		return
	}
	p.change(w, r, o, func(before *document) (*document, *problem) {
		text := jsontext.Value("{}")
		if before != nil {
			text = before.text
		}
		merged, err := merge(text, o.body, mergeDepth)
		if err != nil {
			return nil, &problem{badRequest, "the patch is refused", Faults{err.Error()}}
		}
		doc, err := parseDocument(merged, p.opts.Names)
		if err != nil {
			return nil, &problem{badRequest, "the patched document is refused", err.(Faults)} //nolint:errorlint,forcetypeassert // its only error
		}
		return doc, nil
	})
}

// change makes a change and answers it.
func (p *Plane) change(w http.ResponseWriter, r *http.Request, o *order, next func(before *document) (*document, *problem)) {
	out, status, problem := p.replace(r, o, next)
	if problem != nil {
		refuse(w, problem.code, problem.message, problem.faults)
		return
	}
	if !o.dry {
		w.Header().Set("ETag", etag(out.Version))
		if o.wait > 0 {
			out.Answers = p.await(w, r, o.group, o.wait)
		}
	}
	host.WriteJSON(w, status, out)
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
	faults  Faults
}

// replace writes the next document and serves it, or only says what that would do. Nobody is answered in
// here, because a client that reads slowly must not hold up other changes.
func (p *Plane) replace(r *http.Request, o *order, next func(before *document) (*document, *problem)) (change, int, *problem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, refused := p.mayReplace(r, o.group)
	if refused != nil {
		return change{}, 0, refused
	}
	doc, refused := next(before.doc)
	if refused != nil {
		return change{}, 0, refused
	}
	out := p.compare(o.group, before.doc, doc)
	if out.DryRun = o.dry; o.dry {
		return out, http.StatusOK, nil
	}
	if err := write(p.source.file(o.group), doc.readable()); err != nil {
		return out, 0, p.failed(o.group, err)
	}
	p.tell(r, o.group, out.Changes).WithField("version", doc.version).Info("limits_changed")
	p.reloadGroup(o.group)
	if now := p.state.Load().groups[o.group].doc; now == nil || now.version != doc.version {
		return out, 0, p.failed(o.group, errors.New("something else is in the file by now"))
	}
	if before.file == "" {
		return out, http.StatusCreated, nil
	}
	return out, http.StatusOK, nil
}

// tell is the log line of a change: who made it, and which members it gave another value or took away.
func (p *Plane) tell(r *http.Request, name string, changes []memberChange) *logrus.Entry {
	var changed, removed []string
	for _, c := range changes {
		if c.To == nil {
			removed = append(removed, c.Member)
		} else {
			changed = append(changed, c.Member)
		}
	}
	f := logrus.Fields{"group": name, "peer": r.RemoteAddr, "changed": strings.Join(changed, " "), "removed": strings.Join(removed, " ")}
	if ids := urisOf(r.TLS); len(ids) > 0 {
		f["client"] = strings.Join(ids, " ")
	}
	return p.log.WithFields(f)
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
	switch {
	case s.failed != nil:
		return g, &problem{internal, s.failed.Error(), nil}
	case !p.source.dir && name != defaultGroup:
		return g, &problem{conflict, "the limits are one file, which is the group " + defaultGroup, nil}
	case !conditionsHold(r.Header, exists, tag):
		return g, &problem{failedCondition, "the document is another one by now, see its ETag", nil}
	case g.twins:
		return g, &problem{conflict, "the group has two files: remove one of them", nil}
	case exists && !g.gone && g.file != p.source.file(name), p.source.byHand():
		return g, &problem{conflict, "the group is kept in a file that is written by hand: change " + g.file, nil}
	case !exists && len(s.groups) >= maxGroups:
		return g, &problem{conflict, fmt.Sprintf("there are %d groups already", maxGroups), nil}
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
	names := object{}
	maps.Copy(names, from)
	maps.Copy(names, to)
	list := []memberChange{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if string(from[name]) != string(to[name]) {
			list = append(list, memberChange{name, json.RawMessage(from[name]), json.RawMessage(to[name])})
		}
	}
	return list
}

func (d *document) members() object {
	if d == nil {
		return nil
	}
	members, err := readObject(d.text)
	if err != nil {
		panic("control: a document in force is no JSON object: " + err.Error())
	}
	return members
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
	host.SetJSONHeaders(w)
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
		return &problem{notFound, "there is no such group", nil}
	case !p.source.dir:
		return &problem{conflict, "the limits are one file, without which no control plane starts: put {} instead", nil}
	}
	if err := remove(g.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p.failed(name, err)
	}
	p.tell(r, name, differences(g.doc, nil)).Warn("limits_deleted")
	p.forget(name)
	return nil
}

// failed is for a change that could not be written, or not made to last. What is in the file now
// is served, whichever it is. It is called under p.mu.
func (p *Plane) failed(name string, err error) *problem {
	p.log.WithError(err).WithField("group", name).Error("limits_not_written")
	p.reload()
	return &problem{internal, "the change is not known to be written: " + err.Error(), nil}
}
