package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Page renders docs/interop.md. A run writes it only when every cell did as meant or as listed, so it follows from the
// cells, the deviations and the versions of the routers.
func Page(cells []Cell, versions map[string]string) string {
	var b strings.Builder
	b.WriteString(pageHead)

	b.WriteString("| router | version | Debian's package | read by | cells | as meant | deviations |\n|---|---|---|---|---|---|---|\n")
	for _, im := range implementations {
		good := 0
		var ds []string
		for _, c := range cells {
			if d := listed(im.Name, c); d == nil {
				good++
			} else if !slices.Contains(ds, d.link()) {
				ds = append(ds, d.link())
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %d | %d | %s |\n", im.Name, versions[im.Name], im.Package, im.Reads, len(cells), good, strings.Join(ds, " "))
	}

	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		fmt.Fprintf(&b, "\n## Matches and blackholes, %s\n\nEach row was tried with every action of the table below, the first row of a component with all, the others with the first four.\n\n", map[route.Family]string{route.IPv4: "IPv4", route.IPv6: "IPv6"}[f])
		table(&b, []string{"component", "how", "for example"}, rows(cells, func(c Cell) ([]string, bool) {
			return []string{c.Component, c.Operator, "`" + example(c) + "`"}, c.Family == f
		}), func(d *Deviation) bool { return !d.ByAction })
	}

	b.WriteString("\n## Actions\n\nThe first four of a family were tried with every match, the others with one of each component and with all components together.\n\n")
	table(&b, []string{"action", "family"}, rows(cells, func(c Cell) ([]string, bool) {
		return []string{"`" + c.Action + "`", c.Family.String()}, !c.Route.IsBlackhole()
	}), func(d *Deviation) bool { return d.ByAction || d.Outcome == notSent })

	b.WriteString("\n## Two speakers, of which one goes away\n\nBoth announce the same rules and blackholes of both families to FRR and to BIRD, which keep for " + failoverRestart.String() + " what a lost\n" +
		"session told them. Throughout, each router's own account is read, over and over; every change of its kernel's routes is kept, and every\n" +
		"UPDATE with which it tells a neighbour of its own of the rules. A rule or blackhole that is missing once, a withdrawal, and a deletion fail\n" +
		"the run.\n\n| event | FRR | BIRD |\n|---|---|---|\n")
	for _, e := range failoverEvents {
		fmt.Fprintf(&b, "| %s | no gap | no gap |\n", e)
	}
	b.WriteString("\nOne thing is known: " + reinstalls + "\n")

	fmt.Fprintf(&b, restartPart, restartTime, longLived, restartTime, restartTime+longLived, generousTime)
	fmt.Fprintf(&b, randomPart, fixedRules)

	b.WriteString("\n## Deviations\n\nAll that are known. Evidence is what the router's tool or our speaker says; a run demands that it does.\n")
	for _, d := range Deviations {
		n := 0
		for _, c := range cells {
			if l := listed(d.Router, c); l != nil && l.Number == d.Number {
				n++
			}
		}
		fmt.Fprintf(&b, "\n### %s\n\n%s, %d cells: %s. Evidence: `%s`.\n\n%s\n", d.name(), d.Router, n, d.Outcome, strings.Join(d.Shows, "` or `"), d.Because)
	}
	return b.String()
}

const pageHead = `# Interoperability

What the routers' own tools show of our rules, compared with what was meant. ` + "`make interop`" + ` writes this page and
build/interop.json, which has every cell: it starts each router of the table and our speaker, as its own process, in namespaces of
this machine, announces every component in every way we use it with every action, reads the router's account back into a rule,
compares, withdraws, and sees the rule gone. A cell that does otherwise and is not listed below fails the run, and so does one that
is listed and does as meant.

Routers are tried here with a profile that keeps nothing from them; docs/profiles.md says what those of FRR and BIRD keep from them.

FRR prints AND and OR between comparisons alike; one from above behind one from below is read as the end of a range, as its own
configuration has it. Rates are compared as the 32-bit floats they are on the wire.

That a router shows a rule does not say that its hardware applies it: of these five programs only FRR hands FlowSpec to the
kernel, where ipset and iptables are there.

`

const restartPart = `
## A speaker that is killed

One speaker asks for %[1]v of graceful restart (` + "`graceful_restart_time`" + `) and %[2]v of long-lived (` + "`long_lived_time`" + `), announces rules and blackholes
of both families and is killed (kill -9). The router is asked over and over. FRR keeps nothing for long unless
it has a ` + "`bgp long-lived-graceful-restart stale-time`" + ` of its own, here one of %[5]v: it is ours that counts. BIRD does by default.

| | BIRD, all | FRR, blackholes | FRR, FlowSpec rules |
|---|---|---|---|
| it does not come back | kept; marked LLGR_STALE (65535:6) after %[3]v; gone after %[4]v | kept; marked after %[3]v; gone after %[4]v | dropped with the session |
| it comes back within the graceful restart time | no gap, never marked | no gap, never marked | gone until it is back |
| it comes back when they are long-lived stale | no gap, the mark goes | no gap, the mark goes | gone until it is back |
| a rule whose deadline passes meanwhile | kept, as no router knows of deadlines, until the speaker is back and does not announce it, or as above | | dropped with the session |

Where a second speaker has announced the same rules, its path becomes the best at BIRD when that of the killed one is marked.
FRR 8.4 keeps no FlowSpec rule through a restart, graceful or long-lived, whatever both sides offer. The longest that a rule can outlive its deadline is both times together, from the moment the last speaker of a router
dies; a configuration in which they exceed ` + "`safety.max_age`" + ` is refused.
Read [operations.md](operations.md#start-and-stop) before ` + "`long_lived_time`" + ` is set.
`

const randomPart = `
## Random rules

%d rules of a fixed seed go to each router besides, of many components, lists, ranges, flags and actions at once, and are read back as the
cells are; ` + "`make interop-fuzz SEED=7 COUNT=5000`" + ` sends others. A deviation below that is about the match leaves a rule out; of one
that is about the action, the match is compared. What differs otherwise is told with the seed, as text and octets, shrunk to the smallest
rule that still differs, and fails the run. Each also goes the other way: BIRD is told the rule in its own language, as ` + "`tmctl route render`" + `
writes it, and what BIRD puts on the wire must mean the same to our decoder.

Found so, and taken care of:

- GoBGP, the library that keeps our sessions, takes the octets of some prefixes with an offset for others and would send another rule. Since
  then the speaker writes its UPDATEs itself.
- BIRD 2.0 keeps 16 bits of a flow label in its configuration and announces another rule without a word, as it does with an offset within an
  octet. ` + "`tmctl route render`" + ` refuses to write either for it. What BIRD receives it holds whole.
`

// row is one line of a table and the cells it stands for.
type row struct {
	head  []string
	cells []Cell
}

// rows groups cells by the head that key gives them, in order of their first. The last column of an example is that of
// the first cell.
func rows(cells []Cell, key func(Cell) ([]string, bool)) []row {
	var out []row
	for _, c := range cells {
		head, ok := key(c)
		if !ok {
			continue
		}
		i := slices.IndexFunc(out, func(r row) bool { return slices.Equal(r.head[:2], head[:2]) })
		if i < 0 {
			out = append(out, row{head: head})
			i = len(out) - 1
		}
		out[i].cells = append(out[i].cells, c)
	}
	return out
}

// table writes rows with a column for each router: "=" where all cells are as meant but for deviations that concern
// does not speak of, else the deviations.
func table(b *strings.Builder, head []string, rs []row, concerns func(*Deviation) bool) {
	for _, im := range implementations {
		head = append(head, im.Name)
	}
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, r := range rs {
		line := slices.Clone(r.head)
		for _, im := range implementations {
			var ds []string
			for _, c := range r.cells {
				if d := listed(im.Name, c); d != nil && concerns(d) && !slices.Contains(ds, d.link()) {
					ds = append(ds, d.link())
				}
			}
			if len(ds) == 0 {
				ds = []string{"="}
			}
			line = append(line, strings.Join(ds, " "))
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(line, " | "))
	}
}

// example is the match of a cell, without the destination that is only there to tell cells apart.
func example(c Cell) string {
	text := c.Route.Match.String()
	if c.Component == "destination" || c.Component == "all" || c.Route.IsBlackhole() {
		return text
	}
	if rest, ok := strings.CutPrefix(text, "destination "+c.Route.Match.Destination.String()+" "); ok {
		return rest
	}
	return text
}

func (d Deviation) link() string {
	return fmt.Sprintf("[%s](#%s)", d.name(), strings.ToLower(d.name()))
}
