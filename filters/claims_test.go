package filters

import (
	"fmt"
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"svc-wallet/config"
	"svc-wallet/wallet"
)

// client is one request in a bubble of testing/synctest, whose last step waits for the test's
// word.
type client struct {
	x       *Exchange
	verdict chan wallet.Code // what last is to answer; Internal makes it panic
	reply   string           // what last leaves in x.Reply

	stage atomic.Int32 // one of the following
	code  wallet.Code  // once done
}

// Where a client stands.
const (
	stageWaits int32 = iota
	stageAtLast
	stageDone
)

func (c *client) atLast() bool { return c.stage.Load() == stageAtLast }
func (c *client) done() bool   { return c.stage.Load() == stageDone }

// send starts a payment of acc_1 through the chain, and waits until it stands still.
func send(chain Chain, key, asset string, nonce uint64, patience time.Duration) *client {
	return sendUnder(chain, key, asset, nonce, patience, wallet.Rules{})
}

// sendUnder is send under a capability that comes to these rules.
func sendUnder(chain Chain, key, asset string, nonce uint64, patience time.Duration, rules wallet.Rules) *client {
	now := time.Now().UnixNano()
	c := &client{
		x:       &Exchange{Request: Request{Op: wallet.Transfer, Limits: new(config.Limits), Now: now, Deadline: now + int64(patience)}},
		verdict: make(chan wallet.Code),
		reply:   fmt.Sprintf("receipt of %s %s %d at %d", key, asset, nonce, now),
	}
	d := &c.x.Payment
	d.Op = wallet.Transfer
	d.From = wallet.Must(wallet.ParseAccount("acc_1"))
	d.To = wallet.Must(wallet.ParseAccount("acc_2"))
	d.Asset = wallet.Must(wallet.ParseAsset(asset))
	d.Nonce = nonce
	d.Idem = wallet.Must(wallet.ParseIdemKey(key))
	d.Fingerprint, d.Rules = d.Hash(), rules
	go func() {
		defer func() {
			_ = recover()
			c.stage.Store(stageDone)
		}()
		c.code = chain.Do(c.x, c.last)
	}()
	synctest.Wait()
	return c
}

func (c *client) last(x *Exchange) wallet.Code {
	c.stage.Store(stageAtLast)
	code := <-c.verdict
	switch code.Outcome() {
	case wallet.Applied:
		x.Reply, x.Seq = append(x.Reply[:0], c.reply...), 42
	case wallet.Refused:
		x.NextNonce, x.Detail = 77, "because "+c.reply
	case wallet.Unknown:
		if code == wallet.Internal {
			panic("a bug in last")
		}
	}
	return code
}

// finish gives last's answer, and waits until everybody stands still.
func (c *client) finish(code wallet.Code) {
	c.verdict <- code
	synctest.Wait()
}

func (c *client) String() string {
	switch {
	case c.done():
		return fmt.Sprintf("%s %s, %q %q next %d", c.code.Name(), c.code.Outcome(), c.x.Reply, c.x.Detail, c.x.NextNonce)
	case c.atLast():
		return "at last"
	default:
		return "waits"
	}
}

// tableModel is what a claims filter is meant to do, one step at a time and without goroutines.
type tableModel struct {
	chain Chain
	ttl   time.Duration
	// judge says what becomes of one who waited for a claim that ended in code, or that it is
	// to try again.
	judge func(w, first *client, code wallet.Code) (answer wallet.Code, again bool)
	// kept says what an applied claim that is remembered answers.
	kept func(w, first *client) wallet.Code
	late func(w, first *client) wallet.Code

	keys map[string]*keyModel
}

// keyModel is one key's state: at is under way with waiters behind it, or applied.
type keyModel struct {
	at      *client
	waiters []*client
	until   int64 // when an applied one is forgotten
	answer  *client
}

