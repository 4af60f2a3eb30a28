package bpf

import (
	"testing"

	"github.com/cilium/ebpf"

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
