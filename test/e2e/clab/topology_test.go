package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// topologies reads every topology of this folder.
func topologies(t *testing.T) map[string]topology {
	t.Helper()
	paths, err := filepath.Glob("*.clab.yml")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no topologies here: %v", err)
	}
	all := map[string]topology{}
	for _, path := range paths {
		top, err := readTopology(path)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(path, ".clab.yml")] = top
	}
	return all
}

func TestEachTopologyIsTried(t *testing.T) {
	var have []string
	for _, s := range scenarios {
		have = append(have, s.name)
	}
	if want := slices.Sorted(maps.Keys(topologies(t))); !slices.Equal(slices.Sorted(slices.Values(have)), want) {
		t.Errorf("scenarios are %v, topologies %v", have, want)
	}
}

func TestTopologiesAreWhole(t *testing.T) {
	for name, top := range topologies(t) {
		t.Run(name, func(t *testing.T) {
			if top.Name != "tm-"+name {
				t.Errorf("its name is %q", top.Name)
			}
			named := map[string]bool{}
			for node, n := range top.Topology.Nodes {
				if _, ok := top.Topology.Groups[n.Group]; !ok {
					t.Errorf("%s: group %q is not there", node, n.Group)
				}
				for _, file := range top.files(node) {
					named[file] = true
					if strings.HasPrefix(file, "../") { // what make builds
						continue
					}
					if _, err := os.Stat(file); err != nil {
						t.Errorf("%s: %v", node, err)
					}
				}
			}
			files, err := filepath.Glob(name + "/*")
			if err != nil || len(files) == 0 {
				t.Errorf("no configurations: %v", err)
			}
			for _, f := range files {
				if !named[f] {
					t.Errorf("%s is mounted nowhere", f)
				}
			}
			taken := map[string]bool{}
			for _, l := range top.Topology.Links {
				if len(l.Endpoints) != 2 || l.MTU != 1500 {
					t.Errorf("link %v: two ends, and MTU 1500 for native XDP", l)
				}
				for _, e := range l.Endpoints {
					node, _, _ := strings.Cut(e, ":")
					if _, ok := top.Topology.Nodes[node]; !ok || taken[e] {
						t.Errorf("link to %s: no such node, or the interface is taken", e)
					}
					taken[e] = true
				}
			}
			for node := range top.Topology.Nodes {
				if !taken[node+":eth1"] {
					t.Errorf("%s has no link", node)
				}
			}
		})
	}
}

// Our programs must take the configurations as they stand there, with the certificates that the test makes.
func TestConfigurationsAreTaken(t *testing.T) {
	dir := t.TempDir()
	certs := filepath.Join(dir, "pki")
	if err := pki.CreateCA(certs); err != nil {
		t.Fatal(err)
	}
	for _, id := range identities {
		if _, err := pki.Issue(certs, id.role, id.name, id.hosts); err != nil {
			t.Fatal(err)
		}
	}
	paths, err := filepath.Glob("*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		at := filepath.Join(dir, "config.yaml")
		switch {
		case strings.HasPrefix(name, "ctl"):
			c, err := config.ParseController(at, text)
			if err == nil {
				err = c.Check()
			}
			if err != nil || c.Name != name || c.DataDir != "/var/lib/trafficmonitor" {
				t.Errorf("%s: %v", path, err)
			}
			// Each router it has a session with must know the address.
			for _, p := range c.Speaker.Peers {
				conf := filepath.Join(filepath.Dir(path), p.Name+".conf")
				if b, err := os.ReadFile(conf); err == nil && !strings.Contains(string(b), p.Address.String()) {
					t.Errorf("%s: %s has no address %s", path, conf, p.Address)
				}
			}
		case strings.HasPrefix(name, "rack"), strings.HasPrefix(name, "tap"):
			s, err := config.ParseSensor(at, text)
			if err == nil {
				err = s.Check()
			}
			if err != nil || s.Name != name {
				t.Errorf("%s: %v", path, err)
			}
		case name == "policy":
			if _, err := policy.Parse(path, text); err != nil {
				t.Error(err)
			}
		default:
			t.Errorf("%s: whose configuration is it?", path)
		}
	}
}

