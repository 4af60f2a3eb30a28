package sensor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

func one(w worth, sequence uint64) message {
	if w == worthSamples {
		return message{worth: w, samples: &pb.SampleBatch{Samples: make([]*pb.Sample, 3)}}
	}
	return message{worth: w, report: &pb.Report{Sequence: sequence}}
}

func drainAll(b *backlog) string {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out []string
	for {
		m, err := b.take(ctx)
		if err != nil {
			return strings.Join(out, " ")
		}
		out = append(out, fmt.Sprintf("%d:%d", m.worth, m.report.GetSequence()))
	}
}

func TestBacklogDropsTheLeastWorthFirst(t *testing.T) {
	b := newBacklog(4)
	for i, w := range []worth{worthInterval, worthTrigger, worthSamples, worthHot, worthInterval, worthTrigger, worthTrigger} {
		b.put(one(w, uint64(i+1)))
	}
	expect(t, "what is left", drainAll(b), "1:1 3:2 3:6 3:7")
	if l := b.losses(); l != (losses{reports: 1, samples: 1, merged: 1}) {
		t.Errorf("lost %+v", l)
	}
	for i := range 6 {
		b.put(one(worthTrigger, uint64(i)))
	}
	expect(t, "the oldest trigger goes last of all", drainAll(b), "3:2 3:3 3:4 3:5")
}

func TestBacklogIsBoundedByEntriesToo(t *testing.T) {
	b := newBacklog(1000)
	batch := func(n int) message {
		return message{worth: worthSamples, samples: &pb.SampleBatch{Samples: make([]*pb.Sample, n)}}
	}
	for range 10 {
		b.put(batch(maxEntries / sampleEntries / 4))
	}
	expect(t, "what is left", drainAll(b), "0:0 0:0 0:0")
	hot := one(worthHot, 1)
	hot.report.Aggregates = make([]*pb.Aggregate, 2*maxEntries)
	b.put(hot)
	expect(t, "a single one is kept whatever its size", drainAll(b), "2:1")
}

// While no controller takes anything, a flood's samples must not fill the memory.
func TestSamplesThatWaitAreFewMegabytes(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	b, before := newBacklog(256), heap()
	for range 600 {
		list := make([]*pb.Sample, batch)
		for i := range list {
			list[i] = &pb.Sample{Time: timestamppb.Now(), Weight: 64, Header: make([]byte, 128)}
		}
		b.put(message{worth: worthSamples, samples: &pb.SampleBatch{Samples: list}})
	}
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("%d bytes wait, want at most 8 MiB", grown)
	}
	runtime.KeepAlive(b)
}

// hosts is an interval report of so many hosts of a /64 in a /32, with the networks' totals.
func hosts(rng *rand.Rand, sequence uint64, n int) *pb.Report {
	r := &pb.Report{
		Sequence: sequence, Cause: pb.Report_CAUSE_INTERVAL, StartTime: timestamppb.New(time.Unix(int64(sequence), 0)), Span: durationpb.New(time.Second),
		Profiles: []*pb.Profile{{}},
	}
	type key struct {
		network   netip.Prefix
		direction pb.Direction
		vector    uint32
	}
	totals := map[key]*pb.NetworkTotal{}
	for range n {
		addr, networks := netip.AddrFrom4([4]byte{192, 0, 2, byte(rng.IntN(256))}), []int{24}
		if rng.IntN(2) == 0 {
			addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 4: byte(rng.IntN(2)), 7: byte(rng.IntN(4)), 14: byte(rng.IntN(3)), 15: byte(rng.IntN(256))})
			networks = []int{32, 64}
		}
		a := &pb.Aggregate{
			Target: addr.AsSlice(), PrefixLength: uint32(addr.BitLen()), Direction: pb.Direction(1 + rng.IntN(2)), Vector: uint32(rng.IntN(3)),
			Packets: rng.Uint64N(1000), Bytes: rng.Uint64N(100_000),
		}
		if i, found := slices.BinarySearchFunc(r.Aggregates, a, compareAggregates); !found {
			r.Aggregates = slices.Insert(r.Aggregates, i, a)
		} else {
			continue
		}
		for _, bits := range networks {
			k := key{netip.PrefixFrom(addr, bits).Masked(), a.Direction, a.Vector}
			t := totals[k]
			if t == nil {
				t = &pb.NetworkTotal{Network: k.network.Addr().AsSlice(), PrefixLength: uint32(bits), Direction: a.Direction, Vector: a.Vector}
				totals[k] = t
				r.Networks = append(r.Networks, t)
			}
			t.Packets += a.Packets
			t.Bytes += a.Bytes
			t.ActiveHosts++
		}
	}
	slices.SortFunc(r.Networks, compareNetworks)
	return r
}

