package ingest

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// every is an interval report of second n since the sensor's start, with its counters.
func every(n int, c *pb.SensorCounters) *pb.Report {
	return &pb.Report{
		Sequence: uint64(n), Cause: pb.Report_CAUSE_INTERVAL, StartTime: timestamppb.New(time.Unix(1_700_000_000+int64(n), 0)),
		Span: durationpb.New(time.Second), Counters: c, Directive: &pb.DirectiveVersion{Term: 7, Revision: 2},
	}
}

func joined(t *testing.T, f *fixture) *sensor {
	t.Helper()
	x, err := f.join("rack1", "192.0.2.1:1", &pb.Hello{Sensor: "rack1", StartTime: timestamppb.New(time.Unix(1, 0))}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestRatesOfASensor(t *testing.T) {
	f := start(t, Options{})
	x := joined(t, f)
	now := time.Now()
	x.note(now, every(1, &pb.SensorCounters{Packets: 1_000_000, Bytes: 1_000_000, OutboundPackets: 5, CpuNanoseconds: 1e9}))
	if r := f.Sensors(now)[0].Rates; r != (Rates{}) {
		t.Errorf("rates %+v of one report", r)
	}
	x.note(now, every(3, &pb.SensorCounters{Packets: 1_004_000, Bytes: 1_250_000, OutboundPackets: 105, CpuNanoseconds: 1.02e9}))
	if r, want := f.Sensors(now)[0].Rates, (Rates{Packets: 2000, Bits: 1_000_000, Outbound: 50, CPU: 0.01}); r != want {
		t.Errorf("rates %+v, want %+v", r, want)
	}
	x.note(now, every(4, &pb.SensorCounters{Packets: 10}))
	if r := f.Sensors(now)[0].Rates; r != (Rates{}) {
		t.Errorf("rates %+v of counters that began anew", r)
	}
}

func TestProblems(t *testing.T) {
	f := start(t, Options{})
	now := time.Now()
	kinds := func(st State) (out []string) {
		for _, p := range st.Problems {
			out = append(out, p.Kind)
			if p.Text == "" || strings.Contains(p.Text, "%!") {
				t.Errorf("problem %+v", p)
			}
		}
		return out
	}
	check := func(at time.Time, want ...string) {
		t.Helper()
		if got := kinds(f.Sensors(at)[0]); !slices.Equal(got, want) {
			t.Errorf("problems %v, want %v", got, want)
		}
	}
	x := joined(t, f)
	tcx := &pb.Interface{Name: "eth0", Attachment: pb.Interface_ATTACHMENT_TCX}
	x.note(now, every(1, &pb.SensorCounters{LostTriggers: 5, SlotExhaustedPackets: 5, SampleOneIn: 100, Interfaces: []*pb.Interface{tcx}}))
	check(now) // what was lost before we listened is no news
	maps := []*pb.MapUse{{Name: "records"}}
	later := now.Add(patience + time.Second)
	f.Direct(&Directive{Term: 7, Revision: 2, Watch: Watch{SampleOneIn: 100}})
	x.note(now, every(2, &pb.SensorCounters{
		LostTriggers: 6, SlotExhaustedPackets: 6, LostSamples: 1, DroppedReports: 1, MergedReports: 1, SampleOneIn: 200, Maps: maps,
		Interfaces: []*pb.Interface{tcx, {Name: "eth1"}},
	}))
	check(now.Add(time.Second), problemInterface, problemTriggers, problemSlots, problemBacklog, problemBacklog, problemSamples)
	check(later, problemInterface, problemTriggers, problemSlots, problemBacklog, problemBacklog, problemSamples, problemSampling)
	check(now.Add(recently), problemInterface, problemSampling)
	x.note(now, every(3, &pb.SensorCounters{LostTriggers: 6, SlotExhaustedPackets: 6, LostSamples: 1, DroppedReports: 1, MergedReports: 1, Maps: maps}))
	check(now.Add(recently), problemInterface, problemSampling)
	x.note(now, every(4, &pb.SensorCounters{LostTriggers: 6, SlotExhaustedPackets: 6, LostSamples: 1, DroppedReports: 1, MergedReports: 1, Maps: maps, Interfaces: []*pb.Interface{
		tcx, {Name: "eth1", Attachment: pb.Interface_ATTACHMENT_TCX, Down: true},
	}}))
	check(now.Add(recently), problemInterface, problemSampling)
	f.Direct(&Directive{Term: 7, Revision: 3})
	check(now.Add(recently), problemInterface, problemDirective)
	f.Direct(&Directive{Term: 7, Revision: 3})
	check(now.Add(time.Second), problemInterface, problemTriggers, problemSlots, problemBacklog, problemBacklog, problemSamples)
	f.leave(x, func(error) {})
	check(now, problemGone)
}

// Merged reports are none that are missing, whenever the numbers they took in are passed.
func TestMergedReportsAreNotMissing(t *testing.T) {
	f := start(t, Options{})
	x := joined(t, f)
	now := time.Now()
	missing := func() uint64 { return f.Sensors(now)[0].Missing }
	for _, tc := range []struct {
		sequence uint64
		merged   uint32
		want     uint64
	}{{1, 0, 0}, {2, 3, 0}, {3, 1, 0}, {5, 0, 0}, {7, 0, 0}, {9, 0, 1}, {10, 2, 1}, {13, 0, 2}} {
		r := every(int(tc.sequence), nil)
		r.Merged = tc.merged
		x.note(now, r)
		if got := missing(); got != tc.want {
			t.Errorf("after %d: %d missing, want %d", tc.sequence, got, tc.want)
		}
	}
}

func TestWhatASensorSaysIsBounded(t *testing.T) {
	f := start(t, Options{})
	x := joined(t, f)
	long := strings.Repeat("x", 1<<20)
	r := every(1, &pb.SensorCounters{})
	r.DirectiveError = long
	for range 10_000 {
		r.Counters.Maps = append(r.Counters.Maps, &pb.MapUse{Name: long[:10_000]})
		r.Counters.Interfaces = append(r.Counters.Interfaces, &pb.Interface{Name: long[:10_000]})
	}
	x.note(time.Now(), r)
	st := f.Sensors(time.Now())[0]
	if len(st.DirectiveError) > maxText || len(st.Counters.Maps) > maxMaps || len(st.Interfaces) > maxInterfaces || len(st.Counters.Maps[0].Name) > maxText {
		t.Errorf("kept %d characters, %d maps, %d interfaces", len(st.DirectiveError), len(st.Counters.Maps), len(st.Interfaces))
	}
}

// IPv6 networks that find no slot are told as hosts are.
func TestNetworksWithoutASlotAreAProblem(t *testing.T) {
	f := start(t, Options{})
	x := joined(t, f)
	now := time.Now()
	for i, lost := range []uint64{5, 5, 6} {
		x.note(now, every(i+1, &pb.SensorCounters{Maps: []*pb.MapUse{{Name: "records", Lost: uint64(i)}, {Name: "free_networks", Lost: lost}}}))
		want := 0
		if lost > 5 {
			want = 1
		}
		var got []Problem
		for _, p := range f.Sensors(now)[0].Problems {
			if p.Kind == problemSlots {
				got = append(got, p)
			}
		}
		if len(got) != want || want > 0 && !strings.HasPrefix(got[0].Text, "6 packets were counted for a prefix") {
			t.Errorf("report %d: %v", i+1, got)
		}
	}
}
