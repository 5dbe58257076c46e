package xds

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"svc-wallet/host"
)

// protocol is one stream in one variant of the protocol. One goroutine calls recv, and one the others.
type protocol interface {
	// subscribe asks for the resources that a request names, and for no others of the type.
	subscribe(url string, r request) error
	// answer acknowledges the response with that nonce, or refuses it where reason is not "".
	answer(url, nonce string, r request, reason string) error
	// subscribeAgain subscribes anew to names that are subscribed to, so that they are told of again. It does
	// nothing where each response tells of all anyway.
	subscribeAgain(url string, names []string) error
	recv() (*response, error)
}

// wildcard is the name by which a delta asks for all resources of a type.
const wildcard = "*"

// request is what is asked for of a type, and what is already there.
type request struct {
	names    []string          // none where wildcard
	wildcard bool              // all of them
	versions map[string]string // what is held, by name; only to subscribe: delta sends it with the first request
	version  string            // state of the world: of the response accepted last
}

// response is what a control plane sends about one type of resource.
type response struct {
	url     string
	nonce   string
	full    bool // state of the world: what is absent is gone, where the type says so
	version string
	bodies  []body
	removed []string
	size    int // in bytes
}

// body is one resource of a response. name is "" in the state of the world, where only the
// resource itself tells it; a nil resource says that what is held lives on.
type body struct {
	name, version string
	resource      *anypb.Any
	ttl           *durationpb.Duration // how long it lives where nobody says it again; nil: until it is taken away
}

// maxReason bounds the text of a NACK: proxies on the way may refuse a larger one.
const maxReason = 4096

// refusal is the status of a NACK; nil, whose Proto is nil too, where there is no reason.
func refusal(reason string) *status.Status {
	if reason == "" {
		return nil
	}
	return status.New(codes.InvalidArgument, strings.ToValidUTF8(host.Cut(reason, maxReason), "?"))
}

// identity names the sidecar once on each stream, as the protocol allows.
type identity struct{ node *core.Node }

func (i *identity) once() *core.Node {
	n := i.node
	i.node = nil
	return n
}

func sizeOf(m proto.Message) int { return proto.Size(m) }