// run drives the filter and its model with the same random steps. mk sends a payment that
// claims the key k as the claimant o.
func (m *tableModel) run(t *rapid.T, mk func(k string, o int, patience time.Duration) *client) {
	m.keys = map[string]*keyModel{"k1": {}, "k2": {}}
	names := rapid.SampledFrom([]string{"k1", "k2"})
	codes := rapid.SampledFrom(wallet.Codes())
	defer func() { // let every goroutine of the bubble end, also when the test fails
		for range 1000 {
			for _, k := range m.keys {
				if k.at != nil && k.at.atLast() {
					k.at.finish(wallet.Uncertain)
				}
				for _, w := range k.waiters {
					if w.atLast() {
						w.finish(wallet.Uncertain)
					}
				}
			}
		}
	}()
	t.Repeat(map[string]func(*rapid.T){
		"send": func(t *rapid.T) {
			name := names.Draw(t, "key")
			patience := time.Duration(rapid.IntRange(1, 5).Draw(t, "patience")) * time.Second
			c := mk(name, rapid.IntRange(1, 3).Draw(t, "claimant"), patience)
			k := m.keys[name]
			switch {
			case k.at != nil:
				k.waiters = append(k.waiters, c)
				m.expect(t, c, "waits")
			case k.answer != nil && c.x.Now < k.until:
				m.expectAnswer(t, c, k.answer, m.kept(c, k.answer))
			default:
				k.at, k.answer = c, nil
				m.expect(t, c, "at last")
			}
		},
		"finish": func(t *rapid.T) {
			k := m.keys[names.Draw(t, "key")]
			if k.at == nil {
				t.Skip("nobody is under way")
			}
			m.settle(t, k, codes.Draw(t, "code"))
		},
		"wait": func(t *rapid.T) {
			time.Sleep(time.Duration(rapid.IntRange(1, 20).Draw(t, "tenths")) * time.Second / 10)
			synctest.Wait()
			m.timeUp(t)
		},
		"": func(t *rapid.T) {
			for _, k := range m.keys {
				for _, w := range k.waiters {
					m.expect(t, w, "waits")
				}
				if k.at != nil {
					m.expect(t, k.at, "at last")
				}
			}
		},
	})
}

// settle ends the claim of k and checks what becomes of those who waited: each gets its answer,
// and of those who try again exactly one, whoever it is, goes on to last.
func (m *tableModel) settle(t *rapid.T, k *keyModel, code wallet.Code) {
	first, waiters := k.at, k.waiters
	k.at, k.waiters = nil, nil
	first.finish(code)
	if code == wallet.Internal {
		code = wallet.Uncertain // that is what the chain settles a panic as
	}
	if code.Outcome() == wallet.Applied && m.ttl > 0 {
		k.answer, k.until = first, first.x.Now+int64(m.ttl)
	}
	for _, w := range waiters {
		answer, again := m.judge(w, first, code)
		switch {
		case !again:
			m.expectAnswer(t, w, first, answer)
		case w.atLast() && k.at == nil:
			k.at = w
		default:
			k.waiters = append(k.waiters, w)
		}
	}
	if k.at == nil && len(k.waiters) > 0 {
		t.Fatalf("after %v nobody of %v goes on", code, k.waiters)
	}
}

func (m *tableModel) timeUp(t *rapid.T) {
	now := time.Now().UnixNano()
	for _, k := range m.keys {
		k.waiters = slices.DeleteFunc(k.waiters, func(w *client) bool {
			if w.x.Deadline > now {
				return false
			}
			m.expectAnswer(t, w, k.at, m.late(w, k.at))
			return true
		})
	}
}

func (m *tableModel) expect(t *rapid.T, c *client, want string) {
	if got := c.String(); got != want {
		t.Fatalf("%s %s %d: %s, wanted: %s", c.x.Payment.Idem, c.x.Payment.Asset, c.x.Payment.Nonce, got, want)
	}
}

