package xds

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"svc-wallet/config"
)

const clusterURL = typePrefix + "envoy.config.cluster.v3.Cluster"

// The clusters that are taken. The sidecar decides by itself what a mesh might have asked auth and
// policy, so these two are checked and shown, and change nothing.
const (
	ledgerCluster = "ledger"
	authCluster   = "auth"
	policyCluster = "policy"
)

// backend is what is taken of a cluster.
type backend struct {
	push    *config.Patch
	addrs   []string // inline endpoints; nil: it tells of none, empty: it tells that there are none
	service string   // whose endpoints to ask for; "" unless it is of type EDS
}

// clusterKind is CDS. Its value is a *backend.
func clusterKind() kind {
	return kind{
		name:   config.XDSCluster,
		url:    clusterURL,
		wild:   true,
		whole:  true,
		blank:  func() proto.Message { return new(cluster.Cluster) },
		nameOf: func(m proto.Message) string { return m.(*cluster.Cluster).GetName() },          //nolint:forcetypeassert // blank makes it
		read:   func(m proto.Message) (any, error) { return readCluster(m.(*cluster.Cluster)) }, //nolint:forcetypeassert // blank makes it
		pack: func(value any) any {
			b := value.(*backend) //nolint:forcetypeassert // read makes it
			s := storedBackend{Push: b.push.JSON(), Service: b.service}
			if b.addrs != nil {
				s.Endpoints = &b.addrs
			}
			return s
		},
		unpack: unpackBackend,
	}
}

// storedBackend is a backend in the last good file.
type storedBackend struct {
	Push      jsontext.Value `json:"push"`
	Endpoints *[]string      `json:"endpoints,omitzero"` // absent: it tells of none
	Service   string         `json:"service,omitempty"`
}

func unpackBackend(raw []byte) (any, error) {
	var s storedBackend
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	p, err := config.ParsePush(s.Push)
	if err != nil {
		return nil, err
	}
	b := &backend{push: p, service: s.Service}
	if s.Endpoints != nil {
		b.addrs, err = checkAddrs(*s.Endpoints)
	}
	return b, err
}

// unejected is the most that breaker.errors takes: no call to a ledger that works fails so often.
const unejected = "10000"

// readCluster takes of a cluster what means here what it means to Envoy.
func readCluster(m *cluster.Cluster) (*backend, error) {
	b := new(backend)
	var faults []error
	text := []byte{'{'}
	set := func(name, value string) {
		if len(text) > 1 {
			text = append(text, ',')
		}
		text = append(append(appendText(text, name), ':'), value...)
	}
	if err := duration(set, "ledger_connect_timeout", m.GetConnectTimeout()); err != nil {
		faults = append(faults, fmt.Errorf("connect_timeout: %w", err))
	}
	if err := thresholds(set, m.GetCircuitBreakers()); err != nil {
		faults = append(faults, fmt.Errorf("circuit_breakers: %w", err))
	}
	outliers := m.GetOutlierDetection()
	if enforced := outliers.GetEnforcingConsecutive_5Xx(); enforced != nil && enforced.GetValue() == 0 {
		set("breaker_errors", unejected)
	} else {
		count(set, "breaker_errors", outliers.GetConsecutive_5Xx())
	}
	if err := duration(set, "breaker_open", outliers.GetBaseEjectionTime()); err != nil {
		faults = append(faults, fmt.Errorf("outlier_detection.base_ejection_time: %w", err))
	}
	var err error
	if b.push, err = config.ParsePush(append(text, '}')); err != nil {
		faults = append(faults, err)
	}
	if err := b.discover(m); err != nil {
		faults = append(faults, err)
	}
	return b, errors.Join(faults...)
}

// discover says where the cluster's endpoints are from.
func (b *backend) discover(m *cluster.Cluster) (err error) {
	if m.GetClusterType() != nil {
		return errors.New("cluster_type: is not one that the sidecar knows")
	}
	switch m.GetType() {
	case cluster.Cluster_EDS:
		b.service = cmp.Or(m.GetEdsClusterConfig().GetServiceName(), m.GetName())
		return nil
	case cluster.Cluster_STATIC, cluster.Cluster_STRICT_DNS, cluster.Cluster_LOGICAL_DNS:
		if m.GetLoadAssignment() != nil {
			if b.addrs, err = addresses(m.GetLoadAssignment()); err != nil {
				return prefixed("load_assignment.", err)
			}
		}
		return nil
	default:
		return fmt.Errorf("type: %s is not STATIC, STRICT_DNS, LOGICAL_DNS or EDS", m.GetType())
	}
}

func thresholds(set func(name, value string), m *cluster.CircuitBreakers) error {
	seen := false
	for _, t := range m.GetThresholds() {
		if t.GetPriority() != core.RoutingPriority_DEFAULT {
			continue
		}
		if seen {
			return errors.New("the thresholds of DEFAULT are there twice")
		}
		seen = true
		count(set, "queue", t.GetMaxPendingRequests())
		count(set, "inflight", t.GetMaxRequests())
	}
	return nil
}

func count(set func(name, value string), name string, n *wrapperspb.UInt32Value) {
	if n != nil {
		set(name, strconv.FormatUint(uint64(n.GetValue()), 10))
	}
}

func duration(set func(name, value string), name string, d *durationpb.Duration) error {
	if d == nil {
		return nil
	}
	if err := d.CheckValid(); err != nil {
		return errors.New("is not a valid duration")
	}
	if d.GetSeconds() > int64(24*time.Hour/time.Second) { // AsDuration saturates
		return errors.New("is over a day")
	}
	set(name, string(appendText(nil, d.AsDuration().String())))
	return nil
}

// servicesOf are the assignments that the clusters ask for.
func servicesOf(clusters map[string]*held) (names []string) {
	for _, name := range []string{ledgerCluster, authCluster, policyCluster} {
		h := clusters[name]
		if h == nil {
			continue
		}
		if b := h.value.(*backend); b.service != "" && !slices.Contains(names, b.service) { //nolint:forcetypeassert // read makes it
			names = append(names, b.service)
		}
	}
	return names
}

// putClusters puts the ledger's cluster in force. endpoints is nil where none are asked for.
func (c *Client) putClusters(next map[string]*held, endpoints *topic) error {
	var assigned map[string]*held
	if endpoints != nil {
		assigned = endpoints.held
	}
	addrs, speaks := resolve(next, assigned)
	var push *config.Patch
	var origin config.Origin
	if h := next[ledgerCluster]; h != nil {
		push, origin = h.value.(*backend).push, h.origin("cluster "+ledgerCluster) //nolint:forcetypeassert // read makes it
	}
	if err := c.to.Stack.Admit(config.LayerCluster, push); push != nil && err != nil {
		return err
	}
	before := c.endpoints
	if speaks {
		if err := c.follow(addrs); err != nil {
			return fault(ledgerCluster, prefixed("endpoints: ", err))
		}
	}
	if err := c.to.Stack.Set(config.LayerCluster, push, origin); err != nil {
		// A reload came between Admit and here.
		return errors.Join(err, c.follow(before))
	}
	if endpoints != nil {
		endpoints.forget(servicesOf(next))
	}
	return nil
}

// forget drops the resources that nobody asks for any more.
func (t *topic) forget(names []string) {
	kept := map[string]*held{}
	for _, name := range names {
		if t.held[name] != nil {
			kept[name] = t.held[name]
		}
	}
	t.held = kept
}
