package baseline

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// monday is the begin of a week.
var monday = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

var keys = []Key{
	{netip.MustParsePrefix("192.0.2.1/32"), vector.Inbound, vector.SYN},
	{netip.MustParsePrefix("2001:db8::1/128"), vector.Inbound, vector.DNS},
	{netip.MustParsePrefix("198.51.100.0/24"), vector.Outbound, vector.Total},
	{netip.MustParsePrefix("2001:db8:7::/48"), vector.Outbound, vector.UDPOther},
}

// feed observes rate(t) packets of 100 octets every step from a time on for a span.
func feed(l *Learner, k Key, from time.Time, span, step time.Duration, rate func(time.Time) float64) (end time.Time) {
	for t := from; t.Before(from.Add(span)); t = t.Add(step) {
		r := rate(t)
		l.Observe(t, k, r, r*800, false)
	}
	return from.Add(span)
}

func steady(r float64) func(time.Time) float64 { return func(time.Time) float64 { return r } }

// within tells whether two rates are within what a bucket's width and its neighbour's allow.
func within(got, want, by float64) bool { return math.Abs(got/want-1) <= by }

func wantNormal(t *testing.T, l *Learner, now time.Time, k Key, packets float64) {
	t.Helper()
	p, b, ok := l.Normal(now, k.Target, k.Direction, k.Vector)
	if !ok || !within(p, packets, 0.05) || !within(b, packets*800, 0.05) {
		t.Errorf("normal at %s: %.1f packets/s and %.0f bit/s (%t), want %.1f and %.0f\n%s", now.Format("Mon 15:04"), p, b, ok, packets, packets*800, l.Explain(now, k))
	}
}

func TestCodes(t *testing.T) {
	for m := range measures {
		rng := rand.New(rand.NewPCG(1, uint64(m)))
		low := math.Ldexp(1, exponents[m])
		last := uint8(least)
		for x := low; x < low*math.Exp2(36)*0.9999; x *= 1 + rng.Float64()/50 {
			c := encode(m, x)
			if got := decode(m, c); !within(got, x, 0.0496) {
				t.Fatalf("%v is read as %v", x, got)
			}
			if c < last || c > last+1 {
				t.Fatalf("code %d after %d at %v", c, last, x)
			}
			last = c
			if d := encode(m, 2*x); d != min(double(c), most) && d != most {
				t.Fatalf("twice %v is %d, twice %d is %d", x, d, c, double(c))
			}
		}
		for x, want := range map[float64]uint8{
			0: least, -1: least, math.Inf(-1): least, low / 2: least, 5e-324: least, low: 2,
			low * math.Exp2(36): most, math.MaxFloat64: most, math.Inf(1): most,
		} {
			if got := encode(m, x); got != want {
				t.Errorf("%v is code %d, want %d", x, got, want)
			}
		}
		if got := encode(m, math.NaN()); got != least {
			t.Errorf("NaN is code %d", got)
		}
	}
}

// The quantile of the sketch is that of the observations, weighted by their age, to within 5 %.
func TestQuantilesAreExactToFivePercent(t *testing.T) {
	for name, draw := range map[string]func(*rand.Rand) float64{
		"uniform":   func(r *rand.Rand) float64 { return 100 + 900*r.Float64() },
		"lognormal": func(r *rand.Rand) float64 { return 5000 * math.Exp(r.NormFloat64()) },
		"narrow":    func(r *rand.Rand) float64 { return 40 * math.Exp(0.1*r.NormFloat64()) },
		"pareto":    func(r *rand.Rand) float64 { return 300 / math.Sqrt(1-r.Float64()) },
		"two":       func(r *rand.Rand) float64 { return []float64{70, 70, 70, 70, 400}[r.IntN(5)] },
	} {
		for _, q := range []float64{0.9, 0.99, 0.999} {
			t.Run(fmt.Sprintf("%s q=%v", name, q), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(3, 4))
				l := New(Options{Quantile: q, Ready: -1, FreePPS: 1e9, FreeBPS: 1e12})
				type seen struct{ rate, weight float64 }
				var all []seen
				const days = 40
				for d := range days {
					at := monday.AddDate(0, 0, d)
					if wd := at.Weekday(); wd == time.Saturday || wd == time.Sunday {
						continue
					}
					feed(l, keys[0], at.Add(10*time.Hour), 2*time.Hour, grain, func(time.Time) float64 {
						r := draw(rng)
						all = append(all, seen{r, math.Exp2(-float64(days-1-d) / 14)})
						return r
					})
				}
				slices.SortFunc(all, func(a, b seen) int { return cmp.Compare(a.rate, b.rate) })
				var sum float64
				for _, s := range all {
					sum += s.weight
				}
				exact := func(q float64) float64 {
					var n float64
					for _, s := range all {
						if n += s.weight; n >= q*sum {
							return s.rate
						}
					}
					return all[len(all)-1].rate
				}
				slip := (1-q)/20 + 2/sum // what rounding weights may move the rank by: two grains, too
				low, high := exact(q-slip)/1.05, exact(q+slip)*1.05
				if exact(q) < all[len(all)-1].rate/8 {
					low, high = 0, math.Inf(1) // the bound is not promised; see the package comment
				}
				p, b, ok := l.Normal(monday.AddDate(0, 0, 37).Add(11*time.Hour), keys[0].Target, keys[0].Direction, keys[0].Vector)
				if !ok || p < low || p > high || b < low*800 || b > high*800 {
					t.Errorf("%v: %v (%v bit/s, %t), exact %v (%v to %v), largest %v", q, p, b, ok, exact(q), low, high, all[len(all)-1].rate)
				}
			})
		}
	}
}

