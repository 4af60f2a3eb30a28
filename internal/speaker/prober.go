package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/probe"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Probe says how a router is asked what it installed: by a command, by SNMP or by gNMI; without any of them it is not asked.
type Probe struct {
	Argv       []string // a program and its arguments; the router's command becomes the last one
	Parser     string   // see package probe
	IPv4, IPv6 string   // the router's commands; empty for none
	Counters   string   // its command that shows what rules hit, where it is another; empty for none
	SNMP       *probe.SNMP
	GNMI       *probe.GNMI
	Interval   time.Duration
	Timeout    time.Duration
}

// asker returns how the router is asked; nil when it is not.
func (p Probe) asker() probe.Asker {
	switch {
	case p.SNMP != nil:
		s := *p.SNMP
		s.Timeout = p.Timeout
		return s
	case p.GNMI != nil:
		g := *p.GNMI
		g.Timeout = p.Timeout
		return g
	case len(p.Argv) > 0:
		return probe.Shell{Command: probe.Command{Argv: p.Argv, Timeout: p.Timeout}, Parser: p.Parser, IPv4: p.IPv4, IPv6: p.IPv6, Counters: p.Counters}
	}
	return nil
}

// check reports what is wrong.
func (p Probe) check(profile string) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	ways := 0
	if len(p.Argv) > 0 {
		ways++
		if !slices.Contains(probe.Parsers(), p.Parser) {
			bad("profile %s does not say how to read the router's answer: nothing can be asked; leave probe.run out, or name a profile with a probe", profile)
		}
	}
	if p.SNMP != nil {
		ways++
		if err := p.SNMP.Check(); err != nil {
			bad("snmp: profile %s: %w", profile, err)
		}
	}
	if p.GNMI != nil {
		ways++
		if err := p.GNMI.Check(); err != nil {
			bad("gnmi: profile %s: %w", profile, err)
		}
	}
	if ways > 1 {
		bad("run, snmp and gnmi are three ways to ask, and a router is asked in one: leave the others out")
	}
	if p.Interval < time.Second || p.Timeout < 100*time.Millisecond {
		bad("interval %s and timeout %s are at least 1s and 100ms", p.Interval, p.Timeout)
	}
	return errors.Join(errs...)
}

// Found is what a router said of a rule.
type Found struct {
	State                 probe.State
	Reason                string
	Packets, Octets       uint64 // hit since the rule was installed
	HasPackets, HasOctets bool
	At                    time.Time // zero when it was not asked
}

// Probed is what a router said at the last probe of all rules it was sent.
type Probed struct {
	Installed, NotInstalled int
	Packets                 uint64    // hit by the installed rules, as far as it counts them
	At                      time.Time // of the last answer; zero when there was none
	Error                   string    // why the last probe had none
	// Pause is how long it is not asked, because it did not answer in time; 0 while it is asked at its interval.
	Pause time.Duration
}

// prober asks one router again and again what became of the rules it was sent.
type prober struct {
	peer string
	p    Probe
	by   probe.Asker // nil when it is not asked

	mu    sync.Mutex
	found map[string]Found // by ID of a rule; guarded by mu
	at    time.Time        // when the last answer came; guarded by mu
	err   string           // why the last one was none; guarded by mu
	slow  time.Duration    // pause before the next question, where that is longer than the interval; guarded by mu
}

func newProber(p Peer) *prober {
	return &prober{peer: p.Name, p: p.Probe, by: p.Probe.asker()}
}

// asks reports whether the router is probed at all.
func (b *prober) asks() bool { return b.by != nil }

// lateShare bounds what a router works for answers that are late: the pause grows until it is this many times the timeout.
const lateShare = 20

// next returns how long to wait after a question that ended with err: an interval, or twice the last pause after an answer
// that was late, for the same question would most likely cost the router as much for nothing.
func (b *prober) next(err error, log *slog.Logger) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.slow
	b.slow = 0
	if errors.Is(err, probe.ErrLate) {
		if d := min(2*max(was, b.p.Interval), lateShare*b.p.Timeout); d > b.p.Interval {
			b.slow = d
			b.err += fmt.Sprintf("; asked again after %s only, not to load the router", d)
		}
	}
	switch {
	case was == 0 && b.slow > 0:
		log.Warn("router does not answer the probe in time: it is asked less and less often", "peer", b.peer, "longest", lateShare*b.p.Timeout, "err", err)
	case was > 0 && b.slow == 0:
		log.Info("router is probed at its interval again", "peer", b.peer, "err", err)
	}
	return max(b.slow, b.p.Interval)
}

