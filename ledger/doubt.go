package ledger

import (
	"context"
	"errors"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/connectivity"

	"svc-wallet/host"
)

// DoubtKind is why the ledger in use is not taken for the one that this process has paid into.
type DoubtKind uint8

// The kinds.
const (
	ledgerBehind DoubtKind = iota // its version is below one that it had
	lacksPayment                  // it does not have a payment that it acknowledged
	otherLedger                   // it has another name
	NumDoubts
)

// String is the value of the label reason.
func (k DoubtKind) String() string {
	return [NumDoubts]string{ledgerBehind: "behind", lacksPayment: "lacks_payment", otherLedger: "other_ledger"}[k]
}

// Doubt is what a Client holds against the ledger in use after it came back: it is an older copy of
// the one that this process has paid into, or another one. While there is a doubt no payment is
// sent, and nothing that it answers is told. It ends when an operator accepts the ledger as it is (Accept), or when the right one is back.
// It is immutable.
type Doubt struct {
	Kind   DoubtKind
	Reason string
	Seen   uint64 // highest version that this process has seen
	Seq    uint64 // version of the ledger when it came back

	name *ledgerName
}

// Error says what is wrong, as /readyz shows it.
func (d *Doubt) Error() string { return d.Reason }

// Doubt is the doubt there is now; nil: none.
func (c *Client) Doubt() *Doubt { return c.doubt.Load() }

// Doubts counts the times that a doubt of that kind arose.
func (c *Client) Doubts(k DoubtKind) uint64 { return c.doubts[k].Load() }

// barred says why no payment may be sent on l, and no answer from there be told.
func (c *Client) barred(l *link) error {
	if d := c.doubt.Load(); d != nil {
		return d
	}
	if !l.proved() {
		return errUnproved
	}
	return nil
}

// vouched is barred for a read, which waits a little for the proof where there is a connection.
func (c *Client) vouched(ctx context.Context, l *link) error {
	for until := c.opts.Now() + int64(brief); ; {
		err := c.barred(l)
		if !errors.Is(err, errUnproved) || l.conn.GetState() != connectivity.Ready ||
			c.opts.Now() >= until || !host.Sleep(ctx, again.First) {
			return err
		}
	}
}

// isDoubt says of a call's error that a doubt about the ledger is why.
func isDoubt(err error) bool {
	var d *Doubt
	return errors.As(err, &d)
}

// errUnproved bars calls of a ledger whose stream was lost, until another one tells what is there.
var errUnproved = errors.New("the connection was lost, and what came back has not proved itself yet")

// judge takes the name and the version that a stream on l has told by its first heartbeat. An error
// says that the node could not be asked.
//
// asOf is when the tick was sent that the heartbeat answers.
func (c *Client) judge(ctx context.Context, l *link, n *ledgerName, seq uint64, asOf int64, known known) error {
	var d *Doubt
	if !l.judged.Swap(false) {
		var err error
		if d, err = known.check(ctx, l, n, seq); err != nil {
			return err
		}
	}
	if d != nil {
		d.Seen, d.Seq, d.name = known.seen, seq, n
		if c.opts.OnDoubt != nil {
			c.opts.OnDoubt() // first, so that who sees the doubt is told nothing from memory any more
		}
	}
	c.mu.Lock()
	if c.link.Load() != l { // what an old link tells late counts for nothing
		c.mu.Unlock()
		return nil
	}
	if d == nil {
		c.evidence.named(n)
	}
	before := c.doubt.Swap(d)
	l.answered.Store(asOf)
	l.unproved.Store(false)
	c.mu.Unlock()
	c.saw(seq)
	c.tell(l, before, d)
	return nil
}

// tell tells operators of a turn, once.
func (c *Client) tell(l *link, before, d *Doubt) {
	log := c.opts.Log.WithField("upstream", l.addr)
	switch {
	case d == nil && before != nil:
		log.Warn("ledger_is_back")
		c.up()
	case d == nil:
		c.up()
	case before == nil || before.Reason != d.Reason:
		c.doubts[d.Kind].Add(1)
		log.WithFields(d.fields()).Error("ledger_went_back")
	}
}

func (d *Doubt) fields() logrus.Fields {
	return logrus.Fields{"reason": d.Reason, "kind": d.Kind.String(), "version": d.Seq, "version_seen": d.Seen}
}

// up says that payments may go to the endpoint in use.
func (c *Client) up() {
	if c.opts.OnUp != nil {
		c.opts.OnUp()
	}
}

// saw notes a version that the ledger has told, unless it is not the one paid into.
func (c *Client) saw(seq uint64) {
	if c.doubt.Load() == nil {
		c.evidence.saw(seq)
	}
}

// Accept takes the ledger in use for the one to pay into from now on, as it is. It returns the doubt
// that this ends; nil: there was none.
func (c *Client) Accept() *Doubt {
	c.mu.Lock()
	d := c.doubt.Load()
	if d != nil {
		c.evidence.adopt(d.name, d.Seq)
		c.doubt.Store(nil)
	}
	addr := c.Endpoint()
	c.mu.Unlock()
	if d == nil {
		return nil
	}
	c.opts.Log.WithField("upstream", addr).WithFields(d.fields()).Warn("ledger_accepted")
	c.up()
	return d
}
