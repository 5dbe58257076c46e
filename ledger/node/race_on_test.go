//go:build race

package node

// underRace says that everything takes ten times as long.
const underRace = true