// expectAnswer checks c's code and all that comes with it.
func (m *tableModel) expectAnswer(t *rapid.T, c, first *client, code wallet.Code) {
	var reply, detail string
	var next, seq uint64
	switch {
	case code == wallet.Replayed:
		reply, seq = first.reply, 42
	case code == wallet.NonceConflict && c.x.Payment.Idem != first.x.Payment.Idem:
		var want Exchange
		want.conflict(c.x.Payment.Nonce+1, NonceReserved)
		next, detail = want.NextNonce, want.Detail
	case code.Outcome() == wallet.Refused && c.x.Payment.Fingerprint == first.x.Payment.Fingerprint && code == first.code:
		next, detail = 77, "because "+first.reply
	case code == wallet.Busy:
		detail = takenUp
	}
	x := c.x
	if !c.done() || c.code != code || string(x.Reply) != reply || x.Seq != seq || x.Detail != detail || x.NextNonce != next {
		t.Fatalf("%s, wanted %s %q %q next %d", c, code, reply, detail, next)
	}
}

// TestIdempotencyFollowsModel: every interleaving of duplicates, other requests under the same
// key, outcomes, deadlines and expiry gives the answers that the filter's comment promises.
// Method: rapid state machine in a synctest bubble against tableModel.
func TestIdempotencyFollowsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			same := func(a, b *client) bool { return a.x.Payment.Fingerprint == b.x.Payment.Fingerprint }
			alike := func(a, b *client) bool { return a.x.Payment.Rules == b.x.Payment.Rules }
			f := NewIdempotency(2, 100, 10*time.Second)
			m := tableModel{
				chain: Chain{f},
				ttl:   10 * time.Second,
				judge: func(w, first *client, code wallet.Code) (wallet.Code, bool) {
					switch {
					case code.Outcome() == wallet.Applied && same(w, first):
						return wallet.Replayed, false
					case code.Outcome() == wallet.Applied:
						return wallet.KeyReused, false
					case same(w, first) && code.Outcome() == wallet.Unknown:
						return wallet.Uncertain, false
					case same(w, first) && alike(w, first) && !code.Retryable():
						return code, false
					}
					return 0, true
				},
				kept: func(w, first *client) wallet.Code {
					if same(w, first) {
						return wallet.Replayed
					}
					return wallet.KeyReused
				},
				late: func(w, first *client) wallet.Code {
					if same(w, first) {
						return wallet.Uncertain
					}
					return wallet.Busy
				},
			}
			m.run(t, func(k string, o int, patience time.Duration) *client {
				if o == 3 { // the first claimant's request, under another capability
					return sendUnder(m.chain, k, "ron1", 1, patience, wallet.Rules{DailyCeiling: wallet.Minor(100)})
				}
				return send(m.chain, k, fmt.Sprint("ron", o), 1, patience)
			})
		})
	})
}

// TestNonceFollowsModel: as TestIdempotencyFollowsModel, for requests with different keys that
// race for a nonce, and for one key's duplicates that come past the idempotency filter.
func TestNonceFollowsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			m := tableModel{
				chain: Chain{NewNonce(2, 100)},
				judge: func(w, first *client, code wallet.Code) (wallet.Code, bool) {
					if code == wallet.OK && w.x.Payment.Idem != first.x.Payment.Idem {
						return wallet.NonceConflict, false
					}
					return 0, true
				},
				late: func(_, _ *client) wallet.Code { return wallet.Busy },
			}
			nonces := map[string]uint64{"k1": 1<<64 - 1, "k2": 9}
			m.run(t, func(k string, o int, patience time.Duration) *client {
				return send(m.chain, fmt.Sprint("key", o), "ron", nonces[k], patience)
			})
		})
	})
}

