package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// XDS is how the sidecar obeys a control plane. It does where Addrs is not empty.
type XDS struct {
	Addrs           []string // unix:PATH or HOST:PORT, the preferred one first
	Protocol        XDSProtocol
	Types           []string // of XDSTypes
	NodeID          string
	NodeCluster     string
	Region          string
	Zone            string
	SubZone         string
	MetadataFile    string // a Kubernetes downward API volume's
	TLSCAFile       string
	TLSCertFile     string
	TLSKeyFile      string
	TLSServerName   string
	SPIFFEID        string // the control plane's; empty: its host name is checked
	LimitsName      string // ECDS resource
	RuntimeNames    []string
	SDSAddr         string // unix:PATH of a local agent; empty: secrets come from Addrs
	Certificate     string // SDS resource of the listener's certificate; empty: none
	ClientCA        string // SDS resource of the client trust bundle; empty: none
	RootKeys        string // SDS resource of the macaroon root keys; empty: none
	LastGoodFile    string
	ResourceTimeout time.Duration
}

// On says whether anybody is obeyed.
func (x *XDS) On() bool { return len(x.Addrs) > 0 || x.SDSAddr != "" }

// XDSProtocol is the variant of xDS that is spoken.
type XDSProtocol string

// The variants.
const (
	XDSDelta XDSProtocol = "delta"
	XDSSotW  XDSProtocol = "sotw"
)

// The kinds of resource that XDS.Types names.
const (
	XDSLimits   = "limits"   // ECDS
	XDSRuntime  = "runtime"  // RTDS
	XDSCluster  = "cluster"  // CDS
	XDSEndpoint = "endpoint" // EDS
)

func xdsRows() []row {
	return []row{
		{key: "xds.addr", flag: "xds", bind: func(c *Config) value {
			return words{&c.XDS.Addrs, "address", "at most 8 addresses, each unix:PATH or HOST:PORT", 8, isDialAddr}
		}, help: "control planes, the preferred one first; none: nothing is pushed. Anything but a Unix socket or a loopback address needs xds.tls_ca_file"},
		{key: "xds.protocol", def: "delta", bind: func(c *Config) value { return oneOf(&c.XDS.Protocol, XDSDelta, XDSSotW) }, help: "variant of the protocol: delta is incremental, sotw the state of the world"},
		{key: "xds.types", def: "limits,runtime,cluster,endpoint", bind: func(c *Config) value {
			return words{&c.XDS.Types, "list", "any of limits, runtime, cluster, endpoint", 4, isXDSType}
		}, help: "what is asked for. A control plane may end the whole stream over a type that it does not serve: Istio serves no runtime"},
		{key: "xds.node_id", bind: func(c *Config) value { return label(&c.XDS.NodeID) }, help: "name of this sidecar to the control plane; by default the host's, which is the pod's"},
		{key: "xds.node_cluster", def: "svc-wallet", bind: func(c *Config) value { return label(&c.XDS.NodeCluster) }, help: "name of the group of sidecars that this one belongs to"},
		{key: "xds.region", bind: func(c *Config) value { return label(&c.XDS.Region) }, help: "locality of this sidecar"},
		{key: "xds.zone", bind: func(c *Config) value { return label(&c.XDS.Zone) }, help: "locality of this sidecar"},
		{key: "xds.sub_zone", bind: func(c *Config) value { return label(&c.XDS.SubZone) }, help: "locality of this sidecar"},
		{key: "xds.metadata_file", bind: func(c *Config) value { return fileName(&c.XDS.MetadataFile) }, help: "metadata of this sidecar, as a Kubernetes downward API volume writes labels: a line is name=\"value\""},
		{key: "xds.tls_ca_file", bind: func(c *Config) value { return fileName(&c.XDS.TLSCAFile) }, help: "certificates that the control plane's is verified against, PEM; TLS is spoken where this is set"},
		{key: "xds.tls_cert_file", bind: func(c *Config) value { return fileName(&c.XDS.TLSCertFile) }, help: "certificate chain shown to the control plane, PEM"},
		{key: "xds.tls_key_file", bind: func(c *Config) value { return fileName(&c.XDS.TLSKeyFile) }, help: "private key of that certificate, PEM"},
		{key: "xds.tls_server_name", bind: func(c *Config) value { return hostName(&c.XDS.TLSServerName) }, help: "name expected in the control plane's certificate, where it is not the host of xds.addr"},
		{key: "xds.spiffe_id", bind: func(c *Config) value { return text{&c.XDS.SPIFFEID, "name", "a SPIFFE id, spiffe://…", isSPIFFE} }, help: "the only URI SAN that the control plane's certificate may have; its host name is then not looked at"},
		{key: "xds.limits_name", def: "svc-wallet.limits", bind: func(c *Config) value {
			return text{&c.XDS.LimitsName, "name", "a name of 1 to 253 visible ASCII characters", isResource}
		}, help: "name of the ECDS resource that holds the limits"},
		{key: "xds.runtime_names", def: "svc-wallet.runtime", bind: func(c *Config) value { return words{&c.XDS.RuntimeNames, "list", "at most 8 names", 8, isResource} }, help: "names of the RTDS layers; a later one wins"},
		{key: "xds.sds_addr", bind: func(c *Config) value { return text{&c.XDS.SDSAddr, "address", "unix:PATH", isUnix} }, help: "local agent that serves secrets, such as SPIRE's; by default they come from xds.addr"},
		{key: "xds.certificate", bind: func(c *Config) value { return label(&c.XDS.Certificate) }, help: "name of the secret with the wallet listener's certificate; tls.cert_file holds until it comes"},
		{key: "xds.client_ca", bind: func(c *Config) value { return label(&c.XDS.ClientCA) }, help: "name of the secret with the certificates that client certificates are verified against"},
		{key: "xds.root_keys", bind: func(c *Config) value { return label(&c.XDS.RootKeys) }, help: "name of the generic secret with the root keys of capabilities, in the form of auth.root_keys_file"},
		{key: "xds.last_good_file", def: "/var/lib/svc-wallet/last-good.json", bind: func(c *Config) value { return fileName(&c.XDS.LastGoodFile) }, help: "what the control plane said last, which is in force at a start without it; holds no secret. Empty, or with amnesia: nothing is written"},
		{key: "xds.resource_timeout", def: "15s", bind: func(c *Config) value { return duration(&c.XDS.ResourceTimeout, 100*time.Millisecond, 5*time.Minute) }, help: "how long the control plane may take to send what was asked for"},
	}
}

