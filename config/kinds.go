package config

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"svc-wallet/wallet"
)

// value is a field of a Config together with the type and range of what may be put into it, as
// flag.Value is to package flag.
type value interface {
	// set takes what a source says: a word, or what TOML, YAML and JSON decode to. It returns what
	// is wrong with that, to be read after "KEY: VALUE (from SOURCE) ", and "" where nothing is. A
	// field keeps what it had when something is wrong.
	set(raw any) (problem string)
	// from copies the field of other, which is of the same row, bound to another Config.
	from(other value)
	// String is the field as a word that set takes back.
	String() string
	// kind is the type in a word, for the flags' help and the reference.
	kind() string
	// allowed is the range, for the reference.
	allowed() string
}

// word is a value of a source whose values have no type: the environment or a flag. A string in a
// file is not a word: `queue = "512"` is the wrong type.
type word string

// jsonNumber is a JSON number, digit by digit.
type jsonNumber string

// number is a field with an order and a range.
type number[T any] struct {
	field    *T
	min, max T
	name     string // its kind
	noun     string // what it should have been
	parse    func(raw any) (T, bool)
	show     func(T) string
	compare  func(a, b T) int
}

func (n number[T]) set(raw any) string {
	v, ok := n.parse(raw)
	if !ok {
		return fmt.Sprintf("is not %s in %s", n.noun, n.allowed())
	}
	if n.compare(v, n.min) < 0 || n.compare(v, n.max) > 0 {
		return "is not in " + n.allowed()
	}
	*n.field = v
	return ""
}

func (n number[T]) from(o value)    { *n.field = *o.(number[T]).field } //nolint:forcetypeassert // of the same row
func (n number[T]) String() string  { return n.show(*n.field) }
func (n number[T]) kind() string    { return n.name }
func (n number[T]) allowed() string { return n.show(n.min) + "…" + n.show(n.max) }

// above says whether the field holds more than the field of other, which is of the same type.
func (n number[T]) above(other value) bool {
	return n.compare(*n.field, *other.(number[T]).field) > 0 //nolint:forcetypeassert // of the same row
}

// bounded is a value that can have a ceiling: any number.
type bounded interface {
	value
	above(other value) bool
}

// integer and natural spell out their type: a generic function would allocate the three functions of a
// number each time that a row is bound, which a push does for every limit with a ceiling.
func integer(field *int, lowest, highest int) bounded {
	return number[int]{
		field: field, min: lowest, max: highest, name: "integer", noun: "an integer",
		parse: parseInteger[int], show: strconv.Itoa, compare: cmp.Compare[int],
	}
}

func natural(field *uint64, lowest, highest uint64) bounded {
	return number[uint64]{
		field: field, min: lowest, max: highest, name: "integer", noun: "an integer",
		parse: parseInteger[uint64], show: func(v uint64) string { return strconv.FormatUint(v, 10) }, compare: cmp.Compare[uint64],
	}
}

func parseInteger[T int | uint64](raw any) (T, bool) {
	n, err := strconv.ParseUint(digits(raw), 10, 63)
	return T(n), err == nil
}

func size(field *int, lowest, highest int) bounded {
	return number[int]{
		field: field, min: lowest, max: highest, name: "size", noun: "a size in bytes, KiB or MiB",
		parse: parseSize, show: showSize, compare: cmp.Compare[int],
	}
}

func duration(field *time.Duration, lowest, highest time.Duration) bounded {
	return number[time.Duration]{
		field: field, min: lowest, max: highest, name: "duration", noun: "a duration with its unit, such as 250ms,",
		parse: func(raw any) (time.Duration, bool) {
			s, _ := letters(raw)
			d, err := time.ParseDuration(s)
			return d, err == nil
		},
		show: showDuration, compare: cmp.Compare[time.Duration],
	}
}

// amount takes a string of digits, or an integer of a file, which is exact there. It takes no
// JSON number, for many a JSON writer sends those as doubles, and no float, for the same reason.
func amount(field *wallet.Amount, lowest, highest wallet.Amount) bounded {
	return number[wallet.Amount]{
		field: field, min: lowest, max: highest, name: "amount", noun: "a whole amount, in quotes where it is large,",
		parse: func(raw any) (wallet.Amount, bool) {
			s, ok := letters(raw)
			if _, double := raw.(jsonNumber); !ok && !double {
				s = digits(raw)
			}
			a, err := wallet.ParseAmount(s)
			return a, err == nil
		},
		show: wallet.Amount.String, compare: wallet.Amount.Cmp,
	}
}

