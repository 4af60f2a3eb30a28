package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// report is what build/bench.json holds.
type report struct {
	Attack     string            `json:"attack"`
	Machine    machine           `json:"machine"`
	Contenders map[string]result `json:"contenders"`
	// Ratio is how many times longer the other's median is than ours.
	Ratio float64 `json:"ratio_of_medians"`
	order []string
}

type machine struct {
	Kernel   string            `json:"kernel"`
	CPU      string            `json:"cpu"`
	Cores    int               `json:"cores"`
	Versions map[string]string `json:"versions"`
}

// result holds times from the first packet of the attack to the UPDATE at the router, in milliseconds.
type result struct {
	Runs     int       `json:"runs"`
	MedianMS float64   `json:"median_ms"`
	P99MS    float64   `json:"p99_ms"` // of few runs: the largest, by nearest rank
	MinMS    float64   `json:"min_ms"`
	MaxMS    float64   `json:"max_ms"`
	AllMS    []float64 `json:"all_ms"`
}

func newReport(cs []contender, times map[string][]float64) report {
	r := report{
		Attack:     fmt.Sprintf("%d packets/s of 512-octet DNS answers to one IPv4 host, threshold %d packets/s", attackPPS, thresholdPPS),
		Machine:    thisMachine(),
		Contenders: map[string]result{},
	}
	for _, c := range cs {
		r.order = append(r.order, c.name())
		all := times[c.name()]
		sorted := slices.Sorted(slices.Values(all))
		r.Contenders[c.name()] = result{
			Runs: len(all), MedianMS: rank(sorted, 50), P99MS: rank(sorted, 99), MinMS: sorted[0], MaxMS: sorted[len(sorted)-1], AllMS: all,
		}
	}
	r.Ratio = r.Contenders[r.order[1]].MedianMS / r.Contenders[r.order[0]].MedianMS
	return r
}

// rank is the nearest-rank percentile of sorted values.
func rank(sorted []float64, percent float64) float64 {
	return sorted[max(int(math.Ceil(percent/100*float64(len(sorted)))), 1)-1]
}

func (r report) print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n%s, %d cores, Linux %s\n\n", r.Attack, r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel)
	fmt.Fprintf(w, "%-16s %6s %10s %10s %10s %10s\n", "", "runs", "median ms", "p99 ms", "min ms", "max ms")
	for _, name := range r.order {
		x := r.Contenders[name]
		fmt.Fprintf(w, "%-16s %6d %10.2f %10.2f %10.2f %10.2f\n", name, x.Runs, x.MedianMS, x.P99MS, x.MinMS, x.MaxMS)
	}
	fmt.Fprintf(w, "\n%s takes %.0f times as long as %s (medians)\n", r.order[1], r.Ratio, r.order[0])
}

func thisMachine() machine {
	m := machine{CPU: "unknown", Cores: runtime.NumCPU(), Versions: map[string]string{"go": runtime.Version()}}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	for _, p := range []string{"fastnetmon", "gobgpd", "bird2"} {
		if out, err := exec.Command("dpkg-query", "-W", "-f", "${Version}", p).Output(); err == nil {
			m.Versions[p] = string(out)
		}
	}
	return m
}
