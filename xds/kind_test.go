package xds

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	udpa "github.com/cncf/xds/go/udpa/type/v1"
	xdstype "github.com/cncf/xds/go/xds/type/v3"
	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	transport "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	runtime "github.com/envoyproxy/go-control-plane/envoy/service/runtime/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"svc-wallet/config"
	"svc-wallet/xds/xdspb"
)

var update = flag.Bool("update", false, "rewrite testdata/resources.txt")

// kind is a type of resource whatever its values are.
type kind struct {
	typeInfo
	blank  proto.Message
	read   func(raw []byte) (any, error)
	pack   func(any) any
	unpack func(raw []byte) (any, error)
	// restored says what is wrong with a last good file.
	restored func(items []lastItem, names []string) error
}

func kindOf[T any](rt resourceType[T], blank proto.Message) kind {
	return kind{
		typeInfo: rt.typeInfo,
		blank:    blank,
		read: func(raw []byte) (any, error) {
			_, value, err := rt.decode(raw)
			if err != nil {
				return nil, err
			}
			v, _, err := value()
			return v, err
		},
		pack:   func(v any) any { return rt.pack(v.(T)) },
		unpack: func(raw []byte) (any, error) { return rt.unpack(raw) },
		restored: func(items []lastItem, names []string) error {
			_, err := newTyped(rt, func() []string { return names }, func(set[T]) error { return nil }).restored(items, 1)
			return err
		},
	}
}

func kinds() []kind {
	return []kind{
		kindOf(limitsType(), new(core.TypedExtensionConfig)), kindOf(runtimeType(), new(runtime.Runtime)), kindOf(clusterType(), new(cluster.Cluster)),
		kindOf(endpointType(), new(endpoint.ClusterLoadAssignment)), kindOf(secretType(), new(transport.Secret)),
	}
}

// decoded is what is taken of a resource, in words, or what is wrong with it.
func decoded(k kind, m proto.Message) string {
	raw, err := proto.Marshal(m)
	if err != nil {
		return "broken: " + err.Error()
	}
	value, err := k.read(raw)
	if err != nil {
		return "refused: " + err.Error()
	}
	switch v := value.(type) {
	case *secret:
		return fmt.Sprintf("%s of %d, %d, %d bytes", v.form, len(v.cert), len(v.key), len(v.text))
	case knobs:
		p, err := v.push()
		if err != nil {
			return "broken: " + err.Error()
		}
		return string(p.JSON())
	case *backend:
		addrs := "static"
		if v.addrs != nil {
			addrs = fmt.Sprintf("%q", v.addrs)
		}
		unlimited := strings.Join(v.unlimited, ",")
		return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", v.push.JSON(), addrs, v.service, unlimited))
	}
	text, err := json.Marshal(k.pack(value))
	if err != nil {
		return "broken: " + err.Error()
	}
	return string(text)
}

