package xds

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"svc-wallet/host"
)

// server is one control plane by its addresses, or the local agent.
type server struct {
	c      *Client
	name   string
	addrs  []string           // the preferred one first
	tls    func() *tls.Config // nil: plain
	open   openProtocol
	types  []anyType
	strict map[string]bool // addresses that stand pings only every five minutes; run's

	// Client.mu guards these.
	addr      string // the one that is in use or tried
	conn      *conn  // to it; nil before the first one
	connected bool   // its stream has brought a message
	since     int64  // that it has been so
	vouched   int64  // when the last connection brought its last bytes; or what is in force is from
	lastError string
}

func newServer(c *Client, name string, addrs []string, open openProtocol) *server {
	return &server{c: c, name: name, addrs: addrs, open: open, strict: map[string]bool{}, vouched: c.opts.Now()}
}

var (
	errSilent    = errors.New("the stream brought nothing in time")
	errStuck     = errors.New("a response could not be answered in time")
	errFrozen    = errors.New("the control plane does not answer pings")
	errPreferred = errors.New("the preferred address answers again")
)

// run keeps one stream until ctx ends.
func (s *server) run(ctx context.Context) {
	at, failures := 0, 0
	for ctx.Err() == nil {
		responded, err := s.connect(ctx, at)
		if strings.Contains(err.Error(), "too_many_pings") { // of a GOAWAY
			s.strict[s.addrs[at]] = true
		}
		s.ended(err)
		switch {
		case errors.Is(err, errPreferred):
			at, failures = 0, 0
			continue
		case errors.Is(err, errSilent), errors.Is(err, errFrozen): // it took its time already, and would again
			at, failures = (at+1)%len(s.addrs), 1
		case responded: // it broke after it had worked: the preferred one first, and soon
			at, failures = 0, 1
		default:
			at, failures = (at+1)%len(s.addrs), failures+1
		}
		t := &s.c.timing
		host.Sleep(ctx, time.Duration(t.jitter(int64(t.reconnect.Pause(failures-1)))))
	}
}

// connect is the life of one stream to an address. It reports whether the stream brought a response.
func (s *server) connect(ctx context.Context, at int) (responded bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(s.c.cfg.XDS.ResourceTimeout, func() { cancel(errSilent) })
	defer silence.Stop()
	ping := s.c.timing.ping
	if s.strict[s.addrs[at]] {
		ping = strictPing
	}
	conn, err := s.dial(s.addrs[at], ping)
	s.c.mu.Lock()
	s.addr, s.conn = s.addrs[at], conn
	s.c.mu.Unlock()
	if err != nil {
		return false, err
	}
	defer conn.Close() //nolint:errcheck // nothing is left to do
	p, err := s.open(ctx, conn.ClientConn, identity{s.c.node})
	if err != nil {
		return false, cause(ctx, err)
	}
	st := newStream(s, p)
	st.onFirst = func() { silence.Stop(); s.responds() }
	if at > 0 {
		probing := s.probePreferred(ctx, cancel)
		defer func() { cancel(nil); <-probing }()
	}
	err = st.run(ctx, cancel)
	if ctx.Err() == nil && st.responded && s.c.opts.Now()-conn.heard.Load() >= int64(s.c.timing.pingTimeout) {
		err = errFrozen
	}
	return st.responded, cause(ctx, err)
}

// cause is why ctx ended, where it did, and else err.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// probePreferred looks for the preferred address while another one serves, and ends that one's stream
// once the preferred one has brought a response: what is in force stays meanwhile, so nothing is lost.
func (s *server) probePreferred(ctx context.Context, cancel context.CancelCauseFunc) (ended chan struct{}) {
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			host.Sleep(ctx, s.c.timing.preferred)
			if ctx.Err() == nil && s.answers(ctx) {
				cancel(errPreferred)
			}
		}
	}()
	return ended
}

// answers reports whether the preferred address brings a response in time.
func (s *server) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, s.c.cfg.XDS.ResourceTimeout)
	defer cancel()
	conn, err := s.dial(s.addrs[0], strictPing)
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // nothing is left to do
	p, err := s.open(ctx, conn.ClientConn, identity{s.c.node})
	if err != nil || newStream(s, p).subscribe() != nil {
		return false
	}
	_, err = p.recv()
	return err == nil
}

// responds notes the first response of a stream.
func (s *server) responds() {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.connected, s.since, s.lastError = true, c.opts.Now(), ""
	c.log.info("xds_connected", logrus.Fields{"source": s.name, "peer_addr": s.addr})
}

// pingGrace is what a ping and its answer may take before nobody vouches any more.
const pingGrace = 2 * time.Second

// age is how long the server has said nothing, where that is longer than a live one would. Client.mu
// is held.
func (s *server) age(now int64) time.Duration {
	if !s.connected {
		return time.Duration(max(0, now-s.vouched))
	}
	if age := time.Duration(now - s.conn.heard.Load()); age > s.conn.ping+pingGrace {
		return age
	}
	return 0
}

// ended notes the end of a stream.
func (s *server) ended(err error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.connected {
		s.vouched = s.conn.heard.Load()
	}
	s.connected, s.since = false, c.opts.Now()
	if !errors.Is(err, context.Canceled) {
		s.lastError = host.Cut(err.Error(), maxReason)
		c.log.warn("xds_disconnected", logrus.Fields{"source": s.name, "peer_addr": s.addr, "reason": s.lastError})
	}
}
