package control

import (
	"context"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// OnStreamOpen and the methods below are go-control-plane's server.Callbacks.
func (f *fleet) OnStreamOpen(ctx context.Context, id int64, url string) error {
	return f.open(ctx, streamKey{false, id}, url)
}

// OnStreamClosed ends a stream of the state of the world.
func (f *fleet) OnStreamClosed(id int64, _ *core.Node) { f.close(streamKey{false, id}) }

// OnStreamRequest notes a request of the state of the world.
func (f *fleet) OnStreamRequest(id int64, r *discovery.DiscoveryRequest) error {
	err := f.request(streamKey{false, id}, asked{node: r.GetNode(), url: r.GetTypeUrl(), nonce: r.GetResponseNonce(), refused: r.GetErrorDetail() != nil, reason: r.GetErrorDetail().GetMessage()})
	r.ErrorDetail = nil // the watch keeps the request
	return err
}

// OnStreamResponse notes a response of the state of the world.
func (f *fleet) OnStreamResponse(_ context.Context, id int64, _ *discovery.DiscoveryRequest, r *discovery.DiscoveryResponse) {
	f.sent(streamKey{false, id}, r.GetTypeUrl(), r.GetNonce(), r.GetVersionInfo())
}

// OnDeltaStreamOpen begins a stream of deltas.
func (f *fleet) OnDeltaStreamOpen(ctx context.Context, id int64, url string) error {
	return f.open(ctx, streamKey{true, id}, url)
}

// OnDeltaStreamClosed ends a stream of deltas.
func (f *fleet) OnDeltaStreamClosed(id int64, _ *core.Node) { f.close(streamKey{true, id}) }

// OnStreamDeltaRequest notes a request of a stream of deltas.
func (f *fleet) OnStreamDeltaRequest(id int64, r *discovery.DeltaDiscoveryRequest) error {
	err := f.request(streamKey{true, id}, asked{
		node: r.GetNode(), url: r.GetTypeUrl(), nonce: r.GetResponseNonce(),
		refused: r.GetErrorDetail() != nil, reason: r.GetErrorDetail().GetMessage(),
	})
	r.ErrorDetail = nil
	return err
}

// OnStreamDeltaResponse notes a response of a stream of deltas.
func (f *fleet) OnStreamDeltaResponse(id int64, _ *discovery.DeltaDiscoveryRequest, r *discovery.DeltaDiscoveryResponse) {
	f.sent(streamKey{true, id}, r.GetTypeUrl(), r.GetNonce(), r.GetSystemVersionInfo())
}
