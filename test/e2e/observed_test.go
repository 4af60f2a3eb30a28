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
	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

// Every answer would be a discard, so that what is announced by mistake is seen.
const observedPolicy = `version: 1
thresholds:
  - {vectors: all-reflection, pps: 20 kpps}
networks:
  - {vectors: all-reflection, pps: 10 kpps, hosts: 16}
outbound:
  - {vectors: syn, pps: 5 kpps}
responses:
  - {vectors: all, action: discard}
`

// Real packets over all hosts of a network, none of which passes a limit, are one attack on the network; and what a host of
// ours sends is an attack by it. Both are told, and nothing is announced to anybody.
func TestObservedOnly(t *testing.T) {
	s := newSite(t, "observed", lab.SiteOptions{NoFRR: true, NoEnforce: true}, settings{Policy: "policy.yaml"})
	s.write("policy.yaml", observedPolicy)
	s.start()
	s.ready()
	sensor := s.startSensor("rack-1", pki.Files{}, "unix://"+s.dir+"/sensors.sock")
	s.reports("rack-1")

	spread := func() (*flood.Template, error) {
		packet, err := flood.DNSAnswers(lab.SiteVictim4, lab.SiteSpoofed4, 512)
		if err != nil {
			return nil, err
		}
		return packet.Spread(lab.SiteOwn4)
	}
	outside := netip.MustParseAddr("198.51.100.77")
	sent := func() (*flood.Template, error) {
		return flood.SYN(outside, netip.PrefixFrom(lab.SiteVictim4, 32), 443)
	}
	for _, c := range []struct {
		name, target, vector string
		direction            pb.Direction
		from, to             lab.Interface
		packet               func() (*flood.Template, error)
	}{
		{"carpet", lab.SiteOwn4.String(), "dns-amplification", pb.Direction_DIRECTION_INBOUND, s.AttackerOut, s.EdgeIn, spread},
		{"outbound", lab.SiteVictim4.String() + "/32", "syn", pb.Direction_DIRECTION_OUTBOUND, s.VictimIn, s.Downlink, sent},
	} {
		s.run(c.name, func(t *testing.T) {
			began := time.Now()
			packet, err := c.packet()
			if err != nil {
				t.Fatal(err)
			}
			f, err := c.from.Flood(c.to, flood.Options{Template: packet, PPS: 20_000, Packets: 400_000, Duration: 20 * time.Second, Pin: true, CPU: 1})
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithTimeout(t.Context(), patience)
			done := make(chan struct{})
			go func() { defer close(done); _, _ = f.Run(ctx) }()
			defer func() { stop(); <-done }()
			eventually(t, "the incident", func(context.Context) error {
				incidents := ask(s, &pb.ListIncidentsResponse{}, "incidents").Incidents
				var others []string
				found := false
				for _, i := range incidents {
					if i.OnsetTime.AsTime().Before(began.Add(-time.Second)) {
						continue
					}
					one := i.Target == c.target && i.Direction == c.direction && len(i.Vectors) == 1 && i.Vectors[0].Vector == c.vector && strings.Join(i.Sensors, " ") == "rack-1"
					if !one {
						others = append(others, fmt.Sprint(i))
					}
					found = found || one
				}
				if len(others) > 0 {
					t.Errorf("other incidents: %v", others)
				}
				if !found {
					return fmt.Errorf("there is none on %s", c.target)
				}
				return nil
			})
			eventually(t, "why nothing is done", func(context.Context) error {
				if out := s.must("audit", c.target, "--kind", "mitigation_observed"); !strings.Contains(out, "only observed") {
					return fmt.Errorf("it is not on record: %s", out)
				}
				return nil
			})
			if m := s.mitigations(); len(m) != 0 {
				t.Errorf("mitigations: %v", m)
			}
			s.bird.quiet(began)
		})
	}
	s.end(sensor.Pid(), syscall.SIGTERM)
	s.leaveNothing()
}
