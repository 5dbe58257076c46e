package host

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	repeatAgain = time.Minute
	maxRepeats  = 64 // texts that are told apart
)

// Repeats thins out log lines that tell the same thing again and again, at whatever rate it happens:
// each text is told once, and then, with how often it came again, at most once a minute. Where there
// are too many different ones, the rest is counted. The zero value has told nothing.
type Repeats struct {
	mu    sync.Mutex
	known map[string]*repeat
	left  int // not told for want of room
}

type repeat struct {
	at    int64 // when it was told last
	again int   // since then
}

// Tell says whether the text is to be logged now, in nanoseconds by any clock, and with which fields.
func (r *Repeats) Tell(text string, now int64) (fields logrus.Fields, tell bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.known[text]
	switch {
	case k != nil && now-k.at < int64(repeatAgain):
		k.again++
		return nil, false
	case k == nil && !r.room(now):
		r.left++
		return nil, false
	}
	fields = logrus.Fields{}
	if k != nil && k.again > 0 {
		fields["repeated"] = k.again
	}
	if r.left > 0 {
		fields["others_left_out"] = r.left
	}
	r.known[text], r.left = &repeat{at: now}, 0
	return fields, true
}

// room makes room for one more text, of those that are quiet for a minute.
func (r *Repeats) room(now int64) bool {
	if r.known == nil {
		r.known = make(map[string]*repeat)
	}
	if len(r.known) < maxRepeats {
		return true
	}
	for text, k := range r.known {
		if now-k.at >= int64(repeatAgain) {
			r.left += k.again
			delete(r.known, text)
		}
	}
	return len(r.known) < maxRepeats
}
