package bpf

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// watchHost marks an IPv4 host's slot as the tables hold it.
func watchHost(t *testing.T, k *Kernel, addr string) {
	t.Helper()
	a := netip.MustParseAddr(addr).As4()
	block, ok := k.v4.hostBlocks[binary.BigEndian.Uint32(a[:])>>8]
	if !ok {
		t.Fatalf("%s is not protected", addr)
	}
	if err := words(k.objects.HostBlocks, block, func(hosts []uint32) { atomic.AddUint32(&hosts[a[3]], 0x01000000) }); err != nil {
		t.Fatal(err)
	}
}

// TestSketches lets 3,000 senders and 300 receivers be seen, and one sketch of each direction estimate them.
func TestSketches(t *testing.T) {
	k := loadWatching(t, func(s *Sizes) { s.Outbound = true })
	in := dnsTo(host4)
	run(t, k.Ingress(), in, nil) // takes slot 0, unwatched
	watchHost(t, k, host4)
	if err := errors.Join(k.SetSketch(0, vector.Inbound, 5), k.SetSketch(0, vector.Outbound, 63)); err != nil {
		t.Fatal(err)
	}
	if err := k.SetSketch(0, vector.Inbound, Sketches); err == nil {
		t.Error("there are more sketches than there are")
	}
	if err := errors.Join(k.SetSampling(1), k.SetWatchedSampling(50)); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	const senders, receivers = 3000, 300
	for range senders {
		binary.BigEndian.PutUint32(in[26:], r.Uint32())
		run(t, k.Ingress(), in, nil)
		run(t, k.XDP(), in, nil) // the same sender again
	}
	out := back(dnsTo(host4))
	for range receivers {
		binary.BigEndian.PutUint32(out[30:], r.Uint32())
		run(t, k.Egress(), out, nil)
	}
	for _, tc := range []struct {
		sketch int
		want   float64
	}{{5, senders}, {63, receivers}, {0, 0}} {
		s, err := k.ReadSketch(tc.sketch)
		if err != nil {
			t.Fatal(err)
		}
		h := sketch.HyperLogLog(s)
		if got := h.Estimate(); got < tc.want*(1-3*sketch.StandardError) || got > tc.want*(1+3*sketch.StandardError) {
			t.Errorf("sketch %d: about %.0f addresses, want %.0f", tc.sketch, got, tc.want)
		}
	}
	st, err := k.Stats()
	if n := st.Samples + st.LostSamples; err != nil || n < 2*senders/50 || n > 2*senders/50+receivers/50+2 {
		t.Errorf("%d samples of %d packets, one in 50 (%v)", n, 2*senders+receivers, err)
	}
	if rows := sums(t, k); rows[0][vector.Total].Packets() != 2*senders+1 || rows[0][ColumnOf(vector.Outbound, vector.Total)].Packets() != receivers {
		t.Errorf("a watched target's packets: %v", rows[0])
	}
	if err := k.ClearSketch(5); err != nil {
		t.Fatal(err)
	}
	if s, err := k.ReadSketch(5); err != nil || s != (Sketch{}) {
		t.Errorf("after clearing: %v (%v)", s, err)
	}
}
