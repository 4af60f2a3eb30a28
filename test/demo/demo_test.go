package main

import (
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// The demo's policy is the shipped one but for a few lines; when those change, the demo must follow.
func TestDemoPolicy(t *testing.T) {
	text, err := demoPolicy()
	if err != nil {
		t.Fatal(err)
	}
	was, is := strings.Split(policy.Default().Text(), "\n"), strings.Split(text, "\n")
	changed := -1 // the first line says what it is
	for i := range is {
		if i > 0 && is[i] != was[i-1] {
			changed++
		}
	}
	if len(is) != len(was)+1 || changed+1 != 6 {
		t.Errorf("%d lines differ, %d more lines", changed+1, len(is)-len(was))
	}
}

func TestWords(t *testing.T) {
	for text, want := range map[string]string{
		"destination 203.0.113.10/32 protocol udp source-port 53 then rate-limit 1Mbps":            "of UDP from port 53 to 203.0.113.10 let 1Mbps through, drop the rest",
		"destination 2001:db8::1/128 protocol tcp tcp-flags syn&!ack then rate-limit 300kbps":      "of TCP with flags syn but not ack to 2001:db8::1 let 300kbps through, drop the rest",
		"destination 203.0.113.10/32 protocol udp source-port 123 destination-port 9 then discard": "drop UDP from port 123 to port 9 to 203.0.113.10",
		"destination 203.0.113.10/32 then blackhole":                                               "drop everything to 203.0.113.10/32",
	} {
		r, err := route.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := words(r); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	good := report{Vector: "syn", Family: "ipv6", FirstPacketToUpdate: 10, PPSBefore: 100_000, PPSAfter: 900, Withdrawn: true}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*report){
		"no route at the router": func(r *report) { r.FirstPacketToUpdate = 0 },
		"cut by 98.9 %":          func(r *report) { r.PPSAfter = 1100 },
		"no flood":               func(r *report) { r.PPSBefore = 0 },
		"outlived its deadline":  func(r *report) { r.Withdrawn = false },
	} {
		r := good
		spoil(&r)
		if r.check() == nil {
			t.Errorf("%s passes", name)
		}
	}
}

// What is learnt late is printed where it belongs, and nothing before the attack has begun.
func TestTimeline(t *testing.T) {
	var b strings.Builder
	out := newTimeline(&b, false)
	now := time.Now()
	out.add(now.Add(20*time.Millisecond), red, "b", "second\nmore")
	out.flush(time.Time{})
	if b.Len() > 0 {
		t.Errorf("printed before the attack: %q", b.String())
	}
	out.begin(now)
	out.add(now.Add(-time.Millisecond), "", "a", "first")
	out.add(now.Add(2500*time.Millisecond), "", "c", "third")
	out.flush(time.Time{})
	lines := strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
	want := []string{"     −1.0 ms  a          first", "    +20.0 ms  b          second", "more", "    +2.50 s   c          third"}
	if len(lines) != len(want) {
		t.Fatalf("%q", lines)
	}
	for i := range want {
		if !strings.HasSuffix(lines[i], want[i]) || strings.Contains(lines[i], "\x1b") {
			t.Errorf("line %d: %q", i, lines[i])
		}
	}
	if bar(0) != strings.Repeat("·", 20) || bar(2) != strings.Repeat("█", 20) || bar(0.5) != strings.Repeat("█", 10)+strings.Repeat("·", 10) {
		t.Errorf("bars %q %q %q", bar(0), bar(0.5), bar(2))
	}
}
