package ledger

import (
	"context"
	"sync"
	"sync/atomic"
)

// hush tells reads that the ledger has fallen silent, so that none waits for it until its own time is
// up. turn is called first.
type hush struct {
	mu   sync.Mutex // of turns
	at   atomic.Pointer[context.Context]
	fall context.CancelFunc
}

// now is a context that is over while the ledger is silent, or ends when it falls so.
func (h *hush) now() context.Context { return *h.at.Load() }

// turn notes whether the ledger is silent.
func (h *hush) turn(silent bool) {
	if at := h.at.Load(); at != nil && ((*at).Err() != nil) == silent {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.at.Load()
	switch {
	case at != nil && ((*at).Err() != nil) == silent:
	case silent:
		h.fall()
	default:
		ctx, fall := context.WithCancel(context.Background())
		h.fall = fall
		h.at.Store(&ctx)
	}
}
