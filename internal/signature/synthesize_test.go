package signature

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

var t0 = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// world draws packets to one target, of one family.
type world struct {
	*rand.Rand
	v6     bool
	target netip.Prefix
}

func newWorld(v6 bool, seed uint64) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 1)), v6: v6, target: netip.MustParsePrefix("192.0.2.10/32")}
	if v6 {
		w.target = netip.MustParsePrefix("2001:db8::10/128")
	}
	return w
}

// inside draws an address of one of n networks, numbered from first; each has so many hosts.
func (w *world) inside(first, n, hosts int) netip.Addr {
	k, h := first+w.IntN(n), w.IntN(hosts)
	if w.v6 {
		return netip.MustParseAddr(fmt.Sprintf("2a00:%x:%x::%x", 0x1000+k/7, k, h+1))
	}
	return netip.AddrFrom4([4]byte{byte(20 + k%60), byte(k), byte(h >> 8), byte(h)})
}

// forged draws any unicast address.
func (w *world) forged() netip.Addr {
	if w.v6 {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], w.Uint64())
		binary.BigEndian.PutUint64(b[8:], w.Uint64())
		b[0] = 0x20 | b[0]&0x1f
		return netip.AddrFrom16(b)
	}
	return netip.AddrFrom4([4]byte{byte(1 + w.IntN(222)), byte(w.IntN(256)), byte(w.IntN(256)), byte(w.IntN(256))})
}

// packet is one from a normal client, to be changed by set.
func (w *world) packet(v vector.ID, proto uint8, length int, set func(*traffic.Sample)) traffic.Sample {
	if w.v6 {
		length += 20
	}
	s := traffic.Sample{
		Time: t0.Add(time.Duration(w.IntN(1e9))), Vector: v, Weight: 64, Source: w.inside(100, 200, 50), Destination: w.target.Addr(),
		Length: uint16(length), Protocol: proto,
	}
	if !w.v6 && proto == protoTCP {
		s.Fragment = traffic.DontFragment
	}
	if proto == protoTCP || proto == protoUDP {
		s.HasPorts, s.SourcePort, s.DestinationPort = true, uint16(1024+w.IntN(64000)), 443
	}
	if set != nil {
		set(&s)
	}
	if s.TTL == 0 { // that of a source is steady
		b := s.Source.AsSlice()
		s.TTL = 48 + (b[len(b)-1]+b[1]+b[2]+b[5%len(b)])%12
	}
	return s
}

func (w *world) icmp() uint8 {
	if w.v6 {
		return 58
	}
	return 1
}

func many(n int, draw func(i int) traffic.Sample) []traffic.Sample {
	out := make([]traffic.Sample, n)
	for i := range out {
		out[i] = draw(i)
	}
	return out
}

func (w *world) syn() traffic.Sample {
	return w.packet(vector.SYN, protoTCP, []int{52, 60, 60, 60, 64}[w.IntN(5)], func(s *traffic.Sample) { s.TCPFlags = route.SYN })
}

// web is what a web server receives: connections, acknowledgements, requests, QUIC, answers of its resolver and of its
// time server, pings.
func (w *world) web(n int) []traffic.Sample {
	return many(n, func(int) traffic.Sample {
		switch x := w.IntN(1000); {
		case x < 70:
			return w.syn()
		case x < 90:
			return w.packet(vector.FIN, protoTCP, 52, func(s *traffic.Sample) { s.TCPFlags = route.FIN | route.ACK })
		case x < 720:
			return w.packet(vector.ACK, protoTCP, 52, func(s *traffic.Sample) { s.TCPFlags = route.ACK })
		case x < 850:
			return w.packet(vector.ACK, protoTCP, 200+w.IntN(1301), func(s *traffic.Sample) { s.TCPFlags = route.ACK | route.PSH })
		case x < 950:
			return w.packet(vector.QUIC, protoUDP, 60+w.IntN(1300), nil)
		case x < 980:
			return w.packet(vector.DNS, protoUDP, 90+w.IntN(300), func(s *traffic.Sample) {
				s.SourcePort, s.DestinationPort, s.Source = 53, uint16(1024+w.IntN(64000)), w.inside(1, 1, 2)
			})
		case x < 990:
			return w.packet(vector.NTP, protoUDP, 76, func(s *traffic.Sample) { s.SourcePort, s.DestinationPort, s.Source = 123, 123, w.inside(2, 1, 4) })
		default:
			return w.packet(vector.ICMPEcho, w.icmp(), 84, func(s *traffic.Sample) { s.HasICMP, s.ICMPType = true, 8; s.ICMPType += 120 * b2u(w.v6) })
		}
	})
}

