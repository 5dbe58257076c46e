package filters

import (
	"strings"
	"testing"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// spy is a filter that writes down what is asked of it. "settler" ones also write down how they
// were settled.
type spy struct {
	name   string
	code   wallet.Code
	panics bool
	log    *[]string
}

func (s spy) Check(*Exchange) wallet.Code {
	*s.log = append(*s.log, "check "+s.name)
	if s.panics {
		panic("spy")
	}
	return s.code
}

type settlingSpy struct{ spy }

func (s settlingSpy) Settle(_ *Exchange, code wallet.Code) {
	*s.log = append(*s.log, "settle "+s.name+" "+code.Outcome().String()+" "+code.Name())
}

// TestChain: filters run in order, the first answer ends the run, and exactly the settlers whose
// Check returned OK are settled, in reverse, with the answer, or as unknown where something
// panicked. Method: spies, and a script of what they must see.
func TestChain(t *testing.T) {
	const last = "last"
	for _, c := range []struct {
		name, at string // where the run ends
		code     wallet.Code
		panics   bool
		want     string
	}{
		{"applied", last, wallet.OK, false, "check a, check b, check c, check d, last, settle d applied OK, settle b applied OK"},
		{"replayed by the ledger", last, wallet.Replayed, false, "check a, check b, check c, check d, last, settle d applied OK, settle b applied OK"},
		{"refused by the ledger", last, wallet.InsufficientFunds, false, "check a, check b, check c, check d, last, settle d refused INSUFFICIENT_FUNDS, settle b refused INSUFFICIENT_FUNDS"},
		{"unknown", last, wallet.Uncertain, false, "check a, check b, check c, check d, last, settle d unknown RETRY_LATER, settle b unknown RETRY_LATER"},
		{"panic in last", last, wallet.OK, true, "check a, check b, check c, check d, last, settle d unknown RETRY_LATER, settle b unknown RETRY_LATER"},
		{"first filter refuses", "a", wallet.Busy, false, "check a"},
		{"a settler refuses", "b", wallet.Busy, false, "check a, check b"},
		{"after a settler", "c", wallet.Forbidden, false, "check a, check b, check c, settle b refused FORBIDDEN"},
		{"a replay ends the run", "d", wallet.Replayed, false, "check a, check b, check c, check d, settle b applied OK"},
		{"a filter does not know", "d", wallet.Uncertain, false, "check a, check b, check c, check d, settle b unknown RETRY_LATER"},
		{"panic in a filter", "c", wallet.OK, true, "check a, check b, check c, settle b unknown RETRY_LATER"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log []string
			mk := func(name string) spy {
				s := spy{name: name, code: wallet.Pass, log: &log}
				if name == c.at {
					s.code, s.panics = c.code, c.panics
				}
				return s
			}
			chain := Chain{mk("a"), settlingSpy{mk("b")}, mk("c"), settlingSpy{mk("d")}}
			end := mk(last)
			if end.code == wallet.Pass {
				end.code = wallet.OK
			}
			code, paniced := runChain(chain, &log, end)
			if got := strings.Join(log, ", "); got != c.want {
				t.Errorf("ran    %s\nwanted %s", got, c.want)
			}
			if paniced != c.panics || !paniced && code != c.code {
				t.Errorf("code %v, panic %v; wanted %v, %v", code, paniced, c.code, c.panics)
			}
		})
	}
}

func runChain(chain Chain, log *[]string, last spy) (code wallet.Code, paniced bool) {
	defer func() { paniced = recover() != nil }()
	return chain.Do(&Exchange{Request: Request{Limits: new(config.Limits)}}, func(*Exchange) wallet.Code {
		*log = append(*log, "last")
		if last.panics {
			panic("last")
		}
		return last.code
	}), false
}

// TestEmptyChain: without filters the answer is last's. Method: one call.
func TestEmptyChain(t *testing.T) {
	if code := (Chain{}).Do(&Exchange{Request: Request{Limits: new(config.Limits)}}, func(*Exchange) wallet.Code { return wallet.NotFound }); code != wallet.NotFound {
		t.Error(code)
	}
}

// TestWhatFiltersDo: only those that take something settle, and those of limits know shadow limits. Method:
// a table.
func TestWhatFiltersDo(t *testing.T) {
	for _, c := range []struct {
		f                Filter
		settles, shadows bool
	}{
		{Ready{}, false, false},
		{Switch{}, false, false},
		{SwitchedOff{}, false, false},
		{NewInFlight(), true, true},
		{NewAuth(nil, 1, 1), false, true},
		{NewRate(), false, true},
		{NewSubjectRate(1), false, true},
		{newPayload(), false, true},
		{Scope{}, false, false},
		{Caps{}, false, true},
		{NewIdempotency(1, 1, 1), true, false},
		{NewNonce(1, 1), true, false},
	} {
		_, settles := c.f.(Settler)
		_, shadows := c.f.(Shadower)
		if settles != c.settles || shadows != c.shadows {
			t.Errorf("%T: settles %v, shadows %v", c.f, settles, shadows)
		}
	}
}

// TestReset: an exchange that is used again holds nothing of its last use but Reply's memory.
// Method: fill, reset, compare with a fresh one.
func TestReset(t *testing.T) {
	x := Exchange{Request: Request{Op: wallet.Transfer, Token: []byte("secret")}, Findings: Findings{inPlay: 3}, Answer: Answer{Reply: make([]byte, 100, 128), Seq: 7}}
	x.idem = new(claim[idemKey, idemOwner])
	x.Reset()
	if len(x.Reply) != 0 || cap(x.Reply) != 128 {
		t.Errorf("Reply has length %d and capacity %d", len(x.Reply), cap(x.Reply))
	}
	if x.Op != wallet.NoOp || x.Token != nil || x.Seq != 0 || x.inPlay != 0 || x.idem != nil {
		t.Errorf("something is left: %+v", x)
	}
}

// TestReady: payments wait until Writable says so, and the zero value never does. Method: the
// three cases.
func TestReady(t *testing.T) {
	for name, c := range map[string]struct {
		f    Ready
		want wallet.Code
	}{
		"zero value":   {Ready{}, wallet.RetryLater},
		"not writable": {Ready{func() bool { return false }}, wallet.RetryLater},
		"writable":     {Ready{func() bool { return true }}, wallet.Pass},
	} {
		if got := c.f.Check(&Exchange{Request: Request{Op: wallet.Transfer}}); got != c.want {
			t.Errorf("%s: %v, wanted %v", name, got, c.want)
		}
	}
}
