package filters_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"svc-wallet/filters"
)

var (
	hexA = strings.Repeat("a1", 32)
	hexB = strings.Repeat("B2", 32)
)

// TestParseKeys shows the key file's format, by one file that uses all of it.
func TestParseKeys(t *testing.T) {
	keys, err := filters.ParseKeys(strings.NewReader("# rotated in May\r\n\n  new.1\t" + hexA + "  # mints\nold_2 " + hexB))
	if err != nil {
		t.Fatal(err)
	}
	id, key := keys.First()
	if id != "new.1" || !bytes.Equal(key[:], bytes.Repeat([]byte{0xa1}, 32)) || keys.Len() != 2 {
		t.Errorf("first is %q of %d", id, keys.Len())
	}
	for _, shown := range []string{fmt.Sprintf("%v", keys), fmt.Sprintf("%+v", keys), fmt.Sprintf("%#v", keys)} {
		if shown != "2 root keys" {
			t.Errorf("shown as %s", shown)
		}
	}
}

// TestParseKeysFaults shows that every bad line is reported at once and that no report holds a
// key or what may be one, by a file with each fault.
func TestParseKeysFaults(t *testing.T) {
	file := strings.Join([]string{
		"good " + hexA,
		"one-field",
		"three " + hexA + " fields",
		"bad/id " + hexA,
		strings.Repeat("i", 65) + " " + hexA,
		"short " + hexA[2:],
		"long " + hexA + "00",
		"not-hex " + hexA[1:] + "g",
		"zero " + strings.Repeat("0", 64),
		"good " + hexB,
		hexA + " swapped",
	}, "\n")
	keys, err := filters.ParseKeys(strings.NewReader(file))
	if keys != nil || err == nil {
		t.Fatal("a bad file is accepted")
	}
	for line := 2; line <= 11; line++ {
		if !strings.Contains(err.Error(), fmt.Sprintf("line %d:", line)) {
			t.Errorf("line %d is not reported", line)
		}
	}
	if strings.Contains(err.Error(), "line 1:") || strings.Contains(err.Error(), hexA[:6]) || strings.Contains(err.Error(), "'g'") {
		t.Errorf("a good line or a piece of a key is reported:\n%v", err)
	}
}

// TestParseKeysBounds shows what is too little and too much, by a table of readers.
func TestParseKeysBounds(t *testing.T) {
	var many strings.Builder
	for i := range 65 {
		fmt.Fprintf(&many, "k%d %s\n", i, hexA)
	}
	broken := errors.New("disk gone")
	if _, err := filters.ParseKeys(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("broken reader: %v", err)
	}
	for text, want := range map[string]string{
		"":                                    "no key",
		"# nothing\n":                         "no key",
		many.String():                         "line 65: over 64 keys",
		strings.Repeat("#", 64<<10+1):         "over 65536 bytes",
		"k " + hexA + strings.Repeat(" ", 10): "",
	} {
		if _, err := filters.ParseKeys(strings.NewReader(text)); (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

// TestLoadKeys shows that a file is refused when others can touch it, by a table of modes.
func TestLoadKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.keys")
	for _, c := range []struct {
		mode os.FileMode
		text string
		ok   bool
	}{
		{0o600, "k1 " + hexA, true},
		{0o400, "k1 " + hexA, true},
		{0o640, "k1 " + hexA, os.Geteuid() == 0}, // as a Secret of Kubernetes; host's tests have the rule
		{0o604, "k1 " + hexA, false},
		{0o610, "k1 " + hexA, false},
		{0o600, "k1", false},
	} {
		_ = os.Remove(path)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		if keys, err := filters.LoadKeys(path); (err == nil) != c.ok || (keys != nil) != c.ok {
			t.Errorf("mode %o, %q: %v", c.mode, c.text[:2], err)
		}
	}
	if _, err := filters.LoadKeys(filepath.Dir(path)); err == nil {
		t.Error("a folder is a key file")
	}
	if _, err := filters.LoadKeys(path + ".gone"); !errors.Is(err, os.ErrNotExist) {
		t.Error("a missing file is a key file")
	}
}

// TestKeyRing shows that a ring without keys holds none, and that what is stored is loaded.
func TestKeyRing(t *testing.T) {
	var ring filters.KeyRing
	if id, key := ring.Load().First(); id != "" || key != [32]byte{} || ring.Load().Len() != 0 {
		t.Error("the zero ring has a key")
	}
	keys := parseKeys(t, "k1")
	if ring.Store(keys); ring.Load() != keys {
		t.Error("another set than was stored")
	}
}
