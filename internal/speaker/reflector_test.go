package speaker

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Two speakers tell a route reflector the same rules, and it passes one path of each on (no add-path). When the speaker whose
// path that is dies, the router behind gets the other path in its place: BIRD notes no withdrawal, and is never seen
// without a rule (ADR 0023).
func TestOneOfTwoSpeakersBehindAReflectorDies(t *testing.T) {
	t.Parallel()
	lab.NeedRoot(t)
	lab.NeedTool(t, "ip", "bird", "bgpd", "zebra", "staticd", "vtysh")
	l := lab.New(t, "reflector")
	f := &fabric{t: t, lab: l, routers: map[string]lab.Router{}}
	ctx := within(t, 120*time.Second)

	reflector, client := f.namespace("rr"), f.namespace("client")
	const asn = 65000
	link := func(other *lab.Namespace, i int) (here, there netip.Addr) {
		here, there = netip.MustParseAddr(fmt.Sprintf("10.66.%d.2", i)), netip.MustParseAddr(fmt.Sprintf("10.66.%d.1", i))
		if _, _, err := l.Link(lab.End{In: reflector, Addresses: []string{here.String() + "/24"}}, lab.End{In: other, Addresses: []string{there.String() + "/24"}}); err != nil {
			t.Fatal(err)
		}
		return here, there
	}
	var extra strings.Builder
	cfg := lab.RouterConfig{RouterID: netip.MustParseAddr("10.66.9.1"), ASN: asn}
	clientOf := func(a netip.Addr) {
		for _, family := range []string{"ipv4 unicast", "ipv6 unicast", "ipv4 flowspec", "ipv6 flowspec"} {
			fmt.Fprintf(&extra, " address-family %s\n  neighbor %s route-reflector-client\n exit-address-family\n", family, a)
		}
	}
	fmt.Fprintf(&extra, "router bgp %d\n", asn)
	type one struct {
		config  processConfig
		process *lab.Process
		client  *Client
		ns      *lab.Namespace
	}
	var speakers []*one
	for i := range 2 {
		ns := f.namespace(fmt.Sprintf("speaker%d", i))
		here, there := link(ns, i)
		cfg.Neighbors = append(cfg.Neighbors, lab.Neighbor{Name: fmt.Sprintf("speaker%d", i), Address: there, ASN: asn})
		clientOf(there)
		speakers = append(speakers, &one{ns: ns, config: processConfig{
			Socket: filepath.Join(l.Dir(), fmt.Sprintf("speaker%d.sock", i)), Journal: filepath.Join(l.Dir(), fmt.Sprintf("journal%d", i)), RouterID: there,
			Peers: []Peer{{Name: "rr", Address: here, ASN: asn, HoldTime: 30 * time.Second, ConnectRetry: time.Second}},
		}})
	}
	here, there := link(client, 2)
	cfg.Neighbors = append(cfg.Neighbors, lab.Neighbor{Name: "client", Address: there, ASN: asn})
	clientOf(there)
	cfg.Local, cfg.Extra = here, extra.String()
	if _, err := reflector.StartFRR(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	bird, err := client.StartBIRD(ctx, lab.RouterConfig{RouterID: there, ASN: asn, Local: there, Neighbors: []lab.Neighbor{{Name: "rr", Address: here, ASN: asn}}})
	if err != nil {
		t.Fatal(err)
	}
	f.routers["bird"] = bird
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Tails(60))
		}
	})

	routes := []string{"destination 192.0.2.1/32 protocol udp then discard", "destination 192.0.2.2/32 protocol tcp then rate-limit 8Mbps", "destination 2001:db8::1/128 protocol udp then discard"}
	for _, s := range speakers {
		if s.process, err = s.ns.Start(lab.Command{Name: "speaker", Argv: []string{os.Args[0]}, Env: s.config.env(t)}); err != nil {
			t.Fatal(err)
		}
		if s.client, err = Dial(s.config.Socket); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.client.Close() })
		waitFor(t, "the speaker", func() bool { _, err := s.client.Status(ctx); return err == nil })
		if res, err := s.client.Set(ctx, 1, 1, desired(t, routes...)); err != nil || len(res.Refused) > 0 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	for _, s := range speakers {
		waitFor(t, "all rules at the reflector", func() bool {
			st, err := s.client.Status(ctx)
			return err == nil && st.Peers[0].Routes[Sent] == len(routes)
		})
	}
	// origin is whose path BIRD has of every rule; there is one only.
	origin := func() (who []string) {
		for _, fam := range []route.Family{route.IPv4, route.IPv6} {
			got, err := bird.FlowSpecRoutes(ctx, fam)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range got {
				_, after, _ := strings.Cut(r.Raw, "BGP.originator_id: ")
				id, _, _ := strings.Cut(after, "\n")
				who = append(who, strings.TrimSpace(id))
			}
		}
		return who
	}
	waitFor(t, "all rules behind it, by one path", func() bool {
		who := origin()
		return len(who) == len(routes) && len(slices.Compact(who)) == 1
	})
	f.expect("bird", routes...)

	first := slices.IndexFunc(speakers, func(s *one) bool { return s.config.RouterID.String() == origin()[0] })
	if first < 0 {
		t.Fatalf("the path is of neither speaker: %v", origin())
	}
	before := birdRemoved(t, bird)
	if err := speakers[first].process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-speakers[first].process.Done()
	other := speakers[1-first]
	waitFor(t, "the other path", func() bool {
		who := origin()
		if len(who) != len(routes) {
			t.Fatalf("the router was seen with %d rules", len(who))
		}
		return !slices.ContainsFunc(who, func(id string) bool { return id != other.config.RouterID.String() })
	})
	if n := birdRemoved(t, bird) - before; n != 0 {
		t.Errorf("BIRD noted %d withdrawals", n)
	}
	f.expect("bird", routes...)

	// And what the other one withdraws is gone.
	if _, err := other.client.Set(ctx, 1, 2, desired(t, routes[0])); err != nil {
		t.Fatal(err)
	}
	f.expect("bird", routes[0])
	waitFor(t, "BIRD's log to have two withdrawals", func() bool { return birdRemoved(t, bird)-before == 2 })
}

// birdRemoved counts the rules BIRD logged as removed from what it received.
func birdRemoved(t *testing.T, b *lab.BIRD) (n int) {
	t.Helper()
	log, err := os.ReadFile(b.Process().LogFile())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "> removed ") && strings.Contains(line, "flow") {
			n++
		}
	}
	return n
}