// TestResources reads testdata/resources.txt: a line that begins with a type is a resource in
// protobuf's JSON, and the indented lines after it what is taken of it, or why it is refused.
func TestResources(t *testing.T) {
	raw, err := os.ReadFile("testdata/resources.txt")
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]kind{}
	for _, k := range kinds() {
		byName[k.name] = k
	}
	lines := strings.Split(string(raw), "\n")
	cases := 0
	var out []string
	for i := 0; i < len(lines); i++ {
		name, text, _ := strings.Cut(lines[i], " ")
		k, known := byName[name]
		out = append(out, lines[i])
		if !known {
			continue
		}
		cases++
		at := i + 1
		var want []string
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "    ") {
			i++
			want = append(want, strings.TrimPrefix(lines[i], "    "))
		}
		m := proto.Clone(k.blank)
		if err := protojson.Unmarshal([]byte(text), m); err != nil {
			t.Fatalf("line %d: %v", at, err)
		}
		got := strings.Split(decoded(k, m), "\n")
		for _, line := range got {
			out = append(out, "    "+line)
		}
		if !*update && !slices.Equal(got, want) {
			t.Errorf("line %d: %s\n got\n    %s\nwant\n    %s", at, lines[at-1], strings.Join(got, "\n    "), strings.Join(want, "\n    "))
		}
	}
	if cases < 60 {
		t.Fatalf("only %d cases", cases)
	}
	if *update {
		if err := os.WriteFile("testdata/resources.txt", []byte(strings.Join(out, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLimitsForms: the three forms of the limits are the same push.
func TestLimitsForms(t *testing.T) {
	text := `{"max_amount_per_op": "5", "rate_per_second": 8000, "rate_burst": 9007199, "writes_enabled": "25%",
		"revoked_tokens": [], "overrides": [{"token": "t", "max_amount_per_op": "9"}], "shadow": {"revoked_keys": ["2024"]}}`
	ours := &xdspb.Limits{
		MaxAmountPerOp: proto.String("5"), RatePerSecond: proto.Uint64(8000), RateBurst: proto.Uint64(9007199), WritesEnabled: proto.String("25%"),
		RevokedTokens: &xdspb.Names{},
		Overrides:     &xdspb.Overrides{Values: []*xdspb.Override{{Token: proto.String("t"), MaxAmountPerOp: proto.String("9")}}},
		Shadow:        &xdspb.Shadow{RevokedKeys: &xdspb.Names{Values: []string{"2024"}}},
	}
	want, err := config.ParsePush([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	inner := "type.googleapis.com/svc_wallet.v1.Limits"
	for name, body := range map[string]proto.Message{
		"xds TypedStruct":  &xdstype.TypedStruct{TypeUrl: inner, Value: object(text)},
		"udpa TypedStruct": &udpa.TypedStruct{TypeUrl: inner, Value: object(text)},
		"protobuf":         ours,
	} {
		m := &core.TypedExtensionConfig{Name: "svc-wallet.limits", TypedConfig: pack(body)}
		if got := decoded(kinds()[0], m); got != string(want.JSON()) {
			t.Errorf("%s: %s, want %s", name, got, want.JSON())
		}
		if err := Check(extensionURL, m); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLimitsMessage: what our own message carries is taken to the last field, and a field that a
// newer one has is refused, wherever it stands.
func TestLimitsMessage(t *testing.T) {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1)
	with := func(m proto.Message) proto.Message { m.ProtoReflect().SetUnknown(unknown); return m }
	read := func(m proto.Message) string {
		return decoded(kinds()[0], &core.TypedExtensionConfig{Name: "l", TypedConfig: pack(m)})
	}
	for want, m := range map[string]proto.Message{
		"refused: Limits: has a field that this program does not know":                  with(&xdspb.Limits{}),
		"refused: revoked_keys: has a field that this program does not know":            &xdspb.Limits{RevokedKeys: with(&xdspb.Names{}).(*xdspb.Names)},
		`refused: "overrides[0].Override": has a field that this program does not know`: &xdspb.Limits{Overrides: &xdspb.Overrides{Values: []*xdspb.Override{with(&xdspb.Override{}).(*xdspb.Override)}}},
		"{}": &xdspb.Limits{},
		`refused: limits.rate_per_second: 18446744073709551615 (from push) is not an integer in 1…1000000000`: &xdspb.Limits{RatePerSecond: proto.Uint64(math.MaxUint64)},
	} {
		if want = strings.ReplaceAll(want, `"overrides[0].Override"`, "overrides[0].Override"); read(m) != want {
			t.Errorf("got %s, want %s", read(m), want)
		}
	}
}

// TestLimitsFields compares the fields of limits.proto with the members of a push, which are the
// settings of config that it takes, so that neither can be without the other.
func TestLimitsFields(t *testing.T) {
	fields := map[string]bool{}
	collect := func(prefix string, m proto.Message) {
		list := m.ProtoReflect().Descriptor().Fields()
		for i := range list.Len() {
			fields[prefix+string(list.Get(i).Name())] = true
		}
	}
	collect("", new(xdspb.Limits))
	delete(fields, "shadow")
	collect("shadow.", new(xdspb.Shadow))

	members := map[string]bool{}
	for _, e := range load(t, map[string]string{"tls.cert_file": "c", "tls.key_file": "k", "auth.root_keys_file": "r"}).Effective() {
		name, watched := strings.CutPrefix(e.Key, "shadow.")
		push, path := `{%q: null}`, ""
		if watched {
			push, path = `{"shadow": {%q: null}}`, "shadow."
		} else {
			name = strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(name, "limits."), "wallet."), ".", "_")
		}
		_, err := config.ParsePush([]byte(fmt.Sprintf(push, name)))
		if err == nil || !strings.Contains(err.Error(), "unknown key") {
			members[path+name] = true
		}
	}
	got, want := slices.Sorted(maps.Keys(fields)), slices.Sorted(maps.Keys(members))
	if !slices.Equal(got, want) {
		t.Errorf("limits.proto has\n%v\nand a push\n%v", got, want)
	}
	// Each field of the message is one that an override may have.
	list := new(xdspb.Override).ProtoReflect().Descriptor().Fields()
	for i := range list.Len() {
		value := `""`
		if list.Get(i).Kind() == protoreflect.Uint64Kind {
			value = "1"
		}
		_, err := config.ParsePush([]byte(fmt.Sprintf(`{"overrides": [{%q: %s}]}`, list.Get(i).Name(), value)))
		if err != nil && strings.Contains(err.Error(), "is unknown") {
			t.Errorf("an override has no %s", list.Get(i).Name())
		}
	}
}

// TestDoubles: a number reaches the limits only as the integer that it certainly was.
func TestDoubles(t *testing.T) {
	for _, f := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0.5, 1e300, 1 << 53, -(1 << 53), 1<<53 + 2} {
		if n, err := whole(f); err == nil {
			t.Errorf("%v was taken for %d", f, n)
		}
	}
	rng := seeded(t)
	for range 10000 {
		want := rng.Int64N(2<<53-1) - (1<<53 - 1)
		if got, err := whole(float64(want)); err != nil || got != want {
			t.Fatalf("%d became %d, %v", want, got, err)
		}
	}
}

// TestNesting: neither a value nor a message that is nested deeply costs more than a refusal.
func TestNesting(t *testing.T) {
	v := structpb.NewNumberValue(1)
	for range 12 { // each of them is three messages
		v = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"a": v}})
	}
	deep := &structpb.Struct{Fields: map[string]*structpb.Value{"svc-wallet": v}}
	if got := decoded(kinds()[1], &runtime.Runtime{Name: "r", Layer: deep}); !strings.Contains(got, "nested") {
		t.Error(got)
	}
	list := structpb.NewNumberValue(1)
	for range 20 {
		list = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{list}})
	}
	m := &xdstype.TypedStruct{TypeUrl: limitsName, Value: &structpb.Struct{Fields: map[string]*structpb.Value{"overrides": list}}}
	if got := decoded(kinds()[0], &core.TypedExtensionConfig{TypedConfig: pack(m)}); !strings.Contains(got, "nested") {
		t.Error(got)
	}
	raw := []byte{}
	for range 300 { // a list in a Value in a list: fields 1 and 6
		raw = protowire.AppendBytes(protowire.AppendTag(nil, 6, protowire.BytesType), raw)
		raw = protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), raw)
	}
	if err := unmarshal(raw, new(structpb.ListValue)); err == nil {
		t.Error("a deep message was taken")
	}
}