// TestDuplicates: of many equal requests at once exactly one is at the ledger at a time. All others
// get its answer, byte for byte, unless that spoke of its own attempt only: then the next one goes
// on. A refusal or an unknown outcome leaves nothing behind. Method: fifty clients in a bubble, for
// each way in which the first can end.
func TestDuplicates(t *testing.T) {
	for _, code := range append(wallet.Codes(), wallet.OK) {
		t.Run(code.Name()+" "+code.Outcome().String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				idem, nonce := NewIdempotency(64, 1000, time.Hour), NewNonce(64, 1000)
				chain := Chain{idem, nonce}
				all := make([]*client, 50)
				for i := range all {
					all[i] = send(chain, "k", "ron", 7, 5*time.Second)
				}
				reached := slices.IndexFunc(all, func(c *client) bool { return c.atLast() })
				if reached != 0 {
					t.Fatalf("client %d reached last", reached)
				}
				all[0].finish(code)
				for i := 1; i < len(all) && code.Outcome() == wallet.Refused && code.Retryable(); i++ {
					next := slices.IndexFunc(all, (*client).atLast)
					if next < 0 {
						t.Fatalf("after %d attempts whose refusal is their own, nobody goes on", i)
					}
					all[next].finish(code)
				}
				want := code
				switch code.Outcome() {
				case wallet.Applied:
					want = wallet.Replayed
				case wallet.Unknown:
					want = wallet.Uncertain
				case wallet.Refused:
				}
				for _, c := range all[1:] {
					if !c.done() || c.code != want || string(c.x.Reply) != string(all[0].x.Reply) || c.x.Detail != all[0].x.Detail || c.x.NextNonce != all[0].x.NextNonce {
						t.Fatalf("a duplicate: %s; the first: %s", c, all[0])
					}
				}
				keeps := 0
				if code.Outcome() == wallet.Applied {
					keeps = 1
				}
				if idem.Len() != keeps || nonce.Len() != 0 || idem.table.held.Load() != 0 || nonce.table.held.Load() != 0 {
					t.Errorf("%d keys, %d nonces, %d and %d under way", idem.Len(), nonce.Len(), idem.table.held.Load(), nonce.table.held.Load())
				}
				retry := send(chain, "k", "ron", 7, 5*time.Second)
				if retry.atLast() == (code.Outcome() == wallet.Applied) {
					t.Errorf("a retry %s", retry)
				}
				if retry.atLast() {
					retry.finish(wallet.OK)
				}
			})
		})
	}
}

// TestDuplicateUnderAnotherCapability: a duplicate that waits is not refused for what the first one's
// capability lacks, nor for the first one's bad luck; it is judged on its own. Method: the first
// request comes with a daily caveat of 100 and ends refused in each possible way while a second one
// under a wide capability, and a third one under the narrow one, wait.
func TestDuplicateUnderAnotherCapability(t *testing.T) {
	narrow, wide := wallet.Rules{DailyCeiling: wallet.Minor(100)}, wallet.Rules{DailyCeiling: wallet.MaxAmount()}
	for _, code := range wallet.Codes() {
		if code.Outcome() != wallet.Refused {
			continue
		}
		t.Run(code.Name(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				chain := Chain{NewIdempotency(1, 10, time.Hour)}
				first := sendUnder(chain, "k", "ron", 7, time.Minute, narrow)
				second := sendUnder(chain, "k", "ron", 7, time.Minute, wide)
				first.finish(code)
				if first.code != code || !second.atLast() {
					t.Fatalf("the first: %s; the second: %s", first, second)
				}
				third := sendUnder(chain, "k", "ron", 7, time.Minute, narrow)
				second.finish(wallet.OK)
				if second.code != wallet.OK || third.code != wallet.Replayed || string(third.x.Reply) != second.reply {
					t.Errorf("the second: %s; the third: %s", second, third)
				}
			})
		})
	}
}

