package replay_test

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/amooglesoft/trafficmonitor/internal/replay"
	"github.com/amooglesoft/trafficmonitor/internal/scenario"
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func run(t *testing.T, name string, o replay.Options) (*replay.Result, scenario.Scenario) {
	t.Helper()
	for _, s := range scenario.All() {
		if s.Name != name {
			continue
		}
		if o.Targets == nil {
			o.Targets = s.Targets
		}
		r, err := replay.Run(context.Background(), o, func() (replay.Source, error) { return s.Source(), nil })
		if err != nil {
			t.Fatal(err)
		}
		return r, s
	}
	t.Fatalf("no scenario is called %s", name)
	return nil, scenario.Scenario{}
}

func TestAnAttackIsFoundNamedAndAnswered(t *testing.T) {
	for _, name := range []string{"flood-dns-amplification-3x-v4", "flood-ntp-amplification-3x-v6"} {
		t.Run(name, func(t *testing.T) {
			r, s := run(t, name, replay.Options{})
			if len(r.Incidents) != 1 {
				t.Fatalf("%d incidents: %+v", len(r.Incidents), r.Incidents)
			}
			inc, attack := r.Incidents[0], s.Attacks[0]
			if inc.Target != attack.Target || inc.Direction != attack.Direction || inc.Vectors[0].Vector != attack.Vectors[0] {
				t.Errorf("found %s %s %v, want %s %v", inc.Direction, inc.Target, inc.Vectors, attack.Target, attack.Vectors)
			}
			if delay := inc.Decided.Sub(scenario.Epoch.Add(attack.Start)); delay < 0 || delay > 2*32e6 {
				t.Errorf("decided %s after the first packet of the attack, want two windows at most", delay)
			}
			if inc.Coverage < 0.95 || inc.Collateral > 0.005 {
				t.Errorf("coverage %v, collateral %v by %v", inc.Coverage, inc.Collateral, inc.Rules)
			}
			if inc.Action == "observe" || inc.Action == "refused" {
				t.Errorf("action %s: %s", inc.Action, inc.Why)
			}
		})
	}
}

func TestSameInputSameOutput(t *testing.T) {
	a, _ := run(t, "flood-dns-amplification-3x-v4", replay.Options{})
	b, _ := run(t, "flood-dns-amplification-3x-v4", replay.Options{})
	if diff := cmp.Diff(a, b, cmpopts.IgnoreUnexported(replay.Incident{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsNotProtectedIsNoTarget(t *testing.T) {
	r, _ := run(t, "flood-dns-amplification-3x-v4", replay.Options{Targets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	if len(r.Incidents) != 0 {
		t.Errorf("%+v", r.Incidents)
	}
	if r.Packets == 0 {
		t.Error("no packets were read")
	}
}

// breaks gives packets up to the n-th.
type breaks struct {
	replay.Source
	left int
}

var errBroken = errors.New("broken")

func (b *breaks) Next() (replay.Packet, error) {
	if b.left--; b.left < 0 {
		return replay.Packet{}, errBroken
	}
	return b.Source.Next()
}

func TestWhatCameBeforeABreakIsJudged(t *testing.T) {
	all := scenario.All()
	s := all[slices.IndexFunc(all, func(s scenario.Scenario) bool { return s.Name == "flood-dns-amplification-3x-v4" })]
	const packets = 30_000
	r, err := replay.Run(context.Background(), replay.Options{Targets: s.Targets}, func() (replay.Source, error) { return &breaks{s.Source(), packets}, nil })
	if !errors.Is(err, errBroken) {
		t.Errorf("the error is %v", err)
	}
	if r.Packets != packets || len(r.Incidents) != 1 {
		t.Errorf("%d packets, %d incidents", r.Packets, len(r.Incidents))
	}
}

func TestNothing(t *testing.T) {
	r, err := replay.Run(context.Background(), replay.Options{}, func() (replay.Source, error) { return empty{}, nil })
	if err != nil || r.Packets != 0 || len(r.Incidents) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

type empty struct{}

func (empty) Next() (replay.Packet, error) { return replay.Packet{}, io.EOF }

// A rule is measured on the packets themselves: what it matches of the attack, and of what else the target receives.
func TestMeasuredOnThePackets(t *testing.T) {
	r, s := run(t, "flood-dns-amplification-3x-v4", replay.Options{})
	if len(r.Incidents) != 1 {
		t.Fatalf("%d incidents", len(r.Incidents))
	}
	var want struct{ attack, hit uint64 }
	src := s.Source()
	for {
		p, err := src.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if p.Label == s.Attacks[0].ID {
			want.attack++
			c := replay.Classify(p, vector.Inbound, replay.Options{})
			x := c.Sample(p.Time, vector.Inbound, 1)
			if signature.Matches(r.Incidents[0].Rules[0], &x) {
				want.hit++
			}
		}
	}
	if got := r.Incidents[0]; got.AttackPackets != want.attack || got.Coverage != float64(want.hit)/float64(want.attack) {
		t.Errorf("%d packets, coverage %v, want %d and %v", got.AttackPackets, got.Coverage, want.attack, float64(want.hit)/float64(want.attack))
	}
}
