package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf/floor"
)

// report is what build/bench-sensor.json holds. The flat maps at its head are for programs, the parts for people.
type report struct {
	Machine machine `json:"machine"`

	NSPerPacket      map[string]float64 `json:"ns_per_packet,omitempty"`       // by door/kind
	FloorNSPerPacket map[string]float64 `json:"floor_ns_per_packet,omitempty"` // by door/kind
	CPUSPerMpkt      map[string]float64 `json:"cpu_s_per_mpkt,omitempty"`      // at the highest rate
	RSSBytes         map[string]uint64  `json:"rss_bytes,omitempty"`
	MapBytes         uint64             `json:"map_bytes,omitempty"`
	Goals            []goal             `json:"goals"`

	Packets  *packetPart   `json:"packets,omitempty"`
	Link     *linkPart     `json:"link,omitempty"`
	Capacity *capacityPart `json:"capacity,omitempty"`
	Memory   *memoryPart   `json:"memory,omitempty"`
	Trigger  *triggerPart  `json:"trigger,omitempty"`
}

// stamp says when a part was measured, and how busy the machine was just before.
type stamp struct {
	Date string `json:"date"`
	Load string `json:"load_average"`
}

func measuredNow() stamp { return stamp{time.Now().UTC().Format(time.RFC3339), loadAverage()} }

// spread is a median with the tenth and the ninetieth percentile; of few values these are the least and the largest.
type spread struct {
	Median float64 `json:"median"`
	P10    float64 `json:"p10"`
	P90    float64 `json:"p90"`
	N      int     `json:"n"`
}

func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	return spread{floor.Median(values), rank(sorted, 10), rank(sorted, 90), len(values)}
}

// rank is the nearest-rank percentile of sorted values.
func rank(sorted []float64, percent float64) float64 {
	return sorted[max(int(math.Ceil(percent/100*float64(len(sorted)))), 1)-1]
}

// packetPart is what BPF_PROG_RUN said, in nanoseconds per packet.
type packetPart struct {
	Stamp stamp                 `json:"measured"`
	Order []string              `json:"order"`
	Kinds map[string]packetCost `json:"kinds"` // by door/kind
}

type packetCost struct {
	Says  string    `json:"says"`
	Ours  spread    `json:"ours"`
	Floor spread    `json:"floor"`
	Empty spread    `json:"empty"`
	Ratio spread    `json:"ratio_by_round"`
	Net   spread    `json:"ratio_without_empty_by_round"`
	Cold  *coldCost `json:"cold,omitempty"`
}

type coldCost struct {
	Ours  float64 `json:"ours"`
	Floor float64 `json:"floor"`
	Empty float64 `json:"empty"`
}

// linkPart holds processor seconds per million packets, by watcher and rate.
type linkPart struct {
	Stamp   stamp                          `json:"measured"`
	Host    map[string]map[string]linkCost `json:"host_cpu_s_per_mpkt"`
	Mirror  map[string]map[string]linkCost `json:"mirror_cpu_s_per_mpkt"`
	Remarks []string                       `json:"remarks,omitempty"`
}

type linkCost struct {
	// Accounted is the sender's time with what its packets cost in the kernel, and the watching process's.
	Accounted spread `json:"accounted"`
	// Machine is what the whole machine worked.
	Machine spread `json:"machine"`
}

// capacityPart holds millions of packets per second that one processor generates and takes in, in mirror mode, by watcher.
type capacityPart struct {
	Stamp stamp             `json:"measured"`
	Mpps  map[string]spread `json:"mirror_mpps_one_core"` // per second of the processor's time that went into it
	Clock map[string]spread `json:"mirror_mpps_by_clock"`
}

// over is what a watcher adds to the accounted work, over that of nobody watching.
func over(by map[string]map[string]linkCost, name, rate string) float64 {
	return by[name][rate].Accounted.Median - by["nothing"][rate].Accounted.Median
}

type memoryPart struct {
	Stamp       stamp             `json:"measured"`
	IdlePercent float64           `json:"idle_percent_of_a_core"`
	RSS         map[string]uint64 `json:"rss_bytes"`
	Peak        map[string]uint64 `json:"peak_rss_bytes"`
	MapBytes    uint64            `json:"map_bytes"`
}

type triggerPart struct {
	Stamp              stamp   `json:"measured"`
	PacketToController latency `json:"packet_to_controller_ms"`
	KernelToStream     latency `json:"kernel_trigger_to_stream_ms"`
	// Missed bursts passed the trigger inside one window and were not reported within seconds; of Torn ones the sender was
	// interrupted for so long that no window may have held enough of them.
	Missed int `json:"missed"`
	Torn   int `json:"torn"`
}

