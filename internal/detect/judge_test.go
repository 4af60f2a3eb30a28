package detect

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// full has every kind of limit.
type full struct {
	limits   map[vector.ID]Limits
	networks map[vector.ID]Limits
	outbound map[vector.ID]Limits
	baseline Baseline
}

func (f full) Limits(s Site, v vector.ID) Limits {
	switch {
	case s.Network:
		return f.networks[v]
	case s.Direction == vector.Outbound:
		return f.outbound[v]
	}
	return f.limits[v]
}
func (f full) Group(netip.Prefix) string { return "default" }
func (f full) Baseline() Baseline        { return f.baseline }

const calmFor = 10 * time.Second

var fullRules = full{
	limits: map[vector.ID]Limits{
		vector.DNS:      {PPS: 20e3, Windows: 1, Unanswered: 5e3, UnansweredWindows: 4, EndBelow: 0.7, EndAfter: calmFor},
		vector.SYN:      {PPS: 20e3, Windows: 1, Spoofed: 100, EndBelow: 0.7, EndAfter: calmFor},
		vector.SYNACK:   {PPS: 20e3, Windows: 1, Unanswered: 10e3, UnansweredWindows: 4, EndBelow: 0.7, EndAfter: calmFor},
		vector.UDPOther: {PPS: 200e3, BPS: 2e9, Windows: 15, Unanswered: 20e3, UnansweredWindows: 6, Spoofed: 100, EndBelow: 0.7, EndAfter: calmFor},
		vector.ESP:      {Share: 0.5, ShareFrom: 2e3, Windows: 1, EndBelow: 0.7, EndAfter: calmFor},
		vector.ACK:      {PPS: 1.5e6, Windows: 20, Unanswered: 100e3, UnansweredWindows: 10, EndBelow: 0.7, EndAfter: calmFor},
	},
	networks: map[vector.ID]Limits{vector.DNS: {PPS: 80e3, Windows: 1, Hosts: 16, EndBelow: 0.7, EndAfter: calmFor}},
	outbound: map[vector.ID]Limits{vector.SYN: {PPS: 20e3, Windows: 6, EndBelow: 0.7, EndAfter: calmFor}},
}

// seen is one observation over a span of a tenth of a second.
func seen(v vector.ID, pps, octets float64, change ...func(*traffic.Observation)) traffic.Observation {
	o := traffic.Observation{
		Target: victim, Vector: v, PPS: pps, BPS: 8 * pps * octets, Packets: uint64(pps / 10), Bytes: uint64(pps * octets / 10),
		Start: t0, Span: 100 * time.Millisecond, Sensors: []string{"rack1"}, SensorCount: 1,
	}
	for _, c := range change {
		c(&o)
	}
	return o
}

func sends(pps float64) func(*traffic.Observation) {
	return func(o *traffic.Observation) { o.TwoWay, o.AnswersPPS = true, pps }
}

