package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func names(vs []vector.ID) (out []string) {
	for _, v := range vs {
		out = append(out, v.String())
	}
	return out
}

func join(vs []vector.ID) string { return strings.Join(names(vs), ",") }

var columns = []string{"scenario", "attack pps", "found", "named", "delay ms", "windows", "coverage", "collateral", "false"}

// rows is a line for each attack, and one for each scenario without.
func (c card) rows() (rows [][]string) {
	for _, s := range c.Scenarios {
		if len(s.Attacks) == 0 {
			rows = append(rows, []string{s.Scenario, "", "", "", "", "", "", "", fmt.Sprint(len(s.False))})
		}
		for _, a := range s.Attacks {
			row := []string{s.Scenario, fmt.Sprintf("%.0f", a.PPS), a.verdict(), strings.Join(a.Named, " "), "", "", "", "", fmt.Sprint(len(s.False))}
			if a.Detected {
				row[4], row[5] = fmt.Sprintf("%.1f", a.DelayMS), fmt.Sprint(a.Windows)
				row[7] = percent(a.Collateral)
				if a.Judged > 0 {
					row[6] = percent(a.Coverage)
				}
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// verdict is in a word what came of the attack.
func (a found) verdict() string {
	switch {
	case !a.Detected && a.Small:
		return "too small"
	case !a.Detected:
		return "MISSED"
	case !a.Accurate:
		return "misnamed"
	case a.More > 0:
		return fmt.Sprintf("%d times", a.More+1)
	}
	return "yes"
}

func percent(x float64) string { return fmt.Sprintf("%.2f %%", x*100) }

// lines are the figures of all.
func (o overall) lines() [][2]string {
	return [][2]string{
		{"scenarios", fmt.Sprintf("%d with %d attacks above the stated size and %d packets", o.Scenarios, o.Attacks, o.Packets)},
		{"recall", fmt.Sprintf("%.4f", o.Recall)},
		{"precision", fmt.Sprintf("%.4f (%d false incidents, %d of them in benign scenarios)", o.Precision, o.False, o.BenignFalse)},
		{"vector accuracy", fmt.Sprintf("%.4f", o.VectorAccuracy)},
		{"further incidents of an attack already found", fmt.Sprint(o.More)},
		{"delay from the first packet to the decision", fmt.Sprintf("p50 %.1f ms, p99 %.1f ms", o.DelayMS50, o.DelayMS99)},
		{"separable attacks covered to 95 % or more", fmt.Sprintf("%.4f", o.Covered)},
		{"median collateral of those", percent(o.MedianCollateral)},
	}
}

func (c card) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.Join(columns, "\t")))
	for _, row := range c.rows() {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush()
	fmt.Fprintln(w)
	for _, s := range c.Scenarios {
		for i, f := range s.False {
			if i == 5 {
				fmt.Fprintf(w, "false: %s: and %d more\n", s.Scenario, len(s.False)-i)
				break
			}
			fmt.Fprintf(w, "false: %s: %s\n", s.Scenario, f)
		}
	}
	for _, l := range c.Overall.lines() {
		fmt.Fprintf(w, "%s: %s\n", l[0], l[1])
	}
}

// The table stands between these lines.
const (
	beginMark = "<!-- eval: begin; written by make eval EVAL=\"-docs docs/eval.md\" -->"
	endMark   = "<!-- eval: end -->"
)

// writeDocs puts the table between the markers.
func writeDocs(path string, c card) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := bytes.Index(b, []byte(beginMark)), bytes.Index(b, []byte(endMark))
	if begin < 0 || end < begin {
		return fmt.Errorf("write the table to %s: the lines %q and %q are not there, in that order", path, beginMark, endMark)
	}
	var out bytes.Buffer
	out.Write(b[:begin+len(beginMark)])
	out.WriteString("\n\n| figure | value |\n|---|---|\n")
	for _, l := range c.Overall.lines() {
		fmt.Fprintf(&out, "| %s | %s |\n", l[0], l[1])
	}
	fmt.Fprintf(&out, "\n| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, row := range c.rows() {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(row, " | "))
	}
	out.WriteString("\n")
	out.Write(b[end:])
	return os.WriteFile(path, out.Bytes(), 0o644)
}
