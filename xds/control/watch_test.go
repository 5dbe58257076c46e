package control

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// queueOf says what the group's document has for queue, as the API shows it.
func (r *rig) queueOf(group string) string {
	r.t.Helper()
	_, after, _ := strings.Cut(r.call("GET", "/limits/"+group, "").body, `"queue": `)
	value, _, _ := strings.Cut(after, "\n")
	return value
}

// TestWatch changes files in the ways that editors and people do.
func TestWatch(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":1}`}})
	comes := func(group, want string) {
		t.Helper()
		r.eventually(group+" "+want, func() bool { return r.queueOf(group) == want })
	}
	r.write("default.json", `{"queue":2}`) // renamed over
	comes("default", "2")
	if err := os.WriteFile(r.path("default.json"), []byte(`{"queue":3}`), 0o600); err != nil { // in place
		t.Fatal(err)
	}
	comes("default", "3")
	if err := os.Rename(r.path("default.json"), r.path("default.json~")); err != nil { // with a backup
		t.Fatal(err)
	}
	r.write("default.json", `{"queue":4}`)
	comes("default", "4")
	r.write("payments.toml", "queue = 5\n")
	comes("payments", "5")
	r.write("default.json", `{"queue":0}`)
	r.eventually("refused", func() bool {
		return strings.Contains(r.call("GET", "/limits", "").body, `"refused":["svc-wallet.limits: limits.queue: 0 (from push) is not in 1…65536"]`)
	})
	comes("default", "4") // the last good one
	if !r.log.has("limits_refused") {
		t.Error(r.log)
	}
	r.write("default.json", `{"queue":6}`)
	comes("default", "6")
	if err := os.Remove(r.path("payments.toml")); err != nil {
		t.Fatal(err)
	}
	r.eventually("gone", func() bool { return strings.Contains(r.call("GET", "/limits", "").body, goneFault) })
	comes("payments", "5") // still
	if got := r.call("DELETE", "/limits/payments", ""); got.status != 204 {
		t.Errorf("%d %s", got.status, got.body)
	}
	r.eventually("removed", func() bool { return r.call("GET", "/limits/payments", "").status == 404 })
	r.write("bad.json", `{`)
	r.eventually("a new bad one", func() bool { return strings.Contains(r.call("GET", "/limits", "").body, `"group":"bad"`) })
	if got := r.call("GET", "/limits/bad", ""); got.status != 404 || !strings.Contains(got.body, `"faults":[`) {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// TestConfigMap swaps a folder the way the kubelet does: files are links through ..data, which is a
// link that is replaced.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	lay := func(version, text string) {
		t.Helper()
		real := filepath.Join(dir, "..2026_"+version)
		for _, err := range []error{
			os.Mkdir(real, 0o700),
			os.WriteFile(filepath.Join(real, "default.json"), []byte(text), 0o600),
			os.Symlink(filepath.Base(real), filepath.Join(dir, "..data_tmp")),
			os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	lay("1", `{"queue":1}`)
	if err := os.Symlink("..data/default.json", filepath.Join(dir, "default.json")); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{dir, filepath.Join(dir, "default.json")} {
		r := newRig(t, rigOptions{change: func(o *Options) { o.Source = source }})
		for i := 2; i < 5; i++ {
			lay(fmt.Sprint(len(source), i), fmt.Sprintf(`{"queue":%d}`, i))
			r.eventually("swapped", func() bool { return r.queueOf("default") == fmt.Sprint(i) })
		}
	}
}

// TestPoll finds what no event tells of: a change behind a link into another folder.
func TestPoll(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "real.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(elsewhere, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"queue":1}`)
	dir := t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(dir, "default.json")); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, rigOptions{
		change: func(o *Options) { o.Source = dir },
		timing: func(d *timing) { d.poll = 10 * time.Millisecond },
	})
	write(`{"queue":2}`)
	r.eventually("polled", func() bool { return r.queueOf("default") == "2" })
}

// TestBusyFolder reads at last, although something changes all the time.
func TestBusyFolder(t *testing.T) {
	r := newRig(t, rigOptions{
		files:  map[string]string{"default.json": `{"queue":1}`},
		timing: func(d *timing) { d.settle, d.settleMost = time.Hour, 10*time.Millisecond },
	})
	r.write("default.json", `{"queue":2}`)
	r.eventually("read", func() bool { return r.queueOf("default") == "2" })
}

