// Package apicheck holds HTTP answers against docs/openapi.yaml. Tests and load drivers pass every
// answer of the wallet routes through it: an answer that the document does not allow fails, and
// at the end Missing tells what the document promises that no answer has shown.
//
// Its one entry is Load. Invariant: what is kept is bounded by the document, however many answers
// are checked.
package apicheck

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// Checker holds answers against one document. It is safe for concurrent use.
type Checker struct {
	doc       *openapi3.T
	schemas   *jsonschema.Compiler // Load's alone: it is not safe for concurrent use
	paths     []string             // sorted: those with a parameter come after their literal siblings
	answers   []*answer            // by path, method and status
	byName    map[string]*answer
	elsewhere *answer // of 404: what a path that is not in the document gets

	mu sync.Mutex // guards the meanings' seen
}

// mediaType is what every answer is.
const mediaType = "application/json"

// answer is one status of one operation.
type answer struct {
	path, method string
	status       int
	headers      map[string]*header // by canonical name
	meanings     []*meaning
}

// header is one header that an answer may have.
type header struct {
	name     string // as the document spells it
	required bool
	schema   *jsonschema.Schema
}

// meaning is one schema that the answer's body may have.
type meaning struct {
	text   string // "POST /v1/burn 409 NONCE_CONFLICT NonceConflict"
	schema *jsonschema.Schema
	seen   bool
}

// Load reads and validates the document.
func Load(path string) (*Checker, error) {
	raw, err := os.ReadFile(path) //nolint:gosec // the caller's own document
	if err != nil {
		return nil, fmt.Errorf("apicheck: %w", err)
	}
	c, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("apicheck: %s: %w", path, err)
	}
	return c, nil
}