// TestDuplicateIsToldWhatItMayKnow: duplicates under equal rules share a refusal for a limit, but each is
// told of it what its own capability may know. Method: the ledger refuses for the credited account's
// total, and for the day, while one waits who may read that account, and one whose day is shorter.
func TestDuplicateIsToldWhatItMayKnow(t *testing.T) {
	all := patterns("*")
	payer := &Grant{actions: 1 << wallet.Transfer, acts: true, accounts: []patterns{all}, MaxAmount: wallet.MaxAmount(), Daily: wallet.MaxAmount()}
	reader := *payer
	reader.actions |= 1 << wallet.Read
	short := *payer
	short.Daily = wallet.Minor(100)
	limits := &config.Limits{DailyCeiling: wallet.Minor(100)}
	wide := &config.Limits{DailyCeiling: wallet.Minor(200)}
	for _, c := range []struct {
		told        wallet.Result
		grant       *Grant
		limits      *config.Limits
		first, then LimitHit
	}{
		{
			wallet.Result{Code: wallet.LimitsExceeded, Limit: wallet.AccountTotal, Remaining: wallet.Minor(7)},
			&reader, limits,
			LimitHit{Name: LimitTotal},
			LimitHit{Name: LimitTotal, Told: true, Remaining: wallet.Minor(7)},
		},
		{
			wallet.Result{Code: wallet.LimitsExceeded, Limit: wallet.DailyCeiling, Remaining: wallet.Minor(7), ResetsAt: 5},
			&short, wide,
			LimitHit{Name: LimitDaily, Told: true, Remaining: wallet.Minor(7), ResetsAt: 5},
			LimitHit{Name: LimitTokenDaily, Told: true, Remaining: wallet.Minor(7), ResetsAt: 5},
		},
	} {
		f := NewIdempotency(1, 10, time.Hour)
		ask := func(g *Grant, l *config.Limits) *Exchange {
			x := &Exchange{Request: Request{Op: wallet.Transfer, Limits: l, Deadline: int64(time.Hour)}, Findings: Findings{Grant: g}}
			x.Payment = wallet.Payment{
				Op: wallet.Transfer, From: wallet.Must(wallet.ParseAccount("a")), To: wallet.Must(wallet.ParseAccount("b")),
				Asset: wallet.Must(wallet.ParseAsset("ron")), Idem: wallet.Must(wallet.ParseIdemKey("k")),
			}
			return x
		}
		first, then := ask(payer, limits), ask(c.grant, c.limits)
		if code := f.Check(first); code != wallet.Pass {
			t.Fatal(code)
		}
		waited := make(chan wallet.Code)
		go func() { waited <- f.Check(then) }()
		for shard := &f.table.shards[0]; ; runtime.Gosched() {
			shard.mu.Lock()
			waits := shard.byHash[maphash.Comparable(f.table.seed, idemKey{first.Payment.From, first.Payment.Idem})].done != nil
			shard.mu.Unlock()
			if waits {
				break
			}
		}
		Explain(first, &c.told)
		f.Settle(first, wallet.LimitsExceeded)
		if code := <-waited; code != wallet.LimitsExceeded || first.Limit != c.first || then.Limit != c.then || then.Detail == "" {
			t.Errorf("%v: first %+v, then %+v %q; want %+v and %+v", code, first.Limit, then.Limit, then.Detail, c.first, c.then)
		}
	}
}

// TestForget: what is forgotten goes to the ledger again. A payment that was under way is not kept, and
// a duplicate that waited for it gets its receipt all the same.
func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewIdempotency(4, 100, time.Hour)
		chain := Chain{f}
		send(chain, "old", "ron", 1, time.Second).finish(wallet.OK)
		first, second := send(chain, "k", "ron", 2, time.Second), send(chain, "k", "ron", 2, time.Second)
		f.Forget()
		first.finish(wallet.OK)
		if second.code != wallet.Replayed || string(second.x.Reply) != first.reply {
			t.Errorf("the duplicate: %s", second)
		}
		if f.Len() != 0 || f.table.held.Load() != 0 {
			t.Errorf("%d keys are known, %d under way", f.Len(), f.table.held.Load())
		}
		for _, key := range []string{"old", "k"} {
			again := send(chain, key, "ron", 2, time.Second)
			if !again.atLast() {
				t.Errorf("a repeat of %s does not go to the ledger: %s", key, again)
				continue
			}
			again.finish(wallet.OK)
		}
	})
}

// TestReplyIsACopy: what is kept and what is replayed do not change with the memory of the
// exchanges. Method: overwrite the replies of the first and of a replay.
func TestReplyIsACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chain := Chain{NewIdempotency(1, 10, time.Hour)}
		first := send(chain, "k", "ron", 1, time.Second)
		first.finish(wallet.OK)
		for range 3 {
			for i := range first.x.Reply {
				first.x.Reply[i] = '#'
			}
			again := send(chain, "k", "ron", 1, time.Second)
			if string(again.x.Reply) != first.reply || again.x.Seq != 42 {
				t.Fatalf("%s, the receipt was %q", again, first.reply)
			}
			first.x = again.x
		}
	})
}

