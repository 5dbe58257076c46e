package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"svc-wallet/host"
)

// layer is what one source says: what it sets, by key, and what that is called in a fault.
type layer struct {
	said   map[string]any
	source func(key string) string
}

// read gives take what l sets. It goes on after a fault, so that all are found, and a fault counts even
// where a higher layer sets the key: it would come up on the day that layer no longer does.
func (l layer) read(take func(s *setting, v any)) (faults Faults) {
	for _, key := range slices.Sorted(maps.Keys(l.said)) {
		raw, source := l.said[key], l.source(key)
		s, known := table().byKey[key]
		if !known {
			faults = append(faults, unknown(key, raw, source)...)
			continue
		}
		v, problem := s.read(raw)
		if problem != "" {
			faults = append(faults, Fault{key, shown(raw), source, problem})
			continue
		}
		take(s, v)
	}
	return faults
}

// unknown is the fault of a key that the table lacks. A section that stands empty is none.
func unknown(key string, raw any, source string) Faults {
	isSection := func(s setting) bool { return strings.HasPrefix(s.key, key+".") }
	switch section, isObject := raw.(object); {
	case !slices.ContainsFunc(table().rows, isSection):
		return Faults{{Key: host.Plain(key), Source: source, Problem: "unknown key"}}
	case raw == nil || (isObject && len(section) == 0):
		return nil
	default:
		return Faults{{key, shown(raw), source, "is not a section of keys"}}
	}
}

// fileLayer reads a configuration file. A file that cannot be read or parsed is one fault.
func fileLayer(path string) (layer, Faults) {
	if path == "" {
		return layer{}, nil
	}
	raw, err := host.ReadFile(path, maxDocument)
	if err != nil {
		return layer{}, Faults{{Key: host.Plain(path), Problem: "cannot read the configuration: " + errors.Unwrap(err).Error()}}
	}
	return parseFile(path, raw)
}

// parseFile reads raw as the extension of path says.
func parseFile(path string, raw []byte) (layer, Faults) {
	d, err := parseDocument(filepath.Ext(path), raw)
	var said map[string]any
	if err == nil {
		said, err = flatten(d.tree)
	}
	if err != nil {
		return layer{}, Faults{{Key: host.Plain(path), Problem: err.Error()}}
	}
	return layer{said, func(string) string { return host.Plain(path) }}, nil
}

// flatten gives what stands in the sections of a document its key. It refuses the names and depths that
// keys would blur: `"limits.queue" = 1` and queue = 2 in [limits] are both limits.queue.
func flatten(tree object) (map[string]any, error) {
	said := map[string]any{}
	for _, m := range tree {
		section, isSection := m.value.(object)
		for _, below := range section {
			if deep, isObject := below.value.(object); isObject && len(deep) > 0 {
				return nil, fmt.Errorf("%s is a section within a section: there are none", host.Plain(below.name))
			}
			said[m.name+"."+below.name] = below.value
		}
		if !isSection || len(section) == 0 {
			said[m.name] = m.value
		}
		for _, name := range append(object{m}, section...) {
			if strings.Contains(name.name, ".") {
				return nil, fmt.Errorf("the name %s has a dot in it: write it below its section", quoted(name.name))
			}
		}
	}
	return said, nil
}

// kubernetes matches what Kubernetes puts into the environment of every pod for a Service whose
// name starts with svc-wallet. These are not ours, and no key may look like them.
var kubernetes = regexp.MustCompile(`^SVC_WALLET_(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// envLayer takes the SVC_WALLET_ variables of environ, which is as os.Environ gives it, and
// WALLET_WORKERS, which yields to SVC_WALLET_WORKERS.
func envLayer(environ []string) layer {
	const alias = "WALLET_WORKERS"
	keys, names := map[string]string{alias: "workers"}, map[string]string{}
	for i := range table().rows {
		keys[table().rows[i].env()] = table().rows[i].key
	}
	said := map[string]any{}
	for _, variable := range environ {
		name, text, _ := strings.Cut(variable, "=")
		key, known := keys[name]
		switch {
		case known && name == alias && names[key] != "":
			continue
		case known:
			names[key] = name
		case strings.HasPrefix(name, "SVC_WALLET_") && !kubernetes.MatchString(name):
			key = name // which read says is unknown
			names[key] = "the environment"
		default:
			continue
		}
		said[key] = word(text)
	}
	return layer{said, func(key string) string { return names[key] }}
}

// flagLayer takes the flags that were given, of those that BindFlags made.
func flagLayer(fs *pflag.FlagSet) layer {
	said, names := map[string]any{}, map[string]string{}
	for i := range table().rows {
		s := &table().rows[i]
		if s.flag == "" || fs == nil || !fs.Changed(s.flag) {
			continue
		}
		said[s.key], names[s.key] = word(fs.Lookup(s.flag).Value.String()), "--"+s.flag
	}
	return layer{said, func(key string) string { return names[key] }}
}

// BindFlags defines the flags that Load reads. They take any text: Load judges it together with
// everything else.
func BindFlags(fs *pflag.FlagSet) {
	for i := range table().rows {
		s := &table().rows[i]
		if s.flag == "" {
			continue
		}
		f := fs.VarPF(&flagText{s.def, s.kind}, s.flag, "", s.help)
		if s.kind == "bool" {
			f.NoOptDefVal = "true"
		}
	}
}

// flagText is a pflag.Value of any text; kind is what the help calls it.
type flagText struct{ text, kind string }

// String implements pflag.Value.
func (t *flagText) String() string { return t.text }

// Set implements pflag.Value.
func (t *flagText) Set(s string) error { t.text = s; return nil }

// Type implements pflag.Value.
func (t *flagText) Type() string { return t.kind }
