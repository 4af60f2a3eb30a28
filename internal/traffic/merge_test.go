package traffic

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

var network = netip.MustParsePrefix("192.0.2.0/24")

func hostN(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(2 + i>>8), byte(i)}), 32)
}

// window makes what some sensors report of one window; a sensor's reports stand in its order.
func window(rng *rand.Rand, w int) map[string][]Report {
	out := map[string][]Report{}
	at := t0.Add(time.Duration(w) * 32 * time.Millisecond)
	for _, s := range []string{"a", "b", "c", "d", "e"} {
		for range rng.IntN(3) {
			r := Report{Sensor: s, Cause: Cause(1 + rng.IntN(3)), Start: at.Add(time.Duration(rng.Int64N(1e7))), Span: time.Duration(rng.Int64N(1e9) + 1)}
			for range rng.IntN(6) {
				p := hostN(rng.IntN(4))
				d, id := vector.Direction(rng.IntN(2)), vector.ID(rng.IntN(4))
				r.Aggregates = append(r.Aggregates, Aggregate{p, d, id, rng.Uint64N(1e6), rng.Uint64N(1e9)})
				if rng.IntN(4) == 0 {
					var h sketch.HyperLogLog
					for range rng.IntN(100) {
						h.Add(rng.Uint64())
					}
					r.Profiles = append(r.Profiles, Profile{Target: p, Direction: d, Vector: id, Samples: rng.Uint32N(100), DistinctSources: &h, DistinctExact: rng.IntN(2) == 0})
				}
			}
			if r.Cause == Interval && rng.IntN(2) == 0 {
				r.Networks = append(r.Networks, NetworkTotal{network, vector.Direction(rng.IntN(2)), vector.ID(rng.IntN(4)), rng.Uint64N(1e6), rng.Uint64N(1e9), rng.Uint32N(50)})
			}
			out[s] = append(out[s], r)
		}
	}
	return out
}

// interleave puts the sensors' reports into some order that keeps each sensor's own.
func interleave(rng *rand.Rand, by map[string][]Report) (out []Report) {
	at := map[string]int{}
	for {
		var left []string
		for _, s := range []string{"a", "b", "c", "d", "e"} {
			if at[s] < len(by[s]) {
				left = append(left, s)
			}
		}
		if len(left) == 0 {
			return out
		}
		s := left[rng.IntN(len(left))]
		out = append(out, by[s][at[s]])
		at[s]++
	}
}

// The view must not depend on the order in which sensors' reports of one window arrive, to the last bit.
func TestOrderOfSensorsDoesNotMatter(t *testing.T) {
	for seed := range uint64(200) {
		rng, shuffle := rand.New(rand.NewPCG(1, seed)), rand.New(rand.NewPCG(2, seed))
		one, two := NewView(options()), NewView(options())
		for w := range 30 {
			now := t0.Add(time.Duration(w) * 500 * time.Millisecond)
			reports := window(rng, w)
			for _, r := range interleave(shuffle, reports) {
				one.Take(now, r)
			}
			for _, r := range interleave(shuffle, reports) {
				two.Take(now, r)
			}
			one.Expire(now)
			two.Expire(now)
			if a, b := fmt.Sprintf("%+v", one.Collect(now, nil)), fmt.Sprintf("%+v", two.Collect(now, nil)); a != b {
				t.Fatalf("seed %d, window %d:\n%s\n%s", seed, w, a, b)
			}
			if a, b := fmt.Sprintf("%+v", one.CollectSources()), fmt.Sprintf("%+v", two.CollectSources()); a != b {
				t.Fatalf("seed %d, window %d: sources\n%s\n%s", seed, w, a, b)
			}
		}
	}
}

