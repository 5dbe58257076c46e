package control

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"
)

// Bounds of a file that is not JSON. The TOML parser descends without a bound of its own.
const (
	maxDepth    = 16
	maxBrackets = 16384
	maxDots     = 1000 // in one line
)

// toJSON turns a file into the JSON of the same document, by the extension of its name. It refuses
// what JSON cannot say exactly, such as a number with a point, instead of rounding it.
func toJSON(ext string, raw []byte) ([]byte, error) {
	if len(raw) > maxDocument {
		return nil, errors.New("is larger than 1MiB")
	}
	switch ext {
	case ".json":
		return raw, nil
	case ".toml":
		return tomlToJSON(raw)
	default:
		return yamlToJSON(raw)
	}
}

// yamlToJSON goes by the nodes, because decoded values have lost the digits of large numbers.
func yamlToJSON(raw []byte) ([]byte, error) {
	documents := yaml.NewDecoder(bytes.NewReader(raw))
	var root yaml.Node
	switch err := documents.Decode(&root); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("there is no document: write {} for an empty one")
	case err != nil:
		return nil, oneLine(err)
	}
	if err := documents.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one YAML document")
	}
	return appendYAML(nil, root.Content[0], 0)
}

// wholeNumber is an integer as JSON writes it.
var wholeNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

func appendYAML(dst []byte, n *yaml.Node, depth int) ([]byte, error) {
	fault := func(problem string) ([]byte, error) {
		return nil, fmt.Errorf("line %d, column %d: %s", n.Line, n.Column, problem)
	}
	if depth > maxDepth {
		return fault(fmt.Sprintf("is nested more than %d deep", maxDepth))
	}
	if n.Anchor != "" || n.Kind == yaml.AliasNode {
		return fault("anchors and aliases are refused")
	}
	switch n.Kind {
	case yaml.MappingNode:
		return appendYAMLObject(dst, n, depth)
	case yaml.SequenceNode:
		dst = append(dst, '[')
		for i, e := range n.Content {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = appendYAML(dst, e, depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case yaml.ScalarNode:
	default:
		return fault("is no value")
	}
	switch tag := n.ShortTag(); {
	case tag == "!!str" || tag == "!!timestamp":
		return appendText(dst, n.Value)
	case wholeNumber.MatchString(n.Value) && (tag == "!!int" || tag == "!!float"):
		return append(dst, n.Value...), nil
	case tag == "!!int" || tag == "!!float":
		return fault(cut(strconv.Quote(n.Value), 80) + " is not a whole decimal number; write text in quotes")
	case tag == "!!bool" && (n.Value == "true" || n.Value == "false"):
		return append(dst, n.Value...), nil
	case tag == "!!null":
		return append(dst, "null"...), nil
	default:
		return fault(cut(strconv.Quote(n.Value), 80) + " has the tag " + cut(strconv.Quote(tag), 40) + ", which is refused")
	}
}

func appendYAMLObject(dst []byte, n *yaml.Node, depth int) ([]byte, error) {
	seen := map[string]bool{}
	dst = append(dst, '{')
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" || key.Anchor != "":
			return nil, fmt.Errorf("line %d, column %d: a name is not text", key.Line, key.Column)
		case seen[key.Value]:
			return nil, fmt.Errorf("line %d, column %d: %s is there twice", key.Line, key.Column, shown(key.Value))
		}
		seen[key.Value] = true
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendText(dst, key.Value); err != nil {
			return nil, err
		}
		if dst, err = appendYAML(append(dst, ':'), value, depth+1); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

func appendText(dst []byte, s string) ([]byte, error) {
	dst, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		return nil, oneLine(err)
	}
	return dst, nil
}

func tomlToJSON(raw []byte) ([]byte, error) {
	if bytes.Count(raw, []byte("["))+bytes.Count(raw, []byte("{")) > maxBrackets {
		return nil, fmt.Errorf("there are more than %d opening brackets", maxBrackets)
	}
	for line := range bytes.Lines(raw) {
		if bytes.Count(line, []byte(".")) > maxDots {
			return nil, fmt.Errorf("there are more than %d dots in a line", maxDots)
		}
	}
	tree := map[string]any{}
	if err := toml.Unmarshal(raw, &tree); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			row, column := at.Position()
			return nil, fmt.Errorf("line %d, column %d: %w", row, column, oneLine(err))
		}
		return nil, oneLine(err)
	}
	return appendTOML(nil, "", tree, 0)
}

func appendTOML(dst []byte, path string, value any, depth int) (_ []byte, err error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("%s is nested more than %d deep", cut(path, 80), maxDepth)
	}
	switch v := value.(type) {
	case map[string]any:
		dst = append(dst, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendText(dst, name); err != nil {
				return nil, err
			}
			if dst, err = appendTOML(append(dst, ':'), path+"."+shown(name), v[name], depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendTOML(dst, path, e, depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case string:
		return appendText(dst, v)
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	default: // a float, a date or a time
		return nil, fmt.Errorf("%s: %s is neither text, a whole number nor true or false", cut(path[1:], 80), cut(fmt.Sprint(v), 80))
	}
}
