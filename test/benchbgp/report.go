package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is what build/bench-bgp.json holds. Times are milliseconds.
type report struct {
	Date     string              `json:"date"`
	Load     string              `json:"load_average"`
	Machine  string              `json:"machine"`
	Version  string              `json:"version"`
	Cells    []cell              `json:"cells"`
	CPU      map[string]pairOf   `json:"cpu_us_per_change"` // of a rule at all routers, by rules and routers
	Resident map[string]pairOf   `json:"rss_bytes"`         // with 10,000 rules, by routers
	Urgent   map[string][]urgent `json:"urgent"`            // by contender
	Goals    []goal              `json:"goals"`
}

type pairOf struct {
	Ours float64 `json:"ours"`
	Bare float64 `json:"bare"`
}

type cell struct {
	What    string  `json:"what"`
	Rules   int     `json:"rules"`
	Routers int     `json:"routers"`
	Ours    spread  `json:"ours_ms"`
	Bare    spread  `json:"bare_ms"`
	Ratio   float64 `json:"ratio"` // of the medians
}

type urgent struct {
	ProgramRate int       `json:"program_rate"`
	Took        spread    `json:"took_ms"`
	Handed      spread    `json:"handed_over_ms"` // of it, until the sender had answered
	Behind      spread    `json:"passed"`         // rules of the backlog that came later
	HandedOver  []float64 `json:"-"`
}

// spread is a median with the tenth and the ninetieth percentile; of few values these are the least and the largest.
type spread struct {
	Median float64 `json:"median"`
	P10    float64 `json:"p10"`
	P90    float64 `json:"p90"`
	N      int     `json:"n"`
}

func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	rank := func(percent float64) float64 {
		return sorted[max(int(math.Ceil(percent/100*float64(len(sorted)))), 1)-1]
	}
	return spread{rank(50), rank(10), rank(90), len(sorted)}
}

func (s spread) String() string { return fmt.Sprintf("%.4g (%.4g–%.4g)", s.Median, s.P10, s.P90) }

type goal struct {
	What string  `json:"what"`
	Goal float64 `json:"goal"`
	Got  float64 `json:"got"`
	Met  bool    `json:"met"`
}

func newReport(program string) *report {
	r := &report{
		Date: time.Now().UTC().Format(time.RFC3339), CPU: map[string]pairOf{}, Resident: map[string]pairOf{}, Urgent: map[string][]urgent{},
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Load = strings.Join(strings.Fields(string(b))[:3], " ")
	}
	model := "unknown"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		r.Machine = fmt.Sprintf("%s, %d cores, Linux %s, %s", model, runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), runtime.Version())
	}
	if out, err := exec.Command(program, "--version").Output(); err == nil {
		r.Version = strings.TrimSpace(string(out))
	}
	return r
}

func (r *report) add(what string, rules, routers int, ours, bare []float64) {
	c := cell{What: what, Rules: rules, Routers: routers, Ours: spreadOf(ours), Bare: spreadOf(bare)}
	c.Ratio = c.Ours.Median / c.Bare.Median
	r.Cells = append(r.Cells, c)
	fmt.Fprintf(os.Stderr, "%-8s %5d rules, %d routers: ours %s ms, bare %s ms, %.2f×\n", what, rules, routers, c.Ours, c.Bare, c.Ratio)
}

// memory keeps the largest resident size seen while all rules are announced.
func (r *report) memory(c contender, routers int) {
	now, _ := resident(c.sender.process())
	k := fmt.Sprintf("routers=%d", routers)
	p := r.Resident[k]
	if c.name == "ours" {
		p.Ours = max(p.Ours, float64(now))
	} else {
		p.Bare = max(p.Bare, float64(now))
	}
	r.Resident[k] = p
}

func (r *report) judge() {
	for _, c := range r.Cells {
		if c.Rules == 10_000 {
			r.Goals = append(r.Goals, goal{fmt.Sprintf("%s 10,000 rules to %d routers, times bare GoBGP", c.What, c.Routers), 1.3, c.Ratio, c.Ratio <= 1.3})
		}
	}
	for _, u := range r.Urgent["ours"] {
		r.Goals = append(r.Goals, goal{fmt.Sprintf("urgent rule past 10,000 at program_rate %d, ms", u.ProgramRate), 50, u.Took.Median, u.Took.Median <= 50})
	}
}

func (r *report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s, %s, load %s. Median (10th–90th percentile) in milliseconds.\n\n", r.Machine, r.Version, r.Date, r.Load)
	b.WriteString("| | rules | routers | ours | bare GoBGP | ratio | n |\n|---|---|---|---|---|---|---|\n")
	for _, c := range r.Cells {
		fmt.Fprintf(&b, "| %s | %d | %d | %s | %s | %.2f | %d |\n", c.What, c.Rules, c.Routers, c.Ours, c.Bare, c.Ratio, c.Ours.N)
	}
	b.WriteString("\n| one urgent rule while 10,000 are on their way to 1 router | to the router | of it handing the set over | passed of the backlog | n |\n|---|---|---|---|---|\n")
	for _, name := range []string{"ours", "bare"} {
		for _, u := range r.Urgent[name] {
			what := map[string]string{"ours": "ours", "bare": "bare GoBGP"}[name]
			if u.ProgramRate > 0 {
				what += fmt.Sprintf(", `program_rate: %d`", u.ProgramRate)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %d |\n", what, u.Took, u.Handed, u.Behind, u.Took.N)
		}
	}
	b.WriteString("\n| cost | ours | bare GoBGP |\n|---|---|---|\n")
	for _, routers := range []int{1, 4} {
		m := r.Resident[fmt.Sprintf("routers=%d", routers)]
		fmt.Fprintf(&b, "| resident with 10,000 rules, %d routers, MB | %.0f | %.0f |\n", routers, m.Ours/1e6, m.Bare/1e6)
		c := r.CPU[fmt.Sprintf("rules=10000/routers=%d", routers)]
		fmt.Fprintf(&b, "| processor time per rule announced or withdrawn, %d routers, µs | %.0f | %.0f |\n", routers, c.Ours, c.Bare)
	}
	return b.String()
}

// Between these lines of the documentation the table is written.
const docsBegin, docsEnd = "<!-- bench-bgp: begin -->", "<!-- bench-bgp: end -->"

func (r *report) writeDocs(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(text), docsBegin)
	_, tail, ok2 := strings.Cut(rest, docsEnd)
	if !ok || !ok2 {
		return errors.New(path + " has no lines " + docsBegin + " and " + docsEnd)
	}
	return os.WriteFile(path, []byte(head+docsBegin+"\n\n"+r.table()+"\n"+docsEnd+tail), 0o644)
}
