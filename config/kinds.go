package config

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"svc-wallet/host"
	"svc-wallet/wallet"
)

// kind is a type of setting: how its values are read, printed and compared.
type kind[T any] struct {
	name    string // the type in a word, for the flags' help and the reference
	allowed string // the range, for the reference
	// read takes what a source says: a word, or what TOML, YAML and JSON decode to. The problem is
	// what is wrong with that, to be read after "KEY: VALUE (from SOURCE) ", and "" where nothing is.
	read    func(raw any) (v T, problem string)
	print   func(T) string   // as a word that read takes back
	compare func(a, b T) int // nil: there is no order
}

// word is a value of a source whose values have no type: the environment or a flag. A string in a
// file is not a word: `queue = "512"` is the wrong type.
type word string

// parsed is a kind of what parse takes, which noun describes.
func parsed[T any](name, noun string, parse func(raw any) (T, bool), print func(T) string) kind[T] {
	read := func(raw any) (v T, problem string) {
		v, ok := parse(raw)
		if !ok {
			problem = "is not " + noun
		}
		return v, problem
	}
	return kind[T]{name: name, allowed: noun, read: read, print: print}
}

// ordered is a kind with an order and a range.
func ordered[T any](name, noun string, lowest, highest T, parse func(raw any) (T, bool), print func(T) string, compare func(a, b T) int) kind[T] {
	allowed := print(lowest) + "…" + print(highest)
	every := parsed(name, noun+" in "+allowed, parse, print)
	read := func(raw any) (T, string) {
		v, problem := every.read(raw)
		if problem == "" && (compare(v, lowest) < 0 || compare(v, highest) > 0) {
			problem = "is not in " + allowed
		}
		return v, problem
	}
	return kind[T]{name, allowed, read, print, compare}
}

func integer(lowest, highest int) kind[int] {
	return ordered("integer", "an integer", lowest, highest, parseInteger[int], strconv.Itoa, cmp.Compare[int])
}

func natural(lowest, highest uint64) kind[uint64] {
	print := func(n uint64) string { return strconv.FormatUint(n, 10) }
	return ordered("integer", "an integer", lowest, highest, parseInteger[uint64], print, cmp.Compare[uint64])
}

func parseInteger[T int | uint64](raw any) (T, bool) {
	n, err := strconv.ParseUint(digits(raw), 10, 63)
	return T(n), err == nil
}

func size(lowest, highest int) kind[int] {
	return ordered("size", "a size in bytes, KiB or MiB", lowest, highest, parseSize, printSize, cmp.Compare[int])
}

func parseSize(raw any) (int, bool) {
	s, ok := letters(raw)
	if !ok {
		s = digits(raw)
	}
	shift := 0
	if n, ok := strings.CutSuffix(s, "KiB"); ok {
		s, shift = n, 10
	} else if n, ok := strings.CutSuffix(s, "MiB"); ok {
		s, shift = n, 20
	}
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n) << shift, err == nil // at most 31 + 20 bits
}

func printSize(n int) string {
	switch {
	case n > 0 && n%(1<<20) == 0:
		return strconv.Itoa(n>>20) + "MiB"
	case n > 0 && n%(1<<10) == 0:
		return strconv.Itoa(n>>10) + "KiB"
	default:
		return strconv.Itoa(n)
	}
}

func duration(lowest, highest time.Duration) kind[time.Duration] {
	parse := func(raw any) (time.Duration, bool) {
		s, _ := letters(raw)
		d, err := time.ParseDuration(s)
		return d, err == nil
	}
	return ordered("duration", "a duration with its unit, such as 250ms,", lowest, highest, parse, printDuration, cmp.Compare[time.Duration])
}

// printDuration is d without the zeros that String adds: 24h, not 24h0m0s.
func printDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// amount takes a string of digits, or an integer of a file, which is exact there. It takes no
// JSON number, for many a JSON writer sends those as doubles, and no float, for the same reason.
func amount() kind[wallet.Amount] {
	parse := func(raw any) (wallet.Amount, bool) {
		s, ok := letters(raw)
		if _, double := raw.(jsonNumber); !ok && !double {
			s = digits(raw)
		}
		a, err := wallet.ParseAmount(s)
		return a, err == nil
	}
	return ordered("amount", "a whole amount, in quotes where it is large,", wallet.Minor(1), wallet.MaxAmount(), parse, wallet.Amount.String, wallet.Amount.Cmp)
}

// digits is the text of an exact integer, and "" for anything else.
func digits(raw any) string {
	switch v := raw.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case jsonNumber:
		return string(v)
	case word:
		return string(v)
	default:
		return ""
	}
}

// letters is the text of a string, and false for anything else.
func letters(raw any) (string, bool) {
	switch v := raw.(type) {
	case string:
		return v, true
	case word:
		return string(v), true
	default:
		return "", false
	}
}

// spelled is a kind of what a string says in the way that parse takes.
func spelled[T any](name, noun string, parse func(string) (T, bool), print func(T) string) kind[T] {
	return parsed(name, noun, func(raw any) (v T, ok bool) {
		s, ok := letters(raw)
		if ok {
			v, ok = parse(s)
		}
		return v, ok
	}, print)
}

// text is a kind with a grammar.
func text(name, noun string, fits func(string) bool) kind[string] {
	return spelled(name, noun, func(s string) (string, bool) { return s, fits(s) }, func(s string) string { return s })
}

