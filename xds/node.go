package xds

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"svc-wallet/config"
	"svc-wallet/host"
)

// maxMetadata bounds the file of metadata, which goes out with each stream.
const maxMetadata = 64 << 10

// nodeOf is how the sidecar names itself to control planes.
func nodeOf(cfg *config.Config, opts Options) (*core.Node, error) {
	x := &cfg.XDS
	n := &core.Node{
		Id:                   cmp.Or(x.NodeID, opts.Hostname, "svc-wallet"),
		Cluster:              x.NodeCluster,
		UserAgentName:        "svc-wallet",
		UserAgentVersionType: &core.Node_UserAgentVersion{UserAgentVersion: opts.Version},
	}
	if x.Region+x.Zone != "" {
		n.Locality = &core.Locality{Region: x.Region, Zone: x.Zone}
	}
	if x.MetadataFile == "" {
		return n, nil
	}
	raw, err := host.ReadFile(x.MetadataFile, maxMetadata)
	if err != nil {
		return nil, fmt.Errorf("xds.metadata_file: %w", err)
	}
	n.Metadata, err = metadata(raw)
	return n, err
}

// metadata reads the form in which Kubernetes' downward API writes labels and annotations: a line
// is name="value", the value quoted as Go does it.
func metadata(raw []byte) (*structpb.Struct, error) {
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	line := 0
	for text := range bytes.Lines(raw) {
		line++
		name, quoted, ok := strings.Cut(strings.TrimSpace(string(text)), "=")
		if name == "" && !ok {
			continue
		}
		value, err := strconv.Unquote(quoted)
		if err != nil || name == "" || strings.ToValidUTF8(name+value, "") != name+value {
			return nil, fmt.Errorf(`xds.metadata_file: line %d is not name="value"`, line)
		}
		s.Fields[name] = structpb.NewStringValue(value)
	}
	return s, nil
}
