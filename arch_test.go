package house

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// imports is the whole import graph of the product, from docs/architecture.md: a package may
// import those of ours that stand behind it, and no others. A folder that is missing here may
// not hold Go code.
var imports = map[string]string{
	"wallet":                 "",
	"host":                   "",
	"config":                 "wallet host",
	"filters/macaroon":       "",
	"filters":                "wallet host config filters/macaroon",
	"ledger/ledgerpb":        "",
	"ledger/wire":            "wallet ledger/ledgerpb",
	"ledger":                 "wallet host config ledger/wire ledger/ledgerpb",
	"ledger/node":            "wallet host ledger/wire ledger/ledgerpb",
	"ledger/contract":        "wallet ledger ledger/wire",
	"proxy":                  "wallet host config filters ledger",
	"xds/xdspb":              "",
	"xds":                    "wallet host config xds/xdspb",
	"xds/control":            "wallet host config xds xds/xdspb",
	"docs":                   "",
	"bench/apicheck":         "",
	"bench/pki":              "",
	"bench/hostile":          "",
	"bench/xds":              "wallet config xds",
	"bench/rig":              "",
	"bench/compare":          "bench/rig",
	"bench/link":             "",
	"bench/chaos":            "bench/link",
	"bench/svc-wallet-bench": "bench/link bench/rig",
	"bench/refusals":         "filters bench/hostile bench/rig",
	"cmd/svc-wallet":         "wallet host config filters ledger ledger/node proxy xds xds/control docs",
}

// homes names the one package (or file) that may import a dependency, so that it can be replaced
// in one place.
var homes = map[string][]string{
	"github.com/valyala/fasthttp":            {"proxy", "bench/svc-wallet-bench"},
	"github.com/prometheus/client_golang":    {"proxy/metrics.go", "ledger/node/metrics.go", "xds/control/metrics.go"},
	"github.com/panjf2000/ants":              {"ledger/committer.go"},
	"github.com/afex/hystrix-go":             {"ledger/breaker.go"},
	"github.com/envoyproxy/go-control-plane": {"xds", "xds/control"},
	"github.com/cncf/xds":                    {"xds", "xds/control"},
	"github.com/fsnotify/fsnotify":           {"xds/control"},
	"google.golang.org/grpc":                 {"host/limit.go", "ledger", "ledger/node", "ledger/ledgerpb", "xds", "xds/control", "xds/xdspb"},
	"google.golang.org/protobuf":             {"ledger", "ledger/node", "ledger/ledgerpb", "xds", "xds/control", "xds/xdspb"},
	"github.com/cockroachdb/pebble":          {"ledger/node"},
	"github.com/pelletier/go-toml":           {"config"},
	"go.yaml.in/yaml":                        {"config", "bench/apicheck"},
	"github.com/spf13/cobra":                 {"cmd/svc-wallet"},
	"lukechampine.com/uint128":               {"wallet/amount.go"},
	"github.com/jackc/pgx":                   {"bench/svc-wallet-bench"},
	"github.com/google/pprof":                {"bench/svc-wallet-bench"},
	"github.com/getkin/kin-openapi":          {"bench/apicheck"},
	"github.com/santhosh-tekuri/jsonschema":  {"bench/apicheck"},
	"github.com/oklog/ulid":                  {"wallet", "ledger/node", "proxy", "cmd/svc-wallet"},
	"github.com/go-json-experiment/json":     {"wallet", "filters", "config", "xds", "xds/control"},
}

// TestImports holds every import of the product's code against the two tables above, by parsing
// all files that are not tests.
func TestImports(t *testing.T) {
	for file, path := range productImports(t) {
		dir := filepath.Dir(file)
		allowed, known := imports[dir]
		if !known {
			t.Errorf("%s: the folder %s is not in the import graph", file, dir)
			continue
		}
		for _, p := range path {
			if ours, ok := strings.CutPrefix(p, "svc-wallet/"); ok {
				if !slices.Contains(strings.Fields(allowed), ours) {
					t.Errorf("%s imports %s, but %s may import only: %s", file, ours, dir, allowed)
				}
				continue
			}
			for dep, home := range homes {
				if (p == dep || strings.HasPrefix(p, dep+"/")) && !slices.Contains(home, dir) && !slices.Contains(home, file) {
					t.Errorf("%s imports %s, whose home is %s", file, p, strings.Join(home, ", "))
				}
			}
		}
	}
}

// TestFileLength: a file of the product has at most 400 lines. Functions are the linter's.
func TestFileLength(t *testing.T) {
	const most = 400
	for file := range productImports(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		generated := strings.HasSuffix(file, ".pb.go") || strings.HasPrefix(file, "bench/") || strings.HasPrefix(file, "ledger/contract/")
		if n := strings.Count(string(text), "\n"); n > most && !generated {
			t.Errorf("%s has %d lines, over %d: split it by what it does", file, n, most)
		}
	}
}

// TestTopLevel keeps the map of the house: no folder appears that docs/architecture.md does not
// show.
func TestTopLevel(t *testing.T) {
	rooms := strings.Fields("wallet host config filters ledger proxy xds bench deploy docs cmd e2e")
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") && e.Name() != "bin" && !slices.Contains(rooms, e.Name()) {
			t.Errorf("top-level folder %s is not one of %v", e.Name(), rooms)
		}
	}
}

func productImports(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules"):
			return filepath.SkipDir
		case d.Name() == "go.mod" && path != "go.mod": // a module of its own
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		found[path] = nil
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			found[path] = append(found[path], p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 10 {
		t.Fatalf("found only %v", slices.Collect(maps.Keys(found)))
	}
	return found
}
