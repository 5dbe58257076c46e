package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/valyala/fasthttp"
)

// answer is a peer of svc-wallet's: a handler that answers each request with a constant, or one that makes each
// payment a transaction of PostgreSQL's, the usual way.
func answer(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("answer", flag.ContinueOnError)
	pair := fs.String("tls", "", "FILE.crt and FILE.key")
	dsn := fs.String("postgres", "", "where payments go")
	if err := fs.Parse(args); err != nil {
		return err
	}
	handler := constant
	if *dsn != "" {
		db, err := connect(ctx, *dsn)
		if err != nil {
			return err
		}
		defer db.Close()
		handler = func(c *fasthttp.RequestCtx) { transact(ctx, db, c) }
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // is closed with the server
	if err != nil {
		return err
	}
	addr := l.Addr().String()
	if *pair != "" {
		cert, err := tls.LoadX509KeyPair(*pair+".crt", *pair+".key")
		if err != nil {
			return err
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	}
	server := &fasthttp.Server{Handler: handler}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	fmt.Printf("{\"addr\":%q}\n", addr)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		_ = l.Close() // the load has ended
		return nil
	}
}

// constant answers as a wallet does, of the same length.
func constant(c *fasthttp.RequestCtx) {
	head := &c.Response.Header
	head.SetContentType("application/json")
	head.Set("Cache-Control", "no-store")
	head.Set("X-Corr-ID", "01KB2M8N5CX7T3G4HJ6QW9RZVE")
	head.Set("X-Ledger-Seq", "123456")
	if c.IsGet() {
		c.Response.SetBodyString(`{"account":"acc_1","asset":"ron","amount_minor":"1000000","as_of":"2026-11-27T00:00:00.000Z","stale_ms":12,"nonce":7}`)
		return
	}
	c.Response.SetBodyString(`{"txid":"01KB2M8N5CX7T3G4HJ6QW9RZVE","op":"transfer","from":"acc_1","to":"acc_2","asset":"ron","amount_minor":"1","nonce":7,"idem":"k-1","seq":123456,"ts_commit":"2026-11-27T00:00:00.000Z","receipt_hash":"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}`)
}

// connect opens a pool and makes the tables.
func connect(ctx context.Context, dsn string) (*pgxpool.Pool, error) {
	db, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return nil, err
	}
	_, err = db.Exec(ctx, `
CREATE TABLE accounts (name text PRIMARY KEY, amount numeric(39) NOT NULL CHECK (amount >= 0), nonce bigint NOT NULL);
CREATE TABLE payments (payer text NOT NULL, key text NOT NULL, txid bigint GENERATED ALWAYS AS IDENTITY,
  request bytea NOT NULL, receipt text NOT NULL, PRIMARY KEY (payer, key))`)
	return db, err
}

// transact makes a payment: it locks the accounts in the order of their names, so that no two wait for each other.
func transact(ctx context.Context, db *pgxpool.Pool, c *fasthttp.RequestCtx) {
	var p struct {
		From   string `json:"from"`
		To     string `json:"to"`
		Amount string `json:"amount_minor"`
		Nonce  int64  `json:"nonce"`
	}
	if err := json.Unmarshal(c.PostBody(), &p); err != nil {
		c.Error(err.Error(), 400)
		return
	}
	request := sha256.Sum256(c.PostBody())
	key := string(c.Request.Header.Peek("Idempotency-Key"))
	payer := p.From
	if payer == "" {
		payer = p.To
	}
	receipt := ""
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		var before []byte
		err := tx.QueryRow(ctx, `SELECT request, receipt FROM payments WHERE payer = $1 AND key = $2`, payer, key).Scan(&before, &receipt)
		if err == nil && string(before) == string(request[:]) {
			return nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return errors.Join(err, errors.New("the key is another payment's"))
		}
		for _, name := range inOrder(p.From, p.To) {
			if _, err := tx.Exec(ctx, `INSERT INTO accounts VALUES ($1, 0, 0) ON CONFLICT DO NOTHING`, name); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `SELECT FROM accounts WHERE name = $1 FOR UPDATE`, name); err != nil {
				return err
			}
		}
		if p.From != "" {
			tag, err := tx.Exec(ctx, `UPDATE accounts SET amount = amount - $2::numeric, nonce = $3 WHERE name = $1 AND amount >= $2::numeric AND nonce < $3`, p.From, p.Amount, p.Nonce)
			if err != nil || tag.RowsAffected() != 1 {
				return errors.Join(err, errors.New("no funds, or a nonce that was spent"))
			}
		}
		if _, err := tx.Exec(ctx, `UPDATE accounts SET amount = amount + $2::numeric WHERE name = $1`, p.To, p.Amount); err != nil {
			return err
		}
		receipt = fmt.Sprintf(`{"txid":"%x","from":%q,"to":%q,"asset":"ron","amount_minor":%q,"nonce":%d}`, request[:13], p.From, p.To, p.Amount, p.Nonce)
		_, err = tx.Exec(ctx, `INSERT INTO payments (payer, key, request, receipt) VALUES ($1, $2, $3, $4)`, payer, key, request[:], receipt)
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "payment:", err)
		c.Error(strconv.Quote(err.Error()), 409)
		return
	}
	c.Response.Header.SetContentType("application/json")
	c.Response.SetBodyString(receipt)
}

// inOrder is the names that are there, in the order of all locks.
func inOrder(names ...string) (in []string) {
	for _, name := range names {
		if name != "" {
			in = append(in, name)
		}
	}
	slices.Sort(in)
	return in
}
