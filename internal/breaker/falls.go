package breaker

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// flow is what one target sends, in packets a second. Times are Unix nanoseconds. It holds no pointer: there may be 200,000.
type flow struct {
	target              netip.Prefix // the zero one: free
	now, low, lowBefore float32      // lowest since turned, and in the Before ahead of it
	turned, since       int64        // since: what is known without a gap
	missing             bool         // a sensor that carries some of it is silent
}

// leastPPS is below what a fall is chance.
const leastPPS = 50

// flow finds what is kept of a target; nil when nothing is.
func (b *Breaker) flow(p netip.Prefix) *flow {
	if i, ok := b.index[p]; ok {
		return &b.flows[i]
	}
	return nil
}

// nowhere is the mark of a target of which nothing is kept.
const nowhere = math.MaxUint32

// marked is flow, by the mark that the view keeps with the target: 1 + its place, if that is still its place. Many targets send,
// and to look each up in an index of all at each report would be most of what a report costs here.
func (b *Breaker) marked(r traffic.Rate) *flow {
	if r.Mark == nil {
		return b.flow(r.Target)
	}
	switch m := *r.Mark; {
	case m == nowhere:
		return nil
	case m > 0 && int(m) <= len(b.flows) && b.flows[m-1].target == r.Target:
		return &b.flows[m-1]
	}
	b.mark(r)
	return b.flow(r.Target)
}

// mark writes down where the flow of a target is.
func (b *Breaker) mark(r traffic.Rate) {
	if r.Mark == nil {
		return
	}
	*r.Mark = nowhere
	if i, ok := b.index[r.Target]; ok {
		*r.Mark = uint32(i) + 1
	}
}

// admit makes room for a target.
func (b *Breaker) admit(p netip.Prefix) *flow {
	i := int32(len(b.flows))
	if n := len(b.free); n > 0 {
		i, b.free = b.free[n-1], b.free[:n-1]
	} else {
		b.flows = append(b.flows, flow{})
	}
	b.index[p] = i
	b.flows[i].target = p
	return &b.flows[i]
}

// Rate takes in what all sensors say of a target.
func (b *Breaker) Rate(now time.Time, r traffic.Rate) {
	if r.Direction != vector.Outbound || r.Vector != vector.Total || r.Network || b.o.TargetFall == 0 && b.o.TotalFall == 0 {
		return
	}
	f := b.marked(r)
	switch {
	case f == nil && (r.Held || r.PPS < leastPPS || len(b.index) >= b.o.MaxTargets):
		return
	case f == nil:
		b.admit(r.Target).begin(now, r.PPS)
		b.mark(r)
	case r.Held:
		f.missing = true
		return
	case f.missing: // what was in the gap is not known
		f.begin(now, r.PPS)
	default:
		f.roll(now, b.o.Before)
		f.now = float32(r.PPS)
		f.low = min(f.low, f.now)
	}
}

func (f *flow) begin(now time.Time, pps float64) {
	v, at := float32(pps), now.UnixNano()
	*f = flow{target: f.target, now: v, low: v, lowBefore: v, turned: at, since: at}
}

// roll begins a new span where the present one is over.
func (f *flow) roll(now time.Time, before time.Duration) {
	at := now.UnixNano()
	switch passed := at - f.turned; {
	case passed >= 2*int64(before): // nothing changed all that time
		f.low, f.lowBefore, f.turned = f.now, f.now, at
	case passed >= int64(before):
		f.low, f.lowBefore = f.now, f.low
		f.turned += int64(before)
	}
}

// before is the lowest rate of the last span, and at most twice as long; ok is false where that is not known.
func (f *flow) before(now time.Time, span time.Duration) (pps float64, ok bool) {
	f.roll(now, span)
	if f.missing || now.UnixNano()-f.since < int64(span) {
		return 0, false
	}
	return float64(min(f.low, f.lowBefore)), true
}

// sweepEach is how many flows a tick looks at, so that none takes long.
const sweepEach = 8192

// sweep forgets what sends hardly anything any more, and sensors that are gone.
func (b *Breaker) sweep(now time.Time) {
	for range min(sweepEach, len(b.flows)) {
		b.hand = (b.hand + 1) % len(b.flows)
		f := &b.flows[b.hand]
		if _, watched := b.watches[f.target]; watched || !f.target.IsValid() {
			continue
		}
		if f.roll(now, b.o.Before); f.now < leastPPS && max(f.low, f.lowBefore) < leastPPS {
			delete(b.index, f.target)
			*f = flow{}
			b.free = append(b.free, int32(b.hand))
		}
	}
	if now.Sub(b.swept) >= b.o.Before {
		b.swept = now
		maps.DeleteFunc(b.seen, func(_ string, at time.Time) bool { return now.Sub(at) > time.Hour })
	}
}

// watch is a target that was answered.
type watch struct {
	ids      []string
	before   float64
	from     time.Time // the first announcement
	until    time.Time // a fall that begins later is no news of ours
	below    time.Time // since when it is too low; zero while it is not
	carriers []string
}