// TestOnePatience: all waits of an exchange together end at its deadline. Method: a request
// waits for a key that ends refused under another request, then for a nonce.
func TestOnePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chain := Chain{NewIdempotency(1, 10, time.Hour), NewNonce(1, 10)}
		onNonce := send(chain, "k2", "ron", 7, time.Hour)
		onKey := send(chain, "k1", "other", 6, time.Hour)
		begun := time.Now()
		c := send(chain, "k1", "ron", 7, 5*time.Second)
		time.Sleep(4 * time.Second)
		onKey.finish(wallet.InsufficientFunds)
		if c.done() || c.atLast() {
			t.Fatal(c)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !c.done() || c.code != wallet.Busy || time.Since(begun) != 5*time.Second {
			t.Errorf("%s after %v", c, time.Since(begun))
		}
		onNonce.finish(wallet.OK)
		if late := send(chain, "k3", "ron", 7, -time.Second); !late.atLast() {
			t.Errorf("a nonce that nobody holds: %s", late)
		} else if second := send(chain, "k4", "ron", 7, -time.Second); second.code != wallet.Busy {
			t.Errorf("without patience: %s", second)
		} else {
			late.finish(wallet.OK)
		}
	})
}

// TestScopes: the same key of another holder, and the same nonce of another lane, are others.
// Method: an issue to and a transfer from one account, with equal keys and nonces.
func TestScopes(t *testing.T) {
	acc := func(s string) wallet.Account { return wallet.Must(wallet.ParseAccount(s)) }
	x := func(op wallet.Op, from, to, key string, nonce uint64) *Exchange {
		d := wallet.Payment{Op: op, Nonce: nonce, Idem: wallet.Must(wallet.ParseIdemKey(key))}
		if from != "" {
			d.From = acc(from)
		}
		if to != "" {
			d.To = acc(to)
		}
		d.Fingerprint = d.Hash()
		return &Exchange{Request: Request{Op: op}, Findings: Findings{Payment: d}}
	}
	idem, nonce := NewIdempotency(8, 100, time.Hour), NewNonce(8, 100)
	for name, c := range map[string]struct {
		x           *Exchange
		idem, nonce wallet.Code
	}{
		"first":               {x(wallet.Transfer, "a", "b", "k", 1), wallet.Pass, wallet.Pass},
		"another holder":      {x(wallet.Transfer, "b", "a", "k", 1), wallet.Pass, wallet.Pass},
		"issue, another lane": {x(wallet.Issue, "", "c", "k", 1), wallet.Pass, wallet.Pass},
	} {
		if i, n := idem.Check(c.x), nonce.Check(c.x); i != c.idem || n != c.nonce {
			t.Errorf("%s: %v %v", name, i, n)
		}
	}
	if n := nonce.Check(x(wallet.Burn, "c", "", "other", 1)); n != wallet.Pass {
		t.Errorf("the debit lane beside the issue lane: %v", n)
	}
	if i := idem.Check(x(wallet.Burn, "c", "", "k", 1)); i != wallet.Busy {
		t.Errorf("a burn beside an issue on one account shares the key's scope: %v", i)
	}
}

