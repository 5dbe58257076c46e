package config

import (
	"fmt"
	"strconv"
	"strings"

	"svc-wallet/host"
)

// Fault is one thing that is wrong with a configuration or a push.
type Fault struct {
	Key     string // path of the key, or the file that is wrong as a whole
	Value   string // as found, quoted and cut where it is text; "" where there is none
	Source  string // file, environment variable, flag, "push" or "default"
	Problem string // what is wrong, with the allowed range
}

// String is the fault in one line, such as
// `limits.queue: 0 (from /etc/w.toml) is not in 1…65536`.
func (f Fault) String() string {
	switch {
	case f.Source == "":
		return fmt.Sprintf("%s: %s", f.Key, f.Problem)
	case f.Value == "":
		return fmt.Sprintf("%s: %s (from %s)", f.Key, f.Problem, f.Source)
	default:
		return fmt.Sprintf("%s: %s (from %s) %s", f.Key, f.Value, f.Source, f.Problem)
	}
}

// Faults is everything that is wrong, so that one look at it is enough.
type Faults []Fault

// maxLines bounds the text of faults, which a NACK carries and a log line holds.
const maxLines = 100

// Error has a line for each fault, and counts those beyond the first hundred.
func (f Faults) Error() string {
	var lines []string
	for i := range f[:min(len(f), maxLines)] {
		lines = append(lines, f[i].String())
	}
	if more := len(f) - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "\n")
}

// name reports whether the faults are about key.
func (f Faults) name(key string) bool {
	for i := range f {
		if f[i].Key == key {
			return true
		}
	}
	return false
}

// shown is a value as a fault shows it: what came as text is quoted, so that it cannot forge a
// line or hide what it is, and a long one is cut.
func shown(raw any) string {
	switch v := raw.(type) {
	case nil:
		return "null"
	case string:
		return quoted(v)
	case word:
		return quoted(string(v))
	case jsonNumber:
		return host.Cut(string(v), 80)
	case inexact:
		return host.Plain(string(v))
	case []any:
		return "a list"
	case object:
		return "a section"
	default: // bool, int64
		return fmt.Sprint(v)
	}
}

func quoted(s string) string { return strconv.Quote(host.Cut(s, 80)) }
