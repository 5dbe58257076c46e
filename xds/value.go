package xds

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/types/known/structpb"

	"svc-wallet/host"
)

const (
	maxNesting = 8       // of a pushed JSON value, as config has it
	maxExact   = 1 << 53 // from here on a double may be another number, rounded
)

// members are those of a JSON object, which is closed by object.
type members []byte

func (m *members) add(name, text string) {
	if len(*m) > 1 {
		*m = append(*m, ',')
	}
	if len(*m) == 0 {
		*m = append(*m, '{')
	}
	*m = append(append(appendText(*m, name), ':'), text...)
}

func (m members) object() []byte {
	if len(m) == 0 {
		return []byte("{}")
	}
	return append(m, '}')
}

// appendStruct appends a Struct as a JSON object, its members by name.
func appendStruct(dst []byte, s *structpb.Struct, path string, depth int) ([]byte, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%s: is nested more than %d deep", host.Plain(path), maxNesting)
	}
	var faults []error
	dst = append(dst, '{')
	names := slices.AppendSeq(make([]string, 0, len(s.GetFields())), maps.Keys(s.GetFields()))
	slices.Sort(names)
	for i, name := range names {
		if i > 0 {
			dst = append(dst, ',')
		}
		next, err := appendValue(append(appendText(dst, name), ':'), s.GetFields()[name], join(path, name), depth+1)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		dst = next
	}
	return append(dst, '}'), errors.Join(faults...)
}

// appendValue appends a Value as JSON. Its numbers are doubles: one that is not whole, or so large
// that it may have been rounded, is refused, for it is not what was meant.
func appendValue(dst []byte, v *structpb.Value, path string, depth int) ([]byte, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%s: is nested more than %d deep", host.Plain(path), maxNesting)
	}
	switch v := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return strconv.AppendBool(dst, v.BoolValue), nil
	case *structpb.Value_StringValue:
		return appendText(dst, v.StringValue), nil
	case *structpb.Value_NumberValue:
		n, err := whole(v.NumberValue)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", host.Plain(path), err)
		}
		return strconv.AppendInt(dst, n, 10), nil
	case *structpb.Value_StructValue:
		return appendStruct(dst, v.StructValue, path, depth)
	case *structpb.Value_ListValue:
		dst = append(dst, '[')
		for i, e := range v.ListValue.GetValues() {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = appendValue(dst, e, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	default: // null, or none of them, which is no JSON
		return append(dst, "null"...), nil
	}
}

// whole is a double as the integer that it certainly was.
func whole(f float64) (int64, error) {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0) || f != math.Trunc(f):
		return 0, fmt.Errorf("%v is not a whole number", f)
	case math.Abs(f) >= maxExact:
		return 0, fmt.Errorf("%v is not under 2^53, so it may have been rounded: amounts are strings", f)
	default:
		return int64(f), nil
	}
}

func appendText(dst []byte, s string) []byte {
	out, err := jsontext.AppendQuote(dst, s)
	if err != nil { // protobuf has checked that it is UTF-8
		panic("xds: a string is not UTF-8: " + err.Error())
	}
	return out
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
