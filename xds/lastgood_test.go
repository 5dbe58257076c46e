package xds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	logrustest "github.com/sirupsen/logrus/hooks/test"

	"svc-wallet/config"
)

func readText(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestLastGood: what was accepted is in force at the next start without a control plane, and shown
// as what it is; the control plane's word takes its place, and what it says is gone is gone.
func TestLastGood(t *testing.T) {
	protocols(t, func(t *testing.T, protocol string) {
		p := startPlane(t)
		flags := map[string]string{
			"xds.addr": p.addr, "xds.protocol": protocol, "xds.types": "limits,runtime,cluster,endpoint", "xds.runtime_names": "a,b",
			"xds.root_keys": "keys",
		}
		w := newSidecar(t, setup{flags: flags})
		l := p.stream(t)
		l.asks(extensionURL)
		l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7", "overrides": [{"token": "t", "max_amount_per_op": "9"}]}`)))
		l.acked(l.push(runtimeURL, "r1", []named{layer("a", `{"svc-wallet": {"queue": 5, "shadow": {"queue": 3}}, "svc-wallet.route.tx.enabled": {"numerator": 1, "denominator": "MILLION"}}`)}))
		l.acked(l.push(clusterURL, "c1", []named{clusterOf(`{"name": "ledger", "type": "EDS", "connect_timeout": "0.3s"}`), clusterOf(`{"name": "auth", "load_assignment": {}}`)}))
		l.asks(endpointURL)
		l.acked(l.push(endpointURL, "e1", []named{assignmentOf("ledger", "/1")}))
		l.acked(l.push(secretURL, "s1", []named{textSecret("keys", "2024 00112233445566778899")}))
		before := w.stack.Effective()
		w.stop()
		file := filepath.Join(w.dir, "last-good.json")
		text := readText(t, file)
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if strings.Contains(text, "0011223344") || strings.Contains(text, "secret") {
			t.Error("a secret was written")
		}
		if rest, err := filepath.Glob(filepath.Join(w.dir, ".last*")); len(rest) > 0 || err != nil {
			t.Errorf("left behind: %v", rest)
		}

		flags["xds.last_good_file"] = file
		log, lines := logrustest.NewNullLogger()
		logs := func(o *Options) { o.Log = log }
		again := newSidecar(t, setup{flags: flags, idle: true, opts: logs})
		if l := lines.LastEntry(); l == nil || l.Message != "xds_starts_from_last_good" || l.Data["resources"] != 5 || l.Data["file"] != file {
			t.Errorf("%+v", l)
		}
		newSidecar(t, setup{idle: true, opts: logs, flags: map[string]string{"xds.addr": p.addr}})
		if l := lines.LastEntry(); l.Message != "xds_starts_without_last_good" {
			t.Errorf("%+v", l)
		}
		after := again.stack.Effective()
		for i := range before {
			if strings.HasPrefix(before[i].Source, "xds ") {
				before[i].Source = "last good " + strings.TrimPrefix(before[i].Source, "xds ")
			}
			if strings.HasPrefix(before[i].Key, "xds.last_good") {
				continue
			}
			if before[i] != after[i] {
				t.Errorf("%+v became %+v", before[i], after[i])
			}
		}
		if !slices.Equal(again.endpoints(), []string{"unix:/1"}) || again.Connected() {
			t.Errorf("%v", again.endpoints())
		}
		for _, r := range again.status().Resources {
			if r.State != "last good" && r.Name != "b" && r.Name != "policy" && r.Name != "keys" {
				t.Errorf("%+v", r)
			}
		}

		third := newSidecar(t, setup{flags: flags})
		l = p.stream(t)
		r := l.asks(extensionURL)
		if protocol == "sotw" && r.version != "" || protocol == "delta" && r.initial["svc-wallet.limits"] != unspoken {
			t.Errorf("claimed %q, %v", r.version, r.initial)
		}
		l.acked(l.push(extensionURL, "1", limits(`{"queue": 6}`)))
		if third.amount() != staticAmount || third.live.Load().Queue != 5 {
			t.Errorf("%s in force, queue %d", third.amount(), third.live.Load().Queue)
		}
		l.acked(l.push(clusterURL, "c2", nil, "ledger", "auth"))
		if third.endpoints() != nil {
			t.Errorf("%v", third.endpoints())
		}
	})
}

// TestLastGoodDamaged: a file that is not what was written, or does not fit any more, is passed over
// and counted; the sidecar starts all the same.
func TestLastGoodDamaged(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "last-good.json")
	item := func(typ, name, value string) lastItem {
		return lastItem{Type: typ, Name: name, Version: "1", At: 5, Value: []byte(value)}
	}
	encode := func(items ...lastItem) []byte {
		raw, err := encodeLastGood(lastGoodBody{Written: 7, Resources: items})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	good := encode(item("limits", "svc-wallet.limits", `{"max_amount_per_op":"7"}`))
	var newer map[string]any
	if err := json.Unmarshal(good, &newer); err != nil {
		t.Fatal(err)
	}
	newer["format"] = 2
	newerText, _ := json.Marshal(newer)
	for _, c := range []struct {
		name   string
		raw    []byte
		typ    string // what is counted as refused
		amount string
	}{
		{"good", good, "", "7"},
		{"cut", good[:len(good)-9], "last_good", staticAmount},
		{"flipped", bytes.Replace(good, []byte(`\"7\"`), []byte(`\"8\"`), 1), "", "7"},
		{"changed", bytes.Replace(good, []byte(`"7"`), []byte(`"8"`), 1), "last_good", staticAmount},
		{"newer", newerText, "last_good", staticAmount},
		{"empty", nil, "last_good", staticAmount},
		{"another body", []byte(`{"format":1,"blake3":"` + sumOf([]byte("5")) + `","body":5}`), "last_good", staticAmount},
		{"over the ceilings", encode(item("limits", "svc-wallet.limits", `{"max_amount_per_op":"1000000000000000000000001"}`)), "limits", staticAmount},
		{"wrong limits", encode(item("limits", "svc-wallet.limits", `{"quue":1}`)), "limits", staticAmount},
		{"wrong runtime", encode(item("runtime", "svc-wallet.runtime", `{"queue":"{"}`), item("limits", "svc-wallet.limits", `{"max_amount_per_op":"7"}`)), "runtime", "7"},
		{"no runtime", encode(item("runtime", "svc-wallet.runtime", `5`)), "runtime", staticAmount},
		{"wrong cluster", encode(item("cluster", "ledger", `5`)), "cluster", staticAmount},
		{"wrong cluster's push", encode(item("cluster", "ledger", `{"push":{"queue":0}}`)), "cluster", staticAmount},
		{"wrong address", encode(item("cluster", "ledger", `{"push":{},"endpoints":["nowhere"]}`)), "cluster", staticAmount},
		{"far address", encode(item("cluster", "ledger", `{"push":{},"endpoints":["10.0.0.7:7000"]}`)), "cluster", staticAmount},
		{"wrong endpoint", encode(item("cluster", "ledger", `{"push":{},"service":"ledger"}`), item("endpoint", "ledger", `5`)), "endpoint", staticAmount},
		{"many endpoints", encode(item("cluster", "ledger", `{"push":{},"service":"ledger"}`), item("endpoint", "ledger", `["unix:/a"`+strings.Repeat(`,"unix:/a"`, maxEndpoints)+`]`)), "endpoint", staticAmount},
		{"a secret", encode(item("secret", "keys", `"x"`)), "", staticAmount},
		{"another name", encode(item("limits", "other", `{"max_amount_per_op":"7"}`)), "", staticAmount},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, file, string(c.raw))
			w := newSidecar(t, setup{idle: true, flags: map[string]string{"xds.addr": "unix:/nowhere", "xds.last_good_file": file}})
			if w.amount() != c.amount || w.endpoints() != nil {
				t.Errorf("%s in force, %v", w.amount(), w.endpoints())
			}
			for _, typ := range w.Types() {
				if n := w.Updates(typ, "refused"); (n == 1) != (typ == c.typ) {
					t.Errorf("%d of type %s are refused", n, typ)
				}
			}
		})
	}
	w := newSidecar(t, setup{idle: true, flags: map[string]string{"xds.addr": "unix:/nowhere", "xds.last_good_file": dir}})
	if w.Updates("last_good", "refused") != 1 {
		t.Error("a folder was read")
	}
	if w.Updates("nothing", "refused")+w.Updates("limits", "nothing") != 0 {
		t.Error("there is something of nothing")
	}
}

