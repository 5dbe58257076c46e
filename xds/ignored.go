package xds

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// maxIgnored bounds the fields that are told of one resource.
const maxIgnored = 32

// ignored are the fields that are set in m and not taken, by their path without the indexes of lists,
// each once. A path of takes stands for all below it. nil: it is not looked at.
func ignored(m protoreflect.Message, takes []string) (paths []string) {
	if takes == nil {
		return nil
	}
	var walk func(m protoreflect.Message, at string)
	walk = func(m protoreflect.Message, at string) {
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			path := join(at, string(f.Name()))
			inside := slices.ContainsFunc(takes, func(t string) bool { return strings.HasPrefix(t, path+".") })
			switch {
			case slices.Contains(takes, path) || slices.Contains(paths, path):
			case f.Message() == nil || f.IsMap() || f.Message().ParentFile().Package() == "google.protobuf" || (f.IsList() && !inside):
				paths = append(paths, path)
			case f.IsList():
				for i := range v.List().Len() {
					walk(v.List().Get(i).Message(), path)
				}
			default:
				walk(v.Message(), path)
			}
			return len(paths) < maxIgnored
		})
	}
	walk(m, "")
	slices.Sort(paths)
	return paths
}
