package xds

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	transport "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

const (
	secretURL = typePrefix + "envoy.extensions.transport_sockets.tls.v3.Secret"
	maxSecret = 1 << 20 // bytes of one part
)

// secret is one of the three forms that are taken: a certificate with its key, certificates to
// verify by, or a text.
type secret struct {
	form      string
	cert, key []byte
	text      []byte // of the other two
}

const (
	formCertificate = "tls_certificate"
	formCA          = "validation_context"
	formText        = "generic_secret"
)

// equal takes nil for what the static files hold.
func (s *secret) equal(o *secret) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.form == o.form && bytes.Equal(s.cert, o.cert) && bytes.Equal(s.key, o.key) && bytes.Equal(s.text, o.text)
}

// secretType is SDS. No error of it quotes a secret.
func secretType() resourceType[*secret] {
	return resourceType[*secret]{
		typeInfo: typeInfo{name: typeSecret, url: secretURL, secret: true},
		decode:   decoder((*transport.Secret).GetName, readSecret),
	}
}

func readSecret(m *transport.Secret) (*secret, error) {
	switch s := m.GetType().(type) {
	case *transport.Secret_TlsCertificate:
		return readCertificate(s.TlsCertificate)
	case *transport.Secret_ValidationContext:
		pem, err := inline("validation_context.trusted_ca", s.ValidationContext.GetTrustedCa())
		if err != nil {
			return nil, err
		}
		if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			return nil, errors.New("validation_context.trusted_ca: holds no certificate")
		}
		return &secret{form: formCA, text: pem}, nil
	case *transport.Secret_GenericSecret:
		text, err := inline("generic_secret.secret", s.GenericSecret.GetSecret())
		if err != nil {
			return nil, err
		}
		return &secret{form: formText, text: text}, nil
	default:
		return nil, fmt.Errorf("type: is not %s, %s or %s", formCertificate, formCA, formText)
	}
}

func readCertificate(m *transport.TlsCertificate) (*secret, error) {
	cert, certErr := inline("tls_certificate.certificate_chain", m.GetCertificateChain())
	key, keyErr := inline("tls_certificate.private_key", m.GetPrivateKey())
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, err
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return nil, fmt.Errorf("tls_certificate: %w", quiet(err, cert, key))
	}
	return &secret{form: formCertificate, cert: cert, key: key}, nil
}

// inline is the data that a resource carries itself. A file or a variable would be read with the
// sidecar's rights on the control plane's word.
func inline(field string, m *core.DataSource) ([]byte, error) {
	var data []byte
	switch s := m.GetSpecifier().(type) {
	case *core.DataSource_InlineBytes:
		data = s.InlineBytes
	case *core.DataSource_InlineString:
		data = []byte(s.InlineString)
	case nil:
		return nil, fmt.Errorf("%s: is missing", field)
	default:
		return nil, fmt.Errorf("%s: is not inline: files and variables are not read", field)
	}
	if len(data) == 0 || len(data) > maxSecret {
		return nil, fmt.Errorf("%s: has %d bytes, which is not in 1…%d", field, len(data), maxSecret)
	}
	return data, nil
}

// quiet is err, or a word in its place where it quotes a part of a secret.
func quiet(err error, secrets ...[]byte) error {
	for _, s := range secrets {
		for _, part := range strings.Fields(string(s)) {
			if len(part) >= 8 && strings.Contains(err.Error(), part) {
				return errors.New("is refused, for a reason that quotes it")
			}
		}
	}
	return err
}

// applied is what the targets have; nil is what the static files hold.
type applied struct{ certificate, clientCA, rootKeys *secret }

// role is one use of a secret.
type role struct {
	name  string // of the resource
	form  string
	now   **secret
	apply func(*secret) error
}

func (c *Client) roles() []role {
	x, text := &c.cfg.XDS, func(to func([]byte) error) func(*secret) error {
		return func(s *secret) error {
			switch {
			case to == nil:
				return nil
			case s == nil:
				return to(nil)
			}
			return to(bytes.Clone(s.text))
		}
	}
	certificate := func(s *secret) error {
		switch {
		case c.to.Certificate == nil:
			return nil
		case s == nil:
			return c.to.Certificate(nil, nil)
		}
		return c.to.Certificate(bytes.Clone(s.cert), bytes.Clone(s.key))
	}
	return []role{
		{x.Certificate, formCertificate, &c.secrets.certificate, certificate},
		{x.ClientCA, formCA, &c.secrets.clientCA, text(c.to.ClientCA)},
		{x.RootKeys, formText, &c.secrets.rootKeys, text(c.to.RootKeys)},
	}
}

// secretNames are the secrets that the configuration names.
func (c *Client) secretNames() (names []string) {
	for _, r := range c.roles() {
		if r.name != "" && !slices.Contains(names, r.name) {
			names = append(names, r.name)
		}
	}
	return names
}

// putSecrets hands over the secrets that changed. Where one is refused, those before it are taken
// back.
func (c *Client) putSecrets(next set[*secret]) error {
	var faults []error
	want := map[string]*secret{}
	for _, r := range c.roles() {
		if s := next.values[r.name]; s != nil && r.name != "" {
			want[r.form] = s
			if s.form != r.form {
				faults = append(faults, fault(r.name, fmt.Errorf("type: is a %s, not a %s", s.form, r.form)))
			}
		}
	}
	if len(faults) > 0 {
		return errors.Join(faults...)
	}
	var undo []func()
	for _, r := range c.roles() {
		s, before := want[r.form], *r.now
		if s.equal(before) {
			continue
		}
		if err := r.apply(s); err != nil {
			for _, back := range slices.Backward(undo) {
				back()
			}
			if s != nil {
				err = quiet(err, s.cert, s.key, s.text)
			}
			return fault(r.name, err)
		}
		*r.now = s
		undo = append(undo, func() {
			if r.apply(before) == nil { // it was in force a moment ago
				*r.now = before
			}
		})
	}
	return nil
}
