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

var (
	t0     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	victim = netip.MustParsePrefix("192.0.2.1/32")
)

type rules map[vector.ID]Limits

func (r rules) Limits(_ Site, v vector.ID) Limits { return r[v] }
func (r rules) Group(netip.Prefix) string         { return "default" }
func (r rules) Baseline() Baseline                { return Baseline{} }

var testRules = rules{
	vector.DNS:      {PPS: 20_000, Windows: 1, EndBelow: 0.7, EndAfter: 10 * time.Second},
	vector.SYN:      {PPS: 20_000, Windows: 1, EndBelow: 0.7, EndAfter: 10 * time.Second},
	vector.UDPOther: {BPS: 1e9, Windows: 6, EndBelow: 0.7, EndAfter: 10 * time.Second},
}

func obs(at time.Duration, v vector.ID, pps float64) traffic.Observation {
	return traffic.Observation{Target: victim, Vector: v, PPS: pps, BPS: pps * 8 * 500, Packets: uint64(pps / 10), Bytes: uint64(pps * 50), Start: t0.Add(at), Span: 100 * time.Millisecond, Sensors: []string{"rack1"}, SensorCount: 1}
}

// run feeds "SECONDS VECTOR PPS" lines and "SECONDS mask|unmask|tick|held PPS" and returns "SECONDS event" lines.
func run(t *testing.T, script string) string {
	t.Helper()
	d := New(testRules, nil)
	var out []string
	for line := range strings.Lines(script) {
		var sec, pps float64
		var word string
		if n, _ := fmt.Sscan(line, &sec, &word, &pps); n < 2 {
			continue
		}
		at := time.Duration(sec * float64(time.Second))
		now := t0.Add(at)
		var evs []Event
		switch word {
		case "mask", "unmask":
			d.Mask(now, victim, word == "mask")
		case "tick":
			evs = d.Tick(now)
		case "held":
			o := obs(at, vector.DNS, 0)
			o.HeldPPS = pps
			evs = d.Observe(now, o)
		default:
			v, err := vector.Parse(word)
			if err != nil {
				t.Fatal(err)
			}
			evs = d.Observe(now, obs(at, v, pps))
		}
		for _, e := range evs {
			if e.Kind == Continues {
				continue // TestContinues
			}
			out = append(out, fmt.Sprintf("%g %s %v", sec, e.Kind, e.Vectors))
		}
	}
	return strings.Join(out, "\n")
}

