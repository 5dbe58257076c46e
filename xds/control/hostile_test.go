package control

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// ends wants the stream to end with code.
func (p *peer) ends(code codes.Code) {
	p.t.Helper()
	for {
		if _, err := p.receive(); err != nil {
			if status.Code(err) != code {
				p.t.Errorf("%v, want %v", err, code)
			}
			return
		}
	}
}

// TestHostileRequests sends what no sidecar sends. Each ends its own stream only, and another
// sidecar is served as if nothing had happened.
func TestHostileRequests(t *testing.T) {
	metadata, err := structpb.NewStruct(map[string]any{"huge": strings.Repeat("x", maxRequest)})
	if err != nil {
		t.Fatal(err)
	}
	many := make([]string, maxSubscribed+1)
	for i := range many {
		many[i] = fmt.Sprint("n", i)
	}
	for _, protocol := range []string{"delta", "sotw"} {
		r := newRig(t, rigOptions{files: map[string]string{"default.json": everything}})
		good := r.connect(protocol, "good", "")
		good.subscribe(kindLimits, "svc-wallet.limits")
		m := good.next(kindLimits)
		good.ack(kindLimits, m)
		for _, tc := range []struct {
			name string
			send func(p *peer)
			code codes.Code
		}{
			{"no node", func(p *peer) { p.node = nil; p.subscribe(kindLimits) }, codes.InvalidArgument},
			{"empty id", func(p *peer) { p.node = &core.Node{}; p.subscribe(kindLimits) }, codes.InvalidArgument},
			{"long id", func(p *peer) { p.node.Id = strings.Repeat("x", 300); p.subscribe(kindLimits) }, codes.InvalidArgument},
			{"odd id", func(p *peer) { p.node.Id = "a\nb"; p.subscribe(kindLimits) }, codes.InvalidArgument},
			{"odd cluster", func(p *peer) { p.node.Cluster = "a\x1b"; p.subscribe(kindLimits) }, codes.InvalidArgument},
			{"no type", func(p *peer) { p.send("", "", nil, nil, "") }, codes.InvalidArgument},
			{"long type", func(p *peer) { p.send(strings.Repeat("t", 300), "", nil, nil, "") }, codes.ResourceExhausted},
			{"many types", func(p *peer) {
				for i := range typesPerStream + 1 {
					p.send(fmt.Sprint("type", i), "", nil, nil, "")
				}
			}, codes.ResourceExhausted},
			{"many names", func(p *peer) { p.subscribe(kindEndpoint, many...) }, codes.ResourceExhausted},
			{"huge metadata", func(p *peer) { p.node.Metadata = metadata; p.subscribe(kindLimits) }, codes.ResourceExhausted},
		} {
			t.Run(protocol+" "+tc.name, func(t *testing.T) {
				p := r.connect(protocol, "bad", "")
				p.t = t
				tc.send(p)
				p.ends(tc.code)
			})
		}
		r.put("default", `{"queue":9}`)
		if m := good.next(kindLimits); !m.mentions("queue") {
			t.Errorf("%+v", m)
		}
	}
}

// TestImpostor cannot become another sidecar in the midst of a stream, and a stream keeps nothing
// of what else the node says.
func TestImpostor(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":5}`, "vip.json": `{"match":{"ids":["vip"]},"max_amount_per_op":"99999"}`}})
	for _, protocol := range []string{"delta", "sotw"} {
		p := r.connect(protocol, "plain", "")
		p.subscribe(kindCluster)
		p.ack(kindCluster, p.next(kindCluster))
		p.node = &core.Node{Id: "vip"}
		p.subscribe(kindLimits, "svc-wallet.limits")
		if m := p.next(kindLimits); m.mentions("99999") {
			t.Errorf("%s: %+v", protocol, m)
		}
	}
	if _, there := r.sidecars()["vip"]; there {
		t.Error("it has become another")
	}
}

// TestManySidecars bounds the rows: those that left longest ago are forgotten, and while all are
// connected nobody else is let in.
func TestManySidecars(t *testing.T) {
	const most = 4
	r := newRig(t, rigOptions{change: func(o *Options) { o.MaxSidecars = most }})
	conn := r.dial(nil)
	seen := 0
	for i := range 100 {
		p := r.connectOn(conn, "delta", fmt.Sprint("s", i), "")
		p.subscribe(kindCluster)
		p.next(kindCluster)
		p.close()
		seen = max(seen, len(r.sidecars()))
		r.eventually("gone", func() bool { return r.sidecars()[fmt.Sprint("s", i)].GoneSince != "" })
	}
	if seen > most {
		t.Errorf("%d rows", seen)
	}
	if _, there := r.sidecars()["s99"]; !there {
		t.Error("the newest is not there")
	}
	var peers []*peer
	for i := range most {
		p := r.connectOn(conn, "delta", fmt.Sprint("n", i), "")
		p.subscribe(kindCluster)
		p.next(kindCluster)
		peers = append(peers, p)
	}
	late := r.connectOn(conn, "delta", "late", "")
	late.subscribe(kindCluster)
	late.ends(codes.ResourceExhausted)
	peers[2].close()
	r.eventually("room", func() bool { return r.sidecars()["n2"].GoneSince != "" })
	late = r.connectOn(conn, "delta", "late", "")
	late.subscribe(kindCluster)
	late.next(kindCluster)
	if _, there := r.sidecars()["n2"]; there {
		t.Error("n2 is still known")
	}
}

