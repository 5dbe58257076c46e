package xds

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/sirupsen/logrus"
	"lukechampine.com/blake3"

	"svc-wallet/host"
)

const (
	// lastGoodFormat grows when an older program could not read the file as it was meant.
	lastGoodFormat = 1
	maxLastGood    = 32 << 20 // eight runtime layers and the limits, each of 1 MiB, and room
	lookEvery      = 10       // times that which is between two writes
)

// lastGood is the file: what was accepted last, but no secret.
type lastGood struct {
	Format int            `json:"format"`
	Sum    string         `json:"blake3"` // of Body as it stands in the file
	Body   jsontext.Value `json:"body"`
}

type lastGoodBody struct {
	Written   int64               `json:"written"`            // Unix nanoseconds
	Answered  []string            `json:"answered,omitempty"` // types that the control plane has told of, if only that it has nothing
	Asked     map[string][]string `json:"asked,omitempty"`    // by type: the names that it was asked for
	Resources []lastItem          `json:"resources"`
}

type lastItem struct {
	Type    string         `json:"type"`
	Name    string         `json:"name"`
	Version string         `json:"version"`
	At      int64          `json:"at"`               // Unix nanoseconds
	Expires int64          `json:"expires,omitzero"` // Unix nanoseconds
	Value   jsontext.Value `json:"value"`
}

func sumOf(body []byte) string {
	sum := blake3.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// encodeLastGood is the file of a body.
func encodeLastGood(b lastGoodBody) ([]byte, error) {
	body, err := json.Marshal(b, json.Deterministic(true))
	if err != nil {
		return nil, err
	}
	return json.Marshal(lastGood{lastGoodFormat, sumOf(body), body})
}

// decodeLastGood reads a file, any bytes.
func decodeLastGood(raw []byte) (lastGoodBody, error) {
	var f lastGood
	var b lastGoodBody
	if err := json.Unmarshal(raw, &f); err != nil {
		return b, errors.New("is damaged: it is not the JSON that was written")
	}
	if f.Format != lastGoodFormat {
		return b, fmt.Errorf("has format %d, and this program knows %d", f.Format, lastGoodFormat)
	}
	if sumOf(f.Body) != f.Sum {
		return b, errors.New("is damaged: its checksum is wrong")
	}
	if err := json.Unmarshal(f.Body, &b); err != nil {
		return b, errors.New("is damaged: its body is not what was written")
	}
	return b, nil
}

// tells says whether the file tells of each resource of a type, if only that the control plane has it not.
func (b *lastGoodBody) tells(ts *typeState) bool {
	if !slices.Contains(b.Answered, ts.name) {
		return false
	}
	return !slices.ContainsFunc(ts.names(), func(name string) bool {
		return ts.held[name] == nil && !slices.Contains(b.Asked[ts.name], name)
	})
}

// restore puts what the last run knew in force, type by type. What is damaged, or does not fit
// the configuration any more, is passed over.
func (c *Client) restore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	raw, err := host.ReadFile(c.store.path, maxLastGood)
	if errors.Is(err, fs.ErrNotExist) {
		c.log.info("xds_starts_without_last_good", logrus.Fields{"file": c.store.path})
		return
	}
	var b lastGoodBody
	if err == nil {
		b, err = decodeLastGood(raw)
	}
	if err != nil {
		c.count(typeLastGood, refusedOut, 1)
		c.log.warn("xds_last_good_passed_over", logrus.Fields{"file": c.store.path, "reason": err.Error()})
		return
	}
	resources := 0
	for _, t := range c.types {
		ts := t.state()
		ch, err := t.restored(b.Resources, c.opts.Now())
		if err == nil {
			err = ch.apply()
		}
		if err != nil {
			c.count(ts.name, refusedOut, 1)
			c.log.warn("xds_last_good_passed_over", logrus.Fields{"type": ts.name, "reason": host.Cut(err.Error(), maxReason)})
			continue
		}
		resources += len(ts.held)
		ts.answered = b.tells(ts)
		for _, s := range c.servers {
			if len(ts.held) > 0 && slices.Contains(s.types, t) {
				s.vouched = min(s.vouched, b.Written)
			}
		}
	}
	c.store.wrote.Store(true)
	c.log.info("xds_starts_from_last_good", logrus.Fields{
		"file": c.store.path, "resources": resources, "written": time.Unix(0, b.Written).UTC().Format(time.RFC3339),
	})
}

