package contract

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"svc-wallet/wallet"
)

// A script is one case, a line a step; # starts a comment:
//
//	rules daily=100 total=max start=1 gap=10    from here on; what is left out stays
//	issue to=alice ron 100 nonce=1 key=k1 -> ok
//	pay from=alice to=bob ron 30 nonce=1 key=k2 -> nonce_conflict next=7
//	burn from=alice ron 1 nonce=2 key=k3 gap=1 -> ok   rules of one line; none is no rules at all
//	batch … end                                        the lines between are one call
//	balance alice ron = 70 nonce=1
//	advance 24h                                        the ledger's clock, may be negative
//
// Amounts are decimal or max, which is 2^128-1. After every call the model agrees with each
// result, each balance, and money is conserved.
type script struct {
	t     *testing.T
	f     Fixture
	names names
	model *model
	rules wallet.Rules
	line  int
	batch []wallet.Payment
	wants []string
	open  bool // in a batch
}

func runScript(t *testing.T, f Fixture, text string) {
	if f.Clock == nil && strings.Contains(text, "\nadvance ") {
		t.Skip("needs a clock that can be moved")
	}
	s := &script{t: t, f: f, names: newNames(), model: newModel(), rules: generous()}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		if s.line = i + 1; strings.TrimSpace(line) != "" {
			s.step(line)
		}
	}
	if s.open {
		s.fail("the batch has no end")
	}
}

func (s *script) fail(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("line %d: %s", s.line, fmt.Sprintf(format, args...))
}

// Fatalf makes the model's complaints name the line.
func (s *script) Fatalf(format string, args ...any) {
	s.t.Helper()
	s.fail(format, args...)
}

func (s *script) step(line string) {
	words := strings.Fields(line)
	switch words[0] {
	case "rules":
		s.setRules(&s.rules, words[1:])
	case "batch":
		s.open = true
	case "end":
		s.open = false
		s.send()
	case "balance":
		s.balance(words[1:])
	case "advance":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			s.fail("%v", err)
		}
		s.f.Clock.Advance(d)
	default:
		call, want, ok := strings.Cut(line, "->")
		if !ok {
			s.fail("no expectation")
		}
		s.batch = append(s.batch, s.transfer(strings.Fields(call)))
		s.wants = append(s.wants, strings.Join(strings.Fields(want), " "))
		if !s.open {
			s.send()
		}
	}
}

func (s *script) transfer(words []string) wallet.Payment {
	t := wallet.Payment{Rules: s.rules}
	ops := map[string]wallet.Op{"issue": wallet.Issue, "pay": wallet.Transfer, "burn": wallet.Burn, "read": wallet.Read, "nothing": wallet.NoOp}
	op, ok := ops[words[0]]
	if !ok {
		s.fail("no such step: %s", words[0])
	}
	t.Op = op
	var rules []string
	for _, w := range words[1:] {
		name, value, named := strings.Cut(w, "=")
		switch {
		case w == "none":
			rules = append(rules, w)
		case !named && t.Asset.IsZero() && w[0] >= 'a' && w != "max":
			t.Asset = s.names.asset(w)
		case !named:
			t.Amount = s.amount(w)
		case name == "from":
			t.From = s.names.account(value)
		case name == "to":
			t.To = s.names.account(value)
		case name == "nonce":
			t.Nonce = s.number(value)
		case name == "key":
			t.Idem = s.names.key(value)
		default:
			rules = append(rules, w)
		}
	}
	s.setRules(&t.Rules, rules)
	return sign(t)
}

func (s *script) setRules(r *wallet.Rules, words []string) {
	for _, w := range words {
		name, value, _ := strings.Cut(w, "=")
		switch name {
		case "daily":
			r.DailyCeiling = s.amount(value)
		case "total":
			r.MaxAccountTotal = s.amount(value)
		case "start":
			r.NonceStart = s.number(value)
		case "gap":
			r.NonceMaxGap = s.number(value)
		case "none":
			*r = wallet.Rules{}
		default:
			s.fail("no such rule: %s", w)
		}
	}
}

func (s *script) amount(text string) wallet.Amount {
	if text == "max" {
		return wallet.MaxAmount()
	}
	a, err := wallet.ParseAmount(text)
	if err != nil {
		s.fail("%v", err)
	}
	return a
}

func (s *script) number(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		s.fail("%v", err)
	}
	return n
}

// send commits the batch and compares each result with the line's expectation and the model.
func (s *script) send() {
	millis := s.model.millis
	if s.f.Clock != nil {
		millis = s.f.Clock.Now() / 1e6
	}
	out := commit(s, s.f.Ledger, s.batch...)
	for i := range out {
		got := strings.ToLower(codeName(out[i].Code))
		if out[i].NextNonce > 0 {
			got += fmt.Sprintf(" next=%d", out[i].NextNonce)
		}
		if got != s.wants[i] {
			s.fail("%d of the batch: %q, want %q", i+1, got, s.wants[i])
		}
		if out[i].Code == wallet.OK && s.f.Clock == nil {
			millis = out[i].Receipt.Millis
		}
		s.model.step(s, &s.batch[i], &out[i], millis)
	}
	s.batch, s.wants = nil, nil
	s.model.check(s, s.f.Ledger)
}

// balance is `ACCOUNT ASSET = AMOUNT [nonce=N]`.
func (s *script) balance(words []string) {
	if len(words) < 4 || words[2] != "=" {
		s.fail("balance ACCOUNT ASSET = AMOUNT [nonce=N]")
	}
	got := lookup(s, s.f.Ledger, s.names.balance(words[0], words[1]))[0]
	if want := s.amount(words[3]); got.Amount != want {
		s.fail("balance is %s, want %s", got.Amount, want)
	}
	if len(words) == 5 && words[4] != fmt.Sprintf("nonce=%d", got.Nonce) {
		s.fail("nonce is %d, want %s", got.Nonce, words[4])
	}
}
