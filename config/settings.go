package config

import (
	"strings"
	"sync"
)

// setting is a row of the table of everything that may be set: what it is called, and a field of a
// Config with the kind of what may be put into it.
type setting struct {
	key     string // path in the file
	flag    string // name of the flag; "" is none
	def     string // default, as a word
	effect  effect
	help    string
	ceiling string                 // key of what bounds it; "" is nothing
	shadow  func(c *Config, v any) // of a shadow limit: puts v among c's shadow limits
	value
}

// value is a field of a Config together with its kind. Outside of its own functions what is in the field
// goes by any, so that settings of all types stand in one table.
type value struct {
	kind    string // see kind
	allowed string
	read    func(raw any) (v any, problem string)
	print   func(v any) string
	get     func(c *Config) any
	put     func(c *Config, v any)
	above   func(v, top any) bool // only of a kind with an order
}

// at is the value of a field.
func at[T any](field func(*Config) *T, k kind[T]) value {
	typed := func(v any) T { return v.(T) } //nolint:forcetypeassert // what read or get returned
	return value{
		kind:    k.name,
		allowed: k.allowed,
		read:    func(raw any) (any, string) { return k.read(raw) },
		print:   func(v any) string { return k.print(typed(v)) },
		get:     func(c *Config) any { return *field(c) },
		put:     func(c *Config, v any) { *field(c) = typed(v) },
		above:   func(v, top any) bool { return k.compare(typed(v), typed(top)) > 0 },
	}
}

// effect says how a setting may be changed while the sidecar runs.
type effect uint8

const (
	atRestart effect = iota // not at all
	onReload                // by a reload
	onPush                  // by a reload and by the control plane
)

func (e effect) String() string {
	return [...]string{atRestart: "restart", onReload: "reload", onPush: "reload, push"}[e]
}

// env is the name of the setting's environment variable.
func (s *setting) env() string {
	return "SVC_WALLET_" + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
}

// shadowSection is the section of limits that are counted and not enforced.
const shadowSection = "shadow"

// pushName is the member that sets a pushed setting in ParsePush's object. The member x of the
// object shadow is shadow.x.
func (s *setting) pushName() string {
	if s.shadow != nil {
		return s.key
	}
	name := strings.TrimPrefix(strings.TrimPrefix(s.key, "limits."), "wallet.")
	return strings.ReplaceAll(name, ".", "_")
}

// index is the table and how to find a row in it.
type index struct {
	rows     []setting // in the order of docs/configuration.md
	byKey    map[string]*setting
	pushKey  map[string]string // the key of each pushName
	defaults Config
}

// table is made once.
var table = sync.OnceValue(func() *index { //nolint:gochecknoglobals // a table, never written
	t := &index{rows: settings(), byKey: map[string]*setting{}, pushKey: map[string]string{}}
	for i := range t.rows {
		s := &t.rows[i]
		t.byKey[s.key] = s
		if s.effect == onPush {
			t.pushKey[s.pushName()] = s.key
		}
		v, problem := s.read(word(s.def))
		if problem != "" {
			panic("config: the default of " + s.key + " " + problem)
		}
		s.put(&t.defaults, v)
	}
	return t
})

// limit is a limit that has a place in several sections: in force, as a shadow, and as a ceiling.
type limit struct {
	name    string // key without its section
	flag    string // see setting
	def     string
	ceiling string // default of the ceiling; "" is none
	help    string
	in      func(section func(*Config) *Limits) value
}

// limitAt is the value of a field of Limits, in the section that is asked for.
func limitAt[T any](field func(*Limits) *T, k kind[T]) func(func(*Config) *Limits) value {
	return func(section func(*Config) *Limits) value {
		return at(func(c *Config) *T { return field(section(c)) }, k)
	}
}

// inForce is the row of l in the section limits.
func (l *limit) inForce() setting {
	s := setting{key: "limits." + l.name, flag: l.flag, def: l.def, effect: onPush, help: l.help}
	s.value = l.in(func(c *Config) *Limits { return &c.limits })
	if l.ceiling != "" {
		s.ceiling = "ceilings." + l.name
	}
	return s
}

// inCeilings is the row of the most that l may be.
func (l *limit) inCeilings() setting {
	s := setting{key: "ceilings." + l.name, def: l.ceiling, help: "the most that limits." + l.name + " may be, here or pushed"}
	s.value = l.in(func(c *Config) *Limits { return &c.Ceilings })
	return s
}

// inShadow is the row of l in the section shadow, whose values may be absent, which as a word is "".
// Config keeps them as they are until resolveShadow lays them over the limits in force.
func (l *limit) inShadow(i int) setting {
	s := l.inForce()
	s.key, s.flag, s.def = shadowSection+"."+l.name, "", ""
	s.help = "limits." + l.name + " as it might become: what it would refuse is counted, and let through"
	of := l.in(func(c *Config) *Limits { return c.limits.Shadow })
	s.shadow = of.put
	s.read = func(raw any) (any, string) {
		if raw == word("") {
			return nil, ""
		}
		return of.read(raw)
	}
	s.print = func(v any) string {
		if v == nil {
			return ""
		}
		return of.print(v)
	}
	s.get = func(c *Config) any { return c.shadow[i] }
	s.put = func(c *Config, v any) { c.shadow[i] = v }
	return s
}