// parse validates the document with kin-openapi, which also resolves its references. The schemas are
// compiled from the document itself: kin-openapi's numbers are doubles, and 2^64-1 is none.
func parse(raw []byte) (*Checker, error) {
	doc, err := openapi3.NewLoader().LoadFromData(raw)
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, err
	}
	plain, err := fromYAML(raw)
	if err != nil {
		return nil, err
	}
	c := &Checker{doc: doc, schemas: jsonschema.NewCompiler(), byName: map[string]*answer{}}
	if err := c.schemas.AddResource(resource, plain); err != nil {
		return nil, err
	}
	c.paths = slices.Sorted(maps.Keys(doc.Paths.Map()))
	slices.SortStableFunc(c.paths, func(a, b string) int { return cmp.Compare(strings.Count(a, "{"), strings.Count(b, "{")) })
	for _, path := range c.paths {
		operations := doc.Paths.Value(path).Operations()
		for _, method := range slices.Sorted(maps.Keys(operations)) {
			if err := c.addOperation(path, method, operations[method]); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// fromYAML returns what a JSON decoder would, with numbers as they are written.
func fromYAML(raw []byte) (any, error) {
	var v any
	if err := yaml.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return decode(raw)
}

func (c *Checker) addOperation(path, method string, op *openapi3.Operation) error {
	responses := op.Responses.Map()
	for _, code := range slices.Sorted(maps.Keys(responses)) {
		status, err := strconv.Atoi(code)
		if err != nil {
			return fmt.Errorf("%s %s: status %q must be a number", method, path, code)
		}
		a := &answer{path: path, method: method, status: status, headers: map[string]*header{}}
		if err := c.read(a, responses[code], pointer("#", "paths", path, strings.ToLower(method), "responses", code)); err != nil {
			return fmt.Errorf("%s: %w", a.name(), err)
		}
		c.answers = append(c.answers, a)
		c.byName[a.name()] = a
		if status == http.StatusNotFound {
			c.elsewhere = a
		}
	}
	return nil
}

func (a *answer) name() string { return fmt.Sprintf("%s %s %d", a.method, a.path, a.status) }

// read compiles the headers and the schemas of the answer's JSON body, one for each meaning. The response stands at the place, unless it refers to another.
func (c *Checker) read(a *answer, response *openapi3.ResponseRef, place string) error {
	place = cmp.Or(response.Ref, place)
	for name, h := range response.Value.Headers {
		schema, err := c.compile(pointer(cmp.Or(h.Ref, pointer(place, "headers", name)), "schema"))
		if err != nil {
			return err
		}
		a.headers[http.CanonicalHeaderKey(name)] = &header{name: name, required: h.Value.Required, schema: schema}
	}
	media := response.Value.Content[mediaType]
	if media == nil || media.Schema == nil {
		return fmt.Errorf("no %s schema", mediaType)
	}
	schema, err := c.compile(pointer(place, "content", mediaType, "schema"))
	if err != nil {
		return err
	}
	for _, s := range branches(schema) {
		text := a.name()
		if code := constant(s, "code"); code != "" {
			text += " " + code
		}
		a.meanings = append(a.meanings, &meaning{text: text + " " + path.Base(target(s).Location), schema: s})
	}
	return nil
}

// branches are the schemas that a value may have: those of oneOf, and of theirs, or the one.
func branches(s *jsonschema.Schema) (all []*jsonschema.Schema) {
	for _, branch := range target(s).OneOf {
		all = append(all, branches(branch)...)
	}
	if all == nil {
		return []*jsonschema.Schema{s}
	}
	return all
}

// resource is the document's own name among the schemas.
const resource = "openapi.json"

func (c *Checker) compile(place string) (*jsonschema.Schema, error) {
	return c.schemas.Compile(resource + place)
}

// pointer extends a JSON pointer in a URL's fragment.
func pointer(to string, steps ...string) string {
	for _, s := range steps {
		to += "/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(s))
	}
	return to
}

// target is the schema that a reference leads to.
func target(s *jsonschema.Schema) *jsonschema.Schema {
	for s.Ref != nil {
		s = s.Ref
	}
	return s
}

// constant is the one value that a member may have, empty where there are more.
func constant(s *jsonschema.Schema, member string) string {
	p := target(s).Properties[member]
	if p == nil || target(p).Const == nil {
		return ""
	}
	return fmt.Sprint(*target(p).Const)
}

// Check says what is wrong with an answer to req, and otherwise records it. Beyond the document,
// it wants the request's X-Corr-ID back, the corr_id of an error to be the header's, X-RateLimit-*
// with RATE_LIMITED, and no header that the document does not name. A path that is not in the document may only be answered
// with the shared 404 (or 400, where the path is ambiguous), another method only with 405 (or 400).
// The request's body is not read.
func (c *Checker) Check(req *http.Request, status int, header http.Header, body []byte) error {
	a, inDocument := c.find(req, status)
	if a == nil {
		return fmt.Errorf("apicheck: %s %s: status %d is not documented", req.Method, req.URL.Path, status)
	}
	m, err := a.check(req, header, body)
	if err != nil {
		return fmt.Errorf("apicheck: %s %s: %d %.1000q: %w", req.Method, req.URL.Path, status, body, err)
	}
	if m != nil && inDocument {
		c.mu.Lock()
		defer c.mu.Unlock()
		m.seen = true
	}
	return nil
}

// find returns the documented answer, and whether the request's path is in the document.
func (c *Checker) find(req *http.Request, status int) (a *answer, inDocument bool) {
	i := slices.IndexFunc(c.paths, func(path string) bool { return matches(path, req.URL.Path) })
	switch {
	case i < 0 && status == http.StatusNotFound:
		return c.elsewhere, false
	case i < 0 && status == http.StatusBadRequest && c.elsewhere != nil:
		return c.byName[fmt.Sprintf("%s %s %d", c.elsewhere.method, c.elsewhere.path, status)], false
	case i < 0:
		return nil, false
	}
	operations, method := c.doc.Paths.Value(c.paths[i]).Operations(), req.Method
	if operations[method] == nil {
		if status != http.StatusMethodNotAllowed && status != http.StatusBadRequest {
			return nil, true
		}
		method = slices.Min(slices.Collect(maps.Keys(operations)))
	}
	return c.byName[fmt.Sprintf("%s %s %d", method, c.paths[i], status)], true
}

// matches says whether a path is one of the template, such as /v1/tx/{txid}.
func matches(template, path string) bool {
	want, got := strings.Split(template, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, got, func(want, got string) bool {
		return want == got || got != "" && strings.HasPrefix(want, "{")
	})
}

// check returns the meaning of the body, nil for HEAD, whose answer has none.
func (a *answer) check(req *http.Request, header http.Header, body []byte) (*meaning, error) {
	if err := a.allows(header); err != nil {
		return nil, err
	}
	if req.Method == http.MethodHead {
		return nil, nil //nolint:nilnil // nothing is wrong, and there is no body
	}
	if media, _, err := mime.ParseMediaType(header.Get("Content-Type")); err != nil || media != mediaType {
		return nil, fmt.Errorf("content type is %q, not %s", header.Get("Content-Type"), mediaType)
	}
	value, err := decode(body)
	if err != nil {
		return nil, err
	}
	m, err := a.meaningOf(value)
	if err != nil {
		return nil, err
	}
	return m, beyond(req, header, value)
}

// meaningOf returns the one meaning that the body has.
func (a *answer) meaningOf(value any) (*meaning, error) {
	var (
		found *meaning
		wrong []string
	)
	for _, m := range a.meanings {
		err := valid(m.schema, value)
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Sprintf("not %s: %v", m.text, err))
		case found != nil:
			return nil, fmt.Errorf("both %s and %s", found.text, m.text)
		default:
			found = m
		}
	}
	if found == nil {
		return nil, errors.New(strings.Join(wrong, "; "))
	}
	return found, nil
}

