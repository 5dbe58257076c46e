package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"svc-wallet/bench/rig"
)

// load is one run over one rig.
type load struct {
	o       *options
	rig     *rig.Rig
	pool    *pool
	clients []*client
}

// crowd makes it so many clients.
func (l *load) crowd(n int) {
	for len(l.clients) < n {
		l.clients = append(l.clients, &client{rig: l.rig, pool: l.pool})
	}
	for _, c := range l.clients[n:] {
		c.close()
	}
	l.clients = l.clients[:n]
}

// each has every client do what it does, at the same time.
func (l *load) each(do func(i int, c *client) error) error {
	errs := make([]error, len(l.clients))
	var all sync.WaitGroup
	for i, c := range l.clients {
		all.Go(func() { errs[i] = do(i, c) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// fund gives every account money, and has the sidecar know it. It takes all the CPU that there is, so an answer may
// be late and one unknown.
func (l *load) fund(ctx context.Context) error {
	err := l.each(func(i int, c *client) error {
		for n := i; n < len(l.pool.accounts); n += len(l.clients) {
			m := l.pool.payment(issue, &l.pool.accounts[n], funds)
			status, err := c.pay(ctx, m)
			for tries := 0; err == nil && status == http.StatusTooManyRequests && tries < 100; tries++ {
				if err = pause(ctx, 20*time.Millisecond); err == nil {
					status, err = c.pay(ctx, m)
				}
			}
			if err != nil || (status != http.StatusOK && status < http.StatusInternalServerError) {
				return errors.Join(err, fmt.Errorf("funding %s: status %d", l.pool.accounts[n].name, status))
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fundIn)
	defer cancel()
	err = l.clients[0].settle(ctx)
	l.pool.open = nil
	return err
}

// fundIn bounds the settling of what was unknown in the funding.
const fundIn = time.Minute

// run sends requests of a phase for span. In the open loop request n is due n/rate after the beginning,
// whatever became of those before it, and its latency is counted from there; but for a crowd, which is to be
// more than there is room for, from the sending. rec may be nil.
func (l *load) run(ctx context.Context, p *phase, span time.Duration, rec *recorder) error {
	begun := time.Now()
	end := begun.Add(span)
	rate := l.o.rate * p.factor
	var next atomic.Int64
	return l.each(func(_ int, c *client) error {
		for ctx.Err() == nil {
			due := time.Now()
			if !p.closed {
				due = begun.Add(time.Duration(float64(next.Add(1)-1) / rate * float64(time.Second)))
			}
			if !due.Before(end) {
				return nil
			}
			if wait := time.Until(due); wait > 0 && pause(ctx, wait) != nil {
				return ctx.Err()
			}
			if p.crowd > 1 {
				due = time.Now()
			}
			k := p.mix.pick()
			status, err := c.do(ctx, k)
			if rec != nil {
				rec.add(k, status, time.Since(due))
			}
			if err != nil && (status != 0 || l.pool.isFull()) { // an answer that is none of a wallet's, or nobody is there
				return err
			}
		}
		return ctx.Err()
	})
}

// balances is the sum of all balances, as clients read it.
func (l *load) balances(ctx context.Context) (sum uint64, err error) {
	var total atomic.Uint64
	err = l.each(func(i int, c *client) error {
		for n := i; n < len(l.pool.accounts); n += len(l.clients) {
			amount, err := c.amount(ctx, l.pool.accounts[n].name)
			if err != nil {
				return err
			}
			total.Add(amount)
		}
		return nil
	})
	return total.Load(), err
}