// Whatever was reported, dropped, held and forgotten: each sum is that of its shares, and nothing is left of nobody.
func TestSumsAreThoseOfTheShares(t *testing.T) {
	o := options()
	o.StaleAfter, o.ForgetAfter = 700*time.Millisecond, 1500*time.Millisecond
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(3, seed))
		v := NewView(o)
		now := t0
		for w := range 60 {
			now = now.Add(time.Duration(rng.Int64N(6e8)))
			for _, r := range interleave(rng, window(rng, w)) {
				v.Take(now, r)
			}
			v.Expire(now)
			v.Collect(now, nil)
			sums, shares := 0, 0
			for _, all := range []map[netip.Prefix]*target{v.targets, v.networks} {
				for p, target := range all {
					if len(target.shares) == 0 && !target.network {
						t.Fatalf("seed %d: %s has no shares and is kept", seed, p)
					}
					for k, x := range target.sums {
						var got sum
						for _, s := range target.shares[x.first:target.end(k)] {
							if s.held {
								got.heldPPS, got.heldBPS = got.heldPPS+s.pps, got.heldBPS+s.bps
							} else {
								got.pps, got.bps = got.pps+s.pps, got.bps+s.bps
							}
						}
						if got.pps != x.pps || got.bps != x.bps || got.heldPPS != x.heldPPS || got.heldBPS != x.heldBPS {
							t.Fatalf("seed %d: %s column %d: sum %+v, shares say %+v", seed, p, x.column, x, got)
						}
					}
					sums += len(target.sums)
					shares += len(target.shares)
				}
			}
			if sums != v.sums || shares != v.shares {
				t.Fatalf("seed %d: %d sums and %d shares, counted %d and %d", seed, sums, shares, v.sums, v.shares)
			}
		}
		v.Tick(now.Add(time.Hour))
		v.Tick(now.Add(2 * time.Hour))
		if len(v.targets)+len(v.networks)+len(v.sensors)+v.sums+v.shares+v.links != 0 {
			t.Fatalf("seed %d: after an hour of silence: %d targets, %d networks, %d sensors, %d sums, %d shares, %d links", seed, len(v.targets), len(v.networks), len(v.sensors), v.sums, v.shares, v.links)
		}
	}
}

// What hot and interval reports both hold is counted once.
func TestEveryPacketIsEvidenceOnce(t *testing.T) {
	v := NewView(options())
	dns := func(n uint64) Aggregate { return Aggregate{victim, vector.Inbound, vector.DNS, n, n * 100} }
	said := func(at time.Duration, c Cause, span time.Duration, n, want uint64) {
		t.Helper()
		r := report("a", c, span, dns(n))
		r.Start = t0.Add(at)
		v.Take(r.Start.Add(span), r)
		if o := v.Collect(r.Start.Add(span), nil); len(o) != 1 || o[0].Packets != want || o[0].Bytes != 100*want {
			t.Errorf("%s at %s: %+v, want %d packets", c, at, o, want)
		}
	}
	ms := time.Millisecond
	said(0, Interval, time.Second, 50, 50)
	said(1000*ms, Trigger, 32*ms, 700, 700)      // the first: hot reports begin behind it
	said(1010*ms, Hot, 5*ms, 30, 30)             // too short for a rate, and still counted
	said(1015*ms, Hot, 100*ms, 2000, 2000)       //
	said(1000*ms, Interval, 200*ms, 2730, 0)     // holds what hot reports told
	said(1116*ms, Trigger, 32*ms, 400, 400)      // of another vector, say: told now …
	said(1115*ms, Hot, 100*ms, 2000, 1600)       // … and again
	said(1215*ms, Hot, 100*ms, 2000, 2000)       //
	said(2000*ms, Interval, time.Second, 10, 10) // no hot report any more
}

// A trigger tells of a flood that an interval report of the second before would average away.
func TestIntervalReportDoesNotBlurATrigger(t *testing.T) {
	v := NewView(options())
	r := report("a", Trigger, 32*time.Millisecond, Aggregate{victim, vector.Inbound, vector.SYN, 1000, 60_000})
	r.Start = t0.Add(980 * time.Millisecond)
	v.Apply(t0, r)
	v.Apply(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.SYN, 1000, 60_000}))
	if got := v.Observe(victim, vector.Inbound, vector.SYN).PPS; got < 30_000 {
		t.Errorf("the flood that began is %v packets/s", got)
	}
	r = report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.SYN, 5, 300})
	r.Start = t0.Add(1100 * time.Millisecond)
	v.Apply(t0, r)
	if got := v.Observe(victim, vector.Inbound, vector.SYN).PPS; got != 5 {
		t.Errorf("the next interval: %v packets/s", got)
	}
}

