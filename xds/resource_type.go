package xds

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"svc-wallet/host"
)

// typeInfo is what the protocol needs to know of a type of resource.
type typeInfo struct {
	name      string // in metrics, logs and /config
	url       string
	wildcard  bool // all resources of the type are asked for, and those that are not for us passed over
	allInSotW bool // in the state of the world, what is absent has been removed
	secret    bool // never on disk, never shown
}

// resourceType is a type of resource whose value, in our own form, is a T.
type resourceType[T any] struct {
	typeInfo
	// decode reads a resource's name, and returns how to check it and have its value: of what is not
	// for us only the name counts. Each line of an error is a fault.
	decode func(raw []byte) (name string, value func() (T, []string, error), err error)
	// pack is a value as it stands in the last good file, and unpack takes that back. A secret type
	// has neither.
	pack   func(T) any
	unpack func(raw []byte) (T, error)
}

// decoder is a resourceType's decode for a message M. takes are the fields that read looks at, where
// the value comes with a list of those that it passes over; nil: it does not.
func decoder[M, T any, P interface {
	*M
	proto.Message
}](nameOf func(P) string, read func(P) (T, error), takes ...string) func([]byte) (string, func() (T, []string, error), error) {
	return func(raw []byte) (string, func() (T, []string, error), error) {
		m := P(new(M))
		if err := unmarshal(raw, m); err != nil {
			return "", nil, err
		}
		return nameOf(m), func() (T, []string, error) {
			value, err := read(m)
			return value, ignored(m.ProtoReflect(), takes), err
		}, nil
	}
}

const typePrefix = "type.googleapis.com/"

// maxDepth bounds the nesting of protobuf messages. What we take is nested about 30 deep, counting
// the messages of which a JSON value consists.
const maxDepth = 100

func unmarshal(raw []byte, into proto.Message) error {
	if err := (proto.UnmarshalOptions{RecursionLimit: maxDepth}).Unmarshal(raw, into); err != nil {
		return errors.New("is not a valid message: " + strings.ReplaceAll(err.Error(), "\u00a0", " "))
	}
	return nil
}

// open is decode of a resource as it is sent.
func (t resourceType[T]) open(m *anypb.Any) (string, func() (T, []string, error), error) {
	if m.GetTypeUrl() != t.url {
		return "", nil, fmt.Errorf("is a %s, not a %s", host.Plain(strings.TrimPrefix(m.GetTypeUrl(), typePrefix)), strings.TrimPrefix(t.url, typePrefix))
	}
	return t.decode(m.GetValue())
}

func (t resourceType[T]) check(m *anypb.Any) error {
	name, value, err := t.open(m)
	if err != nil {
		return fault("resource", err)
	}
	if _, _, err := value(); err != nil {
		return fault(name, err)
	}
	return nil
}

// Check decodes one resource as a sidecar does, and says what is wrong with it in the words of a
// NACK: `resource: field: reason`, a fault a line. It does not know of ceilings: those are each
// sidecar's own. resource may be an Any.
func Check(typeURL string, resource proto.Message) error {
	packed, isAny := resource.(*anypb.Any)
	if !isAny {
		var err error
		if packed, err = anypb.New(resource); err != nil {
			return fmt.Errorf("resource: %w", err)
		}
	}
	switch typeURL {
	case extensionURL:
		return limitsType().check(packed)
	case runtimeURL:
		return runtimeType().check(packed)
	case clusterURL:
		return clusterType().check(packed)
	case endpointURL:
		return endpointType().check(packed)
	case secretURL:
		return secretType().check(packed)
	}
	return fmt.Errorf("type %s is not one that a sidecar takes", host.Plain(typeURL))
}

// fault puts the resource's name before each line of err.
func fault(name string, err error) error { return prefixed(host.Plain(name)+": ", err) }

// prefixed puts a path before each line of err.
func prefixed(path string, err error) error {
	return errors.New(path + strings.ReplaceAll(err.Error(), "\n", "\n"+path))
}