// account is what reports say in sum.
type account struct {
	packets, bytes [3][3]uint64 // by direction and vector
	outer          [3][3]uint64 // of the protected prefixes
	reports        uint64
}

func (a *account) add(r *pb.Report, sign uint64) {
	for _, x := range r.GetAggregates() {
		a.packets[x.Direction][x.Vector] += sign * x.Packets
		a.bytes[x.Direction][x.Vector] += sign * x.Bytes
	}
	for _, n := range r.GetNetworks() {
		if n.PrefixLength != 64 {
			a.outer[n.Direction][n.Vector] += sign * n.Packets
		}
	}
	a.reports += sign * uint64(holds(r))
}

// Whatever is put, taken and put back: what interval reports counted goes out as it came in, to the packet, in order of
// time and within bounds.
func TestNoPacketOfAnIntervalReportIsLost(t *testing.T) {
	done, cancel := context.WithCancel(t.Context())
	cancel()
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 3))
		b := newBacklog(1 + rng.IntN(12))
		var left account
		var sequence uint64
		size := []int{1, 20, 400, 2000}[seed%4]
		var ended time.Time
		out := func() {
			m, err := b.take(done)
			if err != nil {
				return
			}
			if m.worth == worthInterval {
				if rng.IntN(4) == 0 {
					b.back(m)
					return
				}
				left.add(m.report, ^uint64(0))
				if start := m.report.StartTime.AsTime(); start.Before(ended) {
					t.Fatalf("seed %d: a report that starts at %s after one that ends at %s", seed, start, ended)
				} else {
					ended = start.Add(m.report.Span.AsDuration())
				}
				if !slices.IsSortedFunc(m.report.Aggregates, compareAggregates) || !slices.IsSortedFunc(m.report.Networks, compareNetworks) {
					t.Fatalf("seed %d: a report is not sorted", seed)
				}
				if holds(m.report) > 1 && m.report.Profiles != nil {
					t.Fatalf("seed %d: a merged report has profiles", seed)
				}
			}
		}
		if seed%3 == 0 {
			b.room = 100 // as if messages were large
		}
		for range 150 {
			sequence++
			if w := worth(rng.IntN(int(worthLevels))); w == worthInterval {
				r := hosts(rng, sequence, 1+rng.IntN(size))
				left.add(r, 1)
				b.put(message{worth: w, report: r})
				if seed%3 == 0 {
					b.room = 100
				}
			} else {
				b.put(one(w, sequence))
			}
			if b.length > b.max {
				t.Fatalf("seed %d: %d messages are more than %d", seed, b.length, b.max)
			}
			if rng.IntN(5) == 0 {
				out()
			}
			entries := 0
			for _, q := range b.queues {
				for _, m := range q {
					entries += m.entries()
				}
			}
			if entries != b.entries {
				t.Fatalf("seed %d: %d entries, counted as %d", seed, entries, b.entries)
			}
		}
		for b.length > 0 {
			out()
		}
		if left != (account{}) {
			t.Fatalf("seed %d: not the same came out: %+v", seed, left)
		}
	}
}

func TestCoarserIsSmallerAndTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	r := hosts(rng, 1, 1000)
	var want account
	want.add(r, 1)
	last := len(r.Aggregates)
	for _, outermost := range []bool{false, true} {
		c := coarsen(r, outermost)
		var got account
		got.add(c, 1)
		if got != want {
			t.Errorf("outermost %v: %+v, want %+v", outermost, got, want)
		}
		if len(c.Aggregates) >= last {
			t.Errorf("outermost %v: %d aggregates of %d", outermost, len(c.Aggregates), last)
		}
		last = len(c.Aggregates)
		for _, a := range c.Aggregates {
			if a.PrefixLength == 32 && len(a.Target) == 4 || a.PrefixLength == 128 || outermost && a.PrefixLength == 64 {
				t.Fatalf("outermost %v: %v", outermost, a)
			}
		}
	}
}

func TestBacklogWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBacklog(4)
		got := make(chan message)
		go func() {
			m, _ := b.take(t.Context())
			got <- m
		}()
		time.Sleep(time.Hour)
		b.put(one(worthTrigger, 9))
		if m := <-got; m.report.GetSequence() != 9 {
			t.Errorf("%+v", m)
		}
	})
}
