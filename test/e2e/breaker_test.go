package e2e

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/lab/legit"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// A policy that answers a flood of UDP by taking all UDP from a target that lives on it: half of what its client asks is lost.
// The breaker sees that the target sends less while no attack is seen any more, takes the rule back and holds automation off;
// the client is served again.
func TestRollback(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newSite(t, "rollback", lab.SiteOptions{NoFRR: true}, settings{
		Policy: "policy.yaml", Sensors: "{sample_one_in: 0, hot_sample_one_in: 0}", // else the rule is refined before it does harm for long
		Breaker: "{before: 2s, fall_within: 10s, fall_for: 2s, target_fall: 30%, hold: 10m}",
	})
	s.write("policy.yaml", refinedPolicy)
	s.start()
	s.ready()
	sensor := s.startSensor("rack-1", pki.Files{}, "unix://"+s.dir+"/sensors.sock")
	s.reports("rack-1")
	client := s.customer(4 * time.Second)

	packet, err := flood.UDP(lab.SiteVictim4, lab.SiteSpoofed4, 9999, make([]byte, 200))
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.AttackerOut.Flood(s.EdgeIn, flood.Options{Template: packet, PPS: 10_000, Packets: 10_000, Duration: 2 * time.Second, Pin: true, CPU: 1})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _, _ = f.Run(within(t, patience)) }()
	defer func() { <-done }()
	bad := s.parse("destination 203.0.113.10/32 protocol udp then discard")
	hurt, err := s.Enforce.Wait(within(t, patience), func(rules []route.Route) bool { return len(rules) == 1 && rules[0].Equal(bad) })
	if err != nil {
		t.Fatal(err, s.must("incidents"))
	}
	healed, err := s.Enforce.Wait(within(t, patience), func(rules []route.Route) bool { return len(rules) == 0 })
	if err != nil {
		t.Fatal(err, s.must("explain", "203.0.113.10"), s.must("mitigations", "--all"))
	}
	<-done

	if m := ask(s, &pb.ListMitigationsResponse{}, "mitigations", "--all").Mitigations; len(m) != 1 || !strings.HasPrefix(m[0].EndReason, "rolled_back: 203.0.113.10/32 sends ") {
		t.Errorf("mitigations: %v", m)
	}
	if h := ask(s, &pb.ListHoldsResponse{}, "holds").Holds; len(h) != 1 || h[0].Requester != "breaker" || h[0].Target != "203.0.113.10/32" {
		t.Errorf("holds: %v", h)
	}
	if st := s.status(); st.Breaker.GetState() != pb.Breaker_STATE_CLOSED || st.Breaker.GetHeldTargets() != 1 || st.Freeze != nil {
		t.Errorf("breaker: %v, freeze: %v", st.Breaker, st.Freeze)
	}
	if said := s.must("audit", "--kind", "breaker_opened"); !strings.Contains(said, "while no attack is seen any more; 1 of 1 answers are withdrawn") {
		t.Errorf("audit: %s", said)
	}
	suffered := client.Between(hurt.Add(200*time.Millisecond), healed.Add(-200*time.Millisecond))
	var served legit.Stats
	eventually(t, "the client to be served again", func(context.Context) error {
		served = client.Between(healed.Add(200*time.Millisecond), time.Now().Add(-600*time.Millisecond))
		if served.Asked < 200 {
			return errors.New("too early to say")
		}
		return nil
	})
	if suffered.LossPercent() < 30 || served.LossPercent() > 1 {
		t.Errorf("the client lost %d of %d under the rule and %d of %d after it", suffered.Lost, suffered.Asked, served.Lost, served.Asked)
	} else {
		t.Logf("the client lost %d of %d in %s under the rule and %d of %d after it", suffered.Lost, suffered.Asked, healed.Sub(hurt).Round(time.Millisecond), served.Lost, served.Asked)
	}
	s.end(sensor.Pid(), syscall.SIGTERM)
	s.leaveNothing()
}
