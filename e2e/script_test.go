package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs testdata/script: stories of the real binary that a client developer or an
// operator can read. Besides testscript's own, these commands are known:
//
//	dev                        start `dev` on $WORK/dev
//	crash | drain              kill -9 it | SIGTERM it, which must end it with 0
//	post PATH KEY BODY [H=V…]  a request with the banner's token
//	get PATH [H=V…]            likewise; an H= without V removes that header
//	status N [CODE]            holds the last answer's status and error code
//	has TEXT | lacks TEXT      looks for TEXT in the last answer's headers and body
//	save NAME | same NAME      keeps the last body, also as a file | holds the last one to be identical
//	gettx NAME [H=V…]          GET /v1/tx/ of the saved receipt
//	paste                      runs the lines that dev printed in bash; the answer is what they print
//	token FILE                 go on with the token in FILE
//	admin PATH                 GET on the admin listener
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", raceOptions())
			e.Setenv("PATH", filepath.Dir(binary)+string(filepath.ListSeparator)+e.Getenv("PATH"))
			e.Values[storyKey{}] = &story{saved: map[string]string{}, t: e.T().(testing.TB)}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"dev":    onStory((*story).start),
			"crash":  onStory(func(s *story, _ *testscript.TestScript, _ []string) { s.dev.kill() }),
			"drain":  onStory(func(s *story, _ *testscript.TestScript, _ []string) { s.dev.stop() }),
			"post":   onStory((*story).post),
			"get":    onStory((*story).get),
			"admin":  onStory((*story).admin),
			"status": onStory((*story).status),
			"has":    onStory((*story).has),
			"lacks":  onStory((*story).lacks),
			"save":   onStory((*story).save),
			"same":   onStory((*story).same),
			"gettx":  onStory((*story).gettx),
			"token":  onStory((*story).token),
			"paste":  onStory((*story).paste),
		},
	})
}

// story is what a script has done so far.
type story struct {
	t     testing.TB
	dev   *devProcess
	last  answer
	saved map[string]string
}

type storyKey struct{}

func onStory(do func(*story, *testscript.TestScript, []string)) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("! does not go with this command")
		}
		do(ts.Value(storyKey{}).(*story), ts, args)
	}
}

func (s *story) start(ts *testscript.TestScript, _ []string) {
	s.dev = startDev(s.t, ts.MkAbs("dev"))
	for k, v := range s.dev.env {
		ts.Setenv(k, v)
	}
}

// token makes the story go on with the token in a file that a command before wrote.
func (s *story) token(ts *testscript.TestScript, args []string) {
	s.dev.token = strings.TrimSpace(ts.ReadFile(args[0]))
}

func (s *story) paste(ts *testscript.TestScript, _ []string) {
	_, lines, found := strings.Cut(s.dev.everything(), "Paste into another terminal:")
	lines, _, closed := strings.Cut(lines, "Ctrl-C")
	if !found || !closed {
		ts.Fatalf("dev printed no lines to paste")
	}
	out, err := exec.CommandContext(s.t.Context(), "bash", "-c", lines).CombinedOutput()
	ts.Logf("%s", out)
	ts.Check(err)
	s.last = answer{body: string(out)}
}

func (s *story) send(ts *testscript.TestScript, method, path, body string, headers []string) {
	var pairs []string
	for _, h := range headers {
		k, v, _ := strings.Cut(h, "=")
		pairs = append(pairs, k, v)
	}
	a, err := s.dev.patiently(s.t.Context(), method, path, body, pairs...)
	if err != nil {
		ts.Fatalf("%s %s: %v", method, path, err)
	}
	ts.Logf("%s", a)
	s.last = a
}

func (s *story) post(ts *testscript.TestScript, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: post PATH KEY BODY [H=V…]")
	}
	s.send(ts, "POST", args[0], args[2], append([]string{"Idempotency-Key=" + args[1]}, args[3:]...))
}

func (s *story) get(ts *testscript.TestScript, args []string) {
	s.send(ts, "GET", args[0], "", args[1:])
}

func (s *story) gettx(ts *testscript.TestScript, args []string) {
	_, rest, ok := strings.Cut(s.saved[args[0]], `"txid":"`)
	if !ok {
		ts.Fatalf("%q is no saved receipt", args[0])
	}
	txid, _, _ := strings.Cut(rest, `"`)
	s.send(ts, "GET", "/v1/tx/"+txid, "", args[1:])
}

func (s *story) admin(ts *testscript.TestScript, args []string) {
	plain := *s.dev.client
	plain.url = plain.admin
	plain.http = http.DefaultClient
	a, err := plain.do(s.t.Context(), "GET", args[0], "")
	if err != nil {
		ts.Fatalf("%v", err)
	}
	ts.Logf("%s", a)
	s.last = a
}

func (s *story) status(ts *testscript.TestScript, args []string) {
	if want, err := strconv.Atoi(args[0]); err != nil || s.last.status != want {
		ts.Fatalf("status is %s", s.last)
	}
	if len(args) > 1 && s.last.code() != args[1] {
		ts.Fatalf("code is %s", s.last)
	}
}

func (s *story) text() string {
	var lines []string
	for k, v := range s.last.header {
		lines = append(lines, k+": "+strings.Join(v, ", "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n\n" + s.last.body
}

func (s *story) has(ts *testscript.TestScript, args []string) {
	for _, a := range args {
		if !strings.Contains(s.text(), a) {
			ts.Fatalf("no %q in\n%s", a, s.text())
		}
	}
}

func (s *story) lacks(ts *testscript.TestScript, args []string) {
	for _, a := range args {
		if strings.Contains(s.text(), a) {
			ts.Fatalf("%q stands in\n%s", a, s.text())
		}
	}
}

func (s *story) save(ts *testscript.TestScript, args []string) {
	s.saved[args[0]] = s.last.body
	ts.Check(os.WriteFile(filepath.Join(ts.Getenv("WORK"), args[0]), []byte(s.last.body), 0o600))
}

func (s *story) same(ts *testscript.TestScript, args []string) {
	if s.last.body != s.saved[args[0]] {
		ts.Fatalf("differs:\n%s\n%s", s.saved[args[0]], s.last.body)
	}
}
