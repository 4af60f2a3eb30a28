package profile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func shippedSet(t testing.TB) Set {
	t.Helper()
	set, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestShipped(t *testing.T) {
	set := shippedSet(t)
	want := []string{
		"arista-eos", "bird", "extreme-slx", "frr", "generic", "huawei-ne8000", "ios-xr-asr9000", "ios-xr-ncs5500", "junos-mx", "junos-ptx", "nokia-sros", "openbgpd",
	}
	if d := cmp.Diff(want, set.Names()); d != "" {
		t.Error(d)
	}
	for _, p := range set {
		for _, f := range p.Facts {
			if f.Source == SecondHand && !strings.Contains(f.Where, "confirm") && !strings.Contains(f.Where, "not tried") {
				t.Errorf("%s: %q is second-hand, and the file does not say that it is unconfirmed", p.Router.Name, f.Says)
			}
		}
	}
}

// A router of which nothing is said gets what the compiler's zero profile gives, but for what resets some routers.
func TestGenericIsTheDefault(t *testing.T) {
	p, _ := shippedSet(t).Get(Generic)
	got := p.Router
	got.Name, got.Split = "", 0
	if d := cmp.Diff(compile.Profile{MaxItems: compile.DefaultMaxItems, Offsets: compile.NoOffsets, Targets: []compile.Target{compile.AS2Target, compile.IPv4Target}}, got); d != "" || p.Router.Split != 1 {
		t.Errorf("split %d, %s", p.Router.Split, d)
	}
}

// What the traps of each platform come to.
func TestTraps(t *testing.T) {
	const to = "destination 192.0.2.1/32 "
	set := shippedSet(t)
	for _, c := range []struct {
		profile, route string
		want           []string
		refused        string
	}{
		{"junos-mx", "protocol udp port 53 destination-port 1024-65535 then discard", []string{
			"protocol udp destination-port 1024-65535 source-port 53 then discard",
		}, ""},
		{"junos-ptx", "protocol udp port 53,5353 destination-port 50-60 then discard", []string{
			"protocol udp destination-port 50-60 source-port 53,5353 then discard", "protocol udp destination-port 53 then discard",
		}, ""},
		{"huawei-ne8000", "source-port 53 then discard", []string{"protocol tcp,udp source-port 53 then discard"}, ""},
		{"huawei-ne8000", "protocol udp fragment last-fragment then discard", nil, "does not test all the flags"},
		{"frr", "protocol udp source-port 53,100-200 then discard", []string{
			"protocol udp source-port 100-200 then discard", "protocol udp source-port 53 then discard",
		}, ""},
		{"frr", "protocol udp source-port 53 destination-port 53 then discard", nil, "source-port together with destination-port"},
		{"frr", "protocol udp then rate-limit 8Mbps", nil, "does not do rate-limit"},
		{"frr", "protocol udp source-port 1,3,5,7,9,11 then discard", []string{
			"protocol udp source-port 1,3,5,7,9 then discard", "protocol udp source-port 11 then discard",
		}, ""},
		{"frr", "source ::7/64-128 then discard", nil, "does not match by a prefix with this offset (profile frr)"},
		{"bird", "source ::7/63-128 then discard", nil, "does not match by a prefix with this offset (profile bird)"},
		{"bird", "source ::7/64-128 then discard", []string{"source ::7/64-128 then discard"}, ""},
		{"extreme-slx", "protocol tcp tcp-flags syn&!ece then discard", nil, "does not test all the flags"},
		{"openbgpd", "protocol udp then discard", nil, "does not take ipv4-flowspec (profile openbgpd)"},
		{"generic", "protocol udp source-port 1,3,5,7,9,11 then discard", nil, "source-port has 6 items"},
		{"generic", "source ::7/64-128 protocol udp then discard", nil, "name the whole prefix, or the profile of a router that does"},
		{"generic", "protocol udp then redirect 4200000000:9", nil, "does not take the route target 4200000000:9 (profile generic): its redirect_targets lack as4"},
		{"generic", "protocol udp then rate-limit 1Mbps redirect 64500L:9", nil, "does not take the route target 64500L:9 (profile generic)"},
		{"generic", "source 2001:db8::7 then redirect 4200000000:9", nil, "lack as4"},
		{"generic", "protocol udp then redirect 64500:70000", []string{"protocol udp then redirect 64500:70000"}, ""},
		{"generic", "protocol udp then redirect 192.0.2.9:9", []string{"protocol udp then redirect 192.0.2.9:9"}, ""},
		{"generic", "protocol udp then redirect 192.0.2.9", []string{"protocol udp then redirect 192.0.2.9"}, ""},
		{"bird", "protocol udp then redirect 4200000000:9", []string{"protocol udp then redirect 4200000000:9"}, ""},
		{"generic", "protocol udp port 53 destination-port 53 then discard", []string{"protocol udp port 53 destination-port 53 then discard"}, ""},
	} {
		t.Run(c.profile+" "+c.route, func(t *testing.T) {
			p, ok := set.Get(c.profile)
			if !ok {
				t.Fatal("no such profile")
			}
			to := to
			if strings.Contains(c.route, "::") {
				to = "destination 2001:db8::1/128 "
			}
			r, err := route.Parse(to + c.route)
			if err != nil {
				t.Fatal(err)
			}
			d := compile.Compile([]compile.Entry{{Route: r}}, p.Router).Decisions[0]
			if c.refused != "" {
				if d.Outcome != compile.Refused || !strings.Contains(d.Reason, c.refused) {
					t.Errorf("got %+v, want it refused with %q", d, c.refused)
				}
				return
			}
			if d.Rules == nil && d.Outcome == compile.Placed {
				d.Rules = []route.Route{r}
			}
			var got []string
			for _, x := range d.Rules {
				got = append(got, strings.TrimPrefix(x.String(), to))
			}
			slices.Sort(got)
			if diff := cmp.Diff(c.want, got); diff != "" || d.Widened != nil {
				t.Errorf("%s %s", diff, d.Reason)
			}
		})
	}
}

// Everything that is wrong is told at once, with its line and, where there is one, what was meant.
func TestParseTellsEverything(t *testing.T) {
	_, err := Parse("etc/mine.yaml", []byte(`name: yours
platform: A router
match:
  components: [destination, protcol, dscp]
  exclusive: [dscp with destination, port and source-port]
  fragment: [is-fragment]
  max_items: 99
cost:
  model: tcam
  each: [fragments 2]
  measured: [length 256-65535 = 9]
action: [discard]
facts:
  - about: [match.fragment, split]
    says: It tests for fragments.
    source: hearsay
    where: somewhere
`))
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{
		`mine.yaml:1: name: yours is not the name of the file, which is mine.yaml; did you mean "mine"?`,
		`mine.yaml:4: match.components[1]: "protcol" is not known here; did you mean "protocol"?`,
		`mine.yaml:5: match.exclusive[1]: "port and source-port" is not two components`,
		`mine.yaml:7: match.max_items: 99 is not from 1 to 64`,
		`mine.yaml:10: cost.each[0]: "fragments" is not a component; did you mean "fragment"?`,
		`mine.yaml:11: cost.measured[0]: length 256-65535 takes 9 entries, and the model says 8`,
		`mine.yaml:12: action: is not a key here; did you mean "actions"?`,
		`mine.yaml:14: facts[0].about: names split, which the file does not set`,
		`mine.yaml:16: facts[0].source: "hearsay" is not known here`,
		`mine.yaml:9: cost.model: is set, and no fact says where that comes from`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing says %q", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
}

func TestLoadOwn(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const body = "platform: Ours\nroom:\n  entries: 100\nfacts:\n  - {about: room.entries, says: Seen in our lab., source: own, where: our lab}\n"
	write("edge.yaml", "name: edge\n"+body)
	set, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := set.Get("edge"); !ok || p.Router.Budget.Shared != 100 || len(set) != 13 {
		t.Errorf("%+v", set.Names())
	}
	write("frr.yaml", "name: frr\n"+body)
	write("bad.yaml", "name: bad\n")
	_, err = Load(dir)
	if err == nil || !strings.Contains(err.Error(), "frr is the profile of shipped/frr.yaml already") || !strings.Contains(err.Error(), "bad.yaml:1: platform: is missing") {
		t.Errorf("got %v", err)
	}
	if _, err := Load(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("shipped/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal("no shipped profiles")
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	r, err := route.Parse("destination 192.0.2.1/32 protocol udp port 53 destination-port 1-9 fragment is-fragment then discard")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse("x.yaml", text)
		if err != nil {
			return
		}
		if errs := p.Router.Check(); len(errs) > 0 {
			t.Errorf("taken, though %v", errs)
		}
		compile.Compile([]compile.Entry{{Route: r}}, p.Router)
	})
}
