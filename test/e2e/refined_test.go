package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

const refinedPolicy = `version: 1
defaults: {ttl: 1m, extend: 0s}
thresholds:
  - {vectors: udp-other, pps: 5 kpps, windows: 1}
responses:
  - {vectors: udp-other, action: discard}
`

// A flood of UDP to a target that lives on UDP: what is announced at once hits its own traffic, too, and seconds later the
// samples have shown what sets the two apart; the client, which was cut off, is served again while the flood goes on.
func TestRefined(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newSite(t, "refined", lab.SiteOptions{NoFRR: true}, settings{Policy: "policy.yaml", Sensors: "{sample_one_in: 1, hot_sample_one_in: 4}"})
	s.write("policy.yaml", refinedPolicy)
	s.start()
	s.ready()
	sensor := s.startSensor("rack-1", pki.Files{}, "unix://"+s.dir+"/sensors.sock")
	s.reports("rack-1")
	// What a target normally receives is known only of times that lie half a minute back: an attack begins before it is seen.
	client := s.customer(45 * time.Second)

	packet, err := flood.UDP(lab.SiteVictim4, lab.SiteSpoofed4, 9999, make([]byte, 800))
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.AttackerOut.Flood(s.EdgeIn, flood.Options{Template: packet, PPS: 20_000, Packets: 300_000, Duration: 20 * time.Second, Pin: true, CPU: 1})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _, _ = f.Run(within(t, patience)) }()
	defer func() { <-done }()
	mark := s.parse("destination 203.0.113.10/32 protocol udp then discard")
	if _, err := s.Enforce.Wait(within(t, patience), func(rules []route.Route) bool { return len(rules) == 1 && rules[0].Equal(mark) }); err != nil {
		t.Fatal(err, s.must("incidents"))
	}
	refined, err := s.Enforce.Wait(within(t, patience), func(rules []route.Route) bool {
		return len(rules) == 1 && !rules[0].Equal(mark)
	})
	if err != nil {
		t.Fatal(err, s.must("explain", "203.0.113.10"), s.must("mitigations"))
	}
	<-done
	if st := client.Between(refined.Add(time.Second), time.Now().Add(-time.Second)); st.LossPercent() > 1 || st.Asked < 100 {
		t.Errorf("with the refined rule the client lost %d of %d", st.Lost, st.Asked)
	} else {
		t.Logf("with the refined rule the client lost %d of %d", st.Lost, st.Asked)
	}
	if m := s.mitigations(); len(m) != 1 || !strings.Contains(m[0].Evidence, "the rule matched") {
		t.Errorf("mitigations: %v", m)
	}
	s.end(sensor.Pid(), syscall.SIGTERM)
	s.leaveNothing()
}
