package apicheck

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"svc-wallet/wallet"
)

func loadDocument(t *testing.T) *Checker {
	t.Helper()
	c, err := Load("../../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDocumentCodes: the document's error schemas are the rows of wallet's table, by the code's name,
// status and retryable; every one is an answer of some route.
func TestDocumentCodes(t *testing.T) {
	c := loadDocument(t)
	var want, got []string
	for _, code := range wallet.Codes() {
		if code.Outcome() != wallet.Applied {
			want = append(want, fmt.Sprintf("%s %d %v", code.Name(), code.HTTP(), code.Retryable()))
		}
	}
	answered := map[string]bool{}
	for _, m := range c.Missing() {
		answered[m[strings.LastIndex(m, " ")+1:]] = true
	}
	for name := range c.doc.Components.Schemas {
		s := c.component(t, name)
		if constant(s, "code") == "" || target(s).OneOf != nil { // no error, or a choice of errors
			continue
		}
		got = append(got, constant(s, "code")+" "+constant(s, "http")+" "+constant(s, "retryable"))
		if !answered[name] {
			t.Errorf("no route answers %s", name)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	want, got = slices.Compact(want), slices.Compact(got) // causes may share what the wire shows of them
	if !slices.Equal(got, want) {
		t.Errorf("the document has\n%s\nwallet has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestDocumentStatus: an error is documented under the status that its body names.
func TestDocumentStatus(t *testing.T) {
	for _, a := range loadDocument(t).answers {
		for _, m := range a.meanings {
			if http := constant(m.schema, "http"); http != "" && http != fmt.Sprint(a.status) {
				t.Errorf("%s has http %s", m.text, http)
			}
		}
	}
}

// TestDocumentExamples: every answer has an example, which is what its schema allows, and receipts
// verify; by walking the answers. That examples of requests are what their schemas allow is for Load.
func TestDocumentExamples(t *testing.T) {
	c := loadDocument(t)
	receipts := 0
	for _, a := range c.answers {
		for name, example := range c.examples(a) {
			raw, err := json.Marshal(example)
			if err != nil {
				t.Fatal(err)
			}
			value, err := decode(raw)
			if err != nil {
				t.Fatal(err)
			}
			m, err := a.meaningOf(value)
			if err != nil {
				t.Errorf("%s, example %s: %v", a.name(), name, err)
				continue
			}
			m.seen = true
			if strings.HasSuffix(m.text, "Receipt") {
				receipts++
				if _, err := wallet.VerifyReceipt(raw); err != nil {
					t.Errorf("%s, example %s: %v", a.name(), name, err)
				}
			}
		}
	}
	for _, missing := range c.Missing() {
		if !strings.HasPrefix(missing, "GET /v1/tx/{txid} 200") && !strings.HasPrefix(missing, "GET /v1/tx 200") { // one example of three is enough there
			t.Errorf("no example of %s", missing)
		}
	}
	if receipts < 4 {
		t.Errorf("only %d receipts", receipts)
	}
	for name := range c.doc.Components.Schemas {
		schema := c.component(t, name)
		for _, e := range schema.Examples {
			if err := valid(schema, e); err != nil {
				t.Errorf("%s: example %v: %v", name, e, err)
			}
		}
	}
}

// examples returns those of an answer by name.
func (c *Checker) examples(a *answer) map[string]any {
	media := c.doc.Paths.Value(a.path).GetOperation(a.method).Responses.Status(a.status).Value.Content[mediaType]
	all := map[string]any{}
	if media.Example != nil {
		all["-"] = media.Example
	}
	for name, e := range media.Examples {
		all[name] = e.Value.Value
	}
	return all
}

// component compiles a schema of the document.
func (c *Checker) component(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	schema, err := c.schemas.Compile(resource + pointer("#", "components", "schemas", name))
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// TestDocumentPatterns: the document's patterns accept what package wallet accepts, and nothing else
// but amounts between 2^128 and 10^39, which a pattern cannot well tell; by property over texts near
// the grammars.
func TestDocumentPatterns(t *testing.T) {
	c := loadDocument(t)
	key := c.doc.Paths.Value("/v1/burn").Post.Parameters.GetByInAndName("header", "Idempotency-Key").Schema.Value.Pattern
	schema := func(name string) string { return c.doc.Components.Schemas[name].Value.Pattern }
	for _, row := range []struct {
		name, pattern string
		accepts       func(string) bool
		near          string
	}{
		{"account", schema("Account"), func(s string) bool { _, err := wallet.ParseAccount(s); return err == nil }, `[A-Za-z0-9_.:-]{0,66}|a[A-Za-z0-9]{62,64}|[ -~]{1,3}`},
		{"asset", schema("Asset"), func(s string) bool { _, err := wallet.ParseAsset(s); return err == nil }, `[a-z0-9_.-]{0,34}|a[a-z0-9]{30,32}|[ -~]{1,3}`},
		{"amount", schema("Amount"), func(s string) bool {
			a, err := wallet.ParseAmount(s)
			return err == nil && !a.IsZero()
		}, `[0-9]{0,38}|1[0-9]{37,39}|[ -~]{1,3}`},
		{"corr id", schema("CorrID"), func(s string) bool { _, err := wallet.ParseCorrID(s); return err == nil }, `[!-~]{0,66}|[!-~]{63,65}|[ -~\n]{1,3}`},
		{"key text", schema("IdemText"), func(s string) bool { _, err := wallet.IdemKeyFromText(s); return err == nil }, `[!-~]{0,66}|[!-~]{63,65}|[ -~\n]{1,3}`},
		{"key", key, func(s string) bool { _, err := wallet.ParseIdemKey(s); return err == nil }, `"?[!-~]{0,66}"?|[a-z]{63,65}|"[a-z]{63,65}"|"([a-z]|\\["\\]){60,66}"|["\\a]{1,6}|[ -~]{1,3}`},
		{"txid", schema("TxID"), func(s string) bool { _, err := wallet.ParseTxID(s); return err == nil }, `tx_[0-9][0-9A-Z]{24}[1-9A-Z]|tx_[0-7][0-9A-HJKMNP-TV-Z]{24}1`},
	} {
		t.Run(row.name, func(t *testing.T) {
			pattern, near := regexp.MustCompile(row.pattern), rapid.StringMatching(row.near)
			rapid.Check(t, func(t *rapid.T) {
				s := near.Draw(t, "text")
				if pattern.MatchString(s) != row.accepts(s) {
					t.Fatalf("%q: the document says %v, wallet says %v", s, pattern.MatchString(s), row.accepts(s))
				}
			})
		})
	}
}
