package xds

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	transport "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

func bytesOf(raw []byte) *core.DataSource {
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: raw}}
}

func certificateSecret(name string, cert, key []byte) named {
	return named{name, pack(&transport.Secret{Name: name, Type: &transport.Secret_TlsCertificate{TlsCertificate: &transport.TlsCertificate{
		CertificateChain: bytesOf(cert), PrivateKey: bytesOf(key),
	}}})}
}

func caSecret(name string, pem []byte) named {
	return named{name, pack(&transport.Secret{Name: name, Type: &transport.Secret_ValidationContext{ValidationContext: &transport.CertificateValidationContext{
		TrustedCa: bytesOf(pem),
	}}})}
}

func textSecret(name, text string) named {
	return named{name, pack(&transport.Secret{Name: name, Type: &transport.Secret_GenericSecret{GenericSecret: &transport.GenericSecret{
		Secret: bytesOf([]byte(text)),
	}}})}
}

// TestSecrets: secrets come over the control plane or from a local agent, are handed over when they
// change, and never shown.
func TestSecrets(t *testing.T) {
	a := newAuthority(t)
	for _, from := range []string{"delta", "sotw", "agent"} {
		t.Run(from, func(t *testing.T) {
			p := startPlane(t)
			flags := map[string]string{
				"xds.certificate": "default", "xds.client_ca": "ROOTCA", "xds.root_keys": "keys", "tls.client_auth": "require",
				"xds.addr": p.addr, "xds.protocol": from, "xds.types": "",
			}
			if from == "agent" {
				flags["xds.addr"], flags["xds.protocol"], flags["xds.sds_addr"] = "", "delta", p.addr
			}
			w := newSidecar(t, setup{flags: flags})
			l := p.stream(t)
			if r := l.asks(secretURL); strings.Join(r.names, " ") != "default ROOTCA keys" {
				t.Errorf("asked for %v", r.names)
			}
			cert, key := a.issue(uris("spiffe://mesh/wallet"))
			root := []byte(readText(t, a.ca()))
			const keys = "2024 00112233445566778899aabbccddeeff"
			l.acked(l.push(secretURL, "1", []named{certificateSecret("default", cert, key), caSecret("ROOTCA", root)}))
			l.acked(l.push(secretURL, "2", []named{textSecret("keys", keys)}))
			if w.secret("certificate") != string(cert)+string(key) || w.secret("client_ca") != string(root) || w.secret("root_keys") != keys {
				t.Error("the secrets are not what was sent")
			}

			// One that does not fit its use, and one that the target refuses after another was taken.
			if got := l.answer(l.push(secretURL, "3", []named{textSecret("default", keys)})); got != "default: type: is a generic_secret, not a tls_certificate" {
				t.Error(got)
			}
			if got := l.answer(l.push(secretURL, "3b", []named{certificateSecret("default", cert, []byte(keys))})); strings.Contains(got, "0011") || !strings.HasPrefix(got, "default: tls_certificate: ") {
				t.Error(got)
			}
			w.mu.Lock()
			w.secretErr = nil
			w.mu.Unlock()
			rootKeys := w.to.RootKeys
			w.locked(func() {
				w.to.RootKeys = func(text []byte) error { return fmt.Errorf("line 1 is wrong: %s", text) }
			})
			other, otherKey := a.issue(uris("spiffe://mesh/other"))
			got := l.answer(l.push(secretURL, "4", []named{certificateSecret("default", other, otherKey), textSecret("keys", keys+"ff")}))
			if got != "keys: is refused, for a reason that quotes it" || w.secret("certificate") != string(cert)+string(key) {
				t.Errorf("%q, or the certificate stayed", got)
			}
			w.locked(func() { w.to.RootKeys = func([]byte) error { return errors.New("line 1 is wrong") } })
			if got := l.answer(l.push(secretURL, "5", []named{textSecret("keys", keys+"ff")})); got != "keys: line 1 is wrong" {
				t.Error(got)
			}
			w.locked(func() { w.to.RootKeys = rootKeys })
			l.acked(l.push(secretURL, "6", []named{textSecret("keys", keys+"ff")}))

			shown := fmt.Sprintf("%+v", w.status())
			for _, secret := range []string{"00112233", "BEGIN"} {
				if strings.Contains(shown, secret) {
					t.Errorf("%s is shown", secret)
				}
			}
			if w.store.dirty.Load() {
				t.Error("a secret is to be written")
			}
			if from == "delta" {
				l.acked(l.push(secretURL, "7", nil, "default", "ROOTCA", "keys"))
				if w.secret("certificate")+w.secret("client_ca")+w.secret("root_keys") != "" {
					t.Error("the secrets were not taken away")
				}
			}
		})
	}
}

// TestSecretsBeside: the agent and the control plane each have a stream, and a sidecar is connected
// when it has both. Targets that are not there take everything.
func TestSecretsBeside(t *testing.T) {
	p, agent := startPlane(t), startPlane(t)
	w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.types": "limits", "xds.sds_addr": agent.addr, "xds.root_keys": "keys", "auth.root_keys_file": ""}})
	w.locked(func() { w.to = Targets{Stack: w.stack} })
	l := p.stream(t)
	l.asks(extensionURL)
	l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)))
	if w.Connected() {
		t.Error("connected without the agent")
	}
	s := agent.stream(t)
	s.asks(secretURL)
	s.acked(s.push(secretURL, "1", []named{textSecret("keys", "2024 00112233")}))
	if !w.Connected() {
		t.Error("not connected")
	}
	s.end <- nil
	await(t, "the end", func() bool { return !w.Connected() })
	if l.ctx.Err() != nil {
		t.Error("the control plane's stream ended too")
	}
	for _, r := range w.roles() {
		if err := errors.Join(r.apply(nil), r.apply(&secret{})); err != nil {
			t.Error(err)
		}
	}
}
