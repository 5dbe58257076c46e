package config

import (
	"bytes"
	"strings"
)

// Push is what a control plane says of the limits: a JSON object of the members that
// docs/configuration.md lists. It is right by itself; whether it fits under a configuration's
// ceilings is for Stack to say. It is immutable.
type Push struct {
	said *Config         // the fields of keys count
	keys map[string]bool // of the settings it speaks of
	text []byte
}

// ParsePush reads a push: a JSON object (RFC 8259) of at most 1 MiB, its members in any order and
// none twice. The error is Faults: everything that is wrong with it by itself.
func ParsePush(raw []byte) (*Push, error) {
	l, members, faults := pushLayer(raw)
	p := &Push{said: defaults(), keys: map[string]bool{}}
	faults = append(faults, p.said.apply(l)...)
	faults = append(faults, pairs(l)...)
	faults = append(faults, p.said.broken(p.said.pairRules(), faults)...)
	if len(faults) > 0 {
		return nil, faults
	}
	for key := range l.values {
		p.keys[key] = true
	}
	p.text = appendValue(nil, members)
	return p, nil
}

// JSON is the push in the form that ParsePush takes, without spaces and with its members by name,
// so what is pushed again in another order has the same text.
func (p *Push) JSON() []byte { return bytes.Clone(p.text) }

// Len is how many settings the push speaks of.
func (p *Push) Len() int { return len(p.keys) }

// takePush sets the fields that p speaks of.
func (c *Config) takePush(p *Push, from Origin) {
	source := from.String()
	for key := range p.keys {
		r := table().byKey[key]
		r.bind(c).from(r.bind(p.said))
		c.sources[key], c.origins[key] = source, from
	}
}

// shadowSection is the section of limits that are counted and not enforced.
const shadowSection = "shadow"

// pushLayer reads the JSON object of a push. It has faults of its own: only what may be pushed is a
// member, and none comes twice.
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
	var faults Faults
	fault := func(key, problem string) { faults = append(faults, Fault{Key: key, Source: "push", Problem: problem}) }
	take := func(section string, m member) {
		key, known := table().pushKey[section+m.name]
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
