// Package breaker says when automation does harm and must stop: when it answers many targets on the word of one sensor, or
// when what targets send falls after an announcement. It is pure; what is done about it is the caller's.
//
// # Sensors that do not agree
//
// Of each target that automation answers, the packets are counted that each sensor reports of the attack, from what
// led to the answer on until Settle has passed after it. Other sensors agree when any of them counts a share Agreement of what the one
// counts that counts most. Counts and not rates are compared: where the router cuts an attack off within moments, all sensors
// see the same moments of it. Where no other agrees, the answer stands on one sensor's word. That is usual, for a host lives on
// one rack. It is disputed when the target's other traffic comes past other sensors and hardly past that one.
//
// Of the targets answered within Span, DisputedTargets that are disputed, if they are half of all, or OneSensorTargets on the
// word of one and the same sensor, if they are four fifths of all and three sensors report, open the breaker.
//
// # Traffic that falls
//
// What a target sends is the sign that it serves: it falls when a rule hits its clients. Of every target the lowest rate of the
// last Before is kept. After an announcement for it that is meant to spare its other traffic, a rate lower than that by TargetFall,
// for FallFor, which begins within FallWithin, opens the breaker for this target. As long as sensors see the attack go on that
// is not so, for then the attack does it. All targets together are held against TotalFall likewise, after any announcement.
//
// A sensor's silence is no evidence. What a silent sensor carried is unknown, and so is what one carried that reports and sees
// no packets of anybody any more.
package breaker

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Then is what follows when the breaker opens.
type Then string

// What may follow.
const (
	Tell   Then = "tell"   // an event; nothing is withdrawn
	Hold   Then = "hold"   // the mitigations are withdrawn and their targets held
	Freeze Then = "freeze" // that, and all automation is frozen
)

// Options say when the breaker opens; a count or share of 0 switches its test off.
type Options struct {
	Span             time.Duration
	Settle           time.Duration
	Agreement        float64 // 0 to 1
	DisputedTargets  int
	OneSensorTargets int
	OnDisagreement   Then

	Before              time.Duration
	FallWithin, FallFor time.Duration
	TargetFall          float64 // 0 to 1
	OnTargetFall        Then
	TotalFall           float64 // 0 to 1
	TotalTargets        int     // so many targets must have fallen by TargetFall, or half if that is 0, for TotalFall to count
	OnTotalFall         Then
	MaxTargets          int // whose rates are kept
}

// Reason is why the breaker opened: a small closed set, used as metric label.
type Reason string

// The reasons.
const (
	Disputed   Reason = "disputed"    // sensors that should see the attacks do not
	OneSensor  Reason = "one_sensor"  // one sensor alone reports most of many attacks
	TargetFell Reason = "target_fell" // a target sends less since it was answered
	TotalFell  Reason = "total_fell"  // all targets together do
)

// Reasons returns all reasons.
func Reasons() []Reason { return []Reason{Disputed, OneSensor, TargetFell, TotalFell} }

// Verdict is what was found of one answer: a small closed set, used as metric label.
type Verdict string

// The verdicts, first on sensors, then on what a target sends.
const (
	Agreed      Verdict = "agreed"
	Alone       Verdict = "one_sensor"
	Contested   Verdict = "disputed"
	Unconfirmed Verdict = "unknown" // too little was reported since, or there is no other sensor

	Serves Verdict = "serves"
	Fell   Verdict = "fell"
	Unseen Verdict = "unseen" // what it sends was not known before, or a sensor that carried it went silent
	Misses Verdict = "misses" // it fell, but the rule does not match what the target normally receives
)

// Verdicts returns all verdicts.
func Verdicts() []Verdict {
	return []Verdict{Agreed, Alone, Contested, Unconfirmed, Serves, Fell, Unseen, Misses}
}

// Announcement is an answer of automation, as it begins or changes its rule.
type Announcement struct {
	ID     string
	Target netip.Prefix
	Vector vector.ID
	At     time.Time
	// Spares says that the rule is meant to let other traffic of the target pass; a blackhole is not.
	Spares bool
	// Seen says how much of the attack each sensor has reported so far, in packets a second.
	Seen []traffic.Share
	// Carriers are the sensors that see what the target sends.
	Carriers []string
}

