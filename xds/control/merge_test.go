package control

import (
	"encoding/json"
	"reflect"
	"testing"
)

// TestMerge: the examples of RFC 7396, appendix A, whose patch is an object, and what it says of nulls.
// Method: a table.
func TestMerge(t *testing.T) {
	for _, c := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":1}`, `{"a":1}`, `{"a":1,"e":1}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"n":340282366920938463463374607431768211455}`, `{}`, `{"n":340282366920938463463374607431768211455}`},
	} {
		got, err := merge([]byte(c.target), []byte(c.patch), mergeDepth)
		if err != nil || string(got) != c.want {
			t.Errorf("%s with %s: %s %v, wanted %s", c.target, c.patch, got, err, c.want)
		}
	}
}

// FuzzMerge: what is merged is as encoding/json's maps merge it, and a patch that is no object with each
// name once is refused. Method: a reference by maps.
func FuzzMerge(f *testing.F) {
	f.Add(`{"a":{"b":1}}`, `{"a":{"b":null,"c":[1]},"d":"e"}`)
	f.Add(`{}`, `{"a":1,"a":2}`)
	f.Fuzz(func(t *testing.T, target, patch string) {
		got, err := merge([]byte(target), []byte(patch), mergeDepth)
		if err != nil {
			return
		}
		var before, change, after any
		if json.Unmarshal([]byte(target), &before) != nil || json.Unmarshal([]byte(patch), &change) != nil {
			return // numbers beyond float64, or a target that is no JSON
		}
		if err := json.Unmarshal(got, &after); err != nil {
			t.Fatalf("%s with %s is %s: %v", target, patch, got, err)
		}
		if want := merged(before, change); !reflect.DeepEqual(after, want) {
			t.Fatalf("%s with %s is %s, wanted %v", target, patch, got, want)
		}
	})
}

func merged(target, patch any) any {
	change, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	out := map[string]any{}
	if t, ok := target.(map[string]any); ok {
		for name, value := range t {
			if value != nil {
				out[name] = value
			}
		}
	}
	for name, value := range change {
		if value == nil {
			delete(out, name)
		} else {
			out[name] = merged(out[name], value)
		}
	}
	return out
}
