package policy

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// naive answers from the file as it is written, without anything computed beforehand.
type naive struct{ f *file }

// chain lists the groups that hold target, the broadest first.
func (n naive) chain(target netip.Prefix) []*group {
	type held struct {
		bits int
		g    *group
	}
	var hs []held
	for i := range n.f.groups {
		for _, p := range n.f.groups[i].prefixes {
			if p.Bits() <= target.Bits() && p.Contains(target.Addr()) {
				hs = append(hs, held{p.Bits(), &n.f.groups[i]})
			}
		}
	}
	slices.SortFunc(hs, func(a, b held) int { return cmp.Compare(a.bits, b.bits) })
	gs := make([]*group, len(hs))
	for i, h := range hs {
		gs[i] = h.g
	}
	return gs
}

func (n naive) limits(target netip.Prefix, v vector.ID) Limits {
	l := Limits{Windows: n.f.defaults.windows, UnansweredWindows: n.f.defaults.unansweredWindows, ShareFrom: n.f.defaults.shareFrom, EndBelow: n.f.defaults.endBelow, EndAfter: n.f.defaults.endAfter}
	lists := [][]threshold{n.f.thresholds}
	for _, g := range n.chain(target) {
		lists = append(lists, g.thresholds)
	}
	for _, ts := range lists {
		for _, word := range []string{allVectors, allReflection, allTCP, v.String()} {
			for _, t := range ts {
				for _, s := range t.vectors {
					if s.word == word && slices.Contains(s.ids, v) {
						set(&l.PPS, t.pps)
						set(&l.BPS, t.bps)
						set(&l.Windows, t.windows)
						set(&l.Unanswered, t.unanswered)
						set(&l.UnansweredWindows, t.unansweredWindows)
						set(&l.Spoofed, t.spoofed)
						if v != vector.Total {
							set(&l.Share, t.share)
						}
						set(&l.ShareFrom, t.shareFrom)
						set(&l.EndBelow, t.endBelow)
						set(&l.EndAfter, t.endAfter)
					}
				}
			}
		}
	}
	return l
}

func (n naive) action(target netip.Prefix, v vector.ID) route.Action {
	m := n.f.mode
	for _, g := range n.chain(target) {
		set(&m, g.mode)
	}
	if m == look {
		return route.Action{}
	}
	lists := [][]response{n.f.responses}
	for _, g := range n.chain(target) {
		lists = append(lists, g.responses)
	}
	slices.Reverse(lists)
	for _, rs := range lists {
		for _, r := range rs {
			if r.when != nil && *r.when != always {
				continue
			}
			for _, s := range r.vectors {
				if slices.Contains(s.ids, v) {
					if !target.IsSingleIP() {
						return route.Action{}
					}
					if r.action == nil {
						return r.ladder[0].action.Action
					}
					return r.action.Action
				}
			}
		}
	}
	return route.Action{}
}

// always is a condition that holds, unknown one that does not while nothing is measured.
const (
	always  = "now.hour >= 0 && incident.direction == 'inbound'"
	unknown = "incident.pps > 0 || !(incident.pps > 0)"
)

