package replay

import (
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// measure counts what the signatures of incidents match, on the very packets.
type measure struct {
	o         Options
	incidents []Incident
	of        map[netip.Addr][]int // incidents of hosts
	wide      []int                // incidents of networks
	counts    []counts
	directed  [vector.Directions]bool // in which there are incidents
}

type counts struct{ attack, attackHit, other, otherHit uint64 }

func newMeasure(o Options, incidents []Incident) *measure {
	m := &measure{o: o, incidents: incidents, of: map[netip.Addr][]int{}, counts: make([]counts, len(incidents))}
	for i, inc := range incidents {
		m.directed[inc.Direction] = true
		if inc.Target.IsSingleIP() {
			m.of[inc.Target.Addr()] = append(m.of[inc.Target.Addr()], i)
		} else {
			m.wide = append(m.wide, i)
		}
	}
	return m
}

func (m *measure) packet(p Packet) {
	for d, any := range m.directed {
		if !any {
			continue
		}
		r := Classify(p, vector.Direction(d), m.o)
		if !r.IP || !r.Target.IsValid() {
			continue
		}
		if len(m.of[r.Target]) == 0 && len(m.wide) == 0 {
			continue
		}
		s := r.Sample(p.Time, vector.Direction(d), uint32(r.Segments))
		m.sample(p, &s)
	}
}

// rise is how long before its onset an attack without labels is taken to have begun: it grows until it passes a limit.
const rise = time.Second

func (m *measure) see(i int, p Packet, s *traffic.Sample) {
	inc, c, n := &m.incidents[i], &m.counts[i], uint64(s.Weight)
	hit := slices.ContainsFunc(inc.Rules, func(r route.Match) bool { return signature.Matches(r, s) })
	attack := p.Label > 0
	if p.Label == Unlabelled {
		attack = inc.has(s.Vector) && !p.Time.Before(inc.Onset.Add(-rise)) && (inc.Ended.IsZero() || !p.Time.After(inc.Ended))
	}
	switch {
	case attack && hit:
		c.attack, c.attackHit = c.attack+n, c.attackHit+n
	case attack:
		c.attack += n
	case hit:
		c.other, c.otherHit = c.other+n, c.otherHit+n
	default:
		c.other += n
	}
}

func (m *measure) finish() {
	share := func(part, whole uint64) float64 {
		if whole == 0 {
			return 0
		}
		return float64(part) / float64(whole)
	}
	for i, c := range m.counts {
		inc := &m.incidents[i]
		inc.AttackPackets, inc.OtherPackets = c.attack, c.other
		inc.Coverage, inc.Collateral = share(c.attackHit, c.attack), share(c.otherHit, c.other)
	}
}

// has tells whether the vector is one of the incident's; total stands for all.
func (i *Incident) has(v vector.ID) bool {
	for _, m := range i.Vectors {
		if m.Vector == v || m.Vector == vector.Total {
			return true
		}
	}
	return false
}

// Classify returns what a packet is counted as in a direction.
func Classify(p Packet, d vector.Direction, o Options) classify.Result {
	return classify.Classify(classify.Frame{Data: p.Data, Wire: p.Wire, Direction: d, Decapsulate: o.Decapsulate}, o.Ports)
}