func b2u(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// game is what a game server receives: mostly UDP to its port.
func (w *world) game(n int) []traffic.Sample {
	return many(n, func(int) traffic.Sample {
		if w.IntN(20) == 0 {
			return w.syn()
		}
		return w.packet(vector.UDPOther, protoUDP, 60+w.IntN(200), func(s *traffic.Sample) { s.DestinationPort = 30120 })
	})
}

// scenario is an attack beside normal traffic.
type scenario struct {
	name      string
	vector    vector.ID
	normal    func(*world) []traffic.Sample
	attack    func(*world, int) traffic.Sample
	polluted  float64 // share of the attack samples that is the normal traffic of the vector
	separable bool
	spoofed   bool
	rules     int
}

var scenarios = []scenario{
	{
		name: "SYN flood of fixed length", vector: vector.SYN, separable: true, spoofed: true, polluted: 0.1,
		attack: func(w *world, _ int) traffic.Sample {
			return w.packet(vector.SYN, protoTCP, 40, func(s *traffic.Sample) { s.TCPFlags, s.Source, s.TTL = route.SYN, w.forged(), 240 })
		},
	},
	{
		name: "UDP flood beside a game", vector: vector.UDPOther, separable: true, polluted: 0.3,
		normal: func(w *world) []traffic.Sample { return w.game(2000) },
		attack: func(w *world, _ int) traffic.Sample {
			return w.packet(vector.UDPOther, protoUDP, 40+w.IntN(1400), func(s *traffic.Sample) { s.DestinationPort, s.Source = 7777, w.inside(900, 3, 30) })
		},
	},
	{
		name: "UDP flood to random ports beside a game", vector: vector.UDPOther, separable: true, spoofed: true, polluted: 0.2,
		normal: func(w *world) []traffic.Sample { return w.game(2000) },
		attack: func(w *world, _ int) traffic.Sample {
			return w.packet(vector.UDPOther, protoUDP, 60+w.IntN(200), func(s *traffic.Sample) { s.DestinationPort, s.Source = uint16(w.IntN(65536)), w.forged() })
		},
	},
	{
		name: "DNS amplification beside a resolver", vector: vector.DNS, separable: true, polluted: 0.05,
		attack: func(w *world, i int) traffic.Sample {
			return w.packet(vector.DNS, protoUDP, 1200+w.IntN(280), func(s *traffic.Sample) {
				s.SourcePort, s.DestinationPort, s.Source = 53, uint16(w.IntN(65536)), w.inside(1000, 5000, 5)
				if i%3 == 0 {
					s.Length = 1500
				}
			})
		},
	},
	{
		name: "NTP monlist", vector: vector.NTP, separable: true, polluted: 0.02,
		attack: func(w *world, i int) traffic.Sample {
			return w.packet(vector.NTP, protoUDP, 468+14*(i%2), func(s *traffic.Sample) {
				s.SourcePort, s.DestinationPort, s.Source = 123, 80, w.inside(1000, 5000, 5)
			})
		},
	},
	{
		name: "fragments", vector: vector.Fragment, separable: true,
		attack: func(w *world, i int) traffic.Sample {
			return w.packet(vector.Fragment, protoUDP, 1500-1000*(i%2), func(s *traffic.Sample) {
				s.HasPorts, s.SourcePort, s.DestinationPort, s.Fragment, s.Source = false, 0, 0, traffic.IsFragment, w.inside(1000, 50, 10)
			})
		},
	},
	{
		name: "large pings", vector: vector.ICMPEcho, separable: true, polluted: 0.05,
		attack: func(w *world, _ int) traffic.Sample {
			return w.packet(vector.ICMPEcho, w.icmp(), 1400, func(s *traffic.Sample) {
				s.HasICMP, s.ICMPType, s.Source = true, 8+120*b2u(w.v6), w.inside(1000, 50, 10)
			})
		},
	},
	{
		name: "GRE", vector: vector.GRE, separable: true,
		attack: func(w *world, _ int) traffic.Sample {
			return w.packet(vector.GRE, 47, 100+w.IntN(1400), func(s *traffic.Sample) { s.Source = w.inside(1000, 50, 10) })
		},
	},
	{
		name: "ACK flood without data from a few real networks", vector: vector.ACK, separable: true, polluted: 0.02, rules: 3,
		attack: func(w *world, i int) traffic.Sample {
			return w.packet(vector.ACK, protoTCP, 52, func(s *traffic.Sample) { s.TCPFlags, s.Source = route.ACK, w.inside(700+20*(i%3), 1, 40) })
		},
	},
	{
		name: "one real source", vector: vector.ACK, separable: true, polluted: 0.02,
		attack: func(w *world, _ int) traffic.Sample {
			return w.packet(vector.ACK, protoTCP, 52, func(s *traffic.Sample) { s.TCPFlags, s.Source = route.ACK, w.inside(700, 1, 1) })
		},
	},
	{
		name: "spoofed SYN flood like real ones", vector: vector.SYN, spoofed: true, polluted: 0.1,
		attack: func(w *world, _ int) traffic.Sample {
			s := w.syn()
			s.Source = w.forged()
			return s
		},
	},
	{
		name: "spoofed UDP flood to the game's port", vector: vector.UDPOther, spoofed: true, polluted: 0.3,
		normal: func(w *world) []traffic.Sample { return w.game(2000) },
		attack: func(w *world, _ int) traffic.Sample {
			return w.packet(vector.UDPOther, protoUDP, 60+w.IntN(200), func(s *traffic.Sample) { s.DestinationPort, s.Source = 30120, w.forged() })
		},
	},
}

// draw returns the attack without and with normal traffic in it, the normal profile, and other normal traffic.
func (sc *scenario) draw(w *world, n int) (o Options, pure, attack, normal, other []traffic.Sample) {
	usual := sc.normal
	if usual == nil {
		usual = func(w *world) []traffic.Sample { return w.web(2000) }
	}
	normal, other = usual(w), usual(w)
	pure = many(n, func(i int) traffic.Sample { return sc.attack(w, i) })
	attack = slices.Clone(pure)
	var alike []traffic.Sample
	for _, s := range append(usual(w), usual(w)...) {
		if s.Vector == sc.vector {
			alike = append(alike, s)
		}
	}
	for want := int(sc.polluted / (1 - sc.polluted) * float64(n)); want > 0; want-- {
		attack = append(attack, alike[want%len(alike)])
	}
	o = Defaults()
	o.NormalPPS, o.CurrentPPS = sc.polluted*1e5, 1e5
	return o, pure, attack, normal, other
}

// hit is the share of packets, by weight, that any of the rules matches, found without this package.
func hit(rules []route.Match, packets []traffic.Sample) float64 {
	sum, all := 0.0, 0.0
	for i := range packets {
		all += float64(packets[i].Weight)
		if slices.ContainsFunc(rules, func(m route.Match) bool { return Matches(m, &packets[i]) }) {
			sum += float64(packets[i].Weight)
		}
	}
	return sum / all
}

func families(t *testing.T, run func(t *testing.T, v6 bool)) {
	t.Helper()
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "ipv4", true: "ipv6"}[v6], func(t *testing.T) { run(t, v6) })
	}
}