// decode keeps numbers as they are written: as doubles, nonces above 2^53 would be other ones.
func decode(body []byte) (value any, err error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		return nil, fmt.Errorf("body is no JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("body goes on after its JSON")
	}
	return value, nil
}

// transport are the headers that HTTP itself explains, so that the document need not.
var transport = []string{"Cache-Control", "Connection", "Content-Length", "Content-Type", "Date"} //nolint:gochecknoglobals // a table

// allows reports a header that is missing, wrong, or not named by the answer.
func (a *answer) allows(sent http.Header) error {
	for _, h := range a.headers {
		values := sent.Values(h.name)
		if len(values) == 0 && h.required {
			return fmt.Errorf("header '%s' is missing", h.name)
		}
		for _, v := range values {
			if err := valid(h.schema, h.value(v)); err != nil {
				return fmt.Errorf("header '%s' is %q: %w", h.name, v, err)
			}
		}
	}
	for name := range sent {
		name = http.CanonicalHeaderKey(name)
		if a.headers[name] == nil && !slices.Contains(transport, name) {
			return fmt.Errorf("header %s is not documented", name)
		}
	}
	return nil
}

// value is what the text of a header stands for.
func (h *header) value(text string) any {
	if _, err := strconv.ParseUint(text, 10, 64); err == nil && slices.Contains(target(h.schema).Types.ToStrings(), "integer") {
		return json.Number(text)
	}
	return text
}

// Missing lists, by path, method and status, every method, path, status, code and schema that no
// recorded answer has shown, such as "POST /v1/burn 409 NONCE_CONFLICT NonceConflict".
func (c *Checker) Missing() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var missing []string
	for _, a := range c.answers {
		for _, m := range a.meanings {
			if !m.seen {
				missing = append(missing, m.text)
			}
		}
	}
	return missing
}

// valid says in one line where the value is not what the schema allows.
func valid(schema *jsonschema.Schema, value any) error {
	err := schema.Validate(value)
	if err == nil {
		return nil
	}
	_, wrong, _ := strings.Cut(err.Error(), "\n") // the first line names the schema's place in the document
	return errors.New(strings.Join(strings.Fields(wrong), " "))
}
