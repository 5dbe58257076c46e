package control

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
)

const bindID, bindCluster = "{id}", "{cluster}"

// binding binds what a sidecar calls itself to its client certificate: a URI SAN in which {id} and {cluster}
// stand for the node's, each one segment of a path, and * for any characters. It is what stands between
// the stars.
type binding []string

func newBinding(s string) (binding, error) {
	if !strings.Contains(s, bindID) && !strings.Contains(s, bindCluster) {
		return nil, fmt.Errorf("%q binds nothing: it has neither %s nor %s", s, bindID, bindCluster)
	}
	return strings.Split(s, "*"), nil
}

// fits says whether a certificate with that URI may be the node's. A star in the node's own words is a star.
func (b binding) fits(uri, id, cluster string) bool {
	own := make(glob, len(b))
	words := strings.NewReplacer(bindID, id, bindCluster, cluster)
	for i, part := range b {
		if strings.Contains(part, bindID) && !isSegment(id) || strings.Contains(part, bindCluster) && !isSegment(cluster) {
			return false
		}
		own[i] = words.Replace(part)
	}
	return own.matches(uri)
}

func isSegment(s string) bool { return s != "" && !strings.Contains(s, "/") }

// bound says whether one of the rules lets a certificate with these URIs be that node's; where there is no
// rule, every certificate may be any node's.
func (f *fleet) bound(uris []string, id, cluster string) bool {
	for _, b := range f.bindings {
		for _, uri := range uris {
			if b.fits(uri, id, cluster) {
				return true
			}
		}
	}
	return len(f.bindings) == 0
}

// urisOf are the URI SANs of a client's certificate; none without TLS.
func urisOf(state *tls.ConnectionState) (uris []string) {
	if state != nil && len(state.PeerCertificates) > 0 {
		for _, uri := range state.PeerCertificates[0].URIs {
			uris = append(uris, uri.String())
		}
	}
	return uris
}

// caller is a stream's connection, and the URI SANs of its client.
func caller(ctx context.Context) (conn net.Addr, uris []string) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil, nil
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		uris = urisOf(&info.State)
	}
	return p.Addr, uris
}
