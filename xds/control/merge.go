package control

import (
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// mergeDepth bounds how deep objects of a patch lie in one another. Those of a document have three
// levels.
const mergeDepth = 8

// merge applies a patch to an object, by RFC 7396 §2: null takes a member away, an object is merged
// into what is there, and anything else takes its place. What it returns is an object with each name
// once. An error says what is wrong with the patch.
func merge(target, patch jsontext.Value, depth int) (jsontext.Value, error) {
	if depth == 0 {
		return nil, fmt.Errorf("objects lie more than %d deep in one another", mergeDepth)
	}
	changes, err := readObject(patch)
	if err != nil {
		return nil, err
	}
	var members []member
	if target.Kind() == '{' {
		if members, err = readObject(target); err != nil {
			return nil, err
		}
	}
	at := make(map[string]int, len(members))
	for i, m := range members {
		at[m.name] = i
	}
	for _, c := range changes {
		i, there := at[c.name]
		if !there {
			i = len(members)
			members = append(members, member{name: c.name, value: jsontext.Value("null")})
		}
		if c.value.Kind() == '{' {
			if c.value, err = merge(members[i].value, c.value, depth-1); err != nil {
				return nil, err
			}
		}
		members[i].value = c.value
	}
	kept := members[:0]
	for _, m := range members {
		if m.value.Kind() != 'n' {
			kept = append(kept, m)
		}
	}
	return appendObject(nil, kept), nil
}

// appendObject appends an object of these members, whose names are UTF-8 because they were decoded.
func appendObject(dst []byte, members []member) []byte {
	dst = append(dst, '{')
	for i, m := range members {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst, _ = jsontext.AppendQuote(dst, m.name)
		dst = append(append(dst, ':'), m.value...)
	}
	return append(dst, '}')
}
