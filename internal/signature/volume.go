package signature

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// What a rule hits beside the samples: the weight of ranges, the room of a match, and whether the safety kernel lets it pass.

// cumulative is the weight of samples up to each value of a field.
type cumulative struct {
	values []uint32
	upTo   []uint64
}

func (p *problem) along(f field, s *set, in, also bitset) cumulative {
	var pairs []uint64
	for i, x := range s.samples {
		if !in.has(i) || also != nil && !also.has(i) {
			continue
		}
		if v, ok := f.value(x); ok {
			pairs = append(pairs, uint64(v)<<32|weight(x))
		}
	}
	slices.Sort(pairs)
	var c cumulative
	sum := uint64(0)
	for _, x := range pairs {
		sum += x & math.MaxUint32
		if v := uint32(x >> 32); len(c.values) > 0 && c.values[len(c.values)-1] == v {
			c.upTo[len(c.upTo)-1] = sum
		} else {
			c.values, c.upTo = append(c.values, v), append(c.upTo, sum)
		}
	}
	return c
}

// sum is the weight within ranges that do not overlap.
func (c *cumulative) sum(rs []route.Range) uint64 {
	below := func(v uint32) uint64 {
		i, _ := slices.BinarySearch(c.values, v)
		if i == 0 {
			return 0
		}
		return c.upTo[i-1]
	}
	n := uint64(0)
	for _, r := range rs {
		n += below(r.Hi+1) - below(r.Lo)
	}
	return n
}

// volume is what part of the packets the mark hits a match takes up before anything is known of the target: a rough
// guess that keeps a match narrow where no sample says what else is there. Destination ports hardly narrow it, for what
// a target receives goes to few.
func (p *problem) volume(m route.Match) float64 {
	for f := range fields { // what the mark asks for narrows nothing
		if rs := f.ranges(&m); rs != nil && slices.Equal(*rs, *f.ranges(&p.mark)) {
			*rs = nil
		}
		if bs := f.bits(&m); bs != nil && slices.Equal(*bs, *f.bits(&p.mark)) {
			*bs = nil
		}
	}
	if p.direction == vector.Outbound {
		m.Source = m.Destination
	}
	return roomOf(m)
}

func roomOf(m route.Match) float64 {
	room := 1.0
	part := func(rs []route.Range, of, least float64) {
		if len(rs) == 0 {
			return
		}
		n := 0.0
		for _, r := range rs {
			n += float64(r.Hi) - float64(r.Lo) + 1
		}
		room *= min(max(n/of, least), 1)
	}
	part(m.Protocol, 4, 0.3)
	part(m.SourcePort, 65536, 0.05)
	part(m.DestinationPort, 65536, 0.7)
	part(m.ICMPType, 4, 0.4)
	part(m.ICMPCode, 4, 0.7)
	part(m.DSCP, 8, 0.9)
	lengths := slices.Clone(m.Length)
	for i := range lengths {
		lengths[i].Hi = max(min(lengths[i].Hi, 1500), lengths[i].Lo)
	}
	part(lengths, 1500, 0.02)
	if len(m.TCPFlags) > 0 {
		room *= 0.8
	}
	if len(m.Fragment) > 0 {
		room *= 0.9
	}
	if m.Source.IsValid() {
		room *= 0.05
	}
	return room
}

// allowed reports whether the safety kernel lets the candidate's rules pass, given that the target is ours and not on
// the never list. Outbound rules have no destination, which an approver may ask for.
func (p *problem) allowed(c Candidate) bool {
	l := safety.Defaults()
	l.Own, l.MaxOwnShare = []netip.Prefix{p.target}, 1
	at := time.Unix(0, 0)
	var set []safety.Entry
	for _, m := range c.Rules() {
		set = append(set, safety.Entry{
			Route:  route.Route{Match: m, Action: route.Action{Kind: route.Discard}},
			Owners: []string{"signature"}, Created: at, Deadline: at.Add(time.Minute),
			Manual: true, Approved: p.direction == vector.Outbound, // whether automation may act on a whole network is for its own check
		})
	}
	return len(safety.Check(at, l, set)) == 0
}
