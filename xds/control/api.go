package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/netutil"
)

// Bounds of the API. It serves operators and scrapers.
const (
	apiConns   = 64
	apiTimeout = 15 * time.Second
	apiIdle    = time.Minute
)

// serveAPI serves the API until ctx ends.
func (p *Plane) serveAPI(ctx context.Context) error {
	server := &http.Server{
		Handler:           p.handler(),
		ReadHeaderTimeout: apiTimeout,
		ReadTimeout:       apiTimeout,
		WriteTimeout:      apiTimeout,
		IdleTimeout:       apiIdle,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // it may quote requests
	}
	served := make(chan error, 1)
	ln := p.secured(netutil.LimitListener(p.api, apiConns), "http/1.1") // TLS outermost: net/http looks for it
	go func() { served <- server.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve the API: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timing.drain)
	defer cancel()
	if server.Shutdown(drain) != nil {
		_ = server.Close() // whoever is not done by now is cut off
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

func (p *Plane) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /limits", p.getGroups)
	mux.HandleFunc("GET /limits/{group}", p.getGroup)
	mux.HandleFunc("PUT /limits/{group}", p.putGroup)
	mux.HandleFunc("DELETE /limits/{group}", p.deleteGroup)
	mux.HandleFunc("GET /sidecars", p.getSidecars)
	mux.Handle("GET /metrics", p.metrics.handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	// A web page in an operator's browser must not be able to change or to read: the first refuses
	// what comes from another origin, the second a name that was rebound to loopback.
	return refuseCrossOrigin(p.refuseRebound(mux))
}

// refuseCrossOrigin refuses what a browser sends for a page of another origin, whatever the method:
// net/http's protection, which takes GET for harmless, is shown each request as a POST.
func refuseCrossOrigin(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		as := *r
		as.Method = http.MethodPost
		if err := protection.Check(&as); err != nil {
			refuse(w, forbidden, err.Error(), nil)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// refuseRebound guards a plain listener on loopback against DNS rebinding: whoever means this
// process calls it localhost or by address.
func (p *Plane) refuseRebound(next http.Handler) http.Handler {
	if p.opts.TLS != nil || strings.HasPrefix(p.opts.API, "unix:") {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = strings.Trim(r.Host, "[]")
		}
		if ip := net.ParseIP(host); !strings.EqualFold(host, "localhost") && (ip == nil || !ip.IsLoopback()) {
			refuse(w, forbidden, "this listener answers to localhost only", nil)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// mayChange says whether a client may change limits: anybody who reaches a plain listener, and of
// those with certificates the ones that are named.
func (p *Plane) mayChange(r *http.Request) bool {
	if p.opts.TLS == nil {
		return true
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	for _, uri := range r.TLS.PeerCertificates[0].URIs {
		if slices.ContainsFunc(p.opts.ClientIDs, func(id string) bool { return newGlob(id).matches(uri.String()) }) {
			return true
		}
	}
	return false
}

// code is what kind of error it is.
type code string

const (
	badRequest      code = "BAD_REQUEST"
	forbidden       code = "FORBIDDEN"
	notFound        code = "NOT_FOUND"
	conflict        code = "CONFLICT"
	failedCondition code = "PRECONDITION_FAILED"
	tooLarge        code = "TOO_LARGE"
	internal        code = "INTERNAL_ERROR"
)

func (c code) http() int {
	switch c {
	case badRequest:
		return http.StatusBadRequest
	case forbidden:
		return http.StatusForbidden
	case notFound:
		return http.StatusNotFound
	case conflict:
		return http.StatusConflict
	case failedCondition:
		return http.StatusPreconditionFailed
	case tooLarge:
		return http.StatusRequestEntityTooLarge
	default:
		return http.StatusInternalServerError
	}
}

func refuse(w http.ResponseWriter, c code, message string, faults Faults) {
	writeJSON(w, c.http(), struct {
		Code    code     `json:"code"`
		Message string   `json:"message"`
		Faults  []string `json:"faults,omitempty"`
	}{c, message, faults})
}

func setHeaders(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// writeJSON writes what always encodes.
func writeJSON(w http.ResponseWriter, status int, v any) {
	setHeaders(w)
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(v) // fails only where the client is gone
}
