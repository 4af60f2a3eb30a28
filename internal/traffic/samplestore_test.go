package traffic

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"
	"unsafe"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// noon is on the boundary of every part of time of the default options.
var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func sampleTo(target string, at time.Time, v vector.ID, n int) Sample {
	s := Sample{
		Time: at, Vector: v, Weight: 64, Destination: netip.MustParseAddr(target), Source: netip.AddrFrom4([4]byte{198, 51, byte(n >> 8), byte(n)}),
		Length: uint16(40 + n%1400), Protocol: 17, TTL: 60, DSCP: 5, Fragment: DontFragment, HasPorts: true, SourcePort: uint16(n), DestinationPort: 53,
	}
	if s.Destination.Is6() {
		s.Source, s.FlowLabel, s.Fragment = netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x", n+1)), 77, 0
	}
	return s
}

func host(addr string) netip.Prefix {
	a := netip.MustParseAddr(addr)
	return netip.PrefixFrom(a, a.BitLen())
}

func TestSamplesComeBackAsTheyWere(t *testing.T) {
	for _, target := range []string{"192.0.2.1", "2001:db8::1"} {
		s := NewSampleStore(SampleOptions{})
		in := sampleTo(target, noon, vector.DNS, 3)
		icmp := in
		icmp.HasPorts, icmp.SourcePort, icmp.DestinationPort, icmp.HasICMP, icmp.ICMPType, icmp.ICMPCode, icmp.Vector = false, 0, 0, true, 3, 4, vector.ICMP
		out := in
		out.Direction, out.Source, out.Destination = vector.Outbound, in.Destination, in.Source
		for _, x := range []Sample{in, icmp, out} {
			s.Add(noon, x)
		}
		for _, tc := range []struct {
			d    vector.Direction
			v    vector.ID
			want []Sample
		}{{vector.Inbound, vector.DNS, []Sample{in}}, {vector.Inbound, vector.ICMP, []Sample{icmp}}, {vector.Outbound, vector.Total, []Sample{out}}, {vector.Inbound, vector.SYN, []Sample{}}} {
			if got := s.Attack(host(target), tc.d, tc.v, noon); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%s %s:\n%+v, want\n%+v", tc.d, tc.v, got, tc.want)
			}
		}
		if got := s.Attack(host(target), vector.Inbound, vector.Total, noon.Add(1)); len(got) != 0 {
			t.Errorf("from before since: %+v", got)
		}
		if got := s.Normal(host(target), vector.Inbound, noon.Add(1)); len(got) != 2 {
			t.Errorf("normal: %+v", got)
		}
		if got := s.Normal(host(target), vector.Inbound, noon); len(got) != 0 {
			t.Errorf("not from before: %+v", got)
		}
	}
}

// The profile shows the whole last hour, though the last minutes bring many times more samples.
func TestNormalIsSpreadOverTime(t *testing.T) {
	s := NewSampleStore(SampleOptions{})
	n := 0
	for at := noon; at.Before(noon.Add(2 * time.Hour)); at = at.Add(5 * time.Second) {
		count := 1
		if at.After(noon.Add(110 * time.Minute)) {
			count = 50
		}
		for range count {
			n++
			s.Add(at, sampleTo("192.0.2.1", at, vector.DNS, n))
		}
	}
	now := noon.Add(2 * time.Hour)
	got := s.Normal(host("192.0.2.1"), vector.Inbound, now)
	if len(got) < 400 || len(got) > 512+4*32 { // settled, and waiting
		t.Errorf("%d samples", len(got))
	}
	minutes := map[int]int{}
	weight := 0.0
	for _, x := range got {
		if now.Sub(x.Time) > time.Hour+time.Hour/slots {
			t.Fatalf("a sample of %s", x.Time)
		}
		minutes[int(now.Sub(x.Time)/(10*time.Minute))]++
		if now.Sub(x.Time) > 10*time.Minute {
			weight += float64(x.Weight)
		}
	}
	for i := range 6 {
		if minutes[i] < 40 {
			t.Errorf("%d samples from %d minutes ago: %v", minutes[i], 10*i, minutes)
		}
	}
	if want := 64.0 * 50 * 12; math.Abs(weight-want) > want/8 { // one each 5 s, each standing for 64 packets
		t.Errorf("50 minutes weigh %.0f, want about %.0f", weight, want)
	}
}

