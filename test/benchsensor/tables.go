package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// table is printed with aligned columns, or as Markdown.
type table struct {
	title string
	rows  [][]string // the first is the head
}

// tables are what the report says.
func (r *report) tables() []table {
	var list []table
	if len(r.Goals) > 0 {
		t := table{"Goals", [][]string{{"what", "goal", "measured", "met"}}}
		for _, g := range r.Goals {
			t.rows = append(t.rows, []string{g.What, g.Goal, g.Value, map[bool]string{true: "yes", false: "no"}[g.Met]})
		}
		list = append(list, t)
	}
	if p := r.Packets; p != nil {
		t := table{
			fmt.Sprintf("Nanoseconds per packet, warm caches, medians of %d loads of %d rounds and their 10th to 90th percentile (%s, load %s)", loads, rounds, p.Stamp.Date, p.Stamp.Load),
			[][]string{{"packet", "ours", "", "floor", "", "empty", "× floor", "", "without empty", "what"}},
		}
		between := func(s spread) string { return fmt.Sprintf("%.0f–%.0f", s.P10, s.P90) }
		for _, name := range p.Order {
			k := p.Kinds[name]
			t.rows = append(t.rows, []string{
				name, fmt.Sprintf("%.1f", k.Ours.Median), between(k.Ours), fmt.Sprintf("%.1f", k.Floor.Median), between(k.Floor),
				fmt.Sprintf("%.1f", k.Empty.Median), fmt.Sprintf("%.2f", k.Ratio.Median), fmt.Sprintf("%.2f–%.2f", k.Ratio.P10, k.Ratio.P90), fmt.Sprintf("%.1f", k.Net.Median), k.Says,
			})
		}
		list = append(list, t)
		t = table{"Nanoseconds of a first packet, cold caches (64 MiB of other memory read before each)", [][]string{{"packet", "ours", "floor", "empty"}}}
		for _, name := range p.Order {
			if c := p.Kinds[name].Cold; c != nil {
				t.rows = append(t.rows, []string{name, fmt.Sprintf("%.0f", c.Ours), fmt.Sprintf("%.0f", c.Floor), fmt.Sprintf("%.0f", c.Empty)})
			}
		}
		list = append(list, t)
	}
	if p := r.Link; p != nil {
		for _, x := range []struct {
			title string
			by    map[string]map[string]linkCost
		}{{"host mode", p.Host}, {"mirror mode", p.Mirror}} {
			t := table{
				fmt.Sprintf("Processor seconds per million packets on veth, %s: sender, kernel and watcher together, and what watching adds (%s, load %s)", x.title, p.Stamp.Date, p.Stamp.Load),
				[][]string{{"who watches", "rate", "all", "least and largest", "watching adds", "whole machine"}},
			}
			for _, name := range []string{"nothing", "bare", "empty", "ours", "fastnetmon"} {
				for _, rate := range linkRates {
					if s, ok := x.by[name][rateName(rate)]; ok {
						t.rows = append(t.rows, []string{
							name, fmt.Sprintf("%.0fk/s", rate/1000), fmt.Sprintf("%.3f", s.Accounted.Median), fmt.Sprintf("%.3f–%.3f", s.Accounted.P10, s.Accounted.P90),
							fmt.Sprintf("%+.3f", over(x.by, name, rateName(rate))), fmt.Sprintf("%.3f", s.Machine.Median),
						})
					}
				}
			}
			list = append(list, t)
		}
		if len(p.Remarks) > 0 {
			t := table{"Remarks on the link", [][]string{{"what"}}}
			for _, remark := range p.Remarks {
				t.rows = append(t.rows, []string{remark})
			}
			list = append(list, t)
		}
	}
	if p := r.Capacity; p != nil {
		t := table{fmt.Sprintf("Mirror mode: million packets per second that one core generates and takes in (%s, load %s)", p.Stamp.Date, p.Stamp.Load), [][]string{{"who watches", "median", "least and largest", "by the clock"}}}
		for _, name := range []string{"empty", "bare", "ours", "empty_64k_targets", "bare_64k_targets", "ours_64k_targets"} {
			s := p.Mpps[name]
			clock := fmt.Sprintf("%.2f", p.Clock[name].Median)
			t.rows = append(t.rows, []string{strings.ReplaceAll(name, "_", " "), fmt.Sprintf("%.2f", s.Median), fmt.Sprintf("%.2f–%.2f", s.P10, s.P90), clock})
		}
		list = append(list, t)
	}
	if p := r.Memory; p != nil {
		t := table{fmt.Sprintf("Memory (%s, load %s)", p.Stamp.Date, p.Stamp.Load), [][]string{{"when", "resident, MB", "peak, MB"}}}
		for _, x := range [][2]string{{"idle", "at rest"}, {"1M", "1 M spoofed IPv4 sources"}, {"10M", "10 M spoofed IPv4 sources"}, {"1M_targets6", "1 M random targets in an IPv6 /64"}} {
			t.rows = append(t.rows, []string{x[1], fmt.Sprintf("%.1f", float64(p.RSS[x[0]])/1e6), fmt.Sprintf("%.1f", float64(p.Peak[x[0]])/1e6)})
		}
		t.rows = append(t.rows, []string{"maps in the kernel, fixed", fmt.Sprintf("%.1f", float64(p.MapBytes)/1e6), ""})
		list = append(list, t)
	}
	if p := r.Trigger; p != nil {
		t := table{fmt.Sprintf("Triggers, milliseconds (%s, load %s)", p.Stamp.Date, p.Stamp.Load), [][]string{{"from … to", "p50", "p99", "max", "n"}}}
		for _, x := range []struct {
			name string
			l    latency
		}{{"first packet over the trigger → report at the controller", p.PacketToController}, {"kernel's trigger → report handed to the stream, by the sensor's clock", p.KernelToStream}} {
			t.rows = append(t.rows, []string{x.name, fmt.Sprintf("%.2f", x.l.P50), fmt.Sprintf("%.2f", x.l.P99), fmt.Sprintf("%.2f", x.l.Max), fmt.Sprint(x.l.N)})
		}
		t.rows = append(t.rows, []string{"bursts not reported; bursts whose sender was interrupted", "", "", "", fmt.Sprintf("%d; %d", p.Missed, p.Torn)})
		list = append(list, t)
	}
	return list
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s, %d cores, Linux %s, %v\n", r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.Versions)
	for _, t := range r.tables() {
		fmt.Fprintf(w, "\n%s\n", t.title)
		tw := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
		for _, row := range t.rows {
			fmt.Fprintln(tw, strings.Join(row, "\t"))
		}
		tw.Flush()
	}
}

func (t table) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "**%s**\n\n", t.title)
	for i, row := range t.rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(&b, "|%s\n", strings.Repeat("---|", len(row)))
		}
	}
	return b.String()
}

// Between these lines of the documentation the tables are written.
const docsBegin, docsEnd = "<!-- bench-sensor: begin -->", "<!-- bench-sensor: end -->"

func (r *report) writeDocs(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), docsBegin)
	_, after, ended := strings.Cut(rest, docsEnd)
	if !ok || !ended {
		return fmt.Errorf("%s: no lines %q and %q to write between", path, docsBegin, docsEnd)
	}
	var sections []string
	for _, t := range r.tables() {
		sections = append(sections, t.markdown())
	}
	head := fmt.Sprintf("%s, %d cores, Linux %s", r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel)
	for _, name := range slices.Sorted(maps.Keys(r.Machine.Versions)) {
		head += fmt.Sprintf(", %s %s", name, r.Machine.Versions[name])
	}
	body := before + docsBegin + "\n\n" + head + ".\n\n" + strings.Join(sections, "\n") + "\n" + docsEnd + after
	return os.WriteFile(path, []byte(body), 0o644)
}
