package host

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Bounds of an admin listener. It serves operators and scrapers, so they are wide, but a
// forgotten curl must not hold it for ever.
const (
	adminConns        = 64
	adminHeaderBytes  = 16 << 10
	adminReadTimeout  = 10 * time.Second
	adminWriteTimeout = 90 * time.Second
	adminIdleTimeout  = time.Minute
)

// ListenAdmin binds an admin listener, on other machines' side too where an operator says so.
func ListenAdmin(addr string) (net.Listener, error) {
	ln, err := Listen(addr, ListenOptions{Remote: true})
	if err != nil {
		return nil, fmt.Errorf("bind the admin listener: %w", err)
	}
	return Limit(ln, adminConns), nil
}

// AdminRoutes are the routes that every process of ours has for operators; a process adds its own.
// build is what encodes to JSON.
func AdminRoutes(metrics http.Handler, build any) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { WriteJSON(w, http.StatusOK, build) })
	handleProfiles(mux)
	return mux
}

// NewAdmin serves routes on a listener that ListenAdmin makes of addr. It speaks plain HTTP and asks for
// no token, because it is on loopback unless an operator says otherwise; no web page may use it.
func NewAdmin(addr string, routes http.Handler) *http.Server {
	bind, _ := ParseListenAddr(addr)
	server := &http.Server{
		Handler: Guard(routes, bind.IsLocal(), func(w http.ResponseWriter, why string) {
			http.Error(w, why, http.StatusForbidden)
		}),
		ReadHeaderTimeout: adminReadTimeout,
		ReadTimeout:       adminReadTimeout,
		WriteTimeout:      adminWriteTimeout,
		IdleTimeout:       adminIdleTimeout,
		MaxHeaderBytes:    adminHeaderBytes,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // it may quote requests
	}
	ServeRequests(server)
	return server
}