// TestTableBounds: too many under way is Busy, applied ones push out the oldest, refused ones
// push out nobody, and what expires runs dry. Method: a small table of one shard.
func TestTableBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewIdempotency(1, 3, time.Minute)
		chain := Chain{f}
		pay := func(key string, code wallet.Code) {
			send(chain, key, "ron", 1, time.Second).finish(code)
		}
		known := func() (keys []string) {
			for _, c := range f.table.shards[0].byHash {
				keys = append(keys, c.key.key.String())
			}
			s := &f.receipts.shards[0]
			for _, at := range s.byHash {
				p := s.pages[at.page-s.first]
				_, key, _ := strings.Cut(string(p.text[p.records[at.at].start:p.records[at.at].middle]), " ")
				keys = append(keys, key)
			}
			slices.Sort(keys)
			return keys
		}
		expect := func(what string, want ...string) {
			t.Helper()
			if got := known(); !slices.Equal(got, want) || f.Len() != len(want) {
				t.Fatalf("%s: %v, wanted %v", what, got, want)
			}
		}
		var under []*client
		for i := range 3 {
			under = append(under, send(chain, fmt.Sprint("u", i), "ron", 1, time.Second))
		}
		if c := send(chain, "u3", "ron", 1, time.Second); c.code != wallet.Busy {
			t.Fatalf("a fourth under way: %s", c)
		}
		for _, c := range under {
			c.finish(wallet.OK)
		}
		expect("all applied", "u0", "u1", "u2")
		if n := f.table.held.Load(); n != 0 {
			t.Fatalf("%d counted as under way", n)
		}
		for i := range 5 {
			pay(fmt.Sprint("r", i), wallet.InsufficientFunds)
		}
		expect("refusals", "u0", "u1", "u2")
		pay("a", wallet.OK)
		expect("one more", "a", "u1", "u2")
		time.Sleep(time.Minute - 1)
		expect("nearly expired", "a", "u1", "u2")
		if c := send(chain, "a", "ron", 1, time.Second); c.code != wallet.Replayed {
			t.Fatalf("a replay: %s", c)
		}
		time.Sleep(time.Nanosecond)
		if c := send(chain, "a", "other", 1, time.Second); !c.atLast() {
			t.Fatalf("another request with an expired key: %s", c)
		} else {
			expect("claimed anew", "a", "u1", "u2")
			c.finish(wallet.OK)
		}
		expect("two expired ones go with each new one", "a")
		if kept := f.receipts.shards[0].kept; kept != 2 { // the expired a is still in the list
			t.Fatalf("%d in the list", kept)
		}
		pay("b", wallet.OK)
		expect("the expired a goes, not the new one", "a", "b")
		pay("c", wallet.OK)
		pay("d", wallet.OK)
		expect("and so on", "b", "c", "d")
	})
	if got := NewIdempotency(1, 0, time.Minute).Check(&Exchange{}); got != wallet.Busy {
		t.Errorf("a table without room: %v", got)
	}
}

// TestShards: the count is rounded up to a power of two, and keys spread over all of them.
// Method: sizes, then a thousand nonces.
func TestShards(t *testing.T) {
	for asked, want := range map[int]int{-1: 1, 0: 1, 1: 1, 2: 2, 3: 4, 64: 64, 65: 128, 1000: 1024, 1024: 1024} {
		if got := len(newClaims[int, int](asked, 10).shards); got != want {
			t.Errorf("%d shards for %d", got, asked)
		}
	}
	f := NewNonce(16, 1000)
	for i := range 1000 {
		f.Check(&Exchange{Findings: Findings{Payment: wallet.Payment{Nonce: uint64(i)}}})
	}
	for i := range f.table.shards {
		if n := len(f.table.shards[i].byHash); n < 20 || n > 150 {
			t.Errorf("shard %d of 16 has %d of 1000", i, n)
		}
	}
}

// TestNonceConflict: the loser of a race for a nonce is told the next one. Method: one such race.
func TestNonceConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewNonce(1, 10)
		first := send(Chain{f}, "k1", "ron", 7, time.Second)
		second := send(Chain{f}, "k2", "ron", 7, time.Second)
		first.finish(wallet.OK)
		if second.code != wallet.NonceConflict || second.x.NextNonce != 8 {
			t.Errorf("%s", second)
		}
	})
}

// books is a ledger for TestEdgeIsNeverWrong: it knows keys and nonces, and now and then keeps
// quiet about what it did.
type books struct {
	mu    sync.Mutex
	rng   *rand.Rand
	byKey map[idemKey]entry
	last  map[wallet.Account]uint64
}

type entry struct {
	fingerprint [32]byte
	reply       string
}

