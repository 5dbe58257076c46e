// Package apicheck holds HTTP answers against docs/openapi.yaml. Tests and load drivers pass every
// answer of the wallet routes through it: an answer that the document does not allow fails, and
// at the end Missing tells what the document promises that no answer has shown.
//
// Its one entry is Load. Invariant: what is kept is bounded by the document, however many answers
// are checked.
package apicheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	liberrors "github.com/pb33f/libopenapi-validator/errors"
	"github.com/pb33f/libopenapi-validator/paths"
	"github.com/pb33f/libopenapi-validator/responses"
	"github.com/pb33f/libopenapi-validator/schema_validation"
	"github.com/pb33f/libopenapi/datamodel/high/base"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
)

// Checker holds answers against one document. It is safe for concurrent use.
type Checker struct {
	mu        sync.Mutex // guards all below: libopenapi builds its schemas when they are first used
	model     *v3.Document
	schemas   schema_validation.SchemaValidator
	answers   []*answer // in the document's order
	byName    map[string]*answer
	elsewhere *answer // of 404: what a path that is not in the document gets
}

// mediaType is what every answer is.
const mediaType = "application/json"

// answer is one status of one operation.
type answer struct {
	path, method string
	status       int
	response     *v3.Response
	meanings     []*meaning
}

// meaning is one schema that the answer's body may have.
type meaning struct {
	text   string // "POST /v1/burn 409 NONCE_CONFLICT NonceConflict"
	schema *base.Schema
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

func parse(raw []byte) (*Checker, error) {
	doc, err := libopenapi.NewDocument(raw)
	if err != nil {
		return nil, err
	}
	v, errs := validator.NewValidator(doc)
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	if ok, errs := v.ValidateDocument(); !ok {
		return nil, joined(errs)
	}
	model, err := doc.BuildV3Model()
	if err != nil {
		return nil, err
	}
	c := &Checker{model: &model.Model, schemas: schema_validation.NewSchemaValidator(), byName: map[string]*answer{}}
	for path, item := range c.model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			if err := c.addOperation(path, strings.ToUpper(method), op); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

func (c *Checker) addOperation(path, method string, op *v3.Operation) error {
	for code, response := range op.Responses.Codes.FromOldest() {
		status, err := strconv.Atoi(code)
		if err != nil {
			return fmt.Errorf("%s %s: status %q must be a number", method, path, code)
		}
		a := &answer{path: path, method: method, status: status, response: response}
		if a.meanings, err = a.read(); err != nil {
			return err
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

// read lists the schemas of the answer's JSON body: the branches of oneOf, or the one schema.
func (a *answer) read() ([]*meaning, error) {
	media := a.response.Content.GetOrZero(mediaType)
	if media == nil || media.Schema == nil {
		return nil, fmt.Errorf("%s: no %s schema", a.name(), mediaType)
	}
	proxies := media.Schema.Schema().OneOf
	if proxies == nil {
		proxies = []*base.SchemaProxy{media.Schema}
	}
	var all []*meaning
	for _, p := range proxies {
		schema, ref := p.Schema(), p.GetReference()
		text := a.name()
		if code := constant(schema, "code"); code != "" {
			text += " " + code
		}
		all = append(all, &meaning{text: text + " " + ref[strings.LastIndex(ref, "/")+1:], schema: schema})
	}
	return all, nil
}

// constant is the one value that a member may have, empty where there are more.
func constant(schema *base.Schema, member string) string {
	if schema.Properties == nil {
		return ""
	}
	p := schema.Properties.GetOrZero(member)
	if p == nil || p.Schema().Const == nil {
		return ""
	}
	return p.Schema().Const.Value
}

// Check says what is wrong with an answer to req, and otherwise records it. Beyond the document,
// it wants the request's X-Corr-ID back, the corr_id of an error to be the header's, X-RateLimit-*
// with RATE_LIMITED, and no header that the document does not name. A path that is not in the document may only be answered
// with the shared 404 (or 400, where the path is ambiguous), another method only with 405 (or 400).
// The request's body is not read.
func (c *Checker) Check(req *http.Request, status int, header http.Header, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, inDocument := c.find(req, status)
	if a == nil {
		return fmt.Errorf("apicheck: %s %s: status %d is not documented", req.Method, req.URL.Path, status)
	}
	m, err := c.check(a, req, header, body)
	if err != nil {
		return fmt.Errorf("apicheck: %s %s: %d %.1000q: %w", req.Method, req.URL.Path, status, body, err)
	}
	if m != nil && inDocument {
		m.seen = true
	}
	return nil
}

// find returns the documented answer, and whether the request's path is in the document.
func (c *Checker) find(req *http.Request, status int) (a *answer, inDocument bool) {
	item, _, path := paths.FindPath(req, c.model, &config.ValidationOptions{})
	switch {
	case item == nil && status == http.StatusNotFound:
		return c.elsewhere, false
	case item == nil && status == http.StatusBadRequest && c.elsewhere != nil:
		return c.byName[fmt.Sprintf("%s %s %d", c.elsewhere.method, c.elsewhere.path, status)], false
	case item == nil:
		return nil, false
	}
	if item.GetOperations().GetOrZero(strings.ToLower(req.Method)) != nil {
		return c.byName[fmt.Sprintf("%s %s %d", req.Method, path, status)], true
	}
	if status != http.StatusMethodNotAllowed && status != http.StatusBadRequest {
		return nil, true
	}
	method := strings.ToUpper(item.GetOperations().First().Key())
	return c.byName[fmt.Sprintf("%s %s %d", method, path, status)], true
}

// check returns the meaning of the body, nil for HEAD, whose answer has none.
func (c *Checker) check(a *answer, req *http.Request, header http.Header, body []byte) (*meaning, error) {
	response := &http.Response{StatusCode: a.status, Header: header}
	if ok, errs := responses.ValidateResponseHeaders(req, response, a.response.Headers, a.path, strconv.Itoa(a.status)); !ok {
		return nil, joined(errs)
	}
	if err := a.documents(header); err != nil {
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
	m, err := c.meaningOf(a, value)
	if err != nil {
		return nil, err
	}
	return m, beyond(req, header, value)
}

// meaningOf returns the one meaning that the body has.
func (c *Checker) meaningOf(a *answer, value any) (*meaning, error) {
	var (
		found *meaning
		wrong []string
	)
	for _, m := range a.meanings {
		ok, errs := c.schemas.ValidateSchemaObject(m.schema, value)
		switch {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("not %s: %v", m.text, joined(errs)))
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

// documents reports the first header that the answer does not name.
func (a *answer) documents(header http.Header) error {
	named := slices.Clone(transport)
	for name := range a.response.Headers.KeysFromOldest() {
		named = append(named, http.CanonicalHeaderKey(name))
	}
	for name := range header {
		if !slices.Contains(named, http.CanonicalHeaderKey(name)) {
			return fmt.Errorf("header %s is not documented", name)
		}
	}
	return nil
}

// Missing lists, in the document's order, every method, path, status, code and schema that no
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

// joined makes one line of what the validator found.
func joined(errs []*liberrors.ValidationError) error {
	var all []string
	for _, e := range errs {
		text := e.Reason
		for _, s := range e.SchemaValidationErrors {
			text += fmt.Sprintf(" [%s: %s]", s.FieldPath, s.Reason)
		}
		all = append(all, text)
	}
	return errors.New(strings.Join(all, "; "))
}