type latency struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
	N   int     `json:"n"`
}

func latencyOf(values []float64) latency {
	sorted := slices.Sorted(slices.Values(values))
	return latency{rank(sorted, 50), rank(sorted, 99), sorted[len(sorted)-1], len(sorted)}
}

// goal is a budget of ours and what became of it.
type goal struct {
	What  string `json:"what"`
	Goal  string `json:"goal"`
	Value string `json:"value"`
	Met   bool   `json:"met"`
}

// judge fills the flat maps and the goals from the parts.
func (r *report) judge() {
	r.Goals = nil
	add := func(what, want string, met bool, format string, args ...any) {
		r.Goals = append(r.Goals, goal{what, want, fmt.Sprintf(format, args...), met})
	}
	if p := r.Packets; p != nil {
		r.NSPerPacket, r.FloorNSPerPacket = map[string]float64{}, map[string]float64{}
		met, judged, worst := 0, 0, ""
		for _, name := range p.Order {
			k := p.Kinds[name]
			r.NSPerPacket[name], r.FloorNSPerPacket[name] = k.Ours.Median, k.Floor.Median
			judged++
			if k.Ratio.Median <= 1.5 {
				met++
			}
			if worst == "" || k.Ratio.Median > p.Kinds[worst].Ratio.Median {
				worst = name
			}
		}
		add("ns per packet, every kind", "≤ 1.5 × floor", met == judged, "%d of %d kinds; the worst is %s, %.2f ×", met, judged, worst, p.Kinds[worst].Ratio.Median)
		for _, name := range p.Order {
			if _, kind, _ := strings.Cut(name, "/"); kind == "rotating4" || kind == "rotating6" {
				add("65,536 rotating targets, "+name, "≤ 1.5 × floor", p.Kinds[name].Ratio.Median <= 1.5, "%.2f ×", p.Kinds[name].Ratio.Median)
			}
		}
	}
	if p := r.Link; p != nil {
		rate := rateName(linkRates[len(linkRates)-1])
		r.CPUSPerMpkt = map[string]float64{
			"ours": over(p.Host, "ours", rate), "fastnetmon": over(p.Host, "fastnetmon", rate), "bare": over(p.Host, "bare", rate),
			"ours_mirror": over(p.Mirror, "ours", rate), "bare_mirror": over(p.Mirror, "bare", rate),
		}
		add("processor time per packet beside FastNetMon, same traffic", "less", r.CPUSPerMpkt["ours"] < r.CPUSPerMpkt["fastnetmon"],
			"%.2f s against %.2f s per million, a bare counter %.2f s", r.CPUSPerMpkt["ours"], r.CPUSPerMpkt["fastnetmon"], r.CPUSPerMpkt["bare"])
	}
	if p := r.Capacity; p != nil {
		add("mirror mode on one core, one target", "≥ 2.5 Mpps", p.Mpps["ours"].Median >= 2.5, "%.2f Mpps", p.Mpps["ours"].Median)
		rotating := p.Mpps["ours_64k_targets"].Median
		add("mirror mode on one core, 65,536 targets, 4,096 slots", "≥ 2.5 Mpps", rotating >= 2.5, "%.2f Mpps", rotating)
	}
	if p := r.Memory; p != nil {
		r.RSSBytes, r.MapBytes = p.RSS, p.MapBytes
		add("resident memory at rest, mutual TLS", "≤ 20 MB", p.RSS["idle"] <= 20e6, "%.1f MB", float64(p.RSS["idle"])/1e6)
		most := max(p.RSS["1M"], p.RSS["10M"], p.RSS["1M_targets6"])
		add("resident memory under 10 M spoofed sources", "≤ 20 MB, flat", most <= 20e6, "%.1f MB", float64(most)/1e6)
		add("processor time at rest", "≤ 0.1 % of a core", p.IdlePercent <= 0.1, "%.3f %%", p.IdlePercent)
	}
	if p := r.Trigger; p != nil {
		add("first packet over the trigger → report at the controller", "p99 ≤ 10 ms", p.PacketToController.P99 <= 10 && p.Missed == 0, "p50 %.2f ms, p99 %.2f ms, n = %d, %d missed", p.PacketToController.P50, p.PacketToController.P99, p.PacketToController.N, p.Missed)
	}
}

func readReport(path string) (*report, error) {
	r := &report{}
	text, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, r); err != nil {
		return r, fmt.Errorf("%s: %w: remove it, or measure everything", path, err)
	}
	return r, nil
}

func (r *report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
