package control

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"svc-wallet/host"
)

// Bounds of a document.
const (
	maxDocument = 1 << 20 // bytes
	maxGlobs    = 256     // in one list of match
	maxName     = 253     // bytes of an id, a cluster or a glob
)

// Faults is everything that is wrong with a document or a source, a line each.
type Faults []string

// Error has a line for each fault.
func (f Faults) Error() string { return strings.Join(f, "\n") }

func (f *Faults) add(path string, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		*f = append(*f, path+line)
	}
}

// document is what the sidecars of a group are told. It is immutable.
type document struct {
	text    jsontext.Value // canonical JSON: equal documents have equal texts
	version string         // of text, and of all that is made of it
	match   match
	serves  snapshot
}

// match chooses sidecars. Each entry is a name, or a glob in which * is any characters.
type match struct {
	IDs      []string `json:"ids"`
	Clusters []string `json:"clusters"`
}

// clusterSpec is a cluster of a document.
type clusterSpec struct {
	ConnectTimeout     duration   `json:"connect_timeout"`
	MaxPendingRequests *uint32    `json:"max_pending_requests"`
	MaxRequests        *uint32    `json:"max_requests"`
	ConsecutiveErrors  *uint32    `json:"consecutive_errors"`
	BaseEjectionTime   duration   `json:"base_ejection_time"`
	Endpoints          []endpoint `json:"endpoints"`
}

// duration is one with its unit, such as 250ms; nil: it is not said.
type duration struct{ *time.Duration }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New("is not a duration with its unit, such as 250ms")
	}
	d.Duration = &v
	return nil
}

// endpoint is unix:PATH or HOST:PORT.
type endpoint struct{ host.Addr }

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *endpoint) UnmarshalText(text []byte) (err error) {
	if e.Addr, err = host.ParseAddr(string(text)); err != nil {
		return fmt.Errorf("is not an address: %w", err)
	}
	return nil
}

// object is the members of a JSON object.
type object = map[string]jsontext.Value

// parseDocument reads a document: a JSON object (RFC 8259) without duplicate names, whose limits, layer
// and clusters a sidecar would take. The error is Faults: all of them, but of each part only the first
// that says it has the wrong form.
func parseDocument(raw []byte, names Names) (*document, error) {
	if len(raw) > maxDocument {
		return nil, Faults{"the document is larger than 1MiB"}
	}
	all, err := readObject(raw)
	if err != nil {
		return nil, Faults{err.Error()}
	}
	text, err := canonical(raw)
	if err != nil {
		return nil, Faults{err.Error()}
	}
	d := &document{text: text, version: versionOf(text)}
	var faults Faults
	told := contents{names: names, version: d.version}
	part := func(name string, into any) bool {
		value, there := all[name]
		delete(all, name)
		return there && faults.read(name, value, into)
	}
	if part("match", &d.match) {
		faults.checkNames("match.ids", d.match.IDs)
		faults.checkNames("match.clusters", d.match.Clusters)
	}
	if part("runtime", &told.runtime) {
		for _, name := range slices.Sorted(maps.Keys(told.runtime)) {
			if !strings.HasPrefix(name, runtimePrefix) {
				faults.add("runtime."+host.Plain(name)+": ", errors.New("does not begin with \""+runtimePrefix+"\""))
			}
		}
	}
	var clusters object
	part("clusters", &clusters)
	told.clusters = faults.readClusters(clusters)
	told.limits = all
	if d.serves, err = newSnapshot(told); err != nil {
		faults.add("", err)
	}
	if len(faults) == 0 {
		if err := refuseFirst(text, isInexact); err != nil {
			faults.add("", err)
		}
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return d, nil
}

// runtimePrefix is what the keys of a runtime layer that are ours begin with. A sidecar passes others over,
// so one that is mistyped would be no limit.
const runtimePrefix = "svc-wallet."

// versionOf is the version of a document, and of each resource that is made of it. Count up the number
// where the same document makes other resources: else a sidecar that has it is not sent them.
func versionOf(text jsontext.Value) string { return hash(append([]byte("1 "), text...)) }

// canonical sorts members by name, takes spaces out, and refuses null. Digits stay as they are written.
func canonical(raw []byte) (jsontext.Value, error) {
	text := jsontext.Value(bytes.Clone(raw))
	err := text.Canonicalize(jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false))
	switch {
	case err != nil:
		return nil, err
	case len(text) >= maxDocument: // with the line's end that a file has
		return nil, errors.New("the document is larger than 1MiB")
	default:
		return text, refuseFirst(text, isNull)
	}
}