// run asks until ctx ends. sent returns the rules whose UPDATEs were written before now.
func (b *prober) run(ctx context.Context, m *metrics, log *slog.Logger, sent func(now time.Time) []*item, changed func()) {
	if !b.asks() {
		return
	}
	timer := time.NewTimer(b.p.Interval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		var err error
		if rules := sent(time.Now()); len(rules) > 0 {
			err = b.once(ctx, time.Now(), rules)
			if ctx.Err() != nil {
				return
			}
			result := "ok"
			if err != nil {
				result = "error"
			}
			m.probes.WithLabelValues(b.peer, result).Inc()
		} else {
			b.forget()
		}
		wait := b.next(err, log)
		changed()
		timer.Reset(wait)
	}
}

// once asks for the state of these rules. What was found before stays when there is no answer, with its time.
func (b *prober) once(ctx context.Context, now time.Time, rules []*item) error {
	mine := map[route.Family][]*item{}
	for _, it := range rules {
		switch it.enc.table {
		case compile.IPv4FlowSpec:
			mine[route.IPv4] = append(mine[route.IPv4], it)
		case compile.IPv6FlowSpec:
			mine[route.IPv6] = append(mine[route.IPv6], it)
		}
	}
	var families []route.Family
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		if len(mine[f]) > 0 {
			families = append(families, f)
		}
	}
	readings, err := b.by.Ask(ctx, families)
	found := make(map[string]Found, len(rules))
	for _, f := range families {
		reading, ok := readings[f]
		if !ok {
			continue
		}
		index := reading.Index()
		for _, it := range mine[f] {
			r := index.Find(it.Route.Match)
			found[it.id] = Found{r.State, r.Why, r.Packets, r.Octets, r.HasPackets, r.HasOctets, now}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.err = err.Error()
		for _, it := range rules { // an older answer is better than none, and says how old it is
			if old, ok := b.found[it.id]; ok && found[it.id].At.IsZero() {
				found[it.id] = old
			}
		}
	} else {
		b.err = ""
	}
	if err == nil || len(found) > 0 {
		b.found = found
	}
	if err == nil {
		b.at = now
	}
	return err
}

// forget drops what was found of rules that are gone.
func (b *prober) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.found, b.err = nil, ""
}

// staleAfter is how many intervals an answer tells of the present.
const staleAfter = 3

// of puts together what was found of the rules with these IDs, which are one route at this router.
func (b *prober) of(now time.Time, ids []string) Found {
	if !b.asks() || len(ids) == 0 {
		return Found{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	all := Found{State: probe.Installed, HasPackets: true, HasOctets: true}
	for i, id := range ids {
		f, ok := b.found[id]
		if !ok {
			return Found{} // not asked about yet
		}
		if now.Sub(f.At) > staleAfter*b.p.Interval+b.p.Timeout {
			f.State, f.Reason = probe.Unknown, "the last answer is too old: "+b.err
		}
		if i == 0 || f.At.Before(all.At) {
			all.At = f.At
		}
		if worse(f.State) > worse(all.State) {
			all.State, all.Reason = f.State, f.Reason
		}
		all.Packets, all.Octets = plus(all.Packets, f.Packets), plus(all.Octets, f.Octets)
		all.HasPackets, all.HasOctets = all.HasPackets && f.HasPackets, all.HasOctets && f.HasOctets
	}
	return all
}

// worse orders states: a route one rule of which is missing is not installed.
func worse(s probe.State) int {
	switch s {
	case probe.NotInstalled:
		return 2
	case probe.Unknown:
		return 1
	}
	return 0
}

// all sums up what was found.
func (b *prober) all() Probed {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := Probed{At: b.at, Error: b.err, Pause: b.slow}
	for _, f := range b.found {
		switch f.State {
		case probe.Installed:
			p.Installed++
		case probe.NotInstalled:
			p.NotInstalled++
		}
		p.Packets = plus(p.Packets, f.Packets)
	}
	return p
}

// plus adds counters of a router, which may say anything.
func plus(a, b uint64) uint64 {
	if sum := a + b; sum >= a {
		return sum
	}
	return math.MaxUint64
}
