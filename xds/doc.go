// Package xds keeps the limits, endpoints and secrets in force what a control plane says they
// are. It is an xDS v3 client over ADS (delta, or state of the world) on go-control-plane's
// types. New is the one entry, and Run its life.
//
// A source is one control plane with its addresses, or the local agent that serves secrets; a
// session is the life of one stream of it. wire.go hides the variant of the protocol, and kind.go
// the types of resource, of which each has a file.
//
// Invariant: what is in force is what was last accepted. A response is decoded, checked and put in
// force as a whole before it is acknowledged, and one that is refused changes nothing. What is
// taken away falls back to the static configuration.
package xds
