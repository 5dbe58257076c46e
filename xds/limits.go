package xds

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	udpa "github.com/cncf/xds/go/udpa/type/v1"
	xdstype "github.com/cncf/xds/go/xds/type/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/xds/xdspb"
)

const (
	limitsName   = "svc_wallet.v1.Limits"
	structNew    = "xds.type.v3.TypedStruct"
	structOld    = "udpa.type.v1.TypedStruct" // what Istio sends
	extensionURL = typePrefix + "envoy.config.core.v3.TypedExtensionConfig"
)

// limitsType is ECDS: every limit in one resource.
func limitsType() resourceType[*config.Patch] {
	return resourceType[*config.Patch]{
		typeInfo: typeInfo{name: config.XDSLimits, url: extensionURL},
		decode: decoder((*core.TypedExtensionConfig).GetName, func(m *core.TypedExtensionConfig) (*config.Patch, error) {
			text, err := limitsJSON(m)
			if err != nil {
				return nil, err
			}
			return config.ParsePush(text)
		}),
		pack:   func(p *config.Patch) any { return jsontext.Value(p.JSON()) },
		unpack: config.ParsePush,
	}
}

// putLimits puts the resource of that name in force.
func (c *Client) putLimits(next set[*config.Patch]) error {
	name := c.cfg.XDS.LimitsName
	return c.to.Stack.Set(config.LayerLimits, next.values[name], next.held[name].origin("limits "+name))
}

// limitsJSON is the push that a resource holds, as JSON.
func limitsJSON(m *core.TypedExtensionConfig) ([]byte, error) {
	body := m.GetTypedConfig()
	name := afterSlash(body.GetTypeUrl())
	var inner proto.Message
	switch name {
	case structNew:
		inner = new(xdstype.TypedStruct)
	case structOld:
		inner = new(udpa.TypedStruct)
	case limitsName:
		inner = new(xdspb.Limits)
	case "":
		return nil, errors.New("typed_config: is missing")
	default:
		return nil, fmt.Errorf("typed_config: is a %s, not a %s, %s or %s", host.Plain(name), structNew, structOld, limitsName)
	}
	if err := unmarshal(body.GetValue(), inner); err != nil {
		return nil, fmt.Errorf("typed_config: %w", err)
	}
	s, isStruct := inner.(interface {
		GetTypeUrl() string
		GetValue() *structpb.Struct
	})
	if !isStruct {
		return appendMessage(nil, inner.ProtoReflect(), "")
	}
	if afterSlash(s.GetTypeUrl()) != limitsName {
		return nil, fmt.Errorf("typed_config.type_url: is %s, not %s", host.Plain(s.GetTypeUrl()), typePrefix+limitsName)
	}
	return appendStruct(nil, s.GetValue(), "", 0)
}

func afterSlash(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

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
