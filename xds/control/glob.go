package control

import "strings"

// glob is a pattern in which * is any characters and all others are themselves: what stands
// between its stars.
type glob []string

func newGlob(s string) glob { return strings.Split(s, "*") }

// matches takes time in proportion to both lengths, whatever the glob: the first place where a
// part fits is never worse than a later one.
func (g glob) matches(s string) bool {
	if len(g) == 1 {
		return s == g[0]
	}
	s, ok := strings.CutPrefix(s, g[0])
	if !ok {
		return false
	}
	for _, part := range g[1 : len(g)-1] {
		_, after, found := strings.Cut(s, part)
		if !found {
			return false
		}
		s = after
	}
	return strings.HasSuffix(s, g[len(g)-1])
}
