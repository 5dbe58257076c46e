package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func mustPush(t interface {
	Helper()
	Fatalf(string, ...any)
}, text string,
) *Patch {
	t.Helper()
	p, err := ParsePush([]byte(text))
	if err != nil {
		t.Fatalf("%.200s: %v", text, err)
	}
	return p
}

// entry is the line of one key among those in force.
func entry(all []Effective, key string) string {
	for _, e := range all {
		if e.Key == key {
			return strings.TrimSpace(fmt.Sprintf("%s from %s %s %s", e.Value, e.Source, e.Version, e.Time))
		}
	}
	return "no such key"
}

// TestStack walks one stack through pushes and removals. After each step it wants some settings
// with their sources, and a step with a fault must leave all as it was.
func TestStack(t *testing.T) {
	static := mustLoad(t, Sources{Env: required("SVC_WALLET_LIMITS_QUEUE=100", "SVC_WALLET_LIMITS_REVOKED_TOKENS=static", "SVC_WALLET_CEILINGS_QUEUE=1000")})
	live := new(Live)
	s := NewStack(static, live)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC).UnixNano()
	limits := Origin{Resource: "limits svc-wallet.limits", Version: "v1", At: at}
	lastGood := Origin{Resource: "limits svc-wallet.limits", Version: "v0", At: at - int64(time.Hour), Disk: true}
	runtime := Origin{Resource: "runtime svc-wallet.runtime", Version: "7"}
	cluster := Origin{Resource: "cluster ledger", Version: "c1", At: at}

	for _, step := range []struct {
		name    string
		layer   Layer
		push    string // "" takes the layer away
		from    Origin
		fault   string
		queue   string
		timeout string
		revoked string
	}{
		{name: "a layer that is not there", layer: LayerLimits, queue: "100 from SVC_WALLET_LIMITS_QUEUE", timeout: "1s from default", revoked: "static from SVC_WALLET_LIMITS_REVOKED_TOKENS"},
		{name: "last good", layer: LayerLimits, push: `{"queue":200}`, from: lastGood, queue: "200 from last good limits svc-wallet.limits v0 2026-01-02T02:04:05.006Z", timeout: "1s from default", revoked: "static from SVC_WALLET_LIMITS_REVOKED_TOKENS"},
		{name: "a push replaces the layer and the static list", layer: LayerLimits, push: `{"revoked_tokens":["pushed"]}`, from: limits, queue: "100 from SVC_WALLET_LIMITS_QUEUE", timeout: "1s from default", revoked: "pushed from xds limits svc-wallet.limits v1 2026-01-02T03:04:05.006Z"},
		{name: "an empty list revokes none", layer: LayerRuntime, push: `{"revoked_tokens":[],"queue":300}`, from: runtime, queue: "300 from xds runtime svc-wallet.runtime 7", timeout: "1s from default", revoked: "from xds runtime svc-wallet.runtime 7"},
		{name: "a lower layer under a field", layer: LayerCluster, push: `{"queue":400,"ledger_timeout":"2s"}`, from: cluster, queue: "300 from xds runtime svc-wallet.runtime 7", timeout: "2s from xds cluster ledger c1 2026-01-02T03:04:05.006Z", revoked: "from xds runtime svc-wallet.runtime 7"},
		{name: "over the ceiling", layer: LayerLimits, push: `{"queue":1001,"inflight":1}`, from: limits, fault: "limits.queue: 1001 (from xds limits svc-wallet.limits) is over ceilings.queue, 1000 (from SVC_WALLET_CEILINGS_QUEUE)", queue: "300 from xds runtime svc-wallet.runtime 7", timeout: "2s from xds cluster ledger c1 2026-01-02T03:04:05.006Z", revoked: "from xds runtime svc-wallet.runtime 7"},
		{name: "the top goes: the cluster's comes up", layer: LayerRuntime, queue: "400 from xds cluster ledger c1 2026-01-02T03:04:05.006Z", timeout: "2s from xds cluster ledger c1 2026-01-02T03:04:05.006Z", revoked: "pushed from xds limits svc-wallet.limits v1 2026-01-02T03:04:05.006Z"},
		{name: "the bottom goes", layer: LayerCluster, queue: "100 from SVC_WALLET_LIMITS_QUEUE", timeout: "1s from default", revoked: "pushed from xds limits svc-wallet.limits v1 2026-01-02T03:04:05.006Z"},
		{name: "all gone", layer: LayerLimits, queue: "100 from SVC_WALLET_LIMITS_QUEUE", timeout: "1s from default", revoked: "static from SVC_WALLET_LIMITS_REVOKED_TOKENS"},
	} {
		before := snapshot(s)
		var p *Patch
		if step.push != "" {
			p = mustPush(t, step.push)
		}
		no := errors.New("what comes with it is refused")
		if err := s.SetWith(step.layer, p, step.from, func() error { return no }); errors.Is(err, no) != (step.fault == "") {
			t.Errorf("%s: with something else: %v", step.name, err)
		}
		if snapshot(s) != before {
			t.Errorf("%s: what came with something that was refused has changed something", step.name)
		}
		err := s.Set(step.layer, p, step.from)
		if step.fault != "" || err != nil {
			wantFaults(t, err, step.fault, "no file")
			if snapshot(s) != before {
				t.Errorf("%s: what was refused has changed something", step.name)
			}
		}
		for key, want := range map[string]string{"limits.queue": step.queue, "ledger.timeout": step.timeout, "limits.revoked_tokens": step.revoked} {
			if got := entry(s.Effective(), key); got != want {
				t.Errorf("%s: %s is %s, want %s", step.name, key, got, want)
			}
		}
		if got := describeLimits(live.Load()); step.fault == "" && !strings.Contains(got, "limits.queue "+strings.Fields(step.queue)[0]+"\n") {
			t.Errorf("%s: Live has other limits:\n%s", step.name, got)
		}
	}
	if live.Load().Shadow != nil || !slices.Equal(s.Effective(), static.Effective()) || describeLimits(live.Load()) != describeLimits(static.Limits()) {
		t.Error("something is left of what was pushed")
	}
}

