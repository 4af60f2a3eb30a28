package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/lab/legit"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

const attackPolicy = `version: 1
defaults: {ttl: 10s, extend: 0s}
thresholds:
  - {vectors: all-reflection, pps: 20 kpps}
  - {vectors: syn, pps: 20 kpps}
responses:
  - {vectors: [dns-amplification, syn], action: discard}
  - {vectors: all, action: observe}
`

// Real packets of an attack are seen by the real sensor, recognised, answered at both routers, dropped at the one that
// can, and the rule goes away by itself; the legitimate client keeps working, also while the sensor is started anew.
func TestAttack(t *testing.T) {
	s := newSite(t, "attack", lab.SiteOptions{}, settings{Policy: "policy.yaml"})
	s.write("policy.yaml", attackPolicy)
	s.start()
	s.ready()
	const pps, packets = 50_000, 150_000
	controller := "unix://" + s.dir + "/sensors.sock"
	sensor := s.startSensor("rack-1", pki.Files{}, controller)
	s.reports("rack-1")
	if _, err := s.Victim.Serve(7007); err != nil {
		t.Fatal(err)
	}
	client, err := s.Client.Client(legit.Options{Servers: []netip.AddrPort{netip.AddrPortFrom(lab.SiteVictim4, 7007), netip.AddrPortFrom(lab.SiteVictim6, 7007)}})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()

	for _, c := range []struct {
		name, vector, route string
		class               tap.Class
		packet              func() (*flood.Template, error)
	}{
		{
			"DNS amplification over IPv4", "dns-amplification", "destination 203.0.113.10/32 protocol udp source-port 53 then discard",
			tap.Class{Destination: lab.SiteVictim4, Protocol: 17, SourcePort: 53},
			func() (*flood.Template, error) { return flood.DNSAnswers(lab.SiteVictim4, lab.SiteSpoofed4, 512) },
		},
		{
			"SYN flood over IPv6", "syn", "destination 2001:db8:113::10/128 protocol tcp tcp-flags syn&!ack then discard",
			tap.Class{Destination: lab.SiteVictim6, Protocol: 6, FlagsSet: 0x02, FlagsClear: 0x10},
			func() (*flood.Template, error) { return flood.SYN(lab.SiteVictim6, lab.SiteSpoofed6, 443) },
		},
	} {
		s.run(c.name, func(t *testing.T) {
			in, err := s.EdgeIn.Meter(c.class)
			if err != nil {
				t.Fatal(err)
			}
			through, err := s.Uplink.Meter(c.class)
			if err != nil {
				t.Fatal(err)
			}
			packet, err := c.packet()
			if err != nil {
				t.Fatal(err)
			}
			f, err := s.AttackerOut.Flood(s.EdgeIn, flood.Options{Template: packet, PPS: pps, Packets: packets, Duration: 20 * time.Second, Pin: true, CPU: 1})
			if err != nil {
				t.Fatal(err)
			}
			onset := time.Now()
			sent := make(chan flood.Result, 1)
			go func() {
				defer close(sent)
				if r, err := f.Run(within(t, patience)); err == nil {
					sent <- r
				}
			}()
			want := s.parse(c.route)
			cut, err := s.Enforce.Wait(within(t, patience), func(rules []route.Route) bool { return len(rules) == 1 && rules[0].Equal(want) })
			if err != nil {
				t.Fatal(err)
			}
			atBIRD, atFRR := s.bird.waitChange(onset, c.route, false), s.frr.waitChange(onset, c.route, false)
			r, ok := <-sent
			if !ok || r.Packets != packets {
				t.Fatalf("the generator sent %+v", r)
			}
			s.hold(c.route)
			s.sent(c.route)
			came, err := in.Counts()
			if err != nil {
				t.Fatal(err)
			}
			// A real client's SYNs are of the class of the SYN flood.
			if came.Packets < packets {
				t.Errorf("%d of %d packets of the attack arrived", came.Packets, packets)
			}
			curve, err := through.Curve()
			if err != nil {
				t.Fatal(err)
			}
			after := curve.PPS(cut.Add(100*time.Millisecond), r.Ended)
			if limit := 0.01 * pps; after > limit || r.Ended.Sub(cut) < 500*time.Millisecond {
				t.Errorf("%.0f packets per second got through in the %v after the cut", after, r.Ended.Sub(cut))
			}
			t.Logf("first packet to UPDATE: BIRD %v, FRR %v; to the cut %v; %.0f pps before, %.0f after",
				atBIRD.Sub(came.First), atFRR.Sub(came.First), cut.Sub(came.First), float64(pps), after)

			incidents := ask(s, &pb.ListIncidentsResponse{}, "incidents", "--all").Incidents
			var found *pb.Incident
			for _, i := range incidents {
				if i.Target == want.Match.Destination.String() {
					found = i
				}
			}
			if found == nil || len(found.Vectors) != 1 || found.Vectors[0].Vector != c.vector || strings.Join(found.Sensors, " ") != "rack-1" || len(found.Mitigations) != 1 {
				t.Fatalf("incidents: %v", incidents)
			}
			mitigations := s.mitigations()
			if len(mitigations) != 1 || mitigations[0].Id != found.Mitigations[0] || mitigations[0].Requester != "automation" || mitigations[0].Incident != found.Id {
				t.Fatalf("mitigations: %v", mitigations)
			}

			// The sensor may come and go: nothing changes at the routers.
			quiet := time.Now()
			for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
				s.end(sensor.Pid(), sig)
				<-sensor.Done()
				if err := sensor.Err(); (err == nil) != (sig == syscall.SIGTERM) {
					t.Errorf("the sensor ended by %v with %v", sig, err)
				}
				sensor = s.startSensor("rack-1", pki.Files{}, controller)
				s.reports("rack-1")
			}
			if left := time.Until(mitigations[0].Deadline.AsTime()); left < 0 {
				t.Fatalf("this machine is too slow: the deadline was %v ago", -left)
			}
			for _, r := range s.routers {
				r.quiet(quiet)
			}
			s.punctual(onset, []string{c.route}, []time.Time{mitigations[0].Deadline.AsTime()})
			s.sent()
			for _, r := range s.routers {
				r.only(onset, "announced "+s.onWire(c.route), "withdrawn "+s.onWire(c.route))
			}
			eventually(t, "the mitigation to be over", func(context.Context) error {
				if m := s.mitigations(); len(m) != 0 {
					return fmt.Errorf("there is %v", m)
				}
				return nil
			})
		})
	}
	if st := client.Between(began, time.Now()); st.LossPercent() > 1 || st.Asked < 100 {
		t.Errorf("the legitimate client lost %d of %d", st.Lost, st.Asked)
	} else {
		t.Logf("the legitimate client lost %d of %d", st.Lost, st.Asked)
	}
	s.end(sensor.Pid(), syscall.SIGTERM)
	s.leaveNothing()
}