func TestScenarios(t *testing.T) {
	for _, sc := range scenarios {
		t.Run(strings.ReplaceAll(sc.name, " ", "-"), func(t *testing.T) {
			families(t, func(t *testing.T, v6 bool) {
				w := newWorld(v6, 7)
				o, pure, attack, normal, other := sc.draw(w, 2000)
				p := Synthesize(o, w.target, vector.Inbound, sc.vector, attack, normal)
				if p.Separable != sc.separable || p.Spoofed != sc.spoofed {
					t.Errorf("separable %v, spoofed %v, want %v, %v", p.Separable, p.Spoofed, sc.separable, sc.spoofed)
				}
				best := p.Candidates[0]
				coverage, collateral := hit(best.Rules(), pure), hit(best.Rules(), other)
				if coverage < 0.95 {
					t.Errorf("covers %.3f of the attack", coverage)
				}
				if sc.separable && (collateral > 0.005 || best.Broad) {
					t.Errorf("hits %.4f of normal traffic it did not see, broad %v", collateral, best.Broad)
				}
				if !sc.separable && !strings.Contains(p.Says, "blackhole") {
					t.Errorf("says %q", p.Says)
				}
				if want := max(sc.rules, 1); len(best.Rules()) != want {
					t.Errorf("%d rules, want %d", len(best.Rules()), want)
				}
				marked := false
				for _, c := range p.Candidates {
					sound(t, o, w.target, vector.Inbound, c)
					marked = marked || c.Match.Equal(For(w.target, sc.vector).Match)
				}
				if !marked {
					t.Error("the vector's own mark is not among the candidates")
				}
				for _, c := range p.Candidates {
					if t.Failed() || testing.Verbose() {
						t.Logf("%s %v (cost %d, confidence %.2f): %s", c.Match, c.More, c.Cost, c.Confidence, c.Says)
					}
				}
				t.Log(p.Says)
			})
		})
	}
}

