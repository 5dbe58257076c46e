package control

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	xdstype "github.com/cncf/xds/go/xds/type/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	runtime "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/go-json-experiment/json"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"svc-wallet/xds"
)

// Names are the names of the resources that have a name of their own.
type Names struct {
	Limits  string // ECDS; svc-wallet.limits by default
	Runtime string // RTDS; svc-wallet.runtime by default
}

func (n Names) withDefaults() Names {
	if n.Limits == "" {
		n.Limits = "svc-wallet.limits"
	}
	if n.Runtime == "" {
		n.Runtime = "svc-wallet.runtime"
	}
	return n
}

// limitsURL is the type that a TypedStruct says to stand for.
const limitsURL = "type.googleapis.com/svc_wallet.v1.Limits"

// kind is a type of resource that is served, in the order of sending: whoever hears of a cluster
// asks for its endpoints.
type kind uint8

const (
	kindCluster kind = iota
	kindEndpoint
	kindLimits
	kindRuntime
	numKinds
)

// String is the kind's name in the API, in metrics and in the sidecar's xds.types.
func (k kind) String() string {
	return [numKinds]string{"cluster", "endpoint", "limits", "runtime"}[k]
}

func (k kind) url() string {
	return [numKinds]string{resource.ClusterType, resource.EndpointType, resource.ExtensionConfigType, resource.RuntimeType}[k]
}

func kindOf(url string) (kind, bool) {
	for k := range numKinds {
		if k.url() == url {
			return k, true
		}
	}
	return 0, false
}

// resources are those of one kind. Every stream sends the same ones, and nobody writes to them.
type resources struct {
	version string // of all of them together
	byName  map[string]*discovery.Resource
	names   []string // in order
}

// snapshot is what a group is served. The state of the world cannot say that limits or a runtime
// layer are gone (only for clusters does absence mean that), so where there are none it says that
// they are empty, which comes to the same: every setting falls back.
type snapshot struct{ delta, sotw [numKinds]resources }

// contents are the parts of a document.
type contents struct {
	names    Names
	version  string
	limits   object
	runtime  object // nil: absent
	clusters map[string]clusterSpec
}

// newSnapshot makes the resources, and holds each against what a sidecar takes. The error is of all that
// it would refuse, in the words of its NACK.
func newSnapshot(c contents) (snapshot, error) {
	var s snapshot
	var faults []error
	limits, err := limitsResource(c.limits, c.names.Limits)
	layer, err2 := runtimeResource(c.runtime, c.names.Runtime)
	if err := errors.Join(err, err2); err != nil {
		return s, err
	}
	lists := [numKinds][]named{kindLimits: {limits}, kindRuntime: {layer}}
	for _, name := range slices.Sorted(maps.Keys(c.clusters)) {
		spec := c.clusters[name]
		lists[kindCluster] = append(lists[kindCluster], named{name, spec.cluster(name)})
		if len(spec.Endpoints) > 0 {
			lists[kindEndpoint] = append(lists[kindEndpoint], named{name, spec.assignment(name)})
		}
	}
	for k := range numKinds {
		s.sotw[k], err = newResources(k, lists[k], c.version)
		faults = append(faults, err)
	}
	s.delta = s.sotw
	if len(c.limits) == 0 {
		s.delta[kindLimits] = nothing()
	}
	if c.runtime == nil {
		s.delta[kindRuntime] = nothing()
	}
	return s, errors.Join(faults...)
}

// named is a resource before it is packed.
type named struct {
	name    string
	message proto.Message
}

// nothing are no resources. They are the same whichever document has none.
func nothing() resources { return resources{version: "empty"} }

// newResources packs messages once, for all streams. Their version is the document's, so that it is the
// same from PUT to a sidecar's /config, and by whichever process it is served: a sidecar that has it is not
// sent it again.
func newResources(k kind, list []named, version string) (resources, error) {
	if len(list) == 0 {
		return nothing(), nil
	}
	r := resources{version: version, byName: map[string]*discovery.Resource{}}
	var faults []error
	for _, n := range list {
		packed, err := pack(n.message)
		if err == nil {
			err = check(k.url(), packed)
		}
		faults = append(faults, err)
		r.byName[n.name] = &discovery.Resource{Name: n.name, Version: version, Resource: packed}
	}
	r.names = slices.Sorted(maps.Keys(r.byName))
	return r, errors.Join(faults...)
}