// TestManyDistinct bounds ten thousand node ids without a server between.
func TestManyDistinct(t *testing.T) {
	f := newFleet(1000, func() int64 { return 0 }, nil, newMetrics())
	for i := range int64(10_000) {
		key := streamKey{true, i}
		if err := f.open(t.Context(), key, ""); err != nil {
			t.Fatal(err)
		}
		if err := f.request(key, asked{node: &core.Node{Id: fmt.Sprint(i)}, url: "x"}); err != nil {
			t.Fatal(err)
		}
		f.close(key)
	}
	if len(f.rows) != 1000 || f.gone.Len() != 1000 || len(f.streams) != 0 || len(f.byID) != 1000 || f.byID["9999"] == nil {
		t.Error(len(f.rows), f.gone.Len(), len(f.streams))
	}
	for i := range int64(2001) {
		if err := f.open(t.Context(), streamKey{false, i}, ""); (err != nil) != (i == 2000) {
			t.Fatal(i, err)
		}
	}
}

// TestSilence ends a stream that never asks for anything.
func TestSilence(t *testing.T) {
	r := newRig(t, rigOptions{timing: func(d *timing) { d.silence = 10 * time.Millisecond }})
	for _, protocol := range []string{"delta", "sotw"} {
		p := r.connect(protocol, "mute", "")
		if _, err := p.receive(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	if n := len(r.sidecars()); n != 0 {
		t.Error(n)
	}
}

// TestSilentCrowd: connections that say nothing keep neither a sidecar nor an operator out.
func TestSilentCrowd(t *testing.T) {
	r := newRig(t, rigOptions{change: func(o *Options) { o.MaxSidecars = 8 }})
	for range 200 {
		for _, addr := range []string{r.plane.Addr(), r.plane.APIAddr().String()} {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
		}
	}
	p := r.connect("delta", "s1", "")
	p.subscribe(kindCluster)
	p.next(kindCluster)
	if _, there := r.sidecars()["s1"]; !there {
		t.Error("the sidecar is not known")
	}
}

// TestSlowReader has one sidecar read nothing while there are changes larger than what the
// connection holds. The others are told all the same, and it ends with the control plane.
func TestSlowReader(t *testing.T) {
	big := func(i int) string {
		return fmt.Sprintf(`{"queue":%d,"revoked_tokens":["%s"]}`, i, strings.Join(manyTokens(9000), `","`))
	}
	r := newRig(t, rigOptions{files: map[string]string{"default.json": big(1)}})
	slow := r.connect("delta", "slow", "")
	fast := r.connect("delta", "fast", "")
	slow.subscribe(kindLimits, "svc-wallet.limits")
	for i := range 5 { // unread, and each asks for more
		slow.send(kindLimits.url(), fmt.Sprint(i), nil, nil, "")
	}
	fast.subscribe(kindLimits, "svc-wallet.limits")
	fast.ack(kindLimits, fast.next(kindLimits))
	for i := 2; i < 8; i++ {
		r.put("default", big(i))
		fast.ack(kindLimits, fast.next(kindLimits))
	}
	r.eventually("lag", func() bool { return r.sidecars()["slow"].Types["limits"].Served != "" })
	r.plane.timing.drain = time.Millisecond
	if err := r.stop(); err != nil {
		t.Error(err)
	}
}

func manyTokens(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("token-%040d", i)
	}
	return list
}

// TestShutdown ends every stream at once.
func TestShutdown(t *testing.T) {
	r := newRig(t, rigOptions{})
	var peers []*peer
	for i := range 20 {
		p := r.connect([]string{"delta", "sotw"}[i%2], fmt.Sprint(i), "")
		p.subscribe(kindCluster)
		p.next(kindCluster)
		peers = append(peers, p)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	for _, p := range peers {
		if _, err := p.receive(); err == nil {
			t.Error("the stream goes on")
		}
	}
}

// TestStrayCallbacks has the server speak of a stream that is not known.
func TestStrayCallbacks(t *testing.T) {
	f := newFleet(0, func() int64 { return 0 }, nil, newMetrics())
	if err := f.OnStreamRequest(1, &discovery.DiscoveryRequest{}); status.Code(err) != codes.Internal {
		t.Error(err)
	}
	f.OnStreamResponse(t.Context(), 1, nil, &discovery.DiscoveryResponse{TypeUrl: kindLimits.url()})
	f.OnDeltaStreamClosed(1, nil)
	if f.most != maxSidecars {
		t.Error(f.most)
	}
}

// TestPanic outlives a bug of ours.
func TestPanic(t *testing.T) {
	r := newRig(t, rigOptions{})
	err := r.plane.stream(nil, nil, nil, func(any, grpc.ServerStream) error { panic("of the test") })
	if status.Code(err) != codes.Internal || !r.log.has(`msg=stream_panicked reason="of the test"`) {
		t.Error(err, r.log)
	}
}

// TestOversize refuses at the source what would end a sidecar's stream.
func TestOversize(t *testing.T) {
	if err := check(kindLimits.url(), &anypb.Any{Value: make([]byte, maxResponse)}); err == nil || !strings.Contains(err.Error(), "a sidecar takes") {
		t.Error(err)
	}
}
