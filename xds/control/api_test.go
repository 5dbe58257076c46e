package control

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAPI walks the routes of a folder with one good group, one written by hand and a sidecar.
func TestAPI(t *testing.T) {
	start := map[string]string{"default.json": `{"queue":5}`, "hand.yaml": "queue: 6\n"}
	tag := func(r *rig, group string) string { return r.call("GET", "/limits/"+group, "").header.Get("ETag") }
	for _, tc := range []struct {
		name, method, path, body string
		header                   func(*rig) []string
		status                   int
		want                     string // in the body
		after                    string // default.json afterwards; "" is unchanged, "-" gone
	}{
		{name: "health", method: "GET", path: "/healthz", status: 200, want: `{"status":"ok"}`},
		{name: "groups", method: "GET", path: "/limits", status: 200, want: `"group":"hand"`},
		{name: "sidecars", method: "GET", path: "/sidecars", status: 200, want: `{"sidecars":[]}`},
		{name: "metrics", method: "GET", path: "/metrics", status: 200, want: `control_reloads_total{outcome="applied"} 1`},
		{name: "document", method: "GET", path: "/limits/default", status: 200, want: "{\n  \"queue\": 5\n}\n"},
		{name: "yaml as JSON", method: "GET", path: "/limits/hand", status: 200, want: "{\n  \"queue\": 6\n}\n"},
		{name: "no group", method: "GET", path: "/limits/nope", status: 404, want: `"code":"NOT_FOUND"`},
		{name: "no route", method: "GET", path: "/limit", status: 404},
		{name: "no method", method: "POST", path: "/limits/default", status: 405},
		{name: "not modified", method: "GET", path: "/limits/default", header: func(r *rig) []string { return []string{"If-None-Match", tag(r, "default")} }, status: 304},
		{name: "put", method: "PUT", path: "/limits/default", body: `{"queue":7}`, status: 200, want: `"changes":[{"member":"queue","from":5,"to":7}]`, after: "{\n  \"queue\": 7\n}\n"},
		{name: "put what is there", method: "PUT", path: "/limits/default", body: ` {"queue":5}`, status: 200, want: `"changes":[]`, after: "{\n  \"queue\": 5\n}\n"},
		{name: "create", method: "PUT", path: "/limits/new", body: `{}`, status: 201, want: `"group":"new"`},
		{name: "dry run", method: "PUT", path: "/limits/default?dry_run=true", body: `{"inflight":7}`, status: 200, want: `"changes":[{"member":"inflight","from":null,"to":7},{"member":"queue","from":5,"to":null}],"dry_run":true`},
		{name: "dry run of a bad one", method: "PUT", path: "/limits/default?dry_run=true", body: `{"queue":0}`, status: 400},
		{name: "dry run of what", method: "PUT", path: "/limits/default?dry_run=maybe", body: `{}`, status: 400, want: "dry_run"},
		{name: "dry run without a value", method: "PUT", path: "/limits/default?dry_run", body: `{}`, status: 400, want: "with a value"},
		{name: "dry run of nothing", method: "PATCH", path: "/limits/default?dry_run=", body: `{"queue":null}`, status: 400, want: "with a value"},
		{name: "no wait", method: "PATCH", path: "/limits/default?wait=", body: `{"queue":null}`, status: 400, want: "with a value"},
		{name: "with a point", method: "PATCH", path: "/limits/default", body: `{"queue":7.0}`, status: 400, want: "/queue: is a number with a point or an exponent"},
		{name: "with an exponent", method: "PUT", path: "/limits/default", body: `{"overrides":[{"route":"burn","rate_per_second":7e2,"rate_burst":7}]}`, status: 400, want: "/overrides/0/rate_per_second: is a number with a point or an exponent"},
		{name: "match of an empty tag", method: "PUT", path: "/limits/default", body: `{}`, header: func(*rig) []string { return []string{"If-Match", ""} }, status: 412},
		{name: "match of two empty tags", method: "DELETE", path: "/limits/default", header: func(*rig) []string { return []string{"If-Match", ", "} }, status: 412},
		{name: "every fault", method: "PUT", path: "/limits/default", body: `{"queue":0,"quue":1}`, status: 400, want: `"faults":["svc-wallet.limits: quue: unknown key (from push)","svc-wallet.limits: limits.queue: 0 (from push) is not in 1…65536"]`},
		{name: "bad JSON", method: "PUT", path: "/limits/default", body: `{"queue":`, status: 400, want: `"code":"BAD_REQUEST"`},
		{name: "empty", method: "PUT", path: "/limits/default", status: 400, want: "not a JSON object"},
		{name: "oversize", method: "PUT", path: "/limits/default", body: strings.Repeat(" ", 1<<20+1), status: 413, want: `"code":"TOO_LARGE"`},
		{name: "bad name", method: "PUT", path: "/limits/No", body: `{}`, status: 400, want: "the name of a group"},
		{name: "path escape", method: "PUT", path: "/limits/..%2fescape", body: `{}`, status: 400, want: "the name of a group"},
		{name: "match", method: "PUT", path: "/limits/default", body: `{"queue":7}`, header: func(r *rig) []string { return []string{"If-Match", `"other", ` + tag(r, "default")} }, status: 200, after: "{\n  \"queue\": 7\n}\n"},
		{name: "lost update", method: "PUT", path: "/limits/default", body: `{"queue":7}`, header: func(r *rig) []string {
			old := tag(r, "default")
			r.write("default.json", `{"queue":6}`) // by hand, and not noticed yet
			return []string{"If-Match", old}
		}, status: 412, want: `"code":"PRECONDITION_FAILED"`, after: `{"queue":6}`},
		{name: "match of nothing", method: "PUT", path: "/limits/new", body: `{}`, header: func(*rig) []string { return []string{"If-Match", "*"} }, status: 412},
		{name: "create only", method: "PUT", path: "/limits/new", body: `{}`, header: func(*rig) []string { return []string{"If-None-Match", "*"} }, status: 201},
		{name: "create only, but there", method: "PUT", path: "/limits/default", body: `{}`, header: func(*rig) []string { return []string{"If-None-Match", "*"} }, status: 412},
		{name: "by hand", method: "PUT", path: "/limits/hand", body: `{}`, status: 409, want: "hand.yaml"},
		{name: "delete by hand", method: "DELETE", path: "/limits/hand", status: 409, want: "hand.yaml"},
		{name: "delete", method: "DELETE", path: "/limits/default", status: 204, after: "-"},
		{name: "delete nothing", method: "DELETE", path: "/limits/nope", status: 404},
		{name: "delete another", method: "DELETE", path: "/limits/default", header: func(*rig) []string { return []string{"If-Match", `"other"`} }, status: 412},
		{name: "a parameter of another name", method: "PUT", path: "/limits/default?dryrun=true", body: `{}`, status: 400, want: "dry_run, wait"},
		{name: "a parameter twice", method: "PUT", path: "/limits/default?dry_run=true&dry_run=false", body: `{}`, status: 400},
		{name: "a malformed query", method: "PUT", path: "/limits/default?dry_run=%zz", body: `{}`, status: 400},
		{name: "delete knows no dry run", method: "DELETE", path: "/limits/default?dry_run=true", status: 400, want: "nothing"},
		{name: "a parameter of a read", method: "GET", path: "/limits?group=default", status: 400},
		{name: "sidecars of a group", method: "GET", path: "/sidecars?group=default", status: 200, want: `{"sidecars":[]}`},
		{name: "patch", method: "PATCH", path: "/limits/default", body: `{"inflight":9}`, status: 200, want: `"changes":[{"member":"inflight","from":null,"to":9}]`, after: "{\n  \"inflight\": 9,\n  \"queue\": 5\n}\n"},
		{name: "patch away", method: "PATCH", path: "/limits/default", body: `{"queue":null}`, status: 200, want: `"to":null`, after: "{}\n"},
		{name: "patch nothing", method: "PATCH", path: "/limits/default", body: `{}`, status: 200, want: `"changes":[]`, after: "{\n  \"queue\": 5\n}\n"},
		{name: "patch within", method: "PATCH", path: "/limits/default", body: `{"runtime":{"svc-wallet.queue":9}}`, status: 200, want: `"member":"runtime"`, after: "{\n  \"queue\": 5,\n  \"runtime\": {\n    \"svc-wallet.queue\": 9\n  }\n}\n"},
		{name: "patch a new group", method: "PATCH", path: "/limits/new", body: `{"writes_enabled":false}`, status: 201, want: `"group":"new"`},
		{name: "patch, dry run", method: "PATCH", path: "/limits/default?dry_run=true", body: `{"queue":7}`, status: 200, want: `"dry_run":true`},
		{name: "patch to what is refused", method: "PATCH", path: "/limits/default", body: `{"queue":0}`, status: 400, want: "limits.queue: 0"},
		{name: "patch that is none", method: "PATCH", path: "/limits/default", body: `[]`, status: 400, want: "not a JSON object"},
		{name: "patch, too deep", method: "PATCH", path: "/limits/default", body: strings.Repeat(`{"a":`, 9) + `{}` + strings.Repeat(`}`, 9), status: 400, want: "more than 8 deep"},
		{name: "patch of another kind", method: "PATCH", path: "/limits/default", body: `[]`, header: func(*rig) []string { return []string{"Content-Type", "application/json-patch+json"} }, status: 415, want: "merge-patch"},
		{name: "patch, lost update", method: "PATCH", path: "/limits/default", body: `{"queue":7}`, header: func(*rig) []string { return []string{"If-Match", `"other"`} }, status: 412},
		{name: "patch by hand", method: "PATCH", path: "/limits/hand", body: `{}`, status: 409, want: "hand.yaml"},
		{name: "cross-origin", method: "PUT", path: "/limits/default", body: `{}`, header: func(*rig) []string { return []string{"Origin", "https://evil.example"} }, status: 403},
		{name: "cross-site", method: "DELETE", path: "/limits/default", header: func(*rig) []string { return []string{"Sec-Fetch-Site", "cross-site"} }, status: 403},
		{name: "cross-origin read", method: "GET", path: "/limits", header: func(*rig) []string { return []string{"Origin", "https://evil.example"} }, status: 403},
		{name: "cross-site read", method: "GET", path: "/metrics", header: func(*rig) []string { return []string{"Sec-Fetch-Site", "cross-site"} }, status: 403},
		{name: "same-site read", method: "HEAD", path: "/sidecars", header: func(*rig) []string { return []string{"Sec-Fetch-Site", "same-site"} }, status: 403},
		{name: "same origin", method: "GET", path: "/limits", header: func(*rig) []string { return []string{"Sec-Fetch-Site", "same-origin"} }, status: 200},
		{name: "typed by hand", method: "GET", path: "/limits", header: func(*rig) []string { return []string{"Sec-Fetch-Site", "none"} }, status: 200},
		{name: "rebound", method: "GET", path: "/limits", header: func(*rig) []string { return []string{"Host", "evil.example"} }, status: 403, want: "localhost only"},
		{name: "localhost", method: "GET", path: "/limits", header: func(*rig) []string { return []string{"Host", "LOCALHOST:1"} }, status: 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigOptions{files: start})
			var header []string
			if tc.header != nil {
				header = tc.header(r)
			}
			got := r.call(tc.method, tc.path, tc.body, header...)
			if got.status != tc.status || !strings.Contains(got.body, tc.want) {
				t.Errorf("%d %s", got.status, got.body)
			}
			if got.status/100 == 2 && tc.method == "PUT" && !strings.Contains(tc.path, "?") && got.header.Get("ETag") != tag(r, strings.TrimPrefix(tc.path, "/limits/")) {
				t.Error("the ETag is not the one of the group", got.header)
			}
			left, err := os.ReadFile(r.path("default.json"))
			if tc.after == "-" {
				if !os.IsNotExist(err) {
					t.Error(err)
				}
				return
			}
			if want := tc.after; string(left) != want && (want != "" || string(left) != start["default.json"]) {
				t.Errorf("the file is %q", left)
			}
			if tmp, _ := filepath.Glob(r.path(".*tmp*")); len(tmp) > 0 {
				t.Error("left behind", tmp)
			}
		})
	}
}

