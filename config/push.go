package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Push is what a control plane says of the limits: a JSON object of the members that
// docs/configuration.md lists. It is right by itself; whether it fits under a configuration's
// ceilings is for Stack to say. It is immutable.
type Push struct {
	values map[string]any // by key
	text   []byte
}

// ParsePush reads a push: a JSON object (RFC 8259) of at most 1 MiB, with names in any order, none
// twice. The error is Faults: everything that is wrong.
func ParsePush(raw []byte) (*Push, error) {
	l, members, faults := pushLayer(raw)
	if l.values != nil {
		scratch := defaults()
		faults = append(faults, scratch.apply(l)...)
		faults = append(faults, pairs(l)...)
		scratch.resolveShadow()
		faults = append(faults, scratch.broken(scratch.pairRules(), faults)...)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return &Push{values: l.values, text: appendValue(nil, members)}, nil
}

// JSON is the push in the form that ParsePush takes, its members by name: equal pushes have equal
// texts.
func (p *Push) JSON() []byte { return bytes.Clone(p.text) }

// Len is how many settings the push speaks of.
func (p *Push) Len() int { return len(p.values) }

// layer is the push as one source of settings.
func (p *Push) layer(source string) layer {
	return layer{p.values, func(string) string { return source }}
}

// shadowSection is the section of limits that are counted and not enforced.
const shadowSection = "shadow"

// pushLayer reads the JSON object of a push. It has faults of its own: only what is pushed live
// is a member, and none comes twice.
func pushLayer(raw []byte) (layer, object, Faults) {
	l := layer{values: map[string]any{}, source: func(string) string { return "push" }}
	whole := func(problem string) (layer, object, Faults) {
		return layer{}, nil, Faults{{Key: "push", Problem: problem}}
	}
	if len(raw) > maxFile {
		return whole("is larger than 1MiB")
	}
	members, err := readObject(raw)
	if err != nil {
		return whole(oneLine(err))
	}
	keys := map[string]string{}
	for _, s := range new(Config).settings() {
		if s.effect == onPush {
			keys[s.pushName()] = s.key
		}
	}
	var faults Faults
	fault := func(key, problem string) { faults = append(faults, Fault{Key: key, Source: "push", Problem: problem}) }
	take := func(section string, m member) {
		key, known := keys[section+m.name]
		_, again := l.values[key]
		switch {
		case !known || strings.Contains(m.name, "."):
			fault(plain(section+m.name), "unknown key")
		case again:
			fault(key, "is there twice")
		default:
			l.values[key] = m.value
		}
	}
	shadows := 0
	for _, m := range members {
		if m.name != shadowSection {
			take("", m)
			continue
		}
		inner, isObject := m.value.(object)
		switch shadows++; {
		case shadows > 1:
			fault(shadowSection, "is there twice")
		case !isObject:
			faults = append(faults, Fault{shadowSection, shown(m.value), "push", "is not an object of limits"})
		}
		for _, m := range inner {
			take(shadowSection+".", m)
		}
	}
	return l, members, faults
}

// pairs are the faults of limits that make sense only together. Were one alone in a layer, its
// other half could be taken away with another layer.
func pairs(l layer) (faults Faults) {
	for _, section := range []string{"limits.", "shadow."} {
		rate, burst := section+"subject_rate_per_second", section+"subject_burst"
		_, hasRate := l.values[rate]
		_, hasBurst := l.values[burst]
		if hasRate && !hasBurst {
			faults = append(faults, Fault{rate, shown(l.values[rate]), l.source(rate), "needs " + burst + " beside it"})
		}
		if hasBurst && !hasRate {
			faults = append(faults, Fault{burst, shown(l.values[burst]), l.source(burst), "needs " + rate + " beside it"})
		}
	}
	return faults
}

// member is a member of a JSON object.
type member struct {
	name  string
	value any
}

// maxDepth is far deeper than a push goes.
const maxDepth = 8

// readObject reads a JSON object and nothing after it. Numbers stay as they are written, and a
// name may come twice.
func readObject(raw []byte) (object, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(raw), jsontext.AllowDuplicateNames(true))
	if dec.PeekKind() != '{' {
		return nil, errors.New("is not a JSON object")
	}
	v, err := decodeValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the JSON object")
	}
	return v.(object), nil //nolint:forcetypeassert // it begins with a brace
}

// readValue reads any JSON value and nothing after it.
func readValue(text string) (any, error) {
	dec := jsontext.NewDecoder(strings.NewReader(text), jsontext.AllowDuplicateNames(true))
	v, err := decodeValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the JSON value")
	}
	return v, nil
}

// decodeValue returns object, []any, string, jsonNumber, bool or nil.
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
