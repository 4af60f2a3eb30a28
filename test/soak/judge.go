package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// verdict is what became of one figure of a process between the middle and the last third.
type verdict struct {
	Process, Figure string
	Middle, Last    float64
	Allowed         float64 // growth
	PerRule         float64 // growth by each rule announced meanwhile
	Grew            bool
	LookAt          string `json:",omitempty"`
}

// enough is how many rules the lone speaker must have had in a third: so many of 200 octets that stay are seen.
const enough = 20_000

// allowed is the growth that is noise: a share of what was, and no less than an amount.
var allowed = map[string]struct{ share, least float64 }{
	heap:        {0.05, 2 << 20},
	resident:    {0.2, 24 << 20},
	goroutines:  {0.02, 3},
	descriptors: {0.02, 3},
}

// A size of the product's own may grow by a fifth, or by what 20 seconds of attacks are: a slow machine ends them later.
var allowedSize = struct{ share, least float64 }{0.2, 400}

var allowedBytes = struct{ share, least float64 }{0.5, 4 << 20}

// floor is the first decile: what is there when the passing things are gone.
func floor(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	slices.Sort(values)
	return values[len(values)/10]
}

// judge compares the last third with the one in the middle. The first is for caches and tables to fill.
func (r *result) judge(span float64) {
	type key struct{ process, figure string }
	thirds := [3]map[key][]float64{{}, {}, {}}
	rules := [3]map[string][]float64{{}, {}, {}}
	for _, x := range r.Samples {
		third := min(int(3*x.At/span), 2)
		for process, f := range x.Processes {
			if n := x.rules(process); n > 0 {
				rules[third][process] = append(rules[third][process], n)
			}
			for figure, v := range f {
				k := key{process, figure}
				thirds[third][k] = append(thirds[third][k], v)
			}
		}
		if one, two := x.Processes["controller one"], x.Processes["controller two"]; one != nil && two != nil {
			for figure := range allowed {
				k := key{controllers, figure}
				thirds[third][k] = append(thirds[third][k], one[figure]+two[figure])
			}
			rules[third][controllers] = append(rules[third][controllers], x.rules(controllers))
		}
	}
	for i, what := range []string{"first", "middle", "last"} {
		if x := rules[i]["speaker three"]; i > 0 && (len(x) == 0 || x[len(x)-1]-x[0] < enough) {
			r.Failures = append(r.Failures, fmt.Sprintf("in the %s third speaker three had less than %d rules: too few to tell what each of them leaves; a longer SOAK has more", what, enough))
		}
	}
	keys := slices.SortedFunc(maps.Keys(thirds[2]), func(a, b key) int {
		return slices.Compare([]string{a.process, a.figure}, []string{b.process, b.figure})
	})
	for _, k := range keys {
		if k.figure == announced {
			continue
		}
		v := verdict{Process: k.process, Figure: k.figure, Middle: floor(thirds[1][k]), Last: floor(thirds[2][k])}
		if math.IsNaN(v.Middle) {
			r.Failures = append(r.Failures, fmt.Sprintf("%s told of its %s in the last third only", k.process, k.figure))
			continue
		}
		apart := max(1, floor(rules[2][k.process])-floor(rules[1][k.process]))
		a, ok := allowed[k.figure]
		switch {
		case !ok && strings.HasSuffix(k.figure, "_bytes"):
			a = allowedBytes
		case !ok:
			a = allowedSize
		}
		v.Allowed = max(a.least, a.share*v.Middle)
		v.PerRule = (v.Last - v.Middle) / apart
		// etcd is not ours, and what a controller needs changes with who leads: that is told and not judged.
		v.Grew = v.Last-v.Middle > v.Allowed && !(isGeneric(k.figure) && (k.process == "etcd" || isController(k.process)))
		if v.Grew {
			v.LookAt = lookAt(k.process, k.figure)
			r.Failures = append(r.Failures, fmt.Sprintf("%s of %s grew from %s to %s, %.4g for each rule: look at %s",
				k.figure, k.process, amount(k.figure, v.Middle), amount(k.figure, v.Last), v.PerRule, v.LookAt))
		}
		r.Processes = append(r.Processes, v)
	}
	for _, process := range []string{"controller one", "controller two", "speaker one", "speaker two", "speaker three", "sensor victim"} {
		if _, ok := thirds[2][key{process, heap}]; !ok {
			r.Failures = append(r.Failures, process+" told nothing in the last third")
		}
	}
}

// Both controllers are judged together: one of them leads, and it needs more.
const controllers = "controllers"

func isController(process string) bool { return strings.HasPrefix(process, "controller ") }

func isGeneric(figure string) bool { _, ok := allowed[figure]; return ok }

// lookAt says where to go on.
func lookAt(process, figure string) string {
	switch figure {
	case heap, resident:
		return "/debug/pprof/heap of " + process + " (pprof: true), twice, with go tool pprof -base"
	case goroutines:
		return "/debug/pprof/goroutine?debug=1 of " + process
	case descriptors:
		return "/proc/PID/fd of " + process
	}
	return "docs/metrics.md, and what gives back what it counts"
}

func amount(figure string, v float64) string {
	if figure == heap || figure == resident {
		return octets(v)
	}
	return fmt.Sprintf("%.0f", v)
}

func octets(v float64) string { return fmt.Sprintf("%.1f MB", v/1e6) }

// show prints the generic figures as a table.
func show(w io.Writer, r *result) {
	fmt.Fprintln(w)
	if n := len(r.Samples); n > 0 {
		fmt.Fprintf(w, "%.0f rules by each controller, %.0f by the third speaker", r.Samples[n-1].rules("speaker one"), r.Samples[n-1].rules("speaker three"))
	}
	for _, what := range slices.Sorted(maps.Keys(r.Counts)) {
		fmt.Fprintf(w, ", %d %s", r.Counts[what], what)
	}
	fmt.Fprintf(w, "\n\n  %-16s %-12s %12s %12s %12s\n", "process", "floor of", "middle third", "last third", "a rule")
	for _, v := range r.Processes {
		mark := " "
		if v.Grew {
			mark = "!"
		} else if !isGeneric(v.Figure) {
			continue
		}
		fmt.Fprintf(w, "%s %-16s %-12s %12s %12s %12.4g\n", mark, v.Process, v.Figure, amount(v.Figure, v.Middle), amount(v.Figure, v.Last), v.PerRule)
	}
	if n := len(r.Samples); n > 0 {
		last := r.Samples[n-1].Disk
		for _, dir := range slices.Sorted(maps.Keys(last)) {
			fmt.Fprintf(w, "  %-16s %-12s %12s %12s\n", dir, "disk", octets(r.Samples[n*2/3].Disk[dir]), octets(last[dir]))
		}
	}
}
