package node_test

import (
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/ledger/node"
)

// TestExpiredCommitIsNeverTakenUp: a commit that comes to be taken up after the last moment that it
// names, or at another opening than the one it was meant for, is answered ABORTED and nothing of it
// is done; in time it is done. The moments are those of the opening's own clock, whatever the wall
// clock does. Method: each engine behind a socket, under clocks that are moved by hand.
func TestExpiredCommitIsNeverTakenUp(t *testing.T) {
	for name, open := range map[string]func(node.Options) (node.Engine, error){
		"memory": node.OpenMemory,
		"pebble": func(o node.Options) (node.Engine, error) { return node.OpenPebble(t.TempDir(), o) },
	} {
		t.Run(name, func(t *testing.T) {
			var elapsed atomic.Int64
			wall := newClock()
			e, err := open(node.Options{Now: wall.Now, Elapsed: func() time.Duration { return time.Duration(elapsed.Load()) }})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = e.Close() })
			c := ledgerpb.NewLedgerNodeClient(raw(t, e, node.ServeOptions{}))
			elapsed.Store(int64(41 * time.Millisecond))
			opening, clock := opened(t, c)
			if clock != 42 {
				t.Fatalf("the clock tells %d", clock)
			}
			commit := func(history []byte, last uint64) (*ledgerpb.CommitResponse, codes.Code) {
				res, err := c.Commit(within(t), &ledgerpb.CommitRequest{Transfers: []*ledgerpb.Transfer{good()}, History: history, Clock: last})
				return res, status.Code(err)
			}
			other := append([]byte(nil), opening...)
			other[3]++
			wall.Advance(400 * 24 * time.Hour)
			for _, late := range []struct {
				history []byte
				last    uint64
			}{{opening, 41}, {opening, 1}, {other, 1 << 40}, {nil, 1 << 40}} {
				if _, code := commit(late.history, late.last); code != codes.Aborted || e.Seq() != 0 {
					t.Errorf("meant for %x until %d: %v, version %d", late.history, late.last, code, e.Seq())
				}
			}
			if res, code := commit(opening, 42); code != codes.OK || res.GetResults()[0].GetVerdict() != ledgerpb.Verdict_VERDICT_APPLIED || res.GetClock() != 42 {
				t.Errorf("in time: %v, %v", code, res)
			}
			elapsed.Add(int64(time.Millisecond))
			if _, code := commit(opening, 42); code != codes.Aborted {
				t.Errorf("a repeat that is late: %v", code)
			}
			if res, code := commit(nil, 0); code != codes.OK || res.GetResults()[0].GetVerdict() != ledgerpb.Verdict_VERDICT_REPLAYED || res.GetClock() != 43 {
				t.Errorf("without a last moment: %v, %v", code, res)
			}
		})
	}
}

// opened asks a node for its opening and that one's clock.
func opened(t *testing.T, c ledgerpb.LedgerNodeClient) (opening []byte, clock uint64) {
	t.Helper()
	stream, err := c.Watch(within(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_From{}})
	_ = stream.Send(&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_Tick{Tick: 1}})
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetHistory() != nil {
			opening = m.GetHistory()
		}
		if h := m.GetHeartbeat(); h != nil {
			return opening, h.GetClock()
		}
	}
}
