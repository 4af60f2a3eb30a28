package scenario

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/replay"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// each calls f for every packet.
func each(t testing.TB, src replay.Source, f func(p replay.Packet)) {
	t.Helper()
	for {
		p, err := src.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		f(p)
	}
}

// brief is a scenario whose attack begins earlier and ends sooner: its first 20,000 packets are like the others.
func brief(s Scenario) Scenario {
	s.Attacks = slices.Clone(s.Attacks)
	if len(s.Attacks) == 0 {
		s.Duration = 300 * time.Millisecond
		return s
	}
	for i := range s.Attacks {
		a := &s.Attacks[i]
		a.parts = slices.Clone(a.parts)
		wave := slices.ContainsFunc(a.parts, func(p part) bool { return p.off > 0 })
		if wave {
			return s
		}
		a.Start = 100 * time.Millisecond
		a.End = a.Start + min(a.End-a.Start, max(20*time.Millisecond, time.Duration(20e3/a.PPS*1e9)))
		if a.Small {
			a.End = a.Start + 2*time.Second
		}
		for j := range a.parts {
			a.parts[j].from, a.parts[j].to = a.Start, a.End
		}
		s.Duration = a.End + 50*time.Millisecond
	}
	return s
}

func sum(t testing.TB, s Scenario) string {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n := 0
	var about [24]byte
	each(t, s.Source(), func(p replay.Packet) {
		n++
		binary.BigEndian.PutUint64(about[:], uint64(p.Time.UnixNano()))
		binary.BigEndian.PutUint64(about[8:], uint64(p.Wire))
		binary.BigEndian.PutUint64(about[16:], uint64(p.Label))
		h.Write(about[:])
		h.Write(p.Data)
	})
	return fmt.Sprintf("%d %08x", n, h.Sum32())
}

func scenarioOf(t testing.TB, name string) Scenario {
	t.Helper()
	for _, s := range All() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no scenario %s", name)
	return Scenario{}
}

func TestSameSeedSameOctets(t *testing.T) {
	for _, s := range All() {
		if s = brief(s); s.Long || len(s.Name)%3 != 0 {
			continue // a third of them is enough of each kind
		}
		if a, b := sum(t, s), sum(t, s); a != b {
			t.Errorf("%s: %s, then %s", s.Name, a, b)
		}
	}
	quiet := scenarioOf(t, "benign-quiet")
	quiet.Duration = 100 * time.Millisecond
	golden := sum(t, quiet)
	if want := "1654 5c9c4ed2"; golden != want {
		t.Errorf("%s is now %s, was %s: a change of the generator changes every figure of the score card; run make eval", quiet.Name, golden, want)
	}
	quiet.Seed++
	if sum(t, quiet) == golden {
		t.Error("another seed gives the same octets")
	}
}

// view is the classification from the side on which the target is ours; a packet from us is outbound.
func view(s Scenario, p replay.Packet) (classify.Result, vector.Direction) {
	direction := vector.Inbound
	if src, ok := sourceOf(p.Data); ok && slices.ContainsFunc(s.Targets, func(t netip.Prefix) bool { return t.Contains(src) }) {
		direction = vector.Outbound
	}
	return classify.Classify(classify.Frame{Data: p.Data, Wire: p.Wire, Direction: direction}, ports), direction
}

func sourceOf(b []byte) (netip.Addr, bool) {
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		return netip.AddrFrom4([4]byte(b[26:30])), true
	case 0x86dd:
		return netip.AddrFrom16([16]byte(b[22:38])), true
	}
	return netip.Addr{}, false
}

var ports = classify.DefaultPorts()

