package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"

	"svc-wallet/host"
)

// Bounds of a document. A file needs far fewer brackets (4096 overrides have two each) and dots in a
// line, and it takes far more to overflow the stack or fill the memory by way of the TOML parser, which
// descends without a bound of its own (TestHostileFiles).
const (
	maxDocument = 1 << 20 // bytes; of a push as well
	maxNesting  = 16
	maxBrackets = 16384
	maxDots     = 1000 // in one line of TOML
)

var errLarge = errors.New("is larger than 1MiB")

// ToJSON turns a document of a control plane into JSON, by the extension of its file's name: .json, .toml,
// .yaml or .yml. It refuses what JSON cannot say exactly instead of rounding it, names that come twice,
// and what is not bounded.
func ToJSON(ext string, raw []byte) ([]byte, error) {
	if ext == ".json" && len(raw) <= maxDocument {
		return raw, nil
	}
	d, err := parseDocument(ext, raw)
	switch {
	case err != nil:
		return nil, err
	case d.tree == nil:
		return nil, errors.New("there is no document: write {} for an empty one")
	case d.inexact != nil:
		return nil, d.inexact
	}
	return appendValue(nil, d.tree), nil
}

// document is what TOML or YAML says, in what readObject makes of JSON: object, []any, string, bool, nil,
// int64, and a jsonNumber for a whole number beyond that.
type document struct {
	tree    object // nil: there is none, which is not an empty one
	inexact error  // what is said of the first inexact value
}

// inexact is a value that JSON cannot say exactly: a number with a point, a date.
type inexact string

// parseDocument reads TOML or YAML, as the extension says.
func parseDocument(ext string, raw []byte) (d document, err error) {
	switch {
	case len(raw) > maxDocument:
		return d, errLarge
	case bytes.Count(raw, []byte("["))+bytes.Count(raw, []byte("{")) > maxBrackets:
		return d, fmt.Errorf("there are more than %d opening brackets", maxBrackets)
	case ext == ".toml":
		err = d.parseTOML(raw)
	case ext == ".yaml" || ext == ".yml":
		err = d.parseYAML(raw)
	default:
		err = errors.New("the extension of a configuration is .toml, .yaml or .yml")
	}
	return d, err
}

func (d *document) parseTOML(raw []byte) error {
	for line := range bytes.Lines(raw) {
		if bytes.Count(line, []byte(".")) > maxDots {
			return fmt.Errorf("there are more than %d dots in a line", maxDots)
		}
	}
	table := map[string]any{}
	if err := toml.Unmarshal(raw, &table); err != nil {
		return errors.New(oneLine(err))
	}
	tree, err := d.fromTOML(table, 0)
	d.tree, _ = tree.(object)
	return err
}

func (d *document) fromTOML(value any, depth int) (_ any, err error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("is nested more than %d deep", maxNesting)
	}
	switch v := value.(type) {
	case map[string]any:
		o := make(object, 0, len(v))
		for _, name := range slices.Sorted(maps.Keys(v)) {
			m := member{name: name}
			if m.value, err = d.fromTOML(v[name], depth+1); err != nil {
				return nil, err
			}
			o = append(o, m)
		}
		return o, nil
	case []any:
		list := make([]any, len(v))
		for i := range v {
			if list[i], err = d.fromTOML(v[i], depth+1); err != nil {
				return nil, err
			}
		}
		return list, nil
	case string, int64, bool:
		return v, nil
	default: // a float, a date or a time
		d.inexact = cmp.Or(d.inexact, fmt.Errorf("%s is neither text, a whole number nor true or false", host.Plain(fmt.Sprint(v))))
		return inexact(fmt.Sprint(v)), nil
	}
}

// parseYAML goes by the nodes, because decoded values have lost the digits of large numbers, and names
// that come twice.
func (d *document) parseYAML(raw []byte) error {
	documents := yaml.NewDecoder(bytes.NewReader(raw))
	var root yaml.Node
	switch err := documents.Decode(&root); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return errors.New(oneLine(err))
	}
	if err := documents.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one YAML document")
	}
	tree, err := d.fromYAML(root.Content[0], 0)
	if err != nil {
		return err
	}
	var isObject bool
	if d.tree, isObject = tree.(object); !isObject {
		return faultAt(root.Content[0], "is not a mapping of names to values")
	}
	return nil
}

// wholeNumber is an integer as JSON writes it.
var wholeNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

func (d *document) fromYAML(n *yaml.Node, depth int) (any, error) {
	switch {
	case depth > maxNesting:
		return nil, faultAt(n, fmt.Sprintf("is nested more than %d deep", maxNesting))
	case n.Anchor != "" || n.Kind == yaml.AliasNode:
		return nil, faultAt(n, "anchors and aliases are refused")
	case n.Kind == yaml.MappingNode:
		return d.fromMapping(n, depth)
	case n.Kind == yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, e := range n.Content {
			var err error
			if list[i], err = d.fromYAML(e, depth+1); err != nil {
				return nil, err
			}
		}
		return list, nil
	default:
		return d.fromScalar(n)
	}
}

func (d *document) fromMapping(n *yaml.Node, depth int) (_ any, err error) {
	seen := map[string]bool{}
	o := object{}
	for pair := range slices.Chunk(n.Content, 2) {
		key := pair[0]
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" || key.Anchor != "":
			return nil, faultAt(key, "a name is not text")
		case seen[key.Value]:
			return nil, faultAt(key, host.Plain(key.Value)+" is there twice")
		}
		seen[key.Value] = true
		m := member{name: key.Value}
		if m.value, err = d.fromYAML(pair[1], depth+1); err != nil {
			return nil, err
		}
		o = append(o, m)
	}
	return o, nil
}

func (d *document) fromScalar(n *yaml.Node) (any, error) {
	whole := wholeNumber.MatchString(n.Value)
	switch tag := n.ShortTag(); {
	case tag == "!!str" || tag == "!!timestamp":
		return n.Value, nil
	case tag == "!!null":
		return nil, nil //nolint:nilnil // null
	case tag == "!!bool" && (n.Value == "true" || n.Value == "false"):
		return n.Value == "true", nil
	case whole && (tag == "!!int" || tag == "!!float"): // the latter from 2^64 on
		if v, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
			return v, nil
		}
		return jsonNumber(n.Value), nil
	case tag == "!!int" || tag == "!!float" || tag == "!!bool":
		d.inexact = cmp.Or(d.inexact, faultAt(n, quoted(n.Value)+" is neither a whole decimal number nor true or false; write text in quotes"))
		return inexact(n.Value), nil
	default:
		return nil, faultAt(n, fmt.Sprintf("%s has the tag %s, which is refused", quoted(n.Value), quoted(tag)))
	}
}

func faultAt(n *yaml.Node, problem string) error {
	return fmt.Errorf("line %d, column %d: %s", n.Line, n.Column, problem)
}

// oneLine is a parser's message with the place it speaks of, cut where it quotes too much.
func oneLine(err error) string {
	text := host.OneLine(err).Error()
	var at *toml.DecodeError
	if errors.As(err, &at) {
		row, column := at.Position()
		text = fmt.Sprintf("line %d, column %d: %s", row, column, text)
	}
	return host.Cut(text, 200)
}
