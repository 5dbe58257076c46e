package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

const referencePage = "../docs/configuration.md"

// TestReference holds docs/configuration.md against the table of settings, and loads the examples
// of the page. With -update it rewrites the page.
func TestReference(t *testing.T) {
	want := reference()
	if *update {
		if err := os.WriteFile(referencePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/configuration.md is stale: go test ./config -run TestReference -update")
	}

	c := mustLoad(t, Sources{File: writeFile(t, ".toml", exampleTOML)})
	d := mustLoad(t, Sources{File: writeFile(t, ".yaml", exampleYAML)})
	if describe(c) != describe(d) {
		t.Errorf("the examples differ:\n%s\n%s", describe(c), describe(d))
	}
	if _, err := ParseLimits([]byte(examplePush)); err != nil {
		t.Error(err)
	}
	_, err = Load(Sources{File: "testdata/faults.toml"})
	wantFaults(t, err, exampleFaults, "-")
}

// reference is the page: the text below with a table for each section.
func reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	section, rows := "-", defaults().settings()
	for _, s := range rows {
		of, _, nested := strings.Cut(s.key, ".")
		if !nested {
			of = ""
		}
		if of != section {
			section = of
			title := "Top level"
			if section != "" {
				title = "`[" + section + "]`"
			}
			fmt.Fprintf(&b, "\n### %s\n\n| key | type | default | allowed | changes by | meaning |\n|---|---|---|---|---|---|\n", title)
		}
		key, def := "`"+s.key+"`", "`"+s.def+"`"
		if s.flag != "" {
			key += "<br>`--" + s.flag + "`"
		}
		if s.def == "" {
			def = "none"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", key, s.value.kind(), def, s.value.allowed(), s.effect, s.help)
	}
	b.WriteString(referencePush)
	for _, s := range rows {
		if s.effect == onPush {
			fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", s.pushName(), s.key, jsonForm(s.value.kind()))
		}
	}
	return b.String()
}

// jsonForm is how a push writes a type.
func jsonForm(kind string) string {
	switch kind {
	case "integer":
		return "number"
	case "size":
		return "number or string"
	case "list":
		return "list of strings"
	case "share":
		return "true, false or string"
	case "overrides":
		return "list of objects"
	default:
		return "string"
	}
}

const exampleTOML = `[tls]
cert_file = "/etc/svc-wallet/tls.crt"
key_file = "/etc/svc-wallet/tls.key"

[auth]
root_keys_file = "/etc/svc-wallet/root.keys"

[limits]
max_amount_per_op = "5000000000000000000000"
max_body_bytes = "64KiB"

[ceilings]
max_amount_per_op = "10000000000000000000000"
`

const exampleYAML = `tls:
  cert_file: /etc/svc-wallet/tls.crt
  key_file: /etc/svc-wallet/tls.key
auth:
  root_keys_file: /etc/svc-wallet/root.keys
limits:
  max_amount_per_op: "5000000000000000000000"
  max_body_bytes: 64KiB
ceilings:
  max_amount_per_op: "10000000000000000000000"
`

const examplePush = `{"max_amount_per_op": "5000000000000000000000", "queue": 256, "staleness_window": "100ms", "revoked_keys": ["2024"]}`

const exampleFaults = `limits.quue: unknown key (from testdata/faults.toml)
limits.rate_burst: 0 (from testdata/faults.toml) is not in 1…1000000000
tls.cert_file: "" (from default) must be set: the wallet listener speaks only TLS
tls.key_file: "" (from default) must be set: the wallet listener speaks only TLS
auth.root_keys_file: "" (from default) must be set: without root keys no capability verifies`

const referenceHead = `<!-- Generated from config/settings.go by: go test ./config -run TestReference -update -->

# Configuration

A setting comes from four places; a later one wins:

1. the default,
2. the file that ` + "`--config`" + ` names: TOML (` + "`.toml`" + `) or YAML (` + "`.yaml`, `.yml`" + `), at most 1 MiB,
3. the environment: ` + "`SVC_WALLET_`" + ` and the key in upper case with underscores for dots, so ` + "`limits.queue`" + ` is ` + "`SVC_WALLET_LIMITS_QUEUE`" + ` (` + "`WALLET_WORKERS`" + ` is ` + "`workers`" + ` too),
4. the flag, where there is one.

` + "`svc-wallet check --config F`" + ` prints every setting with its value and source; ` + "`/config`" + ` on the admin listener does so while the sidecar runs.

The least that a file must say, and two things more:

` + "```toml\n" + exampleTOML + "```\n\n```yaml\n" + exampleYAML + "```" + `

## What is refused

Anything that is not certain to be meant: unknown keys and ` + "`SVC_WALLET_`" + ` variables (but those that Kubernetes makes for a Service named ` + "`svc-wallet…`" + `), wrong types, values out of range, settings that contradict each other. Every fault is reported at once, with key, value, source and allowed range, also for a value that a higher source hides:

` + "```\n" + exampleFaults + "\n```" + `

At start the sidecar then does not run; at a reload (SIGHUP) the last good configuration stays in force.

## Types

- **integer**: a number without a point; in the environment and in flags its decimal digits.
- **duration**: text with its unit, such as ` + "`250ms`, `5s` or `1h30m`" + `.
- **size**: bytes as an integer, or text with ` + "`KiB` or `MiB`" + `.
- **amount**: minor units, exact up to 2^128-1: decimal digits in quotes. An integer without quotes does as far as TOML and YAML hold it exactly (to 2^63-1); beyond that it is refused, never rounded.
- **list**: names; in the environment with commas between them.
- **file**: a path, from the working directory where it does not start with a slash.
- **address**, **name**, **word**, **bool**: text as the column "allowed" says; bool is ` + "`true` or `false`" + `.

## Settings

*Changes by* says how a setting may change while the sidecar runs: **push** by the control plane, **reload** by SIGHUP, **restart** not at all. A reload that changes a setting of the last kind applies the others and logs which keys wait for a restart. The files of certificates and keys are read again at every reload, whether their names changed or not.

A ceiling is the hard upper bound of the limit of the same name: a file whose limit is above it is refused, and so is a push. Buffers and queues are sized by the ceilings, so these change by a restart only.
`

const referencePush = `
## Limits as they are pushed

The xDS client that takes pushes comes with the next version; until then limits change by a reload. This is the form that a push has.

The control plane pushes a JSON object with any of these members. What it leaves out keeps its static value. Unknown members, members that come twice, null, numbers with a point or an exponent, and amounts that are not strings are refused, each with its reason; the last good limits then stay in force.

` + "```json\n" + examplePush + "\n```" + `

| member | key | JSON |
|---|---|---|
`