// Trip says that the breaker opened.
type Trip struct {
	Reason      Reason
	Then        Then
	Mitigations []string       // to be rolled back, sorted
	Targets     []netip.Prefix // that it is about, sorted
	Sensor      string         // with OneSensor; with Disputed the one that is behind most
	Says        string         // why, in numbers
}

// Look is what the caller knows of a target at the time of a Tick.
type Look struct {
	// Attacked reports whether sensors still see an attack on the target.
	Attacked func(netip.Prefix) bool
	// Misses reports whether the rule of a mitigation is known not to match what its target normally receives.
	Misses func(id string) bool
}

// Breaker is the state. It is not safe for concurrent use.
type Breaker struct {
	o        Options
	seen     map[string]time.Time // when a sensor last reported any packet
	ballots  map[netip.Prefix][]*ballot
	verdicts []verdict
	index    map[netip.Prefix]int32 // of flows
	flows    []flow
	free     []int32 // of flows
	hand     int     // where sweep was
	swept    time.Time
	watches  map[netip.Prefix]*watch
	total    *total
	found    map[Verdict]int
}

// New returns a breaker that knows nothing.
func New(o Options) *Breaker {
	return &Breaker{
		o: o, seen: map[string]time.Time{}, ballots: map[netip.Prefix][]*ballot{}, index: map[netip.Prefix]int32{},
		watches: map[netip.Prefix]*watch{}, found: map[Verdict]int{},
	}
}

// Report takes in what a sensor counted.
func (b *Breaker) Report(now time.Time, r traffic.Report) {
	if len(r.Aggregates) > 0 || len(r.Networks) > 0 {
		b.seen[r.Sensor] = now
	}
	if len(b.ballots) > 0 {
		b.count(r)
	}
}

// Announced takes in that automation announced something, or changed its rule.
func (b *Breaker) Announced(a Announcement) {
	b.vote(a)
	b.watchTarget(a)
	b.watchTotal(a)
}

// Ended takes in that a mitigation is over.
func (b *Breaker) Ended(id string) {
	for p, w := range b.watches {
		if w.ids = slices.DeleteFunc(w.ids, func(x string) bool { return x == id }); len(w.ids) == 0 {
			delete(b.watches, p)
		}
	}
}

// Tick judges what is due and returns why the breaker opens, if it does. It is to be called every second or so.
func (b *Breaker) Tick(now time.Time, look Look) (trips []Trip) {
	if t, ok := b.judge(now); ok {
		trips = append(trips, t)
	}
	trips = append(trips, b.judgeTargets(now, look)...)
	if t, ok := b.judgeTotal(now); ok {
		trips = append(trips, t)
	}
	if b.total == nil { // which must know that what is gone sends nothing; it ends at the latest after FallWithin and FallFor
		b.sweep(now)
	}
	return trips
}

// Found returns how often each verdict was found since the last call.
func (b *Breaker) Found() map[Verdict]int {
	f := b.found
	b.found = map[Verdict]int{}
	return f
}

// Flows is how many targets' rates are kept.
func (b *Breaker) Flows() int { return len(b.index) }

// blind counts those of some sensors that have reported no packet since a time.
func (b *Breaker) blind(sensors []string, since time.Time) (n int) {
	for _, s := range sensors {
		if b.seen[s].Before(since) {
			n++
		}
	}
	return n
}

func sortedTargets[T any](m map[netip.Prefix]T) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m), traffic.ComparePrefix)
}

func ids(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

// most returns the key with the highest count, of equal ones the first by name.
func most(counts map[string]int) (key string, n int) {
	for _, k := range slices.SortedFunc(maps.Keys(counts), func(x, y string) int {
		return cmp.Or(cmp.Compare(counts[y], counts[x]), cmp.Compare(x, y))
	}) {
		return k, counts[k]
	}
	return "", 0
}

func percent(x float64) string { return fmt.Sprintf("%.0f %%", 100*x) }