// randomPolicy writes a valid policy with overlapping groups of both families.
func randomPolicy(rnd *rand.Rand) string {
	pick := func(words ...string) string { return words[rnd.IntN(len(words))] }
	words := []string{"all", "all-tcp", "all-reflection", "syn", "ack", "total", "ntp-amplification", "icmp"}
	thresholds := func(in string) string {
		var b strings.Builder
		for _, w := range words {
			if rnd.IntN(3) == 0 {
				fmt.Fprintf(&b, "%s- {vectors: %s, windows: %d", in, w, 1+rnd.IntN(9))
				if rnd.IntN(2) == 0 {
					fmt.Fprintf(&b, ", pps: %s", pick("none", fmt.Sprintf("%d pps", 1+rnd.IntN(1e6))))
				}
				if rnd.IntN(2) == 0 {
					fmt.Fprintf(&b, ", bps: %s", pick("none", fmt.Sprintf("%d Mbps", 1+rnd.IntN(1e4))))
				}
				if told := []string{"all", "all-tcp", "all-reflection", "ack", "ntp-amplification"}; rnd.IntN(3) == 0 && slices.Contains(told, w) {
					fmt.Fprintf(&b, ", unanswered: %s, unanswered_windows: %d", pick("none", fmt.Sprintf("%d pps", 1+rnd.IntN(1e6))), 1+rnd.IntN(9))
				}
				if told := []string{"all", "all-tcp", "all-reflection", "syn", "ntp-amplification"}; rnd.IntN(3) == 0 && slices.Contains(told, w) {
					fmt.Fprintf(&b, ", spoofed: %s", pick("none", fmt.Sprintf("%d/s", 1+rnd.IntN(1e4))))
				}
				if rnd.IntN(3) == 0 && w != "total" {
					fmt.Fprintf(&b, ", share: %s, share_from: %d pps", pick("none", fmt.Sprintf("%d%%", 1+rnd.IntN(100))), 1+rnd.IntN(1e5))
				}
				b.WriteString("}\n")
			}
		}
		if b.Len() == 0 {
			return in + "[]\n"
		}
		return b.String()
	}
	responses := func(in string) string {
		var b strings.Builder
		for _, i := range rnd.Perm(len(words)) {
			if rnd.IntN(3) == 0 {
				when := pick("", "", "when: "+always+", ", "when: "+unknown+", ")
				action := pick("observe", "discard", "blackhole", fmt.Sprintf("rate-limit %d kbps", 8*(1+rnd.IntN(1000))))
				if rnd.IntN(3) == 0 {
					fmt.Fprintf(&b, "%s- {%svectors: %s, ttl: 5m, ladder: [{action: %s}, {action: rate-limit 77 kpps, after: %ds, if: evidence.reduction < 0.%d, max_collateral: 5%%, scope: [a, b]}]}\n",
						in, when, words[i], action, rnd.IntN(100), rnd.IntN(10))
				} else {
					fmt.Fprintf(&b, "%s- {%svectors: %s, action: %s}\n", in, when, words[i], action)
				}
				if strings.HasPrefix(words[i], "all") {
					break // what follows might never be reached
				}
			}
		}
		if b.Len() == 0 {
			return in + "[]\n"
		}
		return b.String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nmode: %s\n", pick("act", "act", "act", "observe"))
	fmt.Fprintf(&b, "thresholds:\n%sresponses:\n%sgroups:\n", thresholds("  "), responses("  "))
	taken := map[netip.Prefix]bool{}
	for g := range 1 + rnd.IntN(6) {
		var prefixes []string
		for range 1 + rnd.IntN(4) {
			if p := randomPrefix(rnd); p.Bits() > 0 && !taken[p] {
				taken[p] = true
				prefixes = append(prefixes, fmt.Sprintf("%q", p))
			}
		}
		if prefixes == nil {
			continue
		}
		fmt.Fprintf(&b, "  g%d:\n    prefixes: [%s]\n", g, strings.Join(prefixes, ", "))
		if rnd.IntN(3) == 0 {
			fmt.Fprintf(&b, "    mode: %s\n", pick("act", "observe"))
		}
		fmt.Fprintf(&b, "    thresholds:\n%s    responses:\n%s", thresholds("      "), responses("      "))
	}
	if len(taken) == 0 {
		b.WriteString("  {}\n")
	}
	return b.String()
}

// randomPrefix draws from few addresses, so that prefixes contain one another often.
func randomPrefix(rnd *rand.Rand) netip.Prefix {
	if rnd.IntN(2) == 0 {
		a := netip.AddrFrom4([4]byte{10, byte(rnd.IntN(2)), byte(rnd.IntN(2)), byte(rnd.IntN(2))})
		return netip.PrefixFrom(a, rnd.IntN(33)).Masked()
	}
	a := netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 5: byte(rnd.IntN(2)), 15: byte(rnd.IntN(2))})
	return netip.PrefixFrom(a, rnd.IntN(129)).Masked()
}

