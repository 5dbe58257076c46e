package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
)

// TestDevOnATakenPort: dev on a port that somebody else has ends with one line that says how to get another.
func TestDevOnATakenPort(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var out, said bytes.Buffer
	code := run([]string{"dev", "--dir", t.TempDir(), "--bind", ln.Addr().String(), "--metrics", "127.0.0.1:0"}, nil, &out, &said)
	if text := said.String(); code != exitError || !strings.Contains(text, "address already in use; free ports are taken by --bind 127.0.0.1:0") ||
		strings.Count(text, "svc-wallet: ") != 1 {
		t.Errorf("%d, %s", code, text)
	}
}