// restored is the change to the resources of a last good file that have not expired at now.
func (t *typed[T]) restored(items []lastItem, now int64) (*change, error) {
	next := set[T]{map[string]*resource{}, map[string]T{}}
	names := t.names()
	for _, item := range items {
		if t.secret || item.Type != t.name || !slices.Contains(names, item.Name) || (item.Expires > 0 && item.Expires <= now) {
			continue
		}
		value, err := t.rt.unpack(item.Value)
		if err != nil {
			return nil, fault(item.Name, err)
		}
		next.values[item.Name] = value
		next.held[item.Name] = &resource{version: item.Version, at: item.At, expires: item.Expires, disk: true}
	}
	return t.applying(&change{}, next), nil
}

// items is what of a type goes into the last good file.
func (t *typed[T]) items() (items []lastItem, err error) {
	if t.secret {
		return nil, nil
	}
	for name, h := range t.held {
		text, bad := json.Marshal(t.rt.pack(t.values[name]))
		items, err = append(items, lastItem{t.name, name, h.version, h.at, h.expires, text}), errors.Join(err, bad)
	}
	return items, err
}

// snapshot is the last good file of now.
func (c *Client) snapshot() ([]byte, error) {
	c.mu.Lock()
	b := lastGoodBody{Written: c.opts.Now(), Asked: map[string][]string{}}
	var err error
	for _, t := range c.types {
		if ts := t.state(); ts.answered && !ts.secret {
			b.Answered = append(b.Answered, ts.name)
			b.Asked[ts.name] = ts.names()
		}
		items, bad := t.items()
		b.Resources, err = append(b.Resources, items...), errors.Join(err, bad)
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(b.Resources, func(x, y lastItem) int {
		return cmp.Or(strings.Compare(x.Type, y.Type), strings.Compare(x.Name, y.Name))
	})
	return encodeLastGood(b)
}

// store writes the last good file off the path of a push: the newest state, and not more often
// than every so often.
type store struct {
	path  string
	every time.Duration
	dirty atomic.Bool
	wrote atomic.Bool   // once
	wake  chan struct{} // capacity 1

	mu  sync.Mutex
	err error // of the last attempt
}

func newStore(path string, every time.Duration) *store {
	return &store{path: path, every: every, wake: make(chan struct{}, 1)}
}

// touch says that there is something to write.
func (s *store) touch() {
	s.dirty.Store(true)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends. Now and then it looks whether the file is as it was written.
func (s *store) run(ctx context.Context, snapshot func() ([]byte, error), log *floodLog) {
	look := time.NewTicker(lookEvery * s.every)
	defer look.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-look.C:
			s.restore()
		}
		s.flush(snapshot, log)
		host.Sleep(ctx, s.every)
	}
}

// restore has the file written again where that failed, or where it is there no more.
func (s *store) restore() {
	s.mu.Lock()
	failed := s.err != nil
	s.mu.Unlock()
	if _, err := os.Stat(s.path); failed || (s.wrote.Load() && errors.Is(err, fs.ErrNotExist)) {
		s.dirty.Store(true)
	}
}

// flush writes what is not written yet. A failure is logged once, until a write succeeds.
func (s *store) flush(snapshot func() ([]byte, error), log *floodLog) {
	if !s.dirty.Swap(false) {
		return
	}
	text, err := snapshot()
	if err == nil {
		err = host.WriteFile(s.path, text, 0o600)
	}
	if err == nil {
		s.wrote.Store(true)
	}
	s.mu.Lock()
	before := s.err
	s.err = err
	s.mu.Unlock()
	if err != nil && before == nil {
		log.warn("xds_last_good_not_written", logrus.Fields{"file": s.path, "reason": err.Error()})
	}
}

func (s *store) failure() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		return ""
	}
	return s.err.Error()
}