func TestAnswersOfTheOtherDirection(t *testing.T) {
	in := func(id vector.ID, n uint64) Aggregate { return Aggregate{victim, vector.Inbound, id, n, n} }
	out := func(id vector.ID, n uint64) Aggregate { return Aggregate{victim, vector.Outbound, id, n, n} }
	for _, tc := range []struct {
		name    string
		id      vector.ID
		as      []Aggregate
		twoWay  bool
		answers float64
	}{
		{"a resolver's answers", vector.DNS, []Aggregate{in(vector.DNS, 900), out(vector.DNS, 1000)}, true, 1000},
		{"an inbound-only sensor", vector.DNS, []Aggregate{in(vector.DNS, 900)}, false, 0},
		{"SYN-ACKs to a scanner", vector.SYNACK, []Aggregate{in(vector.SYNACK, 10), out(vector.SYN, 500), out(vector.ACK, 7)}, true, 500},
		{"resets", vector.RST, []Aggregate{in(vector.RST, 10), out(vector.SYN, 500), out(vector.ACK, 7)}, true, 507},
		{"a game server", vector.UDPOther, []Aggregate{in(vector.UDPOther, 10), out(vector.UDPOther, 20), out(vector.ReflectorAnswer, 1)}, true, 21},
		{"a web server", vector.SYN, []Aggregate{in(vector.SYN, 10), out(vector.SYNACK, 9), out(vector.RST, 1)}, true, 10},
		{"nothing tells", vector.GRE, []Aggregate{in(vector.GRE, 10), out(vector.GRE, 9)}, false, 0},
	} {
		v := NewView(options())
		v.Apply(t0, report("a", Interval, time.Second, tc.as...))
		if o := v.Observe(victim, vector.Inbound, tc.id); o.TwoWay != tc.twoWay || o.AnswersPPS != tc.answers {
			t.Errorf("%s: two-way %v, %v packets/s, want %v, %v", tc.name, o.TwoWay, o.AnswersPPS, tc.twoWay, tc.answers)
		}
	}
	// A sensor that says so watches both, though nothing leaves.
	v := NewView(options())
	r := report("a", Interval, time.Second, in(vector.UDPOther, 100))
	r.Outbound = true
	v.Apply(t0, r)
	if o := v.Observe(victim, vector.Inbound, vector.UDPOther); !o.TwoWay || o.AnswersPPS != 0 {
		t.Errorf("a silent target: %+v", o)
	}
	// Beside one that sees more and one way only, it proves nothing.
	v.Apply(t0, report("b", Interval, time.Second, in(vector.UDPOther, 101)))
	if o := v.Observe(victim, vector.Inbound, vector.UDPOther); o.TwoWay {
		t.Error("half of the traffic is watched one way only")
	}
}

func TestNetworksAddUp(t *testing.T) {
	v := NewView(options())
	total := func(s string, n uint64, hosts uint32) Report {
		r := report(s, Interval, time.Second, Aggregate{victim, vector.Inbound, vector.SYN, 1, 1})
		r.Networks = []NetworkTotal{{network, vector.Inbound, vector.SYN, n, 60 * n, hosts}}
		return r
	}
	v.Apply(t0, total("a", 1000, 10))
	v.Take(t0.Add(100*time.Millisecond), total("b", 500, 7))
	if got := v.Collect(t0.Add(100*time.Millisecond), nil); len(got) != 1 || got[0].Network {
		t.Errorf("networks are looked at four times a second: %+v", got)
	}
	got := v.Collect(t0.Add(250*time.Millisecond), nil)
	if len(got) != 1 || !got[0].Network || got[0].PPS != 1500 || got[0].ActiveHosts != 17 || got[0].Packets != 500 || got[0].SensorCount != 2 {
		t.Errorf("network: %+v", got)
	}
	if o := v.Observe(network, vector.Inbound, vector.SYN); o.PPS != 0 {
		t.Errorf("a network is taken for a target: %+v", o)
	}
	v.Expire(t0.Add(2 * time.Minute))
	if o := v.ObserveNetwork(network, vector.Inbound, vector.SYN); o.PPS != 0 || len(v.networks) != 1 {
		t.Errorf("forgotten: %+v", o)
	}
	if got = v.Collect(t0.Add(2*time.Minute), nil); len(got) != 2 || len(v.networks) != 0 {
		t.Errorf("forgotten: %+v, %d networks", got, len(v.networks))
	}
}

func TestSourcesOfAllSensors(t *testing.T) {
	v := NewView(options())
	says := func(s string, from, to uint64, exact bool) {
		var h sketch.HyperLogLog
		for i := from; i < to; i++ {
			h.Add(sketch.Mix(i, 0))
		}
		r := report(s, Hot, 100*time.Millisecond, Aggregate{victim, vector.Inbound, vector.Total, to - from + 5, 1}, Aggregate{victim, vector.Inbound, vector.SYN, to - from, 1})
		r.Profiles = []Profile{{Target: victim, Vector: vector.SYN, Samples: 10, Packets: 640, DistinctSources: &h, DistinctExact: exact}}
		v.Take(t0, r)
	}
	says("b", 0, 1000, true)
	says("a", 500, 1500, true)
	got := v.CollectSources()
	if len(got) != 1 || got[0].Packets != 2000 || got[0].Others != 10 || !got[0].Exact || len(got[0].Sensors) != 2 || got[0].Sensors[0] != "a" {
		t.Fatalf("%+v", got)
	}
	if n := got[0].Distinct.Estimate(); n < 1200 || n > 1800 {
		t.Errorf("%v different sources, 1500 were there", n)
	}
	says("b", 0, 10, true) // the sketch began anew
	if got = v.CollectSources(); got[0].Packets != 10 || got[0].Others != 5 {
		t.Errorf("%+v", got)
	}
	says("b", 0, 1000, false)
	if got = v.CollectSources(); got[0].Packets != 10 || got[0].Exact {
		t.Errorf("samples: %+v", got)
	}
}

