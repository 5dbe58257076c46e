package xds

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	runtime "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/types/known/structpb"

	"svc-wallet/config"
	"svc-wallet/host"
)

const (
	runtimeURL    = typePrefix + "envoy.service.runtime.v3.Runtime"
	runtimePrefix = "svc-wallet"
)

// knobs are the settings of one runtime layer: JSON by the path of the member, such as queue or
// shadow.queue.
type knobs map[string]string

// runtimeType is RTDS: single settings over all others.
func runtimeType() resourceType[knobs] {
	return resourceType[knobs]{
		typeInfo: typeInfo{name: config.XDSRuntime, url: runtimeURL},
		decode:   decoder((*runtime.Runtime).GetName, func(m *runtime.Runtime) (knobs, error) { return readKnobs(m.GetLayer()) }),
		pack:     func(k knobs) any { return k },
		unpack: func(raw []byte) (knobs, error) {
			var k knobs
			if err := json.Unmarshal(raw, &k); err != nil {
				return nil, err
			}
			for path, text := range k {
				if !jsontext.Value(text).IsValid() {
					return nil, fmt.Errorf("%s: is not JSON", host.Plain(path))
				}
			}
			_, err := k.push()
			return k, err
		},
	}
}

// putRuntime lays the layers over one another, in the order of xds.runtime_names, and puts the
// result in force.
func (c *Client) putRuntime(next set[knobs]) error {
	all := knobs{}
	var top *resource
	var from []string
	for _, name := range c.cfg.XDS.RuntimeNames {
		if h := next.held[name]; h != nil {
			maps.Copy(all, next.values[name])
			top = h
			from = append(from, name)
		}
	}
	if top == nil {
		return c.to.Stack.Set(config.LayerRuntime, nil, config.Origin{})
	}
	p, err := all.push()
	if err != nil {
		return err
	}
	return c.to.Stack.Set(config.LayerRuntime, p, top.origin("runtime "+strings.Join(from, "+")))
}

// push is the layer as the push that it stands for.
func (k knobs) push() (*config.Patch, error) {
	var top, shadow members
	for _, path := range slices.Sorted(maps.Keys(k)) {
		if limit, ok := strings.CutPrefix(path, "shadow."); ok {
			shadow.add(limit, k[path])
		} else {
			top.add(path, k[path])
		}
	}
	if len(shadow) > 0 {
		top.add("shadow", string(shadow.object()))
	}
	return config.ParsePush(top.object())
}

// readKnobs reads a layer. A dot in a key is the same as a struct within the struct.
func readKnobs(layer *structpb.Struct) (knobs, error) {
	k := knobs{}
	var faults []error
	k.walk(layer, "", 0, func(err error) { faults = append(faults, err) })
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	_, err := k.push()
	return k, err
}

// walk takes the keys of a struct that are ours.
func (k knobs) walk(s *structpb.Struct, path string, depth int, fail func(error)) {
	if depth > maxNesting {
		fail(fmt.Errorf("%s: is nested more than %d deep", host.Plain(path), maxNesting))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.GetFields())) {
		key, v := join(path, name), s.GetFields()[name]
		ours := key == runtimePrefix || strings.HasPrefix(key, runtimePrefix+".")
		inner := v.GetStructValue()
		switch {
		case !ours: // somebody else's, whatever it is
		case inner != nil && !isFraction(key, inner):
			k.walk(inner, key, depth+1, fail)
		default:
			if err := k.take(key, v); err != nil {
				fail(err)
			}
		}
	}
}

// take takes one key.
func (k knobs) take(key string, v *structpb.Value) error {
	wrong := func(err error) error { return fmt.Errorf("%s: %w", host.Plain(key), err) }
	member := strings.TrimPrefix(key, runtimePrefix+".")
	if route, ok := strings.CutPrefix(member, "route."); ok {
		if route, ok = strings.CutSuffix(route, ".enabled"); !ok || strings.Contains(route, ".") {
			return wrong(errors.New("unknown key"))
		}
		member = route + "_enabled"
	}
	if _, again := k[member]; again {
		return wrong(errors.New("is there twice"))
	}
	if strings.HasSuffix(member, "_enabled") {
		text, err := share(v)
		if err != nil {
			return wrong(err)
		}
		k[member] = text
		return nil
	}
	if v.GetStructValue() != nil {
		return wrong(errors.New("is a fraction, and only switches have one"))
	}
	if _, isNull := v.GetKind().(*structpb.Value_NullValue); isNull {
		return wrong(errors.New("is null: leave the key out to give up its setting"))
	}
	text, err := appendValue(nil, v, key, 0)
	k[member] = string(text)
	return err
}

// isFraction tells a FractionalPercent from a struct of keys, as Envoy does. One of 0 % may be an empty struct,
// because zero values are left out in JSON; and then the key of a switch means it.
func isFraction(key string, s *structpb.Struct) bool {
	if len(s.GetFields()) == 0 {
		return strings.HasSuffix(key, "_enabled") || strings.HasSuffix(key, ".enabled")
	}
	return s.GetFields()["numerator"] != nil || s.GetFields()["denominator"] != nil
}

// share is a switch as a push has it: true, false, or a percentage.
func share(v *structpb.Value) (string, error) {
	switch v := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return strconv.FormatBool(v.BoolValue), nil
	case *structpb.Value_NumberValue:
		return percent(v.NumberValue, 100)
	case *structpb.Value_StructValue:
		return fraction(v.StructValue)
	default:
		return "", errors.New("is not true, false, an integer percentage or a fraction")
	}
}

// fraction reads an envoy.type.v3.FractionalPercent in its JSON form.
func fraction(s *structpb.Struct) (string, error) {
	for _, name := range slices.Sorted(maps.Keys(s.GetFields())) {
		if name != "numerator" && name != "denominator" {
			return "", fmt.Errorf("%s is not a part of a fraction", host.Plain(name))
		}
	}
	n := s.GetFields()["numerator"]
	if _, isNumber := n.GetKind().(*structpb.Value_NumberValue); n != nil && !isNumber {
		return "", errors.New("the numerator is not a number")
	}
	whole := 100
	if d := s.GetFields()["denominator"]; d != nil {
		known := map[string]int{"HUNDRED": 100, "TEN_THOUSAND": 10_000, "MILLION": 1_000_000}
		if whole = known[d.GetStringValue()]; whole == 0 {
			return "", errors.New("the denominator is not HUNDRED, TEN_THOUSAND or MILLION")
		}
	}
	return percent(n.GetNumberValue(), whole)
}

// percent is n parts of whole as a percentage, exactly.
func percent(f float64, parts int) (string, error) {
	n, err := whole(f)
	if err != nil {
		return "", err
	}
	if n < 0 || n > int64(parts) {
		return "", fmt.Errorf("%d is not in 0…%d", n, parts)
	}
	millionths := n * int64(1_000_000/parts)
	return fmt.Sprintf(`"%d.%04d%%"`, millionths/10_000, millionths%10_000), nil
}
