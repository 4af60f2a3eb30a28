package detect

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Window is the span in which the sensors' kernel programs compare counters with triggers, on kernels with a tick of 1 or 4 ms.
const Window = 32 * time.Millisecond

// Limits say when the traffic of one vector at one site is an attack, and when it is over. Rates are per second; 0 is no
// limit.
type Limits struct {
	PPS, BPS float64
	// Windows is how many windows' worth of packets, or bits, at the limit must be counted in a row over it; at least 1.
	Windows int
	// Unanswered is the limit in packets for what the target neither asked for nor answers, UnansweredWindows as Windows.
	Unanswered        float64
	UnansweredWindows int
	// Spoofed is the limit in different sources, each good for hardly more than one packet.
	Spoofed float64
	// Share is the limit as a fraction of all packets to the target, from ShareFrom packets on; Windows as for PPS, but at
	// least a second's.
	Share, ShareFrom float64
	// Hosts is, of a network, in how many hosts at least the packets must arrive.
	Hosts    int
	EndBelow float64       // fraction of the limit below which traffic counts as calm, 0 to 1
	EndAfter time.Duration // calm for so long ends it
}

// Baseline says what a learnt normal changes.
type Baseline struct {
	// Above is the multiple of normal up to which traffic is no attack, and Cap the multiple of the limit up to which that holds.
	Above, Cap float64
	// Factor is the multiple of normal from which on traffic is an attack, 0 for never, if it is over Floor times the limit.
	Factor, Floor float64
}

// Site is where an attack is seen: a target in one direction, or a network as a whole.
type Site struct {
	Target    netip.Prefix
	Direction vector.Direction
	Network   bool
}

// Rules give what holds for a site.
type Rules interface {
	Limits(s Site, v vector.ID) Limits
	Baseline() Baseline
	Group(target netip.Prefix) string
}

// Normal gives what a target's traffic of a vector normally reaches at a time, in packets and bits per second; ok is
// false as long as too little is known.
type Normal interface {
	Normal(now time.Time, target netip.Prefix, d vector.Direction, v vector.ID) (pps, bps float64, ok bool)
}

// Test is what made an attack of traffic.
type Test uint8

// The tests.
const (
	Static     Test = iota + 1 // a limit of the policy, raised by what is normal or asked for
	Unanswered                 // the limit for what is neither asked for nor answered
	Spoofed                    // the limit for different sources
	Unusual                    // a multiple of what is normal
	Share                      // a share of all that the target receives
	tests      = 6
)

func (t Test) String() string {
	switch t {
	case Static:
		return "limit"
	case Unanswered:
		return "unanswered"
	case Spoofed:
		return "spoofed"
	case Unusual:
		return "unusual"
	case Share:
		return "share"
	}
	return "unknown"
}

const (
	// Answers that were asked for are an attack from so many times the limit on, or when there are so many more of them
	// than questions.
	solicitedLimit = 10
	solicitedRatio = 3
	// smallPacket is the mean length in octets up to which a packet is small, where only small ones need an answer.
	smallPacket = 512
	// shareSpan is for how long a share must be passed at least, for the whole is told once a second.
	shareSpan = time.Second
)

// finding is one test that an observation passed.
type finding struct {
	test     Test
	pps, bps float64 // the limit that was passed: one of them; else 0
	windows  int
	why      string // what the limit is, beside the policy's number
}

