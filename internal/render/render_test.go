package render

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden writes every rule of testdata/rules.txt in every format. What a format cannot say stands there, too.
func TestGolden(t *testing.T) {
	raw, err := os.ReadFile("testdata/rules.txt")
	if err != nil {
		t.Fatal(err)
	}
	rules := strings.Split(strings.TrimSpace(string(raw)), "\n")
	for _, f := range Formats() {
		var b strings.Builder
		for _, text := range rules {
			r, err := route.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			out, err := As(f, r)
			if err != nil {
				out = "error: " + err.Error() + "\n"
			}
			b.WriteString("== " + text + "\n" + out + "\n")
		}
		path := filepath.Join("testdata", f+".golden")
		if *update {
			if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s (-want +got; go test -update writes it):\n%s", f, diff)
		}
	}
	if _, err := As("cisco", route.Route{}); err == nil || !strings.Contains(err.Error(), "is not one of text, json") {
		t.Errorf("a format nobody knows: %v", err)
	}
}

// No platform leaves a component out: it is in what is written, or an error.
func TestEveryComponentIsWrittenOrRefused(t *testing.T) {
	routetest.Components(t, func(field string, m route.Match) {
		plain := route.Match{Destination: m.Destination}
		switch field {
		case "Destination":
			plain = route.Match{Source: m.Destination}
		case "SourceOffset", "DestinationOffset":
			plain.Source = m.Source
		}
		for _, f := range Formats() {
			a, err := As(f, route.Route{Match: m, Action: route.Action{Kind: route.Discard}})
			if err != nil {
				continue
			}
			b, err := As(f, route.Route{Match: plain, Action: route.Action{Kind: route.Discard}})
			if err != nil {
				t.Errorf("%s cannot say %q: %v", f, plain, err)
			}
			strip := func(s string) string { // names and remarks tell any two apart
				var out []string
				for line := range strings.Lines(s) {
					if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "!") {
						out = append(out, strings.NewReplacer(name(route.Route{Match: m}), "N", name(route.Route{Match: plain}), "N", nftName(route.Route{Match: m}), "N", nftName(route.Route{Match: plain}), "N").Replace(line))
					}
				}
				return strings.Join(out, "")
			}
			if strip(a) == strip(b) {
				t.Errorf("%s: %s says the same without it:\n%s", field, f, a)
			}
		}
	})
}

// No platform leaves a part of an action out.
func TestEveryActionIsWrittenOrRefused(t *testing.T) {
	parse := func(action string) route.Route {
		r, err := route.Parse("destination 192.0.2.1/32 then " + action)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	plain := []route.Route{parse("discard"), parse("rate-limit 1Mbps"), parse("accept"), parse("blackhole")}
	for _, text := range []string{
		"discard sample", "rate-limit 1Mbps sample", "rate-limit 1Mbps continue", "rate-limit 1Mbps mark 8", "rate-limit 1Mbps redirect 64500:1",
		"rate-limit 1Mbps redirect 192.0.2.9", "rate-limit 1Mbps copy 192.0.2.9", "accept sample", "accept mark 8", "accept redirect 64500:1",
		"accept redirect 192.0.2.9:1", "accept redirect 4200000000:1", "accept redirect 192.0.2.9", "accept copy 192.0.2.9", "rate-limit 500pps",
		"discard communities 64500:1", "discard large-communities 1:2:3", "discard local-pref 5", "discard med 5", "rate-limit 2Mbps",
		"blackhole next-hop 192.0.2.9", "blackhole communities 64500:1", "blackhole large-communities 1:2:3", "blackhole local-pref 5", "blackhole med 5",
	} {
		r := parse(text)
		for _, f := range Formats() {
			if f == "text" || f == "hex" { // the one says all, the other leaves attributes out, as its description says
				continue
			}
			got, err := As(f, r)
			if err != nil {
				continue
			}
			for _, p := range plain {
				other, err := As(f, p)
				if err == nil && strings.ReplaceAll(got, r.String(), "") == strings.ReplaceAll(other, p.String(), "") {
					t.Errorf("%s writes %q as it writes %q:\n%s", f, r, p, got)
				}
			}
		}
	}
}

// BIRD 2.0 takes these and announces another rule (docs/interop.md).
func TestBIRDIsNotToldWhatItAnnouncesAsAnother(t *testing.T) {
	for text, refused := range map[string]bool{
		"destination 2001:db8::1/128 flow-label 65535":                          false,
		"destination 2001:db8::1/128 flow-label 65536":                          true,
		"destination 2001:db8::1/128 flow-label 7,100-1048575":                  true,
		"destination 2001:db8::1/128 source ::1234:0:0:0/64-80":                 false,
		"destination 2001:db8::1/128 source ::1234:5600:0:0/61-90":              true,
		"destination ::1234:5600:0:0/61-90 source 2001:db8::1/128 protocol udp": true,
	} {
		r, err := route.Parse(text + " then discard")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := BIRDRoute(r); (err != nil) != refused {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}