// Of a target that ten thousand sensors see, an observation names some and counts all.
func TestManySensors(t *testing.T) {
	v := NewView(options())
	for i := range 1000 {
		v.Take(t0, report(fmt.Sprintf("rack%04d", i), Interval, time.Second, Aggregate{victim, vector.Inbound, vector.SYN, 2, 100}))
	}
	o := v.Collect(t0, nil)
	if len(o) != 1 || o[0].PPS != 2000 || o[0].SensorCount != 1000 || len(o[0].Sensors) != MaxNames || o[0].Sensors[63] != "rack0063" {
		t.Errorf("%+v", o)
	}
}

func TestOnlyWhatIsWantedIsObserved(t *testing.T) {
	v := NewView(options())
	v.Take(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.SYN, 2, 100}, Aggregate{other, vector.Inbound, vector.SYN, 2000, 100}))
	got := v.Collect(t0, func(r Rate) bool { return r.PPS > 1000 })
	if len(got) != 1 || got[0].Target != other {
		t.Errorf("%+v", got)
	}
	if got := v.Collect(t0, nil); len(got) != 0 {
		t.Errorf("news twice: %+v", got)
	}
	var all []Rate
	v.Each(func(r Rate) { all = append(all, r) })
	want := []Rate{{Target: victim, Vector: vector.SYN, PPS: 2, BPS: 800}, {Target: other, Vector: vector.SYN, PPS: 2000, BPS: 800}}
	if d := cmp.Diff(want, all, cmpNet); d != "" {
		t.Error(d)
	}
}

func TestSizesAreWhatGoAllocates(t *testing.T) {
	for name, got := range map[string][2]uintptr{
		"target": {bytesTarget, unsafe.Sizeof(target{})}, "link": {bytesLink, unsafe.Sizeof(link{})}, "sum": {bytesSum, unsafe.Sizeof(sum{})},
		"share": {bytesShare, unsafe.Sizeof(share{})}, "slot": {bytesSlot, (unsafe.Sizeof(netip.Prefix{}) + unsafe.Sizeof(&target{})) * 3 / 2},
	} {
		if got[0] != got[1] {
			t.Errorf("a %s takes %d octets, said are %d", name, got[1], got[0])
		}
	}
}

// BenchmarkTake takes in interval reports of racks with 32 hosts of eight aggregates each.
func BenchmarkTake(b *testing.B) {
	for _, sensors := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("sensors=%d", sensors), func(b *testing.B) {
			v := NewView(Options{MaxTargets: 1 << 20, StaleAfter: 3 * time.Second, ForgetAfter: time.Minute})
			var before, after runtime.MemStats
			reports := make([]Report, sensors)
			for i := range reports {
				reports[i] = rack(i)
			}
			runtime.GC()
			runtime.ReadMemStats(&before)
			never := func(Rate) bool { return false }
			for _, r := range reports {
				v.Take(t0, r)
				v.Collect(t0, never)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			i := 0
			for b.Loop() {
				v.Take(t0, reports[i%sensors])
				v.Collect(t0, never)
				i++
			}
			n := len(reports[0].Aggregates)
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/aggregate")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reports/s")
			targets, _ := v.Targets()
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(targets), "B/target")
			b.ReportMetric(float64(v.Bytes())/float64(targets), "B/target-estimated")
			runtime.KeepAlive(reports)
		})
	}
}

// rack is the interval report of a rack of 32 hosts.
func rack(i int) Report {
	r := Report{Sensor: fmt.Sprintf("rack%05d", i), Cause: Interval, Start: t0, Span: time.Second}
	for h := range 32 {
		n := i*32 + h
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
		for _, d := range []vector.Direction{vector.Inbound, vector.Outbound} {
			for _, id := range []vector.ID{vector.Total, vector.SYN, vector.ACK, vector.UDPOther} {
				r.Aggregates = append(r.Aggregates, Aggregate{p, d, id, 1000, 500_000})
			}
		}
	}
	return r
}