// What was computed beforehand answers as the file does, written back and read again as well.
func TestCompiledAgainstNaive(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2026, 11))
	groups := 0
	for range 150 {
		text := randomPolicy(rnd)
		f := newFile()
		if err := document.Read("random", []byte(text), f.schema()).Err(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		p, err := Parse("random", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		written, err := document.Write(f.schema())
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("written", written)
		if err != nil {
			t.Fatalf("%v\n%s", err, written)
		}
		triggers := p.Triggers(vector.Inbound)
		for range 30 {
			target := randomPrefix(rnd)
			if rnd.IntN(2) == 0 {
				target = netip.PrefixFrom(target.Addr(), target.Addr().BitLen())
			}
			if p.Group(target) != DefaultGroup {
				groups++
			}
			for _, v := range vector.All() {
				limits := p.Limits(target, v.ID)
				if want := (naive{f}).limits(target, v.ID); limits != want {
					t.Fatalf("limits of %s at %s: %+v, want %+v\n%s", v.Name, target, limits, want, text)
				}
				r := p.Answer(Incident{Target: target, Vector: v.ID}, now)
				if want := (naive{f}).action(target, v.ID); r.Action != want || r.Observe != (want == route.Action{}) {
					t.Fatalf("response to %s at %s: %+v, want %v\n%s", v.Name, target, r, want, text)
				}
				invariants(t, target, v.ID, limits, triggers, r)
				if a, b := p.Explain(target, v.ID, now), again.Explain(target, v.ID, now); a != b {
					t.Fatalf("written back, %q became %q", a, b)
				}
			}
		}
	}
	if groups < 1000 {
		t.Errorf("only %d random targets belonged to a group: the test tests little", groups)
	}
}

// invariants hold for every answer of every policy.
func invariants(t *testing.T, target netip.Prefix, v vector.ID, l Limits, triggers map[vector.ID]Limits, r Response) {
	t.Helper()
	tr, ok := triggers[v]
	switch {
	case !ok && l.PPS+l.BPS+l.Unanswered > 0:
		t.Fatalf("%s at %s has limits %+v, but sensors are told none", v, target, l)
	case l.PPS > 0 && (tr.PPS == 0 || tr.PPS > l.PPS), l.BPS > 0 && (tr.BPS == 0 || tr.BPS > l.BPS), ok && l.PPS+l.BPS > 0 && tr.Windows > l.Windows,
		l.Unanswered > 0 && (l.PPS == 0 || l.Windows > 1) && tr.PPS > l.Unanswered:
		t.Fatalf("%s at %s: trigger %+v is above the limits %+v", v, target, tr, l)
	case r.Reason == "":
		t.Fatalf("%s at %s: an answer without a reason: %+v", v, target, r)
	case len(r.Steps) == 0, !r.Observe && (r.Action != r.Steps[0].Action || r.TTL != r.Steps[0].TTL || !r.Announces()), r.Observe && r.Action != (route.Action{}):
		t.Fatalf("%s at %s: not the first step of the ladder: %+v", v, target, r)
	case r.Action.Kind == route.Blackhole && !target.IsSingleIP():
		t.Fatalf("%s: a network is blackholed", target)
	}
	for _, s := range r.Steps {
		words := 0
		for _, is := range []bool{s.Observe, s.Notify, s.Announces()} {
			if is {
				words++
			}
		}
		switch {
		case words != 1 || s.Name == "" || s.Path == "" && r.Path != "":
			t.Fatalf("%s at %s: %+v", v, target, s)
		case !s.Announces() && s.TTL+s.Extend+s.MaxAge > 0:
			t.Fatalf("%s at %s: announces nothing, and yet lasts: %+v", v, target, s)
		case s.Announces() && (s.TTL <= 0 || s.TTL > s.MaxAge || s.Extend > s.MaxAge):
			t.Fatalf("%s at %s: no end: %+v", v, target, s)
		}
		if s.Announces() && target.IsValid() {
			rule := route.Route{Match: route.Match{Destination: target}, Action: s.Action}
			if err := rule.Validate(); err != nil {
				t.Fatalf("%s at %s: the action cannot be announced: %v", v, target, err)
			}
		}
	}
}

// FuzzParse: no text makes the parser panic, and what it accepts keeps the invariants and reads back equal.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "default.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(nested))
	f.Add([]byte(randomPolicy(rand.New(rand.NewPCG(1, 1)))))
	targets := []netip.Prefix{pfx("10.1.2.1"), pfx("10.1.2.0/25"), pfx("192.0.2.53"), pfx("2001:db8:1:2::1"), pfx("2001:db8::/32"), {}}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse("f.yaml", text)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "f.yaml:") {
					t.Fatalf("a problem without its file: %q", line)
				}
			}
			return
		}
		file := newFile()
		if err := document.Read("f.yaml", text, file.schema()).Err(); err != nil {
			t.Fatal(err)
		}
		written, err := document.Write(file.schema())
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("written.yaml", written)
		if err != nil {
			t.Fatalf("%v\n%s", err, written)
		}
		triggers := p.Triggers(vector.Inbound)
		for _, target := range targets {
			for _, v := range vector.All() {
				invariants(t, target, v.ID, p.Limits(target, v.ID), triggers, p.Answer(Incident{Target: target, Vector: v.ID}, now))
				if a, b := p.Explain(target, v.ID, now), again.Explain(target, v.ID, now); a != b {
					t.Fatalf("written back, %q became %q\n%s", a, b, written)
				}
			}
		}
	})
}

