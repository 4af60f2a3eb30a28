package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/enforce"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// attack is one act of the demo.
type attack struct {
	title, says string
	vector      string
	family      route.Family
	target      netip.Addr
	class       tap.Class
	template    func() (*flood.Template, error)
}

func attacks() []attack {
	return []attack{
		{
			title: "1  DNS amplification over IPv4", says: "100,000 answers a second that nobody asked for, from four million spoofed resolvers",
			vector: "dns-amplification", family: route.IPv4, target: lab.SiteVictim4,
			class:    tap.Class{Destination: lab.SiteVictim4, Protocol: 17, SourcePort: 53},
			template: func() (*flood.Template, error) { return flood.DNSAnswers(lab.SiteVictim4, lab.SiteSpoofed4, 512) },
		},
		{
			title: "2  SYN flood over IPv6", says: "100,000 connection requests a second, each from another address",
			vector: "syn", family: route.IPv6, target: lab.SiteVictim6,
			class:    tap.Class{Destination: lab.SiteVictim6, Protocol: 6, FlagsSet: 0x02, FlagsClear: 0x10},
			template: func() (*flood.Template, error) { return flood.SYN(lab.SiteVictim6, lab.SiteSpoofed6, servicePort) },
		},
	}
}

const (
	rate     = 100_000          // packets per second
	duration = 11 * time.Second // of an attack: longer than the rule lives unless it is extended
	before   = 2 * time.Second  // the client alone, to compare with
	// slack is how much later than its deadline a rule may go: one round of each part's timer.
	slack = time.Second
)

// act is an attack being played.
type act struct {
	*stage
	attack
	report report
	first  int // number of the first event of it

	in, through *tap.Meter // before and behind the edge
	zero        time.Time  // the first packet
	drop        time.Time  // the rule works; zero while it does not
	flooded     flood.Result
	route       route.Route
	deadline    time.Time // the newest
}

// play plays an attack from a quiet network to the end of its rule.
func (s *stage) play(ctx context.Context, a attack) (report, error) {
	p := &act{stage: s, attack: a, first: s.events.count()}
	p.report = report{Vector: a.vector, Family: a.family.String(), Target: a.target.String()}
	s.out.head(a.title, a.says)
	s.out.begin(time.Time{})
	quiet := time.Now()
	if err := sleep(ctx, before); err != nil {
		return p.report, err
	}

	// Everything that measures is in place before the first packet.
	tapped, err := s.site.EdgeIn.First(a.class)
	if err != nil {
		return p.report, err
	}
	if p.in, err = s.site.EdgeIn.Meter(a.class); err != nil {
		return p.report, err
	}
	defer p.in.Close()
	if p.through, err = s.site.Uplink.Meter(a.class); err != nil {
		return p.report, err
	}
	defer p.through.Close()
	template, err := a.template()
	if err != nil {
		return p.report, err
	}
	f, err := s.site.AttackerOut.Flood(s.site.EdgeIn, flood.Options{
		Template: template, PPS: rate, Packets: uint64(rate * duration.Seconds()), Duration: 2 * duration, Pin: true, CPU: lab.FloodCPU(),
	})
	if err != nil {
		return p.report, err
	}
	done := make(chan error, 1)
	go func() {
		r, err := f.Run(ctx)
		p.flooded = r
		done <- err
	}()
	limit, cancel := context.WithTimeout(ctx, 5*time.Second)
	p.zero, err = tapped.Wait(limit)
	cancel()
	if err == nil {
		s.out.begin(p.zero)
		s.out.add(p.zero, yellow, "edge", "the first attack packet comes in: %s", template.Says)
		telling, stop := context.WithCancel(ctx)
		told := make(chan struct{})
		go func() {
			defer close(told)
			p.tell(telling)
		}()
		defer func() { stop(); <-told }()
		err = p.mitigated(ctx)
	}
	if err == nil {
		err = p.watch(ctx, done)
	} else {
		err = errors.Join(err, <-done) // the generator ends by itself, or with ctx
	}
	if err != nil {
		return p.report, err
	}
	s.out.add(p.flooded.Ended, yellow, "attacker", "the attack ends: %s packets sent", thousands(float64(p.flooded.Packets)))
	if err := p.measure(ctx, quiet); err != nil {
		return p.report, err
	}
	if err := p.withdrawn(ctx); err != nil {
		return p.report, err
	}
	if err := p.ended(ctx); err != nil {
		return p.report, err
	}
	ended := s.client.Between(p.flooded.Ended, time.Now())
	p.report.LossAfter = ended.LossPercent()
	s.out.add(time.Now(), "", "client", "before the attack %.2f %% of the questions were lost, during it %.2f %%, after it %.2f %%",
		p.report.LossBefore, p.report.LossDuring, p.report.LossAfter)
	s.out.flush(time.Time{})
	return p.report, nil
}

