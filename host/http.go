package host

import (
	"encoding/json"
	"net"
	"net/http"
	"strings"
)

// Guard keeps web pages in an operator's browser from an HTTP API: it refuses what comes from another
// origin and, where the API is on loopback, what asks for a name that was rebound to it. Whoever means
// this process calls it localhost or by address. refuse answers 403.
func Guard(next http.Handler, onLoopback bool, refuse func(w http.ResponseWriter, why string)) http.Handler {
	origins := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		as := *r
		as.Method = http.MethodPost // Check takes GET for harmless
		if err := origins.Check(&as); err != nil {
			refuse(w, err.Error())
			return
		}
		if onLoopback && !isLoopback(hostname(r.Host)) {
			refuse(w, "this listener answers to localhost only")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostname is HOST of HOST or HOST:PORT.
func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

// SetJSONHeaders is for an answer in JSON that is of this moment only.
func SetJSONHeaders(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// WriteJSON answers with what always encodes.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	SetJSONHeaders(w)
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(v) // fails only where the client is gone
}