// sound asks of a candidate what routers and the safety kernel ask.
func sound(t testing.TB, o Options, target netip.Prefix, d vector.Direction, c Candidate) {
	t.Helper()
	o = o.withDefaults()
	l := safety.Defaults()
	l.Own, l.MaxOwnShare = []netip.Prefix{target}, 1
	cost := 0
	for _, m := range c.Rules() {
		r := route.Route{Match: m, Action: route.Action{Kind: route.Discard}}
		e := safety.Entry{Route: r, Owners: []string{"m"}, Created: t0, Deadline: t0.Add(time.Minute), Manual: !target.IsSingleIP(), Approved: false}
		if d == vector.Outbound {
			e.Manual, e.Approved = true, true
		}
		if v := safety.Check(t0, l, []safety.Entry{e}); len(v) > 0 {
			t.Errorf("the safety kernel refuses %s: %s", r, v[0].Reason)
		}
		b, err := route.AppendFlowSpec(nil, m)
		if err == nil {
			err = safety.CheckWire(r.Family(), m, b)
		}
		if err != nil {
			t.Errorf("%s: %v", r, err)
		}
		for f := range fields {
			if rs := f.ranges(&m); rs != nil && len(*rs) > o.MaxItems {
				t.Errorf("%s: %d items", m, len(*rs))
			}
			if bs := f.bits(&m); bs != nil && len(*bs) > o.MaxItems {
				t.Errorf("%s: %d items", m, len(*bs))
			}
		}
		cost += Cost(m)
	}
	if cost != c.Cost || len(c.Rules()) > o.MaxRules {
		t.Errorf("%s: cost %d in %d rules, said to be %d", c.Match, cost, len(c.Rules()), c.Cost)
	}
	for _, x := range []float64{c.Coverage, c.Collateral, c.CollateralBytes, c.Kind, c.CollateralMost, c.Confidence} {
		if !(x >= 0 && x <= 1) {
			t.Errorf("%s: %+v", c.Match, c)
		}
	}
	if c.Says == "" || c.CollateralMost < c.Collateral {
		t.Errorf("%s: %+v", c.Match, c)
	}
}