// What is seen of an attack, and just before it was seen, never becomes normal.
func TestAttackDoesNotBecomeNormal(t *testing.T) {
	for _, frozen := range []string{"192.0.2.1/32", "192.0.2.0/24"} {
		s := NewSampleStore(SampleOptions{})
		target := netip.MustParsePrefix(frozen)
		begin, onset := noon.Add(10*time.Minute), noon.Add(10*time.Minute+2*time.Second)
		end := noon.Add(40 * time.Minute)
		for i := 0; ; i++ {
			at := noon.Add(time.Duration(i) * time.Second)
			if at.After(noon.Add(50 * time.Minute)) {
				break
			}
			if at.Equal(onset) {
				s.Freeze(target, onset)
				s.Freeze(target, onset.Add(time.Hour)) // changes nothing
			}
			if at.Equal(end) {
				s.Thaw(at, target)
				s.Add(at, sampleTo("192.0.2.1", at.Add(-time.Second), vector.NTP, i)) // late
			}
			s.Add(at, sampleTo("192.0.2.1", at, vector.DNS, i))
			if !at.Before(begin) && at.Before(end) {
				for j := range 20 {
					s.Add(at, sampleTo("192.0.2.1", at, vector.NTP, i*20+j))
				}
			}
			if at.Equal(end.Add(-time.Second)) {
				if n := len(s.Normal(host("192.0.2.1"), vector.Inbound, onset)); n < 300 {
					t.Errorf("%s: %d normal samples during the attack", frozen, n)
				}
				if n := len(s.Attack(target, vector.Inbound, vector.NTP, onset)); n < 1500 {
					t.Errorf("%s: %d samples of the attack", frozen, n)
				}
			}
		}
		all := s.Normal(host("192.0.2.1"), vector.Inbound, noon.Add(time.Hour))
		after := 0
		for _, x := range all {
			if x.Vector == vector.NTP || x.Time.After(begin.Add(-5*time.Second)) && x.Time.Before(end) {
				t.Fatalf("%s: normal is %+v", frozen, x)
			}
			if !x.Time.Before(end) {
				after++
			}
		}
		if len(all) < 200 || after < 50 {
			t.Errorf("%s: %d normal samples, %d from after the attack", frozen, len(all), after)
		}
		if n := len(s.Attack(target, vector.Inbound, vector.Total, noon)); n > 256 {
			t.Errorf("%s: %d recent samples are kept after the attack", frozen, n)
		}
	}
}

// The last samples are kept, also of a ring that had gone round before it grew.
func TestTheLastSamplesAreKept(t *testing.T) {
	s := NewSampleStore(SampleOptions{})
	n := 0
	add := func(count int) {
		for range count {
			n++
			s.Add(noon.Add(time.Hour), sampleTo("192.0.2.1", noon.Add(time.Duration(n)*time.Second), vector.DNS, n))
		}
	}
	check := func(want int) {
		t.Helper()
		got := s.Attack(host("192.0.2.1"), vector.Inbound, vector.DNS, noon)
		if len(got) != want || !got[0].Time.Equal(noon.Add(time.Duration(n-want+1)*time.Second)) || !got[want-1].Time.Equal(noon.Add(time.Duration(n)*time.Second)) {
			t.Fatalf("%d samples from %s to %s after %d", len(got), got[0].Time, got[len(got)-1].Time, n)
		}
	}
	add(300)
	check(256)
	s.Freeze(host("192.0.2.1"), noon)
	add(2048 - 256 + 250)
	check(2048)
	s.Thaw(noon.Add(time.Hour), host("192.0.2.1"))
	check(256)
	add(10)
	check(256)
}

