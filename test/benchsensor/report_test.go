package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// example is a report with something in every part.
func example() *report {
	r := &report{
		Machine: machine{Kernel: "6.6.0", CPU: "any", Cores: 2, Versions: map[string]string{"go": "go1.26"}},
		Packets: &packetPart{Order: []string{"tcx/dns4", "xdp/rotating6"}, Kinds: map[string]packetCost{
			"tcx/dns4":      {Ours: spread{Median: 40}, Floor: spread{Median: 30}, Empty: spread{Median: 20}, Ratio: spread{Median: 40. / 30}, Net: spread{Median: 2}, Cold: &coldCost{3, 2, 1}},
			"xdp/rotating6": {Ours: spread{Median: 160}, Floor: spread{Median: 100}, Empty: spread{Median: 20}, Ratio: spread{Median: 1.6}, Net: spread{Median: 1.75}},
		}},
		Link: &linkPart{
			Host: map[string]map[string]linkCost{
				"nothing": {"400kpps": {Accounted: spread{Median: 2}}}, "ours": {"400kpps": {Accounted: spread{Median: 2.25}}},
				"bare": {"400kpps": {Accounted: spread{Median: 2.125}}}, "fastnetmon": {"400kpps": {Accounted: spread{Median: 3}}},
			},
			Mirror:  map[string]map[string]linkCost{},
			Remarks: []string{"busy"},
		},
		Capacity: &capacityPart{Mpps: map[string]spread{"ours": {Median: 3}, "ours_64k_targets": {Median: 2}}},
		Memory:   &memoryPart{IdlePercent: 0.05, RSS: map[string]uint64{"idle": 15e6, "1M": 15e6, "10M": 15e6, "1M_targets6": 21e6}, MapBytes: 7},
		Trigger:  &triggerPart{PacketToController: latency{P50: 1, P99: 11, N: 200}},
	}
	r.judge()
	return r
}

func TestGoals(t *testing.T) {
	r := example()
	met := map[string]bool{}
	for _, g := range r.Goals {
		met[g.What] = g.Met
	}
	for what, want := range map[string]bool{
		"ns per packet, every kind":                                 false,
		"65,536 rotating targets, xdp/rotating6":                    false,
		"mirror mode on one core, one target":                       true,
		"mirror mode on one core, 65,536 targets, 4,096 slots":      false,
		"resident memory at rest, mutual TLS":                       true,
		"resident memory under 10 M spoofed sources":                false,
		"processor time at rest":                                    true,
		"first packet over the trigger → report at the controller":  false,
		"processor time per packet beside FastNetMon, same traffic": true,
	} {
		if got, ok := met[what]; !ok || got != want {
			t.Errorf("%s: met %v (there: %v), want %v", what, got, ok, want)
		}
	}
	if r.CPUSPerMpkt["ours"] != 0.25 || r.CPUSPerMpkt["fastnetmon"] != 1 || r.CPUSPerMpkt["bare"] != 0.125 {
		t.Errorf("processor seconds: %v", r.CPUSPerMpkt)
	}
}

// TestFile: the flat maps are the file's contract with whoever reads it.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "build", "bench-sensor.json")
	if err := example().write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var flat struct {
		NS    map[string]float64 `json:"ns_per_packet"`
		Floor map[string]float64 `json:"floor_ns_per_packet"`
		CPU   map[string]float64 `json:"cpu_s_per_mpkt"`
		RSS   map[string]float64 `json:"rss_bytes"`
		Maps  float64            `json:"map_bytes"`
	}
	if err := json.Unmarshal(text, &flat); err != nil {
		t.Fatal(err)
	}
	if flat.NS["tcx/dns4"] != 40 || flat.Floor["tcx/dns4"] != 30 || flat.CPU["ours"] != 0.25 || flat.RSS["10M"] != 15e6 || flat.Maps != 7 {
		t.Errorf("%+v", flat)
	}
	again, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	var a, b strings.Builder
	example().print(&a)
	again.print(&b)
	if a.String() != b.String() || !strings.Contains(a.String(), "tcx/dns4") {
		t.Errorf("read back it says\n%s, want\n%s", b.String(), a.String())
	}
}

func TestDocs(t *testing.T) {
	const around = "# Before\n\n" + docsBegin + "\nstale\n" + docsEnd + "\n\nAfter\n"
	path := filepath.Join(t.TempDir(), "performance.md")
	if err := os.WriteFile(path, []byte(around), 0o644); err != nil {
		t.Fatal(err)
	}
	var last string
	for range 2 {
		if err := example().writeDocs(path); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := string(text)
		if !strings.HasPrefix(got, "# Before\n") || !strings.HasSuffix(got, "\nAfter\n") || strings.Contains(got, "stale") || !strings.Contains(got, "| tcx/dns4 | 40.0 |") {
			t.Errorf("wrote\n%s", got)
		}
		if last != "" && got != last {
			t.Error("written twice it differs")
		}
		last = got
	}
	// The marks are where the Makefile's user expects them.
	if text, err := os.ReadFile("../../docs/performance.md"); err != nil || !strings.Contains(string(text), docsBegin) || !strings.Contains(string(text), docsEnd) {
		t.Errorf("docs/performance.md has no marks to write between (%v)", err)
	}
}
