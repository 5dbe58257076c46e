package main

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
)

// account is one of the pool. While a payment of it is under way it is held, so that its nonces arrive in
// order, and no payment is refused for another one's sake.
type account struct {
	held          sync.Mutex
	name          string
	debits, mints uint64 // nonces spent
}

// pool is every account, and what clients were told of money.
type pool struct {
	accounts       []account
	run            string // tells keys of one run from another's
	payments       atomic.Uint64
	issued, burned atomic.Uint64

	mu    sync.Mutex
	txids [4096]string // of receipts, for reads; a ring
	paid  uint64       // receipts so far
	last  [256]payment // for replays; a ring
	open  []payment    // whose outcome is unknown
}

// funds is what each account is given at first: enough for any run, and not enough to meet a cap.
const funds = 1_000_000_000

// payment is one as it is sent, and sent again.
type payment struct {
	kind   kind
	path   string
	key    string
	body   []byte
	gzip   bool
	amount uint64
}

func newPool(accounts int) *pool {
	p := &pool{accounts: make([]account, accounts), run: strconv.FormatUint(rand.Uint64(), 36)} //nolint:gosec // a name
	for i := range p.accounts {
		p.accounts[i].name = "acc_" + strconv.Itoa(i)
	}
	return p
}

// any is an account at random.
func (p *pool) any() *account { return &p.accounts[rand.IntN(len(p.accounts))] } //nolint:gosec // a workload

// hold is an account at random that nobody holds.
func (p *pool) hold() *account {
	for {
		if a := p.any(); a.held.TryLock() {
			return a
		}
	}
}

// next makes a payment of a, which is held.
func (p *pool) next(k kind, a *account) payment {
	amount := 1 + rand.Uint64N(100) //nolint:gosec // a workload
	return p.payment(k, a, amount)
}

func (p *pool) payment(k kind, a *account, amount uint64) payment {
	out := payment{kind: k, amount: amount, key: p.run + "-" + strconv.FormatUint(p.payments.Add(1), 36)}
	to := p.any()
	for to == a {
		to = p.any()
	}
	switch k {
	case issue:
		a.mints++
		out.path, out.body = "/v1/issue", fmt.Appendf(nil, `{"to":"%s","asset":"ron","amount_minor":"%d","nonce":%d}`, a.name, amount, a.mints)
	case burn:
		a.debits++
		out.path, out.body = "/v1/burn", fmt.Appendf(nil, `{"from":"%s","asset":"ron","amount_minor":"%d","nonce":%d}`, a.name, amount, a.debits)
	default:
		a.debits++
		out.path, out.body = "/v1/transfer", fmt.Appendf(nil, `{"from":"%s","to":"%s","asset":"ron","amount_minor":"%d","nonce":%d}`, a.name, to.name, amount, a.debits)
	}
	if k == gzipped {
		out.body, out.gzip = inflated(out.body), true
	}
	return out
}

// made notes a payment that was acknowledged, once.
func (p *pool) made(m *payment, txid string) {
	if m.kind == issue {
		p.issued.Add(m.amount)
	}
	if m.kind == burn {
		p.burned.Add(m.amount)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.txids[p.paid%uint64(len(p.txids))] = txid
	p.last[p.paid%uint64(len(p.last))] = *m
	p.paid++
}

// lost notes a payment whose outcome is unknown.
func (p *pool) lost(m payment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, m)
}

// maxOpen bounds the payments of unknown outcome: beyond that there is nobody who answers.
const maxOpen = 100_000

func (p *pool) isFull() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open) >= maxOpen
}

// txid is one of a late receipt.
func (p *pool) txid() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.txids[rand.Uint64N(min(p.paid, uint64(len(p.txids))))] //nolint:gosec // a workload
}

// again is a payment that was acknowledged a while ago.
func (p *pool) again() payment {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last[rand.Uint64N(min(p.paid, uint64(len(p.last))))] //nolint:gosec // a workload
}
