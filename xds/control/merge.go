package control

import (
	"fmt"

	"github.com/go-json-experiment/json"
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
	members := object{}
	if target.Kind() == jsontext.KindBeginObject {
		if members, err = readObject(target); err != nil {
			return nil, err
		}
	}
	for name, value := range changes {
		if value.Kind() == jsontext.KindNull {
			delete(members, name)
			continue
		}
		if value.Kind() == jsontext.KindBeginObject {
			if value, err = merge(members[name], value, depth-1); err != nil {
				return nil, err
			}
		}
		members[name] = value
	}
	return json.Marshal(members, json.Deterministic(true))
}
