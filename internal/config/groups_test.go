package config

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a router and its group may say, each key with two values that are not its default.
var peerKeys = map[string][2]string{
	"asn": {"64512", "64513"}, "port": {"1179", "2179"}, "local_address": {"203.0.113.9", `""`}, "passive": {"true", "false"},
	"multihop_ttl": {"3", "0"}, "md5_file": {"a.md5", `""`}, "hold_time": {"30s", "9s"}, "connect_retry": {"1s", "1m"},
	"families": {"[ipv4-unicast]", "[ipv6-flowspec, ipv4-flowspec]"}, "profile": {"frr", "generic"}, "max_cost": {"7", "0"},
	"widen": {"[dscp]", "[]"}, "max_rules": {"10", "0"}, "program_rate": {"5", "0"}, "max_items_per_component": {"2", "0"},
	"next_hop_v4": {"192.0.2.9", `""`}, "next_hop_v6": {"100::9", `""`},
	"probe": {"{run: [vtysh, -c], timeout: 1s}", "{run: []}"},
}

// A router of a group is what it would be if the group's values that it does not give itself stood in its own entry, in
// whatever order the file has them.
func TestGroupIsWrittenOut(t *testing.T) {
	g := PeerGroup{}
	for _, f := range g.Of.common() {
		if _, ok := peerKeys[f.Key]; !ok && f.Key != "ttl_security" {
			t.Errorf("the test knows no values of %s", f.Key)
		}
	}
	const head = "name: c1\nnetwork: {own_prefixes: [203.0.113.0/24]}\nspeaker:\n  asn: 64500\n  router_id: 203.0.113.2\n  listen_port: 179\n"
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var group, own, all []string
		for key, values := range peerKeys {
			inGroup, inPeer := rng.IntN(2) == 0, rng.IntN(2) == 0
			if key == "asn" {
				inGroup = inGroup || !inPeer
			}
			v, w := rng.IntN(2), rng.IntN(2)
			if key == "probe" && inPeer {
				w = v // its keys are inherited one by one; that is in testdata/controller-groups.yaml
			}
			if inGroup {
				group = append(group, key+": "+values[v])
			}
			if inPeer {
				own = append(own, key+": "+values[w])
			}
			if inPeer {
				all = append(all, key+": "+values[w])
			} else if inGroup {
				all = append(all, key+": "+values[v])
			}
		}
		groups := fmt.Sprintf("  peer_groups: [{name: g, %s}]\n", strings.Join(group, ", "))
		if len(group) == 0 {
			groups = "  peer_groups: [{name: g}]\n"
		}
		entry := func(keys []string) string {
			return strings.Join(append([]string{"name: a", "address: 203.0.113.1"}, keys...), ", ")
		}
		peers := fmt.Sprintf("  peers: [{%s, group: g}]\n", entry(own))
		text := head + groups + peers
		if rng.IntN(2) == 0 {
			text = head + peers + groups
		}
		got, err := ParseController("/etc/g.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		want, err := ParseController("/etc/g.yaml", []byte(head+fmt.Sprintf("  peers: [{%s}]\n", entry(all))))
		if err != nil {
			t.Fatal(err)
		}
		want.Speaker.Peers[0].Group = "g"
		if d := cmp.Diff(want.Speaker.Peers, got.Speaker.Peers, equal...); d != "" {
			t.Fatalf("-written out +in a group:\n%s\n%s", d, text)
		}
		reread(t, got)
	}
}

// One box must not answer for every router of a group.
func TestGroupHasNoProbeAddress(t *testing.T) {
	const head = "name: c1\nnetwork: {own_prefixes: [203.0.113.0/24]}\nspeaker:\n  asn: 64500\n  router_id: 203.0.113.2\n"
	own := "  peers: [{name: a, address: 203.0.113.1, group: g%s}]\n"
	if _, err := ParseController("/etc/g.yaml", []byte(head+"  peer_groups: [{name: g, asn: 65001, probe: {address: 198.51.100.7}}]\n"+fmt.Sprintf(own, ""))); err == nil ||
		!strings.Contains(err.Error(), "speaker.peer_groups[0].probe.address") || !strings.Contains(err.Error(), "own entry") {
		t.Errorf("in a group: %v", err)
	}
	if _, err := ParseController("/etc/g.yaml", []byte(head+"  peer_groups: [{name: g, asn: 65001}]\n"+fmt.Sprintf(own, ", probe: {address: 198.51.100.7}"))); err != nil {
		t.Errorf("of a router: %v", err)
	}
}
