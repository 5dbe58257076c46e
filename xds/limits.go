package xds

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	udpa "github.com/cncf/xds/go/udpa/type/v1"
	xdstype "github.com/cncf/xds/go/xds/type/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/xds/xdspb"
)

const (
	limitsType   = "svc_wallet.v1.Limits"
	structNew    = "xds.type.v3.TypedStruct"
	structOld    = "udpa.type.v1.TypedStruct" // what Istio sends
	extensionURL = typePrefix + "envoy.config.core.v3.TypedExtensionConfig"
)

// limitsKind is ECDS: every limit in one resource. Its value is a *config.Patch.
func limitsKind() kind {
	return kind{
		name:   config.XDSLimits,
		url:    extensionURL,
		blank:  func() proto.Message { return new(core.TypedExtensionConfig) },
		nameOf: func(m proto.Message) string { return m.(*core.TypedExtensionConfig).GetName() }, //nolint:forcetypeassert // blank makes it
		read: func(m proto.Message) (any, error) {
			text, err := limitsJSON(m.(*core.TypedExtensionConfig)) //nolint:forcetypeassert // blank makes it
			if err != nil {
				return nil, err
			}
			return parsePush(text)
		},
		pack:   packPush,
		unpack: parsePush,
	}
}

// putLimits puts the resource of that name in force.
func (c *Client) putLimits(next map[string]*held) error {
	h := next[c.cfg.XDS.LimitsName]
	if h == nil {
		return c.to.Stack.Set(config.LayerLimits, nil, config.Origin{})
	}
	return c.to.Stack.Set(config.LayerLimits, h.value.(*config.Patch), h.origin("limits "+c.cfg.XDS.LimitsName)) //nolint:forcetypeassert // read makes it
}

// parsePush is config.ParsePush as kinds want it.
func parsePush(text []byte) (any, error) {
	p, err := config.ParsePush(text)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// packed is a text of JSON that is written as it is.
type packed []byte

// MarshalJSON implements json.Marshaler.
func (p packed) MarshalJSON() ([]byte, error) { return p, nil }

func packPush(value any) any { return packed(value.(*config.Patch).JSON()) } //nolint:forcetypeassert // read makes it

// limitsJSON is the push that a resource holds, as JSON.
func limitsJSON(m *core.TypedExtensionConfig) ([]byte, error) {
	body := m.GetTypedConfig()
	name := body.GetTypeUrl()[strings.LastIndexByte(body.GetTypeUrl(), '/')+1:]
	var inner string
	var value *structpb.Struct
	switch name {
	case structNew:
		s := new(xdstype.TypedStruct)
		if err := unmarshal(body.GetValue(), s); err != nil {
			return nil, fmt.Errorf("typed_config: %w", err)
		}
		inner, value = s.GetTypeUrl(), s.GetValue()
	case structOld:
		s := new(udpa.TypedStruct)
		if err := unmarshal(body.GetValue(), s); err != nil {
			return nil, fmt.Errorf("typed_config: %w", err)
		}
		inner, value = s.GetTypeUrl(), s.GetValue()
	case limitsType:
		s := new(xdspb.Limits)
		if err := unmarshal(body.GetValue(), s); err != nil {
			return nil, fmt.Errorf("typed_config: %w", err)
		}
		return appendMessage(nil, s.ProtoReflect(), "")
	case "":
		return nil, errors.New("typed_config: is missing")
	default:
		return nil, fmt.Errorf("typed_config: is a %s, not a %s, %s or %s", host.Plain(name), structNew, structOld, limitsType)
	}
	if inner[strings.LastIndexByte(inner, '/')+1:] != limitsType {
		return nil, fmt.Errorf("typed_config.type_url: is %s, not %s", host.Plain(inner), typePrefix+limitsType)
	}
	return appendStruct(nil, value, "", 0)
}

// appendMessage appends a message of limits.proto as the JSON object that it stands for. A field
// that this program does not know would be a limit that it does not keep, so it is refused.
func appendMessage(dst []byte, m protoreflect.Message, path string) ([]byte, error) {
	if len(m.GetUnknown()) > 0 {
		return nil, fmt.Errorf("%s: has a field that this program does not know", host.Plain(join(path, string(m.Descriptor().Name()))))
	}
	var faults []error
	dst = append(dst, '{')
	first := true
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		name := string(f.Name())
		next, err := appendField(append(appendText(dst, name), ':'), f, v, join(path, name))
		if err != nil {
			faults = append(faults, err)
			return true
		}
		dst = next
		return true
	})
	return append(dst, '}'), errors.Join(faults...)
}

func appendField(dst []byte, f protoreflect.FieldDescriptor, v protoreflect.Value, path string) ([]byte, error) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return appendText(dst, v.String()), nil
	case protoreflect.MessageKind:
		if list := f.Message().Fields().ByName("values"); list != nil {
			return appendList(dst, list, v.Message(), path)
		}
		return appendMessage(dst, v.Message(), path)
	default: // uint64
		return strconv.AppendUint(dst, v.Uint(), 10), nil
	}
}

// appendList appends a message that wraps a list.
func appendList(dst []byte, f protoreflect.FieldDescriptor, m protoreflect.Message, path string) ([]byte, error) {
	if len(m.GetUnknown()) > 0 {
		return nil, fmt.Errorf("%s: has a field that this program does not know", host.Plain(path))
	}
	dst = append(dst, '[')
	list := m.Get(f).List()
	for i := range list.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if f.Kind() == protoreflect.MessageKind {
			dst, err = appendMessage(dst, list.Get(i).Message(), fmt.Sprintf("%s[%d]", path, i))
		} else {
			dst = appendText(dst, list.Get(i).String())
		}
		if err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}