// What is predicted is what the rules hit of the given samples, when these are all the attack's.
func TestPredictionsAreMeasured(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for i, sc := range scenarios {
			w := newWorld(v6, uint64(i))
			o, pure, _, normal, _ := sc.draw(w, 300+w.IntN(500))
			for i := range pure {
				pure[i].Weight = uint32(1 + w.IntN(5))
			}
			for i := range normal {
				normal[i].Weight = uint32(1 + w.IntN(1000))
			}
			o.NormalPPS = 0
			for _, c := range Synthesize(o, w.target, vector.Inbound, sc.vector, pure, normal).Candidates {
				if a, b := hit(c.Rules(), pure), hit(c.Rules(), normal); math.Abs(a-c.Coverage) > 1e-9 || math.Abs(b-c.Collateral) > 1e-9 {
					t.Errorf("%s: %s: measured %v and %v, predicted %v and %v", sc.name, c.Match, a, b, c.Coverage, c.Collateral)
				}
			}
		}
	})
}

// Attack samples that are part normal traffic: the prediction is of the attack alone.
func TestNormalTrafficInTheAttackIsExplained(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for _, sc := range scenarios {
			if sc.polluted == 0 {
				continue
			}
			w := newWorld(v6, 99)
			o, pure, attack, normal, _ := sc.draw(w, 2000)
			for _, c := range Synthesize(o, w.target, vector.Inbound, sc.vector, attack, normal).Candidates {
				if a := hit(c.Rules(), pure); math.Abs(a-c.Coverage) > 0.02 {
					t.Errorf("%s: %s covers %.3f of the attack, predicted %.3f", sc.name, c.Match, a, c.Coverage)
				}
			}
		}
	})
	// Without the rates nothing is taken out: a third of the samples is missed by what hits the attack alone.
	w := newWorld(false, 99)
	o, _, attack, normal, _ := scenarios[1].draw(w, 2000)
	o.NormalPPS = 0
	if p := Synthesize(o, w.target, vector.Inbound, vector.UDPOther, attack, normal); p.Separable {
		t.Errorf("separates without rates: %s", p.Says)
	}
}

func TestOrderOfSamplesDecidesNothing(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		for i, sc := range scenarios {
			w := newWorld(v6, uint64(i))
			o, _, attack, normal, _ := sc.draw(w, 400)
			for i := range attack {
				attack[i].Weight = uint32(w.IntN(4)) // 0, too
			}
			want := fmt.Sprintf("%+v", Synthesize(o, w.target, vector.Inbound, sc.vector, attack, normal))
			for range 3 {
				w.Shuffle(len(attack), func(i, j int) { attack[i], attack[j] = attack[j], attack[i] })
				w.Shuffle(len(normal), func(i, j int) { normal[i], normal[j] = normal[j], normal[i] })
				if got := fmt.Sprintf("%+v", Synthesize(o, w.target, vector.Inbound, sc.vector, attack, normal)); got != want {
					t.Fatalf("%s: another order gives another proposal:\n%s\n%s", sc.name, got, want)
				}
			}
		}
	})
}

// Samples that are not of the target, the direction or the vector change nothing.
func TestForeignSamplesAreIgnored(t *testing.T) {
	w := newWorld(false, 5)
	o, _, attack, normal, _ := scenarios[3].draw(w, 500)
	want := Synthesize(o, w.target, vector.Inbound, vector.DNS, attack, normal)
	foreign := func(s traffic.Sample) []traffic.Sample {
		a, b := s, s
		a.Destination = netip.MustParseAddr("192.0.2.11")
		b.Direction = vector.Outbound
		return []traffic.Sample{a, b}
	}
	attack, normal = append(attack, foreign(attack[0])...), append(normal, foreign(normal[0])...)
	attack = append(attack, w.syn())
	if got := Synthesize(o, w.target, vector.Inbound, vector.DNS, attack, normal); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestWithoutSamples(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		w := newWorld(v6, 1)
		for _, v := range vector.All() {
			for _, d := range []vector.Direction{vector.Inbound, vector.Outbound} {
				p := Synthesize(Options{}, w.target, d, v.ID, nil, nil)
				for _, c := range p.Candidates {
					sound(t, Options{}, w.target, d, c)
				}
				if d == vector.Outbound {
					continue
				}
				mark := For(w.target, v.ID)
				if len(p.Candidates) != 1 || !p.Candidates[0].Match.Equal(mark.Match) || p.Candidates[0].Broad != mark.Broad || p.Candidates[0].Confidence != 0 || p.Candidates[0].CollateralMost != 1 ||
					p.Separable == mark.Broad || !strings.Contains(p.Says+p.Candidates[0].Says, "unknown") {
					t.Errorf("%s: %+v", v.Name, p)
				}
			}
		}
	})
}

