package xds

import "time"

// budget paces reading: a token bucket of bytes. One goroutine has it.
type budget struct {
	rate, burst int64 // a second, at once
	now         func() int64
	spent       int64 // above what has been paid back
	at          int64 // when spent was right
}

// overhead is what a response costs besides its bytes.
const overhead = 1024

// spend takes a response of so many bytes, and returns how long to wait before the next one.
func (b *budget) spend(size int64) time.Duration {
	now := b.now()
	if b.at != 0 {
		back := int64(float64(now-b.at) / float64(time.Second) * float64(b.rate))
		b.spent = max(0, b.spent-back)
	}
	b.at = now
	b.spent += size + overhead
	over := max(0, b.spent-b.burst)
	return time.Duration(float64(over) / float64(b.rate) * float64(time.Second))
}
