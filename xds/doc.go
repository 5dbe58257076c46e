// Package xds keeps the limits, endpoints and secrets in force what a control plane says they are.
package xds
