// Package xds keeps the limits, endpoints and secrets in force what a control plane says they
// are. It is an xDS v3 client over ADS (delta, or state of the world) on go-control-plane's
// types. New is the one entry, and Run its life.
//
// A server is one control plane with its addresses, or the local agent that serves secrets; a stream
// is one stream of it, with a subscription for each type of resource. protocol.go hides the variant of
// the protocol. A resourceType says how resources of a type are read (limits.go, runtime.go, cluster.go,
// endpoint.go, secret.go), and typed holds those that are in force.
//
// Invariant: what is in force is what was last accepted. A response is decoded, checked and put in
// force as a whole before it is acknowledged, and one that is refused changes nothing. What is
// taken away, or outlives its ttl, falls back to the static configuration.
package xds