func TestJudgement(t *testing.T) {
	outbound := func(o *traffic.Observation) { o.Direction = vector.Outbound }
	for _, tc := range []struct {
		name  string
		o     traffic.Observation
		times int // a tenth of a second apart
		test  Test
		says  string
	}{
		{"answers nobody asked for, below the limit", seen(vector.DNS, 8e3, 400, sends(0)), 1, Unanswered, "limit 5000 for what the target did not ask for: it sent 0 packets/s"},
		{"the same, where the other direction is not watched", seen(vector.DNS, 8e3, 400), 9, 0, ""},
		{"a resolver's answers", seen(vector.DNS, 60e3, 400, sends(59e3)), 9, 0, ""},
		{"ten times the limit, though asked for", seen(vector.DNS, 200e3, 400, sends(190e3)), 1, Static, "limit 200000, ten times as much because they were asked for"},
		{"four answers to each question are too many", seen(vector.DNS, 40e3, 400, sends(10e3)), 1, Static, "limit 20000,"},
		{"SYN-ACKs for somebody who floods", seen(vector.SYNACK, 33e3, 44, sends(33e3)), 9, 0, ""},
		{"SYN-ACKs for nobody's SYNs", seen(vector.SYNACK, 33e3, 44, sends(0)), 1, Static, "limit 20000"},
		{"small datagrams one way", seen(vector.UDPOther, 47e3, 28, sends(0)), 1, Unanswered, "limit 20000 for what the target does not answer"},
		{"a game server", seen(vector.UDPOther, 60e3, 100, sends(50e3)), 20, 0, ""},
		{"large datagrams one way", seen(vector.UDPOther, 85e3, 1498, sends(0)), 20, 0, ""},
		{"a burst that is not answered yet", seen(vector.UDPOther, 25e3, 100, sends(0)), 1, 0, ""},
		{"a download, one ACK in fifty", seen(vector.ACK, 800e3, 1500, sends(16e3)), 20, 0, ""},
		{"ACKs of no connection", seen(vector.ACK, 330e3, 60, sends(900)), 1, Unanswered, "limit 100000"},
		{"fifteen windows at the limit are not there after 300 ms", seen(vector.UDPOther, 200e3, 100, sends(200e3)), 4, 0, ""},
		{"but after 500 ms", seen(vector.UDPOther, 200e3, 100, sends(200e3)), 5, Static, "limit 200000, over 16 windows"},
		{"and after 100 ms at ten times the limit", seen(vector.UDPOther, 2e6, 100, sends(2e6)), 1, Static, "limit 200000, over 3 windows"},
		{"a host of ours floods", seen(vector.SYN, 100e3, 40, outbound), 1, Static, "syn sent by 192.0.2.1/32"},
		{"a host of ours calls many", seen(vector.SYN, 9e3, 40, outbound), 50, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := New(fullRules, nil)
			var onset *Incident
			for i := range tc.times {
				at := time.Duration(i) * 100 * time.Millisecond
				o := tc.o
				o.Start = t0.Add(at)
				for _, ev := range d.Observe(t0.Add(at+100*time.Millisecond), o) {
					if ev.Kind == Onset {
						onset = &ev.Incident
					}
				}
			}
			switch {
			case tc.test == 0 && onset != nil:
				t.Errorf("an incident: %s", onset.Reason)
			case tc.test == 0:
			case onset == nil:
				t.Error("no incident")
			case onset.Test != tc.test || !strings.Contains(onset.Reason, tc.says) || onset.Direction != tc.o.Direction:
				t.Errorf("by %s: %s", onset.Test, onset.Reason)
			}
		})
	}
}

// An incident by a lack of answers is over when the target answers again, however much it receives.
func TestAnsweredAgainIsCalm(t *testing.T) {
	d := New(fullRules, nil)
	d.Observe(t0, seen(vector.UDPOther, 50e3, 100, sends(0)))
	if len(d.Incidents()) != 1 {
		t.Fatal("no incident")
	}
	d.Observe(t0.Add(time.Second), seen(vector.UDPOther, 50e3, 100, sends(40e3)))
	if evs := d.Tick(t0.Add(time.Second + calmFor)); len(evs) != 1 || evs[0].Kind != End {
		t.Errorf("%v", evs)
	}
}

// normal is a learnt normal.
type normal struct{ pps, bps float64 }

func (n normal) Normal(time.Time, netip.Prefix, vector.Direction, vector.ID) (pps, bps float64, ok bool) {
	return n.pps, n.bps, true
}

func TestLearntNormal(t *testing.T) {
	raise := Baseline{Above: 2, Cap: 4}
	notice := Baseline{Factor: 10, Floor: 0.5}
	for _, tc := range []struct {
		name     string
		baseline Baseline
		normal   float64
		pps      float64
		test     Test
	}{
		{"twice what is normal", raise, 15e3, 29e3, 0},
		{"more than twice", raise, 15e3, 31e3, Static},
		{"what is learnt cannot blind us", raise, 1e6, 81e3, Static},
		{"nothing known changes nothing", raise, 0, 20e3, Static},
		{"twelve times what is normal", notice, 1e3, 12e3, Unusual},
		{"but below the floor", notice, 100, 9e3, 0},
		{"nine times", notice, 1.4e3, 12.6e3, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := fullRules
			r.baseline = tc.baseline
			d := New(r, normal{pps: tc.normal})
			evs := d.Observe(t0, seen(vector.DNS, tc.pps, 400))
			var got Test
			if len(evs) == 1 && evs[0].Kind == Onset {
				got = evs[0].Incident.Test
			}
			if got != tc.test {
				t.Errorf("by %s, want %s: %+v", got, tc.test, evs)
			}
			if tc.test == 0 && d.Attacked(victim, vector.Inbound, vector.DNS) {
				t.Error("what is normal is not learnt from")
			}
			if tc.test != 0 && !d.Attacked(victim, vector.Inbound, vector.DNS) {
				t.Error("an attack is learnt from")
			}
		})
	}
}