func TestSeasons(t *testing.T) {
	l := New(Options{})
	week := func(at time.Time) float64 {
		switch wd, h := at.Weekday(), at.Hour(); {
		case wd == time.Monday && h >= 9 && h < 17:
			return 50_000
		case wd == time.Saturday || wd == time.Sunday:
			return 200
		case h >= 8 && h < 18:
			return 5000
		}
		return 1000
	}
	for _, k := range keys {
		end := feed(l, k, monday, 21*day, grain, week)
		for _, c := range []struct {
			at   time.Duration
			want float64
		}{
			{11 * time.Hour, 50_000},
			{3 * time.Hour, 1000},
			{22 * time.Hour, 1000},
			{5*day + 11*time.Hour, 200},
			{6*day + 3*time.Hour, 200},
			{7*24*time.Hour + 12*time.Hour, 50_000},
			{7*time.Hour + 50*time.Minute, 50_000}, // shortly before the busy hours
			{7*time.Hour + 40*time.Minute, 1000},
			{18*time.Hour + 10*time.Minute, 50_000}, // shortly after
			{18*time.Hour + 20*time.Minute, 1000},
		} {
			wantNormal(t, l, end.Add(c.at), k, c.want)
		}
	}
}

// Hours are those of the zone, and a day has one limit only.
func TestZone(t *testing.T) {
	zone := time.FixedZone("east", 9*3600+1800)
	l := New(Options{Zone: zone})
	from := time.Date(2026, 3, 2, 0, 0, 0, 0, zone)
	end := feed(l, keys[0], from, 14*day, grain, func(at time.Time) float64 {
		if h := at.In(zone).Hour(); h >= 10 && h < 12 {
			return 9000
		}
		return 10
	})
	wantNormal(t, l, end.Add(11*time.Hour).UTC(), keys[0], 9000)
	wantNormal(t, l, end.Add(13*time.Hour).UTC(), keys[0], 10)
}

func TestNotReadyBeforeADay(t *testing.T) {
	l := New(Options{})
	k := keys[0]
	end := feed(l, k, monday, 24*time.Hour, grain, steady(100))
	if _, _, ok := l.Normal(end, k.Target, k.Direction, k.Vector); ok {
		t.Error("ready although the last ten minutes of the day still wait")
	}
	if got := l.Explain(end, k); !strings.Contains(got, "not known yet") {
		t.Error(got)
	}
	end = feed(l, k, end, 11*time.Minute, grain, steady(100))
	wantNormal(t, l, end, k, 100)
	// Saturday, of which nothing was seen, is as the weekday was.
	wantNormal(t, l, monday.Add(5*day+12*time.Hour), k, 100)
	for _, other := range keys[1:] {
		if _, _, ok := l.Normal(end, other.Target, other.Direction, other.Vector); ok {
			t.Errorf("%v was never observed", other)
		}
	}
	// Two packets a day apart are no baseline.
	l.Observe(monday, keys[1], 1, 1, false)
	l.Observe(monday.Add(2*day), keys[1], 1, 1, false)
	if _, _, ok := l.Normal(monday.Add(3*day), keys[1].Target, keys[1].Direction, keys[1].Vector); ok {
		t.Error("two grains are a baseline")
	}
}

