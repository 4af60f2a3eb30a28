package mitigation

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

var update = flag.Bool("update", false, "write the outcome of the scenarios again")

// A scenario is a policy (lines with "|"), what happens (lines with ">"), and below each of these what came of it. Rates are
// packets per second of 500 octets; sensors report every second, and the machine is asked at each report.
//
//	attack PPS              the detector is certain; sensors saw so much
//	sees PPS [OTHER] for D  so much of the vector, and of other traffic, comes through
//	silence for D           the one sensor says nothing
//	nothing for D           no sensor has news
//	over                    the detector says that the incident is over
//	installed N of M        routers have the routes
//	collateral SHARE        is predicted
//	usual PPS               of the vector is what the target normally receives
//	approve|reject WHO      of the newest mitigation
//	extend D, withdraw [HOLD], unhold, freeze, unfreeze, announce WHO [PERSONS], unsafe
//	policy                  the lines that follow are the policy now
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	seen := map[Phase]map[Phase]bool{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, text, seen)
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if !bytes.Equal(got, text) {
				t.Errorf("%s says otherwise (-update writes it again):\n%s", file, got)
			}
		})
	}
	var drawn []string
	for from, to := range Transitions() {
		for _, p := range to {
			drawn = append(drawn, fmt.Sprintf("%s → %s", from, p))
			if !seen[from][p] {
				t.Errorf("no scenario shows %s → %s", from, p)
			}
		}
	}
	for from, to := range seen {
		for p := range to {
			if s := fmt.Sprintf("%s → %s", from, p); !slices.Contains(drawn, s) {
				t.Errorf("%s happens and is not in Transitions", s)
			}
		}
	}
}

type stage struct {
	t         *testing.T
	m         *Machine
	now       time.Time
	p         *policy.Policy
	text      []string
	facts     Facts
	onset     time.Time
	peak      float64
	live      bool
	usual     float64
	last      string // the newest mitigation
	out       bytes.Buffer
	seen      map[Phase]map[Phase]bool
	incidents int
}

func play(t *testing.T, text []byte, seen map[Phase]map[Phase]bool) []byte {
	s := &stage{t: t, m: New(Records{}), now: t0, facts: Facts{Collateral: -1, MaxAge: 24 * time.Hour}, seen: seen}
	s.facts.Mark = plan(t).Route.Match
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"), line == "":
			fmt.Fprintln(&s.out, line)
		case strings.HasPrefix(line, "|"):
			fmt.Fprintln(&s.out, line)
			s.text = append(s.text, strings.TrimPrefix(strings.TrimPrefix(line, "|"), " "))
			s.p = nil
		case strings.HasPrefix(line, "> "):
			fmt.Fprintln(&s.out, line)
			s.do(strings.Fields(line[2:]))
		}
	}
	return s.out.Bytes()
}

func (s *stage) policy() *policy.Policy {
	if s.p == nil {
		p, err := policy.Parse("scenario.yaml", []byte(strings.Join(s.text, "\n")))
		if err != nil {
			s.t.Fatal(err)
		}
		s.p = p
	}
	return s.p
}

func (s *stage) number(text string) float64 {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *stage) span(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *stage) say(format string, args ...any) {
	fmt.Fprintf(&s.out, "  %6s %s\n", s.now.Sub(t0), fmt.Sprintf(format, args...))
}

// tell writes down what a change says, and keeps the invariants of the machine.
func (s *stage) tell(c Change) {
	for _, mv := range c.Moves {
		if s.seen[mv.From] == nil {
			s.seen[mv.From] = map[Phase]bool{}
		}
		if mv.From != mv.To {
			s.seen[mv.From][mv.To] = true
		}
	}
	for _, x := range c.Put {
		i := slices.IndexFunc(c.Moves, func(m Move) bool { return m.ID == x.ID })
		step := ""
		if x.Rung.Steps > 0 {
			step = fmt.Sprintf(" [step %d of %d]", x.Rung.Step+1, x.Rung.Steps)
		}
		what := x.Routes[0].Action.String()
		if i < 0 {
			s.say("%s%s: %s; until %s; %s", x.Phase, step, what, x.Deadline.Sub(t0), x.Evidence)
			continue
		}
		s.say("%s → %s%s: %s; until %s; %s", c.Moves[i].From, x.Phase, step, what, x.Deadline.Sub(t0), c.Moves[i].Why)
	}
}

func (s *stage) fresh(x Mitigation) {
	s.last = x.ID
	if s.seen[""] == nil {
		s.seen[""] = map[Phase]bool{}
	}
	s.seen[""][x.Phase] = true
	s.say("new → %s: %s; until %s", x.Phase, x.Routes[0].Action, x.Deadline.Sub(t0))
}

func (s *stage) ask(pps float64) policy.Incident {
	return policy.Incident{
		Target: victim, Vector: vector.DNS, Measured: true, PPS: pps, BPS: pps * 4000, PeakPPS: s.peak, PeakBPS: s.peak * 4000,
		Duration: s.now.Sub(s.onset), Test: "limit", Sensors: 1, Hosts: 1, Collateral: s.facts.Collateral,
	}
}

