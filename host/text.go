package host

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Cut is s, or its beginning of at most that many bytes, which ends with a whole character.
func Cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

// Plain is text of others as a line may show it: cut, and quoted unless every character is harmless.
func Plain(s string) string {
	harmless := func(c rune) bool {
		return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strings.ContainsRune("_.-/:@+=[]", c)
	}
	short := Cut(s, 80)
	if s == "" || strings.ContainsFunc(s, func(c rune) bool { return !harmless(c) }) {
		return strconv.Quote(short)
	}
	return short
}

// OneLine is a parser's message in one line, cut where it quotes too much.
func OneLine(err error) error {
	return errors.New(Cut(strings.Join(strings.Fields(err.Error()), " "), 300))
}