func (p *act) ms(at time.Time) float64 { return float64(at.Sub(p.zero)) / float64(time.Millisecond) }

// about says whether an event is about the attack's target.
func (p *act) about(ev *pb.WatchEventsResponse, kind string) bool {
	return ev.Kind == kind && ev.Attributes["target"] == netip.PrefixFrom(p.target, p.target.BitLen()).String()
}

// mitigated follows the attack until the rule is in force at the edge.
func (p *act) mitigated(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	onset, err := p.events.wait(ctx, p.first, func(ev *pb.WatchEventsResponse) bool { return p.about(ev, "incident_onset") })
	if err != nil {
		return fmt.Errorf("the controller recognised no attack: %w", err)
	}
	triggered, err := time.Parse(time.RFC3339Nano, onset.Attributes["triggered"])
	if err != nil {
		return fmt.Errorf("the incident was not begun by a trigger of the sensor's kernel: %w", err)
	}
	p.report.FirstPacketToTrigger, p.report.FirstPacketToDecision = p.ms(triggered), p.ms(onset.Time.AsTime())

	made, err := p.events.wait(ctx, p.first, func(ev *pb.WatchEventsResponse) bool {
		return p.about(ev, "mitigation_created") || p.about(ev, "mitigation_refused") || p.about(ev, "mitigation_observed")
	})
	if err != nil {
		return fmt.Errorf("the controller decided nothing: %w", err)
	}
	if made.Kind != "mitigation_created" {
		return fmt.Errorf("nothing is to be announced: %s", made.Message)
	}
	p.report.Route = made.Attributes["route"]
	if p.route, err = route.Parse(p.report.Route); err != nil {
		return err
	}
	if p.deadline, err = time.Parse(time.RFC3339Nano, made.Attributes["deadline"]); err != nil {
		return err
	}

	want := func(u tap.Update) bool { return p.isFlowSpec(u) && len(u.Reach) > 0 }
	for _, r := range []struct {
		name string
		tap  *tap.BGP
		to   *float64
	}{{"BIRD", p.bgpBIRD, &p.report.FirstPacketToUpdate}, {"FRR", p.bgpFRR, &p.report.UpdateAtSecond}} {
		u, err := r.tap.Wait(ctx, p.zero, want)
		if err != nil {
			return fmt.Errorf("no FlowSpec rule arrived at %s: %w", r.name, err)
		}
		*r.to = p.ms(u.Time)
		p.out.add(u.Time, green, r.name, "BGP UPDATE arrives: %d octets of FlowSpec, AFI %d, SAFI %d", len(u.Reach), u.AFI, u.SAFI)
	}
	at, err := p.site.Enforce.Wait(ctx, func(rules []route.Route) bool {
		for _, r := range rules {
			if r.Equal(p.route.Canonical()) {
				return true
			}
		}
		return false
	})
	if err != nil {
		return err
	}
	p.out.add(at, green, "edge", "the rule is in force in the edge's forwarding")
	if err := sleep(ctx, 300*time.Millisecond); err != nil {
		return err
	}
	if err := p.dropped(time.Now()); err != nil {
		return err
	}
	return p.readBack(ctx)
}

// dropped works out when the flood to the rack fell, from what was counted until end.
func (p *act) dropped(end time.Time) error {
	in, err := p.in.Curve()
	if err != nil {
		return err
	}
	through, err := p.through.Curve()
	if err != nil {
		return err
	}
	drop, ok := through.Drop(p.zero, end, rate*(1-leastCut), 50*time.Millisecond)
	if !ok {
		return nil // measured again at the attack's end
	}
	p.drop = drop
	p.report.FirstPacketToDrop = p.ms(drop)
	before, after := in.PPS(drop, end), through.PPS(drop, end)
	p.out.add(drop, green, "rack", "the flood has fallen: of %s packets a second at the edge %s reach the rack, %.2f %% less",
		thousands(before), thousands(after), 100*(1-after/before))
	return nil
}

