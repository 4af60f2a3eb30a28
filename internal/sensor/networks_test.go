package sensor

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Hosts with a slot and those without, slots that change hands, prefixes in prefixes: the sum of all interval reports is
// what was sent, in each network and in all aggregates, by direction and vector.
func TestNetworkTotalsAreExact(t *testing.T) {
	type key struct {
		network   netip.Prefix
		direction vector.Direction
		vector    uint32
	}
	prefixes := []string{"192.0.2.0/24", "2001:db8::/32", "2001:db8:0:7::/64"}
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 9))
		m, k := watching(t, prefixes...)
		m.idle = 3 * time.Second
		sent, got, direct := map[key]uint64{}, map[key]uint64{}, map[key]uint64{}
		now := time.Duration(0)
		report := func() {
			if err := m.scan(at(now)); err != nil {
				t.Fatal(err)
			}
			r := m.interval(at(now))
			if !slices.IsSortedFunc(r.Networks, compareNetworks) {
				t.Fatalf("seed %d: networks are not sorted", seed)
			}
			for _, n := range r.Networks {
				way, err := direction(n.Direction)
				if err != nil {
					t.Fatal(err)
				}
				p := prefixOf(n.Network, n.PrefixLength)
				got[key{p, way, n.Vector}] += n.Packets
				if n.Bytes != 100*n.Packets || n.Packets == 0 {
					t.Fatalf("seed %d: %v", seed, n)
				}
				hosts := map[string]bool{}
				for _, a := range r.Aggregates {
					if a.Vector == n.Vector && a.Direction == n.Direction && len(a.Target) == len(n.Network) && prefixOf(a.Target, a.PrefixLength).IsSingleIP() &&
						p.Contains(prefixOf(a.Target, a.PrefixLength).Addr()) {
						hosts[string(a.Target)] = true
					}
				}
				if int(n.ActiveHosts) != len(hosts) {
					t.Fatalf("seed %d: %v, want %d active hosts", seed, n, len(hosts))
				}
			}
			for _, a := range r.Aggregates {
				way, _ := direction(a.Direction)
				direct[key{direction: way, vector: a.Vector}] += a.Packets
			}
		}
		for range 200 {
			target := fmt.Sprintf("192.0.2.%d", rng.IntN(8))
			networks := []string{prefixes[0]}
			if rng.IntN(2) == 0 {
				net := 6 + rng.IntN(3)
				target = fmt.Sprintf("2001:db8:0:%d::%d", net, rng.IntN(4))
				networks = []string{prefixes[1], fmt.Sprintf("2001:db8:0:%d::/64", net)}
			}
			c := bpf.ColumnOf(vector.Direction(rng.IntN(2)), []vector.ID{vector.SYN, vector.DNS, vector.UDPOther}[rng.IntN(3)])
			n := 1 + rng.Uint64N(50)
			k.count(target, c, n)
			for _, v := range []vector.ID{vector.Total, c.Vector()} {
				for _, net := range networks {
					sent[key{netip.MustParsePrefix(net), c.Direction(), uint32(v)}] += n
				}
				sent[key{direction: c.Direction(), vector: uint32(v)}] += n
			}
			now += time.Duration(rng.IntN(400)) * time.Millisecond
			switch rng.IntN(6) {
			case 0:
				now += 4 * time.Second // some lose their slot
				if err := m.scan(at(now)); err != nil {
					t.Fatal(err)
				}
			case 1, 2:
				report()
			}
		}
		report()
		report()
		for k, n := range direct {
			got[k] = n
		}
		for k, want := range sent {
			// Of a /64 that is not protected itself the kernel counts what has no slot for the prefix around it.
			if got[k] != want && (k.network.Bits() != 64 || slices.Contains(prefixes, k.network.String()) || got[k] > want) {
				t.Errorf("seed %d: %s %s %s: %d packets, want %d", seed, k.network, k.direction, vector.ID(k.vector), got[k], want)
			}
		}
		if len(got) > len(sent) {
			t.Errorf("seed %d: %d totals, want at most %d", seed, len(got), len(sent))
		}
		if len(k.freed) == 0 {
			t.Errorf("seed %d: no slot changed hands", seed)
		}
	}
}

func TestSubnet(t *testing.T) {
	for _, tc := range []struct{ target, protected, want string }{
		{"2001:db8::1/128", "2001:db8::/32", "2001:db8::/64"},
		{"2001:db8::/64", "2001:db8::/32", "2001:db8::/64"},
		{"2001:db8::/32", "2001:db8::/32", ""},
		{"2001:db8::1/128", "2001:db8::/64", ""},
		{"2001:db8::1/128", "2001:db8::/120", ""},
		{"192.0.2.1/32", "192.0.2.0/24", ""},
	} {
		got, ok := subnet(netip.MustParsePrefix(tc.target), []netip.Prefix{netip.MustParsePrefix(tc.protected)})
		if ok != (tc.want != "") || ok && got.String() != tc.want {
			t.Errorf("%s in %s: %s, %v", tc.target, tc.protected, got, ok)
		}
	}
	if n := networkTotals(newTree(nil), []*pb.Aggregate{{Target: []byte{192, 0, 2, 1}, PrefixLength: 32, Packets: 1}}); len(n) != 0 {
		t.Errorf("totals of what is not protected: %v", n)
	}
}