// TestAPIMode keeps the mode of a file that was there, and shows a new one to nobody else.
func TestAPIMode(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{}`}})
	if err := os.Chmod(r.path("default.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.put("default", `{"queue":5}`)
	r.put("new", `{"queue":5}`)
	for name, want := range map[string]os.FileMode{"default.json": 0o644, "new.json": 0o600} {
		if info, err := os.Stat(r.path(name)); err != nil || info.Mode().Perm() != want {
			t.Error(name, info, err)
		}
	}
}

// TestDryRunCounts says how many sidecars a change of match would move.
func TestDryRunCounts(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{}`}})
	for _, id := range []string{"a-1", "a-2", "b-1"} {
		p := r.connect("delta", id, "")
		p.subscribe(kindCluster)
		p.next(kindCluster)
	}
	if got := r.call("PUT", "/limits/a?dry_run=true", `{"match":{"ids":["a-*"]}}`); !strings.Contains(got.body, `"sidecars":2`) {
		t.Error(got.body)
	}
	if got := r.call("PUT", "/limits/default?dry_run=true", `{}`); !strings.Contains(got.body, `"sidecars":3`) {
		t.Error(got.body)
	}
	if got := r.call("GET", "/limits/a", ""); got.status != 404 {
		t.Error("a dry run changed something")
	}
}

