package bpf

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

func load(t testing.TB, change ...func(*Sizes)) *Kernel {
	t.Helper()
	lab.NeedRoot(t)
	s := Sizes{CPUs: 2, Hosts: 64, Prefixes: 16, Networks4: 32, Blocks4: 4, Triggers: 4096, Samples: 1 << 16}
	for _, c := range change {
		c(&s)
	}
	k, err := Load(s)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func TestLoad(t *testing.T) {
	k := load(t)
	for _, p := range []*ebpf.Program{k.Ingress(), k.XDP()} {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, _ := info.VerifiedInstructions()
		t.Logf("%s: %d instructions verified", info.Name, n)
		if n > 200_000 {
			t.Errorf("%s: the verifier walked %d instructions; the limit is a million", info.Name, n)
		}
	}
	memory, err := k.Memory()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range memory {
		t.Logf("%-16s %d", m.Name, m.Bytes)
	}
}

// TestMemory prints what the maps take, and holds that a CPU more costs its lane and nothing else.
func TestMemory(t *testing.T) {
	counters := func(cpus, hosts int, outbound bool) (sum uint64) {
		k := load(t, func(s *Sizes) { s.CPUs, s.Hosts, s.Prefixes, s.Outbound = cpus, hosts, 512, outbound })
		defer k.Close()
		memory, err := k.Memory()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range memory {
			switch m.Name {
			case "records", "windows", "dirty", "lanes", "sketches":
				sum += m.Bytes
			}
		}
		t.Logf("%2d CPUs, %5d hosts, outbound %-5v: %6.1f MB of counters", cpus, hosts, outbound, float64(sum)/1e6)
		return sum
	}
	for _, hosts := range []int{4096, 65536} {
		for _, outbound := range []bool{false, true} {
			counters(2, hosts, outbound)
		}
	}
	few, many := counters(2, 4096, true), counters(64, 4096, true)
	if lane := (many - few) / 62; lane < uint64(laneSize)-4096 || lane > uint64(laneSize)+4096 {
		t.Errorf("a CPU more takes %d bytes, its lane is %d", lane, laneSize)
	}
}

// TestNoMemoryIsExplained: "cannot allocate memory" says nothing about which key of which file.
func TestNoMemoryIsExplained(t *testing.T) {
	s := Sizes{CPUs: 8, Hosts: 1 << 20, Networks6: 1024, Networks4: 4096}
	err := explain(fmt.Errorf("map records: %w", unix.ENOMEM), s, 2_200_000_001)
	for _, part := range []string{"2201 MB", "1048576 slots", "lower slots", "map records", "8 CPUs"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
	// What is reckoned is about what the kernel says of maps that it has made.
	k := load(t)
	maps, err := k.Memory()
	if err != nil {
		t.Fatal(err)
	}
	made := uint64(0)
	for _, m := range maps {
		made += m.Bytes
	}
	spec, err := k.Sizes.spec()
	if err != nil {
		t.Fatal(err)
	}
	if n := memoryOf(spec); n < made/2 || n > made*2 {
		t.Errorf("%d octets were reckoned, and %d made", n, made)
	}
}
