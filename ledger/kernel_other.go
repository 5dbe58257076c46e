//go:build !linux

package ledger

import "net"

// kernelOf asks no other kernel than Linux.
func kernelOf(net.Conn) kernel { return nil }
