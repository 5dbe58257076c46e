package xds

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// floodLog writes at most maxLines in a period: a control plane that floods us would flood the log
// as well. The next line that is written says how many were left out.
type floodLog struct {
	log logrus.FieldLogger
	now func() int64

	mu    sync.Mutex
	since int64 // start of the period
	lines int   // of the period
	lost  int
}

const (
	maxLines  = 50
	logPeriod = 10 * time.Second
)

func (f *floodLog) info(event string, fields logrus.Fields) { f.write(logrus.InfoLevel, event, fields) }

func (f *floodLog) warn(event string, fields logrus.Fields) { f.write(logrus.WarnLevel, event, fields) }

func (f *floodLog) write(level logrus.Level, event string, fields logrus.Fields) {
	if l, ok := f.log.(*logrus.Logger); ok && !l.IsLevelEnabled(level) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now-f.since >= int64(logPeriod) {
		f.since, f.lines = now, 0
	}
	if f.lines++; f.lines > maxLines {
		f.lost++
		return
	}
	if f.lost > 0 {
		fields["left_out"] = f.lost
		f.lost = 0
	}
	if level == logrus.InfoLevel {
		f.log.WithFields(fields).Info(event)
		return
	}
	f.log.WithFields(fields).Warn(event)
}
