package link

import (
	"bytes"
	"flag"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestFate: packets are lost, delayed, jittered and slowed by the settings, in netem's way. Method: a given chance.
func TestFate(t *testing.T) {
	begun := time.Unix(1e9, 0)
	draws := []float64{}
	f := fate{chance: func() float64 { d := draws[0]; draws = draws[1:]; return d }}
	after := func(s Settings, length int, chances ...float64) time.Duration {
		draws = chances
		return f.due(&s, length, begun).Sub(begun)
	}
	if got := after(Settings{Delay: 40 * time.Millisecond}, 100); got != 40*time.Millisecond {
		t.Error(got)
	}
	jitter := Settings{Delay: 40 * time.Millisecond, Jitter: 10 * time.Millisecond}
	if least, mean := after(jitter, 100, 0), after(jitter, 100, .5); least != 30*time.Millisecond || mean != 40*time.Millisecond {
		t.Error(least, mean)
	}
	f.last, jitter.Correlation = 1, .25
	if got := after(jitter, 100, .5); got != 42500*time.Microsecond { // 3/4 of the middle and 1/4 of the most
		t.Error(got)
	}
	line := Settings{Rate: 8000} // a byte a millisecond
	if first, second := after(line, 10), after(line, 5); first != 10*time.Millisecond || second != 15*time.Millisecond {
		t.Error(first, second)
	}
	draws = []float64{.004, .006}
	loss := Settings{Loss: .005}
	if !f.loses(&loss) || f.loses(&loss) || f.loses(&Settings{}) {
		t.Error("loss is not by chance, or takes what is not to be lost")
	}
}

// TestPipe: packets come out when they are due, the earliest first, and no more are on their way than the limit.
// Method: a pipe in a bubble of time.
func TestPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var settings atomic.Pointer[Settings]
		settings.Store(&Settings{Delay: 50 * time.Millisecond, Limit: 2})
		out, in := net.Pipe()
		p := newPipe(&settings, strings.NewReader(""), in)
		go p.write()
		defer p.end()
		begun := time.Now()
		p.take([]byte("slow"), begun)
		settings.Store(&Settings{Delay: 10 * time.Millisecond, Limit: 2})
		p.take([]byte("fast"), begun)
		p.take([]byte("over"), begun)
		for _, want := range []struct {
			text  string
			after time.Duration
		}{{"fast", 10 * time.Millisecond}, {"slow", 50 * time.Millisecond}} {
			got := make([]byte, 4)
			if _, err := io.ReadFull(out, got); err != nil || string(got) != want.text || time.Since(begun) != want.after {
				t.Errorf("%s after %v (%v), want %+v", got, time.Since(begun), err, want)
			}
		}
		if p.passed.Load() != 2 || p.overflowed.Load() != 1 {
			t.Error(p.passed.Load(), p.overflowed.Load())
		}
	})
}

// TestSettings: flags are read or refused, and netem's arguments are those of the contract's line.
func TestSettings(t *testing.T) {
	for line, want := range map[string]string{
		"-delay 40ms -jitter 10ms -correlation 25% -loss 0.5%": "limit 1000 delay 40000us 10000us 25% loss 0.5%",
		"-rate 100mbit -limit 50":                              "limit 50 rate 100000000bit",
		"-loss 100%":                                           "limit 1000 loss 100%",
		"":                                                     "limit 1000",
		"-loss 0.5":                                            "is no percentage",
		"-loss 101%":                                           "0% to 100%",
		"-loss NaN%":                                           "is no percentage",
		"-rate 1000":                                           "is no rate",
		"-rate 0bit":                                           "is no rate",
		"-rate bit":                                            "is no rate",
		"-delay 2m":                                            "delay and jitter are",
		"-jitter -1ms":                                         "delay and jitter are",
		"-limit -1":                                            "limit is",
	} {
		var s Settings
		fs := flag.NewFlagSet("", flag.ContinueOnError)
		fs.SetOutput(io.Discard)
		s.Bind(fs)
		err := fs.Parse(strings.Fields(line))
		if err == nil {
			err = s.Check()
		}
		got := strings.Join(s.Netem(), " ")
		if err != nil {
			got = err.Error()
		}
		if (err == nil && got != want) || !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

// TestLink: TCP over a link takes as long as the link is set to, gets over loss, and a link that is cut passes
// nothing until it is mended. Afterwards there is no device left.
func TestLink(t *testing.T) {
	l, err := New()
	if Unavailable(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			_ = l.Close()
		}
	}()
	var server net.Listener
	err = l.Run(func() (err error) {
		server, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.There, 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo := func(text []byte) time.Duration {
		t.Helper()
		begun := time.Now()
		_ = c.SetDeadline(begun.Add(20 * time.Second))
		go func() { _, _ = c.Write(text) }()
		got := make([]byte, len(text))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("%d bytes came back otherwise: %v", len(text), err)
		}
		return time.Since(begun)
	}
	echo([]byte("at once"))
	l.Set(Settings{Delay: 40 * time.Millisecond})
	if took := echo([]byte("slow")); took < 80*time.Millisecond {
		t.Errorf("a round trip took %v", took)
	}
	l.Set(Settings{Delay: time.Millisecond, Loss: .02})
	echo(bytes.Repeat([]byte("0123456789"), 100_000))
	if s := l.Stats(); s.Lost == 0 {
		t.Errorf("%+v", s)
	}
	l.Set(Settings{Loss: 1})
	time.AfterFunc(300*time.Millisecond, func() { l.Set(Settings{}) })
	if took := echo([]byte("cut")); took < 300*time.Millisecond {
		t.Errorf("what was sent while the link was cut came back after %v", took)
	}
	name := l.devices[0].Name()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	closed = true
	all, err := net.Interfaces()
	if err != nil || slices.ContainsFunc(all, func(i net.Interface) bool { return i.Name == name }) {
		t.Errorf("%v, %v", all, err)
	}
}
