// Package host is what our programs need of the machine that they run on, whatever they do: addresses to
// dial and to listen on (Addr), listeners that silent strangers cannot fill (Limit), files that are read
// within bounds and replaced as a whole, secrets that nobody else may read, certificates and keys that are
// read again when their files change (Files), waits between tries (Backoff), what an operators' HTTP API
// needs (Guard), and text of others as a line may show it (Plain). It imports nothing of ours.
package host
