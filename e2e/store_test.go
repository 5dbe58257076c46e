package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"svc-wallet/ledger/node"
)

// smallDisk is a folder on a disk of its own that can be filled.
func smallDisk(t *testing.T, megabytes string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+megabytes+"m"); err != nil {
		t.Skipf("a disk of its own needs the right to mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes what is left of the disk.
func fill(t *testing.T, dir string) (ballast string) {
	t.Helper()
	return fillBut(t, dir, 0)
}

// fillBut takes what is left of the disk but some bytes, whole pages of it.
func fillBut(t *testing.T, dir string, free int64) (ballast string) {
	t.Helper()
	ballast = filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		err = errors.Join(f.Truncate(max(0, at-free)), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return ballast
}

// ended waits for the program's end and tells its exit code and its last line.
func ended(t *testing.T, p *program) (code int, said string) {
	t.Helper()
	eventually(t, "its end", func() bool {
		select {
		case <-p.exited:
			return true
		default:
			return false
		}
	})
	said = strings.TrimSpace(p.everything())
	return p.cmd.ProcessState.ExitCode(), said
}

// TestFullDisk: a node whose disk is full says so in one line and ends with 1, where it cannot make
// its state at a start, and where a payment finds no room. It never spins, and with room again it
// starts and has everything that it told.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t, "48")
	data := filepath.Join(disk, "data")
	p := newPair(t)
	p.ledgerArgs = []string{"ledger", "--data", data, "--listen", p.ledgerAddr}
	p.start()
	issue := func(n int) answer {
		body := fmt.Sprintf(`{"to":"alice","asset":"ron","amount_minor":"5","nonce":%d}`, n)
		a, err := p.do(t.Context(), http.MethodPost, "/v1/issue", body, "Idempotency-Key", fmt.Sprintf("%064d", n))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := issue(1); a.status != 200 {
		t.Fatal(a)
	}
	p.node.stop()
	if err := os.RemoveAll(filepath.Join(data, "state")); err != nil { // it is to be made again
		t.Fatal(err)
	}
	ballast := fill(t, disk)
	p.startNode()
	if code, said := ended(t, p.node); code != 1 || strings.Contains(last(said), "\n") || !strings.Contains(last(said), "no space left on device") {
		t.Errorf("at a start it ended with %d after it said\n%s", code, said)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}

	p.startNode()
	p.ready(t)
	ballast = fill(t, disk)
	paid := 1
	for p.running() {
		if a := issue(paid + 1); a.status == 200 {
			paid++
		} else {
			wait(t, time.Millisecond)
		}
	}
	if code, said := ended(t, p.node); code != 1 || !strings.Contains(last(said), "no space left on device") {
		t.Errorf("at a payment it ended with %d after it said\n%s", code, said)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p.startNode()
	p.ready(t)
	for _, n := range []int{1, paid} {
		if a := issue(n); a.status != 200 || a.header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("payment %d is %v", n, a)
		}
	}
}

// TestFullDiskAtARestart: over a store that a kill left, a node that finds the disk full, or nearly so,
// either serves or says so in one line and ends with 1, and stops in good order or the same way. With
// room again it has everything. Method: one store on disks with less and less room. A start that spins
// ends never.
func TestFullDiskAtARestart(t *testing.T) {
	disk := smallDisk(t, "8")
	data, kept := filepath.Join(disk, "data"), filepath.Join(t.TempDir(), "kept")
	p := newPair(t)
	p.ledgerArgs = []string{"ledger", "--data", data, "--listen", p.ledgerAddr}
	p.start()
	for n := range 20 {
		if a := p.post(t, "/v1/issue", fmt.Sprint("key", n), fmt.Sprintf(`{"to":"alice","asset":"ron","amount_minor":"5","nonce":%d}`, n+1)); a.status != 200 {
			t.Fatal(a)
		}
	}
	p.node.kill()
	if err := os.CopyFS(kept, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, free := range []int64{0, 4 << 10, 8 << 10, 12 << 10, 16 << 10, 24 << 10, 40 << 10, 100 << 10, 1 << 20, 2 << 20} {
		if err := errors.Join(os.RemoveAll(data), os.CopyFS(data, os.DirFS(kept))); err != nil {
			t.Fatal(err)
		}
		ballast := fillBut(t, disk, free)
		p.startNode()
		eventually(t, "its end or its serving", func() bool {
			return !p.running() || strings.Contains(p.node.everything(), `"listening"`)
		})
		if p.running() {
			p.node.signal(syscall.SIGTERM)
		} else {
			refused++
		}
		if code, said := ended(t, p.node); code != 0 && (code != 1 || !strings.Contains(last(said), "no space left on device")) ||
			code == 0 && !strings.Contains(said, `"listening"`) || strings.Contains(said, "goroutine") {
			t.Errorf("with %d bytes free it ended with %d after it said\n%s", free, code, said)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("no start met the full disk")
	}
	p.startNode()
	p.ready(t)
	if a := p.post(t, "/v1/issue", "key19", `{"to":"alice","asset":"ron","amount_minor":"5","nonce":20}`); a.status != 200 || a.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the last payment is %v", a)
	}
}

func (p *pair) running() bool {
	select {
	case <-p.node.exited:
		return false
	default:
		return true
	}
}

// last is the last line.
func last(said string) string { return said[strings.LastIndexByte(said, '\n')+1:] }

// TestSignalEndsAStart: SIGTERM ends a start that waits for ever, with 0, since nothing was
// acknowledged. Method: a file of the store is a pipe that nobody writes to.
func TestSignalEndsAStart(t *testing.T) {
	data := t.TempDir()
	pipe := filepath.Join(data, "durable")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skipf("no pipes here: %v", err)
	}
	p := start(t, "ledger", "--data", data, "--listen", "unix:"+filepath.Join(data, "s"))
	var held *os.File
	eventually(t, "its reading", func() bool {
		var err error
		held, err = os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		return err == nil
	})
	defer func() { _ = held.Close() }()
	p.signal(syscall.SIGTERM)
	if code, said := ended(t, p); code != 0 {
		t.Errorf("it ended with %d after it said\n%s", code, said)
	}
}

// TestLedgerVerify: the command says in a line, or as JSON, what it read, ends with 0 where the store
// is sound and with 1 where it is damaged, in use or not there.
func TestLedgerVerify(t *testing.T) {
	p := startPair(t)
	for _, key := range []string{"k1", "k2"} {
		if a := p.post(t, "/v1/issue", key, `{"to":"`+key+`","asset":"ron","amount_minor":"5","nonce":1}`); a.status != 200 {
			t.Fatal(a)
		}
	}
	data := filepath.Join(filepath.Dir(p.caFile), "data")
	verify := func(args ...string) (code int, out, said string) {
		cmd := exec.Command(binary, append([]string{"ledger", "verify", "--data", data}, args...)...)
		cmd.Env = append(os.Environ(), "GORACE="+raceOptions())
		var stderr strings.Builder
		cmd.Stderr = &stderr
		text, err := cmd.Output()
		if err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(text), stderr.String()
	}
	if code, _, said := verify(); code != 1 || !strings.Contains(said, "a node uses the folder, stop it first") {
		t.Errorf("in use: %d, %s", code, said)
	}
	p.side.stop()
	p.node.stop()
	if code, out, said := verify(); code != 0 || said != "" || !strings.HasPrefix(out, "2 payments in ") || !strings.Contains(out, ": 0 faults\n") {
		t.Errorf("sound: %d, %s, %s", code, out, said)
	}
	var r node.Report
	code, out, said := verify("--json")
	if err := json.Unmarshal([]byte(out), &r); code != 0 || said != "" || err != nil || r.Payments != 2 || r.Last != 2 || r.Faults != 0 || !strings.Contains(out, `"fault_list":[],"not_judged":[]`) {
		t.Errorf("sound, as JSON: %d, %s, %s", code, out, said)
	}
	segments, err := filepath.Glob(filepath.Join(data, "journal", "*.log"))
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	text, err := os.ReadFile(segments[0])
	if err == nil {
		text[120] ^= 1
		err = os.WriteFile(segments[0], text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	code, out, said = verify("--json")
	if err := json.Unmarshal([]byte(out), &r); code != 1 || err != nil || r.Faults == 0 || !strings.Contains(r.Told[0], filepath.Base(segments[0])) || strings.Count(said, "\n") != 1 {
		t.Errorf("damaged: %d, %s, %s", code, out, said)
	}
	data = t.TempDir()
	if code, _, said := verify(); code != 1 || !strings.Contains(said, "there is no store") {
		t.Errorf("nothing there: %d, %s", code, said)
	}
	if left, err := os.ReadDir(data); err != nil || len(left) > 0 {
		t.Errorf("the check made %v, %v", left, err)
	}
}
