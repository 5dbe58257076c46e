package config

import (
	"bytes"
	"strings"

	"svc-wallet/host"
)

// Patch is what a control plane says of the limits, and only what it says: a JSON object of the members
// that docs/configuration.md lists. It is right by itself; whether it fits under a configuration's
// ceilings is for Stack to say. It is immutable.
type Patch struct {
	said said
	text []byte
}

// ParsePush reads a push: a JSON object (RFC 8259) of at most 1 MiB, its members in any order and
// none twice. The error is Faults: everything that is wrong with it by itself.
func ParsePush(raw []byte) (*Patch, error) {
	l, members, faults := pushLayer(raw)
	p := &Patch{said: said{}}
	faults = append(faults, l.read(func(s *setting, v any) { p.said[s.key] = v })...)
	faults = append(faults, broken(p.said.pairs(), faults, p.said.text, l.source)...)
	if len(faults) > 0 {
		return nil, faults
	}
	p.text = appendValue(nil, members)
	return p, nil
}

// JSON is the push in the form that ParsePush takes, without spaces and with its members by name,
// so what is pushed again in another order has the same text.
func (p *Patch) JSON() []byte { return bytes.Clone(p.text) }

// Len is how many settings the push speaks of.
func (p *Patch) Len() int { return len(p.said) }

// unfit is what is wrong with p over c.
func (p *Patch) unfit(c *Config, from Origin) Faults {
	return broken(p.said.bounds(c), nil, p.said.text, func(string) string { return from.String() })
}

// pushLayer reads the JSON object of a push, of which only what may be pushed is a member.
func pushLayer(raw []byte) (l layer, members object, faults Faults) {
	const push = "push"
	l = layer{map[string]any{}, func(string) string { return push }}
	if len(raw) > maxDocument {
		return l, nil, Faults{{Key: push, Problem: errLarge.Error()}}
	}
	members, err := readObject(raw)
	if err != nil {
		return l, nil, Faults{{Key: push, Problem: oneLine(err)}}
	}
	take := func(section string, m member) {
		key, known := table().pushKey[section+m.name]
		if !known || strings.Contains(m.name, ".") {
			faults = append(faults, Fault{Key: host.Plain(section + m.name), Source: push, Problem: "unknown key"})
			return
		}
		l.said[key] = m.value
	}
	for _, m := range members {
		shadow, isObject := m.value.(object)
		switch {
		case m.name != shadowSection:
			take("", m)
		case isObject:
			for _, limit := range shadow {
				take(shadowSection+".", limit)
			}
		default:
			faults = append(faults, Fault{shadowSection, shown(m.value), push, "is not an object of limits"})
		}
	}
	return l, members, faults
}