func (p *act) isFlowSpec(u tap.Update) bool {
	return u.SAFI == tap.SAFIFlowSpec && (u.AFI == 1) == (p.family == route.IPv4)
}

// readBack shows the rule as the routers' own tools do.
func (p *act) readBack(ctx context.Context) error {
	for _, x := range []struct {
		r  lab.Router
		to *string
		as string
	}{{p.site.BIRD, &p.report.RuleAtRouter, "BIRD"}, {p.site.FRR, &p.report.RuleAtSecond, "FRR"}} {
		have, err := lab.WaitFlowSpec(ctx, x.r, p.family, p.route)
		if err != nil {
			return err
		}
		*x.to = have[0].Raw
		p.out.add(time.Now(), "", x.as, "as the router shows it:\n%s", strings.ReplaceAll(have[0].Raw, "\t", "    "))
	}
	return nil
}

// watch shows what comes in, what gets through, and how the client fares, until the attack ends.
func (p *act) watch(ctx context.Context, done <-chan error) error {
	last := time.Now()
	for {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return errors.Join(ctx.Err(), <-done)
		case <-time.After(2 * time.Second):
		}
		now := time.Now()
		in, err := p.in.Curve()
		if err != nil {
			return err
		}
		through, err := p.through.Curve()
		if err != nil {
			return err
		}
		a, b := in.PPS(last, now), through.PPS(last, now)
		st := p.client.Between(last.Add(-500*time.Millisecond), now.Add(-500*time.Millisecond))
		p.out.add(now, "", "meter", "at the edge %s %7s/s   at the rack %s %6s/s   client lost %d of %d",
			bar(a/rate), thousands(a), bar(b/rate), thousands(b), st.Lost, st.Asked)
		last = now
	}
}

// tell puts what the controller says about the attack on the timeline, as it says it.
func (p *act) tell(ctx context.Context) {
	for i := p.first; ; i++ {
		ev, err := p.events.next(ctx, i)
		if err != nil {
			return
		}
		at, message := ev.Time.AsTime(), ev.Message
		if t := ev.Attributes["route"]; t != "" {
			message = strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(message, t), ":"))
		}
		switch {
		case p.about(ev, "incident_onset"), p.about(ev, "incident_grown"):
			if triggered, err := time.Parse(time.RFC3339Nano, ev.Attributes["triggered"]); err == nil {
				p.out.add(triggered, "", "sensor", "the rack's kernel raises a trigger: %s passed its limit", ev.Attributes["vector"])
			}
			p.out.add(at, red, "controller", "incident: %s", message)
		case p.about(ev, "mitigation_created"):
			text, until := ev.Attributes["route"], ev.Attributes["deadline"]
			if d, err := time.Parse(time.RFC3339Nano, until); err == nil {
				until = d.Local().Format(time.TimeOnly)
			}
			r, err := route.Parse(text)
			if err != nil {
				continue // mitigated tells it as an error
			}
			p.out.add(at, green, "controller", "decided and stored, until %s: %s\n%s", until, words(r), text)
		case p.about(ev, "mitigation_extended"):
			p.out.add(at, green, "controller", "%s", message)
		case p.about(ev, "mitigation_ended"):
			p.out.add(at, green, "controller", "the rule %s", message)
		case p.about(ev, "incident_ended"):
			p.out.add(at, yellow, "controller", "%s", message)
		}
	}
}

// measure works out what the attack did, once it is over.
func (p *act) measure(ctx context.Context, quiet time.Time) error {
	// The sender's clock says when it stopped; the last packets are still on their way then.
	end := p.flooded.Ended.Add(-20 * time.Millisecond)
	if p.drop.IsZero() {
		if err := p.dropped(end); err != nil {
			return err
		}
	}
	if p.drop.IsZero() {
		p.out.add(end, red, "rack", "the flood was never cut")
		p.drop, p.report.FirstPacketToDrop = end, p.ms(end)
	}
	in, err := p.in.Curve()
	if err != nil {
		return err
	}
	through, err := p.through.Curve()
	if err != nil {
		return err
	}
	p.report.PPSBefore, p.report.PPSAfter = in.PPS(p.zero, end), through.PPS(p.drop, end)
	p.report.RackBefore = through.PPS(p.zero, p.drop)
	p.report.Sent = p.flooded.Packets
	counters, err := p.site.Enforce.Counters(ctx)
	if err != nil {
		return err
	}
	p.report.DroppedByRule = counters[enforce.Key(p.route.Canonical())].Dropped.Packets
	during := p.client.Between(p.zero, p.flooded.Ended)
	p.report.LossBefore = p.client.Between(quiet, p.zero).LossPercent()
	p.report.LossDuring, p.report.ClientAsked = during.LossPercent(), during.Asked
	p.report.ClientMedianMilli = float64(during.Median) / float64(time.Millisecond)
	p.out.add(p.flooded.Ended, "", "edge", "the rule dropped %s packets", thousands(float64(p.report.DroppedByRule)))
	return nil
}

