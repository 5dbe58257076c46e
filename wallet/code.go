package wallet

// Code is what became of a request, as a client can see it. It implements error. The zero value
// is Uncertain, so a result that nobody wrote never reads as paid or as refused.
type Code uint8

// The codes, in no order that matters; the table below gives each one's meaning.
const (
	Uncertain Code = iota
	OK
	Replayed
	BadRequest
	Unauthorized
	Forbidden
	LimitsExceeded
	BodyTooLarge
	NotFound
	MethodNotAllowed
	UnsupportedMediaType
	InsufficientFunds
	NonceConflict
	KeyReused
	Busy
	RateLimited
	RequestTimeout
	RetryLater
	UpstreamUnavailable
	Unreadable
	Internal
	numCodes
)

// Pass is no answer: who judges before the ledger does returns it for "go on". One that reached a client
// by mistake would read as INTERNAL_ERROR, whose outcome is unknown, and not as paid.
const Pass Code = 1<<8 - 1

// Outcome is what became of the money. The zero value is Unknown: it is never reported as
// failed and never rolled back.
type Outcome uint8

// The outcomes.
const (
	Unknown Outcome = iota
	Applied
	Refused
)

var outcomes = [...]string{Unknown: "unknown", Applied: "applied", Refused: "refused"} //nolint:gochecknoglobals // a table

// String is the outcome's name on the wire. What is no outcome is unknown.
func (o Outcome) String() string {
	if o > Refused {
		o = Unknown
	}
	return outcomes[o]
}

// codeInfo is one row of CONTRACT §1's table. docs/errors.md is generated from these rows.
type codeInfo struct {
	name      string
	http      int
	retryable bool
	outcome   Outcome // of this attempt
	when      string
}

var codes = [numCodes]codeInfo{ //nolint:gochecknoglobals // a table
	Uncertain:            {"RETRY_LATER", 503, true, Unknown, "the ledger did not answer in time, so the outcome is unknown (details.outcome is unknown): retry with the same key"},
	OK:                   {"OK", 200, false, Applied, "done"},
	Replayed:             {"OK", 200, false, Applied, "done before under this key; the receipt is byte-identical and Idempotency-Replayed says so"},
	BadRequest:           {"BAD_REQUEST", 400, false, Refused, "malformed or invalid request, bad gzip, decompression ratio over the cap"},
	Unauthorized:         {"UNAUTHORIZED", 401, false, Refused, "no token, or one that does not verify, is expired, not yet valid, revoked, for another audience, or carries a caveat that is not understood"},
	Forbidden:            {"FORBIDDEN", 403, false, Refused, "the capability does not cover this action, account, asset or peer"},
	LimitsExceeded:       {"LIMITS_EXCEEDED", 403, false, Refused, "amount over a cap, over the daily ceiling or over the account's total; details.limit says which"},
	BodyTooLarge:         {"LIMITS_EXCEEDED", 413, false, Refused, "body over the cap, before or after decompression"},
	NotFound:             {"NOT_FOUND", 404, false, Refused, "no such route, or no such transaction visible to this capability"},
	MethodNotAllowed:     {"METHOD_NOT_ALLOWED", 405, false, Refused, "the route exists for another method; see Allow"},
	UnsupportedMediaType: {"UNSUPPORTED_MEDIA_TYPE", 415, false, Refused, "content type or content encoding is not served"},
	InsufficientFunds:    {"INSUFFICIENT_FUNDS", 409, false, Refused, "the debited balance is too small; nothing changed"},
	NonceConflict:        {"NONCE_CONFLICT", 409, false, Refused, "the nonce is not above the account's last one, too far above it, or taken by another request; details.reason says which, details.next_nonce is the lowest that will do"},
	KeyReused:            {"IDEMPOTENCY_KEY_REUSED", 422, false, Refused, "the key belongs to another request of this account"},
	Busy:                 {"BUSY", 429, true, Refused, "the work queue or the in-flight cap is full"},
	RateLimited:          {"RATE_LIMITED", 429, true, Refused, "the token bucket is empty; see X-RateLimit-*"},
	RequestTimeout:       {"REQUEST_TIMEOUT", 408, true, Refused, "the request did not arrive in time; nothing was done"},
	RetryLater:           {"RETRY_LATER", 503, true, Refused, "the message says what is in the way (starting, draining, switched off, a ledger that stalls or went back), and nothing was done; or a read asked for a version that the ledger has not reached (details.ledger_seq)"},
	UpstreamUnavailable:  {"UPSTREAM_UNAVAILABLE", 503, true, Refused, "the ledger cannot be asked, or did not answer a read in time; a payment was not sent, a read has found nothing out"},
	Unreadable:           {"UPSTREAM_UNAVAILABLE", 503, true, Refused, "what a read asked for is damaged in the ledger's store and cannot be read at present; it may well exist"},
	Internal:             {"INTERNAL_ERROR", 500, false, Unknown, "a bug of ours; nothing more is said"},
}

func (c Code) info() *codeInfo {
	if c >= numCodes {
		c = Internal
	}
	return &codes[c]
}

// Name is the `code` member of the error body.
func (c Code) Name() string { return c.info().name }

// HTTP is the response status.
func (c Code) HTTP() int { return c.info().http }

// Retryable says whether the same request may succeed later; if so the response carries
// Retry-After.
func (c Code) Retryable() bool { return c.info().retryable }

// Outcome is what the code says of the money in this attempt.
func (c Code) Outcome() Outcome { return c.info().outcome }

// When says in a sentence what the code means.
func (c Code) When() string { return c.info().when }

// Error makes a Code usable as an error; it is the name.
func (c Code) Error() string { return c.Name() }

// Codes lists every code, in table order.
func Codes() []Code {
	all := make([]Code, numCodes)
	for i := range all {
		all[i] = Code(i)
	}
	return all
}
