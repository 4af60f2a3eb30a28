package safety

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDocsNameEveryInvariant holds the table of docs/safety.md against the kernel: every invariant, in its order, with keys that
// there are, with words that it says, and with the test that goes red without it.
func TestDocsNameEveryInvariant(t *testing.T) {
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	keys := read("../../docs/configuration.md")
	_, table, _ := strings.Cut(read("../../docs/safety.md"), "<!-- begin invariants -->")
	table, _, ok := strings.Cut(table, "<!-- end invariants -->")
	if !ok {
		t.Fatal("docs/safety.md has no table of invariants between its marks")
	}
	reasons := whatIsSaid(t)
	e := parseEntry(t, "destination 192.0.2.7")
	reasons[Encoding] = append(reasons[Encoding], checkOne(Encoding, &entry{Entry: &e, Made: &Made{nlri: octets(t, "05 0120c0000208")}}))
	tests := read("safety_test.go")
	var documented []Invariant
	for _, line := range strings.Split(strings.TrimSpace(table), "\n")[2:] {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) != 6 || slices.Contains(cells, "") {
			t.Errorf("%q is not a row of six cells", line)
			continue
		}
		i := Invariant(strings.Trim(cells[0], "`"))
		documented = append(documented, i)

		named := regexp.MustCompile("`([a-z0-9_.]+)`").FindAllStringSubmatch(cells[3], -1)
		if len(named) == 0 && cells[3] != "none" {
			t.Errorf("%s: limit %q names no key", i, cells[3])
		}
		for _, k := range named {
			if !strings.Contains(keys, "| `"+k[1]+"` |") {
				t.Errorf("%s: there is no key %s", i, k[1])
			}
		}

		var pattern []string
		for part := range strings.SplitSeq(cells[4], "…") {
			pattern = append(pattern, regexp.QuoteMeta(part))
		}
		says := regexp.MustCompile("^" + strings.Join(pattern, ".*") + "$")
		if !slices.ContainsFunc(reasons[i], says.MatchString) {
			t.Errorf("%s does not say %q; it says %q", i, cells[4], reasons[i])
		}

		test := strings.Trim(cells[5], "`")
		name, sub, _ := strings.Cut(test, "/")
		if !strings.Contains(tests, "func "+name+"(") || name == "TestInvariants" && sub != string(i) {
			t.Errorf("%s: %s is not its test", i, test)
		}
	}
	if !slices.Equal(documented, Invariants()) {
		t.Errorf("docs/safety.md has %v\nthe kernel        %v", documented, Invariants())
	}
}

// whatIsSaid collects the reasons that the entries of the tests are refused with.
func whatIsSaid(t *testing.T) map[Invariant][]string {
	said := map[Invariant][]string{}
	collect := func(vs []Violation) {
		for _, v := range vs {
			said[v.Invariant] = append(said[v.Invariant], v.Reason)
		}
	}
	for _, tc := range perRoute {
		for _, bad := range tc.bad {
			collect(Check(now, limits(), []Entry{toEntry(t, bad)}))
		}
	}
	for _, tc := range perSet {
		l := limits()
		if tc.limit != nil {
			tc.limit(&l)
		}
		var set []Entry
		for _, text := range tc.set {
			e := parseEntry(t, strings.TrimPrefix(text, "! "))
			e.Manual = e.Manual || tc.invariant == QuotaOwnShare // it is about networks
			set = append(set, e)
		}
		collect(Check(now, l, set))
	}
	return said
}
