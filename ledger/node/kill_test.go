package node

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"svc-wallet/wallet"
)

// childDir makes the test binary the process that TestKill kills: it pays on the store in this
// folder and prints each answer.
const (
	childDir   = "NODE_TEST_CHILD_DIR"
	childFirst = "NODE_TEST_CHILD_FIRST"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		first, _ := strconv.Atoi(os.Getenv(childFirst))
		if err := child(dir, first); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	// ants, which package ledger uses, has two goroutines of its own for good.
	goleak.VerifyTestMain(
		m,
		goleak.IgnoreTopFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreTopFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
	)
}

func child(dir string, first int) error {
	e, err := OpenPebble(dir, Options{Now: func() int64 { return time.Now().UnixNano() }})
	if err != nil {
		return err
	}
	failed := make(chan error)
	for payer := range 4 {
		go func() {
			for n := first; ; n++ {
				out := make([]wallet.Result, 1)
				if err := e.Commit(context.Background(), []wallet.Payment{payment(payer, n)}, out); err != nil || out[0].Code != wallet.OK {
					failed <- fmt.Errorf("payment %d of %d: %s, %w", n, payer, out[0].Code.Name(), err)
				}
				fmt.Printf("%d %d %x %d\n", payer, n, out[0].Receipt.TxID[:], out[0].Seq)
			}
		}()
	}
	return <-failed
}

// patience is how long a test waits for what must come: far more than that takes on any machine.
const patience = 3 * time.Minute

// TestKill: a process that is killed at a random moment, and again, leaves a store that opens,
// balances and has every payment that it had answered. (Power cuts are TestPowerCut: a killed
// process does not lose what the kernel has.)
func TestKill(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	var book ledgerBook
	fund(t, vfs.Default, dir)
	for life := range 10 {
		kill(t, dir, life*1_000_000+1, 1+rng.IntN(200), &book)
		e := mustOpen(t, vfs.Default, dir)
		seen, answers := book.copy()
		if err := verify(e, seen, answers); err != nil {
			t.Fatalf("life %d: %v", life, err)
		}
		mustClose(t, e)
	}
	_, answers := book.copy()
	t.Logf("%d answers kept", len(answers))
}

// kill runs a child until it has printed that many answers, and reads what it printed until dead.
func kill(t *testing.T, dir string, first, after int, book *ledgerBook) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s=%d", childFirst, first))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	guard := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer guard.Stop()
	lines := bufio.NewScanner(out)
	for n := 0; lines.Scan(); n++ {
		var payer, number int
		var txid string
		var seq uint64
		if _, err := fmt.Sscan(lines.Text(), &payer, &number, &txid, &seq); err != nil {
			break // cut off amid the line
		}
		tr := payment(payer, number)
		var id wallet.TxID
		if k, err := hex.Decode(id[:], []byte(txid)); err != nil || k != len(id) {
			break
		}
		book.add([]wallet.Payment{tr}, []wallet.Result{{Seq: seq, Receipt: tr.Receipt(id, millisOf(id))}})
		if n == after {
			if _, err := OpenPebble(dir, Options{Now: frozen}); err == nil {
				t.Error("a folder that another process uses was opened")
			}
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	if cmd.ProcessState.Exited() {
		t.Fatal("the child ended by itself")
	}
}
