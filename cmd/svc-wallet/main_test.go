package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestLogLine writes lines as JSON and as text, and checks the fields of CONTRACT §6 that every
// line has, whoever writes it.
func TestLogLine(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(&out, "json", "info")
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("not_said")
	log.WithField("reason", "why").Warn("happened")
	var line map[string]string
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	if _, err := time.Parse("2006-01-02T15:04:05.000Z07:00", line["ts"]); err != nil {
		t.Error(err)
	}
	delete(line, "ts")
	if want := map[string]string{"level": "warning", "service": "svc-wallet", "event": "happened", "reason": "why"}; !maps.Equal(line, want) {
		t.Errorf("the line is %v, want ts and %v", line, want)
	}
	out.Reset()
	if log, err = newLogger(&out, "text", "debug"); err != nil {
		t.Fatal(err)
	}
	log.Debug("happened")
	if !regexp.MustCompile(`ts="?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}`).Match(out.Bytes()) {
		t.Errorf("no milliseconds in %s", out.String())
	}
	for _, part := range []string{"ts=", "level=debug", "service=svc-wallet", "event=happened"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("no %s in %s", part, out.String())
		}
	}
	for _, level := range []string{"", "loud", "trace", "fatal", "panic"} {
		if _, err := newLogger(&out, "json", level); err == nil {
			t.Errorf("the level %q was taken", level)
		}
	}
}
