package xds

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"svc-wallet/host"
)

// kind is a type of resource: all that the protocol needs to know of it.
type kind struct {
	name   string // in metrics, logs and /config
	url    string
	wild   bool // all resources of the type are asked for, and those that are not for us passed over
	whole  bool // in the state of the world, what is absent has been removed
	secret bool // never on disk, never shown

	blank  func() proto.Message
	nameOf func(proto.Message) string
	// read is the resource's value in our own form, checked by itself. Each line of its error is
	// a fault.
	read func(proto.Message) (any, error)
	// pack is a value as it stands in the last good file, and unpack takes that back. A secret
	// kind has neither.
	pack   func(value any) any
	unpack func(raw []byte) (any, error)
}

func kinds() []kind {
	return []kind{limitsKind(), runtimeKind(), clusterKind(), endpointKind(), secretKind()}
}

const typePrefix = "type.googleapis.com/"

// maxDepth bounds the nesting of protobuf messages. What we take is nested about 30 deep, counting
// the messages of which a JSON value consists.
const maxDepth = 100

// open unmarshals a resource of the kind.
func (k *kind) open(m *anypb.Any) (proto.Message, error) {
	if m.GetTypeUrl() != k.url {
		return nil, fmt.Errorf("is a %s, not a %s", host.Plain(strings.TrimPrefix(m.GetTypeUrl(), typePrefix)), strings.TrimPrefix(k.url, typePrefix))
	}
	msg := k.blank()
	if err := unmarshal(m.GetValue(), msg); err != nil {
		return nil, err
	}
	return msg, nil
}

func unmarshal(raw []byte, into proto.Message) error {
	if err := (proto.UnmarshalOptions{RecursionLimit: maxDepth}).Unmarshal(raw, into); err != nil {
		return errors.New("is not a valid message: " + strings.ReplaceAll(err.Error(), "\u00a0", " "))
	}
	return nil
}

// Check decodes one resource as a sidecar does, and says what is wrong with it in the words of a
// NACK: `resource: field: reason`, a fault a line. It does not know of ceilings: those are each
// sidecar's own. resource may be an Any.
func Check(typeURL string, resource proto.Message) error {
	for _, k := range kinds() {
		if k.url != typeURL {
			continue
		}
		packed, isAny := resource.(*anypb.Any)
		if !isAny {
			var err error
			if packed, err = anypb.New(resource); err != nil {
				return fmt.Errorf("resource: %w", err)
			}
		}
		msg, err := k.open(packed)
		if err != nil {
			return fault("resource", err)
		}
		if _, err := k.read(msg); err != nil {
			return fault(k.nameOf(msg), err)
		}
		return nil
	}
	return fmt.Errorf("type %s is not one that a sidecar takes", host.Plain(typeURL))
}

// fault puts the resource's name before each line of err.
func fault(name string, err error) error {
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = host.Plain(name) + ": " + lines[i]
	}
	return errors.New(strings.Join(lines, "\n"))
}
