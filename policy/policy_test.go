package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

var update = flag.Bool("update", false, "rewrite the golden files and the table of docs/policy.md")

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func pfx(s string) netip.Prefix {
	p, err := route.ParsePrefix(s)
	if err != nil {
		panic(err)
	}
	return p
}

// TestGolden reads testdata/*.yaml and compares the problems, or every vector at an ordinary target, with what was
// reviewed.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata/*.yaml: %v", err)
	}
	files = append(slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, TestSuffix) }), "default.yaml")
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			if p, err := Parse(filepath.Base(file), text); err != nil {
				got.WriteString(err.Error() + "\n")
			} else {
				for _, v := range vector.All() {
					got.WriteString(v.Name + ": " + p.Explain(pfx("203.0.113.1"), v.ID, now) + "\n")
				}
			}
			golden := filepath.Join("testdata", strings.TrimSuffix(filepath.Base(file), ".yaml")+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v (go test -update writes it)", err)
			}
			if d := cmp.Diff(string(want), got.String()); d != "" {
				t.Errorf("-reviewed +now (go test -update accepts it):\n%s", d)
			}
		})
	}
}

func TestDefaultPolicy(t *testing.T) {
	p := Default()
	for _, target := range []string{"192.0.2.1", "2001:db8::1"} {
		for _, v := range vector.Reflections() {
			pps, windows := 20_000.0, 1
			if v.Carries {
				pps, windows = 200_000, 15
			}
			if l := p.Limits(pfx(target), v.ID); l.PPS != pps || l.BPS == 0 || l.Windows != windows || l.EndBelow != 0.7 || l.EndAfter != 10*time.Second {
				t.Errorf("%s at %s: %+v", v.Name, target, l)
			}
		}
		if l := p.Limits(pfx(target), vector.SYN); l.PPS != 20_000 || l.Windows != 1 {
			t.Errorf("syn at %s: %+v", target, l)
		}
		for _, v := range []vector.ID{vector.NTP, vector.SYN} {
			got := p.Answer(Incident{Target: pfx(target), Vector: v}, now)
			if !strings.Contains(got.Reason, "responses[") || !strings.Contains(got.Reason, v.String()) {
				t.Errorf("reason %q", got.Reason)
			}
			want := Step{
				Name: "rate-limit 1 Mbps", Path: got.Path, Action: route.Action{Kind: route.RateBytes, Rate: 125_000}, MaxCollateral: -1,
				TTL: 10 * time.Minute, Extend: 5 * time.Minute, MaxAge: 24 * time.Hour,
			}
			if got.Observe || got.Action != want.Action || !reflect.DeepEqual(got.Steps, []Step{want}) {
				t.Errorf("%s at %s: %+v", v, target, got)
			}
		}
		for _, v := range []vector.ID{vector.Total, vector.UDPOther, vector.ACK, vector.GRE, vector.OtherProto, vector.Malformed, vector.TCPOther, vector.IKE, vector.DNSQuery, vector.ESP} {
			if r := p.Answer(Incident{Target: pfx(target), Vector: v}, now); !r.Observe || r.Action != (route.Action{}) {
				t.Errorf("%s at %s has no safe match and yet: %+v", v, target, r)
			}
		}
	}
	for _, v := range vector.All() {
		l := p.Limits(pfx("192.0.2.1"), v.ID)
		want := l
		if l.Windows > 1 && l.Unanswered > 0 { // but where one window is enough the limit that counts is told at once
			want.PPS = min(l.PPS, l.Unanswered)
		}
		if got := p.Triggers(vector.Inbound)[v.ID]; got != want && l.PPS+l.BPS > 0 {
			t.Errorf("%s: without groups the trigger is the limit %+v, not %+v", v.Name, want, got)
		}
	}
	text, err := os.ReadFile("default.yaml")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	if p.Hash() != hex.EncodeToString(sum[:]) || p.Text() != string(text) || p.Source() != "built-in default" {
		t.Errorf("hash %s, source %q", p.Hash(), p.Source())
	}
}

