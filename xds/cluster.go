package xds

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
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
	push      *config.Patch
	unlimited []string   // limits that are to be as high as their ceilings
	addrs     assignment // inline endpoints; nil: it tells of none, empty: it tells that there are none
	service   string     // whose endpoints to ask for; "" unless it is of type EDS
}

// clusterTakes are the fields of a Cluster that count. Where its endpoints come from is not looked at:
// it is here.
func clusterTakes() []string {
	return append(assignmentTakes("load_assignment."),
		"name", "type", "eds_cluster_config.service_name", "eds_cluster_config.eds_config", "connect_timeout",
		"circuit_breakers.thresholds.priority", "circuit_breakers.thresholds.max_pending_requests", "circuit_breakers.thresholds.max_requests",
		"outlier_detection.consecutive_5xx", "outlier_detection.enforcing_consecutive_5xx", "outlier_detection.base_ejection_time")
}

// clusterType is CDS.
func clusterType() resourceType[*backend] {
	return resourceType[*backend]{
		typeInfo: typeInfo{name: config.XDSCluster, url: clusterURL, wildcard: true, allInSotW: true},
		decode:   decoder((*cluster.Cluster).GetName, readCluster, clusterTakes()...),
		pack: func(b *backend) any {
			s := storedBackend{Push: b.push.JSON(), Unlimited: b.unlimited, Service: b.service}
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
	Unlimited []string       `json:"unlimited,omitempty"`
	Endpoints *assignment    `json:"endpoints,omitzero"` // absent: it tells of none
	Service   string         `json:"service,omitempty"`
}

func unpackBackend(raw []byte) (*backend, error) {
	var s storedBackend
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	p, err := config.ParsePush(s.Push)
	if err != nil {
		return nil, err
	}
	b := &backend{push: p, unlimited: s.Unlimited, service: s.Service}
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
	var text members
	if err := duration(&text, "ledger_connect_timeout", m.GetConnectTimeout()); err != nil {
		faults = append(faults, fmt.Errorf("connect_timeout: %w", err))
	}
	if err := b.thresholds(&text, m.GetCircuitBreakers()); err != nil {
		faults = append(faults, fmt.Errorf("circuit_breakers: %w", err))
	}
	outliers := m.GetOutlierDetection()
	if enforcing := outliers.GetEnforcingConsecutive_5Xx(); enforcing != nil && enforcing.GetValue() == 0 {
		text.add("breaker_errors", unejected)
	} else if n := outliers.GetConsecutive_5Xx(); n != nil {
		text.add("breaker_errors", strconv.FormatUint(uint64(n.GetValue()), 10))
	}
	if err := duration(&text, "breaker_open", outliers.GetBaseEjectionTime()); err != nil {
		faults = append(faults, fmt.Errorf("outlier_detection.base_ejection_time: %w", err))
	}
	var err error
	if b.push, err = config.ParsePush(text.object()); err != nil {
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

func (b *backend) thresholds(text *members, m *cluster.CircuitBreakers) error {
	seen := false
	for _, t := range m.GetThresholds() {
		if t.GetPriority() != core.RoutingPriority_DEFAULT {
			continue
		}
		if seen {
			return errors.New("the thresholds of DEFAULT are there twice")
		}
		seen = true
		b.limit(text, "queue", t.GetMaxPendingRequests())
		b.limit(text, "inflight", t.GetMaxRequests())
	}
	return nil
}

// limit takes a threshold. The largest number of all is how a mesh says that there is none.
func (b *backend) limit(text *members, name string, n *wrapperspb.UInt32Value) {
	switch {
	case n == nil:
	case n.GetValue() == math.MaxUint32:
		b.unlimited = append(b.unlimited, name)
	default:
		text.add(name, strconv.FormatUint(uint64(n.GetValue()), 10))
	}
}

// pushUnder is the push with what is unlimited as high as it may be; nil of no backend.
func (b *backend) pushUnder(most *config.Limits) (*config.Patch, error) {
	if b == nil {
		return nil, nil //nolint:nilnil // a layer that is taken away
	}
	if len(b.unlimited) == 0 {
		return b.push, nil
	}
	text := members(bytes.TrimSuffix(b.push.JSON(), []byte("}")))
	for _, name := range b.unlimited {
		text.add(name, strconv.Itoa(map[string]int{"queue": most.Queue, "inflight": most.InFlight}[name]))
	}
	return config.ParsePush(text.object())
}

func duration(text *members, name string, d *durationpb.Duration) error {
	if d == nil {
		return nil
	}
	if err := d.CheckValid(); err != nil {
		return errors.New("is not a valid duration")
	}
	if d.GetSeconds() > int64(24*time.Hour/time.Second) { // AsDuration saturates
		return errors.New("is over a day")
	}
	text.add(name, string(appendText(nil, d.AsDuration().String())))
	return nil
}

// servicesOf are the assignments that the clusters ask for.
func servicesOf(clusters map[string]*backend) (names []string) {
	for _, name := range []string{ledgerCluster, authCluster, policyCluster} {
		if b := clusters[name]; b != nil && b.service != "" && !slices.Contains(names, b.service) {
			names = append(names, b.service)
		}
	}
	return names
}

// putClusters puts the ledger's cluster in force: its limits and its endpoints, or neither.
func (c *Client) putClusters(next set[*backend]) error {
	ledger := next.values[ledgerCluster]
	var assigned map[string]assignment
	if c.endpoints != nil {
		assigned = c.endpoints.values
	}
	push, err := ledger.pushUnder(&c.to.Stack.Config().Ceilings)
	if err != nil {
		return err
	}
	err = c.to.Stack.SetWith(config.LayerCluster, push, next.held[ledgerCluster].origin("cluster "+ledgerCluster), func() error {
		addrs, speaks := resolve(ledger, assigned)
		if !speaks {
			return nil
		}
		if err := c.follow(addrs); err != nil {
			return fault(ledgerCluster, prefixed("endpoints: ", err))
		}
		return nil
	})
	if err == nil && c.endpoints != nil {
		c.endpoints.forget(servicesOf(next.values))
	}
	return err
}

// forget drops the resources that nobody asks for any more.
func (t *typed[T]) forget(names []string) {
	next := t.present()
	for name := range t.held {
		if !slices.Contains(names, name) {
			next.drop(name)
		}
	}
	t.held, t.values = next.held, next.values
}
