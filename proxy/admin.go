package proxy

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/config"
	"svc-wallet/host"
	"svc-wallet/ledger"
)

const adminBodyBytes = 1 << 10

// newAdmin is CONTRACT §4's listener.
func (s *Server) newAdmin(cfg *config.Config) *http.Server {
	mux := host.AdminRoutes(s.metrics.handler(), s.deps.Build)
	mux.HandleFunc("GET /readyz", s.adminReady)
	mux.HandleFunc("GET /openapi.yaml", s.adminOpenAPI)
	mux.HandleFunc("GET /config", s.adminConfig)
	mux.HandleFunc("POST /drain", s.adminDrain)
	mux.HandleFunc("POST /ledger/accept", s.adminAccept)
	mux.HandleFunc("GET /log-level", s.adminLevel)
	mux.HandleFunc("PUT /log-level", s.adminSetLevel)
	mux.Handle("GET /hystrix.stream", unhurried(ledger.BreakerStream()))
	return host.NewAdmin(cfg.MetricsAddr, mux)
}

func (s *Server) adminReady(w http.ResponseWriter, _ *http.Request) {
	st := s.status()
	host.SetJSONHeaders(w)
	if !st.ready() {
		w.Header().Set("Retry-After", strconv.Itoa(readyRetryAfter))
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(st.appendJSON(nil))
}

// adminOpenAPI serves the document of the wallet routes.
func (s *Server) adminOpenAPI(w http.ResponseWriter, _ *http.Request) {
	host.SetJSONHeaders(w)
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(s.deps.OpenAPI)
}

// adminConfig shows every setting in force with its source, and what the control plane sent. None of
// it is a secret: keys and certificates are named by file or resource.
func (s *Server) adminConfig(w http.ResponseWriter, _ *http.Request) {
	all := map[string]any{"settings": s.deps.Stack.Effective()}
	if s.deps.ControlPlane != nil {
		all["resources"] = s.deps.ControlPlane.Status()
	}
	if s.deps.Endpoints != nil {
		all["endpoints"] = endpointViews(s.deps.Endpoints.EndpointStates())
	}
	host.WriteJSON(w, http.StatusOK, all)
}

// endpointView is an endpoint of the ledger as /config shows it.
type endpointView struct {
	Addr   string `json:"addr"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
}

func endpointViews(states []ledger.EndpointState) (all []endpointView) {
	for _, s := range states {
		all = append(all, endpointView{s.Addr, s.Status.String(), s.Reason})
	}
	return all
}

// adminDrain begins a drain and does not wait for it: Run returns when it is over.
func (s *Server) adminDrain(w http.ResponseWriter, _ *http.Request) {
	s.askDrain()
	host.SetJSONHeaders(w)
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"draining":true}`)
}

// adminAccept ends a doubt about the ledger: an operator says that what is there is meant.
func (s *Server) adminAccept(w http.ResponseWriter, _ *http.Request) {
	var d *ledger.Doubt
	if s.deps.Standing != nil {
		d = s.deps.Standing.Accept()
	}
	if d == nil {
		http.Error(w, "the ledger is not in doubt", http.StatusConflict)
		return
	}
	host.WriteJSON(w, http.StatusOK, map[string]any{"accepted": d.Error(), "version": d.Seq, "version_seen": d.Seen})
}

func (s *Server) adminLevel(w http.ResponseWriter, _ *http.Request) {
	host.WriteJSON(w, http.StatusOK, map[string]string{"level": s.deps.Log.GetLevel().String()})
}

// adminSetLevel takes the level as a bare word or as {"level": …}. It holds until the next change
// or restart.
func (s *Server) adminSetLevel(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, adminBodyBytes))
	if err != nil {
		http.Error(w, "the body is too long", http.StatusRequestEntityTooLarge)
		return
	}
	var want struct{ Level string }
	if json.Unmarshal(body, &want) != nil {
		want.Level = string(body)
	}
	level, err := logrus.ParseLevel(strings.TrimSpace(want.Level))
	if err != nil || !slices.Contains([]logrus.Level{logrus.ErrorLevel, logrus.WarnLevel, logrus.InfoLevel, logrus.DebugLevel}, level) {
		http.Error(w, "the level is one of error, warning, info, debug", http.StatusBadRequest)
		return
	}
	s.deps.Log.SetLevel(level)
	s.adminLevel(w, r)
}

// unhurried lets an answer last as long as its reader does.
func unhurried(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
			http.Error(w, "this connection cannot stream", http.StatusInternalServerError)
			return
		}
		next.ServeHTTP(w, r)
	})
}
