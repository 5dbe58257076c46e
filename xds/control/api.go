package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"svc-wallet/host"
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
	host.ServeRequests(server)
	served := make(chan error, 1)
	ln := p.secured(host.Limit(p.api, apiConns), "http/1.1") // TLS outermost: net/http looks for it
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
	mux.HandleFunc("GET /limits", taking(p.getGroups))
	mux.HandleFunc("GET /limits/{group}", taking(p.getGroup))
	mux.HandleFunc("PUT /limits/{group}", taking(p.putGroup, "dry_run", "wait"))
	mux.HandleFunc("PATCH /limits/{group}", taking(p.patchGroup, "dry_run", "wait"))
	mux.HandleFunc("DELETE /limits/{group}", taking(p.deleteGroup))
	mux.HandleFunc("GET /sidecars", taking(p.getSidecars, "group"))
	mux.Handle("GET /metrics", p.metrics.handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		host.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	api, _ := host.ParseListenAddr(p.opts.API)
	return host.Guard(mux, p.opts.TLS == nil && api.Path() == "", func(w http.ResponseWriter, why string) { refuse(w, forbidden, why, nil) })
}

// taking refuses a query with anything but these parameters, each once and with a value: one that is mistyped,
// such as dryrun, or dry_run without =true, would else do what was only to be tried.
func taking(handle http.HandlerFunc, params ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			refuse(w, badRequest, "the query is malformed", nil)
			return
		}
		for name, values := range query {
			if !slices.Contains(params, name) || len(values) > 1 || values[0] == "" {
				refuse(w, badRequest, "the query may have only, each once and with a value: "+cmp.Or(strings.Join(params, ", "), "nothing"), nil)
				return
			}
		}
		handle(w, r)
	}
}

// mayChange says whether a client may change limits: anybody who reaches a plain listener, and of
// those with certificates the ones that are named.
func (p *Plane) mayChange(r *http.Request) bool {
	if p.opts.TLS == nil {
		return true
	}
	return slices.ContainsFunc(urisOf(r.TLS), func(client string) bool {
		return slices.ContainsFunc(p.opts.ClientIDs, func(id string) bool { return newGlob(id).matches(client) })
	})
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
	unsupported     code = "UNSUPPORTED_MEDIA_TYPE"
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
	case unsupported:
		return http.StatusUnsupportedMediaType
	default:
		return http.StatusInternalServerError
	}
}

func refuse(w http.ResponseWriter, c code, message string, faults Faults) {
	host.WriteJSON(w, c.http(), struct {
		Code    code     `json:"code"`
		Message string   `json:"message"`
		Faults  []string `json:"faults,omitempty"`
	}{c, message, faults})
}