func network(pps float64, hosts int) traffic.Observation {
	return seen(vector.DNS, pps, 400, func(o *traffic.Observation) {
		o.Target, o.Network, o.ActiveHosts = netip.MustParsePrefix("192.0.2.0/24"), true, hosts
	})
}

func TestCarpetBombing(t *testing.T) {
	host := func(i byte, pps float64) traffic.Observation {
		return seen(vector.DNS, pps, 400, func(o *traffic.Observation) { o.Target = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, i}), 32) })
	}
	d := New(fullRules, nil)
	evs := d.Observe(t0, network(300e3, 200))
	if len(evs) != 1 || evs[0].Kind != Onset || !evs[0].Incident.Network || evs[0].Incident.ActiveHosts != 200 || !strings.Contains(evs[0].Incident.Reason, "in 200 hosts") {
		t.Fatalf("%+v", evs)
	}
	if !d.Attacked(host(7, 0).Target, vector.Inbound, vector.DNS) || d.Attacked(host(7, 0).Target, vector.Inbound, vector.SYN) {
		t.Error("what a host receives of a network's attack would be learnt as normal, or nothing any more")
	}
	if evs := d.Observe(t0, host(7, 30e3)); len(evs) != 0 {
		t.Errorf("a host of the network that is attacked has an incident of its own: %v", evs)
	}
	if evs := d.Observe(t0, host(8, 160e3)); len(evs) != 1 || evs[0].Kind != Onset {
		t.Errorf("a host that receives more than half has none: %v", evs)
	}

	d = New(fullRules, nil)
	if evs := d.Observe(t0, network(300e3, 15)); len(evs) != 0 {
		t.Errorf("fifteen hosts are no network: %v", evs)
	}
	d.Observe(t0, host(9, 250e3))
	if evs := d.Observe(t0, network(300e3, 200)); len(evs) != 0 {
		t.Errorf("one host receives most of it: %v", evs)
	}
	if n := len(d.Incidents()); n != 1 {
		t.Errorf("%d incidents, want that of the host", n)
	}
}

// forged is a second of packets, each from a source of its own.
func forged(at time.Duration, v vector.ID, from, n int, change ...func(*traffic.Sources)) traffic.Sources {
	x := traffic.Sources{Target: victim, Vector: v, Packets: uint64(n), Start: t0.Add(at), Span: time.Second, PPS: float64(n), TwoWay: true, Sensors: []string{"rack1"}}
	for i := range n {
		x.Distinct.Add(sketch.Mix(0, uint64(from+i)))
	}
	for _, c := range change {
		c(&x)
	}
	return x
}

