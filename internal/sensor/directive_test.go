package sensor

import (
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func TestParseDirective(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(d *pb.Directive)
		want   string // part of the error; empty for none
	}{
		{"good", func(*pb.Directive) {}, ""},
		{"nothing protected", func(d *pb.Directive) { d.ProtectedPrefixes = nil }, ""},
		{"no version", func(d *pb.Directive) { d.Version = nil }, "version: is missing"},
		{"no prefix", func(d *pb.Directive) { d.ProtectedPrefixes[1] = "banana" }, `protected_prefixes[1]: "banana" is no prefix`},
		{"address", func(d *pb.Directive) { d.ProtectedPrefixes[1] = "192.0.2.1" }, "is no prefix"},
		{"host bits", func(d *pb.Directive) { d.ProtectedPrefixes[1] = "192.0.2.1/24" }, "192.0.2.0/24 is meant"},
		{"mapped", func(d *pb.Directive) { d.ProtectedPrefixes[1] = "::ffff:192.0.2.0/120" }, "write it as IPv4"},
		{"everything", func(d *pb.Directive) { d.ProtectedPrefixes[1] = "::/0" }, "whole Internet"},
		{"twice", func(d *pb.Directive) { d.ProtectedPrefixes[1] = d.ProtectedPrefixes[0] }, "is protected_prefixes[0] already"},
		{"too many", func(d *pb.Directive) { d.ProtectedPrefixes = make([]string, maxPrefixes+1) }, "65537 are more than 65536"},
		{"vector", func(d *pb.Directive) { d.Triggers[0].Vector = 64 }, "triggers[0].vector: 64 is not below 64"},
		{"two triggers", func(d *pb.Directive) { d.Triggers[1].Vector = 0 }, "triggers[1].vector: inbound total has triggers[0] already"},
		{"one trigger a direction", func(d *pb.Directive) {
			d.Triggers[1].Vector, d.Triggers[1].Direction = 0, pb.Direction_DIRECTION_OUTBOUND
		}, ""},
		{"direction", func(d *pb.Directive) { d.Triggers[1].Direction = 3 }, "triggers[1].direction: 3 is neither inbound (1) nor outbound (2)"},
		{"profiles", func(d *pb.Directive) { d.Profiles = 1024 }, ""},
		{"too many profiles", func(d *pb.Directive) { d.Profiles = 1025 }, "profiles: 1025 are more than 1024"},
		{"port of SYN", func(d *pb.Directive) { d.ReflectionPorts[0].Vector = uint32(vector.SYN) }, "reflection_ports[0].vector: 1 is not"},
		{"port of 256", func(d *pb.Directive) { d.ReflectionPorts[0].Vector = 256 + uint32(vector.DNS) }, "reflection_ports[0].vector: 269 is not"},
		{"another port", func(d *pb.Directive) { d.ReflectionPorts[0].Vector = uint32(vector.OtherReflection) }, ""},
		{"port 0", func(d *pb.Directive) { d.ReflectionPorts[0].Port = 0 }, "reflection_ports[0].port: 0 is outside"},
		{"port 65536", func(d *pb.Directive) { d.ReflectionPorts[0].Port = 65536 }, "reflection_ports[0].port: 65536 is outside"},
		{"port twice", func(d *pb.Directive) { d.ReflectionPorts[1].Port = 53 }, "reflection_ports[1].port: 53 belongs to reflection_ports[0]"},
		{"port of the total", func(d *pb.Directive) { d.ReflectionPorts[0].Vector = 0 }, "reflection_ports[0].vector"},
		{"report interval", func(d *pb.Directive) { d.ReportInterval = durationpb.New(99 * time.Millisecond) }, "report_interval: 99ms is outside"},
		{"hot interval", func(d *pb.Directive) { d.HotInterval = nil }, "hot_interval: 0s is outside"},
		{"impossible duration", func(d *pb.Directive) { d.HotInterval = &durationpb.Duration{Seconds: math.MaxInt64} }, "hot_interval"},
		{"two problems", func(d *pb.Directive) { d.HotInterval = nil; d.Version = nil }, "hot_interval"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := told(1, 1)
			tc.change(d)
			_, err := parseDirective(d)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

func FuzzParseDirective(f *testing.F) {
	good, err := proto.Marshal(told(1, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, wire []byte) {
		p := &pb.Directive{}
		if proto.Unmarshal(wire, p) != nil {
			return
		}
		d, err := parseDirective(p)
		if err != nil {
			if d != nil || err.Error() == "" {
				t.Errorf("refused with %+v and %q", d, err)
			}
			return
		}
		if len(d.protected) != len(p.GetProtectedPrefixes()) || d.report < minReportInterval || d.report > maxReportInterval ||
			d.hot < minHotInterval || d.hot > maxHotInterval || d.profiles > maxProfiles || d.ports[0] != 0 || d.version == (version{}) {
			t.Errorf("%+v passed", p)
		}
		for _, prefix := range d.protected {
			if prefix != prefix.Masked() || prefix.Bits() == 0 {
				t.Errorf("prefix %s passed", prefix)
			}
		}
		for _, v := range d.ports {
			if x, ok := vector.Get(vector.ID(v)); v != 0 && (!ok || !x.Reflection()) {
				t.Errorf("vector %d passed", v)
			}
		}
	})
}

func TestHotTargetsAreNeverSampledLess(t *testing.T) {
	for _, tc := range []struct{ all, hot, want uint32 }{
		{1024, 64, 64}, {16, 64, 16}, {1024, 0, 1024}, {0, 64, 64}, {0, 0, 0},
	} {
		p := told(1, 1)
		p.SampleOneIn, p.HotSampleOneIn = tc.all, tc.hot
		d, err := parseDirective(p)
		if err != nil || d.sampleOneIn != tc.all || d.hotSampleOneIn != tc.want {
			t.Errorf("%+v: %+v, %v", tc, d, err)
		}
	}
}

func TestPer(t *testing.T) {
	for _, tc := range []struct {
		rate   uint64
		window time.Duration
		want   uint64
	}{
		{0, time.Second, 0},
		{1, time.Millisecond, 1},
		{20_000, 32 * time.Millisecond, 640},
		{20_001, 32 * time.Millisecond, 641},
		{math.MaxUint64, time.Second, math.MaxUint64},
		{math.MaxUint64, time.Minute, math.MaxUint64},
	} {
		if got := per(tc.rate, tc.window); got != tc.want {
			t.Errorf("per(%d, %s) = %d, want %d", tc.rate, tc.window, got, tc.want)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, tc := range []struct {
		a, b version
		want bool
	}{
		{version{1, 2}, version{1, 1}, true},
		{version{1, 1}, version{1, 1}, false},
		{version{2, 1}, version{1, 9}, true},
		{version{1, 9}, version{2, 1}, false},
	} {
		if got := tc.a.newer(tc.b); got != tc.want {
			t.Errorf("%s newer than %s: %v", tc.a, tc.b, got)
		}
	}
}
