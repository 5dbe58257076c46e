// Command pay uses the client that oapi-codegen makes of docs/openapi.yaml, and prints what it got.
package main

import (
	"clients/wallet"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net/http"
	"os"
)

func main() {
	ca, err := os.ReadFile(os.Getenv("CA_FILE"))
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client, err := wallet.NewClientWithResponses(os.Getenv("WALLET_URL"),
		wallet.WithHTTPClient(&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}),
		wallet.WithRequestEditorFn(func(_ context.Context, r *http.Request) error {
			r.Header.Set("Authorization", "Bearer "+os.Getenv("TOKEN"))
			return nil
		}))
	if err != nil {
		log.Fatal(err)
	}
	if err := pay(context.Background(), client); err != nil {
		log.Fatal(err)
	}
}

func pay(ctx context.Context, client *wallet.ClientWithResponses) error {
	for i, nonce := range []wallet.Nonce{1<<63 - 1, 1<<64 - 2} {
		key := fmt.Sprint("go-", i)
		a, err := client.IssueWithResponse(ctx, &wallet.IssueParams{IdempotencyKey: key},
			wallet.IssueRequest{To: "go", Asset: "ron", AmountMinor: "1000", Nonce: nonce})
		if err != nil {
			return err
		}
		if a.JSON200 == nil {
			return fmt.Errorf("issue: %s", a.Body)
		}
		fmt.Println(a.JSON200.Op, a.JSON200.AmountMinor, a.JSON200.Nonce)
		found, err := client.FindTransactionWithResponse(ctx, &wallet.FindTransactionParams{Account: "go", Idem: key})
		if err != nil {
			return err
		}
		receipt, err := found.JSON200.ValueByDiscriminator()
		if err != nil {
			return err
		}
		switch r := receipt.(type) {
		case wallet.IssueReceipt:
			fmt.Println("found", r.Nonce, r == *a.JSON200)
		default:
			return fmt.Errorf("found a %T", r)
		}
	}
	for _, t := range []wallet.TransferRequest{
		{From: "go", To: "bob", Asset: "ron", AmountMinor: "250", Nonce: 1<<63 - 1},
		{From: "go", To: "bob", Asset: "ron", AmountMinor: "9999", Nonce: 1<<64 - 3},
		{From: "go", To: "bob", Asset: "ron", AmountMinor: "1", Nonce: 7},
	} {
		a, err := client.TransferWithResponse(ctx, &wallet.TransferParams{IdempotencyKey: fmt.Sprint("go-pays-", t.AmountMinor)}, t)
		if err != nil {
			return err
		}
		if err := tell(a); err != nil {
			return err
		}
	}
	b, err := client.GetBalanceWithResponse(ctx, &wallet.GetBalanceParams{Account: "go", Asset: "ron"})
	if err != nil {
		return err
	}
	fmt.Println("balance", b.JSON200.AmountMinor, b.JSON200.Nonce)
	return nil
}

// tell shows what became of a transfer, by the code where it was refused.
func tell(a *wallet.TransferResponse) error {
	switch {
	case a.JSON200 != nil:
		fmt.Println(a.JSON200.Op, a.JSON200.AmountMinor, a.JSON200.Nonce)
	case a.JSON409 != nil:
		conflict, err := a.JSON409.ValueByDiscriminator()
		if err != nil {
			return err
		}
		switch c := conflict.(type) {
		case wallet.InsufficientFunds:
			fmt.Println(c.Code)
		case wallet.NonceConflict:
			fmt.Println(c.Code, *c.Details.NextNonce)
		}
	default:
		return fmt.Errorf("transfer: %s", a.Body)
	}
	return nil
}
