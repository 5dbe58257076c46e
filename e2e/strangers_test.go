package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// memoryRoom is the memory that docs/operations.md promises to be enough with the defaults.
const memoryRoom = 256 << 20

// TestMemoryOfStrangers runs the sidecar in a memory cgroup of 256 MiB (where there are none, under
// GOMEMLIMIT and with an eye on its resident memory) and lets 800 connections take what they can:
// heads that promise a mebibyte, with and without a token, bodies that stop half-way, as they are, in
// chunks and compressed, heads and handshakes without end. All hold on to what they got. It must live,
// and an honest client must be served meanwhile.
func TestMemoryOfStrangers(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector multiplies memory")
	}
	p := newPair(t)
	peak := confine(t, p)
	p.start()
	if a := p.post(t, "/v1/issue", "fund", `{"to":"rich","asset":"ron","amount_minor":"100000","nonce":1}`); a.status != 200 {
		t.Fatal(a)
	}

	ctx, release := context.WithCancel(t.Context())
	var attackers, holding sync.WaitGroup
	for i := range 800 {
		kind := attacks[i%len(attacks)]
		holding.Add(1)
		attackers.Go(func() {
			var once sync.Once
			a := &attacker{address: strings.TrimPrefix(p.url, "https://"), token: p.token, from: net.IPv4(127, 1, byte(i%64), 1)}
			defer a.end()
			defer once.Do(holding.Done)
			for range 2 {
				a.attack(ctx, kind)
			}
			once.Do(holding.Done)
			<-ctx.Done()
		})
	}
	honest := func(n int) {
		for range n {
			nonce := honestNonce.Add(1)
			a := p.patientlyBusy(t, "/v1/transfer", fmt.Sprintf("honest-%d", nonce), fmt.Sprintf(`{"from":"rich","to":"x","asset":"ron","amount_minor":"1","nonce":%d}`, nonce))
			if a.status != 200 {
				t.Fatalf("an honest payment: %s", a)
			}
			if a := p.get(t, "/v1/balance?account=rich&asset=ron"); a.status != 200 {
				t.Fatalf("an honest read: %s", a)
			}
		}
	}
	honest(100)
	holding.Wait()
	honest(100)
	t.Logf("peak %d MiB; body_memory_bytes %v, refusals %v", peak()>>20, p.metric(t, "body_memory_bytes"), p.metric(t, "body_memory_refusals_total"))
	if got := peak(); got > memoryRoom {
		t.Errorf("%d MiB at the peak, want at most %d", got>>20, memoryRoom>>20)
	}
	release()
	attackers.Wait()
	eventually(t, "no memory is held for bodies", func() bool { return p.metric(t, "body_memory_bytes") == 0 })
	p.side.stop()
}

var honestNonce atomic.Uint64

// patientlyBusy sends again what was refused for now.
func (w *client) patientlyBusy(t testing.TB, path, key, body string) answer {
	t.Helper()
	var a answer
	eventually(t, "a payment is no longer shed", func() bool {
		a = w.post(t, path, key, body)
		return a.status != http.StatusTooManyRequests
	})
	return a
}