// listenAddr is where to listen: the host may be empty, and port 0 takes a free one.
func listenAddr() kind[string] {
	return text("address", "HOST:PORT", func(s string) bool {
		a, err := host.ParseListenAddr(s)
		return err == nil && a.Path() == ""
	})
}

// dialAddr is where a ledger node listens.
func dialAddr() kind[string] { return text("address", "unix:PATH or HOST:PORT", isDialAddr) }

func isDialAddr(s string) bool {
	_, err := host.ParseAddr(s)
	return err == nil
}

func isUnix(s string) bool { return s == "" || (strings.HasPrefix(s, "unix:") && isDialAddr(s)) }

func fileName() kind[string] {
	return text("file", "a file name of at most 4095 bytes", func(s string) bool {
		return len(s) < 4096 && !strings.ContainsRune(s, 0) // PATH_MAX
	})
}

func hostName() kind[string] { return text("name", "a host name", isLabel) }

// label is a name that others gave: a node's id, a secret's.
func label() kind[string] {
	return text("name", "a name of at most 253 visible ASCII characters", isLabel)
}

func isLabel(s string) bool    { return len(s) <= 253 && visible(s) }
func isResource(s string) bool { return s != "" && isLabel(s) }

func isSPIFFE(s string) bool {
	return s == "" || (strings.HasPrefix(s, "spiffe://") && len(s) > len("spiffe://") && len(s) <= 2048 && visible(s))
}

// visible says that s is visible ASCII: no space, no control character.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return true
}

// oneOf is a kind of a few words.
func oneOf[T ~string](words ...T) kind[T] {
	return choice(words, func(w T) string { return string(w) })
}

// choice is a kind of a few values, each with a name.
func choice[T any](values []T, print func(T) string) kind[T] {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = print(v)
	}
	return spelled("word", "one of "+strings.Join(names, ", "), func(s string) (v T, ok bool) {
		i := slices.Index(names, s)
		if i < 0 {
			return v, false
		}
		return values[i], true
	}, print)
}

// toggle is on or off.
func toggle() kind[bool] { return parsed("bool", "true or false", truth, strconv.FormatBool) }

func truth(raw any) (on, ok bool) {
	on = raw == true || raw == word("true")
	return on, on || raw == false || raw == word("false")
}

// share is a Fraction: on, off, or a percentage.
func share() kind[Fraction] {
	return parsed("share", "true, false or a percentage of at most four decimals such as 25%", parseShare, printShare)
}

func parseShare(raw any) (Fraction, bool) {
	switch on, ok := truth(raw); {
	case on:
		return Always, true
	case ok:
		return 0, true
	}
	s, _ := letters(raw)
	return parsePercent(s)
}

// percent matches a percentage of at most four decimals, which is exact in parts per million.
var percent = regexp.MustCompile(`^(0|[1-9][0-9]{0,2})(?:\.([0-9]{1,4}))?%$`)

func parsePercent(text string) (Fraction, bool) {
	m := percent.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseUint(m[1]+(m[2] + "0000")[:4], 10, 32)
	return Fraction(n), err == nil && n <= uint64(Always)
}

func printShare(f Fraction) string {
	switch f {
	case Always:
		return "true"
	case 0:
		return "false"
	default:
		whole, part := strconv.Itoa(int(f/10_000)), strconv.Itoa(int(f%10_000) + 10_000)[1:]
		return strings.TrimSuffix(whole+"."+strings.TrimRight(part, "0"), ".") + "%"
	}
}

// list is a kind of texts whose order counts. As a word they stand with commas between them, and
// in a file a lone one needs no brackets.
func list(name, noun string, most int, fits func(string) bool) kind[[]string] {
	parse := func(raw any) ([]string, bool) {
		if s, isText := raw.(string); isText {
			raw = word(s)
		}
		return texts(raw, most, fits)
	}
	return parsed(name, noun, parse, func(all []string) string { return strings.Join(all, ",") })
}

// maxNames bounds a set of names, and so the memory of a push.
const maxNames = 65536

// names is a set of names. As a word they stand with commas between them.
func names() kind[map[string]struct{}] {
	noun := fmt.Sprintf("a list of at most %d names, each of 1 to 64 visible ASCII characters but no comma", maxNames)
	parse := func(raw any) (map[string]struct{}, bool) {
		all, ok := texts(raw, maxNames, func(s string) bool { return s != "" && len(s) <= 64 && visible(s) })
		set := make(map[string]struct{}, len(all))
		for _, name := range all {
			set[name] = struct{}{}
		}
		return set, ok
	}
	print := func(set map[string]struct{}) string { return strings.Join(slices.Sorted(maps.Keys(set)), ",") }
	return parsed("list", noun, parse, print)
}

// texts is a list of at most so many texts that fit and have no comma.
func texts(raw any, most int, fits func(string) bool) (all []string, ok bool) {
	switch v := raw.(type) {
	case word:
		if v != "" {
			all = strings.Split(string(v), ",")
		}
	case []any:
		for _, e := range v[:min(len(v), most+1)] {
			s, isText := e.(string)
			if !isText || strings.Contains(s, ",") {
				return nil, false
			}
			all = append(all, s)
		}
	default:
		return nil, false
	}
	return all, len(all) <= most && !slices.ContainsFunc(all, func(s string) bool { return !fits(s) })
}
