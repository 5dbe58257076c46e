package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// newAdmin runs an admin listener and returns its URL.
func newAdmin(t *testing.T) string {
	t.Helper()
	const addr = "127.0.0.1:0"
	ln, err := ListenAdmin(addr)
	if err != nil {
		t.Fatal(err)
	}
	s := NewAdmin(addr, AdminRoutes(http.NotFoundHandler(), map[string]string{"version": "test"}))
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-served); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String()
}

func adminGet(t *testing.T, url string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// TestAdminRoutes: an operator is answered, a web page is not, and no profile takes longer than its bound.
// Method: each path, with times that are too long, or none at all.
func TestAdminRoutes(t *testing.T) {
	url := newAdmin(t)
	for _, tc := range []struct {
		path   string
		status int
		want   string
	}{
		{"/healthz", 200, `"ok"`},
		{"/version", 200, `"test"`},
		{"/debug/pprof/", 200, "goroutine"},
		{"/debug/pprof/mutex?debug=1", 200, "mutex"},
		{"/debug/pprof/block?debug=1", 200, "contention"},
		{"/debug/pprof/goroutine?debug=2", 200, "TestAdminRoutes"},
		{"/debug/pprof/profile?seconds=61", 400, "at most 60"},
		{"/debug/pprof/profile?seconds=0", 400, "more than 0"},
		{"/debug/pprof/profile?seconds=-1", 400, "more than 0"},
		{"/debug/pprof/profile?seconds=NaN", 400, "more than 0"},
		{"/debug/pprof/profile?seconds=Inf", 400, "at most 60"},
		{"/debug/pprof/profile?seconds=soon", 400, "more than 0"},
		{"/debug/pprof/trace?seconds=11", 400, "at most 10"},
		{"/debug/pprof/heap?seconds=1e9", 400, "at most 60"},
		{"/debug/pprof/mutex?seconds=61", 400, "at most 60"},
		{"/debug/pprof/block?seconds=61", 400, "at most 60"},
		{"/debug/pprof/block?seconds=0.5", 400, "positive integer"},
		{"/debug/pprof/nothing", 404, "Unknown"},
		{"/debug/", 404, ""},
	} {
		if status, body := adminGet(t, url+tc.path); status != tc.status || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d %.200s", tc.path, status, body)
		}
		if status, _ := adminGet(t, url+tc.path, "Origin", "https://evil.example"); status != 403 {
			t.Errorf("%s for another origin: %d", tc.path, status)
		}
	}
	if rate := runtime.SetMutexProfileFraction(-1); rate != 0 {
		t.Errorf("mutexes are watched: %d", rate)
	}
}

// TestContentionIsWatchedOnRequest: contention of the time that is asked for is in the profile, one is
// taken at a time, and none is watched afterwards. Method: goroutines that fight for a mutex all the while,
// and two requests at once.
func TestContentionIsWatchedOnRequest(t *testing.T) {
	url := newAdmin(t)
	var mu sync.Mutex
	var fights atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { fight(t.Context(), &mu, &fights) })
	}
	t.Cleanup(all.Wait) // the context has ended then
	for _, name := range []string{"mutex", "block"} {
		of := url + "/debug/pprof/" + name
		answers := make(chan string, 2)
		for range 2 {
			go func() {
				status, body := adminGet(t, of+"?seconds=1")
				answers <- fmt.Sprint(status, " ", body)
			}()
		}
		if first, second := <-answers, <-answers; !strings.HasPrefix(first, "409 contention is being watched already") || !strings.HasPrefix(second, "200 \x1f\x8b") {
			t.Errorf("%s: %.60q, %.60q", name, first, second)
		}
		_, before := adminGet(t, of+"?debug=1")
		if !strings.Contains(before, "host.fight") {
			t.Errorf("%s: %s", name, before)
		}
		for until := fights.Load() + 10_000; fights.Load() < until; {
			runtime.Gosched()
		}
		if _, after := adminGet(t, of+"?debug=1"); after != before {
			t.Errorf("%s: contention is watched for nobody", name)
		}
	}
}

func fight(ctx context.Context, mu *sync.Mutex, fights *atomic.Int64) {
	for ctx.Err() == nil {
		mu.Lock()
		fights.Add(1)
		runtime.Gosched() // so that the others find it taken
		mu.Unlock()
	}
}