func (c *Config) xdsRules() []rule {
	x := &c.XDS
	on := len(x.Addrs) > 0
	secrets := x.Certificate != "" || x.ClientCA != "" || x.RootKeys != ""
	nowhere := !on && x.SDSAddr == ""
	far := ""
	for _, a := range x.Addrs {
		if !strings.HasPrefix(a, "unix:") && !loopback(a) {
			far = a
		}
	}
	return []rule{
		{far != "" && x.TLSCAFile == "", "xds.addr", "xds.tls_ca_file", fmt.Sprintf("needs xds.tls_ca_file: %s is neither a Unix socket nor a loopback address", plain(far))},
		{on && len(x.Types) == 0 && (!secrets || x.SDSAddr != ""), "xds.types", "", "names nothing to ask for"},
		{on && slices.Contains(x.Types, XDSRuntime) && len(x.RuntimeNames) == 0, "xds.runtime_names", "xds.types", "names nothing although xds.types has runtime"},
		{x.TLSCertFile != "" && x.TLSKeyFile == "", "xds.tls_cert_file", "xds.tls_key_file", "needs xds.tls_key_file"},
		{x.TLSKeyFile != "" && x.TLSCertFile == "", "xds.tls_key_file", "xds.tls_cert_file", "needs xds.tls_cert_file"},
		{x.TLSCertFile != "" && x.TLSCAFile == "", "xds.tls_cert_file", "xds.tls_ca_file", "needs xds.tls_ca_file"},
		{x.TLSServerName != "" && x.TLSCAFile == "", "xds.tls_server_name", "xds.tls_ca_file", "needs xds.tls_ca_file"},
		{x.SPIFFEID != "" && x.TLSCAFile == "", "xds.spiffe_id", "xds.tls_ca_file", "needs xds.tls_ca_file"},
		{x.TLSServerName != "" && x.SPIFFEID != "", "xds.tls_server_name", "xds.spiffe_id", "does nothing beside xds.spiffe_id"},
		{x.SDSAddr != "" && !secrets, "xds.sds_addr", "", "does nothing: no secret is named"},
		{x.ClientCA != "" && c.TLS.ClientAuth == ClientAuthOff, "xds.client_ca", "tls.client_auth", "does nothing while tls.client_auth is off"},
		{x.Certificate != "" && nowhere, "xds.certificate", "xds.addr", "needs xds.addr or xds.sds_addr"},
		{x.ClientCA != "" && nowhere, "xds.client_ca", "xds.addr", "needs xds.addr or xds.sds_addr"},
		{x.RootKeys != "" && nowhere, "xds.root_keys", "xds.addr", "needs xds.addr or xds.sds_addr"},
	}
}

func isSPIFFE(s string) bool {
	return s == "" || (strings.HasPrefix(s, "spiffe://") && len(s) > len("spiffe://") && len(s) <= 2048 && visible(s))
}

func isUnix(s string) bool { return s == "" || (strings.HasPrefix(s, "unix:") && isDialAddr(s)) }

func isXDSType(s string) bool {
	switch s {
	case XDSLimits, XDSRuntime, XDSCluster, XDSEndpoint:
		return true
	}
	return false
}

func isResource(s string) bool { return len(s) > 0 && len(s) <= 253 && visible(s) }

// words is a field that holds a list whose order counts. As a word they stand with commas between
// them.
type words struct {
	field *[]string
	name  string
	noun  string
	most  int
	fits  func(string) bool
}

func (w words) set(raw any) string {
	list, ok := raw.([]any)
	if one, isText := raw.(string); isText { // in a file a lone one needs no brackets
		list, ok = splitWord(word(one)), true
	}
	if all, isWord := raw.(word); isWord {
		list, ok = splitWord(all), true
	}
	ok = ok && len(list) <= w.most
	found := make([]string, 0, min(len(list), w.most))
	for i := 0; ok && i < len(list); i++ {
		var s string
		s, ok = list[i].(string)
		ok = ok && w.fits(s) && !strings.Contains(s, ",")
		found = append(found, s)
	}
	if !ok {
		return "is not " + w.allowed()
	}
	*w.field = found
	return ""
}

func (w words) from(o value)    { *w.field = *o.(words).field } //nolint:forcetypeassert // of the same row
func (w words) String() string  { return strings.Join(*w.field, ",") }
func (w words) kind() string    { return w.name }
func (w words) allowed() string { return w.noun }
