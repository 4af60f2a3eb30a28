package config

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

var update = flag.Bool("update", false, "rewrite the golden files and the tables of docs/configuration.md")

// equal compares what is in force; an empty list and none are the same.
var equal = []cmp.Option{cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()}

// outcome is the problems of a file, or what is in force.
func outcome(t *testing.T, file string, text []byte) string {
	t.Helper()
	name := "/etc/trafficmonitor/" + filepath.Base(file)
	var dump []byte
	var err error
	if strings.HasPrefix(filepath.Base(file), "sensor") {
		var s Sensor
		if s, err = ParseSensor(name, text); err == nil {
			dump, err = s.Dump()
		}
	} else {
		var c Controller
		if c, err = ParseController(name, text); err == nil {
			dump, err = c.Dump()
		}
	}
	if err != nil {
		return err.Error() + "\n"
	}
	return string(dump)
}

// TestGolden reads testdata/{controller,sensor}-*.yaml and compares the problems, or what is in force, with what was
// reviewed.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata/*.yaml: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := outcome(t, file, text)
			for _, goName := range []string{"MaxRules", "netip.", "strconv", " yaml: ", "ParseAddr", "hunter2"} {
				if strings.Contains(got, goName) {
					t.Errorf("operators are told %q", goName)
				}
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatalf("%v (go test -update writes it)", err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("-reviewed +now (go test -update accepts it):\n%s", d)
			}
		})
	}
}

func TestShippedExamples(t *testing.T) {
	c, err := LoadController("../../deploy/controller.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	reread(t, c)
	if dir, _ := filepath.Abs("../../deploy"); c.TLS.Key != filepath.Join(dir, "tls/controller.key") {
		t.Errorf("tls.key %s is not relative to the file's folder", c.TLS.Key)
	}
	if c.Speaker.Journal != "/var/lib/trafficmonitor/speaker.journal" || c.Speaker.Peers[0].Port != 179 || len(c.Speaker.Peers[1].Families) != 2 {
		t.Errorf("the speaker's defaults are not in force: %+v", c.Speaker)
	}
	s, err := LoadSensor("../../deploy/sensor.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dump, err := s.Dump()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseSensor("/dump.yaml", dump)
	if err != nil {
		t.Fatalf("%v\n%s", err, dump)
	}
	if d := cmp.Diff(s, again, equal...); d != "" {
		t.Error(d)
	}
}

func reread(t *testing.T, c Controller) {
	t.Helper()
	dump, err := c.Dump()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseController("/elsewhere/dump.yaml", dump)
	if err != nil {
		t.Fatalf("%v\n%s", err, dump)
	}
	if d := cmp.Diff(c, again, equal...); d != "" {
		t.Errorf("%s\n%s", d, dump)
	}
}

func TestDefaultsWantOnlyWhatNobodyElseKnows(t *testing.T) {
	c := DefaultController()
	c.Name = "c1"
	err := c.Check()
	if err == nil || strings.Count(err.Error(), "\n") != 0 || !strings.Contains(err.Error(), "network.own_prefixes") {
		t.Errorf("the defaults lack more or less than own_prefixes: %v", err)
	}
	s := DefaultSensor()
	s.Name = "s1"
	err = s.Check()
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("the defaults lack more or less than controllers and interfaces: %v", err)
	}
}

// What passes here must pass the safety kernel's own check, which would otherwise refuse it without a line.
func TestCheckIsAsStrictAsTheSafetyKernel(t *testing.T) {
	prefixes := []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	for _, change := range []func(*Safety){
		func(*Safety) {},
		func(s *Safety) { s.MaxAge = longAge },
		func(s *Safety) { s.MaxAge = longAge + 1 },
		func(s *Safety) { s.MaxAge, s.AllowLongAge = longAge+1, true },
		func(s *Safety) { s.BlackholeMinLength4 = 24 },
		func(s *Safety) { s.BlackholeMinLength4 = 23 },
		func(s *Safety) { s.BlackholeMinLength4, s.AllowWideBlackhole = 16, true },
		func(s *Safety) { s.BlackholeMinLength6 = 47 },
		func(s *Safety) { s.BlackholeMinLength6, s.AllowWideBlackhole = 32, true },
		func(s *Safety) { s.SourceMinLength4 = 15 },
		func(s *Safety) { s.SourceMinLength6 = 31 },
		func(s *Safety) { s.MaxOwnShare = 0.25 },
		func(s *Safety) { s.MaxOwnShare = 0.26 },
		func(s *Safety) { s.MaxOwnShare, s.AllowLargeShare = 1, true },
	} {
		c := DefaultController()
		c.Name, c.Network.Own = "c1", prefixes
		change(&c.Safety)
		s := c.Safety
		kernel := safety.Limits{
			Own: c.Network.Own, MaxRules: s.MaxRules, MaxNewPerMinute: s.MaxNewPerMinute, MaxRulesPerTarget: s.MaxRulesPerTarget,
			MaxRulesPerOwner: s.MaxRulesPerOwner, MaxRulesPerResponse: s.MaxRulesPerResponse, MaxRulesPerGroup: s.MaxRulesPerGroup, MaxAge: s.MaxAge, BlackholeMinLength4: s.BlackholeMinLength4,
			BlackholeMinLength6: s.BlackholeMinLength6, SourceMinLength4: s.SourceMinLength4, SourceMinLength6: s.SourceMinLength6,
			MaxOwnShare: s.MaxOwnShare, AllowWideBlackhole: s.AllowWideBlackhole, AllowLongAge: s.AllowLongAge, AllowLargeShare: s.AllowLargeShare,
		}
		if ours, theirs := c.Check(), kernel.Validate(); (ours == nil) != (theirs == nil) {
			t.Errorf("%+v: we say %v, the kernel %v", s, ours, theirs)
		}
	}
}

func TestSecretOfAFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if got, err := ReadSecret(write("good", "s3cret word\n", 0o640)); err != nil || got != "s3cret word" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, tc := range []struct{ path, want string }{
		{write("open", "s3cret", 0o644), "chmod 0640"},
		{write("empty", "\n", 0o600), "is empty"},
		{write("two", "s3cret\nmore\n", 0o600), "more than one line"},
		{write("long", strings.Repeat("s3cret", 20), 0o600), "at most 80"},
		{filepath.Join(dir, "absent"), "no such file"},
	} {
		_, err := ReadSecret(tc.path)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.path, err, tc.want)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error tells the secret", tc.path)
		}
	}
}

