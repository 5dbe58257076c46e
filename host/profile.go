package host

import (
	"fmt"
	"net/http"
	"net/http/pprof" // served on admin listeners only, never by the default mux
	"runtime"
	"strconv"
	"sync"
	"time"
)

// Bounds of a profile. net/http/pprof has none: it moves the write deadline on for as long as it is asked to.
const (
	maxProfile = time.Minute
	maxTrace   = 10 * time.Second // what its reader is slow to take stays in memory, some MB a second under load
)

// Rates while contention is watched: one event in mutexFraction, and each wait of blockNanos or longer
// (of shorter ones their share). Neither can be felt then; watching every event can.
const (
	mutexFraction = 10
	blockNanos    = 10_000
)

// handleProfiles adds /debug/pprof/. Contention is watched only while somebody asks for it, by
// `mutex?seconds=N` or `block?seconds=N`, one at a time because the rates are the process's; so nobody
// pays for it else.
func handleProfiles(mux *http.ServeMux) {
	var watching sync.Mutex
	watch := func(name string, on, off func()) {
		mux.HandleFunc("GET /debug/pprof/"+name, within(maxProfile, func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("seconds") != "" {
				if !watching.TryLock() {
					http.Error(w, "contention is being watched already", http.StatusConflict)
					return
				}
				defer watching.Unlock()
				on()
				defer off()
			}
			pprof.Index(w, r)
		}))
	}
	watch("mutex", func() { runtime.SetMutexProfileFraction(mutexFraction) }, func() { runtime.SetMutexProfileFraction(0) })
	watch("block", func() { runtime.SetBlockProfileRate(blockNanos) }, func() { runtime.SetBlockProfileRate(0) })
	mux.HandleFunc("GET /debug/pprof/", within(maxProfile, pprof.Index))
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", within(maxProfile, pprof.Profile))
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", within(maxTrace, pprof.Trace))
}

// within refuses a profile of more than most, or of a time that is none. pprof would take the latter for its
// default.
func within(most time.Duration, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if text := r.FormValue("seconds"); text != "" {
			seconds, err := strconv.ParseFloat(text, 64)
			if err != nil || !(seconds > 0 && seconds <= most.Seconds()) { // NaN is not either
				http.Error(w, fmt.Sprintf("seconds is more than 0 and at most %.0f", most.Seconds()), http.StatusBadRequest)
				return
			}
		}
		next(w, r)
	}
}
