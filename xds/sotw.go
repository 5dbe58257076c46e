package xds

import (
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
)

// sotw is the variant in which each response has all that was asked for: the state of the world.
type sotw struct {
	stream grpc.BidiStreamingClient[discovery.DiscoveryRequest, discovery.DiscoveryResponse]
	self   identity
	nonces map[string]string // of the response answered last, by type URL
}

func (s *sotw) subscribe(url string, r request) error {
	return s.send(url, s.nonces[url], r, "")
}

func (s *sotw) answer(url, nonce string, r request, reason string) error {
	s.nonces[url] = nonce
	return s.send(url, nonce, r, reason)
}

// send asks for all names of a type: none at all is the older way to ask for everything, which
// every control plane understands.
func (s *sotw) send(url, nonce string, r request, reason string) error {
	return s.stream.Send(&discovery.DiscoveryRequest{
		Node: s.self.once(), TypeUrl: url, ResourceNames: r.names, VersionInfo: r.version,
		ResponseNonce: nonce, ErrorDetail: refusal(reason).Proto(),
	})
}

func (*sotw) subscribeAgain(string, []string) error { return nil }

// wrapperURL is the type of a resource that is wrapped, so that it has a name or a lifetime.
const wrapperURL = typePrefix + "envoy.service.discovery.v3.Resource"

func (s *sotw) recv() (*response, error) {
	m, err := s.stream.Recv()
	if err != nil {
		return nil, err
	}
	r := &response{url: m.GetTypeUrl(), nonce: m.GetNonce(), version: m.GetVersionInfo(), full: true, size: sizeOf(m)}
	for _, resource := range m.GetResources() {
		r.bodies = append(r.bodies, unwrap(resource, r.version))
	}
	return r, nil
}

func unwrap(resource *anypb.Any, version string) body {
	if resource.GetTypeUrl() == wrapperURL {
		wrapped := new(discovery.Resource)
		if unmarshal(resource.GetValue(), wrapped) == nil {
			return body{wrapped.GetName(), version, wrapped.GetResource(), wrapped.GetTtl()}
		}
	}
	return body{version: version, resource: resource} // what is wrong with it, its type's decode says
}
