package node_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"svc-wallet/ledger/node"
	"svc-wallet/wallet"
)

// BenchmarkCommit: durable transfers between 1,000 accounts, by how many commit at once and how
// many transfers each brings. Run it on the disk that counts: TMPDIR=/data go test -bench Commit.
func BenchmarkCommit(b *testing.B) {
	for _, callers := range []int{1, 16, 64} {
		for _, size := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("callers=%d/batch=%d", callers, size), func(b *testing.B) {
				e, err := node.OpenPebble(b.TempDir(), node.Options{Now: func() int64 { return time.Now().UnixNano() }})
				if err != nil {
					b.Fatal(err)
				}
				defer func() { _ = e.Close() }()
				p := newPayments(b, e)
				b.ReportAllocs()
				b.ResetTimer()
				p.run(b, e, callers, size)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "transfers/s")
			})
		}
	}
}

// payments makes transfers that all pass.
type payments struct {
	accounts []wallet.Account
	asset    wallet.Asset
	rules    wallet.Rules
	nonces   []atomic.Uint64
	next     atomic.Int64
}

func newPayments(b *testing.B, e node.Engine) *payments {
	b.Helper()
	p := &payments{
		asset: wallet.Must(wallet.ParseAsset("ron")), nonces: make([]atomic.Uint64, 1000),
		rules: wallet.Rules{DailyCeiling: wallet.MaxAmount(), MaxAccountTotal: wallet.MaxAmount(), NonceStart: 1, NonceMaxGap: math.MaxUint64},
	}
	var batch []wallet.Payment
	for i := range p.nonces {
		p.accounts = append(p.accounts, wallet.Must(wallet.ParseAccount(fmt.Sprintf("account-%04d", i))))
		batch = append(batch, wallet.Payment{
			Op: wallet.Issue, To: p.accounts[i], Asset: p.asset, Amount: wallet.Minor(1 << 40), Nonce: 1, Idem: wallet.Must(wallet.ParseIdemKey("first")), Rules: p.rules,
		})
	}
	if err := e.Commit(context.Background(), batch, make([]wallet.Result, len(batch))); err != nil {
		b.Fatal(err)
	}
	return p
}

func (p *payments) run(b *testing.B, e node.Engine, callers, size int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			batch, out := make([]wallet.Payment, size), make([]wallet.Result, size)
			for left.Add(-int64(size)) > -int64(size) {
				from := int(p.next.Add(1)) % len(p.accounts) // nobody else has it before all had
				for i := range batch {
					nonce := p.nonces[from].Add(1)
					batch[i] = wallet.Payment{
						Op: wallet.Transfer, From: p.accounts[from], To: p.accounts[(from+7*i+1)%len(p.accounts)], Asset: p.asset,
						Amount: wallet.Minor(1), Nonce: nonce, Rules: p.rules, Idem: wallet.Must(wallet.ParseIdemKey(fmt.Sprintf("%032d", nonce))),
					}
				}
				if err := e.Commit(context.Background(), batch, out); err != nil {
					b.Error(err)
					return
				}
				for i := range out {
					if out[i].Code != wallet.OK {
						b.Error(out[i].Code)
						return
					}
				}
			}
		})
	}
	running.Wait()
}
