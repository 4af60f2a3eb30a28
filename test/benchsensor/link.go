package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf/floor"
)

const (
	linkRounds = 3
	linkSpan   = 3 * time.Second
)

// Rates the link is measured at. The last is the one that counts.
var linkRates = []float64{100_000, 400_000}

// watcher is what watches an interface while packets arrive.
type watcher struct {
	name  string
	start func(context.Context) (watching, error)
}

// watching is a watcher at work.
type watching struct {
	pid  int // of its process; 0: it has none
	stop func() error
	// counted is how many packets it says it saw; nil: it cannot say.
	counted func(context.Context) (uint64, error)
}

// measureLink takes the processor time per packet that arrives on a veth link, by who watches.
func measureLink(ctx context.Context, b *bench) error {
	if lab.FindTool("fastnetmon") == "" {
		return errors.New("fastnetmon is missing: scripts/deps.sh bench installs it")
	}
	part := &linkPart{Stamp: measuredNow(), Host: map[string]map[string]linkCost{}, Mirror: map[string]map[string]linkCost{}}
	err := onLink(b.sensor, func(s *site, host, mirror []watcher) error {
		if err := cpuPerPacket(ctx, s.hostOut, s.hostIn, host, linkRates, part.Host, part); err != nil {
			return err
		}
		return cpuPerPacket(ctx, s.mirrorOut, s.mirrorIn, mirror, linkRates[len(linkRates)-1:], part.Mirror, part)
	})
	if err == nil {
		b.report.Link = part
	}
	return err
}

// onLink runs body in a lab with a site and all that may watch its interfaces.
func onLink(sensor string, body func(s *site, host, mirror []watcher) error) error {
	// Everything but the sender, and what its packets cost in the kernel, runs beside it.
	restore, err := lab.KeepFree(lab.FloodCPU())
	if err != nil {
		return err
	}
	defer func() { _ = restore() }()
	f, err := floor.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	return inLab("benchlink", func(l *lab.Lab) error {
		s, err := newSite(l)
		if err != nil {
			return err
		}
		host, mirror := watchers(s, sensor, f)
		return body(s, host, mirror)
	})
}

func watchers(s *site, sensor string, f *floor.Bench) (host, mirror []watcher) {
	nothing := watcher{"nothing", func(context.Context) (watching, error) { return watching{stop: func() error { return nil }}, nil }}
	ours := func(i lab.Interface, mode string) watcher {
		return watcher{"ours", func(ctx context.Context) (watching, error) {
			a, err := startAgent(ctx, sensor, i, mode)
			if err != nil {
				return watching{}, err
			}
			return watching{a.process.Pid(), func() error { return a.stop(context.WithoutCancel(ctx)) }, a.counted}, nil
		}}
	}
	bare := func(i lab.Interface, d floor.Door, name string, empty bool) watcher {
		return watcher{name, func(context.Context) (watching, error) {
			var c io.Closer
			err := i.In.Do(func() (err error) { c, err = f.Attach(d, i.Index, empty); return err })
			if err != nil {
				return watching{}, err
			}
			return watching{stop: c.Close}, nil
		}}
	}
	fastNetMon := watcher{"fastnetmon", func(ctx context.Context) (watching, error) {
		limit, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		p, err := s.rack.StartFastNetMon(limit, lab.FastNetMonOptions{
			Interface: s.hostIn.Name, Networks: []netip.Prefix{own4, own6}, PPS: triggerPPS,
		})
		if err != nil {
			return watching{}, err
		}
		return watching{pid: p.Pid(), stop: func() error {
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return p.Stop(limit)
		}}, nil
	}}
	return []watcher{nothing, ours(s.hostIn, "host"), bare(s.hostIn, floor.Ingress, "bare", false), fastNetMon},
		[]watcher{nothing, ours(s.mirrorIn, "mirror"), bare(s.mirrorIn, floor.XDP, "bare", false), bare(s.mirrorIn, floor.XDP, "empty", true)}
}

// cpuPerPacket sends the same traffic at each rate while each watcher watches, by turns, and notes the processor seconds
// per million packets.
func cpuPerPacket(ctx context.Context, from, to lab.Interface, watchers []watcher, rates []float64, into map[string]map[string]linkCost, part *linkPart) error {
	raw, machine := map[string]map[string][]float64{}, map[string]map[string][]float64{}
	for range linkRounds {
		for _, w := range watchers {
			if raw[w.name] == nil {
				raw[w.name], machine[w.name] = map[string][]float64{}, map[string][]float64{}
			}
			at, err := w.start(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			for _, rate := range rates {
				cost, remark, err := perMillion(ctx, from, to, rate, at.pid)
				if err != nil {
					return errors.Join(fmt.Errorf("%s at %.0f packets/s: %w", w.name, rate, err), at.stop())
				}
				if remark != "" {
					part.Remarks = append(part.Remarks, w.name+": "+remark)
				}
				raw[w.name][rateName(rate)] = append(raw[w.name][rateName(rate)], cost.accounted)
				machine[w.name][rateName(rate)] = append(machine[w.name][rateName(rate)], cost.machine)
			}
			if err := at.stop(); err != nil {
				return fmt.Errorf("stop %s: %w", w.name, err)
			}
		}
	}
	for name, byRate := range raw {
		into[name] = map[string]linkCost{}
		for rate, values := range byRate {
			into[name][rate] = linkCost{spreadOf(values), spreadOf(machine[name][rate])}
		}
	}
	return nil
}

func rateName(rate float64) string { return fmt.Sprintf("%.0fkpps", rate/1000) }

// secondsPerMillion is processor time per million packets.
type secondsPerMillion struct {
	accounted float64 // of the sender with what its packets cost in the kernel, of ksoftirqd, and of who watches
	machine   float64 // of the whole machine, whatever it was used for
}

// perMillion sends a span of the traffic: DNS answers of 128 octets from invented sources to 1,024 targets, none of which
// passes a trigger. On veth the sender's thread does the receiver's work in the kernel, so its processor time holds that.
func perMillion(ctx context.Context, from, to lab.Interface, rate float64, pid int) (cost secondsPerMillion, remark string, err error) {
	one, err := flood.DNSAnswers(targets.Addr(), spoofed4, 100)
	if err != nil {
		return cost, "", err
	}
	t, err := one.Spread(targets)
	if err != nil {
		return cost, "", err
	}
	packets := uint64(rate * linkSpan.Seconds())
	fl, err := from.Flood(to, flood.Options{Template: t, PPS: rate, Packets: packets, Duration: 2 * linkSpan, Pin: true, CPU: lab.FloodCPU()})
	if err != nil {
		return cost, "", err
	}
	before, err := received(to)
	if err != nil {
		return cost, "", err
	}
	used, err := use(pid)
	if err != nil {
		return cost, "", err
	}
	sent, err := fl.Run(ctx)
	if err != nil {
		return cost, "", err
	}
	all, err := use(pid)
	if err != nil {
		return cost, "", err
	}
	used = all.minus(used)
	after, err := received(to)
	if err != nil {
		return cost, "", err
	}
	if got := after - before; got < packets*999/1000 {
		return cost, "", fmt.Errorf("%d of %d packets arrived", got, packets)
	}
	if p := sent.PPS(); p < 0.97*rate {
		remark = fmt.Sprintf("at %.0f packets/s the sender only reached %.0f: the machine was too busy", rate, p)
	}
	millions := float64(after-before) / 1e6
	return secondsPerMillion{(sent.CPU + used.softirq + used.process).Seconds() / millions, used.machine.Seconds() / millions}, remark, nil
}
