package ledger

// Op names a call to the ledger node in metrics.
type Op uint8

// The calls.
const (
	OpCommit Op = iota
	OpLookup
	OpTransaction
	NumOps
)

// String is the value of the label op.
func (o Op) String() string {
	return [NumOps]string{OpCommit: "commit", OpLookup: "lookup", OpTransaction: "transaction"}[o]
}

// CallOutcome is how a call to the ledger node ended, for metrics.
type CallOutcome uint8

// The outcomes of a call.
const (
	CallOK       CallOutcome = iota // answered; a payment's refusal is an answer
	CallError                       // failed after it may have been sent: its effect is unknown
	CallTimeout                     // as CallError, by deadline
	CallNotSent                     // failed before anything left
	CallRejected                    // the breaker was open
	NumCallOutcomes
)

// String is the value of the label outcome.
func (o CallOutcome) String() string {
	return [NumCallOutcomes]string{
		CallOK: "ok", CallError: "error", CallTimeout: "timeout", CallNotSent: "not_sent", CallRejected: "rejected",
	}[o]
}

// Observer is told of what the package does, so that it needs no metrics library. Its methods
// neither block nor allocate.
type Observer interface {
	Call(op Op, outcome CallOutcome, nanos int64)
	Retry(op Op)
	Batch(transfers int)
}