// TestStart refuses at start whatever is wrong, all at once.
func TestStart(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("a.json", `{"queue":0}`)
	put("b.json", `{`)
	put("c.json", `{}`)
	put("c.yaml", `{}`)
	put("Big.json", `{}`)
	put("d.yaml", "queue: 1.5")
	put("e.json", strings.Repeat(" ", 1<<20+1))
	put("h.toml", "# nothing\n")
	put("i.toml", "")
	put("README.md", "no document")
	put(".hidden.json", "{")
	if err := syscall.Mkfifo(filepath.Join(dir, "f.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "g.json")); err != nil {
		t.Fatal(err)
	}
	_, err := New(Options{Source: dir, Listen: "127.0.0.1:0"})
	want := []string{
		"Big.json: the name of a group is [a-z0-9][a-z0-9_.-]{0,62}", "a.json: svc-wallet.limits: limits.queue: 0", "b.json: jsontext: unexpected EOF",
		"c.json: c.yaml is there as well: a group has one file", "d.yaml: line 1", "e.json: is larger than 1MiB", "f.json: is not a regular file",
		"h.toml: there is no document", "i.toml: there is no document",
	}
	if err == nil || strings.Count(err.Error(), "\n") != len(want)-1 {
		t.Fatal(err)
	}
	for i, line := range strings.Split(err.Error(), "\n") {
		if !strings.HasPrefix(line, filepath.Join(dir, want[i])) {
			t.Errorf("%s, want %s", line, want[i])
		}
	}
	for _, o := range []Options{
		{Source: filepath.Join(dir, "nothing")},
		{Source: filepath.Join(dir, "README.md")},
		{Source: dir, ClientIDs: []string{"a"}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// TestTooManyGroups leaves everything as it was.
func TestTooManyGroups(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"queue":1}`}, timing: func(d *timing) { d.settle, d.settleMost = time.Hour, time.Hour }})
	for i := range maxGroups - 1 {
		if err := os.WriteFile(r.path(fmt.Sprintf("g%d.json", i)), []byte(`{}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.plane.Reload()
	if got := r.call("PUT", "/limits/more", `{}`); got.status != 409 {
		t.Errorf("%d %s", got.status, got.body)
	}
	r.write("more.json", `{}`)
	r.write("default.json", `{"queue":2}`)
	r.plane.Reload()
	if got := r.call("GET", "/limits", "").body; !strings.Contains(got, `"failed":"limits: there are more than 1024 groups`) || r.queueOf("default") != "1" {
		t.Error(got[max(0, len(got)-300):])
	}
}

// TestListen refuses addresses that are no addresses, out of reach, or open to others.
func TestListen(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	plane := func(listen, api string) error {
		p, err := New(Options{Source: dir, Listen: listen, API: api, AllowEmpty: true})
		if err != nil {
			t.Fatal(err)
		}
		err = p.Listen()
		if err == nil {
			t.Cleanup(func() { p.listener.Close() })
		}
		if err == nil && p.api != nil {
			t.Cleanup(func() { p.api.Close() })
		}
		return err
	}
	sock := "unix:" + filepath.Join(dir, "sock")
	if err := plane(sock, ""); err != nil {
		t.Fatal(err)
	}
	for _, tc := range [][3]string{
		{"", "", "want unix:PATH or HOST:PORT"},
		{"0.0.0.0:0", "", "only loopback may be served without TLS"},
		{"127.0.0.1:0", "0.0.0.0:0", "only loopback may be served without TLS"},
		{"127.0.0.1:99999", "", "invalid port"},
		{sock, "", "another process answers on it"},
		{"unix:" + filepath.Join(dir, "file"), "", "is no socket"},
		{"unix:" + filepath.Join(dir, "no", "sock"), "", "no such file"},
		{"unix:" + filepath.Join(dir, "file", "sock"), "", "not a directory"},
	} {
		if err := plane(tc[0], tc[1]); err == nil || !strings.Contains(err.Error(), tc[2]) {
			t.Errorf("%v: %v", tc, err)
		}
	}
	stale := filepath.Join(dir, "stale")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: stale}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Close(fd); err != nil {
		t.Fatal(err)
	}
	if err := plane("unix:"+stale, ""); err != nil {
		t.Error(err)
	}
}

// TestRemembered: a group whose file is gone at a start keeps the control plane from starting, whatever else is in the
// folder, until somebody says what is meant; one that was deleted over the API does not.
func TestRemembered(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"writes_enabled":false}`, "other.json": `{"queue":5}`}})
	r.put("third", `{"queue":6}`)
	start := func(empty bool) error {
		_, err := New(Options{Source: r.dir, Listen: "127.0.0.1:0", AllowEmpty: empty})
		return err
	}
	remove := func(name string) {
		if err := os.Remove(r.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.call("DELETE", "/limits/other", ""); got.status != 204 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if err := start(false); err != nil {
		t.Errorf("after a DELETE: %v", err)
	}
	remove("default.json")
	r.eventually("noticed", func() bool { return strings.Contains(r.call("GET", "/limits", "").body, goneFault) })
	for range 2 { // a start that was refused forgets nothing
		if err := start(false); err == nil || !strings.Contains(err.Error(), "the group default had a document and its file is gone") || strings.Contains(err.Error(), "other") {
			t.Errorf("without default.json: %v", err)
		}
	}
	r.write("default.json", "{}")
	if err := start(false); err != nil {
		t.Errorf("with {} in its place: %v", err)
	}
	remove("third.json")
	if err := start(true); err != nil {
		t.Errorf("where it is allowed: %v", err)
	}
	if err := start(false); err != nil {
		t.Errorf("it is asked for again: %v", err)
	}
	r.write(memoryFile, "{")
	if err := start(false); err == nil || !strings.Contains(err.Error(), memoryFile) {
		t.Errorf("a memory that cannot be read: %v", err)
	}
}

// TestLargeDocument: a document that is larger on lines than it may be is written without them, can be changed, and is
// read again at a start.
func TestLargeDocument(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"writes_enabled":false}`}})
	tokens := make([]string, 15_500)
	for i := range tokens {
		tokens[i] = fmt.Sprintf("%q", fmt.Sprintf("T%059d", i))
	}
	large := `{"revoked_tokens":[` + strings.Join(tokens, ",") + `]}`
	for _, change := range []string{large, `{"queue":5}`} {
		if got := r.call("PATCH", "/limits/default", change); got.status != 200 {
			t.Fatalf("%d %.200s", got.status, got.body)
		}
	}
	again, err := New(Options{Source: r.dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	doc := again.state.Load().groups["default"].doc
	if members := doc.members(); string(members["queue"]) != "5" || string(members["writes_enabled"]) != "false" || len(members["revoked_tokens"]) < 900_000 {
		t.Errorf("%.200s", doc.text)
	}
	full := `{"revoked_tokens":["` + strings.Repeat("x", maxDocument) // what fills a document to its last byte is none of a file's
	full = full[:maxDocument-3] + `"]}`
	if got := r.call("PUT", "/limits/default?dry_run=true", full); got.status != 400 || !strings.Contains(got.body, "larger than 1MiB") {
		t.Errorf("%d %.200s", got.status, got.body)
	}
}

// TestNothingVanishes: a folder that is emptied while it is served lifts nothing, says so once, and DELETE
// makes it so; one that is empty at a start is refused unless it is meant. Method: a folder with a kill
// switch, whose files go.
func TestNothingVanishes(t *testing.T) {
	r := newRig(t, rigOptions{files: map[string]string{"default.json": `{"writes_enabled":false}`, "payments.yaml": "queue: 5\n"}})
	for _, name := range []string{"default.json", "payments.yaml"} {
		if err := os.Remove(r.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	r.eventually("noticed", func() bool {
		return strings.Count(r.call("GET", "/limits", "").body, goneFault) == 2 && r.log.has("limits_refused")
	})
	if got := r.call("GET", "/limits/default", ""); !strings.Contains(got.body, `"writes_enabled": false`) {
		t.Errorf("%d %s", got.status, got.body)
	}
	if _, err := New(Options{Source: r.dir, Listen: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "there is no document") {
		t.Errorf("an empty folder: %v", err)
	}
	r.write("default.json", `{"writes_enabled":false}`) // mounted again
	r.eventually("back", func() bool { return strings.Count(r.call("GET", "/limits", "").body, goneFault) == 1 })
	for _, name := range []string{"default", "payments"} {
		if got := r.call("DELETE", "/limits/"+name, ""); got.status != 204 {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	if got := r.call("GET", "/limits", ""); !strings.Contains(got.body, `"groups":[]`) {
		t.Error(got.body)
	}
	if !r.log.has("limits_deleted") {
		t.Error(r.log)
	}
}