func TestExplain(t *testing.T) {
	l := New(Options{})
	end := feed(l, keys[0], monday, 7*day, grain, steady(4000))
	got := l.Explain(end.Add(11*time.Hour), keys[0])
	for _, want := range []string{"inbound syn at 192.0.2.1/32", "at most 38", " packets/s and 32", " bit/s in ", "99 %", "on weekdays from 10 to 12 h UTC", "half-life 14 days"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if got := l.Explain(end, keys[1]); !strings.Contains(got, "nothing is known") {
		t.Error(got)
	}
}

// An attack of 100 times the normal rate for an hour is not learnt, neither what was flagged nor what came before.
func TestAttackIsNotLearnt(t *testing.T) {
	for _, k := range keys {
		l := New(Options{})
		end := feed(l, k, monday, 14*day, grain, steady(20_000))
		before := snapshot(t, l)
		from := end.Add(10 * time.Hour)
		// It grows for eight minutes before anybody notices.
		noticed := feed(l, k, from, 8*time.Minute, grain, func(at time.Time) float64 { return 20_000 + 200_000*at.Sub(from).Minutes() })
		l.Discard(noticed, k.Target, noticed)
		for at := noticed; at.Before(noticed.Add(time.Hour)); at = at.Add(grain) {
			l.Observe(at, k, 2e6, 2e6*800, true)
		}
		// What was observed beside it within the same grain is not learnt either.
		l.Observe(noticed.Add(time.Hour-time.Second), k, 2e6, 2e6*800, false)
		l.Normal(noticed.Add(2*time.Hour), k.Target, k.Direction, k.Vector)
		after := snapshot(t, l)
		wantNormal(t, l, noticed.Add(2*time.Hour), k, 20_000)
		wantNormal(t, l, from, k, 20_000)
		// All that may have changed is what waited at the end of the two weeks.
		l2 := New(Options{})
		if err := l2.Load(before); err != nil {
			t.Fatal(err)
		}
		l3 := New(Options{})
		if err := l3.Load(after); err != nil {
			t.Fatal(err)
		}
		a, _ := l2.find(end, k)
		b, _ := l3.find(end, k)
		if b.last < a.last || int64(b.last) > end.Unix()/grainSeconds {
			t.Errorf("learnt from grain %d, before the attack %d, the last before it %d", b.last, a.last, end.Unix()/grainSeconds)
		}
	}
}

// An incident at a network concerns the hosts in it, one at a host no network.
func TestDiscardReachesInwards(t *testing.T) {
	network, host := netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("198.51.100.7/32")
	other := netip.MustParsePrefix("198.51.101.7/32")
	for _, c := range []struct {
		incident netip.Prefix
		learnt   map[netip.Prefix]bool
	}{
		{network, map[netip.Prefix]bool{network: false, host: false, other: true}},
		{host, map[netip.Prefix]bool{network: true, host: false, other: true}},
		{netip.MustParsePrefix("::/0"), map[netip.Prefix]bool{network: true, host: true, other: true}},
	} {
		l := New(Options{})
		for p := range c.learnt {
			feed(l, Key{p, vector.Inbound, vector.SYN}, monday, 5*time.Minute, grain, steady(7))
		}
		now := monday.Add(5 * time.Minute)
		l.Discard(now, c.incident, now)
		for p, want := range c.learnt {
			k := Key{p, vector.Inbound, vector.SYN}
			e, _ := l.find(now.Add(time.Hour), k)
			if got := e.first > 0; got != want {
				t.Errorf("incident at %s: %s learnt %t, want %t", c.incident, p, got, want)
			}
		}
	}
}

// Discard keeps what is older than the delay before the incident, though nobody asked since.
func TestDiscardKeepsWhatIsOlder(t *testing.T) {
	l := New(Options{})
	feed(l, keys[0], monday, 5*time.Minute, grain, steady(7))
	since := monday.Add(12 * time.Minute)
	l.Discard(since.Add(time.Minute), keys[0].Target, since)
	e, _ := l.find(since, keys[0])
	if n := l.hours.at(e.hours[0]-1).weight() / unit; n != 12 {
		t.Errorf("%d grains learnt, want the 12 of the first two minutes", n)
	}
}

// Who ramps up slowly, unnoticed, gets no further than twice a day.
func TestRampAtMostDoublesEachDay(t *testing.T) {
	for _, k := range keys[:2] {
		l := New(Options{})
		start := feed(l, k, monday, 14*day, grain, steady(10_000))
		last, _, _ := l.Normal(start.Add(11*time.Hour), k.Target, k.Direction, k.Vector)
		first := last
		grew := false
		for d := range 4 {
			from := start.Add(time.Duration(d) * day)
			feed(l, k, from, day, grain, func(at time.Time) float64 { return 10_000 * math.Exp2(at.Sub(start).Hours()/3) })
			p, b, ok := l.Normal(from.Add(24*time.Hour+11*time.Hour), k.Target, k.Direction, k.Vector)
			if !ok || p > 2.001*last || b > 2.001*last*800 {
				t.Errorf("day %d: from %v to %v packets/s, %v bit/s", d, last, p, b)
			}
			grew = grew || p > 1.5*last
			last = p
		}
		if !grew || last > 16.01*first {
			t.Errorf("from %v to %v in four days", first, last)
		}
	}
}

// A class that is seen for the first time has the limit of the busiest one.
func TestNewClassIsBounded(t *testing.T) {
	l := New(Options{})
	k := keys[0]
	end := feed(l, k, monday, 5*day, grain, steady(10_000)) // Monday to Friday
	feed(l, k, end, 2*day, grain, steady(1e6))              // an unnoticed attack of a weekend
	p, _, ok := l.Normal(end.Add(36*time.Hour), k.Target, k.Direction, k.Vector)
	if !ok || p > 1.05*4*10_000 {
		t.Errorf("%v after two days (%t)", p, ok)
	}
}

// What was idle may begin to serve.
func TestSmallRatesRiseFreely(t *testing.T) {
	l := New(Options{})
	end := feed(l, keys[0], monday, 7*day, grain, steady(0.2))
	feed(l, keys[0], end, 12*time.Hour, grain, steady(900))
	wantNormal(t, l, end.Add(9*time.Hour), keys[0], 900)
}

func TestForgetting(t *testing.T) {
	k := keys[0]
	for _, half := range []time.Duration{7 * day, 14 * day} {
		l := New(Options{HalfLife: half, Quantile: 0.5})
		// When so much is left of four weeks at one level as came of the other: (1-2^(-28/h))·2^(-t/h) = 1-2^(-t/h).
		end := feed(l, k, monday, 28*day, time.Minute, steady(8000))
		at := end
		var passed float64
		for d := 1; d < 60; d++ {
			at = feed(l, k, at, day, time.Minute, steady(2000))
			if p, _, _ := l.Normal(at.Add(11*time.Hour), k.Target, k.Direction, k.Vector); p < 4000 {
				passed = float64(d)
				break
			}
		}
		h := half.Hours() / 24
		want := h * math.Log2(2-math.Exp2(-28/h))
		if math.Abs(passed-want) > 3 { // weekends come together
			t.Errorf("half-life %s: the median changed after %v days, want %.1f", half, passed, want)
		}
	}

	// With nothing observed the baseline goes, too: single grains as fast as many.
	l := New(Options{})
	end := feed(l, k, monday, 28*day, grain, steady(8000))
	for d, want := range map[int]bool{30: true, 250: false} {
		if _, _, ok := l.Normal(end.Add(time.Duration(d)*day+11*time.Hour), k.Target, k.Direction, k.Vector); ok != want {
			t.Errorf("%d days later: known %t", d, ok)
		}
	}
	var c class
	c.add(pps, 100)
	for range 70 {
		c.fade(l.decay[1])
	}
	if c.weight() != 0 || c.top[pps] != 0 {
		t.Errorf("a grain weighs %d after five half-lives", c.weight())
	}
}

// fade loses no more weight than it is told to.
func TestFadeKeepsTheSum(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	var c class
	for range 5000 {
		c.add(pps, uint8(100+rng.IntN(20)))
		c.add(bps, uint8(200+rng.IntN(3)))
	}
	want := float64(c.weight())
	for range 30 {
		c.fade(1 << 16 * 9 / 10)
		want = want * float64(1<<16*9/10) / (1 << 16)
	}
	if got := float64(c.weight()); math.Abs(got-want) > 30 {
		t.Errorf("%v, want %v", got, want)
	}
}

// A full bucket halves both histograms, and the quantiles stay.
func TestFullBucket(t *testing.T) {
	var c class
	for i := range 100_000 {
		code := uint8(100)
		if i%20 == 0 {
			code = 105
		}
		c.add(pps, code)
		c.add(bps, 50)
		if i%1000 == 999 {
			if got := c.quantile(pps, 1<<20/100); got != 105 {
				t.Fatalf("after %d: %d", i, got)
			}
			if got := c.quantile(pps, 1<<20/10); got != 100 {
				t.Fatalf("after %d: %d", i, got)
			}
		}
	}
}

func TestEviction(t *testing.T) {
	l := New(Options{MaxKeys: 64})
	key := func(i int) Key {
		return Key{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), vector.Inbound, vector.Total}
	}
	for i := range 64 {
		feed(l, key(i), monday, 25*time.Hour, time.Minute, steady(5000))
	}
	now := monday.Add(25 * time.Hour)
	// A scan of the whole network does not move what is learnt.
	for i := 1000; i < 50_000; i++ {
		l.Observe(now, key(i), 0.5, 300, false)
	}
	kept, evicted := l.Keys()
	if kept != 64 || evicted != 49_000 {
		t.Errorf("%d kept, %d evicted", kept, evicted)
	}
	for i := range 64 {
		if _, _, ok := l.Normal(now, key(i).Target, vector.Inbound, vector.Total); !ok {
			t.Fatalf("key %d is gone", i)
		}
	}
	// Nor do as busy ones that come while the old ones sleep for the night.
	for i := range 64 {
		l.Observe(now.Add(12*time.Hour), key(200+i), 5000, 4e6, false)
	}
	for i := range 64 {
		if _, ok := l.find(now, key(i)); !ok {
			t.Fatalf("key %d did not outlive a night", i)
		}
	}
	// Three weeks later, when nobody speaks of the old ones, new ones take their place.
	later := now.Add(21 * day)
	for i := range 64 {
		l.Observe(later, key(100+i), 5000, 4e6, false)
	}
	gone := 0
	for i := range 64 {
		if _, ok := l.find(later, key(i)); !ok {
			gone++
		}
	}
	if gone != 64 {
		t.Errorf("%d of 64 old keys made room", gone)
	}
	if l.hours.len() != 64*12+64 && len(l.free) == 0 {
		t.Errorf("%d classes, %d free", l.hours.len(), len(l.free))
	}
	// An attack makes no key.
	l = New(Options{})
	l.Observe(now, key(1), 1e6, 1e9, true)
	if kept, _ := l.Keys(); kept != 0 {
		t.Errorf("%d keys after an attack", kept)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	if got := [2]uintptr{unsafe.Sizeof(entry{}), unsafe.Sizeof(class{})}; got != [2]uintptr{entrySize, classSize} {
		t.Fatalf("sizes %v", got)
	}
	const n = 4096
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	l := New(Options{MaxKeys: n})
	for h := range 7 * 12 { // all classes
		for i := range 2 * n {
			at := monday.Add(time.Duration(2*h) * time.Hour)
			l.Observe(at, Key{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32), vector.Inbound, vector.Total}, 100, 1e6, false)
		}
	}
	real := heap() - before
	if b := l.Bytes(); b > n*2560 || math.Abs(float64(b)/float64(real)-1) > 0.1 {
		t.Errorf("%d octets by our count, %d by the runtime's: %d for each key", b, real, b/n)
	}
	t.Logf("%d octets for each key seen in all classes", real/n)
	runtime.KeepAlive(l)
}

