package policy

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/cel-go/common/types/ref"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const conditional = `version: 1
thresholds: [{vectors: all, pps: 20 kpps}]
responses:
  - {vectors: syn, when: incident.pps >= 1e6 && incident.sensors > 1, action: discard}
  - {vectors: syn, when: incident.collateral < 0.05, action: rate-limit 1 Mbps}
  - {vectors: syn, when: 'incident.duration > duration("10m") || incident.spoofed', action: rate-limit 2 Mbps}
  - {vectors: syn, when: 1 / incident.hosts == 1, action: notify}
  - {vectors: [syn, ack], when: target.group == "games" && incident.vector == "ack", action: rate-limit 3 Mbps}
  - {vectors: all, action: observe}
groups:
  games: {prefixes: [198.51.100.0/24, 2001:db8:9::/48]}
exceptions:
  - {prefixes: 0.0.0.0/0, reason: nights are quiet, when: 'now.hour < 6 && now.weekday == "sunday"'}
  - {prefixes: 192.0.2.9, reason: backups, when: incident.pps < 1e5}
  - {prefixes: 192.0.2.8, reason: cannot be computed, when: incident.hosts / (incident.sensors - incident.sensors) == 1}
`

func TestWhen(t *testing.T) {
	p, err := Parse("conditional", []byte(conditional))
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) // a Sunday
	night := time.Date(2026, 11, 22, 5, 59, 0, 0, time.UTC)
	m := Incident{Measured: true, Collateral: -1, Hosts: 2, Test: "limit", PPS: 500_000}
	for _, tc := range []struct {
		says     string
		target   string
		v        vector.ID
		change   func(*Incident)
		now      time.Time
		does     string
		problems int
	}{
		{"nothing is known", "192.0.2.1", vector.SYN, func(i *Incident) { i.Measured = false }, day, "observe", 0},
		{"none holds", "192.0.2.1", vector.SYN, func(*Incident) {}, day, "observe", 0},
		{"a strong one", "192.0.2.1", vector.SYN, func(i *Incident) { i.PPS, i.Sensors = 2e6, 2 }, day, "discard", 0},
		{"one sensor", "192.0.2.1", vector.SYN, func(i *Incident) { i.PPS, i.Sensors = 2e6, 1 }, day, "observe", 0},
		{"little collateral", "2001:db8::1", vector.SYN, func(i *Incident) { i.Collateral = 0.01 }, day, "rate-limit 1 Mbps", 0},
		{"much collateral", "2001:db8::1", vector.SYN, func(i *Incident) { i.Collateral = 0.5 }, day, "observe", 0},
		{"long", "192.0.2.1", vector.SYN, func(i *Incident) { i.Duration = time.Hour }, day, "rate-limit 2 Mbps", 0},
		{"spoofed", "192.0.2.1", vector.SYN, func(i *Incident) { i.Test = "spoofed" }, day, "rate-limit 2 Mbps", 0},
		{"one host", "192.0.2.1", vector.SYN, func(i *Incident) { i.Hosts = 1 }, day, "notify", 0},
		{"a division by zero passes the response over", "192.0.2.1", vector.SYN, func(i *Incident) { i.Hosts = 0 }, day, "observe", 1},
		{"group and vector", "198.51.100.7", vector.ACK, func(*Incident) {}, day, "rate-limit 3 Mbps", 0},
		{"group and vector", "2001:db8:9::7", vector.ACK, func(i *Incident) { i.Measured = false }, day, "rate-limit 3 Mbps", 0},
		{"another group", "192.0.2.7", vector.ACK, func(*Incident) {}, day, "observe", 0},
		{"night", "192.0.2.1", vector.SYN, func(i *Incident) { i.PPS, i.Sensors = 2e6, 2 }, night, "exception", 0},
		{"another night", "192.0.2.1", vector.SYN, func(i *Incident) { i.PPS, i.Sensors = 2e6, 2 }, night.AddDate(0, 0, 1), "discard", 0},
		{"another zone", "192.0.2.1", vector.SYN, func(i *Incident) { i.PPS, i.Sensors = 2e6, 2 }, night.In(time.FixedZone("east", 9*3600)), "exception", 0},
		{"not night for IPv6", "2001:db8::1", vector.SYN, func(i *Incident) { i.PPS, i.Sensors = 2e6, 2 }, night, "discard", 0},
		{"an exception that holds", "192.0.2.9", vector.SYN, func(i *Incident) { i.PPS, i.Hosts = 5e4, 1 }, day, "exception", 0},
		{"an exception that does not", "192.0.2.9", vector.SYN, func(i *Incident) { i.PPS, i.Hosts = 5e5, 1 }, day, "notify", 0},
		{"an exception of which is not known whether", "192.0.2.9", vector.SYN, func(i *Incident) { i.Measured = false }, day, "exception", 0},
		{"an exception that cannot be computed", "192.0.2.8", vector.SYN, func(*Incident) {}, day, "exception", 1},
		{"NaN passes every response over", "2001:db8::1", vector.SYN, func(i *Incident) { i.PPS, i.Sensors, i.Test = math.NaN(), 2, "spoofed" }, day, "observe", 5},
		{"NaN leaves an exception", "192.0.2.1", vector.SYN, func(i *Incident) { i.PPS, i.Sensors = math.NaN(), 2 }, day, "exception", 1},
	} {
		inc := m
		inc.Target, inc.Vector = pfx(tc.target), tc.v
		tc.change(&inc)
		r := p.Answer(inc, tc.now)
		does := r.Steps[0].Does()
		if strings.HasPrefix(r.Reason, "exception") {
			does = "exception"
		}
		if does != tc.does || len(r.Problems) != tc.problems || len(r.Steps) != 1 {
			t.Errorf("%s: %s, problems %q: %s; want %s", tc.says, does, r.Problems, r.Reason, tc.does)
		}
		for _, problem := range r.Problems {
			if !strings.Contains(problem, "].when: ") {
				t.Errorf("%s: a problem without its place: %s", tc.says, problem)
			}
		}
	}
}

// Every name of the language has a value when everything is known, of the type it is declared with.
func TestEveryNameHasAValue(t *testing.T) {
	q := &question{Incident: Incident{Target: pfx("192.0.2.1"), Vector: vector.SYN, Measured: true}, group: "default", now: now}
	e := Evidence{Measured: true}
	for _, x := range []struct {
		names []name
		vars  variables
	}{{incidentNames, q.variable}, {evidenceNames, e.variable}} {
		l := newLanguage(x.names)
		for _, n := range x.names {
			p, err := l.predicate(n.name + " == " + n.name)
			if err != nil {
				t.Fatal(err)
			}
			if holds, known, err := p.eval(x.vars); !holds || !known || err != nil {
				t.Errorf("%s: %v, %v, %v", n.name, holds, known, err)
			}
			if v, ok := x.vars(n.name); !ok || v.(ref.Val).Type().TypeName() != n.typ.TypeName() {
				t.Errorf("%s is %v of %T, declared %s", n.name, v, v, n.typ)
			}
		}
		if _, ok := x.vars("nothing"); ok {
			t.Error("a name that is not declared has a value")
		}
	}
}

func BenchmarkAnswerWithConditions(b *testing.B) {
	p, err := Parse("conditional", []byte(conditional))
	if err != nil {
		b.Fatal(err)
	}
	inc := Incident{Target: pfx("198.51.100.1"), Vector: vector.SYN, Measured: true, PPS: 1e5, Sensors: 1, Hosts: 1, Collateral: 0.2, Test: "limit"}
	b.ReportAllocs()
	for b.Loop() {
		p.Answer(inc, now)
	}
}