// judge returns the tests that an observation passes.
func (d *Detector) judge(now time.Time, o traffic.Observation, l Limits, out []finding) []finding {
	op, b := vector.OppositeOf(o.Vector), d.rules.Baseline()
	normalPPS, normalBPS, known := d.normally(now, o)
	pps, bps, why := d.allowed(now, o, l)
	switch {
	case exceeds(o.PPS, pps):
		out = append(out, finding{test: Static, pps: pps, windows: l.Windows, why: why})
	case exceeds(o.BPS, bps):
		out = append(out, finding{test: Static, bps: bps, windows: l.Windows, why: why})
	}
	if limit := d.unansweredLimit(o, l, normalPPS, known, b); exceeds(o.PPS, limit) {
		out = append(out, finding{test: Unanswered, pps: limit, windows: l.UnansweredWindows, why: fmtAnswers(op, o)})
	}
	if limit := d.shareLimit(o, l, normalPPS, known, b); exceeds(o.PPS, limit) {
		out = append(out, finding{test: Share, pps: limit, windows: l.Windows, why: fmtShare(o, l)})
	}
	if known && b.Factor > 0 {
		if p := max(b.Factor*normalPPS, b.Floor*l.PPS); l.PPS > 0 && exceeds(o.PPS, p) {
			out = append(out, finding{test: Unusual, pps: p, windows: l.Windows, why: fmtNormal("", normalPPS, normalBPS)})
		} else if q := max(b.Factor*normalBPS, b.Floor*l.BPS); l.BPS > 0 && exceeds(o.BPS, q) {
			out = append(out, finding{test: Unusual, bps: q, windows: l.Windows, why: fmtNormal("", normalPPS, normalBPS)})
		}
	}
	return out
}

// normally is what is normal for what is observed; not known when nothing is learnt.
func (d *Detector) normally(now time.Time, o traffic.Observation) (pps, bps float64, known bool) {
	if d.normal == nil || o.Network {
		return 0, 0, false
	}
	return d.normal.Normal(now, o.Target, o.Direction, o.Vector)
}

// allowed are the policy's limits, raised by what was asked for and by what is normal; why says by which.
func (d *Detector) allowed(now time.Time, o traffic.Observation, l Limits) (pps, bps float64, why string) {
	pps, bps = l.PPS, l.BPS
	if o.Direction == vector.Inbound && asked(o) {
		pps, bps = solicitedLimit*pps, solicitedLimit*bps
		why = ", ten times as much because they were asked for"
	}
	if normalPPS, normalBPS, known := d.normally(now, o); known {
		b := d.rules.Baseline()
		if p, q := raised(pps, normalPPS, b), raised(bps, normalBPS, b); b.Above > 0 && (p > pps || q > bps) {
			pps, bps = p, q
			why += fmtNormal(", raised", normalPPS, normalBPS)
		}
	}
	return pps, bps, why
}

// unansweredLimit is the limit for an observation that nobody asked for or answers, and 0 for all others.
func (d *Detector) unansweredLimit(o traffic.Observation, l Limits, normal float64, known bool, b Baseline) float64 {
	if l.Unanswered == 0 || o.Network || o.Direction != vector.Inbound || !o.TwoWay || answered(o) {
		return 0
	}
	if vector.OppositeOf(o.Vector).Small && o.BPS > 8*smallPacket*o.PPS {
		return 0
	}
	if known && b.Above > 0 {
		return raised(l.Unanswered, normal, b)
	}
	return l.Unanswered
}

// shareLimit is the limit in packets that follows from a share of all the target receives, and 0 where there is none, or
// it asked for what it receives.
func (d *Detector) shareLimit(o traffic.Observation, l Limits, normal float64, known bool, b Baseline) float64 {
	if l.Share == 0 || o.Network || o.Direction != vector.Inbound || o.Vector == vector.Total || asked(o) {
		return 0
	}
	limit := max(l.ShareFrom, l.Share*max(o.AllPPS, o.PPS))
	if known && b.Above > 0 {
		return raised(limit, normal, b)
	}
	return limit
}

// asked tells whether the target asked for what it receives.
func asked(o traffic.Observation) bool {
	return vector.OppositeOf(o.Vector).Asked && o.TwoWay && o.AnswersPPS > 0 && o.PPS <= solicitedRatio*o.AnswersPPS
}

// answered tells whether the target's other direction is what it is for healthy traffic, or nothing can be said of it.
func answered(o traffic.Observation) bool {
	op := vector.OppositeOf(o.Vector)
	return op.Outbound == 0 || op.Share == 0 || o.AnswersPPS >= op.Share*o.PPS
}

// raised is a limit with what is normal considered.
func raised(limit, normal float64, b Baseline) float64 {
	if limit == 0 {
		return 0
	}
	return max(limit, min(b.Above*normal, b.Cap*limit))
}

func exceeds(rate, limit float64) bool { return limit > 0 && rate >= limit }
