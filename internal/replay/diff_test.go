package replay

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// The same journal under two policies: what differs is told, and nothing else.
func TestCompareOfAJournal(t *testing.T) {
	dir, _ := keep(t, attack())
	under := func(text string) *Result {
		t.Helper()
		p, err := policy.Parse("policy.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		r, _, err := Journal(context.Background(), Options{Policy: p}, opened(dir))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const strict = "version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps}]\n"
	limits := under(strict + "responses: [{vectors: all, action: rate-limit 1 Mbps}]\n")
	for _, tc := range []struct {
		says, text string
		differs    []string
		same       int
		routes     int
	}{
		{"the same", strict + "responses: [{vectors: all, action: rate-limit 1 Mbps, ttl: 1m}]\n", nil, 1, 1},
		{"another action", strict + "responses: [{vectors: all, action: discard}]\n", []string{"action", "routes"}, 0, 1},
		{"observed", strict + "responses: [{vectors: all, action: observe}]\n", []string{"action", "routes"}, 0, 0},
		{"when holds", strict + "responses: [{vectors: all, when: incident.pps > 30e3, action: rate-limit 1 Mbps}]\n", nil, 1, 1},
		{"when does not", strict + "responses: [{vectors: all, when: incident.pps > 80e3, action: rate-limit 1 Mbps}]\n", []string{"action", "routes"}, 0, 0},
		{"a ladder", strict + "responses: [{vectors: all, ladder: [{action: rate-limit 1 Mbps}, {action: discard, if: evidence.reduction < 0.5}]}]\n", []string{"action"}, 0, 1},
		{"a cap", strict + "responses: [{vectors: all, ladder: [{action: rate-limit 1 Mbps, max_collateral: 0%}]}]\n", []string{"action", "routes"}, 0, 0},
		{"later", "version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps, windows: 30}]\nresponses: [{vectors: all, action: rate-limit 1 Mbps}]\n", []string{"decided"}, 0, 1},
	} {
		r := under(tc.text)
		changes, same := Compare(limits, r)
		var differs []string
		for _, c := range changes {
			differs = append(differs, c.Differs...)
		}
		if !slices.Equal(differs, tc.differs) || same != tc.same || len(r.Incidents) != 1 || len(r.Incidents[0].Routes) != tc.routes {
			t.Errorf("%s: differs %q, same %d, %+v", tc.says, differs, same, r.Incidents)
		}
	}
	none := under("version: 1\nthresholds: [{vectors: all-reflection, pps: 1 Mpps}]\nresponses: [{vectors: all, action: observe}]\n")
	if c, same := Compare(limits, none); len(c) != 1 || c[0].New != nil || c[0].Old == nil || same != 0 {
		t.Errorf("only the old one: %+v", c)
	}
	if c, same := Compare(none, limits); len(c) != 1 || c[0].Old != nil || c[0].New == nil || same != 0 {
		t.Errorf("only the new one: %+v", c)
	}
}

func TestComparePairsWhatOverlaps(t *testing.T) {
	at := func(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }
	inc := func(host string, d vector.Direction, from, to int) Incident {
		i := Incident{Incident: detect.Incident{Target: netip.MustParsePrefix(host + "/32"), Direction: d, Onset: at(from), Decided: at(from)}}
		if to > 0 {
			i.Ended = at(to)
		}
		return i
	}
	before := &Result{Incidents: []Incident{
		inc("192.0.2.1", vector.Inbound, 0, 10), inc("192.0.2.1", vector.Inbound, 20, 30), inc("192.0.2.1", vector.Outbound, 20, 30), inc("192.0.2.2", vector.Inbound, 50, 0),
	}}
	after := &Result{Incidents: []Incident{
		inc("192.0.2.1", vector.Inbound, 20, 29), inc("192.0.2.1", vector.Inbound, 2, 5), inc("192.0.2.2", vector.Inbound, 60, 0), inc("192.0.2.3", vector.Inbound, 1, 2),
	}}
	changes, same := Compare(before, after)
	var got []string
	for _, c := range changes {
		switch {
		case c.New == nil:
			got = append(got, "- "+c.Old.Target.String()+" "+c.Old.Direction.String())
		case c.Old == nil:
			got = append(got, "+ "+c.New.Target.String())
		default:
			got = append(got, "~ "+c.Old.Target.String())
		}
	}
	want := []string{"~ 192.0.2.1/32", "+ 192.0.2.3/32", "- 192.0.2.1/32 outbound", "~ 192.0.2.2/32"}
	if same != 1 || !slices.Equal(got, want) {
		t.Errorf("%d the same, %q", same, got)
	}
}