// inForce is all that a stack has in force: the limits, by their address, and why.
type inForce struct {
	limits *Limits
	static *Config
	why    string
}

func snapshot(s *Stack) inForce { return inForce{s.live.Load(), s.Config(), fmt.Sprint(s.Effective())} }

// TestStackSwaps pushes a hundred versions while others look at the limits (the race detector looks
// too): nobody ever sees two versions in one.
func TestStackSwaps(t *testing.T) {
	live := new(Live)
	s := NewStack(mustLoad(t, Sources{Env: required("SVC_WALLET_LIMITS_QUEUE=1", "SVC_WALLET_LIMITS_INFLIGHT=1")}), live)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				l, all := live.Load(), s.Effective()
				queue, _, _ := strings.Cut(entry(all, "limits.queue"), " ")
				inflight, _, _ := strings.Cut(entry(all, "limits.inflight"), " ")
				if l.Queue != l.InFlight || (l.Shadow != nil && l.Shadow.Queue != l.Queue) || queue != inflight {
					t.Errorf("a queue of %d with %d in flight", l.Queue, l.InFlight)
					return
				}
				select {
				case <-done:
					return
				default:
					runtime.Gosched()
				}
			}
		})
	}
	for n := 1; n <= 100; n++ {
		if err := s.Set(LayerLimits, mustPush(t, fmt.Sprintf(`{"queue":%d,"inflight":%d,"shadow":{"max_body_bytes":300}}`, n, n)), Origin{}); err != nil {
			t.Error(err)
		}
		if n%25 == 0 {
			if err := s.Set(LayerLimits, nil, Origin{}); err != nil {
				t.Error(err)
			}
		}
	}
	close(done)
	readers.Wait()
}

// TestStackHidesNoFault pushes, below a layer that hides it, what is over a ceiling: were it taken,
// the upper layer could never be taken away.
func TestStackHidesNoFault(t *testing.T) {
	static := mustLoad(t, Sources{Env: required("SVC_WALLET_WALLET_MAX_STALE=1s")})
	s := NewStack(static, new(Live))
	if err := s.Set(LayerRuntime, mustPush(t, `{"queue":1,"staleness_window":"10ms","shadow":{"queue":1}}`), Origin{}); err != nil {
		t.Fatal(err)
	}
	err := s.Set(LayerCluster, mustPush(t, `{"queue":8193,"staleness_window":"2s","shadow":{"queue":8194},
		"overrides":[{"asset":"ron","max_amount_per_op":"1000000000000000000000001"},{"token":"t","subject_rate_per_second":1000001,"subject_burst":2000001}]}`), Origin{})
	wantFaults(t, err, `wallet.staleness_window: 2s (from push) is over wallet.max_stale, 1s
limits.overrides: "[{\"asset\":\"ron\",\"max_amount_per_op\":\"1000000000000000000000001\"},{\"subject_burst…" (from push) is wrong: `+
		`item 1: max_amount_per_op is over ceilings.max_amount_per_op; item 2: subject_rate_per_second is over ceilings.subject_rate_per_second; item 2: subject_burst is over ceilings.subject_burst
limits.queue: 8193 (from push) is over ceilings.queue, 8192 (from default)
shadow.queue: 8194 (from push) is over ceilings.queue, 8192 (from default)`, "no file")
}

