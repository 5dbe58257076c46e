package host

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// lookEvery is how soon a change is noticed. A look reads a dozen small files, in half a millisecond.
	lookEvery = time.Second

	maxWatched = 4 << 20 // bytes of a file
)

// Files reads the files of certificates and keys again when they hold something else than before. It
// polls and compares contents, because that holds for whatever replaces a file (a rename, a write in
// place, Kubernetes' swapped symbolic link, a copy that keeps the old time) and on every file system.
//
// What cannot be used changes nothing: what was read well last stays in force, until the files can be
// used again. That is logged once, not at every look, and counted.
type Files struct {
	log  logrus.FieldLogger
	wall func() int64

	mu      sync.Mutex
	watched []*Watched // as many as the program names; mu
}

// NewFiles watches nothing yet. Run does the looking. wall is the time of day in Unix nanoseconds.
func NewFiles(log logrus.FieldLogger, wall func() int64) *Files { return &Files{log: log, wall: wall} }

// Watch adds a set of files. It is empty until Turn. Each of its files in turn is read by one of read,
// which is ReadFile or ReadSecret, and all further ones by the last.
func (f *Files) Watch(name string, read ...func(path string, most int64) ([]byte, error)) *Watched {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &Watched{name: name, read: read, wall: f.wall, log: f.log.WithField("files", name)}
	f.watched = append(f.watched, w)
	return w
}

// Watched are all sets of files.
func (f *Files) Watched() []*Watched {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*Watched(nil), f.watched...)
}

// Run looks every second until ctx ends.
func (f *Files) Run(ctx context.Context) error {
	for Sleep(ctx, lookEvery) {
		f.Look()
	}
	return nil
}

// Look reads every file now, and puts in force what is new and good.
func (f *Files) Look() {
	for _, w := range f.Watched() {
		w.look()
	}
}

// Watched is a set of files that are put in force together: a certificate and its key, say.
type Watched struct {
	name string
	read []func(path string, most int64) ([]byte, error)
	wall func() int64
	log  logrus.FieldLogger

	applied, refused atomic.Uint64
	leaf             atomic.Pointer[x509.Certificate] // nil: none is shown

	mu    sync.Mutex
	paths []string
	use   func(contents [][]byte) error // nil until the first Turn that went well
	inUse sum                           // of what is in force
	bad   sum                           // of what use refused last
	fault string                        // why the files are not in force; "": they are
}

// sum stands for contents, so that no key is kept here.
type sum [sha256.Size]byte

// Name is what the set was called.
func (w *Watched) Name() string { return w.name }

// Applied counts how often changed files were put in force.
func (w *Watched) Applied() uint64 { return w.applied.Load() }

// Refused counts how often changed files could not be used.
func (w *Watched) Refused() uint64 { return w.refused.Load() }

// Show notes the certificate that is in force, nil for none: what logs and metrics tell of.
func (w *Watched) Show(leaf *x509.Certificate) { w.leaf.Store(leaf) }

// NotAfter is the end of the certificate in force; false: there is none.
func (w *Watched) NotAfter() (time.Time, bool) {
	leaf := w.leaf.Load()
	if leaf == nil {
		return time.Time{}, false
	}
	return leaf.NotAfter, true
}

// Fields tell of a certificate in a log line; of none, nothing.
func Fields(leaf *x509.Certificate) logrus.Fields {
	if leaf == nil {
		return logrus.Fields{}
	}
	return logrus.Fields{"not_after": leaf.NotAfter.UTC().Format(time.RFC3339), "serial": fmt.Sprintf("%x", leaf.SerialNumber)}
}

// Succeed refuses a certificate that is not valid by its dates as the successor of one that is. Where
// there is none better it is taken, with a warning: that tells more than a process that does not start,
// and the machine's clock may be what is wrong. before may be nil.
func (w *Watched) Succeed(before, next *x509.Certificate) error {
	now := time.Unix(0, w.wall())
	err := CheckDates(next, now)
	if err == nil || (before != nil && CheckDates(before, now) == nil) {
		return err
	}
	w.log.WithFields(Fields(next)).WithField("reason", err.Error()).Warn("certificate_not_valid")
	return nil
}

// Turn reads these files and hands their contents to use, in their order, now and whenever one of them
// has changed. A path "" is no file, and its content is nil. use puts all of it in force or, with an
// error, nothing; calls do not overlap. On an error all stays as it was, the files watched included.
func (w *Watched) Turn(use func(contents [][]byte) error, paths ...string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	contents, now, err := w.readAll(paths)
	if err != nil {
		return err
	}
	if err := use(contents); err != nil {
		return err
	}
	w.paths, w.use, w.inUse, w.bad, w.fault = paths, use, now, sum{}, ""
	return nil
}

func (w *Watched) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.use == nil {
		return
	}
	contents, now, err := w.readAll(w.paths)
	switch {
	case err != nil:
	case now == w.inUse:
		if w.fault != "" {
			w.log.Info("files_as_before")
		}
		w.bad, w.fault = sum{}, ""
		return
	case now == w.bad:
		return // said already
	default:
		if err = w.use(contents); err == nil {
			w.inUse, w.bad, w.fault = now, sum{}, ""
			w.applied.Add(1)
			w.log.WithFields(Fields(w.leaf.Load())).Info("files_reloaded")
			return
		}
		if !errors.As(err, new(dateError)) { // which passes without a change of the files
			w.bad = now
		}
	}
	if err.Error() != w.fault {
		w.fault = err.Error()
		w.refused.Add(1)
		w.log.WithError(err).Error("files_refused")
	}
}

// readAll reads each file, and sums up what they hold.
func (w *Watched) readAll(paths []string) (contents [][]byte, all sum, err error) {
	h := sha256.New()
	for i, path := range paths {
		var raw []byte
		if path != "" {
			if raw, err = w.read[min(i, len(w.read)-1)](path, maxWatched); err != nil {
				return nil, sum{}, err
			}
		}
		contents = append(contents, raw)
		_, _ = fmt.Fprintf(h, "%d ", len(raw)) // a hash never fails
		_, _ = h.Write(raw)
	}
	return contents, sum(h.Sum(nil)), nil
}
