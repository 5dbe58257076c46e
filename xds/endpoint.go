package xds

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/go-json-experiment/json"
	"google.golang.org/protobuf/proto"

	"svc-wallet/config"
	"svc-wallet/host"
)

const (
	endpointURL  = typePrefix + "envoy.config.endpoint.v3.ClusterLoadAssignment"
	maxEndpoints = 64
)

// endpointKind is EDS. Its value is the addresses, []string, the preferred one first.
func endpointKind() kind {
	return kind{
		name:   config.XDSEndpoint,
		url:    endpointURL,
		blank:  func() proto.Message { return new(endpoint.ClusterLoadAssignment) },
		nameOf: func(m proto.Message) string { return m.(*endpoint.ClusterLoadAssignment).GetClusterName() }, //nolint:forcetypeassert // blank makes it
		read:   func(m proto.Message) (any, error) { return addresses(m.(*endpoint.ClusterLoadAssignment)) }, //nolint:forcetypeassert // blank makes it
		pack:   func(value any) any { return value },
		unpack: func(raw []byte) (any, error) {
			var addrs []string
			if err := json.Unmarshal(raw, &addrs); err != nil {
				return nil, err
			}
			return checkAddrs(addrs)
		},
	}
}

// putEndpoints puts the assignment of the ledger's cluster in force.
func (c *Client) putEndpoints(next map[string]*held, clusters, endpoints *topic) error {
	addrs, speaks := resolve(clusters.held, next)
	ledger := clusters.held[ledgerCluster]
	if ledger == nil {
		return nil
	}
	service := ledger.value.(*backend).service //nolint:forcetypeassert // read makes it
	if service != "" && endpoints.held[service] != nil && next[service] == nil {
		addrs, speaks = nil, true // it was taken away, so the static address holds
	}
	if !speaks {
		return nil
	}
	if err := c.follow(addrs); err != nil {
		return fault(service, prefixed("endpoints: ", err))
	}
	return nil
}

// resolve says which addresses the ledger's cluster has, nil being the static one. Where it does
// not speak of any, those in use stay: its assignment has not come yet, or leaves no endpoint, and
// the last one that works is not given up for none.
func resolve(clusters, assigned map[string]*held) (addrs []string, speaks bool) {
	h := clusters[ledgerCluster]
	if h == nil {
		return nil, true
	}
	b := h.value.(*backend) //nolint:forcetypeassert // read makes it
	if b.service == "" {
		return b.addrs, b.addrs == nil || len(b.addrs) > 0
	}
	if a := assigned[b.service]; a != nil {
		addrs = a.value.([]string) //nolint:forcetypeassert // read makes it
	}
	return addrs, len(addrs) > 0
}

// follow makes the ledger client use other addresses, where they are other ones.
func (c *Client) follow(addrs []string) error {
	if slices.Equal(addrs, c.endpoints) {
		return nil
	}
	for _, a := range addrs {
		at, err := host.ParseAddr(a)
		if err != nil {
			return err
		}
		if c.cfg.Ledger.TLSCAFile == "" && !at.IsLocal() {
			return fmt.Errorf("%s is neither a Unix socket nor a loopback address, so it needs ledger.tls_ca_file", host.Plain(a))
		}
	}
	if c.to.Endpoints != nil {
		if err := c.to.Endpoints(slices.Clone(addrs)); err != nil {
			return err
		}
	}
	c.endpoints = addrs
	return nil
}

// addresses are the endpoints of an assignment in the order of their priority: those that are
// well or of unknown health, then those that are degraded. The others are left out. It is not nil.
func addresses(m *endpoint.ClusterLoadAssignment) ([]string, error) {
	type found struct {
		addr string
		rank uint64
	}
	var all []found
	var faults []error
	for i, locality := range m.GetEndpoints() {
		for j, e := range locality.GetLbEndpoints() {
			if len(all) >= maxEndpoints || len(faults) >= maxFaults {
				faults = append(faults, fmt.Errorf("endpoints: there are more than %d", maxEndpoints))
				return nil, errors.Join(faults...)
			}
			addr, err := address(e.GetEndpoint().GetAddress())
			if err != nil {
				faults = append(faults, fmt.Errorf("endpoints[%d].lb_endpoints[%d]: %w", i, j, err))
				continue
			}
			rank := uint64(locality.GetPriority()) * 2
			switch e.GetHealthStatus() {
			case core.HealthStatus_UNKNOWN, core.HealthStatus_HEALTHY:
			case core.HealthStatus_DEGRADED:
				rank++
			default:
				continue
			}
			all = append(all, found{addr, rank})
		}
	}
	slices.SortStableFunc(all, func(a, b found) int { return int(a.rank) - int(b.rank) }) //nolint:gosec // under 2^33
	addrs := []string{}
	for _, f := range all {
		if !slices.Contains(addrs, f.addr) {
			addrs = append(addrs, f.addr)
		}
	}
	return addrs, errors.Join(faults...)
}

// address is an endpoint's as the ledger client dials it.
func address(m *core.Address) (string, error) {
	addr := ""
	switch a := m.GetAddress().(type) {
	case *core.Address_Pipe:
		addr = "unix:" + a.Pipe.GetPath()
	case *core.Address_SocketAddress:
		s := a.SocketAddress
		if s.GetProtocol() != core.SocketAddress_TCP {
			return "", errors.New("is not a TCP address")
		}
		if s.GetNamedPort() != "" {
			return "", errors.New("has a port by name")
		}
		addr = net.JoinHostPort(s.GetAddress(), strconv.FormatUint(uint64(s.GetPortValue()), 10))
	default:
		return "", errors.New("has no address that the sidecar can dial")
	}
	if _, err := host.ParseAddr(addr); err != nil {
		return "", fmt.Errorf("%s is not an address: %w", host.Plain(addr), err)
	}
	return addr, nil
}

// checkAddrs are addresses from the last good file.
func checkAddrs(addrs []string) ([]string, error) {
	if len(addrs) > maxEndpoints {
		return nil, fmt.Errorf("endpoints: there are more than %d", maxEndpoints)
	}
	for _, a := range addrs {
		if _, err := host.ParseAddr(a); err != nil {
			return nil, fmt.Errorf("endpoints: %s is not an address: %w", host.Plain(a), err)
		}
	}
	return addrs, nil
}

// prefixed puts a path before each line of err.
func prefixed(path string, err error) error {
	return errors.New(path + strings.ReplaceAll(err.Error(), "\n", "\n"+path))
}