func TestRuntimeGivesWhatThereIs(t *testing.T) {
	const all = 1<<41 - 1
	spec := `{"ociVersion":"1.0","linux":{"resources":{"memory":{"limit":9223372036854771712}}},"process":{"args":["sh"],
		"capabilities":{"bounding":["CAP_NET_ADMIN","CAP_SYS_RESOURCE","CAP_NEW"],"effective":["CAP_SYS_RESOURCE"]}}}`
	process := `{"args":["sh"],"capabilities":{"bounding":["CAP_CHOWN","CAP_BPF"]}}`
	for _, c := range []struct {
		name, text, want string
		set              uint64
	}{
		{"all of them", process, `{"args":["sh"],"capabilities":{"bounding":["CAP_CHOWN","CAP_BPF"]}}`, all},
		{"a process without CAP_BPF", process, `{"args":["sh"],"capabilities":{"bounding":["CAP_CHOWN"]}}`, all &^ (1 << 39)},
		{
			"a container without CAP_SYS_RESOURCE", spec, `{"linux":{"resources":{"memory":{"limit":9223372036854771712}}},"ociVersion":"1.0","process":{"args":["sh"],` +
				`"capabilities":{"bounding":["CAP_NET_ADMIN","CAP_NEW"],"effective":[]}}}`, all &^ (1 << 24),
		},
		{"no capabilities", `{"args":["sh"]}`, `{"args":["sh"]}`, 0},
	} {
		got, err := boundSpec([]byte(c.text), c.set)
		if d := cmp.Diff(c.want, string(got)); err != nil || d != "" {
			t.Errorf("%s: %v\n%s", c.name, err, d)
		}
	}
	if _, err := boundSpec([]byte("{"), all); err == nil {
		t.Error("half a specification was taken")
	}
	if set := boundingSet("CapEff:\t0000000000000001\nCapBnd:\t000001fffeffffff\n"); set != all&^(1<<24) {
		t.Errorf("bounding set %x", set)
	}
	for _, c := range []struct{ args, want string }{
		{"--root /r --log /l create --bundle /b --pid-file /p id", "/b/config.json"},
		{"--root /r exec --process /tmp/p --detach --pid-file /p id", "/tmp/p"},
		{"--root /r kill --all id 9", ""},
		{"--root /r delete exec", ""},
	} {
		if got := specOf(strings.Fields(c.args)); got != c.want {
			t.Errorf("runc %s: %q, want %q", c.args, got, c.want)
		}
	}
}

func TestVariables(t *testing.T) {
	for text, want := range map[string]string{
		"image: ${TM_FRR:=a/b:c}": "image: a/b:c", "${X}y": "y", "$X ${": "$X ${", "${A:=../..}/${B:=c}": "../../c",
	} {
		if got := variable.ReplaceAllString(text, "$2"); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if fmt.Sprint(topology{}.nodes()) != "[]" {
		t.Error("a topology without nodes has some")
	}
}

func TestStayed(t *testing.T) {
	for _, c := range []struct {
		counts           []int
		most, least, end int
		want             bool
	}{
		{[]int{0, 1, 2}, 2, 2, 2, true},
		{[]int{1, 0, 2}, 2, 2, 2, false},
		{[]int{1}, 2, 2, 2, false},
		{[]int{1, 2, 3}, 2, 2, 2, false},
		{[]int{1, 2, 1, 2}, 2, 2, 2, false},
		{[]int{1, 5, 9, 7, 1, 2}, 9, 1, 2, true},
		{[]int{9, 1, 9, 1, 2}, 9, 1, 2, true},
		{[]int{9, 0, 2}, 9, 1, 2, false},
		{[]int{9, 1}, 9, 1, 2, false},
		{nil, 1, 1, 1, false},
	} {
		if got := stayed(c.counts, c.most, c.least, c.end); got != c.want {
			t.Errorf("%v: %v", c, got)
		}
	}
}