func (s *stage) step(o *traffic.Observation) {
	s.now = s.now.Add(time.Second)
	if o != nil {
		o.Target, o.Vector, o.Start, o.Span = victim, vector.DNS, s.now.Add(-time.Second), time.Second
		s.m.Observe(*o, Usual{PPS: s.usual, BPS: s.usual * 4000})
	}
	s.tell(s.m.Tick(s.now, nil))
	for _, x := range s.m.Live() {
		if x.Manual() {
			continue
		}
		s.facts.Live, s.facts.Duration = s.live, s.now.Sub(s.onset)
		before, c, moved, err := s.m.Advance(s.now, x.ID, s.policy().Answer(s.ask(s.peak), s.now), s.facts)
		if err != nil {
			s.say("error: %v", err)
		}
		if moved {
			if before.ID != x.ID {
				s.t.Errorf("before is %s, not %s", before.ID, x.ID)
			}
			s.tell(c)
		}
	}
	for _, d := range s.m.Records().Routes(s.now) {
		if len(d.Owners) == 0 || d.Deadline.IsZero() || d.Deadline.Sub(d.Created) > s.facts.MaxAge {
			s.t.Errorf("at %s: %+v", s.now.Sub(t0), d)
		}
	}
}

func (s *stage) result(c Change, err error) {
	if err != nil {
		s.say("error: %v", err)
		return
	}
	s.tell(c)
}

func (s *stage) do(words []string) {
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	switch words[0] {
	case "attack":
		if !s.live {
			s.onset, s.live = s.now, true
			s.incidents++
		}
		pps := s.number(arg(1))
		s.peak = pps
		r := s.policy().Answer(s.ask(pps), s.now)
		i := slices.IndexFunc(r.Steps, policy.Step.Announces)
		if i < 0 {
			s.say("only observed: %s", r.Reason)
			return
		}
		st := r.Steps[i]
		p := Plan{
			Target: victim, Vector: vector.DNS, Incident: fmt.Sprintf("i-%d", s.incidents), Route: route.Route{Match: s.facts.Mark, Action: st.Action},
			TTL: st.TTL, Extend: st.Extend, MaxAge: min(st.MaxAge, s.facts.MaxAge), Reason: r.Reason, Rung: Rung{Ladder: Ladder(r), Steps: len(r.Steps), Name: st.Name, DownAfter: st.DownAfter},
			PPS: pps, BPS: pps * 4000,
		}
		if st.Action.Kind == route.Blackhole {
			p.Route.Match = route.Match{Destination: victim}
		}
		if r.Observe {
			p.Proposed, p.Rung.Step = true, -1
		}
		x, err := s.m.Respond(s.now, p)
		if err != nil {
			s.say("error: %v", err)
			return
		}
		s.fresh(x)
	case "sees":
		other := 0.0
		if arg(2) != "for" {
			other = s.number(arg(2))
		}
		pps := s.number(arg(1))
		for range int(s.span(words[len(words)-1]) / time.Second) {
			o := traffic.Observation{PPS: pps, BPS: pps * 4000, AllPPS: pps + other, Sensors: []string{"rack1"}, SensorCount: 1}
			if pps == 0 {
				o.Sensors, o.SensorCount = nil, 0
			}
			s.step(&o)
		}
	case "silence":
		s.step(&traffic.Observation{HeldPPS: 1, Missing: []string{"rack1"}, MissingCount: 1})
		for range int(s.span(arg(2))/time.Second) - 1 {
			s.step(nil)
		}
	case "nothing": // is told of the vector
		for range int(s.span(arg(2)) / time.Second) {
			s.step(nil)
		}
	case "forgotten": // the view dropped what the sensor said
		s.step(&traffic.Observation{})
	case "over":
		s.live = false
		s.tell(s.m.Over(s.now, victim, []vector.ID{vector.DNS}))
	case "installed":
		s.facts.Installed, s.facts.Routers = int(s.number(arg(1))), int(s.number(arg(3)))
	case "usual":
		s.usual = s.number(arg(1))
	case "collateral":
		s.facts.Collateral = s.number(arg(1))
	case "approve", "reject":
		f := s.m.Approve
		if words[0] == "reject" {
			f = s.m.Reject
		}
		_, c, err := f(s.now, s.last, arg(1), "looked at it")
		s.result(c, err)
	case "extend":
		_, c, err := s.m.Extend(s.last, s.span(arg(1)), s.facts.MaxAge, "eva", "not over yet")
		s.result(c, err)
	case "withdraw":
		var hold time.Duration
		if arg(1) != "" {
			hold = s.span(arg(1))
		}
		s.tell(s.m.Withdraw(s.now, func(x Mitigation) bool { return x.ID == s.last }, hold, "eva", "wrong"))
	case "unhold":
		_, err := s.m.DeleteHold(victim)
		s.result(Change{}, err)
	case "freeze":
		s.m.SetFreeze(&Freeze{Since: s.now, Requester: "eva", Reason: "maintenance"})
	case "unfreeze":
		s.m.SetFreeze(nil)
	case "announce":
		r := Request{Route: plan(s.t).Route, TTL: time.Hour, Requester: arg(1), Reason: "by hand"}
		if n := arg(2); n != "" {
			r.Ask = &Ask{Needs: int(s.number(n)), Why: "wide", Since: s.now}
		}
		x, _ := s.m.Announce(s.now, r)
		s.fresh(x)
	case "unsafe":
		s.tell(s.m.EndUnsafe(s.now, map[string]string{s.last: "protected_prefix: of the limits since today"}))
	case "refuse":
		before := Mitigation{}
		for _, x := range s.m.Live() {
			if x.ID == s.last {
				before = x
			}
		}
		x := s.m.Refuse(s.now, s.last, "protected_prefix")
		s.tell(Change{Put: []Mitigation{x}, Moves: []Move{{ID: x.ID, From: before.Phase, To: x.Phase, Why: x.EndDetail}}})
	case "policy":
		s.text = nil
	default:
		s.t.Fatalf("what is %q?", words)
	}
}
