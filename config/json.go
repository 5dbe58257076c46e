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

// object is a JSON object as it is written, in its order. No name comes twice.
type object []member

type member struct {
	name  string
	value any
}

// jsonNumber is a JSON number, digit by digit.
type jsonNumber string

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
	dec := jsontext.NewDecoder(bytes.NewReader(raw))
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

// sorted is o with its members by name.
func (o object) sorted() object {
	byName := func(a, b member) int { return strings.Compare(a.name, b.name) }
	if slices.IsSortedFunc(o, byName) {
		return o
	}
	return slices.SortedStableFunc(slices.Values(o), byName)
}

// appendValue appends a valid value as JSON that readValue takes back: without spaces, and the
// members of objects by name.
func appendValue(dst []byte, raw any) []byte {
	switch v := raw.(type) {
	case object:
		dst = append(dst, '{')
		for i, m := range v.sorted() {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(dst, m.name), ':')
			dst = appendValue(dst, m.value)
		}
		return append(dst, '}')
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
	case nil:
		return append(dst, "null"...)
	default: // int64, jsonNumber, bool
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
