package node

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// pebbleOptions are those that a store is made with, and read with.
func pebbleOptions(fs vfs.FS, log pebble.Logger) *pebble.Options {
	o := &pebble.Options{
		FS:                          fs,
		FormatMajorVersion:          pebble.FormatNewest,
		DisableWAL:                  true,
		CacheSize:                   blockCache,
		MaxOpenFiles:                openFiles,
		MemTableSize:                memTable,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       8,    // most of what is compacted is new keys, which are asked for once: filters say no
		L0StopWritesThreshold:       1000, // slow compactions cost reads a little, a stop costs payments
		Logger:                      log,
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most keys asked for are new
	}
	return o
}

// openState opens the state for an engine, which hears of what goes wrong.
func (p *pebbleEngine) openState() (*pebble.DB, error) {
	o := pebbleOptions(p.fs, pebbleLogger{p})
	o.EventListener = &pebble.EventListener{
		BackgroundError: p.background,
		DataCorruption:  func(i pebble.DataCorruptionInfo) { p.damaged(i.Details) }, // by default it ends the process
	}
	o.Experimental.CompactionScheduler = &lateScheduler{pebble.NewConcurrencyLimitSchedulerWithNoPeriodicGrantingForTest(), &p.compacts}
	return pebble.Open(p.state(), o)
}

// readOnly opens the state to look at it. Damage is the error of the read that meets it.
func (f folder) readOnly() (*pebble.DB, error) {
	o := pebbleOptions(f.fs, readLogger{})
	o.ReadOnly = true
	o.EventListener = &pebble.EventListener{DataCorruption: func(pebble.DataCorruptionInfo) {}} // by default it ends the process
	return pebble.Open(f.state(), o)
}

// lateScheduler lets nothing be compacted before Pebble is open: an opening that fails, on a full disk,
// takes the tables from under a compaction that is on its way, which then panics. Its other parts are
// Pebble's own, but for a look every 100 ms, which only matters where several compactions may run at once.
type lateScheduler struct {
	*pebble.ConcurrencyLimitScheduler
	open *atomic.Bool
}

// TrySchedule implements pebble.CompactionScheduler.
func (s *lateScheduler) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	if !s.open.Load() {
		return false, nil
	}
	return s.ConcurrencyLimitScheduler.TrySchedule()
}

// background is told when Pebble could not flush or compact. It would try again, for ever and at
// once, so what is not damage of one table ends the engine: a full disk, say.
func (p *pebbleEngine) background(err error) {
	if pebble.IsCorruptionError(err) {
		p.damaged(err)
		return
	}
	p.fail(fmt.Errorf("node: %s: flush or compaction failed: %s", p.dir, firstLine(err.Error())))
}

// pebbleLogger takes Pebble's last words as the engine's end: Pebble does not expect Fatalf to
// return, and where it does nothing is acknowledged any more. While the store is being opened nothing
// is logged: the refusal says it, in one line.
type pebbleLogger struct{ p *pebbleEngine }

func (l pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	if l.p.opened.Load() {
		l.p.opts.Log.WithField("reason", firstLine(fmt.Sprintf(format, args...))).Error("store_error")
	}
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.p.fail(fmt.Errorf("node: %s: the store failed: %s", l.p.dir, firstLine(fmt.Sprintf(format, args...))))
}

// readLogger is that of a state that is only read.
type readLogger struct{}

func (readLogger) Infof(string, ...any)  {}
func (readLogger) Errorf(string, ...any) {}

// Fatalf is called where Pebble cannot go on, and does not expect to.
func (readLogger) Fatalf(format string, args ...any) {
	panic("node: reading the store failed: " + firstLine(fmt.Sprintf(format, args...)))
}

// firstLine leaves out the stack traces that Pebble's texts go on with.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
