package node

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/wallet"
)

// FuzzFromWire: no request makes the decoder panic, and what it takes for a transfer is one, with
// exactly the names, amounts and rules of the message.
func FuzzFromWire(f *testing.F) {
	for n := range 2 {
		f.Add(must(proto.Marshal(&ledgerpb.CommitRequest{Transfers: []*ledgerpb.Transfer{transferToWire(payment(0, n)), {}}})))
	}
	odd := transferToWire(payment(0, 1))
	odd.IdempotencyKey = `"\"`
	f.Add(must(proto.Marshal(&ledgerpb.CommitRequest{Transfers: []*ledgerpb.Transfer{odd}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		var req ledgerpb.CommitRequest
		if proto.Unmarshal(data, &req) != nil {
			return
		}
		for _, p := range req.GetTransfers() {
			got := transferFromWire(p)
			if got == (wallet.Transfer{}) {
				continue
			}
			if !wellFormed(&got) {
				t.Errorf("%v is taken for %+v", p, got)
			}
			again := transferToWire(got)
			if again.GetOp() != p.GetOp() || again.GetFrom() != p.GetFrom() || again.GetTo() != p.GetTo() || again.GetAsset() != p.GetAsset() ||
				again.GetNonce() != p.GetNonce() || again.GetIdempotencyKey() != p.GetIdempotencyKey() ||
				string(again.GetFingerprint()) != string(p.GetFingerprint()) || amountFromWire(p.GetAmount()) != got.Amount ||
				amountFromWire(p.GetRules().GetDailyCeiling()) != got.Rules.DailyCeiling ||
				amountFromWire(p.GetRules().GetMaxAccountTotal()) != got.Rules.MaxAccountTotal ||
				p.GetRules().GetNonceStart() != got.Rules.NonceStart || p.GetRules().GetNonceMaxGap() != got.Rules.NonceMaxGap {
				t.Errorf("%v is taken for %v", p, again)
			}
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// transferToWire is what a client does.
func transferToWire(t wallet.Transfer) *ledgerpb.Transfer {
	return &ledgerpb.Transfer{
		Op: opToWire(t.Op), From: t.From.String(), To: t.To.String(), Asset: t.Asset.String(), Amount: amountToWire(t.Amount),
		Nonce: t.Nonce, IdempotencyKey: t.Idem.String(), Fingerprint: t.Fingerprint[:],
		CorrId: t.Origin.Corr.String(), Traceparent: t.Origin.Trace.String(),
		Rules: &ledgerpb.Rules{
			DailyCeiling: amountToWire(t.Rules.DailyCeiling), MaxAccountTotal: amountToWire(t.Rules.MaxAccountTotal),
			NonceStart: t.Rules.NonceStart, NonceMaxGap: t.Rules.NonceMaxGap,
		},
	}
}

// TestVerdicts: a code that is no verdict goes over the wire as unknown, never as more.
func TestVerdicts(t *testing.T) {
	known := 0
	for _, c := range wallet.Codes() {
		if verdictToWire(c) != ledgerpb.Verdict_VERDICT_UNSPECIFIED {
			known++
		}
	}
	if known != len(ledgerpb.Verdict_name)-1 {
		t.Errorf("%d codes have a verdict, of %d", known, len(ledgerpb.Verdict_name)-1)
	}
	for _, c := range []wallet.Code{wallet.Uncertain, wallet.Internal, 255} {
		if p := resultsToWire([]wallet.Result{{Code: c, Seq: 7, Receipt: wallet.Receipt{Nonce: 3}}}).GetResults()[0]; p.GetVerdict() != 0 || p.GetSeq() != 0 || p.GetReceipt() != nil {
			t.Errorf("%d: %v", c, p)
		}
	}
	if opToWire(wallet.Read) != 0 || opFromWire(77) != wallet.NoOp {
		t.Error("an op that is no payment has a name")
	}
}

// TestResultsAreCheap: a response of any size takes a bounded number of allocations.
func TestResultsAreCheap(t *testing.T) {
	if underRace {
		t.Skip("the race detector allocates")
	}
	e := OpenMemory(Options{Now: frozen})
	defer mustClose(t, e)
	batch := make([]wallet.Transfer, 200)
	for n := range batch {
		batch[n] = payment(0, n)
	}
	out := send(t, e, batch...)
	if n := testing.AllocsPerRun(10, func() { resultsToWire(out) }); n > 15 {
		t.Errorf("%v allocations for %d results", n, len(out))
	}
}
