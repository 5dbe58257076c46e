package ledgerpb_test

import (
	"errors"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"svc-wallet/ledger/ledgerpb"
)

// messages are one of each kind that travels, with something in every field.
func messages() []proto.Message {
	amount := &ledgerpb.Amount{Hi: 1 << 63, Lo: 7}
	receipt := &ledgerpb.Receipt{Txid: make([]byte, 16), Op: ledgerpb.Op_OP_BURN, From: "a", To: "b", Asset: "ron", Amount: amount, Nonce: 1<<64 - 1, IdempotencyKey: "k", UnixMillis: -1}
	balance := &ledgerpb.Balance{Account: "a", Asset: "ron", Amount: amount, Nonce: 3, Seq: 4}
	return []proto.Message{
		&ledgerpb.CommitRequest{History: []byte{1, 2}, Clock: 9, Transfers: []*ledgerpb.Transfer{{
			Op: ledgerpb.Op_OP_TRANSFER, From: "a", To: "b", Asset: "ron", Amount: amount, Nonce: 2, IdempotencyKey: "k", Fingerprint: make([]byte, 32),
			Rules: &ledgerpb.Rules{DailyCeiling: amount, MaxAccountTotal: amount, NonceStart: 1, NonceMaxGap: 2}, CorrId: "c", Traceparent: "t",
		}, {}}},
		&ledgerpb.CommitResponse{Clock: 8, Results: []*ledgerpb.Result{{
			Verdict: ledgerpb.Verdict_VERDICT_APPLIED, Seq: 1, NextNonce: 2, Receipt: receipt, Balances: []*ledgerpb.Balance{balance, balance}, DayTotal: amount,
			Limit: ledgerpb.Limit_LIMIT_SUPPLY, Remaining: amount, ResetsAtUnixMillis: 5,
		}, {}}},
		&ledgerpb.LookupRequest{Keys: []*ledgerpb.BalanceKey{{Account: "a", Asset: "ron"}, {}}},
		&ledgerpb.LookupResponse{Balances: []*ledgerpb.Balance{balance, {}}},
		&ledgerpb.TransactionRequest{Txid: []byte{1}, Account: "a", IdempotencyKey: "k"},
		&ledgerpb.TransactionResponse{Receipt: receipt, Seq: 3},
		&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_From{From: 4}, History: []byte{5}},
		&ledgerpb.WatchRequest{Ask: &ledgerpb.WatchRequest_Tick{Tick: 6}},
		&ledgerpb.WatchResponse{Seq: 1, Balances: []*ledgerpb.Balance{balance}, Heartbeat: &ledgerpb.Heartbeat{Tick: 1}, History: []byte{7}},
		&ledgerpb.CommitRequest{},
	}
}

// TestCodec: a message is on the wire what gRPC's own codec makes of it, in both directions, and one of another
// package goes as before.
func TestCodec(t *testing.T) {
	ours, theirs := ledgerpb.Codec(), encoding.GetCodecV2("proto")
	if ours.Name() != theirs.Name() {
		t.Errorf("the codec is named %q", ours.Name())
	}
	for _, m := range append(messages(), &grpc_health_v1.HealthCheckRequest{Service: "ledger"}) {
		for _, way := range [][2]encoding.CodecV2{{ours, ours}, {ours, theirs}, {theirs, ours}} {
			wire, err := way[0].Marshal(m)
			back := m.ProtoReflect().New().Interface()
			if err == nil {
				err = way[1].Unmarshal(wire, back)
			}
			if err != nil || !proto.Equal(m, back) {
				t.Errorf("%T: %v\n%v\n%v", m, err, m, back)
			}
		}
	}
}

// FuzzCodec: where both codecs read whatever bytes, they read the same; and what gRPC's own refuses, ours reads only
// where the fault is in a text that is not UTF-8, which its grammar refuses later, or in a field that nobody knows. Ours
// refuses a known field of another type, which the other skips.
func FuzzCodec(f *testing.F) {
	for i, m := range messages() {
		text, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), text)
	}
	kinds := messages()
	f.Fuzz(func(t *testing.T, kind uint8, text []byte) {
		kind %= uint8(len(kinds))
		a, b := kinds[kind].ProtoReflect().New().Interface(), kinds[kind].ProtoReflect().New().Interface()
		errA := ledgerpb.Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(text)}, a)
		errB := proto.Unmarshal(text, b)
		if errA == nil && hasBadText(a.ProtoReflect()) {
			return
		}
		if errA != nil {
			return
		}
		forget(a.ProtoReflect())
		if errB != nil {
			text, errB = proto.Marshal(a) // what ours read
			errB = errors.Join(errB, proto.Unmarshal(text, b))
		}
		forget(b.ProtoReflect())
		if errB != nil || !proto.Equal(a, b) {
			t.Errorf("%x: %v\n%v\n%v", text, errB, a, b)
		}
	})
}

// forget drops the fields that nobody knows.
func forget(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case d.Kind() != protoreflect.MessageKind:
		case d.IsList():
			for i := range v.List().Len() {
				forget(v.List().Get(i).Message())
			}
		default:
			forget(v.Message())
		}
		return true
	})
}

func hasBadText(m protoreflect.Message) (bad bool) {
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		each := func(v protoreflect.Value) {
			switch d.Kind() {
			case protoreflect.StringKind:
				bad = bad || !utf8.ValidString(v.String())
			case protoreflect.MessageKind:
				bad = bad || hasBadText(v.Message())
			default:
			}
		}
		if !d.IsList() {
			each(v)
			return true
		}
		for i := range v.List().Len() {
			each(v.List().Get(i))
		}
		return true
	})
	return bad
}