// TestOneFile has the whole source be one file.
func TestOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limits.json")
	if err := os.WriteFile(path, []byte(`{"queue":5}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, rigOptions{change: func(o *Options) { o.Source = path }})
	for _, tc := range []struct {
		method, group string
		status        int
	}{{"PUT", "default", 200}, {"PUT", "other", 409}, {"DELETE", "default", 409}, {"GET", "other", 404}} {
		if got := r.call(tc.method, "/limits/"+tc.group, `{"queue":6}`); got.status != tc.status {
			t.Errorf("%s %s: %d %s", tc.method, tc.group, got.status, got.body)
		}
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "{\n  \"queue\": 6\n}\n" {
		t.Errorf("%s %v", raw, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.eventually("gone", func() bool { return strings.Contains(r.call("GET", "/limits", "").body, goneFault) })
	if got := r.call("GET", "/limits/default", ""); got.status != 200 || got.body != "{\n  \"queue\": 6\n}\n" {
		t.Errorf("without its file: %d %s", got.status, got.body)
	}
	if got := r.call("PUT", "/limits/default", `{"queue":7}`); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	by := filepath.Join(t.TempDir(), "limits.toml")
	if err := os.WriteFile(by, []byte("queue = 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, rigOptions{change: func(o *Options) { o.Source = by }})
	if got := r.call("PUT", "/limits/default", `{}`); got.status != 409 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// TestNotWritten answers a change that cannot be written, and serves what is in the file.
func TestNotWritten(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":5}`}})
	if err := write(filepath.Join(r.dir, "no", "file"), nil); err == nil {
		t.Error("written to nowhere")
	}
	if err := remove(r.path("nothing")); err == nil {
		t.Error("removed nothing")
	}
	if err := os.Mkdir(r.path("folder.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := r.call("PUT", "/limits/folder", `{}`); got.status != 500 || !strings.Contains(got.body, "not known to be written") {
		t.Errorf("%d %s", got.status, got.body)
	}
	if err := os.WriteFile(r.path("folder.json")+"/x", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.call("GET", "/limits/default", "").body, `"queue": 5`) {
		t.Error("the document is gone")
	}
	if tmp, _ := filepath.Glob(r.path(".*tmp*")); len(tmp) > 0 {
		t.Error("left behind", tmp)
	}
}

