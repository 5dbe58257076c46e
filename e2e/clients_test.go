//go:build clients

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// clientTold is what each client of e2e/clients prints: 64-bit nonces as they are, a receipt by its operation,
// and errors by their code.
const clientTold = `issue 1000 9223372036854775807
found 9223372036854775807 true
issue 1000 18446744073709551614
found 18446744073709551614 true
transfer 250 9223372036854775807
INSUFFICIENT_FUNDS
NONCE_CONFLICT 9223372036854775808
balance 1750 9223372036854775807
`

// TestClients: clients that oapi-codegen and openapi-typescript make of docs/openapi.yaml compile, pay, and read
// every number exactly; other libraries mint the tokens that docs/capabilities.md shows. Method: the programs that
// `make clients` builds, run against `dev`.
func TestClients(t *testing.T) {
	d := startDev(t, t.TempDir(), "SVC_WALLET_WALLET_NONCE_MAX_GAP=9223372036854775807")
	env := []string{"WALLET_URL=" + d.env["WALLET_URL"], "CA_FILE=" + d.env["CA_FILE"], "NODE_EXTRA_CA_CERTS=" + d.env["CA_FILE"], "TOKEN=" + d.token}
	built := func(name string) string { return filepath.Join("..", "bin", "clients", name) }
	for name, told := range map[string]string{
		"oapi-codegen":       runClient(t, env, built("pay")),
		"openapi-typescript": runClient(t, env, "node", "clients/ts/out/pay.js"),
	} {
		if told != clientTold {
			t.Errorf("%s told\n%s, not\n%s", name, told, clientTold)
		}
	}
	tokens, _, _, _ := capabilitiesPage(t)
	for name, told := range map[string]string{
		"gopkg.in/macaroon.v2": runClient(t, nil, built("mint")),
		"node:crypto":          runClient(t, nil, "node", "clients/ts/mint.mjs"),
	} {
		if want := strings.Join(tokens, "\n") + "\n"; told != want {
			t.Errorf("%s made\n%s, not\n%s", name, told, want)
		}
	}
	d.stop()
}

// runClient tells what a program printed.
func runClient(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}
