package control

import (
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"google.golang.org/grpc/codes"

	"svc-wallet/host"
)

// TestBinding: a table of rules, of what a node calls itself and of its certificate's URI.
func TestBinding(t *testing.T) {
	for _, c := range []struct {
		rule, id, cluster, uri string
		want                   bool
	}{
		{"spiffe://mesh/{cluster}/{id}", "w1", "pay", "spiffe://mesh/pay/w1", true},
		{"spiffe://mesh/{cluster}/{id}", "w2", "pay", "spiffe://mesh/pay/w1", false},
		{"spiffe://mesh/{cluster}/{id}", "w1", "payroll", "spiffe://mesh/pay/w1", false},
		{"spiffe://mesh/{cluster}/{id}", "w1", "pay", "spiffe://mesh/pay/w1/x", false},
		{"spiffe://mesh/{cluster}/{id}", "x/w1", "pay", "spiffe://mesh/pay/x/w1", false}, // else a/b and c were a and b/c
		{"spiffe://mesh/{cluster}/*", "anything", "pay", "spiffe://mesh/pay/w1", true},
		{"spiffe://mesh/{cluster}/*", "anything", "", "spiffe://mesh//w1", false},
		{"spiffe://*/{id}", "w1", "", "spiffe://mesh/pay/w1", true},
		{"spiffe://mesh/{id}", "*", "", "spiffe://mesh/w1", false}, // a node's star is a star
		{"spiffe://mesh/{id}", "*", "", "spiffe://mesh/*", true},
		{"spiffe://mesh/{id}", "{cluster}", "w1", "spiffe://mesh/w1", false},
		{"spiffe://mesh/{id}", "w1", "", "", false},
	} {
		b, err := newBinding(c.rule)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.fits(c.uri, c.id, c.cluster); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if _, err := newBinding("spiffe://mesh/*"); err == nil || !strings.Contains(err.Error(), "binds nothing") {
		t.Errorf("a rule that binds nothing: %v", err)
	}
	if _, err := New(Options{Source: t.TempDir(), AllowEmpty: true, BindNodes: []string{"{id}"}}); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("a rule without certificates: %v", err)
	}
}

// TestNodeIsBoundToItsCertificate: with rules a sidecar is served only as the node that its certificate names,
// in both protocols; without, under TLS, that is warned about. Method: real certificates over TLS.
func TestNodeIsBoundToItsCertificate(t *testing.T) {
	ca, later := newAuthority(t), time.Now().Add(time.Hour)
	current, err := host.NewFiles(logrus.New(), func() int64 { return time.Now().UnixNano() }).Certs("control", ca.save(t.TempDir(), ca.issue("", later)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"default.json": `{"queue":5}`}
	r := newRig(t, rigOptions{files: files, change: func(o *Options) {
		o.TLS, o.BindNodes = current.Server, []string{"spiffe://mesh/{cluster}/{id}", "spiffe://edge/{id}"}
	}})
	for _, c := range []struct {
		uri, id, cluster string
		in               bool
	}{
		{"spiffe://mesh/pay/w1", "w1", "pay", true},
		{"spiffe://edge/w1", "w1", "any", true},
		{"spiffe://mesh/pay/w1", "w2", "pay", false},
		{"spiffe://mesh/pay/w1", "w1", "other", false},
		{"", "w1", "pay", false},
	} {
		for _, protocol := range []string{"delta", "sotw"} {
			p := r.connectOn(r.dial(ca.client(ca.issue(c.uri, later))), protocol, c.id, c.cluster)
			p.subscribe(kindLimits, "svc-wallet.limits")
			if c.in {
				p.next(kindLimits)
			} else {
				p.ends(codes.PermissionDenied)
			}
		}
	}
	if r.log.has("node_ids_unbound") {
		t.Error("a warning although nodes are bound")
	}
	unbound := newRig(t, rigOptions{files: files, change: func(o *Options) { o.TLS = current.Server }})
	unbound.eventually("it warns", func() bool { return unbound.log.has("node_ids_unbound") })
}
