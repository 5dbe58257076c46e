package xds_test

import (
	"fmt"

	xdstype "github.com/cncf/xds/go/xds/type/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"svc-wallet/xds"
)

// snapshot is the program of docs/xds.md.
func snapshot() (*cache.Snapshot, error) {
	value, err := structpb.NewStruct(map[string]any{"max_amount_per_op": "100", "writes_enabled": true})
	if err != nil {
		return nil, err
	}
	limits, err := anypb.New(&xdstype.TypedStruct{TypeUrl: "type.googleapis.com/svc_wallet.v1.Limits", Value: value})
	if err != nil {
		return nil, err
	}
	return cache.NewSnapshot("v1", map[resource.Type][]types.Resource{
		resource.ExtensionConfigType: {&core.TypedExtensionConfig{Name: "svc-wallet.limits", TypedConfig: limits}},
	})
}

// A go-control-plane program serves limits as an extension's configuration, and may ask beforehand
// what a sidecar would say to them.
func Example() {
	s, err := snapshot()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range s.GetResources(resource.ExtensionConfigType) {
		fmt.Println(xds.Check(resource.ExtensionConfigType, r))
	}
	wrong, err := anypb.New(&xdstype.TypedStruct{
		TypeUrl: "type.googleapis.com/svc_wallet.v1.Limits",
		Value:   &structpb.Struct{Fields: map[string]*structpb.Value{"max_amount_per_op": structpb.NewNumberValue(1e20)}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(xds.Check(resource.ExtensionConfigType, &core.TypedExtensionConfig{Name: "svc-wallet.limits", TypedConfig: wrong}))
	// Output:
	// <nil>
	// svc-wallet.limits: max_amount_per_op: 1e+20 is not under 2^53, so it may have been rounded: amounts are strings
}
