package ledger

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	chaos "svc-wallet/bench/link"
)

// Goal: the kernel says that a TCP connection's network holds something up while it loses packets, in either
// direction or in both, and not when it loses none, nor when it is cut: then nothing is heard. It says how long a
// round trip takes. Method: a peer that echoes a byte every 10 ms, over a link that loses packets.
func TestNetworkHolds(t *testing.T) {
	t.Parallel()
	way, err := chaos.New()
	if chaos.Unavailable(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer way.Close()
	var server net.Listener
	if err := way.Run(func() (err error) {
		server, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(way.There, 0)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		if c, err := server.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { defer close(read); _, _ = io.Copy(io.Discard, c) }()
	defer func() { _ = server.Close(); _ = c.Close(); <-read; way.Set(chaos.Settings{}); <-echoed }()
	k := kernelOf(c)
	look := func(looks int) (held int, trip time.Duration) {
		clock := time.NewTicker(10 * time.Millisecond)
		defer clock.Stop()
		for range looks {
			_, _ = c.Write([]byte("x"))
			<-clock.C
			var holds bool
			if holds, trip = k.network(); holds {
				held++
			}
		}
		return held, trip
	}
	if held, _ := look(20); held > 0 {
		t.Errorf("held up %d times on a sound network", held)
	}
	way.Set(chaos.Settings{Delay: 20 * time.Millisecond, Loss: .1})
	if held, trip := look(100); held < 20 || trip < 20*time.Millisecond {
		t.Errorf("held up %d times of 100 where every tenth packet is lost; a round trip of %v", held, trip)
	}
	way.Set(chaos.Settings{Loss: 1})
	look(15) // what is on its way, and what was heard a moment ago
	if held, _ := look(30); held > 0 {
		t.Errorf("held up %d times by a network that is cut", held)
	}
}