func TestForgedSources(t *testing.T) {
	answers := func(x *traffic.Sources) { x.AnswersPPS = x.PPS }
	repeated := func(x *traffic.Sources) { x.Packets, x.PPS = 10*x.Packets, 10*x.PPS }
	oneWay := func(x *traffic.Sources) { x.TwoWay = false }
	for _, tc := range []struct {
		name   string
		second func(i int) []traffic.Sources
		found  bool
	}{
		{"nobody answers", func(i int) []traffic.Sources { return []traffic.Sources{forged(0, vector.UDPOther, 1000*i, 216)} }, true},
		{"answered", func(i int) []traffic.Sources {
			return []traffic.Sources{forged(0, vector.UDPOther, 1000*i, 216, answers)}
		}, false},
		{"ten packets from each source", func(i int) []traffic.Sources {
			return []traffic.Sources{forged(0, vector.UDPOther, 1000*i, 216, repeated)}
		}, false},
		{"the same sources each second", func(i int) []traffic.Sources { return []traffic.Sources{forged(0, vector.UDPOther, 0, 216)} }, false},
		{"fewer than the limit", func(i int) []traffic.Sources { return []traffic.Sources{forged(0, vector.UDPOther, 1000*i, 80)} }, false},
		{"the other direction is not watched", func(i int) []traffic.Sources {
			return []traffic.Sources{forged(0, vector.UDPOther, 1000*i, 216, oneWay)}
		}, false},
		{"clients that connect", func(i int) []traffic.Sources {
			return []traffic.Sources{forged(0, vector.SYN, 10_000*i, 5000, func(x *traffic.Sources) { x.CompletingPPS = 5000 }), forged(0, vector.ACK, 10_000*i, 5000)}
		}, false},
		{"clients that connect, and as many that do not", func(i int) []traffic.Sources {
			return []traffic.Sources{forged(0, vector.SYN, 10_000*i, 4000, func(x *traffic.Sources) { x.CompletingPPS = 4000 }), forged(0, vector.ACK, 10_000*i, 2000)}
		}, true},
		{"SYNs of which nothing comes", func(i int) []traffic.Sources { return []traffic.Sources{forged(0, vector.SYN, 10_000*i, 300)} }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := New(fullRules, nil)
			found := false
			for i := range 25 {
				now := t0.Add(time.Duration(i+1) * time.Second)
				for _, ev := range d.ObserveSources(now, tc.second(i)) {
					found = true
					if ev.Incident.Test != Spoofed || !strings.Contains(ev.Incident.Reason, "different sources/s") {
						t.Errorf("%+v", ev.Incident)
					}
				}
				d.Tick(now)
			}
			if found != tc.found {
				t.Errorf("found: %v", found)
			}
			end := t0.Add(26 * time.Second)
			for _, v := range []vector.ID{vector.UDPOther, vector.SYN} {
				d.Observe(end, seen(v, 0, 0))
			}
			d.Tick(end.Add(calmFor))
			d.Tick(end.Add(2 * calmFor))
			if len(d.sites) != 0 {
				t.Errorf("%d sites are kept after calm", len(d.sites))
			}
		})
	}
}

// An attack that comes back soon after its end is told as what it is, and held longer each time.
func TestFlapping(t *testing.T) {
	d := New(fullRules, nil)
	now, previous := t0, ""
	for i, held := range []time.Duration{1, 2, 4, 8, 16, 16} {
		evs := d.Observe(now, seen(vector.DNS, 30e3, 400, func(o *traffic.Observation) { o.Start = now }))
		if len(evs) != 1 || evs[0].Kind != Onset || evs[0].Incident.Previous != previous {
			t.Fatalf("round %d: %+v, want one after %q", i, evs, previous)
		}
		previous = evs[0].Incident.ID
		d.Observe(now, seen(vector.DNS, 0, 0))
		if evs := d.Tick(now.Add(held*calmFor - 1)); len(evs) != 0 {
			t.Fatalf("round %d: ended before %s", i, held*calmFor)
		}
		now = now.Add(held * calmFor)
		if evs := d.Tick(now); len(evs) != 1 || evs[0].Kind != End {
			t.Fatalf("round %d: not ended after %s: %v", i, held*calmFor, evs)
		}
		now = now.Add(time.Second)
	}
	now = now.Add(flapping * calmFor)
	d.Tick(now)
	if evs := d.Observe(now, seen(vector.DNS, 30e3, 400)); len(evs) != 1 || evs[0].Incident.Previous != "" {
		t.Errorf("long after: %+v", evs)
	}
}

// What Wants turns away changes nothing.
func TestWantsMissesNothing(t *testing.T) {
	for _, v := range []vector.ID{vector.DNS, vector.SYN, vector.SYNACK, vector.UDPOther, vector.ACK, vector.NTP} {
		for _, pps := range []float64{0, 1e3, 4.9e3, 5e3, 19e3, 20e3, 2e5, 2e6} {
			for _, octets := range []float64{40, 1400} {
				d := New(fullRules, nil)
				o := seen(v, pps, octets, sends(0))
				o.Packets, o.Bytes = 1<<40, 1<<50
				wants := d.Wants(traffic.Rate{Target: o.Target, Vector: v, PPS: o.PPS, BPS: o.BPS})
				if evs := d.Observe(t0, o); len(evs) > 0 && !wants {
					t.Errorf("%s at %v packets/s of %v octets: %v", v, pps, octets, evs)
				}
			}
		}
	}
}
