package wallet_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"svc-wallet/wallet"
)

// contractCodes is the table of CONTRACT §1, and below it what is not an error. "money" is what the
// answer says of this attempt.
const contractCodes = `
code                    HTTP  retryable  money    value
BAD_REQUEST             400   no         refused  BadRequest
UNAUTHORIZED            401   no         refused  Unauthorized
FORBIDDEN               403   no         refused  Forbidden
LIMITS_EXCEEDED         403   no         refused  LimitsExceeded
LIMITS_EXCEEDED         413   no         refused  BodyTooLarge
NOT_FOUND               404   no         refused  NotFound
METHOD_NOT_ALLOWED      405   no         refused  MethodNotAllowed
UNSUPPORTED_MEDIA_TYPE  415   no         refused  UnsupportedMediaType
INSUFFICIENT_FUNDS      409   no         refused  InsufficientFunds
NONCE_CONFLICT          409   no         refused  NonceConflict
IDEMPOTENCY_KEY_REUSED  422   no         refused  KeyReused
BUSY                    429   yes        refused  Busy
RATE_LIMITED            429   yes        refused  RateLimited
RETRY_LATER             503   yes        refused  RetryLater
RETRY_LATER             503   yes        unknown  Uncertain
REQUEST_TIMEOUT         408   yes        refused  RequestTimeout
UPSTREAM_UNAVAILABLE    503   yes        refused  UpstreamUnavailable
UPSTREAM_UNAVAILABLE    503   yes        refused  Unreadable
INTERNAL_ERROR          500   no         unknown  Internal
OK                      200   no         applied  OK
OK                      200   no         applied  Replayed
`

var codesByName = map[string]wallet.Code{
	"Uncertain": wallet.Uncertain, "OK": wallet.OK, "Replayed": wallet.Replayed, "BadRequest": wallet.BadRequest,
	"Unauthorized": wallet.Unauthorized, "Forbidden": wallet.Forbidden, "LimitsExceeded": wallet.LimitsExceeded,
	"BodyTooLarge": wallet.BodyTooLarge, "NotFound": wallet.NotFound, "MethodNotAllowed": wallet.MethodNotAllowed,
	"UnsupportedMediaType": wallet.UnsupportedMediaType, "InsufficientFunds": wallet.InsufficientFunds,
	"NonceConflict": wallet.NonceConflict, "KeyReused": wallet.KeyReused, "Busy": wallet.Busy,
	"RateLimited": wallet.RateLimited, "RetryLater": wallet.RetryLater, "RequestTimeout": wallet.RequestTimeout,
	"UpstreamUnavailable": wallet.UpstreamUnavailable, "Unreadable": wallet.Unreadable, "Internal": wallet.Internal,
}

// TestCodes: every code has all cells of its row, and they are the contract's; by comparing with the
// text table above, in which no code may be missing.
func TestCodes(t *testing.T) {
	seen := map[wallet.Code]bool{}
	for _, row := range strings.Split(strings.TrimSpace(contractCodes), "\n")[1:] {
		c, ok := codesByName[strings.Fields(row)[4]]
		if !ok || seen[c] {
			t.Fatalf("no code, or twice: %s", row)
		}
		seen[c] = true
		retryable := map[bool]string{true: "yes", false: "no"}[c.Retryable()]
		got := fmt.Sprintf("%-22s  %d   %-9s  %-7s", c.Name(), c.HTTP(), retryable, c.Outcome())
		if !strings.HasPrefix(row, got+"  ") {
			t.Errorf("the table has %q\n the code is %q", row, got)
		}
		if c.When() == "" || c.Error() != c.Name() {
			t.Errorf("%s: an empty cell", c.Name())
		}
	}
	for _, c := range wallet.Codes() {
		if !seen[c] {
			t.Errorf("code %d (%s) is not in the contract's table", c, c.Name())
		}
	}
}

// TestZeroCode: what nobody wrote is an unknown outcome, and what is no code is our own bug; neither
// reads as paid or as refused.
func TestZeroCode(t *testing.T) {
	var result wallet.Result
	if result.Code != wallet.Uncertain || result.Code.Outcome() != wallet.Unknown || !result.Code.Retryable() {
		t.Errorf("the zero result is %s, %s", result.Code, result.Code.Outcome())
	}
	for _, c := range []wallet.Code{wallet.Internal + 1, 255} {
		if c.Name() != wallet.Internal.Name() || c.HTTP() != 500 || c.Outcome() != wallet.Unknown {
			t.Errorf("code %d is %s", uint8(c), c)
		}
	}
	for o, want := range map[wallet.Outcome]string{wallet.Unknown: "unknown", wallet.Applied: "applied", wallet.Refused: "refused", wallet.Refused + 1: "unknown", 255: "unknown"} {
		if o.String() != want {
			t.Errorf("outcome %d shows as %s", uint8(o), o)
		}
	}
	if slices.Contains(wallet.Codes()[:1], wallet.OK) {
		t.Error("the first code is OK")
	}
}
