package control

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"svc-wallet/config"
	"svc-wallet/host"
)

// Bounds of a document.
const (
	maxDocument  = 1 << 20 // bytes
	maxGlobs     = 256     // in one list of match
	maxEndpoints = 64      // of one cluster
	maxName      = 253     // bytes of an id, a cluster or a glob
)

// Faults is everything that is wrong with a document or a source, a line each.
type Faults []string

// Error has a line for each fault.
func (f Faults) Error() string { return strings.Join(f, "\n") }

// document is what the sidecars of a group are told. It is immutable.
type document struct {
	text    jsontext.Value // canonical JSON: equal documents have equal texts
	version string         // hash of text
	match   match
	serves  snapshot
}

// match chooses sidecars. Each entry is a name, or a glob in which * is any characters.
type match struct{ ids, clusters []string }

// member is a member of a JSON object.
type member struct {
	name  string
	value jsontext.Value
}

// parseDocument reads a document: a JSON object (RFC 8259) without duplicate names. The error is
// Faults.
func parseDocument(raw []byte, names Names) (*document, error) {
	if len(raw) > maxDocument {
		return nil, Faults{"the document is larger than 1MiB"}
	}
	all, err := readObject(raw)
	if err != nil {
		return nil, Faults{err.Error()}
	}
	var p parser
	d := &document{}
	var told contents
	var limits []member
	for _, m := range all {
		switch m.name {
		case "match":
			d.match = p.match(m.value)
		case "runtime":
			p.runtime(m.value)
			told.runtime = m.value
		case "clusters":
			told.clusters = p.clusters(m.value)
		default:
			limits = append(limits, m)
		}
	}
	if push := p.push("", limits); push != nil && len(limits) > 0 {
		told.limits = push.JSON()
	}
	if len(p.faults) > 0 {
		return nil, p.faults
	}
	if d.serves, err = newSnapshot(told, names); err != nil {
		return nil, Faults(strings.Split(err.Error(), "\n"))
	}
	if d.text, err = canonical(raw); err != nil {
		return nil, Faults{err.Error()}
	}
	d.version = hash(d.text)
	return d, nil
}

// canonical sorts members by name and takes spaces out. Digits stay as they are written.
func canonical(raw []byte) (jsontext.Value, error) {
	text := jsontext.Value(bytes.Clone(raw))
	err := text.Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false))
	return text, err
}

// readObject reads a JSON object and nothing after it.
func readObject(raw []byte) ([]member, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if dec.PeekKind() != '{' {
		return nil, errors.New("the document is not a JSON object")
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, host.OneLine(err)
	}
	var list []member
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, host.OneLine(err)
		}
		m := member{name: name.String()}
		if m.value, err = dec.ReadValue(); err != nil {
			return nil, host.OneLine(err)
		}
		m.value = m.value.Clone()
		list = append(list, m)
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, host.OneLine(err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the JSON object")
	}
	return list, nil
}

// parser goes on after a fault, so that all are found.
type parser struct{ faults Faults }

func (p *parser) fault(path, problem string) {
	p.faults = append(p.faults, path+": "+problem)
}

// push holds members against what config takes from a control plane; nil where it refuses them.
func (p *parser) push(prefix string, members []member) *config.Patch {
	push, err := config.ParsePush(appendObject(nil, members))
	var faults config.Faults
	if errors.As(err, &faults) {
		for _, f := range faults {
			p.faults = append(p.faults, prefix+f.String())
		}
	}
	return push
}

// object reads an object below the document's own, which the decoder has checked already.
func (p *parser) object(path string, raw jsontext.Value) []member {
	if raw.Kind() != '{' {
		p.fault(path, "is not an object")
		return nil
	}
	members, err := readObject(raw)
	if err != nil {
		p.fault(path, err.Error())
	}
	return members
}

// strings reads a list of 1 to most different texts that fit.
func (p *parser) strings(path string, raw jsontext.Value, most int, noun string, fits func(string) bool) []string {
	var list []string
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	ok := dec.PeekKind() == '['
	if ok {
		_, _ = dec.ReadToken()
	}
	for ok && dec.PeekKind() != ']' {
		t, err := dec.ReadToken()
		ok = err == nil && t.Kind() == '"' && len(list) < most && fits(t.String()) && !slices.Contains(list, t.String())
		if ok {
			list = append(list, t.String())
		}
	}
	if !ok || len(list) == 0 {
		p.fault(path, fmt.Sprintf("is not a list of 1 to %d different %s", most, noun))
		return nil
	}
	return list
}

func (p *parser) match(raw jsontext.Value) (m match) {
	for _, f := range p.object("match", raw) {
		switch f.name {
		case "ids":
			m.ids = p.strings("match.ids", f.value, maxGlobs, "names or globs", isName)
		case "clusters":
			m.clusters = p.strings("match.clusters", f.value, maxGlobs, "names or globs", isName)
		default:
			p.fault("match."+host.Plain(f.name), "unknown key")
		}
	}
	return m
}

