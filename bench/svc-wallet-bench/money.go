package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// staleness is more than the age that a balance may have (wallet.staleness_window).
const staleness = time.Second

// countIn bounds the count: by then a ledger that works has answered.
const countIn = 10 * time.Minute

// money is the account of a run: what was issued and burned by the receipts that clients got, what the
// balances sum to, and what the check of the whole store says.
type money struct {
	Issued   uint64 `json:"issued"`
	Burned   uint64 `json:"burned"`
	Balances uint64 `json:"balances"`
	Unknown  int    `json:"unknown"` // payments without an answer, settled by their keys
	Payments uint64 `json:"payments_in_store"`
	Faults   int    `json:"faults_in_store"`
	State    int64  `json:"state_in_store"` // bytes
}

// err says that the money does not add up.
func (m *money) err() error {
	switch {
	case m.Balances != m.Issued-m.Burned:
		return fmt.Errorf("money was made or lost: balances sum to %d, issued %d less burned %d is %d", m.Balances, m.Issued, m.Burned, m.Issued-m.Burned)
	case m.Faults > 0:
		return fmt.Errorf("the store has %d faults", m.Faults)
	}
	return nil
}

// amount reads a balance, again where it is shed.
func (c *client) amount(ctx context.Context, account string) (uint64, error) {
	for {
		status, body, err := c.send(ctx, c.get("/v1/balance?asset=ron&account="+account))
		if err != nil || (status != http.StatusOK && status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable) {
			return 0, errors.Join(err, fmt.Errorf("balance of %s: %d %s", account, status, body))
		}
		if status != http.StatusOK {
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				return 0, err
			}
			continue
		}
		var b struct {
			Amount string `json:"amount_minor"`
		}
		if err := json.Unmarshal(body, &b); err != nil {
			return 0, err
		}
		return strconv.ParseUint(b.Amount, 10, 64)
	}
}

// count settles what is unknown, reads all balances, stops the processes and checks the store.
func (l *load) count(ctx context.Context) (m money, err error) {
	ctx, cancel := context.WithTimeout(ctx, countIn)
	defer cancel()
	m.Unknown = len(l.pool.open)
	if err := l.clients[0].settle(ctx); err != nil {
		return m, fmt.Errorf("settle %d payments: %w", m.Unknown, err)
	}
	if err := pause(ctx, staleness); err != nil {
		return m, err
	}
	if m.Balances, err = l.balances(ctx); err != nil {
		return m, err
	}
	m.Issued, m.Burned = l.pool.issued.Load(), l.pool.burned.Load()
	for _, c := range l.clients {
		c.close()
	}
	report, err := l.rig.Verify(ctx)
	if err != nil {
		return m, err
	}
	m.Payments, m.Faults, m.State = report.Payments, report.Faults, report.State
	return m, m.err()
}