// Two incidents at one host: the profile is frozen until both are over.
func TestFrozenByTwo(t *testing.T) {
	s := NewSampleStore(SampleOptions{})
	wide, narrow := netip.MustParsePrefix("192.0.2.0/24"), host("192.0.2.1")
	s.Freeze(wide, noon)
	s.Add(noon, sampleTo("192.0.2.1", noon, vector.DNS, 1)) // a host that was not known
	s.Freeze(narrow, noon)
	s.Thaw(noon, narrow)
	s.Add(noon.Add(time.Second), sampleTo("192.0.2.1", noon.Add(time.Second), vector.DNS, 2))
	if n := len(s.Normal(narrow, vector.Inbound, noon.Add(time.Hour))); n != 0 {
		t.Errorf("%d normal samples while the network is under attack", n)
	}
	s.Thaw(noon, wide)
	s.Add(noon.Add(time.Second), sampleTo("192.0.2.1", noon.Add(time.Second), vector.DNS, 3))
	if n := len(s.Normal(narrow, vector.Inbound, noon.Add(time.Hour))); n != 1 {
		t.Errorf("%d normal samples after it", n)
	}
}

func TestOrderOfArrivalDecidesNothing(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var in []Sample
	for i := range 5000 {
		x := sampleTo("192.0.2.1", noon.Add(time.Duration(rnd.IntN(20e9))), vector.ID(1+i%5), i)
		x.Weight = uint32(1 + rnd.IntN(100))
		if i%3 == 0 {
			x.Destination = netip.MustParseAddr("192.0.2.2")
		}
		in = append(in, x)
	}
	now := noon.Add(20 * time.Second)
	run := func() []Sample {
		s := NewSampleStore(SampleOptions{Seed: 7})
		for _, x := range in {
			s.Add(now, x)
		}
		later := now.Add(2 * time.Minute)
		s.Add(later, sampleTo("192.0.2.1", later, vector.DNS, 1))
		return append(s.Normal(netip.MustParsePrefix("192.0.2.0/24"), vector.Inbound, now), s.Normal(host("192.0.2.2"), vector.Inbound, now)...)
	}
	want := run()
	if len(want) < 100 {
		t.Fatalf("%d samples", len(want))
	}
	for range 5 {
		rnd.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		if got := run(); !reflect.DeepEqual(got, want) {
			t.Fatalf("another order gives other samples: %d, %d", len(got), len(want))
		}
	}
}

// Samples are kept by their weight.
func TestHeavySamplesAreKeptMore(t *testing.T) {
	s := NewSampleStore(SampleOptions{})
	for i := range 20_000 {
		x := sampleTo("192.0.2.1", noon.Add(time.Duration(i)*time.Millisecond/2), vector.DNS, i)
		x.Weight = 1
		if i%10 == 0 {
			x.Vector, x.Weight = vector.NTP, 9
		}
		s.Add(x.Time, x)
	}
	var heavy, all float64
	for _, x := range s.Normal(host("192.0.2.1"), vector.Inbound, noon.Add(time.Hour)) {
		all += float64(x.Weight)
		if x.Vector == vector.NTP {
			heavy += float64(x.Weight)
		}
	}
	if share := heavy / all; share < 0.3 || share > 0.7 { // half of the packets
		t.Errorf("share %.2f", share)
	}
	if math.Abs(all-36_000) > 2000 {
		t.Errorf("%.0f packets, want 36000", all)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	if n := unsafe.Sizeof(ranked{}); n > packedBytes {
		t.Errorf("a sample takes %d bytes", n)
	}
	if n := unsafe.Sizeof(sampled{}) + unsafe.Sizeof(sampledKey{}); n > targetBytes {
		t.Errorf("a target takes %d bytes", n)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	o := SampleOptions{MaxBytes: 4 << 20, MaxTargets: 200}
	s := NewSampleStore(o)
	victim := host("203.0.113.1")
	for i := range 300_000 {
		at := noon.Add(time.Duration(i) * time.Millisecond)
		x := sampleTo(fmt.Sprintf("192.0.%d.%d", rnd.IntN(8), rnd.IntN(250)), at, vector.DNS, i)
		switch {
		case i%4 == 0:
			x.Destination = netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 251+rnd.IntN(3))) // the busy ones
		case i%10 == 1 && i > 100_000:
			x.Destination = victim.Addr()
		}
		if i == 100_000 {
			s.Freeze(victim, at)
		}
		s.Add(at, x)
		if n, _ := s.Targets(); s.Bytes() > o.MaxBytes || n > o.MaxTargets {
			t.Fatalf("%d bytes, %d targets", s.Bytes(), n)
		}
	}
	sum := int64(0)
	for _, x := range s.targets {
		sum += x.bytes()
	}
	if sum != s.Bytes() {
		t.Errorf("%d bytes are counted, %d are there", s.Bytes(), sum)
	}
	if n := len(s.Normal(host("192.0.2.252"), vector.Inbound, noon.Add(time.Hour))); n < 50 {
		t.Errorf("%d normal samples of a busy target", n)
	}
	if n := len(s.Attack(victim, vector.Inbound, vector.Total, noon)); n < 250 {
		t.Errorf("%d samples of the target under attack, which came last", n)
	}
	if _, dropped := s.Targets(); dropped == 0 {
		t.Error("nothing was dropped")
	}
}