// runtimePrefix is what the keys of a runtime layer that are ours begin with.
const runtimePrefix = "svc-wallet."

// runtime checks a layer: each of its keys is one of the limits or switches under another name.
func (p *parser) runtime(raw jsontext.Value) {
	var limits []member
	for _, m := range p.object("runtime", raw) {
		path := "runtime." + host.Plain(m.name)
		name, ours := strings.CutPrefix(m.name, runtimePrefix)
		route, isRoute := strings.CutPrefix(name, "route.")
		route, isSwitch := strings.CutSuffix(route, ".enabled")
		switch {
		case !ours:
			p.fault(path, "does not begin with "+runtimePrefix)
		case isRoute && isSwitch && slices.Contains(routes(), route):
			limits = append(limits, member{route + "_enabled", p.share(path, m.value)})
		case name == "writes_enabled" || name == "reads_enabled":
			limits = append(limits, member{name, p.share(path, m.value)})
		case isRoute, strings.HasSuffix(name, "_enabled"), name == "overrides", name == "shadow", name == "":
			p.fault(path, "unknown key")
		default:
			limits = append(limits, member{name, m.value})
		}
	}
	p.push("runtime: ", limits)
}

func routes() (names []string) {
	for r := config.RouteBalance; r < config.NumRoutes; r++ {
		names = append(names, r.String())
	}
	return names
}

// share reads a switch as runtime layers have it (true, false, a whole percentage, or a
// FractionalPercent) into one as limits have it. After a fault it stands for any right one.
func (p *parser) share(path string, raw jsontext.Value) jsontext.Value {
	fault := func() jsontext.Value {
		p.fault(path, "is not true, false, a percentage from 0 to 100 or a fraction such as {\"numerator\": 25, \"denominator\": \"HUNDRED\"}")
		return jsontext.Value("true")
	}
	var numerator, denominator uint64 = 0, 100
	switch raw.Kind() {
	case 't', 'f':
		return raw
	case '0':
		n, err := strconv.ParseUint(string(raw), 10, 32)
		if err != nil {
			return fault()
		}
		numerator = n
	case '{':
		for _, m := range p.object(path, raw) {
			n, err := strconv.ParseUint(string(m.value), 10, 32)
			parts := map[string]uint64{`"HUNDRED"`: 100, `"TEN_THOUSAND"`: 10_000, `"MILLION"`: 1_000_000}[string(m.value)]
			switch {
			case m.name == "numerator" && err == nil:
				numerator = n
			case m.name == "denominator" && parts != 0:
				denominator = parts
			default:
				return fault()
			}
		}
	default:
		return fault()
	}
	if numerator > denominator {
		return fault()
	}
	millionths := numerator * (1_000_000 / denominator)
	return jsontext.Value(fmt.Sprintf(`"%d.%04d%%"`, millionths/10_000, millionths%10_000))
}

// clusterMembers are the members of a cluster that are limits under another name.
func clusterMembers() map[string]string {
	return map[string]string{
		"connect_timeout":      "ledger_connect_timeout",
		"max_pending_requests": "queue",
		"max_requests":         "inflight",
		"consecutive_errors":   "breaker_errors",
		"base_ejection_time":   "breaker_open",
	}
}

// clusterSpec is a cluster of a document: its members as they are written, and its endpoints.
type clusterSpec struct {
	name      string
	members   map[string]jsontext.Value
	endpoints []string
}

func (p *parser) clusters(raw jsontext.Value) (specs []clusterSpec) {
	for _, c := range p.object("clusters", raw) {
		path := "clusters." + host.Plain(c.name)
		if c.name != "ledger" && c.name != "auth" && c.name != "policy" {
			p.fault(path, "is none of ledger, auth and policy")
			continue
		}
		spec := clusterSpec{name: c.name, members: map[string]jsontext.Value{}}
		var limits []member
		for _, m := range p.object(path, c.value) {
			limit, known := clusterMembers()[m.name]
			switch {
			case known:
				spec.members[m.name] = m.value
				limits = append(limits, member{limit, m.value})
			case m.name == "endpoints":
				spec.endpoints = p.strings(path+".endpoints", m.value, maxEndpoints, "endpoints, each unix:PATH or HOST:PORT", isEndpoint)
			default:
				p.fault(path+"."+host.Plain(m.name), "unknown key")
			}
		}
		p.push(path+": ", limits)
		specs = append(specs, spec)
	}
	return specs
}

func isEndpoint(s string) bool {
	_, err := host.ParseAddr(s)
	return err == nil
}

// isName says whether s can be a node's id or cluster, or a glob of those.
func isName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}