// A profile of what the target receives makes a vector that it does not receive harmless to drop, and one that it does
// receive not, whatever servers normally do.
func TestProfileDecidesWhatIsBroad(t *testing.T) {
	w := newWorld(false, 1)
	normal := w.game(500)
	if p := Synthesize(Options{}, w.target, vector.Inbound, vector.QUIC, nil, normal); !p.Separable || p.Candidates[0].Confidence < 0.8 {
		t.Errorf("no QUIC is received: %+v", p)
	}
	if p := Synthesize(Options{}, w.target, vector.Inbound, vector.QUIC, nil, normal[:50]); p.Separable {
		t.Errorf("50 samples say that no QUIC is received: %+v", p)
	}
	if p := Synthesize(Options{}, w.target, vector.Inbound, vector.SYN, nil, normal); p.Separable || !p.Candidates[0].Broad {
		t.Errorf("connections are received: %+v", p)
	}
	// Few packets of the kind, and the rule takes them all.
	for i := range normal {
		normal[i].Weight = 10_000
		if normal[i].Vector == vector.SYN {
			normal[i].Weight = 1
		}
	}
	if p := Synthesize(Options{}, w.target, vector.Inbound, vector.SYN, nil, normal); p.Separable || p.Candidates[0].Collateral > 0.001 {
		t.Errorf("all connections are taken: %+v", p)
	}
}

func TestConfidenceGrowsWithSamples(t *testing.T) {
	w := newWorld(false, 3)
	normal := w.web(3000)
	last := 0.0
	for _, n := range []int{0, 10, 100, 1000, 3000} {
		c := Synthesize(Options{}, w.target, vector.Inbound, vector.GRE, nil, normal[:n]).Candidates[0]
		if c.Confidence < last || c.Confidence == last && n > 0 {
			t.Errorf("%d samples: confidence %v after %v", n, c.Confidence, last)
		}
		last = c.Confidence
	}
	if last < 0.99 {
		t.Errorf("3000 samples: confidence %v", last)
	}
	if got := wilson(0, 100); math.Abs(got-0.0263) > 0.0005 {
		t.Errorf("upper bound of 0 of 100 is %v", got)
	}
}

// An attack on a host's BGP port, or on ports around it, never makes a rule that names the port.
func TestNeverBGP(t *testing.T) {
	for _, ports := range [][]uint16{{179}, {170, 179, 190}, {178, 179, 180}} {
		for _, d := range []vector.Direction{vector.Inbound, vector.Outbound} {
			w := newWorld(false, 4)
			normal := w.web(1000)
			attack := many(1000, func(i int) traffic.Sample {
				return w.packet(vector.SYN, protoTCP, 60, func(s *traffic.Sample) {
					s.TCPFlags, s.DestinationPort, s.Direction = route.SYN, ports[i%len(ports)], d
					if d == vector.Outbound {
						s.Source, s.Destination = s.Destination, s.Source
					}
				})
			})
			for _, c := range Synthesize(Options{}, w.target, d, vector.SYN, attack, normal).Candidates {
				sound(t, Options{}, w.target, d, c)
				if m := c.Match; len(m.DestinationPort) > 0 && inRanges(m.DestinationPort, 179) {
					t.Errorf("ports %v: %s", ports, m)
				}
			}
		}
	}
}