func (b *books) commit(x *Exchange) (code wallet.Code) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := &x.Payment
	key := idemKey{d.Holder(), d.Idem}
	mood := b.rng.IntN(10)
	if mood == 0 {
		return wallet.Uncertain // before anything was done
	}
	if mood == 1 {
		return wallet.Busy
	}
	e, known := b.byKey[key]
	switch {
	case known && e.fingerprint != d.Fingerprint:
		return wallet.KeyReused
	case known:
		code = wallet.Replayed
	case d.Nonce <= b.last[key.holder]:
		x.NextNonce = b.last[key.holder] + 1
		return wallet.NonceConflict
	case mood == 2:
		return wallet.InsufficientFunds
	default:
		e = entry{d.Fingerprint, fmt.Sprintf("receipt %d of %s %s %d", len(b.byKey), key.holder, key.key, d.Nonce)}
		b.byKey[key], b.last[key.holder] = e, d.Nonce
		code = wallet.OK
	}
	if mood == 3 {
		return wallet.Uncertain // after it was applied
	}
	x.Reply = append(x.Reply[:0], e.reply...)
	return code
}

// TestEdgeIsNeverWrong: two sidecars before one ledger, forgetful and full of duplicates, never
// give a final refusal to a payment that was applied, nor a receipt to one that was not, nor
// another receipt than the ledger's. Method: clients that retry until they have a final answer,
// over few keys and nonces, with real goroutines; then the books are compared with the answers.
func TestEdgeIsNeverWrong(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ledger := &books{rng: rand.New(rand.NewPCG(seed, 0)), byKey: map[idemKey]entry{}, last: map[wallet.Account]uint64{}}
	type answer struct {
		d     wallet.Payment
		code  wallet.Code
		reply string
	}
	var (
		mu      sync.Mutex
		answers []answer
		wg      sync.WaitGroup
	)
	edge := func() Chain { return Chain{NewIdempotency(4, 40, time.Hour), NewNonce(4, 40)} }
	edges := [2]Chain{edge(), edge()}
	for g := range 12 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(g)+1))
			x := &Exchange{}
			for i := range 600 {
				d := wallet.Payment{Op: wallet.Transfer, Nonce: uint64(1 + i/6 + rng.IntN(3))}
				d.From = wallet.Must(wallet.ParseAccount(fmt.Sprint("acc_", rng.IntN(2))))
				d.Idem = wallet.Must(wallet.ParseIdemKey(fmt.Sprint("k", i/6+rng.IntN(2))))
				d.Fingerprint = d.Hash()
				code := wallet.Busy
				for code.Retryable() {
					x.Reset()
					x.Payment, x.Limits, x.Now, x.Deadline = d, new(config.Limits), 1, 1+int64(time.Minute)
					code = edges[rng.IntN(2)].Do(x, ledger.commit)
				}
				mu.Lock()
				answers = append(answers, answer{d, code, string(x.Reply)})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	seen := map[wallet.Code]int{}
	for _, a := range answers {
		seen[a.code]++
		e, known := ledger.byKey[idemKey{a.d.Holder(), a.d.Idem}]
		applied := known && e.fingerprint == a.d.Fingerprint
		switch a.code {
		case wallet.OK, wallet.Replayed:
			if !applied || a.reply != e.reply {
				t.Errorf("%v with %q, the books have %q", a.code, a.reply, e.reply)
			}
		case wallet.NonceConflict:
			if applied {
				t.Errorf("%v of an applied payment: %q", a.code, e.reply)
			}
		case wallet.KeyReused:
			if applied || !known {
				t.Errorf("%v, the books have %q", a.code, e.reply)
			}
		case wallet.InsufficientFunds: // of that attempt: a duplicate may have been luckier
		default:
			t.Errorf("%v is final", a.code)
		}
	}
	for _, want := range []wallet.Code{wallet.OK, wallet.Replayed, wallet.NonceConflict, wallet.KeyReused, wallet.InsufficientFunds} {
		if seen[want] == 0 {
			t.Errorf("no %v was seen, so the test proves nothing of it", want)
		}
	}
	t.Log(slices.Sorted(maps.Keys(seen)), seen)
}
