package wire

import (
	"errors"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"svc-wallet/ledger/ledgerpb"
	"svc-wallet/wallet"
)

var ron = wallet.Must(wallet.ParseAsset("ron"))

func account(i int) wallet.Account { return wallet.Must(wallet.ParseAccount("acc_" + strconv.Itoa(i))) }

func ronOf(i int) wallet.BalanceKey { return wallet.BalanceKey{Account: account(i), Asset: ron} }

func wireBalance(seq uint64) *ledgerpb.Balance {
	return &ledgerpb.Balance{Account: "acc_1", Asset: "ron", Amount: &ledgerpb.Amount{Lo: seq}, Seq: seq}
}

// fullTransfer is a full payment: every field set, and a key that begins with a quote.
func fullTransfer(op wallet.Op) *wallet.Payment {
	t := &wallet.Payment{
		Op: op, From: account(1), To: account(2), Asset: ron, Amount: wallet.AmountFromBits(3, 4), Nonce: 1<<63 + 5,
		Idem: wallet.Must(wallet.ParseIdemKey(`"\"quoted\\"`)),
		Rules: wallet.Rules{
			DailyCeiling: wallet.AmountFromBits(5, 6), MaxAccountTotal: wallet.MaxAmount(),
			NonceStart: 1, NonceMaxGap: 1 << 53,
		},
		Origin: wallet.Origin{
			Corr:  wallet.Must(wallet.ParseCorrID("corr")),
			Trace: wallet.Must(wallet.ParseTrace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
		},
	}
	if op == wallet.Issue {
		t.From = wallet.Account{}
	}
	if op == wallet.Burn {
		t.To = wallet.Account{}
	}
	t.Fingerprint = t.Hash()
	return t
}

// applied is a sound answer for t.
func applied(t *wallet.Payment) *ledgerpb.Result {
	r := &ledgerpb.Result{
		Verdict: ledgerpb.Verdict_VERDICT_APPLIED, Seq: 7, DayTotal: &ledgerpb.Amount{Hi: 3, Lo: 8},
		Receipt: &ledgerpb.Receipt{
			Txid: []byte("0123456789abcdef"), Op: ops.encode(t.Op), From: t.From.String(), To: t.To.String(),
			Asset: t.Asset.String(), Amount: &ledgerpb.Amount{Hi: 3, Lo: 4}, Nonce: t.Nonce,
			IdempotencyKey: t.Idem.String(), UnixMillis: 1_700_000_000_000,
		},
	}
	for _, a := range [...]wallet.Account{t.From, t.To} {
		if !a.IsZero() {
			r.Balances = append(r.Balances, &ledgerpb.Balance{
				Account: a.String(), Asset: t.Asset.String(), Amount: &ledgerpb.Amount{Lo: 9}, Nonce: t.Nonce, Seq: 7,
			})
		}
	}
	return r
}

// Goal: a transfer crosses the wire whole. Method: each field of each operation is compared after
// protobuf's own round trip.
func TestEncodeCommit(t *testing.T) {
	batch := []wallet.Payment{*fullTransfer(wallet.Issue), *fullTransfer(wallet.Transfer), *fullTransfer(wallet.Burn), {}}
	raw, err := proto.Marshal(EncodeCommit(batch))
	if err != nil {
		t.Fatal(err)
	}
	var req ledgerpb.CommitRequest
	if err := proto.Unmarshal(raw, &req); err != nil {
		t.Fatal(err)
	}
	for i, m := range req.GetTransfers() {
		w := &batch[i]
		daily, _ := decodeAmount(m.GetRules().GetDailyCeiling())
		total, _ := decodeAmount(m.GetRules().GetMaxAccountTotal())
		amount, _ := decodeAmount(m.GetAmount())
		if m.GetOp() != ops.encode(w.Op) || m.GetFrom() != w.From.String() || m.GetTo() != w.To.String() ||
			m.GetAsset() != w.Asset.String() || amount != w.Amount || m.GetNonce() != w.Nonce ||
			m.GetIdempotencyKey() != w.Idem.String() || string(m.GetFingerprint()) != string(w.Fingerprint[:]) ||
			daily != w.Rules.DailyCeiling || total != w.Rules.MaxAccountTotal ||
			m.GetRules().GetNonceStart() != w.Rules.NonceStart || m.GetRules().GetNonceMaxGap() != w.Rules.NonceMaxGap ||
			m.GetCorrId() != w.Origin.Corr.String() || m.GetTraceparent() != w.Origin.Trace.String() {
			t.Errorf("transfer %d: %v", i, m)
		}
	}
}

// Goal: every verdict comes out as its code, with what belongs to it. Method: a table of sound
// answers for each operation.
func TestDecodeVerdicts(t *testing.T) {
	for _, op := range []wallet.Op{wallet.Issue, wallet.Transfer, wallet.Burn} {
		w := fullTransfer(op)
		r := decodeResult(w, applied(w))
		if r.Code != wallet.OK || r.Seq != 7 || r.Receipt.Amount != w.Amount || r.DayTotal != wallet.AmountFromBits(3, 8) || r.Receipt.Idem != w.Idem || r.Receipt.TxID.IsZero() {
			t.Errorf("%v applied: %+v", op, r)
		}
		first := w.From
		if op == wallet.Issue {
			first = w.To
		}
		if r.Balances[0].Key.Account != first || r.Balances[0].Amount != wallet.Minor(9) || r.Balances[1].Key.Account.IsZero() != (op != wallet.Transfer) {
			t.Errorf("%v balances: %+v", op, r.Balances)
		}
		silent := applied(w)
		silent.DayTotal = nil
		if r := decodeResult(w, silent); r.Code != wallet.OK || !r.DayTotal.IsZero() {
			t.Errorf("%v applied, the day's total not told: %+v", op, r)
		}
		again := applied(w)
		again.Verdict, again.Balances = ledgerpb.Verdict_VERDICT_REPLAYED, nil
		if r := decodeResult(w, again); r.Code != wallet.Replayed || r.Seq != 7 || r.Receipt.Nonce != w.Nonce || !r.DayTotal.IsZero() {
			t.Errorf("%v replayed: %+v", op, r)
		}
	}
	w := fullTransfer(wallet.Transfer)
	swapped := applied(w)
	swapped.Balances[0], swapped.Balances[1] = swapped.Balances[1], swapped.Balances[0]
	if r := decodeResult(w, swapped); r.Code != wallet.OK || r.Balances[0].Key.Account != w.From {
		t.Errorf("balances in the other order: %+v", r)
	}
	for verdict, code := range map[ledgerpb.Verdict]wallet.Code{
		ledgerpb.Verdict_VERDICT_UNSPECIFIED:        wallet.Uncertain,
		ledgerpb.Verdict_VERDICT_KEY_REUSED:         wallet.KeyReused,
		ledgerpb.Verdict_VERDICT_NONCE_CONFLICT:     wallet.NonceConflict,
		ledgerpb.Verdict_VERDICT_LIMITS_EXCEEDED:    wallet.LimitsExceeded,
		ledgerpb.Verdict_VERDICT_INSUFFICIENT_FUNDS: wallet.InsufficientFunds,
		ledgerpb.Verdict_VERDICT_INVALID:            wallet.BadRequest,
		99:                                          wallet.Uncertain,
	} {
		r := decodeResult(w, &ledgerpb.Result{Verdict: verdict, NextNonce: 8})
		if r.Code != code || (r.NextNonce == 8) != (code == wallet.NonceConflict) {
			t.Errorf("%v: %+v", verdict, r)
		}
		both := applied(w)
		both.Verdict = verdict
		if r := decodeResult(w, both); r.Code != wallet.Uncertain {
			t.Errorf("%v with a receipt: %+v", verdict, r)
		}
	}
}

// Goal: an answer that is wrong in any one field is Uncertain, never paid. Method: a table of
// single changes to a sound answer.
func TestDecodeGarbled(t *testing.T) {
	for name, spoil := range map[string]func(*ledgerpb.Result){
		"no seq":               func(r *ledgerpb.Result) { r.Seq = 0 },
		"no receipt":           func(r *ledgerpb.Result) { r.Receipt = nil },
		"no txid":              func(r *ledgerpb.Result) { r.Receipt.Txid = nil },
		"zero txid":            func(r *ledgerpb.Result) { r.Receipt.Txid = make([]byte, 16) },
		"long txid":            func(r *ledgerpb.Result) { r.Receipt.Txid = make([]byte, 17) },
		"op":                   func(r *ledgerpb.Result) { r.Receipt.Op = ledgerpb.Op_OP_BURN },
		"from":                 func(r *ledgerpb.Result) { r.Receipt.From = "acc_2" },
		"no from":              func(r *ledgerpb.Result) { r.Receipt.From = "" },
		"bad from":             func(r *ledgerpb.Result) { r.Receipt.From = "\x00" },
		"to":                   func(r *ledgerpb.Result) { r.Receipt.To = "acc_1" },
		"asset":                func(r *ledgerpb.Result) { r.Receipt.Asset = "eur" },
		"no amount":            func(r *ledgerpb.Result) { r.Receipt.Amount = nil },
		"amount":               func(r *ledgerpb.Result) { r.Receipt.Amount.Lo++ },
		"nonce":                func(r *ledgerpb.Result) { r.Receipt.Nonce++ },
		"key":                  func(r *ledgerpb.Result) { r.Receipt.IdempotencyKey = "other" },
		"no time":              func(r *ledgerpb.Result) { r.Receipt.UnixMillis = 0 },
		"the year 10000":       func(r *ledgerpb.Result) { r.Receipt.UnixMillis = maxMillis + 1 },
		"no balances":          func(r *ledgerpb.Result) { r.Balances = nil },
		"one balance":          func(r *ledgerpb.Result) { r.Balances = r.Balances[:1] },
		"three balances":       func(r *ledgerpb.Result) { r.Balances = append(r.Balances, r.Balances[0]) },
		"one twice":            func(r *ledgerpb.Result) { r.Balances[1] = r.Balances[0] },
		"nil balance":          func(r *ledgerpb.Result) { r.Balances[1] = nil },
		"another's balance":    func(r *ledgerpb.Result) { r.Balances[1].Account = "acc_3" },
		"another asset":        func(r *ledgerpb.Result) { r.Balances[1].Asset = "eur" },
		"balance of nothing":   func(r *ledgerpb.Result) { r.Balances[1].Amount = nil },
		"balance from before":  func(r *ledgerpb.Result) { r.Balances[1].Seq = 6 },
		"nonce not yet spent":  func(r *ledgerpb.Result) { r.Balances[0].Nonce-- },
		"total without it":     func(r *ledgerpb.Result) { r.DayTotal.Lo = 3 },
		"total over ceiling":   func(r *ledgerpb.Result) { r.DayTotal = &ledgerpb.Amount{Hi: 5, Lo: 7} },
		"total of nothing":     func(r *ledgerpb.Result) { r.DayTotal = &ledgerpb.Amount{} },
		"refused with balance": func(r *ledgerpb.Result) { r.Verdict, r.Receipt = ledgerpb.Verdict_VERDICT_INVALID, nil },
	} {
		w := fullTransfer(wallet.Transfer)
		m := applied(w)
		spoil(m)
		if r := decodeResult(w, m); r != (wallet.Result{}) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := decodeResult(fullTransfer(wallet.Transfer), nil); r != (wallet.Result{}) {
		t.Errorf("nil: %+v", r)
	}

	w := *fullTransfer(wallet.Transfer)
	out := []wallet.Result{{Code: wallet.Internal}, {}}
	if err := DecodeCommit([]wallet.Payment{w, w}, &ledgerpb.CommitResponse{Results: []*ledgerpb.Result{applied(&w)}}, out); !errors.Is(err, ErrMalformed) || out[0].Code != wallet.Internal {
		t.Errorf("one result for two: %v, %+v", err, out[0])
	}
	// Two commits cannot have one version.
	if err := DecodeCommit([]wallet.Payment{w, w}, &ledgerpb.CommitResponse{Results: []*ledgerpb.Result{applied(&w), applied(&w)}}, out); err != nil || out[0].Code != wallet.OK || out[1].Code != wallet.Uncertain {
		t.Errorf("twice one version: %v, %v, %v", err, out[0].Code, out[1].Code)
	}
}

// Goal: what a node tells of a limit is taken where it can be so, and the refusal stands anyhow.
// Method: true and spoiled answers.
func TestDecodeLimit(t *testing.T) {
	w := fullTransfer(wallet.Transfer) // of more than 3 minor units
	three := &ledgerpb.Amount{Lo: 3}
	for name, c := range map[string]struct {
		told *ledgerpb.Result
		want wallet.Result
	}{
		"daily":          {&ledgerpb.Result{Limit: ledgerpb.Limit_LIMIT_DAILY_CEILING, Remaining: three, ResetsAtUnixMillis: 86400000}, wallet.Result{Limit: wallet.DailyCeiling, Remaining: wallet.Minor(3), ResetsAt: 86400000}},
		"daily, no time": {&ledgerpb.Result{Limit: ledgerpb.Limit_LIMIT_DAILY_CEILING, Remaining: three, ResetsAtUnixMillis: -1}, wallet.Result{Limit: wallet.DailyCeiling, Remaining: wallet.Minor(3)}},
		"total":          {&ledgerpb.Result{Limit: ledgerpb.Limit_LIMIT_ACCOUNT_TOTAL, Remaining: three, ResetsAtUnixMillis: 5}, wallet.Result{Limit: wallet.AccountTotal, Remaining: wallet.Minor(3)}},
		"supply":         {&ledgerpb.Result{Limit: ledgerpb.Limit_LIMIT_SUPPLY, Remaining: &ledgerpb.Amount{}}, wallet.Result{Limit: wallet.SupplyTotal}},
		"nothing":        {&ledgerpb.Result{}, wallet.Result{}},
		"later protocol": {&ledgerpb.Result{Limit: 99, Remaining: three}, wallet.Result{}},
		"no amount":      {&ledgerpb.Result{Limit: ledgerpb.Limit_LIMIT_DAILY_CEILING}, wallet.Result{}},
		"would pass":     {&ledgerpb.Result{Limit: ledgerpb.Limit_LIMIT_DAILY_CEILING, Remaining: encodeAmount(new(ledgerpb.Amount), w.Amount)}, wallet.Result{}},
	} {
		c.told.Verdict, c.want.Code = ledgerpb.Verdict_VERDICT_LIMITS_EXCEEDED, wallet.LimitsExceeded
		if got := decodeResult(w, c.told); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// Goal: a lookup's answer is taken whole or not at all. Method: spoiled answers; out is watched.
func TestDecodeLookup(t *testing.T) {
	keys := []wallet.BalanceKey{ronOf(1), ronOf(2)}
	out := make([]wallet.Balance, 2)
	second := wireBalance(6)
	second.Account = "acc_2"
	for name, balances := range map[string][]*ledgerpb.Balance{
		"too few": {wireBalance(5)}, "too many": {wireBalance(5), second, second},
		"swapped": {second, wireBalance(5)}, "nil": {wireBalance(5), nil},
	} {
		if err := DecodeLookup(keys, &ledgerpb.LookupResponse{Balances: balances}, out); !errors.Is(err, ErrMalformed) || out[0].Seq != 0 {
			t.Errorf("%s: %v, %+v", name, err, out[0])
		}
	}
	if err := DecodeLookup(keys, &ledgerpb.LookupResponse{Balances: []*ledgerpb.Balance{wireBalance(5), second}}, out); err != nil || out[1].Seq != 6 {
		t.Errorf("%v, %+v", err, out)
	}
	req := EncodeLookup(keys)
	if len(req.GetKeys()) != 2 || req.GetKeys()[1].GetAccount() != "acc_2" || req.GetKeys()[1].GetAsset() != "ron" {
		t.Errorf("request %v", req)
	}
}

// Goal: a receipt that is fetched later is checked as strictly. Method: spoiled answers.
func TestDecodeReceipt(t *testing.T) {
	for _, op := range []wallet.Op{wallet.Issue, wallet.Transfer, wallet.Burn} {
		w := fullTransfer(op)
		m := &ledgerpb.TransactionResponse{Receipt: applied(w).GetReceipt(), Seq: 7}
		id := wallet.TxID(m.GetReceipt().GetTxid())
		its := func(r *wallet.Receipt) bool { return r.TxID == id }
		r, seq, err := DecodeReceipt(m, its)
		if err != nil || seq != 7 || r.TxID != id || r.From != w.From || r.To != w.To || r.Idem != w.Idem {
			t.Fatalf("%v: %+v, %d, %v", op, r, seq, err)
		}
		for name, spoil := range map[string]func(*ledgerpb.TransactionResponse){
			"no seq":     func(m *ledgerpb.TransactionResponse) { m.Seq = 0 },
			"no receipt": func(m *ledgerpb.TransactionResponse) { m.Receipt = nil },
			"another":    func(m *ledgerpb.TransactionResponse) { m.Receipt.Txid[0]++ },
			"no op":      func(m *ledgerpb.TransactionResponse) { m.Receipt.Op = 0 },
			"no nonce":   func(m *ledgerpb.TransactionResponse) { m.Receipt.Nonce = 0 },
			"no money":   func(m *ledgerpb.TransactionResponse) { m.Receipt.Amount = &ledgerpb.Amount{} },
			"no key":     func(m *ledgerpb.TransactionResponse) { m.Receipt.IdempotencyKey = "" },
			"bad asset":  func(m *ledgerpb.TransactionResponse) { m.Receipt.Asset = "RON" },
			"ends": func(m *ledgerpb.TransactionResponse) {
				m.Receipt.From, m.Receipt.To = m.Receipt.To+"!", m.Receipt.From+"!"
			},
		} {
			m := proto.Clone(m).(*ledgerpb.TransactionResponse)
			spoil(m)
			if r, _, err := DecodeReceipt(m, its); !errors.Is(err, ErrMalformed) || r != (wallet.Receipt{}) {
				t.Errorf("%v, %s: %+v, %v", op, name, r, err)
			}
		}
	}
}

// Goal: any key that a client can have sent comes back from a receipt as it was. Method: rapid
// draws visible ASCII.
func TestKeysInReceipts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[!-~]{1,64}`).Draw(t, "key")
		w := fullTransfer(wallet.Transfer)
		w.Idem = wallet.Must(wallet.IdemKeyFromText(s))
		paid := w.Receipt(wallet.TxID{1}, 1)
		r, _, err := DecodeReceipt(EncodeReceipt(&paid, 7), func(*wallet.Receipt) bool { return true })
		if err != nil || r.Idem.String() != s || r != paid {
			t.Fatalf("%q: %q, %v", s, r.Idem.String(), err)
		}
	})
}

// FuzzDecode: whatever a node answers, nothing panics, and what is taken for a committed payment
// says exactly what was asked.
func FuzzDecode(f *testing.F) {
	w := fullTransfer(wallet.Transfer)
	for _, m := range []proto.Message{
		&ledgerpb.CommitResponse{Results: []*ledgerpb.Result{applied(w)}},
		&ledgerpb.LookupResponse{Balances: []*ledgerpb.Balance{wireBalance(5)}},
		&ledgerpb.TransactionResponse{Receipt: applied(w).GetReceipt(), Seq: 7},
		&ledgerpb.WatchResponse{Seq: 9, Balances: []*ledgerpb.Balance{wireBalance(5)}, Heartbeat: &ledgerpb.Heartbeat{Tick: 1}},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	id := wallet.TxID([]byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var commit ledgerpb.CommitResponse
		out := make([]wallet.Result, 1)
		if proto.Unmarshal(raw, &commit) == nil && DecodeCommit([]wallet.Payment{*w}, &commit, out) == nil && out[0].Code.Outcome() == wallet.Applied {
			if r := &out[0].Receipt; out[0].Seq == 0 || r.Amount != w.Amount || r.From != w.From || r.To != w.To || r.Nonce != w.Nonce || r.Idem != w.Idem || r.TxID.IsZero() {
				t.Fatalf("taken for paid: %+v", out[0])
			}
		}
		var lookup ledgerpb.LookupResponse
		figures := make([]wallet.Balance, 1)
		if proto.Unmarshal(raw, &lookup) == nil && DecodeLookup([]wallet.BalanceKey{ronOf(1)}, &lookup, figures) == nil && figures[0].Key != ronOf(1) {
			t.Fatalf("taken for the balance: %+v", figures[0])
		}
		var tx ledgerpb.TransactionResponse
		if proto.Unmarshal(raw, &tx) == nil {
			if r, seq, err := DecodeReceipt(&tx, func(r *wallet.Receipt) bool { return r.TxID == id }); err == nil {
				if _, err := wallet.VerifyReceipt(r.AppendJSON(nil)); err != nil || seq == 0 {
					t.Fatalf("taken for a receipt: %v", err)
				}
			}
		}
		var watch ledgerpb.WatchResponse
		if proto.Unmarshal(raw, &watch) == nil {
			if c, err := DecodeChange(3, &watch); err == nil && c.Seq < 3 {
				t.Fatalf("taken for a change: %+v", c)
			}
		}
	})
}

// FuzzDecodeTransfer: no request makes the decoder panic, and what it takes for a payment is one, with
// exactly the names, amounts and rules of the message.
func FuzzDecodeTransfer(f *testing.F) {
	odd := *fullTransfer(wallet.Transfer)
	odd.Idem = wallet.Must(wallet.IdemKeyFromText(`"\"`))
	for _, w := range []wallet.Payment{*fullTransfer(wallet.Issue), *fullTransfer(wallet.Transfer), *fullTransfer(wallet.Burn), odd} {
		raw, err := proto.Marshal(EncodeCommit([]wallet.Payment{w, {}}))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var req ledgerpb.CommitRequest
		if proto.Unmarshal(data, &req) != nil {
			return
		}
		for _, p := range req.GetTransfers() {
			got := DecodePayment(p)
			if got == (wallet.Payment{}) {
				continue
			}
			if !got.WellFormed() {
				t.Errorf("%v is taken for %+v", p, got)
			}
			again := EncodeCommit([]wallet.Payment{got}).GetTransfers()[0]
			amount, told := decodeAmount(p.GetAmount())
			daily, _ := decodeAmount(p.GetRules().GetDailyCeiling())
			total, _ := decodeAmount(p.GetRules().GetMaxAccountTotal())
			if again.GetOp() != p.GetOp() || again.GetFrom() != p.GetFrom() || again.GetTo() != p.GetTo() || again.GetAsset() != p.GetAsset() ||
				again.GetNonce() != p.GetNonce() || again.GetIdempotencyKey() != p.GetIdempotencyKey() ||
				string(again.GetFingerprint()) != string(p.GetFingerprint()) || !told || amount != got.Amount ||
				daily != got.Rules.DailyCeiling || total != got.Rules.MaxAccountTotal ||
				p.GetRules().GetNonceStart() != got.Rules.NonceStart || p.GetRules().GetNonceMaxGap() != got.Rules.NonceMaxGap {
				t.Errorf("%v is taken for %v", p, again)
			}
		}
	})
}

// Goal: what one side makes, the other reads as it was. Method: each operation, once through both
// directions of a commit.
func TestThereAndBack(t *testing.T) {
	for _, op := range []wallet.Op{wallet.Issue, wallet.Transfer, wallet.Burn} {
		w := *fullTransfer(op)
		if got := DecodePayment(EncodeCommit([]wallet.Payment{w}).GetTransfers()[0]); got != w {
			t.Errorf("%v: %+v", op, got)
		}
		told := decodeResult(&w, applied(&w))
		out := make([]wallet.Result, 1)
		if err := DecodeCommit([]wallet.Payment{w}, EncodeResults([]wallet.Result{told}), out); err != nil || out[0] != told || told.Code != wallet.OK {
			t.Errorf("%v: %+v, %v", op, out[0], err)
		}
	}
}

// TestVerdicts: a code that is no verdict goes over the wire as unknown, never as more.
func TestVerdicts(t *testing.T) {
	known := 0
	for _, c := range wallet.Codes() {
		if verdicts.encode(c) != ledgerpb.Verdict_VERDICT_UNSPECIFIED {
			known++
		}
	}
	if known != len(ledgerpb.Verdict_name)-1 || len(ops) != len(ledgerpb.Op_name)-1 || len(limits) != len(ledgerpb.Limit_name)-1 {
		t.Errorf("%d codes have a verdict, of %d; %d operations, %d limits", known, len(ledgerpb.Verdict_name)-1, len(ops), len(limits))
	}
	for _, c := range []wallet.Code{wallet.Uncertain, wallet.Internal, 255} {
		if p := EncodeResults([]wallet.Result{{Code: c, Seq: 7, Receipt: wallet.Receipt{Nonce: 3}}}).GetResults()[0]; p.GetVerdict() != 0 || p.GetSeq() != 0 || p.GetReceipt() != nil {
			t.Errorf("%d: %v", c, p)
		}
	}
	if ops.encode(wallet.Read) != 0 || ops.decode(77) != wallet.NoOp {
		t.Error("an op that is no payment has a name")
	}
}

// TestResultsAreCheap: a response of any size takes a bounded number of allocations.
func TestResultsAreCheap(t *testing.T) {
	out := make([]wallet.Result, 200)
	for i := range out {
		w := fullTransfer(wallet.Transfer)
		out[i] = decodeResult(w, applied(w))
	}
	if n := testing.AllocsPerRun(10, func() { EncodeResults(out) }); n > 15 {
		t.Errorf("%v allocations for %d results", n, len(out))
	}
}