func TestDetector(t *testing.T) {
	for _, tc := range []struct{ name, script, want string }{
		{"one window suffices for a vector that says so", "0 dns-amplification 20000", "0 incident_onset [dns-amplification]"},
		{"below the limit is nothing", "0 dns-amplification 19999", ""},
		{"no limit is no incident", "0 ntp-amplification 1e9", ""},
		{"six windows at the limit need as many bits", "0 udp-other 300000\n0.1 udp-other 300000", "0.1 incident_onset [udp-other]"},
		{"a gap starts the count again", "0 udp-other 300000\n0.1 udp-other 1\n0.2 udp-other 300000", ""},
		{"a second vector joins the incident", "0 dns-amplification 30000\n1 syn 30000", "0 incident_onset [dns-amplification]\n1 incident_vector_added [syn]"},
		{"it ends after ten calm seconds", "0 dns-amplification 30000\n1 dns-amplification 0\n10.9 tick\n11 tick", "0 incident_onset [dns-amplification]\n11 incident_end [dns-amplification]"},
		{"between 70 % and 100 % it is not calm", "0 dns-amplification 30000\n1 dns-amplification 15000\n20 tick", "0 incident_onset [dns-amplification]"},
		{"a pulse inside the calm span goes on", "0 dns-amplification 30000\n1 dns-amplification 0\n9 dns-amplification 30000\n10 dns-amplification 0\n12 tick\n20 tick", "0 incident_onset [dns-amplification]\n20 incident_end [dns-amplification]"},
		{"it ends only when all vectors are calm", "0 dns-amplification 30000\n0 syn 30000\n1 syn 0\n12 tick\n13 dns-amplification 0\n23 tick", "0 incident_onset [dns-amplification]\n0 incident_vector_added [syn]\n23 incident_end [syn dns-amplification]"},
		{"what a mitigation hides is not calm", "0 dns-amplification 30000\n0 mask\n1 dns-amplification 0\n60 tick\n61 unmask\n70.9 tick\n71 tick", "0 incident_onset [dns-amplification]\n71 incident_end [dns-amplification]"},
		{"a silent sensor is not calm", "0 dns-amplification 30000\n1 held 30000\n60 tick\n61 dns-amplification 0\n71 tick", "0 incident_onset [dns-amplification]\n71 incident_end [dns-amplification]"},
		{"a re-attack is a new incident at once", "0 dns-amplification 30000\n1 dns-amplification 0\n11 tick\n11.1 dns-amplification 30000", "0 incident_onset [dns-amplification]\n11 incident_end [dns-amplification]\n11.1 incident_onset [dns-amplification]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := run(t, tc.script); got != tc.want {
				t.Errorf("got\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}

func TestContinues(t *testing.T) {
	d := New(testRules, nil)
	d.Observe(t0, obs(0, vector.DNS, 30_000))
	if evs := d.Observe(t0, obs(0, vector.DNS, 30_000)); len(evs) != 1 || evs[0].Kind != Continues {
		t.Errorf("an attack that goes on says nothing: %v", evs)
	}
	d.Mask(t0, victim, true)
	if evs := d.Observe(t0, obs(0, vector.DNS, 30_000)); len(evs) != 1 || evs[0].Kind != Continues {
		t.Errorf("an attack that goes on behind a mitigation says nothing: %v", evs)
	}
}

func TestReasonHasTheNumbers(t *testing.T) {
	d := New(testRules, nil)
	evs := d.Observe(t0.Add(time.Second), obs(0, vector.DNS, 100_000))
	inc := evs[0].Incident
	want := "dns-amplification at 192.0.2.1/32: at least 100000 packets/s, limit 20000, over 3 windows of 32 ms, seen by rack1"
	if inc.Reason != want {
		t.Errorf("reason = %q, want %q", inc.Reason, want)
	}
	if !inc.Onset.Equal(t0) || !inc.Decided.Equal(t0.Add(time.Second)) || inc.Group != "default" || len(inc.Sensors) != 1 {
		t.Errorf("incident = %+v", inc)
	}
}

// Whatever comes, incidents of one target begin and end in turn, and after long calm nothing is left.
func TestIncidentsAlternateAndEnd(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		d := New(testRules, nil)
		now, active := t0, false
		check := func(evs []Event) {
			for _, e := range evs {
				switch e.Kind {
				case Onset:
					if active {
						t.Fatalf("seed %d: onset while an incident is active", seed)
					}
					active = true
				case End, VectorAdded, Continues:
					if !active {
						t.Fatalf("seed %d: %s without an incident", seed, e.Kind)
					}
					active = e.Kind != End
				}
			}
		}
		for range 200 {
			now = now.Add(time.Duration(rng.Int64N(int64(3 * time.Second))))
			switch rng.IntN(5) {
			case 0:
				check(d.Tick(now))
			case 1:
				d.Mask(now, victim, rng.IntN(2) == 0)
			default:
				v := []vector.ID{vector.DNS, vector.SYN, vector.UDPOther}[rng.IntN(3)]
				check(d.Observe(now, obs(now.Sub(t0), v, rng.Float64()*600_000*float64(rng.IntN(2)))))
			}
		}
		d.Mask(now, victim, false)
		for _, v := range []vector.ID{vector.DNS, vector.SYN, vector.UDPOther} {
			check(d.Observe(now, obs(now.Sub(t0), v, 0)))
		}
		if at := d.Deadline(); active && !at.After(now) {
			t.Fatalf("seed %d: an active incident has no deadline", seed)
		}
		check(d.Tick(now.Add(time.Minute)))
		if active || len(d.sites) != 0 {
			t.Fatalf("seed %d: active=%v, %d targets kept after a calm minute", seed, active, len(d.sites))
		}
	}
}
