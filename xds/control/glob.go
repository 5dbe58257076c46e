package control

import "strings"

// matches says whether s fits a glob, in which * is any characters and all others are themselves.
// It takes time in proportion to both lengths, whatever the glob: the first place where a part
// fits is never worse than a later one.
func matches(glob, s string) bool {
	parts := strings.Split(glob, "*")
	if len(parts) == 1 {
		return glob == s
	}
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(s, part)
		if !found {
			return false
		}
		s = after
	}
	return strings.HasSuffix(s, last)
}

func isGlob(s string) bool { return strings.Contains(s, "*") }