// Ports all around 179 still separate, without it and within the items allowed.
func TestPortsAroundBGP(t *testing.T) {
	w := newWorld(false, 4)
	normal := w.web(1000)
	attack := many(2000, func(int) traffic.Sample {
		return w.packet(vector.SYN, protoTCP, 60, func(s *traffic.Sample) {
			s.TCPFlags, s.DestinationPort, s.Source = route.SYN, uint16(100+w.IntN(150)), w.forged()
		})
	})
	p := Synthesize(Options{}, w.target, vector.Inbound, vector.SYN, attack, normal)
	if m := p.Candidates[0].Match; !p.Separable || len(m.DestinationPort) != 2 || inRanges(m.DestinationPort, 179) || !inRanges(m.DestinationPort, 178) || !inRanges(m.DestinationPort, 180) {
		t.Errorf("%s", m)
	}
	o := Options{MaxItems: 1}
	for _, c := range Synthesize(o, w.target, vector.Inbound, vector.SYN, attack, normal).Candidates {
		sound(t, o, w.target, vector.Inbound, c)
	}
}

// Forged sources make no source rules, though all are from one network.
func TestForgedSourcesOfOneNetwork(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		w := newWorld(v6, 4)
		normal := w.web(1000)
		attack := many(1000, func(i int) traffic.Sample {
			s := w.syn()
			s.Source = netip.AddrFrom4([4]byte{77, 1, byte(i >> 8), byte(i)})
			if v6 {
				s.Source = netip.MustParseAddr(fmt.Sprintf("2a01:1::%x", i+1))
			}
			return s
		})
		p := Synthesize(Options{}, w.target, vector.Inbound, vector.SYN, attack, normal)
		for _, c := range p.Candidates {
			if c.Match.Source.IsValid() || !p.Spoofed || p.Separable {
				t.Errorf("%s, spoofed %v", c.Match, p.Spoofed)
			}
		}
	})
}

func TestOutbound(t *testing.T) {
	families(t, func(t *testing.T, v6 bool) {
		w := newWorld(v6, 4)
		out := func(s traffic.Sample) traffic.Sample {
			s.Direction, s.Source, s.Destination = vector.Outbound, s.Destination, s.Source
			s.SourcePort, s.DestinationPort = s.DestinationPort, s.SourcePort
			return s
		}
		normal := w.web(1000)
		for i := range normal {
			normal[i] = out(normal[i])
		}
		attack := many(1000, func(int) traffic.Sample { return out(scenarios[4].attack(w, 0)) })
		p := Synthesize(Options{}, w.target, vector.Outbound, vector.NTP, attack, normal)
		if len(p.Candidates) == 0 || !p.Separable || !strings.Contains(p.Says, "approver") {
			t.Fatalf("%+v", p)
		}
		for _, c := range p.Candidates {
			sound(t, Options{}, w.target, vector.Outbound, c)
			if c.Match.Source != w.target || c.Match.Destination.IsValid() || len(c.Match.SourcePort) > 0 && inRanges(c.Match.SourcePort, 123) {
				t.Errorf("%s", c.Match)
			}
		}
	})
}

// Attacks on many hosts of a prefix: the rule is for the prefix.
func TestCarpet(t *testing.T) {
	w := newWorld(false, 6)
	spread := func(s traffic.Sample) traffic.Sample {
		s.Destination = netip.AddrFrom4([4]byte{192, 0, 2, byte(w.IntN(256))})
		return s
	}
	o, _, attack, normal, _ := scenarios[3].draw(w, 1000)
	for i := range attack {
		attack[i] = spread(attack[i])
	}
	for i := range normal {
		normal[i] = spread(normal[i])
	}
	target := netip.MustParsePrefix("192.0.2.0/24")
	p := Synthesize(o, target, vector.Inbound, vector.DNS, attack, normal)
	if !p.Separable || p.Candidates[0].Match.Destination != target || len(p.Candidates[0].Match.Length) == 0 {
		t.Errorf("%+v", p)
	}
}