// maxResponse is what a sidecar takes in one message; it ends a stream that brings more.
const maxResponse = 4 << 20

// check holds a resource against what a sidecar takes: what it would refuse is not sent.
func check(typeURL string, packed *anypb.Any) error {
	if size := proto.Size(packed); size > maxResponse/2 {
		return fmt.Errorf("a resource is %d bytes as it is sent: a sidecar takes %d", size, maxResponse/2)
	}
	return xds.Check(typeURL, packed)
}

// pack is anypb.New with the same bytes each time.
func pack(m proto.Message) (*anypb.Any, error) {
	packed := new(anypb.Any)
	err := anypb.MarshalFrom(packed, m, proto.MarshalOptions{Deterministic: true})
	return packed, err
}

// hash is short enough to be read and long enough to be no other content's.
func hash(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:16])
}

// limitsResource wraps the members of the limits; without any it is the empty ones.
func limitsResource(members object, name string) (named, error) {
	value, err := structOf("limits", members)
	if err != nil {
		return named{}, err
	}
	typed, err := pack(&xdstype.TypedStruct{TypeUrl: limitsURL, Value: value})
	return named{name, &core.TypedExtensionConfig{Name: name, TypedConfig: typed}}, err
}

func runtimeResource(members object, name string) (named, error) {
	layer, err := structOf("runtime", members)
	return named{name, &runtime.Runtime{Name: name, Layer: layer}}, err
}

func structOf(part string, members object) (*structpb.Struct, error) {
	out := new(structpb.Struct)
	text, err := json.Marshal(members)
	if err == nil {
		err = out.UnmarshalJSON(text)
	}
	if err != nil { // it is JSON, so nothing else can be wrong with it
		return nil, fmt.Errorf("%s: holds a number that no push can carry", part)
	}
	return out, nil
}

// cluster is the spec as Envoy writes it. Endpoints come by EDS, so that they can change without
// the cluster; without any the cluster names none.
func (c *clusterSpec) cluster(name string) *cluster.Cluster {
	out := &cluster.Cluster{Name: name, ConnectTimeout: c.ConnectTimeout.proto(), ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC}}
	if len(c.Endpoints) > 0 {
		out.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_EDS}
		out.EdsClusterConfig = &cluster.Cluster_EdsClusterConfig{EdsConfig: &core.ConfigSource{
			ResourceApiVersion:    core.ApiVersion_V3,
			ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
		}}
	}
	if c.MaxPendingRequests != nil || c.MaxRequests != nil {
		out.CircuitBreakers = &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{
			{Priority: core.RoutingPriority_DEFAULT, MaxPendingRequests: integer(c.MaxPendingRequests), MaxRequests: integer(c.MaxRequests)},
		}}
	}
	if c.ConsecutiveErrors != nil || c.BaseEjectionTime.Duration != nil {
		out.OutlierDetection = &cluster.OutlierDetection{Consecutive_5Xx: integer(c.ConsecutiveErrors), BaseEjectionTime: c.BaseEjectionTime.proto()}
	}
	return out
}

// assignment has the endpoints in order of priority.
func (c *clusterSpec) assignment(name string) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	for i, e := range c.Endpoints {
		out.Endpoints = append(out.Endpoints, &endpointv3.LocalityLbEndpoints{
			Priority: uint32(i),
			LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: e.proto()}},
			}},
		})
	}
	return out
}

func (e endpoint) proto() *core.Address {
	if e.Path() != "" {
		return &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: e.Path()}}}
	}
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: e.Host(), PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(e.Port())},
	}}}
}

// proto is nil where the duration is absent.
func (d duration) proto() *durationpb.Duration {
	if d.Duration == nil {
		return nil
	}
	return durationpb.New(*d.Duration)
}

func integer(n *uint32) *wrapperspb.UInt32Value {
	if n == nil {
		return nil
	}
	return wrapperspb.UInt32(*n)
}
