// Package host is what our programs need of the machine that they run on, whatever they do: files that
// are read within bounds and replaced as a whole, secrets that nobody else may read, and certificates
// and keys that are read again when their files change (Files). It imports nothing of ours.
package host