// The order in which keys are observed, and how often within a grain, does not matter.
func TestSameObservationsSameSnapshot(t *testing.T) {
	run := func(shuffle *rand.Rand) []byte {
		l := New(Options{})
		rng := rand.New(rand.NewPCG(8, 9))
		for at := monday; at.Before(monday.Add(3 * day)); at = at.Add(5 * time.Minute) {
			type observation struct {
				k    Key
				rate float64
				late time.Duration
			}
			var all []observation
			for _, k := range keys {
				for i := range 3 {
					all = append(all, observation{k, rng.ExpFloat64() * 1e4, time.Duration(i) * time.Second})
				}
			}
			shuffle.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			for _, o := range all {
				l.Observe(at.Add(o.late), o.k, o.rate, o.rate*800, false)
			}
		}
		return snapshot(t, l)
	}
	want := run(rand.New(rand.NewPCG(1, 1)))
	for seed := range uint64(4) {
		if got := run(rand.New(rand.NewPCG(seed, 2))); !bytes.Equal(got, want) {
			t.Fatal("the snapshots differ")
		}
	}
}

func snapshot(t testing.TB, l *Learner) []byte {
	t.Helper()
	b, err := l.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func learnt(t testing.TB) *Learner {
	rng := rand.New(rand.NewPCG(1, 1))
	l := New(Options{})
	for _, k := range keys {
		feed(l, k, monday, 9*day, time.Minute, func(time.Time) float64 { return 3000 * math.Exp(rng.NormFloat64()) })
	}
	return l
}

func TestSnapshotSurvivesARestart(t *testing.T) {
	l := learnt(t)
	b := snapshot(t, l)
	prefixed, _ := l.AppendBinary([]byte("before"))
	if !bytes.Equal(prefixed, append([]byte("before"), b...)) {
		t.Error("appending is not appending")
	}
	again := New(Options{})
	if err := again.Load(b); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshot(t, again), b) {
		t.Error("a snapshot of the loaded one differs")
	}
	now := monday.Add(9*day + 5*time.Hour)
	for _, k := range keys {
		p, bits, ok := l.Normal(now, k.Target, k.Direction, k.Vector)
		p2, bits2, ok2 := again.Normal(now, k.Target, k.Direction, k.Vector)
		if !ok || p != p2 || bits != bits2 || ok != ok2 {
			t.Errorf("%v: %v %v %t before, %v %v %t after", k, p, bits, ok, p2, bits2, ok2)
		}
	}
	// With room for fewer keys, it has fewer.
	small := New(Options{MaxKeys: 2})
	if err := small.Load(b); err != nil {
		t.Fatal(err)
	}
	if kept, evicted := small.Keys(); kept != 2 || evicted != 2 {
		t.Errorf("%d kept, %d evicted", kept, evicted)
	}
}

