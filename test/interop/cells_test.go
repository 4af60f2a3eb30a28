package main

import (
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func allCells(t *testing.T) []Cell {
	t.Helper()
	cells, err := Cells()
	if err != nil {
		t.Fatal(err)
	}
	return cells
}

// TestComplete holds the cells against package route: whatever can be said in a route is said in some cell of each
// family.
func TestComplete(t *testing.T) {
	cells := allCells(t)
	said := map[string]bool{}
	flags := map[string]uint64{}
	for _, c := range cells {
		for path := range leaves(reflect.ValueOf(c.Route), "Route") {
			said[c.Family.String()+" "+path] = true
		}
		for _, b := range c.Route.Match.TCPFlags {
			flags["set"] |= uint64(b.Set)
			flags["clear"] |= uint64(b.Clear)
		}
	}
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		for path := range paths(reflect.TypeFor[route.Route](), "Route") {
			if !said[f.String()+" "+path] && !notIn[f][path] {
				t.Errorf("no %s cell says %s: add a shape or an action", f, path)
			}
		}
		kinds := map[route.ActionKind]bool{}
		for _, c := range cells {
			kinds[c.Route.Action.Kind] = kinds[c.Route.Action.Kind] || c.Family == f
		}
		for k := route.ActionKind(1); !strings.HasPrefix(k.String(), "action-"); k++ {
			if !kinds[k] {
				t.Errorf("no %s cell has the action %s", f, k)
			}
		}
	}
	if all := uint64(0xfff); flags["set"] != all&^0xe00 || flags["clear"]&0xf00 != 0xf00 {
		t.Errorf("TCP flags 0x%x are set in some cell, and 0x%x clear", flags["set"], flags["clear"])
	}
	names := map[string]bool{}
	for _, c := range cells {
		if names[c.Name()] {
			t.Errorf("two cells are named %s", c.Name())
		}
		names[c.Name()] = true
	}
}

// notIn is what does not exist in a family, or what the safety kernel lets nobody send.
var notIn = map[route.Family]map[string]bool{
	route.IPv4: {"Route.Match.SourceOffset": true, "Route.Match.DestinationOffset": true, "Route.Match.FlowLabel.Lo": true, "Route.Match.FlowLabel.Hi": true},
	route.IPv6: {"Route.Match.DestinationOffset": true},
}

// leaf reports whether a type is a value of its own here.
func leaf(t reflect.Type) bool {
	return t == reflect.TypeFor[netip.Prefix]() || t == reflect.TypeFor[netip.Addr]() || t.Kind() != reflect.Struct && t.Kind() != reflect.Slice
}

// paths are the fields of a type.
func paths(t reflect.Type, at string) map[string]bool {
	out := map[string]bool{}
	switch {
	case leaf(t):
		out[at] = true
	case t.Kind() == reflect.Slice:
		return paths(t.Elem(), at)
	default:
		for i := range t.NumField() {
			for p := range paths(t.Field(i).Type, at+"."+t.Field(i).Name) {
				out[p] = true
			}
		}
	}
	return out
}

// leaves are the fields of a value that say something.
func leaves(v reflect.Value, at string) map[string]bool {
	out := map[string]bool{}
	switch {
	case leaf(v.Type()):
		if !v.IsZero() {
			out[at] = true
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			for p := range leaves(v.Index(i), at) {
				out[p] = true
			}
		}
	default:
		for i := range v.NumField() {
			for p := range leaves(v.Field(i), at+"."+v.Type().Field(i).Name) {
				out[p] = true
			}
		}
	}
	return out
}

// Each deviation is about some cell, and no cell goes wrong in two ways at once.
func TestDeviations(t *testing.T) {
	cells := allCells(t)
	for i, d := range Deviations {
		if d.Number != i+1 {
			t.Errorf("%s stands as number %d", d.name(), i+1)
		}
		if len(d.Shows) == 0 || d.Because == "" || !slices.Contains(outcomes, d.Outcome) {
			t.Errorf("%s lacks its outcome, evidence or reason", d.name())
		}
		n := 0
		for _, c := range cells {
			if !d.holds(d.Router, c.Route) {
				continue
			}
			n++
			if other := listed(d.Router, c); other.Number != d.Number && other.Outcome == d.Outcome {
				t.Errorf("%s is in %s and %s", c.Name(), other.name(), d.name())
			}
		}
		if n == 0 {
			t.Errorf("%s is about no cell", d.name())
		}
	}
}

// The judge is judged: a run that differs from what is listed is wrong, in either direction.
func TestMark(t *testing.T) {
	cells := allCells(t)
	at := func(name string) Cell {
		for _, c := range cells {
			if c.Name() == name {
				return c
			}
		}
		t.Fatalf("no cell %q", name)
		return Cell{}
	}
	good := func(router string, c Cell) Result {
		return Result{Router: router, cell: c, Sent: true, Accepted: true, ReadBackEqual: true, Withdrawn: true}
	}
	plain, packets := at("ipv4 port =, discard"), at("ipv4 port =, rate-limit 1kpps")
	for name, c := range map[string]struct {
		r     Result
		wrong string
	}{
		"as meant":        {good("FRR", plain), ""},
		"not listed":      {Result{Router: "FRR", cell: plain, Sent: true, Accepted: true, Withdrawn: true}, "reads differently, which is not listed"},
		"stays":           {Result{Router: "FRR", cell: plain, Sent: true, Accepted: true, ReadBackEqual: true}, "stays, which is not listed"},
		"listed":          {Result{Router: "FRR", cell: packets, Sent: true, Accepted: true, Withdrawn: true, raw: "UNK:128, 12"}, ""},
		"no longer":       {good("FRR", packets), "remove it"},
		"another outcome": {Result{Router: "FRR", cell: packets, Sent: true}, "not accepted, though D1 says"},
		"no evidence":     {Result{Router: "FRR", cell: packets, Sent: true, Accepted: true, Withdrawn: true, raw: "FS:rate 5"}, "evidence of D1"},
	} {
		if got := mark(&c.r); c.wrong == "" && got != "" || !strings.Contains(got, c.wrong) {
			t.Errorf("%s: %q, want %q", name, got, c.wrong)
		}
	}
}

// TestPage holds docs/interop.md against the cells and deviations: it is what a run of this code would write.
func TestPage(t *testing.T) {
	raw, err := os.ReadFile("../../docs/interop.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	versions := map[string]string{}
	for line := range strings.Lines(page) {
		w := strings.Split(line, "|")
		for _, im := range implementations {
			if len(w) > 3 && strings.TrimSpace(w[1]) == im.Name {
				versions[im.Name] = strings.TrimSpace(w[2])
			}
		}
	}
	for _, im := range implementations {
		if versions[im.Name] == "" {
			t.Errorf("the page has no version of %s", im.Name)
		}
	}
	want := Page(allCells(t), versions)
	if page == want {
		return
	}
	have, lines := strings.Split(page, "\n"), strings.Split(want, "\n")
	for i := range max(len(have), len(lines)) {
		if i >= len(have) || i >= len(lines) || have[i] != lines[i] {
			t.Fatalf("docs/interop.md is not what this code would write, from line %d on: run \"make interop\"", i+1)
		}
	}
}

func TestHolds(t *testing.T) {
	for text, want := range map[string]bool{
		"dst 10.128.0.1/32;": true, "10.128.0.1": true, "110.128.0.1/32": false, "10.128.0.11/32": false, "10.128.0.12 10.128.0.1/32": true, "": false,
	} {
		if got := containsAddress(text, "10.128.0.1"); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
