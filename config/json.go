package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// object is a JSON object as it is written: in its order, and a name may come twice.
type object []member

type member struct {
	name  string
	value any
}

// maxDepth is far deeper than what is read here goes.
const maxDepth = 8

// readObject reads a JSON object (RFC 8259) and nothing after it.
func readObject(raw []byte) (object, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{")) {
		return nil, errors.New("is not a JSON object")
	}
	v, err := readValue(raw)
	o, _ := v.(object)
	return o, err
}

// readValue reads a JSON value and nothing after it: object, []any, string, jsonNumber, bool or nil.
// Numbers stay as they are written.
func readValue(raw []byte) (any, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(raw), jsontext.AllowDuplicateNames(true))
	v, err := decodeValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the JSON value")
	}
	return v, nil
}

func decodeValue(dec *jsontext.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("is nested more than %d deep", maxDepth)
	}
	t, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch t.Kind() {
	case '{':
		o := object{}
		for dec.PeekKind() != '}' {
			name, err := dec.ReadToken()
			if err != nil {
				return nil, err
			}
			m := member{name: name.String()}
			if m.value, err = decodeValue(dec, depth+1); err != nil {
				return nil, err
			}
			o = append(o, m)
		}
		_, err = dec.ReadToken()
		return o, err
	case '[':
		list := []any{}
		for dec.PeekKind() != ']' {
			e, err := decodeValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, e)
		}
		_, err = dec.ReadToken()
		return list, err
	case '"':
		return t.String(), nil
	case '0':
		return jsonNumber(t.String()), nil
	case 't', 'f':
		return t.Bool(), nil
	default:
		return nil, nil //nolint:nilnil // JSON's null
	}
}

// asObject takes what JSON, TOML and YAML decode an object to; a file's has no order, so it gets
// the one of its names.
func asObject(raw any) (object, bool) {
	switch v := raw.(type) {
	case object:
		return v, true
	case map[string]any:
		o := make(object, 0, len(v))
		for name, value := range v {
			o = append(o, member{name, value})
		}
		return o.sorted(), true
	default:
		return nil, false
	}
}

func (o object) sorted() object {
	return slices.SortedStableFunc(slices.Values(o), func(a, b member) int { return strings.Compare(a.name, b.name) })
}

// appendValue appends a valid value as JSON that readValue takes back: without spaces, and the
// members of objects by name.
func appendValue(dst []byte, raw any) []byte {
	if o, ok := asObject(raw); ok {
		dst = append(dst, '{')
		for i, m := range o.sorted() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(dst, m.name), ':')
			dst = appendValue(dst, m.value)
		}
		return append(dst, '}')
	}
	switch v := raw.(type) {
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendValue(dst, e)
		}
		return append(dst, ']')
	case string:
		return appendText(dst, v)
	default: // integers, jsonNumber, bool
		return fmt.Append(dst, v)
	}
}

func appendText(dst []byte, s string) []byte {
	dst, err := jsontext.AppendQuote(dst, s)
	if err != nil {
		panic("config: a valid text is not UTF-8: " + err.Error())
	}
	return dst
}
