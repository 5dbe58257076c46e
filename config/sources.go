package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/toml/v2"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"svc-wallet/host"
)

// maxFile bounds what is read of a configuration file, and the size of a push.
const maxFile = 1 << 20

// layer is what one source says: what it sets, by key, and what that is called in a fault.
type layer struct {
	values map[string]any
	source func(key string) string
}

// apply sets the fields that l speaks of. It goes on after a fault, so that all are found, and a
// fault counts even where a higher layer sets the key: it would come up on the day that layer
// no longer does.
func (c *Config) apply(l layer) (faults Faults) {
	for _, key := range slices.Sorted(maps.Keys(l.values)) {
		raw, source := l.values[key], l.source(key)
		row, known := table().byKey[key]
		if !known {
			faults = append(faults, unknown(key, raw, source)...)
			continue
		}
		if problem := row.bind(c).set(raw); problem != "" {
			faults = append(faults, Fault{key, shown(raw), source, problem})
			continue
		}
		c.sources[key] = source
	}
	return faults
}

// unknown is the fault of a key that the table lacks. A section that stands empty is none.
func unknown(key string, raw any, source string) Faults {
	for _, r := range table().rows {
		if !strings.HasPrefix(r.key, key+".") {
			continue
		}
		if m, isMap := raw.(map[string]any); raw == nil || (isMap && len(m) == 0) {
			return nil
		}
		return Faults{{key, shown(raw), source, "is not a section of keys"}}
	}
	return Faults{{Key: plain(key), Source: source, Problem: "unknown key"}}
}

// fileLayer reads a configuration file. A file that cannot be read or parsed is one fault.
func fileLayer(path string) (layer, Faults) {
	if path == "" {
		return layer{}, nil
	}
	raw, err := host.ReadFile(path, maxFile)
	if err != nil {
		return layer{}, Faults{{Key: plain(path), Problem: "cannot read the configuration: " + errors.Unwrap(err).Error()}}
	}
	return parseFile(path, raw)
}

// parseFile reads raw as the extension of path says.
func parseFile(path string, raw []byte) (layer, Faults) {
	parsers := map[string]koanf.Parser{".toml": strict{toml.Parser()}, ".yaml": strict{yamlParser{}}, ".yml": strict{yamlParser{}}}
	parser, known := parsers[filepath.Ext(path)]
	if !known {
		return layer{}, Faults{{Key: plain(path), Problem: "the extension of a configuration is .toml, .yaml or .yml"}}
	}
	k := koanf.New(".")
	if err := k.Load(rawbytes.Provider(raw), parser); err != nil {
		return layer{}, Faults{{Key: plain(path), Problem: oneLine(err)}}
	}
	return layer{k.All(), func(string) string { return plain(path) }}, nil
}

// oneLine is a parser's message with the place it speaks of, cut where it quotes too much.
func oneLine(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	var at interface{ Position() (row, column int) } // go-toml's errors
	if errors.As(err, &at) {
		row, column := at.Position()
		text = fmt.Sprintf("line %d, column %d: %s", row, column, text)
	}
	if r := []rune(text); len(r) > 200 {
		text = string(r[:200]) + "…"
	}
	return text
}

// strict refuses the names and depths that koanf's joined keys would blur: `"limits.queue" = 1`
// and queue = 2 in [limits] are both limits.queue to it, and which one it takes is chance.
type strict struct{ koanf.Parser }

// These are more brackets in a file (4096 exceptions have two each), and far more dots in a line,
// than a configuration needs, and far fewer than it takes to overflow the stack or fill the memory by
// way of the TOML parser, which descends without a bound (TestHostileFiles).
const (
	maxBrackets = 10_000
	maxDots     = 1000
)