// attacks are what a hostile client sends at once, after its handshake; it then waits for an answer.
var attacks = []struct {
	name string
	raw  func(token string) string
}{
	{"a mebibyte promised, no token", func(string) string { return hostileHead("", "Content-Length: 1048576") }},
	{"a mebibyte promised", func(token string) string { return hostileHead(token, "Content-Length: 1048576") }},
	{"a mebibyte but for its end", func(token string) string {
		return hostileHead(token, "Content-Length: 1048576") + strings.Repeat(" ", 1<<20-1)
	}},
	{"half a mebibyte", func(token string) string {
		return hostileHead(token, "Content-Length: 1048576") + strings.Repeat(" ", 1<<19)
	}},
	{"a chunk but for its end", func(token string) string {
		return hostileHead(token, "Transfer-Encoding: chunked") + "ffff0\r\n" + strings.Repeat(" ", 1<<19+1)
	}},
	{"small chunks without end", func(token string) string {
		return hostileHead(token, "Transfer-Encoding: chunked") + strings.Repeat("10\r\n                \r\n", 1<<14)
	}},
	{"gzip at the greatest ratio", func(token string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(bytes.Repeat([]byte(" "), 1<<20-1<<12))
		_ = w.Close()
		padded := b.String() + strings.Repeat("\x00", 100<<10-b.Len())
		return hostileHead(token, fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d", len(padded))) + padded
	}},
	{"a head without end", func(string) string { return "GET /healthz HTTP/1.1\r\nX: " + strings.Repeat("x", 8000) }},
	{"a record without end", nil},
	{"a handshake without end", nil},
}

func hostileHead(token, length string) string {
	return "POST /v1/transfer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\nAuthorization: Bearer " + token + "\r\n" + length + "\r\n\r\n"
}

// attacker has one connection at a time.
type attacker struct {
	address, token string
	from           net.IP
	conn           net.Conn
}

func (a *attacker) end() {
	if a.conn != nil {
		_ = a.conn.Close()
	}
}

// attack sends what is hostile on a new connection. It returns when the server has answered or
// closed, or at once where it waits for more.
func (a *attacker) attack(ctx context.Context, kind struct {
	name string
	raw  func(token string) string
},
) {
	a.end()
	a.conn = nil
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: a.from}}
	raw, err := d.DialContext(ctx, "tcp", a.address)
	if err != nil {
		return
	}
	a.conn = raw
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	switch kind.name {
	case "a handshake without end": // one message of 64 KiB in records of 16
		record := append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 1<<14)...)
		record[5], record[7], record[8] = 1, 0xff, 0xff
		for range 3 {
			_, _ = raw.Write(record)
		}
		_, _ = io.Copy(io.Discard, raw)
		return
	}
	secure := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	if secure.HandshakeContext(ctx) != nil {
		return
	}
	if kind.raw == nil { // the length of a record, and no record
		_, _ = raw.Write([]byte{23, 3, 3, 0x41, 0})
		return
	}
	go func() { _, _ = io.WriteString(secure, kind.raw(a.token)) }()
	_, _ = bufio.NewReader(secure).ReadByte()
}

// confine puts the pair's sidecar into a memory cgroup, and returns how much it has used at most.
func confine(t testing.TB, p *pair) (peak func() int64) {
	t.Helper()
	for _, v := range []struct{ root, limit, peak string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"},
		{"/sys/fs/cgroup", "memory.max", "memory.peak"},
	} {
		group, err := os.MkdirTemp(v.root, "svc-wallet-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			if p.side != nil {
				p.side.kill()
			}
			eventually(t, "the cgroup can go", func() bool { return os.Remove(group) == nil })
		})
		if os.WriteFile(filepath.Join(group, v.limit), []byte(strconv.Itoa(memoryRoom)), 0o600) != nil {
			continue
		}
		p.group = group
		return func() int64 {
			text, err := os.ReadFile(filepath.Join(group, v.peak))
			n, numErr := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err := errors.Join(err, numErr); err != nil {
				t.Fatalf("peak of memory: %v", err)
			}
			return n
		}
	}
	t.Log("no memory cgroups here: GOMEMLIMIT and resident memory")
	p.env = append(p.env, fmt.Sprintf("GOMEMLIMIT=%d", memoryRoom/10*9))
	return func() int64 {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.side.cmd.Process.Pid))
		_, rest, ok := strings.Cut(string(text), "VmHWM:")
		kib, kibErr := strconv.ParseInt(strings.Fields(rest + " 0 ")[0], 10, 64)
		if err := errors.Join(err, kibErr); err != nil || !ok {
			t.Fatalf("resident memory: %v", err)
		}
		return kib << 10
	}
}
