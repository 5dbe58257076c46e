// Package wallet is the vocabulary that every other package speaks: accounts, assets,
// amounts, transfers, receipts and the codes that a client can see.
//
// Everything in it is a value. Identifiers are fixed-size arrays rather than strings, so they
// can be compared, used as map keys and kept without ever pointing into a request buffer that
// dies with its handler (docs/decisions/002-identifiers-are-values.md).
//
// Invariant: a value that a Parse function of this package returned is valid; a zero value
// names nothing and permits nothing.
package wallet
