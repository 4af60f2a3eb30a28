package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
)

const (
	idleSpan    = 20 * time.Second
	floodRate   = 500_000.0
	scanRate    = 250_000.0
	scanPackets = 1_000_000
)

// measureMemory takes the sensor's resident memory at rest and while sources and targets are invented, and its processor
// time at rest.
func measureMemory(ctx context.Context, b *bench) error {
	restore, err := lab.KeepFree(lab.FloodCPU())
	if err != nil {
		return err
	}
	defer func() { _ = restore() }()
	part := &memoryPart{Stamp: measuredNow(), RSS: map[string]uint64{}, Peak: map[string]uint64{}}
	err = inLab("benchmemory", func(l *lab.Lab) error {
		s, err := newSite(l)
		if err != nil {
			return err
		}
		a, err := startAgent(ctx, b.sensor, s.hostIn, "host")
		if err != nil {
			return err
		}
		pid := a.process.Pid()
		note := func(name string) (err error) {
			if part.RSS[name], err = memory(pid, "VmRSS"); err != nil {
				return err
			}
			part.Peak[name], err = memory(pid, "VmHWM")
			return err
		}
		if err := pause(ctx, 3*time.Second); err != nil { // settled
			return err
		}
		began := time.Now()
		before, err := cpuTime(pid)
		if err != nil {
			return err
		}
		if err := pause(ctx, idleSpan); err != nil {
			return err
		}
		after, err := cpuTime(pid)
		if err != nil {
			return err
		}
		part.IdlePercent = 100 * float64(after-before) / float64(time.Since(began))
		part.MapBytes = a.mapBytes()
		if err := note("idle"); err != nil {
			return err
		}

		// 1 % more packets than sources, for a few are drawn twice.
		spoofed, err := flood.UDP(netip.MustParseAddr("10.20.8.1"), spoofed4, 4444, make([]byte, 32))
		if err != nil {
			return err
		}
		for _, f := range []struct {
			name    string
			packets float64
		}{{"1M", 1.01e6}, {"10M", 1.01e7}} {
			if err := a.flood(ctx, s, spoofed, floodRate, uint64(f.packets)); err != nil {
				return fmt.Errorf("%s spoofed sources: %w", f.name, err)
			}
			if err := note(f.name); err != nil {
				return err
			}
		}
		one, err := flood.UDP(lan6.Addr().Next(), spoofed6, 4444, make([]byte, 32))
		if err != nil {
			return err
		}
		scan, err := one.Spread(lan6)
		if err != nil {
			return err
		}
		if err := a.flood(ctx, s, scan, scanRate, scanPackets); err != nil {
			return fmt.Errorf("random targets in a /64: %w", err)
		}
		if err := note("1M_targets6"); err != nil {
			return err
		}
		return a.stop(ctx)
	})
	if err != nil {
		return err
	}
	b.report.Memory = part
	return nil
}

// flood sends packets to the rack's host interface and waits for the next reports.
func (a *agent) flood(ctx context.Context, s *site, t *flood.Template, rate float64, packets uint64) error {
	f, err := s.hostOut.Flood(s.hostIn, flood.Options{
		Template: t, PPS: rate, Packets: packets, Duration: time.Duration(2 * float64(packets) / rate * float64(time.Second)),
		Pin: true, CPU: lab.FloodCPU(),
	})
	if err != nil {
		return err
	}
	before, err := received(s.hostIn)
	if err != nil {
		return err
	}
	if _, err := f.Run(ctx); err != nil {
		return err
	}
	after, err := received(s.hostIn)
	if err != nil {
		return err
	}
	if after-before < packets*999/1000 {
		return fmt.Errorf("%d of %d packets arrived", after-before, packets)
	}
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return a.reported(limit, 2)
}
