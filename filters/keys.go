package filters

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"svc-wallet/host"
)

// Bounds of a key file: far beyond any rotation, and small enough to read whole.
const (
	maxKeys     = 64
	maxKeysFile = 64 << 10
)

// Keys is an immutable set of root keys (CONTRACT §3). The zero value holds none, so it verifies
// nothing.
type Keys struct {
	first string
	byID  map[string][32]byte
}

// ParseKeys reads a key file: a line is `<key id> <64 hex digits>`, `#` begins a comment, and the
// first key mints. Every bad line is reported at once, by its number only: what is misplaced on
// it may be a key.
func ParseKeys(r io.Reader) (*Keys, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxKeysFile+1))
	if err != nil {
		return nil, fmt.Errorf("read root keys: %w", err)
	}
	if len(text) > maxKeysFile {
		return nil, fmt.Errorf("root keys: over %d bytes", maxKeysFile)
	}
	k := &Keys{byID: map[string][32]byte{}}
	var faults []error
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) > 0 {
			if err := k.add(fields); err != nil {
				faults = append(faults, fmt.Errorf("root keys, line %d: %w", number, err))
			}
		}
	}
	if len(faults) == 0 && len(k.byID) == 0 {
		faults = append(faults, errors.New("root keys: the file holds no key"))
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return k, nil
}

// add takes one line of a key file.
func (k *Keys) add(fields []string) error {
	if len(fields) != 2 {
		return errors.New("want `<key id> <64 hex digits>`")
	}
	id, digits := fields[0], fields[1]
	var key [32]byte
	if !isID(id) {
		return errors.New("the key id must match [A-Za-z0-9_.-]{1,64}")
	}
	if len(digits) != 2*len(key) {
		return fmt.Errorf("the key must be 64 hex digits, it has %d characters", len(digits))
	}
	if _, err := hex.Decode(key[:], []byte(digits)); err != nil { // err holds a byte of the key
		return errors.New("the key must be 64 hex digits")
	}
	if key == [32]byte{} {
		return errors.New("the key is all zeros")
	}
	if _, twice := k.byID[id]; twice {
		return errors.New("the key id is there already")
	}
	if len(k.byID) == maxKeys {
		return fmt.Errorf("over %d keys", maxKeys)
	}
	if len(k.byID) == 0 {
		k.first = id
	}
	k.byID[id] = key
	return nil
}

// LoadKeys reads a key file from disk. Whoever reads a root key can mint any capability, so it refuses
// one that others can read.
func LoadKeys(path string) (*Keys, error) {
	text, err := host.ReadSecret(path, maxKeysFile)
	if err != nil {
		return nil, fmt.Errorf("root keys: %w", err)
	}
	k, err := ParseKeys(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// First is the key that mints: an empty id for a set without keys.
func (k *Keys) First() (id string, key [32]byte) { return k.first, k.byID[k.first] }

// Len is the number of keys.
func (k *Keys) Len() int { return len(k.byID) }

func (k *Keys) find(id []byte) (key [32]byte, ok bool) {
	key, ok = k.byID[string(id)]
	return key, ok
}

// String keeps the keys out of logs.
func (k *Keys) String() string { return fmt.Sprintf("%d root keys", len(k.byID)) }

// GoString is String.
func (k *Keys) GoString() string { return k.String() }

// KeyRing holds the root keys in force: one atomic load on the hot path. The zero value has no
// keys and so verifies nothing.
type KeyRing struct{ p atomic.Pointer[Keys] }

var noKeys Keys //nolint:gochecknoglobals // the zero value, never written

// Load returns the keys in force, never nil.
func (r *KeyRing) Load() *Keys {
	if k := r.p.Load(); k != nil {
		return k
	}
	return &noKeys
}

// Store puts other keys in force. From the next request on no token stands on the old ones;
// every verdict that was cached under them is void.
func (r *KeyRing) Store(k *Keys) { r.p.Store(k) }

// isID is the grammar of key ids and token ids.
func isID[T ~string | ~[]byte](s T) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}