// The lines that stand commented out in the default are policy too: with the marks taken away the file must still be
// valid and mean what the comments say.
func TestCommentedOutPartsOfTheDefaultWork(t *testing.T) {
	text := string(defaultText)
	text = strings.Replace(text, "groups: {}", "groups:", 1)
	text = strings.Replace(text, "exceptions: []", "exceptions:", 1)
	lines := strings.Split(text, "\n")
	section := ""
	for i, l := range lines {
		if l != "" && l[0] != '#' && l[0] != ' ' {
			section = l
		}
		switch {
		case strings.HasPrefix(l, "#  ") && (section == "groups:" || section == "exceptions:"):
			lines[i] = " " + l[1:]
		case strings.HasPrefix(l, "  # - ") || strings.HasPrefix(l, "  #   "):
			lines[i] = "  " + l[4:]
		}
	}
	p, err := Parse("default with everything", []byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Answer(Incident{Target: pfx("203.0.113.1"), Vector: vector.Total}, now); r.Action.Kind != route.Blackhole || r.TTL != 30*time.Minute || r.MaxAge != 6*time.Hour {
		t.Errorf("total: %+v", r)
	}
	for _, resolver := range []string{"192.0.2.53", "2001:db8::53"} {
		if g, l := p.Group(pfx(resolver)), p.Limits(pfx(resolver), vector.DNS); g != "resolvers" || l.PPS != 300_000 || l.Windows != 15 {
			t.Errorf("%s: group %s, %+v", resolver, g, l)
		}
	}
	if r := p.Answer(Incident{Target: pfx("198.51.100.9"), Vector: vector.NTP}, now); !r.Observe || !strings.Contains(r.Reason, "load test") {
		t.Errorf("exception: %+v", r)
	}
}

const nested = `
version: 1
thresholds:
- {vectors: all-tcp, pps: 100 kpps, bps: 1 Gbps, windows: 3}
- {vectors: syn, pps: 20 kpps}
responses:
- {vectors: syn, action: rate-limit 2 kpps}
- {vectors: all-tcp, action: discard, ttl: 1m, extend: 0s, max_age: 2m}
groups:
  inner:
    prefixes: [10.1.2.0/24, 2001:db8:1:2::/64, 10.9.9.9]
    thresholds:
    - {vectors: all-tcp, windows: 1}
    - {vectors: syn, bps: none}
    responses:
    - {vectors: [rst, syn], action: blackhole}
  outer:
    prefixes: [10.1.0.0/16, 2001:db8:1::/48]
    thresholds:
    - {vectors: [syn, udp-other], pps: 5 kpps, end_below: 50%, end_after: 1m}
    responses:
    - {vectors: ack, action: observe}
exceptions:
- {prefixes: [10.1.3.0/24, 2001:db8:1:3::/64], reason: migration, until: 2026-11-22T12:00:00Z}
`

func TestInheritance(t *testing.T) {
	p, err := Parse("nested", []byte(nested))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		target, v string
		now       time.Time
		want      string
	}{
		{"192.0.2.1", "syn", now, "group default, 20 kpps or 1 Gbps for 3 windows, over after 10s below 70%; responses[0]: syn is answered with rate-limit 2 kpps, for 10m, extended by 5m, at most 24h"},
		{"2001:db8:2::1", "rst", now, "group default, 100 kpps or 1 Gbps for 3 windows, over after 10s below 70%; responses[1]: rst is answered with discard, for 1m, extended by 0s, at most 2m"},
		{"192.0.2.1", "icmp", now, "group default, no limit; no response names icmp: only observed"},
		{"10.1.9.1", "syn", now, "group outer, 5 kpps or 1 Gbps for 3 windows, over after 1m below 50%; responses[0]: syn is answered with rate-limit 2 kpps, for 10m, extended by 5m, at most 24h"},
		{"10.1.9.1", "ack", now, "group outer, 100 kpps or 1 Gbps for 3 windows, over after 10s below 70%; groups.outer.responses[0]: ack is only observed"},
		{"10.1.9.1", "udp-other", now, "group outer, 5 kpps for 1 window, over after 1m below 50%; no response names udp-other: only observed"},
		{"10.1.2.1", "syn", now, "group inner, 5 kpps for 1 window, over after 1m below 50%; groups.inner.responses[0]: syn is answered with blackhole, for 10m, extended by 5m, at most 24h"},
		{"2001:db8:1:2::1", "syn", now, "group inner, 5 kpps for 1 window, over after 1m below 50%; groups.inner.responses[0]: syn is answered with blackhole, for 10m, extended by 5m, at most 24h"},
		{"10.1.2.1", "ack", now, "group inner, 100 kpps or 1 Gbps for 1 window, over after 10s below 70%; groups.outer.responses[0]: ack is only observed"},
		{"10.9.9.9", "syn", now, "group inner, 20 kpps for 1 window, over after 10s below 70%; groups.inner.responses[0]: syn is answered with blackhole, for 10m, extended by 5m, at most 24h"},
		{"10.9.9.9", "ack", now, "group inner, 100 kpps or 1 Gbps for 1 window, over after 10s below 70%; responses[1]: ack is answered with discard, for 1m, extended by 0s, at most 2m"},
		// A network belongs to the group that holds all of it, and is never blackholed.
		{"10.1.2.0/25", "syn", now, "group inner, 5 kpps for 1 window, over after 1m below 50%; groups.inner.responses[0]: syn is answered with blackhole, but 10.1.2.0/25 is a network and a policy answers for hosts only: only observed"},
		{"10.1.2.0/23", "rst", now, "group outer, 100 kpps or 1 Gbps for 3 windows, over after 10s below 70%; exception 10.1.3.0/24: migration: only observed until 2026-11-22T12:00:00Z"},
		{"10.0.0.0/8", "syn", now, "group default, 20 kpps or 1 Gbps for 3 windows, over after 10s below 70%; exception 10.1.3.0/24: migration: only observed until 2026-11-22T12:00:00Z"},
		// An exception ends.
		{"2001:db8:1:3::7", "syn", now, "group outer, 5 kpps or 1 Gbps for 3 windows, over after 1m below 50%; exception 2001:db8:1:3::/64: migration: only observed until 2026-11-22T12:00:00Z"},
		{"2001:db8:1:3::7", "syn", now.Add(time.Second), "group outer, 5 kpps or 1 Gbps for 3 windows, over after 1m below 50%; responses[0]: syn is answered with rate-limit 2 kpps, for 10m, extended by 5m, at most 24h"},
	} {
		v, err := vector.Parse(tc.v)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Explain(pfx(tc.target), v, tc.now.Add(-time.Nanosecond)); got != tc.want {
			t.Errorf("%s %s\n got %s\nwant %s", tc.target, tc.v, got, tc.want)
		}
	}
	if got, want := p.Triggers(vector.Inbound)[vector.SYN], (Limits{PPS: 5000, BPS: 1e9, Windows: 1, UnansweredWindows: 6, ShareFrom: 2000, EndBelow: 0.5, EndAfter: 10 * time.Second}); got != want {
		t.Errorf("trigger of syn is %+v, want %+v", got, want)
	}
	if _, ok := p.Triggers(vector.Inbound)[vector.ICMP]; ok {
		t.Error("icmp has no limit anywhere, and yet a trigger")
	}
	if l, ok := p.Triggers(vector.Inbound)[vector.UDPOther]; !ok || l.PPS != 5000 {
		t.Error("udp-other has a limit in one group only, and no trigger")
	}
}

