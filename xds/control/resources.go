package control

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	xdstype "github.com/cncf/xds/go/xds/type/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	runtime "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"svc-wallet/host"
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

// contents are the checked parts of a document; nil is absent.
type contents struct {
	limits   []byte
	runtime  jsontext.Value
	clusters []clusterSpec
}

func newSnapshot(c contents, names Names) (snapshot, error) {
	var s snapshot
	limits, err := limitsResource(c.limits, names.Limits)
	if err != nil {
		return s, err
	}
	layer, err := runtimeResource(c.runtime, names.Runtime)
	if err != nil {
		return s, err
	}
	lists := [numKinds][]named{kindLimits: {limits}, kindRuntime: {layer}}
	for _, spec := range c.clusters {
		lists[kindCluster] = append(lists[kindCluster], named{spec.name, spec.cluster()})
		if len(spec.endpoints) > 0 {
			lists[kindEndpoint] = append(lists[kindEndpoint], named{spec.name, spec.assignment()})
		}
	}
	for k := range numKinds {
		if s.sotw[k], err = newResources(k, lists[k]); err != nil {
			return s, err
		}
		s.delta[k] = s.sotw[k]
	}
	if c.limits == nil {
		s.delta[kindLimits], err = newResources(kindLimits, nil)
	}
	if c.runtime == nil && err == nil {
		s.delta[kindRuntime], err = newResources(kindRuntime, nil)
	}
	return s, err
}

// named is a resource before it is packed.
type named struct {
	name    string
	message proto.Message
}

// newResources packs messages once, for all streams. Versions are hashes of what is sent, so that
// a sidecar that has it is not sent it again, by whichever process.
func newResources(k kind, list []named) (resources, error) {
	r := resources{byName: map[string]*discovery.Resource{}}
	for _, n := range list {
		packed, err := pack(n.message)
		if err != nil {
			return r, fmt.Errorf("pack %s: %w", n.name, err)
		}
		if err := check(k.url(), packed); err != nil {
			return r, err
		}
		r.byName[n.name] = &discovery.Resource{Name: n.name, Version: hash(packed.GetValue()), Resource: packed}
	}
	r.names = slices.Sorted(maps.Keys(r.byName))
	var all strings.Builder
	for _, name := range r.names {
		all.WriteString(name + " " + r.byName[name].GetVersion() + "\n")
	}
	r.version = hash([]byte(all.String()))
	return r, nil
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
func limitsResource(members []byte, name string) (named, error) {
	value := new(structpb.Struct)
	if members != nil {
		if err := value.UnmarshalJSON(members); err != nil {
			return named{}, fmt.Errorf("limits: %w", err)
		}
	}
	typed, err := pack(&xdstype.TypedStruct{TypeUrl: limitsURL, Value: value})
	return named{name, &core.TypedExtensionConfig{Name: name, TypedConfig: typed}}, err
}

func runtimeResource(raw jsontext.Value, name string) (named, error) {
	layer := new(structpb.Struct)
	if raw != nil {
		if err := layer.UnmarshalJSON(raw); err != nil {
			return named{}, fmt.Errorf("runtime: %w", err)
		}
	}
	return named{name, &runtime.Runtime{Name: name, Layer: layer}}, nil
}

// cluster is the spec as Envoy writes it. Endpoints come by EDS, so that they can change without
// the cluster; without any the cluster names none.
func (c clusterSpec) cluster() *cluster.Cluster {
	out := &cluster.Cluster{
		Name:                 c.name,
		ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC},
		ConnectTimeout:       c.duration("connect_timeout"),
	}
	if len(c.endpoints) > 0 {
		out.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_EDS}
		out.EdsClusterConfig = &cluster.Cluster_EdsClusterConfig{EdsConfig: &core.ConfigSource{
			ResourceApiVersion:    core.ApiVersion_V3,
			ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
		}}
	}
	if pending, requests := c.integer("max_pending_requests"), c.integer("max_requests"); pending != nil || requests != nil {
		out.CircuitBreakers = &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{
			{Priority: core.RoutingPriority_DEFAULT, MaxPendingRequests: pending, MaxRequests: requests},
		}}
	}
	if failed, open := c.integer("consecutive_errors"), c.duration("base_ejection_time"); failed != nil || open != nil {
		out.OutlierDetection = &cluster.OutlierDetection{Consecutive_5Xx: failed, BaseEjectionTime: open}
	}
	return out
}

// assignment has the endpoints in order of priority.
func (c clusterSpec) assignment() *endpoint.ClusterLoadAssignment {
	out := &endpoint.ClusterLoadAssignment{ClusterName: c.name}
	for i, addr := range c.endpoints {
		out.Endpoints = append(out.Endpoints, &endpoint.LocalityLbEndpoints{
			Priority: uint32(i),
			LbEndpoints: []*endpoint.LbEndpoint{{
				HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: address(addr)}},
			}},
		})
	}
	return out
}

func address(endpoint string) *core.Address {
	at, _ := host.ParseAddr(endpoint) // isEndpoint took it
	if at.Path() != "" {
		return &core.Address{Address: &core.Address_Pipe{Pipe: &core.Pipe{Path: at.Path()}}}
	}
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: at.Host(), PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(at.Port())},
	}}}
}

// duration is nil where the member is absent. What is there has been checked.
func (c clusterSpec) duration(name string) *durationpb.Duration {
	d, err := time.ParseDuration(strings.Trim(string(c.members[name]), `"`))
	if err != nil {
		return nil
	}
	return durationpb.New(d)
}

func (c clusterSpec) integer(name string) *wrapperspb.UInt32Value {
	n, err := strconv.ParseUint(string(c.members[name]), 10, 32)
	if err != nil {
		return nil
	}
	return wrapperspb.UInt32(uint32(n))
}