// TestRebase puts other static configurations below layers: what they leave open changes, what they
// say stays, and a ceiling that they would break refuses the configuration.
func TestRebase(t *testing.T) {
	load := func(env ...string) *Config { return mustLoad(t, Sources{Env: required(env...)}) }
	live := new(Live)
	s := NewStack(load(), live)
	if err := s.Set(LayerLimits, mustPush(t, `{"queue":200,"overrides":[{"asset":"ron","daily_ceiling":"50"}]}`), Origin{Resource: "limits l"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Rebase(load("SVC_WALLET_LIMITS_QUEUE=7", "SVC_WALLET_LIMITS_INFLIGHT=8")); err != nil {
		t.Fatal(err)
	}
	if l := live.Load(); l.Queue != 200 || l.InFlight != 8 || l.Overrides == nil {
		t.Errorf("queue %d and inflight %d", l.Queue, l.InFlight)
	}
	before := snapshot(s)
	err := s.Rebase(load("SVC_WALLET_CEILINGS_QUEUE=100", "SVC_WALLET_LIMITS_QUEUE=9", "SVC_WALLET_CEILINGS_DAILY_CEILING=40", "SVC_WALLET_LIMITS_DAILY_CEILING=1"))
	wantFaults(t, err, `limits.overrides: "[{\"asset\":\"ron\",\"daily_ceiling\":\"50\"}]" (from xds limits l) is wrong: item 1: daily_ceiling is over ceilings.daily_ceiling
limits.queue: 200 (from xds limits l) is over ceilings.queue, 100 (from SVC_WALLET_CEILINGS_QUEUE)`, "no file")
	if snapshot(s) != before {
		t.Error("what was refused has changed something")
	}
	if err := s.Set(LayerLimits, nil, Origin{}); err != nil {
		t.Fatal(err)
	}
	if l := live.Load(); l.Queue != 7 || l.Overrides != nil {
		t.Errorf("the queue is %d after the push was taken away", l.Queue)
	}
}

// TestReloadUnderPush reloads a file below a pushed layer, as main does: what is pushed stays in
// force and is seen to be pushed; what Rebase refuses, Reload refuses as a whole.
func TestReloadUnderPush(t *testing.T) {
	file := writeFile(t, ".toml", "")
	from := Sources{File: file, Env: required(), CPUs: 2}
	static := mustLoad(t, from)
	s := NewStack(static, new(Live))
	rebase := s.Rebase
	r := NewReloader(from, static, func(next *Config) error { return rebase(next) })
	if err := s.Set(LayerLimits, mustPush(t, `{"queue":200,"shadow":{"subject_rate_per_second":5,"subject_burst":6}}`), Origin{Resource: "limits l"}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name, file string
		lower      string // a ceiling of the queue that gets to Rebase
		ignored    []string
		want       string
		inflight   int
	}{
		{name: "beside the push", file: "limits.inflight = 7\nlimits.queue = 5", inflight: 7},
		{name: "a ceiling waits for a restart", file: "limits.inflight = 8\nlimits.queue = 5\nceilings.queue = 100", ignored: []string{"ceilings.queue"}, inflight: 8},
		{name: "wrong", file: "limits.inflight = 0", want: "limits.inflight: 0 (from F) is not in 1…1048576", inflight: 8},
		{name: "refused under the push", file: "limits.inflight = 9", lower: "100", want: "apply the configuration: limits.queue: 200 (from xds limits l) is over ceilings.queue, 100 (from default)", inflight: 8},
		{name: "good again", file: "limits.inflight = 10", inflight: 10},
	} {
		if err := os.WriteFile(file, []byte(step.file), 0o600); err != nil {
			t.Fatal(err)
		}
		rebase = s.Rebase
		if step.lower != "" {
			rebase = func(next *Config) error {
				next.Ceilings.Queue = 100
				return s.Rebase(next)
			}
		}
		ignored, err := r.Reload()
		if step.want != "" || err != nil {
			wantFaults(t, err, step.want, file)
		}
		l := s.live.Load()
		if !slices.Equal(ignored, step.ignored) || l.InFlight != step.inflight {
			t.Errorf("%s: ignored %v, %d in flight", step.name, ignored, l.InFlight)
		}
		if got := entry(s.Effective(), "limits.queue"); got != "200 from xds limits l" || l.Queue != 200 || l.Shadow.SubjectBurst != 6 {
			t.Errorf("%s: the queue is %s", step.name, got)
		}
	}
}

// TestShadow checks that the shadow limits are the ones in force but for what is set, also
// after something else was pushed.
func TestShadow(t *testing.T) {
	static := mustLoad(t, Sources{File: writeFile(t, ".yaml", "shadow: {queue: 5, inflight: 6}"), Env: required("SVC_WALLET_SHADOW_INFLIGHT=")})
	if w := static.Limits().Shadow; w == nil || w.Queue != 5 || w.InFlight != 1024 || w.Shadow != nil || static.Limits().Queue != 512 {
		t.Fatalf("a static shadow gives %+v", w)
	}
	s := NewStack(static, new(Live))
	for _, step := range []struct {
		layer Layer
		push  string
		want  Limits // of these fields; Queue 0: there are no shadow limits
	}{
		{LayerLimits, `{"shadow":{"max_amount_per_op":"7"},"max_body_bytes":300}`, Limits{Queue: 5, MaxAmountPerOp: minor(7), MaxBodyBytes: 300}},
		{LayerRuntime, `{"max_amount_per_op":"8","max_body_bytes":400,"queue":1}`, Limits{Queue: 5, MaxAmountPerOp: minor(7), MaxBodyBytes: 400}},
		{LayerLimits, `{"shadow":{"queue":9}}`, Limits{Queue: 9, MaxAmountPerOp: minor(8), MaxBodyBytes: 400}},
		{LayerLimits, `{"shadow":{}}`, Limits{Queue: 5, MaxAmountPerOp: minor(8), MaxBodyBytes: 400}},
	} {
		if err := s.Set(step.layer, mustPush(t, step.push), Origin{}); err != nil {
			t.Fatal(err)
		}
		w := s.live.Load().Shadow
		if got := (Limits{Queue: w.Queue, MaxAmountPerOp: w.MaxAmountPerOp, MaxBodyBytes: w.MaxBodyBytes}); describeLimits(&got) != describeLimits(&step.want) {
			t.Errorf("%s: got %+v, want %+v", step.push, got, step.want)
		}
	}
	if err := s.Rebase(mustLoad(t, Sources{Env: required()})); err != nil {
		t.Fatal(err)
	}
	if s.live.Load().Shadow != nil {
		t.Error("there are shadow limits that nobody set")
	}
}

// TestStackProperty sets and removes random layers over changing static configurations (rapid; a
// failure prints its seed). Each setting is the topmost layer's that speaks of it, else the static
// one, with that one's source; Shadow is the limits in force but for what is set; nothing is over
// its ceiling; what is refused changes nothing; and a removal is never refused.
func TestStackProperty(t *testing.T) {
	var rows []setting
	for _, s := range table().rows {
		if s.effect == onPush {
			rows = append(rows, s)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		static := drawStatic(t, rows)
		live := new(Live)
		s := NewStack(static, live)
		model := [numLayers]map[string]word{}
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			before := snapshot(s)
			layer := rapid.SampledFrom([]Layer{LayerCluster, LayerLimits, LayerRuntime}).Draw(t, "layer")
			switch rapid.SampledFrom([]string{"set", "set", "set", "remove", "rebase", "unfit"}).Draw(t, "do") {
			case "set":
				said := drawPush(t, rows)
				if err := s.Set(layer, mustPush(t, pushOf(rows, said)), Origin{Resource: fmt.Sprintf("layer %d", layer), Version: fmt.Sprint(step)}); err != nil {
					t.Fatal(err)
				}
				model[layer] = said
			case "remove":
				if err := s.Set(layer, nil, Origin{}); err != nil {
					t.Fatal(err)
				}
				model[layer] = nil
			case "rebase":
				static = drawStatic(t, rows)
				if err := s.Rebase(static); err != nil {
					t.Fatal(err)
				}
			default:
				said := drawPush(t, rows)
				said[rapid.SampledFrom([]string{"limits.queue", "shadow.queue"}).Draw(t, "unfit")] = "8193"
				if s.Set(layer, mustPush(t, pushOf(rows, said)), Origin{}) == nil || snapshot(s) != before {
					t.Fatalf("%v over a ceiling is taken, or changes something", said)
				}
			}
			checkStack(t, s, live, static, model)
		}
	})
}

func checkStack(t *rapid.T, s *Stack, live *Live, static *Config, model [numLayers]map[string]word) {
	want := map[string]Effective{}
	for _, e := range static.Effective() {
		want[e.Key] = e
		for layer, said := range model {
			if w, there := said[e.Key]; there {
				scratch := defaults()
				if problem := set(scratch, e.Key, w); problem != "" {
					t.Fatal(problem)
				}
				want[e.Key] = Effective{Key: e.Key, Value: scratch.text(e.Key), Source: fmt.Sprintf("xds layer %d", layer)}
			}
		}
	}
	got := map[string]string{}
	for _, e := range s.Effective() {
		got[e.Key] = e.Value
		if w := want[e.Key]; e.Value != w.Value || e.Source != w.Source || (e.Version != "") != strings.HasPrefix(e.Source, "xds ") {
			t.Fatalf("%+v, want %+v", e, w)
		}
	}
	l := live.Load()
	inForce, shadow := *static, *static
	inForce.limits = *l
	if faults := inForce.conflicts(nil); len(faults) > 0 {
		t.Fatal(faults)
	}
	if l.Shadow != nil {
		shadow.limits = *l.Shadow
	}
	shadows := 0
	for _, row := range table().rows {
		if row.effect == onPush && row.shadow == nil && row.print(row.get(&inForce)) != got[row.key] {
			t.Fatalf("%s is %s in Live, want %s", row.key, row.print(row.get(&inForce)), got[row.key])
		}
		if row.shadow == nil || l.Shadow == nil {
			continue
		}
		of := table().byKey["limits."+strings.TrimPrefix(row.key, "shadow.")]
		source := of.key
		if row.get(static) != nil || strings.HasPrefix(want[row.key].Source, "xds ") {
			source = row.key
			shadows++
		}
		if v := of.print(of.get(&shadow)); v != got[source] {
			t.Fatalf("%s is %s in Shadow, want that of %s, %s", of.key, v, source, got[source])
		}
	}
	if l.Shadow != nil && shadows == 0 {
		t.Fatal("there are shadow limits that nobody set")
	}
}

// drawStatic is a configuration with some pushable settings set by its environment.
func drawStatic(t *rapid.T, rows []setting) *Config {
	env := required()
	for key, w := range drawPush(t, rows) {
		i := slices.IndexFunc(rows, func(s setting) bool { return s.key == key })
		env = append(env, rows[i].env()+"="+string(w))
	}
	c, err := Load(Sources{Env: env, CPUs: 2})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// drawPush draws fit values for some settings; those that go together are drawn together.
func drawPush(t *rapid.T, rows []setting) map[string]word {
	said := map[string]word{}
	for _, s := range rapid.SliceOfNDistinct(rapid.SampledFrom(rows), 0, 12, func(s setting) string { return s.key }).Draw(t, "settings") {
		said[s.key] = rapid.SampledFrom(fitExamples(s)).Draw(t, s.key)
	}
	for _, section := range []string{"limits.", "shadow."} {
		rate, burst := section+"subject_rate_per_second", section+"subject_burst"
		delete(said, burst)
		if w, there := said[rate]; there {
			said[burst] = w
		}
	}
	return said
}

// fitExamples are words for a setting that lie under every default ceiling.
func fitExamples(s setting) []word {
	switch s.key[strings.LastIndexByte(s.key, '.')+1:] {
	case "max_amount_per_op", "daily_ceiling", "max_account_total":
		return []word{"1", "5", "1000000000000000000000000"}
	case "rate_per_second", "rate_burst", "inflight", "queue", "batch_max":
		return []word{"1", "2", "1000"}
	case "subject_rate_per_second", "subject_burst":
		return []word{"0", "7", "1000000"}
	case "max_body_bytes":
		return []word{"256", "3KiB", "8MiB"}
	case "decompress_ratio_cap":
		return []word{"1", "99"}
	default:
		return examples(s)
	}
}

// pushOf is the JSON of a push.
func pushOf(rows []setting, said map[string]word) string {
	var members, shadow []string
	for _, key := range slices.Sorted(maps.Keys(said)) {
		i := slices.IndexFunc(rows, func(s setting) bool { return s.key == key })
		name, inShadow := strings.CutPrefix(rows[i].pushName(), "shadow.")
		text := `"` + name + `":` + jsonText(rows[i], said[key])
		if inShadow {
			shadow = append(shadow, text)
		} else {
			members = append(members, text)
		}
	}
	if len(shadow) > 0 {
		members = append(members, `"shadow":{`+strings.Join(shadow, ",")+`}`)
	}
	return `{` + strings.Join(members, ",") + `}`
}
