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
	if _, err := parseLimits([]byte(examplePush)); err != nil {
		t.Error(err)
	}
	_, err = parseLimits([]byte(examplePushWrong))
	wantFaults(t, err, examplePushFaults, "no file")
	_, err = Load(Sources{File: "testdata/faults.toml"})
	wantFaults(t, err, exampleFaults, "-")
}

// reference is the page: the text below with a table for each section.
func reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	section, rows := "-", table().rows
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
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", key, s.kind, def, s.allowed, s.effect, s.help)
	}
	b.WriteString(referencePush)
	pushTable(&b, rows)
	b.WriteString(referenceOverrides)
	for _, p := range parts() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", p.name, jsonForm(p.kind), p.allowed, p.help)
	}
	b.WriteString(referenceShadow)
	return b.String()
}

// pushTable lists the members of a push but for those of its object shadow.
func pushTable(b *strings.Builder, rows []setting) {
	b.WriteString("\n| member | key | JSON | allowed | default | meaning |\n|---|---|---|---|---|---|\n")
	for _, s := range rows {
		if s.effect != onPush || strings.HasPrefix(s.key, shadowSection+".") {
			continue
		}
		def := "`" + s.def + "`"
		if s.def == "" {
			def = "none"
		}
		fmt.Fprintf(b, "| `%s` | `%s` | %s | %s | %s | %s |\n", s.pushName(), s.key, jsonForm(s.kind), s.allowed, def, s.help)
	}
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

const examplePush = `{
  "max_amount_per_op": "5000000000000000000000",
  "queue": 256,
  "staleness_window": "100ms",
  "issue_enabled": "25%",
  "revoked_keys": ["2024"],
  "overrides": [
    {"token": "01J9ZK3V5T8Q2W4X6Y7Z8A9B0D", "max_amount_per_op": "9000000000000000000000"},
    {"account": "team_*", "asset": "ron", "daily_ceiling": "1000000"},
    {"route": "issue", "rate_per_second": 10, "rate_burst": 20}
  ],
  "shadow": {"max_amount_per_op": "1000000000000000000000"}
}`

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
- **list**: names; in the environment with commas between them, and so is a list of addresses.
- **file**: a path, from the working directory where it does not start with a slash.
- **share**: which part of the requests: ` + "`true`, `false`" + `, or a percentage as text, such as ` + "`\"12.5%\"`" + `, of at most four decimals. Requests are drawn at random.
- **overrides**: a list of sections (` + "`[[limits.overrides]]`" + ` in TOML); in the environment as JSON. [Below](#overrides) is what they may say.
- **address**, **name**, **word**, **bool**: text as the column "allowed" says; bool is ` + "`true` or `false`" + `.

## Settings

*Changes by* says how a setting may change while the sidecar runs: **push** by the control plane, **reload** by SIGHUP, **restart** not at all. A reload that changes a setting of the last kind applies the others and logs which keys wait for a restart. This is about names of files; the files of certificates and keys themselves, all of them, are read again within about a second of a change of theirs, without a signal.

A ceiling is the hard upper bound of the limit of the same name: a file whose limit is above it is refused, and so is a push; that goes for overrides and for shadow limits, too. Buffers and queues are sized by the ceilings, so these change by a restart only.
`

const referencePush = `
## Limits as they are pushed

A control plane ([xds.md](xds.md)) pushes a JSON object of at most 1 MiB with any of the members below. ` + "`svc-wallet control`" + ` serves such objects from its files, a TypedStruct holds one, and a runtime key ` + "`svc-wallet.X`" + ` is its member ` + "`X`" + ` (the switch ` + "`issue_enabled`" + ` of a route is spelled ` + "`svc-wallet.route.issue.enabled`" + ` there).

Each setting has the value of the topmost place that speaks of it:

` + "```" + `
default < file < environment < flag < pushed: cluster < limits < runtime
` + "```" + `

What was pushed last is kept on disk (` + "`xds.last_good_file`" + `) and holds at the start, resource by resource, until the control plane says something else. A resource that comes anew replaces the one before it as a whole: what it no longer says falls back to the place below, in the end to the static configuration. So does everything when a resource is removed. Nothing ever falls back to no limit.

A value replaces the one below it. That goes for lists as well: ` + "`revoked_tokens`, `revoked_keys` and `overrides`" + ` that are pushed hold instead of the static ones, not in addition to them, and an empty list is one that revokes nothing.

` + "```json\n" + examplePush + "\n```" + `

Refused are unknown members, members that come twice, null, numbers with a point or an exponent, amounts that are not strings, what is out of range or over its ceiling, and ` + "`subject_rate_per_second` without `subject_burst`" + ` or the other way round. All faults of a push come at once (those against the ceilings once it is right by itself), and then nothing of it is put in force:

` + "```\n" + examplePushFaults + "\n```" + `
`

const examplePushFaults = `quue: unknown key (from push)
limits.max_amount_per_op: 5 (from push) is not a whole amount, in quotes where it is large, in 1…340282366920938463463374607431768211455
limits.queue: 0 (from push) is not in 1…65536`

const examplePushWrong = `{"queue": 0, "quue": 1, "max_amount_per_op": 5}`

const referenceOverrides = `
Beside these stands ` + "`shadow`" + `, an object, see [shadow limits](#shadow-limits).

### Revocation

A token whose id is in ` + "`revoked_tokens`" + `, or whose root key's id is in ` + "`revoked_keys`" + `, is refused with 401 from the next request on, whether it was verified before or not. The ids are those in a token's identifier, ` + "`v1:<key id>:<token id>`" + `.

### Switches

A request that a switch keeps out gets 503 ` + "`RETRY_LATER`" + `; nothing was done. ` + "`writes_enabled`" + ` is for payments (issue, transfer, burn), ` + "`reads_enabled`" + ` for balance and tx, and each route has one of its own; of a share of a share, the product is let through.

### Overrides

` + "`overrides`" + ` is a list of at most 4096 objects. Each names whom it fits, by any of the first five members, and the limits that then hold. For each limit the first override in the list that fits and speaks of it counts. At most 256 may name the same token, the same subject or the same whole account; of those that name none of these, at most 256 may name the same asset, and at most 256 none: they may all have to be tried for one payment. Those that change a cap and those that change a subject's rate are counted, and tried, by themselves.

An override may widen a limit, up to the ceiling, except by ` + "`subject`" + `: overrides that name a subject are looked through by themselves, and the first one that fits only narrows what holds without it. Whoever holds a token without ` + "`sub`" + ` may add one, so a subject must not be worth having.

Rates go by what is known when they are judged: ` + "`rate_per_second` and `rate_burst`" + ` by ` + "`route`" + ` alone, in an object of their own, which gives the route a bucket of its own; ` + "`subject_rate_per_second` and `subject_burst`" + ` by token, subject and route.

| member | JSON | allowed | meaning |
|---|---|---|---|
`

const referenceShadow = `
### Shadow limits

` + "`shadow`" + ` holds limits as they might become. They are not in force: a request that they would refuse, and the limits in force would not, is counted in ` + "`wallet_shadow_refusals_total{limit}`" + ` and goes on. What ` + "`shadow`" + ` leaves out is taken from the limits in force. Its members are the keys of [` + "`[shadow]`" + `](#shadow), without that word; an empty variable takes away a shadow limit that a file set.
`