func TestNonsenseIsDropped(t *testing.T) {
	s := NewSampleStore(SampleOptions{})
	good := sampleTo("192.0.2.1", noon, vector.DNS, 1)
	mixed, old, nowhere := good, good, good
	mixed.Source = netip.MustParseAddr("2001:db8::1")
	old.Time = noon.Add(-2 * time.Hour)
	nowhere.Source = netip.Addr{}
	for _, x := range []Sample{mixed, old, nowhere, {}} {
		s.Add(noon, x)
	}
	if n, dropped := s.Targets(); n != 0 || dropped != 4 {
		t.Errorf("%d targets, %d dropped", n, dropped)
	}
	future := good
	future.Time = noon.Add(time.Hour)
	s.Add(noon, future)
	if got := s.Attack(host("192.0.2.1"), vector.Inbound, vector.Total, noon); len(got) != 1 || !got[0].Time.Equal(noon) {
		t.Errorf("%+v", got)
	}
}

// A carpet of many hosts: as many samples as a signature can use, standing for all.
func TestPrefixGathersItsHosts(t *testing.T) {
	s := NewSampleStore(SampleOptions{})
	for i := range 256 * 50 {
		at := noon.Add(time.Duration(i) * time.Millisecond)
		s.Add(at, sampleTo(fmt.Sprintf("192.0.2.%d", i%256), at, vector.DNS, i))
	}
	got := s.Attack(netip.MustParsePrefix("192.0.2.0/24"), vector.Inbound, vector.DNS, noon)
	sum := 0
	for _, x := range got {
		sum += int(x.Weight)
	}
	if len(got) != maxGathered || math.Abs(float64(sum)-256*50*64) > 256*50 {
		t.Errorf("%d samples of %d packets", len(got), sum)
	}
	if n := len(s.Attack(netip.MustParsePrefix("192.0.2.0/31"), vector.Inbound, vector.DNS, noon)); n != 100 {
		t.Errorf("%d samples of two hosts", n)
	}
}

func BenchmarkSampleStoreAdd(b *testing.B) {
	s := NewSampleStore(SampleOptions{})
	in := make([]Sample, 4096)
	for i := range in {
		in[i] = sampleTo(fmt.Sprintf("192.0.2.%d", i%200), noon, vector.DNS, i)
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		x := &in[i%len(in)]
		x.Time = noon.Add(time.Duration(i) * 100 * time.Microsecond)
		s.Add(x.Time, *x)
		i++
	}
	b.ReportMetric(float64(s.Bytes())/200, "B/target")
}
