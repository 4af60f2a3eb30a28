package main

import (
	"fmt"
	"strings"
	"testing"
)

// ten is ten minutes in which every process takes what it is told to take after so many seconds.
func ten(grow map[string]map[string]float64) *result {
	r := &result{}
	for at := 5.0; at < 600; at += 5 {
		x := sample{At: at, Processes: map[string]figures{}}
		for _, p := range []string{"controller one", "controller two", "speaker one", "speaker two", "speaker three", "sensor victim", "etcd"} {
			f := figures{heap: 20e6, resident: 60e6, goroutines: 40, descriptors: 20, "trafficmonitor_store_mitigations": 1000}
			if strings.HasPrefix(p, "speaker") {
				f[announced] = 20 * at
				if p == "speaker three" {
					f[announced] = 200 * at
				}
			}
			for figure, each := range grow[p] {
				f[figure] += each * at
			}
			x.Processes[p] = f
		}
		r.Samples = append(r.Samples, x)
	}
	r.judge(600)
	return r
}

func TestJudge(t *testing.T) {
	for name, x := range map[string]struct {
		process, figure string
		each            float64 // a second
		want            string  // empty: nothing grew
	}{
		"nothing":                     {},
		"a kilobyte for each rule":    {"controller two", heap, 20 * 1000, "heap of controllers grew"},
		"what GoBGP left of each":     {"speaker one", heap, 20 * 1200, "heap of speaker one grew"},
		"a little, in the lone one":   {"speaker three", heap, 200 * 300, "heap of speaker three grew"},
		"beside a sensor's heap":      {"sensor victim", resident, 150e3, "resident of sensor victim grew"},
		"a goroutine in two minutes":  {"speaker one", goroutines, 1.0 / 120, ""}, // noise
		"two goroutines a minute":     {"speaker one", goroutines, 2.0 / 60, "goroutines of speaker one grew from"},
		"descriptors":                 {"controller one", descriptors, 4.0 / 60, "descriptors of controllers grew"},
		"records that are not pruned": {"controller one", "trafficmonitor_store_mitigations", 20, "trafficmonitor_store_mitigations of controller one grew"},
		"etcd's own memory":           {"etcd", heap, 1e6, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := ten(map[string]map[string]float64{x.process: {x.figure: x.each}})
			if x.want == "" && len(r.Failures) > 0 || x.want != "" && (len(r.Failures) != 1 || !strings.Contains(r.Failures[0], x.want)) {
				t.Errorf("failures %q, want one with %q", r.Failures, x.want)
			}
		})
	}
}

func TestJudgeSaysWhatItDoesNotKnow(t *testing.T) {
	r := ten(nil)
	for i := range r.Samples {
		r.Samples[i].Processes["speaker three"][announced] /= 3
		if r.Samples[i].At >= 400 {
			delete(r.Samples[i].Processes, "sensor victim")
		}
	}
	r.Failures = nil
	r.judge(600)
	for _, want := range []string{"in the middle third speaker three had less", "in the last third speaker three had less", "sensor victim told nothing in the last third"} {
		if !strings.Contains(fmt.Sprint(r.Failures), want) {
			t.Errorf("failures %q, want one with %q", r.Failures, want)
		}
	}
}

// Rules differ: the soak is about what each leaves behind.
func TestAttacksDiffer(t *testing.T) {
	seen := map[string]bool{}
	for n := range 20 * 1800 { // half an hour
		a, v := attack(n)
		if k := fmt.Sprint(a, v); seen[k] {
			t.Fatalf("attack %d, %s, was there before", n, k)
		} else {
			seen[k] = true
		}
	}
}
