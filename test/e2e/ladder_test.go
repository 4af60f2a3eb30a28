package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

const ladderPolicy = `version: 1
thresholds:
  - {vectors: [udp-other, dns-amplification], pps: 5 kpps, windows: 1}
responses:
  - vectors: udp-other
    ladder:
      - {action: rate-limit 100 Mbps, down_after: 3s}
      - {action: discard, after: 3s, if: evidence.reduction < 0.9, down_after: 3s}
  - vectors: dns-amplification
    ladder:
      - {action: discard, approval: 1}
`

// A flood that a rate limit lets through for the greater part: what the sensor measures makes the ladder climb to a discard, which it
// shows to work; easing shows that the flood goes on, so it is taken back, and the next time that it is over. Then a step that
// asks a person.
func TestLadder(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newSite(t, "ladder", lab.SiteOptions{NoFRR: true}, settings{Policy: "policy.yaml", Sensors: "{sample_one_in: 0, hot_sample_one_in: 0}"})
	s.write("policy.yaml", ladderPolicy)
	s.start()
	s.ready()
	sensor := s.startSensor("rack-1", pki.Files{}, "unix://"+s.dir+"/sensors.sock")
	s.reports("rack-1")

	begun := time.Now()
	attack := func(port uint16, pps float64, packets uint64) (done chan struct{}) {
		packet, err := flood.UDP(lab.SiteVictim4, lab.SiteSpoofed4, port, make([]byte, 800))
		if port == 53 {
			packet, err = flood.DNSAnswers(lab.SiteVictim4, lab.SiteSpoofed4, 440)
		}
		if err != nil {
			t.Fatal(err)
		}
		f, err := s.AttackerOut.Flood(s.EdgeIn, flood.Options{Template: packet, PPS: pps, Packets: packets, Duration: 30 * time.Second, Pin: true, CPU: 1})
		if err != nil {
			t.Fatal(err)
		}
		done = make(chan struct{})
		go func() {
			defer close(done)
			r, err := f.Run(within(t, patience))
			t.Log(time.Since(begun).Round(time.Millisecond), r, err)
		}()
		return done
	}
	wait := func(what, text string) {
		t.Helper()
		var want []route.Route
		if text != "" {
			want = append(want, s.parse(text))
		}
		at, err := s.Enforce.Wait(within(t, patience), func(rules []route.Route) bool {
			return len(rules) == len(want) && (len(want) == 0 || rules[0].Equal(want[0]))
		})
		if err != nil {
			t.Fatal(what, err, s.must("mitigations", "--all"), s.must("audit"))
		}
		t.Logf("%s after %s", what, at.Sub(begun).Round(time.Millisecond))
	}
	limit, discard := "destination 203.0.113.10/32 protocol udp then rate-limit 100Mbps", "destination 203.0.113.10/32 protocol udp then discard"
	flooding := attack(9999, 20_000, 240_000)
	defer func() { <-flooding }()
	wait("limited", limit)
	wait("discarded", discard)
	eventually(t, "the discard to be verified", func(context.Context) error {
		m := s.mitigations()
		if len(m) != 1 || m[0].Phase != pb.Mitigation_PHASE_VERIFIED || m[0].Step != 2 || m[0].Effect.GetReduction() < 0.9 {
			return fmt.Errorf("mitigations: %v", m)
		}
		return nil
	})
	wait("eased", limit)
	wait("in vain", discard)
	<-flooding
	wait("over", "")
	m := ask(s, &pb.ListMitigationsResponse{}, "mitigations", "--all").Mitigations
	if len(m) != 1 || m[0].Phase != pb.Mitigation_PHASE_EXPIRED || !strings.HasPrefix(m[0].EndReason, "over") || m[0].Effect.GetVerifyTime() == nil {
		t.Errorf("mitigations: %v", m)
	}
	said := s.must("audit")
	for _, kind := range []string{"mitigation_escalated", "mitigation_verified", "mitigation_eased", "mitigation_ended"} {
		if !strings.Contains(said, kind) {
			t.Errorf("the audit lacks %s:\n%s", kind, said)
		}
	}

	asking := attack(53, 10_000, 100_000)
	defer func() { <-asking }()
	var asked *pb.Mitigation
	eventually(t, "a person to be asked", func(context.Context) error {
		for _, m := range s.mitigations() {
			if m.Phase == pb.Mitigation_PHASE_AWAITING_APPROVAL {
				asked = m
				return nil
			}
		}
		return fmt.Errorf("mitigations: %v", s.mitigations())
	})
	wait("nothing without a person's word", "")
	if r := s.tmctl("approve", asked.Id); r.code == 0 {
		t.Error("approved without a reason")
	}
	s.must("approve", asked.Id, "--reason", "e2e")
	wait("approved", "destination 203.0.113.10/32 protocol udp source-port 53 then discard")

	// Another policy with the same ladder, read while the attack goes on: no route moves. A wrong one: neither.
	reloaded, hash := time.Now(), s.status().PolicyHash
	s.write("policy.yaml", ladderPolicy+"exceptions: [{prefixes: 203.0.113.99, reason: e2e}]\n")
	if err := s.controller.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new policy to be in force", func(context.Context) error {
		if st := s.status(); st.PolicyHash == hash || st.PolicyError != "" {
			return fmt.Errorf("%s %s", st.PolicyHash, st.PolicyError)
		}
		return nil
	})
	s.write("policy.yaml", strings.Replace(ladderPolicy, "ladder:", "lader:", 1))
	if err := s.controller.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the wrong policy to be refused", func(context.Context) error {
		if st := s.status(); st.PolicyError == "" {
			return errors.New("it was not")
		}
		return nil
	})
	s.bird.quiet(reloaded)
	select {
	case <-asking:
		t.Error("the attack was over before the policies were read: the test says less than it should")
	default:
	}
	s.must("extend", asked.Id, "--by", "5m", "--reason", "e2e")
	s.must("withdraw", asked.Id, "--reason", "e2e")
	wait("withdrawn", "")
	s.end(sensor.Pid(), syscall.SIGTERM)
	s.leaveNothing()
}