// withdrawn waits for the rule's deadline, which may still move, and sees it go at both routers.
func (p *act) withdrawn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	_, err := p.events.wait(ctx, p.first, func(ev *pb.WatchEventsResponse) bool {
		if p.about(ev, "mitigation_extended") {
			if d, err := time.Parse(time.RFC3339Nano, ev.Attributes["deadline"]); err == nil {
				p.deadline = d
			}
		}
		return p.about(ev, "mitigation_ended")
	})
	if err != nil {
		return fmt.Errorf("the rule does not end: %w", err)
	}
	gone := p.deadline
	for _, r := range []struct {
		name string
		tap  *tap.BGP
		r    lab.Router
	}{{"BIRD", p.bgpBIRD, p.site.BIRD}, {"FRR", p.bgpFRR, p.site.FRR}} {
		u, err := r.tap.Wait(ctx, p.zero, func(u tap.Update) bool { return p.isFlowSpec(u) && len(u.Unreach) > 0 })
		if err != nil {
			return fmt.Errorf("the rule was not withdrawn from %s: %w", r.name, err)
		}
		if _, err := lab.WaitFlowSpec(ctx, r.r, p.family); err != nil {
			return err
		}
		p.out.add(u.Time, green, r.name, "the rule is withdrawn, %s after its deadline", u.Time.Sub(p.deadline).Round(100*time.Microsecond))
		if d := u.Time.Sub(p.deadline); d.Abs() > gone.Sub(p.deadline).Abs() {
			gone = u.Time
		}
	}
	late := gone.Sub(p.deadline)
	p.report.WithdrawnAfter = float64(late) / float64(time.Millisecond)
	p.report.Withdrawn = late.Abs() <= slack
	return nil
}

// ended waits for the end of the incident: while a rule held the flood back, the sensors could not tell it from a pause.
func (p *act) ended(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, err := p.events.wait(ctx, p.first, func(ev *pb.WatchEventsResponse) bool { return p.about(ev, "incident_ended") }); err != nil {
		return fmt.Errorf("the incident does not end: %w", err)
	}
	return nil
}

// words says a rule as one would tell it a colleague.
func words(r route.Route) string {
	m := r.Match
	var parts []string
	switch {
	case len(m.TCPFlags) > 0:
		parts = append(parts, "TCP with flags "+flags(r))
	case len(m.Protocol) == 1 && m.Protocol[0] == (route.Range{Lo: 17, Hi: 17}):
		parts = append(parts, "UDP")
	case len(m.Protocol) == 1 && m.Protocol[0] == (route.Range{Lo: 6, Hi: 6}):
		parts = append(parts, "TCP")
	default:
		parts = append(parts, "what matches")
	}
	for _, p := range m.SourcePort {
		parts = append(parts, fmt.Sprintf("from port %d", p.Lo))
	}
	for _, p := range m.DestinationPort {
		parts = append(parts, fmt.Sprintf("to port %d", p.Lo))
	}
	parts = append(parts, "to "+m.Destination.Addr().String())
	what := strings.Join(parts, " ")
	switch r.Action.Kind {
	case route.Discard:
		return "drop " + what
	case route.Blackhole:
		return "drop everything to " + m.Destination.String()
	}
	return fmt.Sprintf("of %s let %s through, drop the rest", what, strings.TrimPrefix(r.Action.String(), "rate-limit "))
}

func flags(r route.Route) string {
	_, rest, _ := strings.Cut(r.String(), "tcp-flags ")
	word, _, _ := strings.Cut(rest, " ")
	return strings.NewReplacer("&!", " but not ", "&", " and ", ",", " or ").Replace(word)
}

// sleep waits, or returns why not.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