// FuzzController: no text makes the reader panic, and what is read dumps and reads back equal.
func FuzzController(f *testing.F) {
	seed(f, "testdata/controller-*.yaml", "../../deploy/controller*.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := ParseController("/etc/f.yaml", text); err == nil {
			reread(t, c)
		}
	})
}

// FuzzSensor: as FuzzController.
func FuzzSensor(f *testing.F) {
	seed(f, "testdata/sensor-*.yaml", "../../deploy/sensor*.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseSensor("/etc/f.yaml", text)
		if err != nil {
			return
		}
		dump, err := s.Dump()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSensor("/elsewhere/f.yaml", dump)
		if err != nil {
			t.Fatalf("%v\n%s", err, dump)
		}
		if d := cmp.Diff(s, again, equal...); d != "" {
			t.Fatalf("%s\n%s", d, dump)
		}
	})
}

func seed(f *testing.F, patterns ...string) {
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("nothing matches %s: %v", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
}

// FuzzScalars: whatever address, community or URL is accepted is written so that it reads back equal.
func FuzzScalars(f *testing.F) {
	for _, s := range []string{"127.0.0.1:7443", "[::1]:7443", ":0", "localhost:1", "unix:///run/x", "unix:/x", "64512:666", "https://etcd1:2379", "http://[::1]:2379", "eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, u := range []use{forListening, forMetrics, forSocket, forDialling} {
			readsBack(t, s, addressCodec(u))
		}
		readsBack(t, s, communityCodec())
		readsBack(t, s, endpointCodec())
		readsBack(t, s, interfaceCodec())
		readsBack(t, s, hostCodec())
	})
}

func readsBack[T comparable](t *testing.T, s string, c document.Codec[T]) {
	t.Helper()
	v, err := c.Parse(s)
	if err != nil {
		return
	}
	if got, err := c.Parse(c.Format(v)); err != nil || got != v {
		t.Errorf("%s: %q was written as %q and read as %v, %v", c.Type, s, c.Format(v), got, err)
	}
}

// Routers know of no deadlines: what they may keep a rule for without us has the bound that its age has.
func TestRoutersKeepNothingLongerThanARuleMayLive(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "",
		"safety: {max_age: 2m}\n":    "",
		"safety: {max_age: 1m59s}\n": "speaker.graceful_restart_time: lets routers keep rules for 2m",
		"long_lived_time: 23h58m":    "",
		"long_lived_time: 23h58m1s":  "speaker.long_lived_time: lets routers keep rules for 24h0m1s",
		"graceful_restart_time: 1s, long_lived_time: 24h":  "safety.max_age: 24h",
		"peers: [], long_lived_time: 24h":                  "", // of nobody
		"graceful_restart_time: 0s, long_lived_time: 0s":   "",
		"safety: {max_age: 1m}\ngraceful_restart_time: 0s": "",
	} {
		safety, speaker := "", text
		if rest, ok := strings.CutPrefix(text, "safety: "); ok {
			line, after, _ := strings.Cut(rest, "\n")
			safety, speaker = "safety: "+line+"\n", after
		}
		if !strings.Contains(speaker, "peers:") {
			speaker = strings.TrimPrefix(speaker+", peers: [{name: r1, address: 192.0.2.1, asn: 64500}]", ", ")
		}
		got := outcome(t, "controller.yaml", []byte("name: c1\nnetwork: {own_prefixes: [203.0.113.0/24]}\n"+safety+"speaker: {asn: 64501, router_id: 192.0.2.2, "+speaker+"}\n"))
		if said := strings.Contains(got, "lets routers keep"); said != (want != "") || !strings.Contains(got, want) || want == "" && !strings.HasPrefix(got, "name: c1\n") {
			t.Errorf("%q: %s", text, got)
		}
	}
}