// TestScenarios holds every scenario to what it says: order, rates, labels, vectors, targets, sound packets.
func TestScenarios(t *testing.T) {
	for _, s := range All() {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			s := brief(s)
			var last time.Time
			packets, broken, benign := 0, 0, 0
			attack := make([]int, len(s.Attacks)+1)
			wrong := map[string]int{}
			seen := map[vector.ID]bool{}
			each(t, s.Source(), func(p replay.Packet) {
				packets++
				at := p.Time.Sub(Epoch)
				if p.Time.Before(last) || at < 0 || at >= s.Duration {
					t.Fatalf("packet %d at %v: out of order", packets, at)
				}
				last = p.Time
				if p.Wire != len(p.Data) {
					t.Fatalf("packet %d: %d of %d octets", packets, len(p.Data), p.Wire)
				}
				r, direction := view(s, p)
				if p.Label == replay.Benign {
					benign++
					if r.Vector == vector.Malformed && r.IP {
						broken++
					}
					return
				}
				a := s.Attacks[p.Label-1]
				if direction != a.Direction {
					if !slices.Contains(a.Beside, r.Vector) {
						wrong[direction.String()]++
					}
					return
				}
				attack[p.Label]++
				seen[r.Vector] = true
				if at < a.Start || at > a.End+time.Millisecond || !a.Target.Contains(r.Target) {
					wrong[fmt.Sprintf("to %s at %v", r.Target, at)]++
				}
				if !slices.Contains(a.Vectors, r.Vector) && !slices.Contains(a.Beside, r.Vector) {
					wrong[fmt.Sprintf("%s (%s)", r.Vector, r.Reason)]++
				}
			})
			if len(wrong) > 0 || broken > 0 {
				t.Errorf("attack packets that are not as labelled: %v; %d malformed benign packets", wrong, broken)
			}
			if benign == 0 {
				t.Error("nothing benign")
			}
			for _, a := range s.Attacks {
				want, got := expected(a), float64(attack[a.ID])
				if slack := max(want*0.02, 20); got < want-slack || got > want+slack {
					t.Errorf("attack %d has %.0f packets, should have %.0f", a.ID, got, want)
				}
				for _, v := range a.Vectors {
					if v != vector.Total && !seen[v] {
						t.Errorf("no packet of %s", v)
					}
				}
			}
		})
	}
}

// expected is how many packets an attack's parts amount to.
func expected(a Attack) (n float64) {
	for i, p := range a.parts {
		if a.Direction == vector.Outbound && i > 0 {
			continue // what comes in for it
		}
		share := 1.0
		switch {
		case p.ramp:
			share = 0.5
		case p.off > 0:
			period := (p.on + p.off).Seconds()
			whole := float64(int(p.to-p.from) / int(p.on+p.off))
			rest := (p.to - p.from).Seconds() - whole*period
			share = (whole*p.on.Seconds() + min(rest, p.on.Seconds())) / (p.to - p.from).Seconds()
		}
		n += p.pps * share * (p.to - p.from).Seconds()
	}
	return n
}

// TestSizes: an attack that the scenarios say has to be found passes the shipped policy's limit for long enough.
func TestSizes(t *testing.T) {
	p := policy.Default()
	for _, v := range vector.All() {
		if v.ID == vector.ReflectorAnswer {
			continue // outbound only
		}
		for _, x := range families {
			got, want := sizeOf(v.ID), p.Limits(x.host(webHost).host(), v.ID)
			if got.pps < want.PPS || got.windows < want.Windows {
				t.Errorf("%s: the scenarios take %.0f pps and %d windows, the policy %.0f and %d", v.Name, got.pps, got.windows, want.PPS, want.Windows)
			}
		}
	}
}

func TestCatalogue(t *testing.T) {
	seen := map[string]bool{}
	flooded := map[vector.ID]int{}
	for _, s := range All() {
		if seen[s.Name] || s.Says == "" || s.Seed == 0 || s.Duration <= 0 || len(s.Targets) == 0 {
			t.Errorf("scenario %+v", s)
		}
		seen[s.Name] = true
		for i, a := range s.Attacks {
			if a.ID != i+1 || len(a.Vectors) == 0 || a.End <= a.Start || a.End > s.Duration || len(a.parts) == 0 {
				t.Errorf("%s: attack %+v", s.Name, a)
			}
			for _, v := range a.Vectors {
				flooded[v]++
			}
		}
	}
	for _, v := range vector.All() {
		if flooded[v.ID] < 2 && v.ID != vector.OtherReflection {
			t.Errorf("%s: in %d attacks, want it in both families", v.Name, flooded[v.ID])
		}
	}
	if len(Find("flood-syn-3x")) != 2 {
		t.Errorf("found %d", len(Find("flood-syn-3x")))
	}
}

func TestNextNeedsNoMemory(t *testing.T) {
	for _, name := range []string{"benign-web-v4", "multi-vector-v6", "benign-resolver-v6", "carpet-syn-v4"} {
		src := scenarioOf(t, name).Source()
		if n := testing.AllocsPerRun(20000, func() {
			if _, err := src.Next(); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations for a packet, want none", name, n)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	for _, name := range []string{"flood-syn-10x-v4", "dns-any-v6", "benign-web-v4", "multi-vector-v4"} {
		b.Run("scenario="+name, func(b *testing.B) {
			s := scenarioOf(b, name)
			src := s.Source()
			for b.Loop() {
				if _, err := src.Next(); err != nil {
					src = s.Source()
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
		})
	}
}
