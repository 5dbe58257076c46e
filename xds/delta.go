package xds

import (
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
)

// delta is the incremental variant.
type delta struct {
	stream grpc.BidiStreamingClient[discovery.DeltaDiscoveryRequest, discovery.DeltaDiscoveryResponse]
	self   identity
	asked  map[string][]string // by type URL
}

func (d *delta) subscribe(url string, r request) error {
	names := r.names
	if r.wildcard {
		names = []string{wildcard}
	}
	before, again := d.asked[url]
	d.asked[url] = names
	req := &discovery.DeltaDiscoveryRequest{
		TypeUrl:                  url,
		ResourceNamesSubscribe:   without(names, before),
		ResourceNamesUnsubscribe: without(before, names),
	}
	if !again {
		req.InitialResourceVersions = r.versions
	} else if len(req.GetResourceNamesSubscribe())+len(req.GetResourceNamesUnsubscribe()) == 0 {
		return nil
	}
	req.Node = d.self.once()
	return d.stream.Send(req)
}

func (d *delta) answer(url, nonce string, _ request, reason string) error {
	return d.stream.Send(&discovery.DeltaDiscoveryRequest{
		Node: d.self.once(), TypeUrl: url, ResponseNonce: nonce, ErrorDetail: refusal(reason).Proto(),
	})
}

// subscribeAgain needs two requests: a server takes a name that stands in both lists of one as it likes.
func (d *delta) subscribeAgain(url string, names []string) error {
	if err := d.stream.Send(&discovery.DeltaDiscoveryRequest{Node: d.self.once(), TypeUrl: url, ResourceNamesUnsubscribe: names}); err != nil {
		return err
	}
	return d.stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: names})
}

func (d *delta) recv() (*response, error) {
	m, err := d.stream.Recv()
	if err != nil {
		return nil, err
	}
	r := &response{url: m.GetTypeUrl(), nonce: m.GetNonce(), version: m.GetSystemVersionInfo(), removed: m.GetRemovedResources(), size: sizeOf(m)}
	for _, b := range m.GetResources() {
		r.bodies = append(r.bodies, body{name: b.GetName(), version: b.GetVersion(), resource: b.GetResource(), ttl: b.GetTtl()})
	}
	return r, nil
}

// without are those of names that are not in others.
func without(names, others []string) (rest []string) {
	for _, n := range names {
		if !slices.Contains(others, n) {
			rest = append(rest, n)
		}
	}
	return rest
}
