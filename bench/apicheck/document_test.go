package apicheck

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pb33f/libopenapi/datamodel/high/base"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
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
	for name, proxy := range c.model.Components.Schemas.FromOldest() {
		s := proxy.Schema()
		if constant(s, "code") == "" {
			continue
		}
		got = append(got, constant(s, "code")+" "+constant(s, "http")+" "+constant(s, "retryable"))
		if !answered[name] {
			t.Errorf("no route answers %s", name)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
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

// TestDocumentExamples: every example is what its schema allows, every schema of a body has one, and
// receipts verify; by walking the operations.
func TestDocumentExamples(t *testing.T) {
	c := loadDocument(t)
	receipts := 0
	for path, item := range c.model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			for _, p := range op.Parameters {
				if p.Example != nil {
					c.example(t, method+" "+path+" "+p.Name, p.Schema.Schema(), p.Example.Decode)
				}
			}
			if op.RequestBody != nil {
				media := op.RequestBody.Content.GetOrZero(mediaType)
				c.example(t, method+" "+path, media.Schema.Schema(), media.Example.Decode)
			}
		}
	}
	for _, a := range c.answers {
		for name, decodeExample := range examplesOf(a.response.Content.GetOrZero(mediaType)) {
			raw, value := asJSON(t, decodeExample)
			m, err := c.meaningOf(a, value)
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
		if !strings.HasPrefix(missing, "GET /v1/tx/{txid} 200") { // one example of three is enough there
			t.Errorf("no example of %s", missing)
		}
	}
	if receipts < 4 {
		t.Errorf("only %d receipts", receipts)
	}
	for name, proxy := range c.model.Components.Schemas.FromOldest() {
		for _, e := range proxy.Schema().Examples {
			c.example(t, name, proxy.Schema(), e.Decode)
		}
	}
}

func examplesOf(media *v3.MediaType) map[string]func(any) error {
	all := map[string]func(any) error{}
	if media.Example != nil {
		all["-"] = media.Example.Decode
	}
	for name, e := range media.Examples.FromOldest() {
		all[name] = e.Value.Decode
	}
	return all
}

func (c *Checker) example(t *testing.T, where string, schema *base.Schema, decodeExample func(any) error) {
	t.Helper()
	_, value := asJSON(t, decodeExample)
	if ok, errs := c.schemas.ValidateSchemaObject(schema, value); !ok {
		t.Errorf("%s: example %v: %v", where, value, joined(errs))
	}
}

// asJSON turns a YAML value into the JSON that a client would send or get.
func asJSON(t *testing.T, decodeExample func(any) error) (raw []byte, value any) {
	t.Helper()
	if err := decodeExample(&value); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if value, err = decode(raw); err != nil {
		t.Fatal(err)
	}
	return raw, value
}

// TestDocumentPatterns: the document's patterns accept what package wallet accepts, and nothing else
// but amounts between 2^128 and 10^39, which a pattern cannot well tell; by property over texts near
// the grammars.
func TestDocumentPatterns(t *testing.T) {
	c := loadDocument(t)
	key := ""
	for _, p := range c.model.Paths.PathItems.GetOrZero("/v1/burn").Post.Parameters {
		if p.Name == "Idempotency-Key" {
			key = p.Schema.Schema().Pattern
		}
	}
	schema := func(name string) string { return c.model.Components.Schemas.GetOrZero(name).Schema().Pattern }
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