// digits is the text of an exact integer, and "" for anything else.
func digits(raw any) string {
	switch v := raw.(type) {
	case int, int64, uint64:
		return fmt.Sprint(v)
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

func showSize(n int) string {
	switch {
	case n > 0 && n%(1<<20) == 0:
		return strconv.Itoa(n>>20) + "MiB"
	case n > 0 && n%(1<<10) == 0:
		return strconv.Itoa(n>>10) + "KiB"
	default:
		return strconv.Itoa(n)
	}
}

// showDuration is d without the zeros that String adds: 24h, not 24h0m0s.
func showDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// text is a field with a grammar.
type text struct {
	field *string
	name  string
	noun  string
	fits  func(string) bool
}

func (t text) set(raw any) string {
	s, ok := letters(raw)
	if !ok || !t.fits(s) {
		return "is not " + t.noun
	}
	*t.field = s
	return ""
}

func (t text) from(o value)    { *t.field = *o.(text).field } //nolint:forcetypeassert // of the same row
func (t text) String() string  { return *t.field }
func (t text) kind() string    { return t.name }
func (t text) allowed() string { return t.noun }

// listenAddr is where to listen: the host may be empty, and port 0 takes a free one.
func listenAddr(field *string) value {
	return text{field, "address", "HOST:PORT", func(s string) bool { return hostPort(s, 0) }}
}

// dialAddr is where a ledger node listens.
func dialAddr(field *string) value {
	return text{field, "address", "unix:PATH or HOST:PORT", isDialAddr}
}

func isDialAddr(s string) bool {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return len(path) > 0 && len(path) < 108 && visible(path) // 108: sun_path, unix(7)
	}
	return !strings.HasPrefix(s, ":") && hostPort(s, 1)
}

func fileName(field *string) value {
	return text{field, "file", "a file name of at most 4095 bytes", func(s string) bool {
		return len(s) < 4096 && !strings.ContainsRune(s, 0) // PATH_MAX
	}}
}

func hostName(field *string) value { return text{field, "name", "a host name", isLabel} }

// label is a name that others gave: a node's id, a secret's.
func label(field *string) value {
	return text{field, "name", "a name of at most 253 visible ASCII characters", isLabel}
}

func isLabel(s string) bool { return len(s) <= 253 && visible(s) }

// choice is a field that takes one of a few words.
type choice[T ~string] struct {
	field *T
	words []T
}

func oneOf[T ~string](field *T, words ...T) value { return choice[T]{field, words} }

func (c choice[T]) set(raw any) string {
	s, _ := letters(raw)
	if !slices.Contains(c.words, T(s)) {
		return "is not " + c.allowed()
	}
	*c.field = T(s)
	return ""
}

func (c choice[T]) from(o value)   { *c.field = *o.(choice[T]).field } //nolint:forcetypeassert // of the same row
func (c choice[T]) String() string { return string(*c.field) }
func (c choice[T]) kind() string   { return "word" }

func (c choice[T]) allowed() string {
	names := make([]string, len(c.words))
	for i, w := range c.words {
		names[i] = string(w)
	}
	return "one of " + strings.Join(names, ", ")
}

// toggle is a field that is on or off.
type toggle struct{ field *bool }

func (t toggle) set(raw any) string {
	switch raw {
	case true, word("true"):
		*t.field = true
	case false, word("false"):
		*t.field = false
	default:
		return "is not " + t.allowed()
	}
	return ""
}

func (t toggle) from(o value)   { *t.field = *o.(toggle).field } //nolint:forcetypeassert // of the same row
func (t toggle) String() string { return strconv.FormatBool(*t.field) }
func (toggle) kind() string     { return "bool" }
func (toggle) allowed() string  { return "true or false" }

// names is a field that holds a set of names. As a word they stand with commas between them.
type names struct{ field *map[string]struct{} }

// maxNames bounds a set, and so the memory of a push.
const maxNames = 65536

func (n names) set(raw any) string {
	list, ok := raw.([]any)
	if w, isWord := raw.(word); isWord {
		list, ok = splitWord(w), true
	}
	ok = ok && len(list) <= maxNames
	found := make(map[string]struct{}, min(len(list), maxNames))
	for i := 0; ok && i < len(list); i++ {
		var name string
		name, ok = list[i].(string)
		ok = ok && len(name) > 0 && len(name) <= 64 && visible(name) && !strings.Contains(name, ",")
		found[name] = struct{}{}
	}
	if !ok {
		return "is not " + n.allowed()
	}
	*n.field = found
	return ""
}

func splitWord(w word) (list []any) {
	if w == "" {
		return nil
	}
	for name := range strings.SplitSeq(string(w), ",") {
		list = append(list, name)
	}
	return list
}

func (n names) from(o value)   { *n.field = *o.(names).field } //nolint:forcetypeassert // of the same row
func (n names) String() string { return strings.Join(slices.Sorted(maps.Keys(*n.field)), ",") }
func (names) kind() string     { return "list" }

func (names) allowed() string {
	return fmt.Sprintf("a list of at most %d names, each of 1 to 64 visible ASCII characters but no comma", maxNames)
}

// share is a field that holds a Fraction: on, off, or a percentage.
type share struct{ field *Fraction }

func (s share) set(raw any) string {
	switch raw {
	case true, word("true"):
		*s.field = Always
		return ""
	case false, word("false"):
		*s.field = 0
		return ""
	}
	text, _ := letters(raw)
	f, ok := parsePercent(text)
	if !ok {
		return "is not " + s.allowed()
	}
	*s.field = f
	return ""
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

func (s share) from(o value) { *s.field = *o.(share).field } //nolint:forcetypeassert // of the same row

func (s share) String() string {
	switch f := *s.field; f {
	case Always:
		return "true"
	case 0:
		return "false"
	default:
		whole, part := strconv.Itoa(int(f/10_000)), strconv.Itoa(int(f%10_000) + 10_000)[1:]
		return strings.TrimSuffix(whole+"."+strings.TrimRight(part, "0"), ".") + "%"
	}
}

func (share) kind() string { return "share" }
func (share) allowed() string {
	return "true, false or a percentage of at most four decimals such as 25%"
}

// words is a field that holds a list whose order counts. As a word they stand with commas between
// them.
type words struct {
	field *[]string
	name  string
	noun  string
	most  int
	fits  func(string) bool
}

func (w words) set(raw any) string {
	list, ok := raw.([]any)
	if one, isText := raw.(string); isText { // in a file a lone one needs no brackets
		list, ok = splitWord(word(one)), true
	}
	if all, isWord := raw.(word); isWord {
		list, ok = splitWord(all), true
	}
	ok = ok && len(list) <= w.most
	found := make([]string, 0, min(len(list), w.most))
	for i := 0; ok && i < len(list); i++ {
		var s string
		s, ok = list[i].(string)
		ok = ok && w.fits(s) && !strings.Contains(s, ",")
		found = append(found, s)
	}
	if !ok {
		return "is not " + w.allowed()
	}
	*w.field = found
	return ""
}

func (w words) from(o value)    { *w.field = *o.(words).field } //nolint:forcetypeassert // of the same row
func (w words) String() string  { return strings.Join(*w.field, ",") }
func (w words) kind() string    { return w.name }
func (w words) allowed() string { return w.noun }

// maybe is a value that may also be absent, which as a word is "".
type maybe struct {
	value
	there *bool
}

func (m maybe) set(raw any) string {
	if raw == word("") {
		*m.there = false
		return ""
	}
	problem := m.value.set(raw)
	*m.there = *m.there || problem == ""
	return problem
}

func (m maybe) from(o value) {
	other := o.(maybe) //nolint:forcetypeassert // of the same row
	m.value.from(other.value)
	*m.there = *other.there
}

func (m maybe) String() string {
	if !*m.there {
		return ""
	}
	return m.value.String()
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

func hostPort(s string, lowestPort uint64) bool {
	host, port, err := net.SplitHostPort(s)
	if err != nil || len(host) > 253 || !visible(host) {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n >= lowestPort
}

func isSPIFFE(s string) bool {
	return s == "" || (strings.HasPrefix(s, "spiffe://") && len(s) > len("spiffe://") && len(s) <= 2048 && visible(s))
}

func isUnix(s string) bool { return s == "" || (strings.HasPrefix(s, "unix:") && isDialAddr(s)) }

func isXDSType(s string) bool {
	switch s {
	case XDSLimits, XDSRuntime, XDSCluster, XDSEndpoint:
		return true
	}
	return false
}

func isResource(s string) bool { return len(s) > 0 && len(s) <= 253 && visible(s) }