func FuzzSynthesize(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef0123456789abcdef"), uint8(1), uint8(4), false, false)
	f.Add([]byte{1, 2, 3, 179, 0, 179, 0, 6, 2, 0, 64, 1, 2, 3, 4, 5, 179, 6}, uint8(7), uint8(1), true, true)
	f.Fuzz(func(t *testing.T, seed []byte, v, groups uint8, v6, outbound bool) {
		h := uint64(14695981039346656037)
		for _, b := range seed {
			h = (h ^ uint64(b)) * 1099511628211
		}
		w := newWorld(v6, h)
		d := vector.Inbound
		if outbound {
			d = vector.Outbound
		}
		at := 0
		octet := func() uint8 { // the input's own octets first, for the fuzzer to play with
			if at++; at <= len(seed) {
				return seed[at-1]
			}
			return uint8(w.IntN(256))
		}
		draw := func(n int, normal bool) []traffic.Sample {
			kinds := many(int(groups%8)+1, func(int) traffic.Sample {
				s := traffic.Sample{
					Vector: vector.ID(v % vector.Count), Weight: uint32(octet()), Direction: d, Length: uint16(octet())<<8 | uint16(octet()),
					Protocol: []uint8{6, 17, 1, 58, 47, octet()}[octet()%6], DSCP: octet() & 63, TTL: octet(), Fragment: octet() & 15,
					HasPorts: octet()%4 > 0, SourcePort: uint16(octet()), DestinationPort: uint16(octet()), TCPFlags: octet(), HasICMP: octet()%2 == 0, ICMPType: octet(), ICMPCode: octet(),
				}
				if normal && octet()%2 == 0 {
					s.Vector = vector.ID(octet() % vector.Count)
				}
				return s
			})
			return many(n, func(int) traffic.Sample {
				s := kinds[w.IntN(len(kinds))]
				switch w.IntN(4) {
				case 0:
					s.Length += uint16(w.IntN(100))
				case 1:
					s.SourcePort = uint16(w.IntN(65536))
				case 2:
					s.DestinationPort = uint16(170 + w.IntN(20))
				}
				peer := w.inside(1, int(groups)+1, 4)
				s.Source, s.Destination = peer, w.target.Addr()
				if outbound {
					s.Source, s.Destination = s.Destination, s.Source
				}
				return s
			})
		}
		attack, normal := draw(200, false), draw(200, true)
		o := Options{NormalPPS: float64(octet()), CurrentPPS: float64(octet())}
		p := Synthesize(o, w.target, d, vector.ID(v%vector.Count), attack, normal)
		if len(p.Candidates) == 0 && (!outbound || p.Separable) {
			t.Errorf("no candidate")
		}
		if p.Says == "" {
			t.Error("says nothing")
		}
		for _, c := range p.Candidates {
			sound(t, o, w.target, d, c)
			if math.Abs(hit(c.Rules(), attack)-c.Coverage) > 1e-9 && o.NormalPPS == 0 {
				t.Errorf("%s: coverage %v", c.Match, c.Coverage)
			}
		}
	})
}

func BenchmarkSynthesize(b *testing.B) {
	for _, i := range []int{0, 2, 3, 8} {
		for _, mixed := range []bool{false, true} {
			sc := &scenarios[i]
			w := newWorld(false, 1)
			o, _, attack, normal, _ := sc.draw(w, 2000)
			if mixed {
				for i := range attack {
					attack[i].Weight = uint32(1 + w.IntN(1000))
				}
				for i := range normal {
					normal[i].Weight = uint32(1 + w.IntN(1000))
				}
			}
			b.Run(fmt.Sprintf("scenario=%s/weights=%v", strings.ReplaceAll(sc.name, " ", "-"), map[bool]string{false: "even", true: "mixed"}[mixed]), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					Synthesize(o, w.target, vector.Inbound, sc.vector, attack, normal)
				}
			})
		}
	}
}
