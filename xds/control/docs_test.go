package control

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"svc-wallet/config"
	"svc-wallet/xds"
)

// page is docs/xds.md.
func page(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile("../../docs/xds.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// blocks are the page's blocks of code in one language; there must be so many.
func blocks(t *testing.T, language string, count int) (found []string) {
	t.Helper()
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(page(t), -1) {
		found = append(found, m[1])
	}
	if len(found) != count {
		t.Fatalf("%d blocks of %s, want %d: is each of them tested?", len(found), language, count)
	}
	return found
}

// TestPageDocuments: each JSON document of the page is one that this control plane takes, and what it
// makes of it a sidecar would take. So are the bodies that the page sends.
func TestPageDocuments(t *testing.T) {
	docs := blocks(t, "json", 4)
	for _, m := range regexp.MustCompile(`-X (?:PUT|PATCH) \S+ (?:\\\s+)?-d '([^']*)'`).FindAllStringSubmatch(strings.Join(blocks(t, "sh", 3), ""), -1) {
		docs = append(docs, m[1])
	}
	if len(docs) != 8 {
		t.Errorf("%d documents", len(docs))
	}
	for _, text := range docs {
		doc, err := parseDocument([]byte(text), Names{}.withDefaults())
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for k := range numKinds {
			for _, r := range doc.serves.delta[k].byName {
				m, err := r.GetResource().UnmarshalNew()
				if err != nil {
					t.Fatal(err)
				}
				if err := xds.Check(k.url(), m); err != nil {
					t.Errorf("%s: a sidecar refuses its %s: %v", text, k, err)
				}
			}
		}
	}
}

// TestPageIstio takes the value out of the page's EnvoyFilter as Istiod does, by protobuf's JSON, and
// holds it against what a sidecar takes.
func TestPageIstio(t *testing.T) {
	var filter struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Spec       struct {
			ConfigPatches []struct {
				ApplyTo string `yaml:"applyTo"`
				Patch   struct {
					Operation string
					Value     yaml.Node
				}
			} `yaml:"configPatches"`
		}
	}
	if err := yaml.Unmarshal([]byte(blocks(t, "yaml", 1)[0]), &filter); err != nil {
		t.Fatal(err)
	}
	patches := filter.Spec.ConfigPatches
	if filter.Kind != "EnvoyFilter" || len(patches) != 1 || patches[0].ApplyTo != "EXTENSION_CONFIG" || patches[0].Patch.Operation != "ADD" {
		t.Fatalf("%+v", filter)
	}
	value, err := yaml.Marshal(&patches[0].Patch.Value)
	if err != nil {
		t.Fatal(err)
	}
	text, err := config.ToJSON(".yaml", value)
	if err != nil {
		t.Fatal(err)
	}
	m := new(core.TypedExtensionConfig)
	if err := protojson.Unmarshal(text, m); err != nil {
		t.Fatal(err)
	}
	if m.GetName() != "svc-wallet.limits" || !strings.HasSuffix(m.GetTypedConfig().GetTypeUrl(), "udpa.type.v1.TypedStruct") {
		t.Errorf("%v", m)
	}
	if err := xds.Check(resource.ExtensionConfigType, m); err != nil {
		t.Error(err)
	}
}

// TestPageSettings loads the page's excerpts of a sidecar's file.
func TestPageSettings(t *testing.T) {
	for _, text := range blocks(t, "toml", 2) {
		file := filepath.Join(t.TempDir(), "w.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		env := []string{"SVC_WALLET_TLS_CERT_FILE=c", "SVC_WALLET_TLS_KEY_FILE=k", "SVC_WALLET_AUTH_ROOT_KEYS_FILE=r"}
		if strings.Contains(text, "client_ca") { // which only counts where client certificates are asked for
			env = append(env, "SVC_WALLET_TLS_CLIENT_AUTH=request")
		}
		if _, err := config.Load(config.Sources{File: file, Env: env, CPUs: 2}); err != nil {
			t.Errorf("%s\n%v", text, err)
		}
	}
}

// TestPageProgram: the page's program is the one that is compiled and run as xds's example.
func TestPageProgram(t *testing.T) {
	example, err := os.ReadFile("../example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	flat := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if program := blocks(t, "go", 1)[0]; !strings.Contains(flat(string(example)), flat(program)) {
		t.Errorf("xds/example_test.go does not have\n%s", program)
	}
}
