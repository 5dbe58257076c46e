//go:build !race

package filters

const underRace = false
