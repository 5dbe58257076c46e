package xds

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/go-json-experiment/json"

	"svc-wallet/config"
	"svc-wallet/host"
)

const (
	endpointURL  = typePrefix + "envoy.config.endpoint.v3.ClusterLoadAssignment"
	maxEndpoints = 64
)

// assignment is the addresses of a cluster, the preferred one first. It is not nil where there is one.
type assignment []string

// assignmentTakes are the fields of a ClusterLoadAssignment that count.
func assignmentTakes(prefix string) (paths []string) {
	for _, p := range []string{"cluster_name", "endpoints.priority", "endpoints.lb_endpoints.health_status", "endpoints.lb_endpoints.endpoint.address"} {
		paths = append(paths, prefix+p)
	}
	return paths
}

// endpointType is EDS.
func endpointType() resourceType[assignment] {
	return resourceType[assignment]{
		typeInfo: typeInfo{name: config.XDSEndpoint, url: endpointURL},
		decode:   decoder((*endpoint.ClusterLoadAssignment).GetClusterName, addresses, assignmentTakes("")...),
		pack:     func(a assignment) any { return a },
		unpack: func(raw []byte) (assignment, error) {
			var a assignment
			if err := json.Unmarshal(raw, &a); err != nil {
				return nil, err
			}
			return checkAddrs(a)
		},
	}
}

// putEndpoints puts the assignment of the ledger's cluster in force.
func (c *Client) putEndpoints(next set[assignment]) error {
	ledger := c.clusters.values[ledgerCluster]
	if ledger == nil {
		return nil
	}
	addrs, speaks := resolve(ledger, next.values)
	if ledger.service != "" && c.endpoints.held[ledger.service] != nil && next.held[ledger.service] == nil {
		addrs, speaks = nil, true // it was taken away, so the static address holds
	}
	if !speaks {
		return nil
	}
	if err := c.follow(addrs); err != nil {
		return fault(ledger.service, prefixed("endpoints: ", err))
	}
	return nil
}

// resolve says which addresses the ledger's cluster has, nil being the static one. Where it does
// not speak of any, those in use stay: its assignment has not come yet, or leaves no endpoint, and
// the last one that works is not given up for none.
func resolve(ledger *backend, assigned map[string]assignment) (addrs assignment, speaks bool) {
	switch {
	case ledger == nil:
		return nil, true
	case ledger.service == "":
		return ledger.addrs, ledger.addrs == nil || len(ledger.addrs) > 0
	}
	addrs = assigned[ledger.service]
	return addrs, len(addrs) > 0
}

// follow makes the ledger client use other addresses, where they are other ones.
func (c *Client) follow(addrs []string) error {
	if slices.Equal(addrs, c.addrs) {
		return nil
	}
	for _, a := range addrs {
		if at, err := host.ParseAddr(a); c.cfg.Ledger.TLSCAFile == "" && (err != nil || !at.IsLocal()) {
			return fmt.Errorf("%s is neither a Unix socket nor a loopback address, so it needs ledger.tls_ca_file", host.Plain(a))
		}
	}
	if c.to.Endpoints != nil {
		if err := c.to.Endpoints(slices.Clone(addrs)); err != nil {
			return err
		}
	}
	c.addrs = addrs
	return nil
}

// addresses are the endpoints of an assignment in the order of their priority: those that are
// well or of unknown health, then those that are degraded. The others are left out. It is not nil.
func addresses(m *endpoint.ClusterLoadAssignment) (assignment, error) {
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
	addrs := assignment{}
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
	return addr, judged(addr)
}

func judged(addr string) error {
	if _, err := host.ParseAddr(addr); err != nil {
		return fmt.Errorf("%s is not an address: %w", host.Plain(addr), err)
	}
	return nil
}

// checkAddrs are addresses from the last good file.
func checkAddrs(addrs assignment) (assignment, error) {
	if len(addrs) > maxEndpoints {
		return nil, fmt.Errorf("endpoints: there are more than %d", maxEndpoints)
	}
	for _, a := range addrs {
		if err := judged(a); err != nil {
			return nil, prefixed("endpoints: ", err)
		}
	}
	return addrs, nil
}
