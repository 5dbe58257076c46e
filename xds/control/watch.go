package control

import (
	"context"
	"errors"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watch reloads when files change, until ctx ends. Folders are watched, not files: whoever replaces
// a file, an editor or Kubernetes, makes another one of the same name. A reading now and then finds
// what no event told of, such as a change behind a link or on a network file system.
func (p *Plane) watch(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	var events <-chan fsnotify.Event
	var failures <-chan error
	if err != nil {
		p.log.WithError(err).Warn("watch_by_polling")
		watcher = nil
	} else {
		defer watcher.Close() //nolint:errcheck // it only reads
		events, failures = watcher.Events, watcher.Errors
	}
	p.watchFolder(watcher)
	p.Reload() // what changed since New told nobody
	poll := time.NewTicker(p.timing.poll)
	defer poll.Stop()
	settled, longest := stoppedTimer(), stoppedTimer()
	defer settled.Stop()
	defer longest.Stop()
	pending := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
		case err := <-failures: // an overflow, say: something happened
			p.log.WithError(err).Warn("watch_failed")
		case <-poll.C:
			p.watchFolder(watcher) // one may have been replaced by another of its name
			p.Reload()
			continue
		case <-settled.C:
			longest.Stop()
			pending = false
			p.Reload()
			continue
		case <-longest.C:
			settled.Stop()
			pending = false
			p.Reload()
			continue
		}
		settled.Reset(p.timing.settle)
		if !pending {
			pending = true
			longest.Reset(p.timing.settleMost)
		}
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (p *Plane) watchFolder(watcher *fsnotify.Watcher) {
	if watcher == nil {
		return
	}
	if err := watcher.Add(p.source.folder()); err != nil && !errors.Is(err, fsnotify.ErrClosed) {
		p.log.WithError(err).WithField("folder", p.source.folder()).Warn("watch_failed")
	}
}