func (b *Breaker) watchTarget(a Announcement) {
	if b.o.TargetFall == 0 || !a.Spares {
		return
	}
	w := b.watches[a.Target]
	if w == nil {
		f := b.flow(a.Target)
		if f == nil || len(a.Carriers) == 0 {
			b.found[Unseen]++
			return
		}
		before, ok := f.before(a.At, b.o.Before)
		if !ok || before < leastPPS {
			b.found[Unseen]++
			return
		}
		w = &watch{before: before, from: a.At, carriers: a.Carriers}
		b.watches[a.Target] = w
	}
	if !slices.Contains(w.ids, a.ID) {
		w.ids = append(w.ids, a.ID)
	}
	w.until = a.At.Add(b.o.FallWithin)
}

func (b *Breaker) judgeTargets(now time.Time, look Look) (trips []Trip) {
	for _, p := range sortedTargets(b.watches) {
		w, f := b.watches[p], b.flow(p)
		over := func(v Verdict) {
			b.found[v]++
			delete(b.watches, p)
		}
		switch fallen := f != nil && float64(f.now) < (1-b.o.TargetFall)*w.before; {
		case f == nil || f.missing || f.since > w.from.UnixNano():
			over(Unseen)
		case !fallen || look.Attacked(p): // what the attack does is not for us to undo
			if w.below = (time.Time{}); now.After(w.until) {
				over(Serves)
			}
		case w.below.IsZero():
			if w.below = now; now.After(w.until) {
				over(Serves)
			}
		case now.Sub(w.below) < b.o.FallFor:
		case b.blind(w.carriers, w.below) > 0:
			over(Unseen)
		default:
			back := map[string]bool{}
			for _, id := range w.ids {
				if !look.Misses(id) {
					back[id] = true
				}
			}
			if len(back) == 0 {
				over(Misses)
				continue
			}
			over(Fell)
			trips = append(trips, Trip{
				Reason: TargetFell, Then: b.o.OnTargetFall, Mitigations: ids(back), Targets: []netip.Prefix{p},
				Says: fmt.Sprintf("%s sends %.0f packets a second and sent no less than %.0f before it was answered: %s less, for %s, while no attack is seen any more",
					p, f.now, w.before, percent(1-float64(f.now)/w.before), now.Sub(w.below).Round(time.Second)),
			})
		}
	}
	return trips
}

// total is what all targets sent when something was announced; of many, as many as tell.
type total struct {
	ids     []string
	from    time.Time
	until   time.Time
	below   time.Time
	before  []sent
	sensors []string // that reported packets
}

type sent struct {
	target netip.Prefix
	pps    float64
}

// mostAsked is how many targets stand for all.
const mostAsked = 8192

func (b *Breaker) watchTotal(a Announcement) {
	if b.o.TotalFall == 0 {
		return
	}
	if b.total == nil {
		t := &total{from: a.At, until: a.At.Add(b.o.FallWithin)}
		for i := 0; i < len(b.flows); i += 1 + len(b.flows)/mostAsked {
			f := &b.flows[i]
			if before, ok := f.before(a.At, b.o.Before); ok && before >= leastPPS && f.target.IsValid() {
				t.before = append(t.before, sent{f.target, before})
			}
		}
		for s, at := range b.seen {
			if a.At.Sub(at) <= b.o.Settle {
				t.sensors = append(t.sensors, s)
			}
		}
		b.total = t
	}
	if !slices.Contains(b.total.ids, a.ID) {
		b.total.ids = append(b.total.ids, a.ID)
	}
}

// mostBlind is the share of sensors that may stop seeing packets while all targets together are still judged.
const mostBlind = 0.01

func (b *Breaker) judgeTotal(now time.Time) (Trip, bool) {
	t := b.total
	if t == nil {
		return Trip{}, false
	}
	each := b.o.TargetFall
	if each == 0 {
		each = 0.5
	}
	var before, after float64
	var fell []netip.Prefix
	for _, x := range t.before {
		f, was := b.flow(x.target), x.pps
		if f == nil || f.missing || f.since > t.from.UnixNano() {
			continue // not known, so neither counts
		}
		is := min(float64(f.now), was)
		before, after = before+was, after+is
		if is < (1-each)*was {
			fell = append(fell, x.target)
		}
	}
	fallen := before > 0 && after < (1-b.o.TotalFall)*before && len(fell) >= max(b.o.TotalTargets, 1)
	switch {
	case !fallen:
		if t.below = (time.Time{}); now.After(t.until) {
			b.total = nil
		}
		return Trip{}, false
	case t.below.IsZero():
		if t.below = now; now.After(t.until) {
			b.total = nil
		}
		return Trip{}, false
	case now.Sub(t.below) < b.o.FallFor:
		return Trip{}, false
	case float64(b.blind(t.sensors, t.below)) > mostBlind*float64(len(t.sensors)):
		b.total = nil
		return Trip{}, false
	}
	b.total = nil
	slices.SortFunc(fell, traffic.ComparePrefix)
	slices.Sort(t.ids)
	return Trip{
		Reason: TotalFell, Then: b.o.OnTotalFall, Mitigations: t.ids, Targets: fell,
		Says: fmt.Sprintf("%d targets together send %.0f packets a second and sent no less than %.0f before the first of %d answers: %s less, for %s; %d of them send less by %s and more",
			len(t.before), after, before, len(t.ids), percent(1-after/before), now.Sub(t.below).Round(time.Second), len(fell), percent(each)),
	}, true
}