// Unmarshal parses a file.
func (s strict) Unmarshal(raw []byte) (map[string]any, error) {
	if bytes.Count(raw, []byte("["))+bytes.Count(raw, []byte("{")) > maxBrackets {
		return nil, fmt.Errorf("there are more than %d opening brackets", maxBrackets)
	}
	for line := range bytes.Lines(raw) {
		if bytes.Count(line, []byte(".")) > maxDots {
			return nil, fmt.Errorf("there are more than %d dots in a line", maxDots)
		}
	}
	tree, err := s.Parser.Unmarshal(raw)
	if err != nil {
		return nil, err
	}
	return tree, checkNames(tree, 0)
}

func checkNames(tree map[string]any, depth int) error {
	for name, below := range tree {
		if strings.Contains(name, ".") {
			return fmt.Errorf("the name %s has a dot in it: write it below its section", quoted(name))
		}
		switch below := below.(type) {
		case map[any]any: // YAML with a name that is a number, say
			return fmt.Errorf("the section %s has a name that is not text", plain(name))
		case map[string]any:
			if depth > 0 && len(below) > 0 {
				return fmt.Errorf("%s is a section within a section: there are none", plain(name))
			}
			if err := checkNames(below, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// yamlParser is koanf's parser for YAML but for one thing: a second document, which that one
// passes over in silence, is refused.
type yamlParser struct{}

// Unmarshal parses the one document.
func (yamlParser) Unmarshal(raw []byte) (tree map[string]any, err error) {
	documents := yaml.NewDecoder(bytes.NewReader(raw))
	if err := documents.Decode(&tree); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := documents.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one YAML document")
	}
	return tree, nil
}

// Marshal completes koanf.Parser.
func (yamlParser) Marshal(tree map[string]any) ([]byte, error) { return yaml.Marshal(tree) }

// kubernetes matches what Kubernetes puts into the environment of every pod for a Service whose
// name starts with svc-wallet. These are not ours, and no key may look like them.
var kubernetes = regexp.MustCompile(`^SVC_WALLET_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// envLayer takes the SVC_WALLET_ variables of environ, which is as os.Environ gives it, and
// WALLET_WORKERS, which yields to SVC_WALLET_WORKERS.
func envLayer(environ []string) layer {
	keys, names := map[string]string{"WALLET_WORKERS": "workers"}, map[string]string{}
	for _, r := range table().rows {
		keys[r.env()] = r.key
	}
	take := func(name, value string) (string, any) {
		key, known := keys[name]
		switch {
		case !known && (!strings.HasPrefix(name, "SVC_WALLET_") || kubernetes.MatchString(name)):
			return "", nil
		case !known:
			key = strings.ReplaceAll(name, ".", "_") // unknown: apply says so
		case name == "WALLET_WORKERS" && names[key] != "" && names[key] != name:
			return "", nil
		}
		names[key] = name
		return key, word(value)
	}
	k := koanf.New(".")
	read(k, env.Provider(".", env.Opt{TransformFunc: take, EnvironFunc: func() []string { return environ }}))
	return layer{k.All(), func(key string) string {
		if _, known := keys[names[key]]; !known {
			return "the environment"
		}
		return names[key]
	}}
}

// flagLayer takes the flags that were given, of those that BindFlags made.
func flagLayer(fs *pflag.FlagSet) layer {
	if fs == nil {
		return layer{}
	}
	keys, names := map[string]string{}, map[string]string{}
	for _, r := range table().rows {
		if r.flag != "" {
			keys[r.flag], names[r.key] = r.key, "--"+r.flag
		}
	}
	k := koanf.New(".")
	read(k, posflag.ProviderWithFlag(fs, ".", nil, func(f *pflag.Flag) (string, any) {
		return keys[f.Name], word(f.Value.String())
	}))
	return layer{k.All(), func(key string) string { return names[key] }}
}

// read loads a provider that reads memory and so cannot fail.
func read(k *koanf.Koanf, p koanf.Provider) {
	if err := k.Load(p, nil); err != nil {
		panic(fmt.Sprintf("config: reading memory failed: %v", err))
	}
}