// TestTwins has a group get a second file: what it said before stays, and the API does not add to it.
func TestTwins(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":5}`}})
	r.write("default.yaml", "queue: 6\n")
	for _, method := range []string{"PUT", "DELETE"} {
		if got := r.call(method, "/limits/default", `{}`); got.status != 409 || !strings.Contains(got.body, "two files") {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	if r.queueOf("default") != "5" {
		t.Error("the last good one is gone")
	}
	if err := os.Remove(r.path("default.json")); err != nil {
		t.Fatal(err)
	}
	r.eventually("the other", func() bool { return r.queueOf("default") == "6" })
	r.write("default.json", `{"queue":5}`)
	r.eventually("two again", func() bool { return strings.Contains(r.call("GET", "/limits", "").body, "a group has one file") })
	for _, name := range []string{"default.json", "default.yaml"} {
		if err := os.Remove(r.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	r.eventually("none", func() bool { return strings.Contains(r.call("GET", "/limits", "").body, goneFault) })
	if got := r.call("DELETE", "/limits/default", ""); got.status != 204 {
		t.Errorf("without any file: %d %s", got.status, got.body)
	}
}

// TestUnreadable takes the folder away: everything stays, the API says so and refuses changes.
func TestUnreadable(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":5}`}})
	if err := os.Rename(r.dir, r.dir+"-away"); err != nil {
		t.Fatal(err)
	}
	r.plane.Reload()
	r.plane.Reload()
	if got := r.call("GET", "/limits", "").body; !strings.Contains(got, `"failed":"limits: open `) || !strings.Contains(got, `"group":"default"`) {
		t.Error(got)
	}
	if got := r.call("PUT", "/limits/default", `{}`); got.status != 500 {
		t.Errorf("%d %s", got.status, got.body)
	}
	if strings.Count(r.log.String(), "limits_unreadable") != 1 {
		t.Error(r.log)
	}
	if err := os.Rename(r.dir+"-away", r.dir); err != nil {
		t.Fatal(err)
	}
	r.put("default", `{"queue":6}`)
	if got := r.call("GET", "/limits", "").body; strings.Contains(got, "failed") {
		t.Error(got)
	}
}

// TestUnixAPI serves the API on a Unix socket, where no name can be rebound.
func TestUnixAPI(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "api.sock")
	r := newRig(t, rigOptions{change: func(o *Options) { o.API = "unix:" + sock }})
	if got := r.call("GET", "/limits", "", "Host", "control"); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	if info, err := os.Stat(sock); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
}

// TestCodes holds every error of the API to have a code and a message.
func TestCodes(t *testing.T) {
	for want, code := range map[int]code{
		400: badRequest, 403: forbidden, 404: notFound, 409: conflict, 412: failedCondition, 413: tooLarge, 500: internal,
	} {
		w := httptest.NewRecorder()
		refuse(w, code, "why", Faults{"a"})
		var out struct {
			Code, Message string
			Faults        []string
		}
		if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || out.Code != string(code) || out.Message != "why" || !slices.Equal(out.Faults, []string{"a"}) || w.Code != want {
			t.Error(w.Body, err)
		}
	}
}