// TestAmnesia: with amnesia nothing is read or written.
func TestAmnesia(t *testing.T) {
	p := startPlane(t)
	w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.types": "limits", "amnesia": "true"}})
	l := p.stream(t)
	l.asks(extensionURL)
	l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)))
	w.stop()
	if files, err := os.ReadDir(w.dir); err != nil || len(files) > 0 {
		t.Errorf("%v, %v", files, err)
	}
	if w.status().LastGood != nil {
		t.Error("a file is shown")
	}
}

// TestUnwritable: a folder that is not there costs a line in the log and a word in the status, and
// the file is written once it can be.
func TestUnwritable(t *testing.T) {
	p := startPlane(t)
	dir := filepath.Join(t.TempDir(), "later")
	w := newSidecar(t, setup{flags: map[string]string{"xds.addr": p.addr, "xds.types": "limits", "xds.last_good_file": filepath.Join(dir, "f")}})
	l := p.stream(t)
	l.asks(extensionURL)
	l.acked(l.push(extensionURL, "1", limits(`{"max_amount_per_op": "7"}`)))
	await(t, "the failure", func() bool { return strings.Contains(w.status().LastGood.Error, "no such file") })
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	holds := func(what string) func() bool {
		return func() bool {
			text, err := os.ReadFile(filepath.Join(dir, "f"))
			return err == nil && strings.Contains(string(text), what) && w.status().LastGood.Error == ""
		}
	}
	await(t, "the file, without another push", holds(`"7"`))
	l.acked(l.push(extensionURL, "2", limits(`{"max_amount_per_op": "8"}`)))
	await(t, "the newest state", holds(`"8"`))
	if err := os.Remove(filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	await(t, "the file again, after somebody took it away", holds(`"8"`))
}

// TestCoalesced: a thousand changes are a few writes, of which the last one is the newest state, and
// a failed write leaves the old file as it was.
func TestCoalesced(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	s := newStore(file, time.Hour)
	log := &floodLog{log: discardLogger(), now: func() int64 { return 0 }}
	writes := 0
	wrote := make(chan struct{}, 1)
	snapshot := func() ([]byte, error) {
		writes++
		wrote <- struct{}{}
		return []byte{byte('0' + writes)}, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); s.run(ctx, snapshot, log) }()
	s.touch()
	next(t, "the first write", wrote)
	for range 1000 {
		s.touch()
	}
	cancel()
	next(t, "the end", func() chan int { c := make(chan int, 1); <-ended; c <- 1; return c }())
	s.flush(snapshot, log)
	s.flush(snapshot, log)
	if readText(t, file) != "2" || writes != 2 {
		t.Errorf("%d writes", writes)
	}
	s.touch()
	s.flush(func() ([]byte, error) { return nil, errors.New("broken") }, log)
	if s.failure() != "broken" || readText(t, file) != "2" {
		t.Errorf("%s", s.failure())
	}
}

// FuzzLastGood: any bytes are a file or are not, and what is read is written back the same.
func FuzzLastGood(f *testing.F) {
	raw, err := encodeLastGood(lastGoodBody{Written: 7, Resources: []lastItem{{Type: "limits", Name: "l", Version: "1", At: 5, Value: []byte(`{"queue":5}`)}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	body := `{"written":1,"resources":[{"type":"cluster","name":"ledger","value":{"push":{},"endpoints":[]}}]}`
	f.Add([]byte(`{"format":1,"blake3":"` + sumOf([]byte(body)) + `","body":` + body + `}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := decodeLastGood(raw)
		if err != nil {
			return
		}
		again, err := encodeLastGood(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeLastGood(again); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		cfg := config.XDS{LimitsName: "l"}
		for _, k := range kinds() {
			_ = k.restored(b.Resources, []string{cfg.LimitsName, "ledger"})
		}
	})
}
