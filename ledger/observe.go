package ledger

// Method is what is called of the ledger node.
type Method uint8

// The methods.
const (
	MethodCommit Method = iota
	MethodLookup
	MethodTransaction
	NumMethods
)

// String is the value of the label op.
func (m Method) String() string {
	return [NumMethods]string{MethodCommit: "commit", MethodLookup: "lookup", MethodTransaction: "transaction"}[m]
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
	Call(m Method, outcome CallOutcome, nanos int64)
	Retry(m Method)
	Batch(transfers int)
}