// A policy with very many groups and responses costs what its text costs, not their product.
func TestLargePolicy(t *testing.T) {
	var b strings.Builder
	b.WriteString("version: 1\nthresholds: [{vectors: all, pps: 1 Mpps}]\nresponses: [{vectors: all, action: observe}]\ngroups:\n")
	for i := range 8000 {
		fmt.Fprintf(&b, " g%d: {prefixes: [10.%d.%d.0/24, 2001:db8:%x::/48], thresholds: [{vectors: syn, pps: %d pps}]}\n", i, i/256, i%256, i+1, i+1)
	}
	if b.Len() > document.MaxSize {
		t.Fatalf("%d octets are more than are read", b.Len())
	}
	p, err := Parse("large", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if g := p.Group(pfx("10.31.63.9")); g != "g7999" {
		t.Errorf("group %s", g)
	}
	if l := p.Limits(pfx("2001:db8:1f40::1"), vector.SYN); l.PPS != 8000 {
		t.Errorf("limits %+v", l)
	}
}

func BenchmarkLimits(b *testing.B) {
	p, err := Parse("nested", []byte(nested))
	if err != nil {
		b.Fatal(err)
	}
	target := pfx("10.1.2.1")
	b.ReportAllocs()
	for b.Loop() {
		p.Limits(target, vector.SYN)
	}
}

func BenchmarkAnswer(b *testing.B) {
	p, err := Parse("nested", []byte(nested))
	if err != nil {
		b.Fatal(err)
	}
	inc, at := Incident{Target: pfx("10.1.2.1"), Vector: vector.SYN}, now.Add(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		p.Answer(inc, at)
	}
}

// TestShareOfTotal: a share of everything is always everything, so a word that includes total sets none there, and sensors are
// not told to look.
func TestShareOfTotal(t *testing.T) {
	p, err := Parse("t.yaml", []byte("version: 1\nthresholds: [{vectors: all, share: 50%}]\nresponses: []\n"))
	if err != nil {
		t.Fatal(err)
	}
	if l := p.Limits(netip.MustParsePrefix("192.0.2.1/32"), vector.Total); !l.None() {
		t.Errorf("total has %v", l)
	}
	if l, told := p.Triggers(vector.Inbound)[vector.Total]; told {
		t.Errorf("sensors are told %v of total", l)
	}
	if l := p.Triggers(vector.Inbound)[vector.SYN]; l.PPS != 2000 {
		t.Errorf("sensors are told %v of syn, want share_from", l)
	}
}
