package document

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// rack is a small file with every kind of value.
type rack struct {
	Name     string
	Count    int
	On       bool
	Mode     string
	PPS, BPS float64
	Share    float64
	Wait     time.Duration
	Gateway  netip.Addr
	Limit    *float64
	Prefixes []netip.Prefix
	Tags     []string
	Hosts    []host
	Groups   []hostGroup
}

type host struct {
	Name string
	Port int
}

type hostGroup struct {
	Name  string
	Hosts []host
	Limit *float64
}

func newRack() *rack {
	return &rack{Name: "rack", Count: 1, Mode: "slow", PPS: 1000, BPS: 1e6, Share: 0.5, Wait: time.Second}
}

func (r *rack) schema() Value {
	hosts := func(dst *[]host) Value {
		return List(dst, func() host { return host{Port: 80} }, func(h *host) Value {
			return Section(
				Field{Key: "name", Value: Scalar(&h.Name, Text(1, 20)), Required: true, Help: "Name of the host."},
				Field{Key: "port", Value: Scalar(&h.Port, Number(1, 65535)), Help: "Port of the host."},
			)
		})
	}
	return Section(
		Field{Key: "name", Value: Scalar(&r.Name, Word()), Help: "Name of the rack."},
		Field{Key: "switches", Help: "Plain values.", Value: Section(
			Field{Key: "count", Value: Scalar(&r.Count, Number(0, 10))},
			Field{Key: "on", Value: Scalar(&r.On, Bool())},
			Field{Key: "mode", Value: Scalar(&r.Mode, OneOf("slow", "fast"))},
		)},
		Field{Key: "units", Help: "Values with a unit.", Value: Section(
			Field{Key: "pps", Value: Scalar(&r.PPS, PPS())},
			Field{Key: "bps", Value: Scalar(&r.BPS, BPS())},
			Field{Key: "share", Value: Scalar(&r.Share, Percent(0, 1))},
			Field{Key: "wait", Value: Scalar(&r.Wait, Duration(0, 100*time.Hour))},
			Field{Key: "limit", Value: Optional(&r.Limit, PPS())},
		)},
		Field{Key: "gateway", Value: Scalar(&r.Gateway, OrEmpty(Addr()))},
		Field{Key: "prefixes", Value: OneOrMore(&r.Prefixes, Prefix())},
		Field{Key: "tags", Value: Scalars(&r.Tags, Text(0, 30))},
		Field{Key: "hosts", Value: hosts(&r.Hosts)},
		Field{Key: "groups", Value: Named(&r.Groups, Word(), func(g *hostGroup) *string { return &g.Name }, func(g *hostGroup) Value {
			return Section(
				Field{Key: "hosts", Value: hosts(&g.Hosts)},
				Field{Key: "limit", Value: Optional(&g.Limit, PPS())},
			)
		})},
	)
}

// equal compares what is in force; an empty list and none are the same.
var equal = []cmp.Option{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}

// TestGolden reads testdata/*.yaml and compares the problems, or what is in force, with what was reviewed.
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
			r := newRack()
			var got string
			if err := Read(filepath.Base(file), text, r.schema()).Err(); err != nil {
				got = err.Error() + "\n"
			} else {
				b, err := Write(r.schema())
				if err != nil {
					t.Fatal(err)
				}
				got = string(b)
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

func TestBounds(t *testing.T) {
	deep := strings.Repeat("a: {", MaxDepth) + strings.Repeat("}", MaxDepth)
	var bomb strings.Builder
	bomb.WriteString("a: &a [x, x, x, x, x, x, x, x, x]\n")
	for c := 'b'; c <= 'z'; c++ {
		p := string(c - 1)
		bomb.WriteString(string(c) + ": &" + string(c) + " [" + strings.Repeat("*"+p+",", 8) + "*" + p + "]\n")
	}
	for _, tc := range []struct{ name, text, want string }{
		{"size", strings.Repeat("#", MaxSize+1), "at most 1048576 are read"},
		{"depth", deep, "nested more than 16 levels deep"},
		{"depth of the parser", strings.Repeat("[", 20000), "is not YAML"},
		{"aliases", bomb.String(), "is an anchor, which is not read"},
		{"alias of itself", "a: &a [*a]", "is an anchor"},
		{"unknown keys", strings.Repeat("x", 30) + ": 1", "is not a key here; known are name"},
		{"many problems", "tags: [" + strings.Repeat("{}, ", 5000) + "]", "and very many more problems"},
		{"many keys", func() string {
			var b strings.Builder
			for i := range 50000 {
				b.WriteString("k" + strings.Repeat("y", i%7) + string(rune('a'+i%26)) + ": [[\n]]\n")
			}
			return b.String()
		}(), "more problems"},
		{"not UTF-8", "name: \xff\xfe", "is not YAML"},
		{"null byte", "name: \x00", "is not YAML"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := Read("f.yaml", []byte(tc.text), newRack().schema()).Err()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %.300v, want %q", err, tc.want)
			}
			if n := strings.Count(err.Error(), "\n"); n > MaxProblems {
				t.Errorf("%d lines are told, more than %d", n, MaxProblems)
			}
			var ps Problems
			if !errors.As(err, &ps) || ps[0].File != "f.yaml" {
				t.Errorf("%T is not Problems of f.yaml", err)
			}
		})
	}
}

