package detect

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// reportsOf is what sensors report of one window: hosts and networks, in both directions, some of it an attack.
func reportsOf(rng *rand.Rand, start time.Time, sensors int) (out []traffic.Report) {
	wide := netip.MustParsePrefix("192.0.2.0/24")
	vectors := []vector.ID{vector.DNS, vector.SYN, vector.SYNACK, vector.UDPOther, vector.ACK}
	for i := range sensors {
		r := traffic.Report{
			Sensor: fmt.Sprintf("rack%d", i), Cause: traffic.Cause(1 + 2*rng.IntN(2)), Start: start, Span: 100 * time.Millisecond, Outbound: rng.IntN(4) > 0,
		}
		for range 1 + rng.IntN(6) {
			host := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(4))}), 32)
			n := uint64(rng.IntN(20_000))
			r.Aggregates = append(r.Aggregates, traffic.Aggregate{
				Target: host, Direction: vector.Direction(rng.IntN(2)), Vector: vectors[rng.IntN(len(vectors))], Packets: n, Bytes: n * uint64(40+rng.IntN(1000)),
			})
		}
		if r.Cause == traffic.Interval {
			n := uint64(rng.IntN(20_000))
			r.Networks = []traffic.NetworkTotal{{Network: wide, Vector: vector.DNS, Packets: n, Bytes: n * 400, ActiveHosts: uint32(rng.IntN(20))}}
		}
		out = append(out, r)
	}
	return out
}

// outcome is everything that the detector says, octet by octet.
func outcome(windows [][]traffic.Report, order func(window, n int) []int) string {
	view := traffic.NewView(traffic.Options{MaxTargets: 1000, StaleAfter: 3 * time.Second, ForgetAfter: time.Minute})
	d := New(fullRules, nil)
	var b strings.Builder
	for w, reports := range windows {
		now := t0.Add(time.Duration(w+1) * 300 * time.Millisecond)
		for _, i := range order(w, len(reports)) {
			view.Take(now, reports[i])
		}
		for _, o := range view.Collect(now, d.Wants) {
			for _, ev := range d.Observe(now, o) {
				fmt.Fprintf(&b, "%+v\n", ev)
			}
		}
		for _, ev := range d.Tick(now) {
			fmt.Fprintf(&b, "%+v\n", ev)
		}
	}
	fmt.Fprintf(&b, "%+v\n", d.Incidents())
	return b.String()
}

// The order in which the sensors' reports of one window arrive decides nothing.
func TestOrderOfArrivalDecidesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 11))
	incidents := 0
	for range 60 {
		var windows [][]traffic.Report
		for w := range 12 {
			windows = append(windows, reportsOf(rng, t0.Add(time.Duration(w)*300*time.Millisecond), 8))
		}
		inOrder := func(_, n int) (out []int) {
			for i := range n {
				out = append(out, i)
			}
			return out
		}
		want := outcome(windows, inOrder)
		incidents += strings.Count(want, "Kind:incident_onset")
		for range 4 {
			if got := outcome(windows, func(_, n int) []int { return rng.Perm(n) }); got != want {
				t.Fatalf("in another order:\n%s\ninstead of:\n%s", got, want)
			}
		}
	}
	if incidents < 100 {
		t.Errorf("only %d incidents: the test tests little", incidents)
	}
}
