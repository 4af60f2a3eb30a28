package bpf

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// TestSketches lets 3,000 senders and 300 receivers be seen, and expects the very registers that Go would have.
func TestSketches(t *testing.T) {
	k := loadWatching(t, func(s *Sizes) { s.Outbound = true })
	in := dnsTo(host4)
	run(t, k.Ingress(), in, nil) // takes slot 0, unwatched
	if err := errors.Join(k.SetFlag(0, Watched, true), k.SetSketch(0, vector.Inbound, 5), k.SetSketch(0, vector.Outbound, 63)); err != nil {
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
	var want [2]sketch.HyperLogLog
	for range senders {
		sender := r.Uint32()
		want[0].Add(sketch.Mix(uint64(sender)<<32, 0))
		binary.BigEndian.PutUint32(in[26:], sender)
		run(t, k.Ingress(), in, nil)
		run(t, k.XDP(), in, nil) // the same sender again
	}
	out := back(dnsTo(host4))
	for range receivers {
		receiver := r.Uint32()
		want[1].Add(sketch.Mix(uint64(receiver)<<32, 0))
		binary.BigEndian.PutUint32(out[30:], receiver)
		run(t, k.Egress(), out, nil)
	}
	for n, want := range map[int]sketch.HyperLogLog{5: want[0], 63: want[1], 0: {}} {
		if got, err := k.ReadSketch(n); err != nil || sketch.HyperLogLog(got) != want {
			t.Errorf("sketch %d: about %.0f addresses, want the registers of %.0f (%v)", n,
				(*sketch.HyperLogLog)(&got).Estimate(), want.Estimate(), err)
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

// TestSketchBehindLongHeaders lets a tunnel's inner packet begin where a fast look into the frame does not reach.
func TestSketchBehindLongHeaders(t *testing.T) {
	k := loadWatching(t, func(s *Sizes) { s.Decapsulate = classify.AllTunnels })
	run(t, k.Ingress(), dnsTo(host4), nil) // takes slot 0
	if err := errors.Join(k.SetFlag(0, Watched, true), k.SetSketch(0, vector.Inbound, 5)); err != nil {
		t.Fatal(err)
	}
	inner := frame(v4(header4{dst: host4, proto: 17}), udp(53), payload(100))
	binary.BigEndian.PutUint32(inner[12:], 0xc6336407)
	outer := frame(eth(ip6), v6(header6{dst: host6, next: 60}), ext(60, 80), ext(4, 80), func(p []byte) []byte { return append(inner, p...) })
	if len(outer) < 1<<10+len(inner) {
		t.Fatalf("the inner packet begins at %d", len(outer)-len(inner))
	}
	var want sketch.HyperLogLog
	want.Add(sketch.Mix(0xc6336407<<32, 0))
	for name, p := range map[string]*ebpf.Program{"tcx": k.Ingress(), "xdp": k.XDP()} {
		if err := k.ClearSketch(5); err != nil {
			t.Fatal(err)
		}
		run(t, p, outer, nil)
		if got, err := k.ReadSketch(5); err != nil || sketch.HyperLogLog(got) != want {
			t.Errorf("%s: not the registers of the inner packet's sender (%v)", name, err)
		}
	}
}