func TestFileOfMaxSizeIsRead(t *testing.T) {
	text := []byte("tags:\n")
	for len(text) < MaxSize-10 {
		text = append(text, "- a\n"...)
	}
	r := newRack()
	if err := Read("f.yaml", text, r.schema()).Err(); err != nil {
		t.Fatal(err)
	}
	if len(r.Tags) < 250_000 {
		t.Errorf("%d tags were read", len(r.Tags))
	}
}

func TestCallersProblemsFindTheirLine(t *testing.T) {
	text := "name: a\nhosts:\n- name: x\n\n- port: 70000\n  name: y\ngroups:\n  g:\n    hosts: []\n"
	r := Read("f.yaml", []byte(text), newRack().schema())
	r.Add("hosts[0].name", "is taken")
	r.Add("hosts[1].port", "is not told, for the port was not read")
	r.Add("hosts[1]", "is not told either")
	r.Suggest("groups.g.limit", "1 kpps", "is missing")
	r.Add("units.pps", "is a default")
	want := "f.yaml: units.pps: is a default\n" +
		"f.yaml:3: hosts[0].name: is taken\n" +
		"f.yaml:5: hosts[1].port: 70000 is not from 1 to 65535\n" +
		"f.yaml:8: groups.g.limit: is missing; did you mean \"1 kpps\"?"
	if got := r.Err().Error(); got != want {
		t.Error(cmp.Diff(want, got))
	}
	if !r.Has("groups.g.hosts") || r.Has("groups.g.limit") {
		t.Error("Has does not know which keys stood in the file")
	}
}

func TestUnreadFileGetsNoProblemsOfTheCaller(t *testing.T) {
	for _, text := range []string{"a: b: c", "- name", "x\n---\ny", "5"} {
		r := Read("f.yaml", []byte(text), newRack().schema())
		before := r.Err().Error()
		r.Add("hosts", "is empty")
		if after := r.Err().Error(); after != before {
			t.Errorf("%q: a second problem was added:\n%s", text, after)
		}
	}
}

func TestKeysOfASchema(t *testing.T) {
	var got []string
	for _, k := range Keys(newRack().schema()) {
		got = append(got, strings.TrimSpace(k.Path+" | "+k.Type+" | "+k.Default))
	}
	want := []string{
		"name | name | rack", "switches |  |", "switches.count | number, 0 to 10 | 1", "switches.on | true or false | false",
		"switches.mode | slow or fast | slow", "units |  |", "units.pps | packet rate such as 20 kpps | 1 kpps",
		"units.bps | bit rate such as 1.5 Gbps | 1 Mbps", "units.share | percentage, 0% to 100% | 50%",
		"units.wait | duration, 0s to 100h | 1s", "units.limit | packet rate such as 20 kpps |", "gateway | address |",
		"prefixes | prefix, or a list of them | []", "tags | list of text | []", "hosts | list | []", "hosts[].name | text |",
		"hosts[].port | number, 1 to 65535 | 80", "groups | mapping by name | {}", "groups.NAME.hosts | list | []",
		"groups.NAME.hosts[].name | text |", "groups.NAME.hosts[].port | number, 1 to 65535 | 80",
		"groups.NAME.limit | packet rate such as 20 kpps |",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// FuzzRead: no text makes the reader panic or tell an error without the file's name, and what is read is written so
// that it reads back equal.
func FuzzRead(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "../config/testdata/*.yaml", "../../policy/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r := newRack()
		if err := Read("f.yaml", text, r.schema()).Err(); err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				if !strings.HasPrefix(line, "f.yaml:") {
					t.Fatalf("a problem without its file: %q", line)
				}
			}
			return
		}
		written, err := Write(r.schema())
		if err != nil {
			t.Fatalf("%v\n%+v", err, r)
		}
		again := newRack()
		if err := Read("written.yaml", written, again.schema()).Err(); err != nil {
			t.Fatalf("%v\n%s", err, written)
		}
		if d := cmp.Diff(r, again, equal...); d != "" {
			t.Fatalf("%s\n%s", d, written)
		}
	})
}
