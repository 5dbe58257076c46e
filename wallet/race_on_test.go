//go:build race

package wallet_test

// raceEnabled: the race detector allocates, so allocation tests say nothing under it.
const raceEnabled = true
