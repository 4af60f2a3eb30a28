package traffic

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Observe sums what all sensors say of one vector at one target.
func (v *View) Observe(p netip.Prefix, d vector.Direction, id vector.ID) Observation {
	if t := v.targets[p]; t != nil {
		return v.observe(t, columnOf(d, id))
	}
	return Observation{Target: p, Direction: d, Vector: id}
}

// Share is what one sensor says of one vector at one target.
type Share struct {
	Sensor string
	PPS    float64
}

// Shares tells the sensors that see packets of a vector at a target apart, sorted by name. Silent ones are left out.
func (v *View) Shares(p netip.Prefix, d vector.Direction, id vector.ID) (out []Share) {
	t := v.targets[p]
	if t == nil {
		return nil
	}
	k, ok := t.column(columnOf(d, id))
	if !ok {
		return nil
	}
	for i := int(t.sums[k].first); i < t.end(k); i++ {
		if sh := &t.shares[i]; !sh.held {
			out = append(out, Share{v.names[sh.sensor].name, float64(sh.pps) / 1000})
		}
	}
	return out
}

// ObserveNetwork is Observe of the total of a network.
func (v *View) ObserveNetwork(p netip.Prefix, d vector.Direction, id vector.ID) Observation {
	if t := v.networks[p]; t != nil {
		return v.observe(t, columnOf(d, id))
	}
	return Observation{Target: p, Network: true, Direction: d, Vector: id}
}

func (v *View) observe(t *target, c column) Observation {
	o := Observation{Target: t.prefix, Network: t.network, Direction: c.direction(), Vector: c.vector()}
	k, ok := t.column(c)
	if !ok {
		return o
	}
	x := &t.sums[k]
	o.PPS, o.BPS = float64(x.pps)/1000, float64(x.bps)
	o.HeldPPS, o.HeldBPS = float64(x.heldPPS)/1000, float64(x.heldBPS)
	o.TwoWay, o.AnswersPPS = v.answers(t, k)
	if !t.network && c.direction() == vector.Inbound {
		all := vector.SetOf(vector.Total)
		o.AllPPS = max(t.rate(vector.Inbound, all), t.rate(vector.Inbound, ^all))
	}
	for i := int(x.first); i < t.end(k); i++ {
		sh := &t.shares[i]
		name := v.names[sh.sensor].name
		if t.network {
			o.ActiveHosts += int(sh.hosts)
		}
		if sh.held {
			if o.MissingCount++; o.MissingCount <= MaxNames {
				o.Missing = append(o.Missing, name)
			}
		} else {
			if o.SensorCount++; o.SensorCount <= MaxNames {
				o.Sensors = append(o.Sensors, name)
			}
		}
	}
	return o
}

// answers tells whether the other direction of an inbound column is watched, and the rate of what belongs to it there. It
// is watched where the target is seen to send anything, or where the sensors that see at least half of the column say that
// they would see it. A silent sensor counts with its last word.
func (v *View) answers(t *target, k int) (twoWay bool, pps float64) {
	x := &t.sums[k]
	if x.column.direction() != vector.Inbound {
		return false, 0
	}
	o := vector.OppositeOf(x.column.vector())
	if o.Outbound == 0 {
		return false, 0
	}
	var both int64
	for i := int(x.first); i < t.end(k); i++ {
		if sh := &t.shares[i]; !sh.held && v.names[sh.sensor].outbound {
			both += sh.pps
		}
	}
	twoWay = both > 0 && 2*both >= x.pps || t.sums[len(t.sums)-1].column.direction() == vector.Outbound
	return twoWay, t.rate(vector.Outbound, o.Outbound)
}

// rate sums the vectors of a set in one direction.
func (t *target) rate(d vector.Direction, set vector.Set) float64 {
	var n int64
	for i := range t.sums {
		if x := &t.sums[i]; x.column.direction() == d && set.Has(x.column.vector()) {
			n += x.pps + x.heldPPS
		}
	}
	return float64(n) / 1000
}

// Each calls fn for every column of every target, in order of target, direction and vector.
func (v *View) Each(fn func(Rate)) {
	for _, p := range slices.SortedFunc(maps.Keys(v.targets), ComparePrefix) {
		for _, x := range v.targets[p].sums {
			fn(Rate{
				Target: p, Direction: x.column.direction(), Vector: x.column.vector(),
				PPS: float64(x.pps) / 1000, BPS: float64(x.bps), Held: x.heldPPS != 0,
			})
		}
	}
}

// Targets returns how many targets are in view, and how often one was refused because there were too many.
func (v *View) Targets() (inView int, refused uint64) { return len(v.targets), v.refused }

// Bytes estimates the memory that targets, networks and what sensors say of them take.
func (v *View) Bytes() int {
	return (len(v.targets)+len(v.networks))*(bytesSlot+bytesTarget) + v.links*(bytesSlot+bytesLink) +
		(v.sums*bytesSum+v.shares*bytesShare)*5/4 // slices grow in steps
}

// What Go allocates; a test compares. A slot of a map holds a prefix and a pointer, and a third of them is empty.
const bytesTarget, bytesLink, bytesSum, bytesShare, bytesSlot = 88, 24, 48, 40, 40 * 3 / 2