// isNull: Go takes null for a member that is not there.
func isNull(t jsontext.Token) string {
	if t.Kind() == jsontext.KindNull {
		return "is null: leave it out"
	}
	return ""
}

// isInexact: a number becomes a double on its way to the sidecar, and no setting is one.
func isInexact(t jsontext.Token) string {
	if t.Kind() == jsontext.KindNumber && strings.ContainsAny(t.String(), ".eE") {
		return "is a number with a point or an exponent"
	}
	return ""
}

// readObject reads a JSON object and nothing after it.
func readObject(raw []byte) (object, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
	if dec.PeekKind() != jsontext.KindBeginObject {
		return nil, errors.New("the document is not a JSON object")
	}
	var o object
	if err := json.UnmarshalDecode(dec, &o); err != nil {
		return nil, host.OneLine(err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the JSON object")
	}
	return o, nil
}

// read reads a part of a document, and says whether it has its form.
func (f *Faults) read(path string, raw jsontext.Value, into any) bool {
	err := json.Unmarshal(raw, into, json.RejectUnknownMembers(true))
	var wrong *json.SemanticError
	if !errors.As(err, &wrong) {
		if err != nil {
			f.add(path+": ", host.OneLine(err))
		}
		return err == nil
	}
	for name := range wrong.JSONPointer.Tokens() {
		path += "." + host.Plain(name)
	}
	problem := errors.New("is not an object")
	switch kind, isText := wrong.GoType.Kind(), reflect.PointerTo(wrong.GoType).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()); {
	case errors.Is(wrong.Err, json.ErrUnknownName):
		problem = errors.New("unknown key")
	case isText && wrong.JSONKind == jsontext.KindString:
		problem = wrong.Err
	case isText, kind == reflect.String:
		problem = errors.New("is not a text")
	case kind == reflect.Slice:
		problem = errors.New("is not a list")
	case kind == reflect.Uint32:
		problem = errors.New("is not a whole number in 0…4294967295")
	}
	f.add(path+": ", problem)
	return false
}

// refuseFirst finds the first token of a valid value that has a fault.
func refuseFirst(text jsontext.Value, fault func(jsontext.Token) string) error {
	dec := jsontext.NewDecoder(bytes.NewReader(text))
	for {
		t, err := dec.ReadToken()
		if err != nil { // the end
			return nil
		}
		if f := fault(t); f != "" {
			return fmt.Errorf("%s: %s", host.Plain(string(dec.StackPointer())), f)
		}
	}
}

// checkNames holds a list of match against its bounds; nil is absent.
func (f *Faults) checkNames(path string, list []string) {
	if list == nil {
		return
	}
	different := slices.Compact(slices.Sorted(slices.Values(list)))
	if len(list) == 0 || len(list) > maxGlobs || len(different) < len(list) || slices.ContainsFunc(list, func(s string) bool { return !isName(s) }) {
		f.add(path+": ", fmt.Errorf("is not a list of 1 to %d different names or globs", maxGlobs))
	}
}

func (f *Faults) readClusters(all object) map[string]clusterSpec {
	clusters := map[string]clusterSpec{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		path := "clusters." + host.Plain(name)
		var spec clusterSpec
		switch {
		case !slices.Contains([]string{"ledger", "auth", "policy"}, name):
			f.add(path+": ", errors.New("is none of ledger, auth and policy"))
		case !f.read(path, all[name], &spec):
		case spec.Endpoints != nil && len(spec.Endpoints) == 0:
			f.add(path+".endpoints: ", errors.New("is empty: leave it out"))
		default:
			clusters[name] = spec
		}
	}
	return clusters
}

// isName says whether s can be a node's id or cluster, or a glob of those.
func isName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}