func TestFirstResponseThatNamesAVectorIsTaken(t *testing.T) {
	p, err := Parse("nested", []byte(nested))
	if err != nil {
		t.Fatal(err)
	}
	if r := p.Answer(Incident{Target: pfx("192.0.2.1"), Vector: vector.SYN}, now); r.Action != (route.Action{Kind: route.RatePackets, Rate: 2000}) {
		t.Errorf("syn: %+v", r)
	}
	for _, v := range []vector.ID{63, 255} {
		if r := p.Answer(Incident{Target: pfx("192.0.2.1"), Vector: v}, now); !r.Observe {
			t.Errorf("an unknown vector: %+v", r)
		}
	}
	if l := p.Limits(pfx("192.0.2.1"), 255); l != (Limits{}) {
		t.Errorf("an unknown vector: %+v", l)
	}
	if r := p.Answer(Incident{Target: netip.Prefix{}, Vector: vector.SYN}, now); !r.Observe {
		t.Errorf("the zero target is no host: %+v", r)
	}
}

func TestTriggersCannotBeChangedByTheCaller(t *testing.T) {
	p := Default()
	clear(p.Triggers(vector.Inbound))
	if len(p.Triggers(vector.Inbound)) == 0 {
		t.Error("a caller changed the policy")
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.yaml")
	if _, err := Load(path); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte(nested), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Load(path)
	if err != nil || p.Source() != path || p.Text() != nested {
		t.Errorf("%v, %+v", err, p)
	}
	if err := os.WriteFile(path, []byte("version: 1\nbanana: 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Load(path)
	var ps document.Problems
	if !errors.As(err, &ps) || ps[0].File != path {
		t.Errorf("got %v", err)
	}
}

const otherWays = `version: 1
thresholds: [{vectors: syn, pps: 20 kpps}, {vectors: dns-amplification, pps: 20 kpps, windows: 1}]
networks: [{vectors: syn, pps: 80 kpps}, {vectors: all-reflection, pps: 90 kpps, hosts: 4}]
outbound: [{vectors: syn, pps: 5 kpps, windows: 3}]
responses: [{vectors: all, action: observe}]
groups:
  quiet:
    prefixes: [10.1.0.0/16, 2001:db8:1::/48]
    networks: [{vectors: syn, pps: 8 kpps}]
    outbound: [{vectors: syn, pps: 1 kpps}]
`

// Networks and what leaves have limits of their own, which groups inherit and change like those of hosts.
func TestNetworksAndOutbound(t *testing.T) {
	p, err := Parse("x", []byte(otherWays))
	if err != nil {
		t.Fatal(err)
	}
	rules := p.Rules()
	for _, tc := range []struct {
		site           detect.Site
		v              vector.ID
		pps            float64
		windows, hosts int
	}{
		{detect.Site{Target: pfx("192.0.2.1")}, vector.SYN, 20e3, 1, 0},
		{detect.Site{Target: pfx("192.0.2.0/24"), Network: true}, vector.SYN, 80e3, 1, 16},
		{detect.Site{Target: pfx("2001:db8::/64"), Network: true}, vector.NTP, 90e3, 1, 4},
		{detect.Site{Target: pfx("10.1.2.0/24"), Network: true}, vector.SYN, 8e3, 1, 16},
		{detect.Site{Target: pfx("10.1.2.0/24"), Network: true}, vector.DNS, 90e3, 1, 4},
		{detect.Site{Target: pfx("192.0.2.1"), Direction: vector.Outbound}, vector.SYN, 5e3, 3, 0},
		{detect.Site{Target: pfx("2001:db8:1::1"), Direction: vector.Outbound}, vector.SYN, 1e3, 3, 0},
		{detect.Site{Target: pfx("192.0.2.1"), Direction: vector.Outbound}, vector.ACK, 0, 1, 0},
		{detect.Site{Target: pfx("192.0.2.0/24"), Direction: vector.Outbound, Network: true}, vector.SYN, 0, 0, 0},
	} {
		if l := rules.Limits(tc.site, tc.v); l.PPS != tc.pps || l.Windows != tc.windows || l.Hosts != tc.hosts {
			t.Errorf("%s at %+v: %+v, want %+v", tc.v, tc.site, l, tc)
		}
	}
	// Sensors are told the lowest of what leaves, and of questions whose answers one window makes an attack of.
	if got := p.Triggers(vector.Outbound); got[vector.SYN].PPS != 1e3 || got[vector.DNS].PPS != 10e3 || got[vector.NTP].PPS != 0 {
		t.Errorf("outbound triggers: %+v", got)
	}
}