// TestCheck: the control plane's check speaks in the words of a NACK.
func TestCheck(t *testing.T) {
	bad := &runtime.Runtime{Name: "r", Layer: object(`{"svc-wallet.queue": 0, "svc-wallet.writes_enabled": 101}`)}
	for _, c := range []struct {
		url  string
		m    proto.Message
		want string
	}{
		{runtimeURL, bad, "r: svc-wallet.writes_enabled: 101 is not in 0…100"},
		{runtimeURL, pack(&runtime.Runtime{Name: "r", Layer: object(`{"svc-wallet.queue": 0}`)}), "r: limits.queue: 0 (from push) is not in 1…65536"},
		{runtimeURL, &anypb.Any{TypeUrl: runtimeURL, Value: []byte("\xff")}, "resource: is not a valid message"},
		{runtimeURL, new(cluster.Cluster), "resource: is a envoy.config.cluster.v3.Cluster, not a envoy.service.runtime.v3.Runtime"},
		{"x", bad, "type x is not one that a sidecar takes"},
		{endpointURL, new(endpoint.ClusterLoadAssignment), ""},
		{secretURL, new(transport.Secret), `"": type: is not`},
		{runtimeURL, &runtime.Runtime{Name: "a\nb", Layer: object(`{"svc-wallet.quue": 1}`)}, `"a\nb": quue: unknown key`},
		{runtimeURL, &runtime.Runtime{Name: "\xff"}, "resource: "},
	} {
		got := ""
		if err := Check(c.url, c.m); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: %q, want %q", c.url, got, c.want)
		}
	}
}

// FuzzResources: any bytes as any kind of resource are read or refused, and what is read survives
// the last good file.
func FuzzResources(f *testing.F) {
	for i, seed := range []proto.Message{
		&core.TypedExtensionConfig{Name: "l", TypedConfig: pack(&xdstype.TypedStruct{TypeUrl: limitsName, Value: object(`{"queue": 5, "overrides": [{"route": "tx", "rate_per_second": 1, "rate_burst": 2}]}`)})},
		&runtime.Runtime{Name: "r", Layer: object(`{"svc-wallet": {"route.tx": {"enabled": {"numerator": 25}}}, "svc-wallet.shadow.queue": 1}`)},
		&cluster.Cluster{Name: "ledger", LoadAssignment: &endpoint.ClusterLoadAssignment{}},
		&endpoint.ClusterLoadAssignment{ClusterName: "ledger"},
		&transport.Secret{Name: "s"},
	} {
		raw, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), raw)
	}
	f.Add(uint8(0), []byte("\x00\xff"))
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		k := kinds()[int(which)%len(kinds())]
		value, err := k.read(raw)
		if err != nil || k.secret {
			return
		}
		first, err := json.Marshal(k.pack(value))
		if err != nil {
			t.Fatal(err)
		}
		back, err := k.unpack(first)
		if err != nil {
			t.Fatalf("%s is not taken back: %v", first, err)
		}
		if again, err := json.Marshal(k.pack(back)); err != nil || string(again) != string(first) {
			t.Fatalf("%s became %s, %v", first, again, err)
		}
	})
}