// Each octet that is changed, and each that is missing, is noticed, and what was learnt stays.
func TestDamagedSnapshot(t *testing.T) {
	l := learnt(t)
	b := snapshot(t, l)
	check := func(what string, damaged []byte) {
		t.Helper()
		err := l.Load(damaged)
		if err == nil || !strings.HasPrefix(err.Error(), "baseline: load a snapshot of ") {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for i := range b {
		check(fmt.Sprintf("octet %d changed", i), append(append(slices.Clone(b[:i]), b[i]^1), b[i+1:]...))
		check(fmt.Sprintf("cut at %d", i), b[:i])
	}
	check("something behind it", append(slices.Clone(b), 0))
	newer := slices.Clone(b)
	newer[len(magic)] = 2
	if err := l.Load(newer); err == nil || !strings.Contains(err.Error(), "version 2, and this program reads 1") {
		t.Error(err)
	}
	if !bytes.Equal(snapshot(t, l), b) {
		t.Error("something was lost")
	}
}

// seal gives a body the right checksum, so that the fuzzer gets past it.
func seal(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(slices.Clone(b), crc32.Checksum(b, castagnoli))
}

func FuzzLoad(f *testing.F) {
	b := snapshot(f, learnt(f))
	f.Add(b[:len(b)-4])
	small := New(Options{Ready: -1})
	feed(small, keys[1], monday, time.Hour, time.Minute, steady(5))
	b = snapshot(f, small)
	f.Add(b[:len(b)-4])
	b = snapshot(f, New(Options{}))
	f.Add(b[:len(b)-4])
	f.Add([]byte(magic + "\x01\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, body []byte) {
		b := seal(body)
		l := New(Options{})
		if err := l.Load(b); err != nil {
			if kept, _ := l.Keys(); kept != 0 {
				t.Fatal("something of a damaged snapshot stayed")
			}
			return
		}
		if !bytes.Equal(snapshot(t, l), b) {
			t.Fatal("the snapshot of a snapshot differs")
		}
		if kept, _ := l.Keys(); kept*leastKey > len(b) {
			t.Fatalf("%d keys in %d octets", kept, len(b))
		}
		for i := range l.keys.len() {
			k := l.keys.at(i).key.unpack()
			now := monday.Add(time.Duration(i) * time.Hour)
			l.Explain(now, k)
			l.Observe(now, k, 1e6, 1e9, i%2 == 0)
			if p, bits, ok := l.Normal(now.Add(time.Hour), k.Target, k.Direction, k.Vector); ok && (!(p > 0) || !(bits > 0)) {
				t.Fatalf("normal is %v and %v", p, bits)
			}
		}
	})
}

// FuzzObserve runs scripts of rates and pauses, clocks that are set back among them, and holds the learner to its promises.
func FuzzObserve(f *testing.F) {
	f.Add([]byte("a quick brown fox jumps over the lazy dog, again and again and again"))
	f.Add(bytes.Repeat([]byte{20, 100, 20, 200, 21, 250}, 40))
	f.Fuzz(func(t *testing.T, script []byte) {
		l := New(Options{MaxKeys: 3, Ready: time.Hour})
		now := monday
		for len(script) >= 3 {
			op, pause, rate := script[0], script[1], script[2]
			script = script[3:]
			k := keys[int(op)%len(keys)]
			step := time.Duration(1<<(pause%24)) * time.Second // up to 97 days
			if pause >= 250 {
				step = -step
			}
			now = now.Add(step)
			switch op >> 6 {
			case 0:
				l.Discard(now, k.Target, now.Add(-time.Minute))
			default:
				// Some minutes of it, for single grains are no baseline.
				for i := range int(op>>2) & 15 * 6 {
					l.Observe(now.Add(time.Duration(i)*grain), k, math.Exp2(float64(rate)/8), math.Exp2(float64(rate)/6), op>>6 == 1)
				}
			}
			if kept, _ := l.Keys(); kept > 3 {
				t.Fatalf("%d keys of 3", kept)
			}
			for i := range l.hours.len() {
				c := l.hours.at(i)
				for m := range c.counts {
					if (c.top[m] == 0) != (c.counts[m] == [buckets]uint16{}) || c.top[m] > 0 && c.counts[m][buckets-1] == 0 {
						t.Fatalf("class %d: top %d of %v", i, c.top[m], c.counts[m])
					}
					if got := c.quantile(m, l.tail); got > c.top[m] {
						t.Fatalf("class %d: quantile %d above %d", i, got, c.top[m])
					}
				}
			}
		}
		b := snapshot(t, l)
		again := New(Options{MaxKeys: 3, Ready: time.Hour})
		if err := again.Load(b); err != nil || !bytes.Equal(snapshot(t, again), b) {
			t.Fatalf("round trip: %v", err)
		}
	})
}

func TestNothingIsAllocated(t *testing.T) {
	l := learnt(t)
	at := monday.Add(9 * day)
	if n := testing.AllocsPerRun(5000, func() {
		at = at.Add(time.Second)
		l.Observe(at, keys[0], 1000, 8e5, false)
		l.Normal(at, keys[0].Target, keys[0].Direction, keys[0].Vector)
	}); n != 0 {
		t.Errorf("%v allocations for each observation", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, n := range []int{100, 50_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			l := New(Options{})
			ks := make([]Key, n)
			for i := range ks {
				ks[i] = Key{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), vector.Inbound, vector.Total}
				l.Observe(monday, ks[i], 100, 1e6, false)
			}
			b.ReportAllocs()
			now, i := monday, 0
			for b.Loop() {
				l.Observe(now, ks[i], float64(100+i%7), 1e6, false)
				if i++; i == n {
					i, now = 0, now.Add(time.Second)
				}
			}
		})
	}
}

func BenchmarkNormal(b *testing.B) {
	l := learnt(b)
	now := monday.Add(9*day + 5*time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		l.Normal(now, keys[0].Target, keys[0].Direction, keys[0].Vector)
	}
}

func BenchmarkSnapshot(b *testing.B) {
	l := New(Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	const n = 2000
	for i := range n {
		k := Key{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32), vector.Inbound, vector.Total}
		feed(l, k, monday, 7*day, 5*time.Minute, func(time.Time) float64 { return 3000 * math.Exp(rng.NormFloat64()/2) })
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = l.AppendBinary(buf[:0])
	}
	b.ReportMetric(float64(len(buf))/n, "octets/key")
	b.ReportMetric(float64(l.Bytes())/n, "heap-octets/key")
}
