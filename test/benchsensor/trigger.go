package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
)

const (
	triggerRuns = 240
	// The packets a window of 32 ms holds at the trigger's rate, and the sender's unit.
	level, unit = triggerPPS * 32 / 1000, 64
	// A second part that took so much longer than its millisecond may lie in two windows, and pass neither.
	interrupted = 10 * time.Millisecond
)

// measureTriggers takes the time from the packet that passes a trigger to the report, at the controller's end of the
// stream. Each burst goes to another target: first nearly a window's worth of packets, then, from the moment that counts,
// a full window's worth and more, as fast as they go. When both parts fall into one window the first packets of the second
// pass the trigger; when a window ends in between, later ones do, and the time measured is up to a millisecond too long.
func measureTriggers(ctx context.Context, b *bench) error {
	restore, err := lab.KeepFree(lab.FloodCPU())
	if err != nil {
		return err
	}
	defer func() { _ = restore() }()
	part := &triggerPart{Stamp: measuredNow()}
	var whole, inside []float64
	err = inLab("benchtrigger", func(l *lab.Lab) error {
		s, err := newSite(l)
		if err != nil {
			return err
		}
		a, err := startAgent(ctx, b.sensor, s.hostIn, "host")
		if err != nil {
			return err
		}
		for i := range triggerRuns {
			// Windows and ticks must not be met at a fixed phase.
			if err := pause(ctx, 20*time.Millisecond+time.Duration(rand.Int64N(int64(40*time.Millisecond)))); err != nil {
				return err
			}
			target := own4.Addr().As4()
			binary.BigEndian.PutUint16(target[2:], uint16(0x1000+i))
			zero, took, err := a.burst(ctx, s, netip.AddrFrom4(target))
			if err != nil {
				return err
			}
			r, err := a.triggered(ctx, target[:])
			switch {
			case ctx.Err() != nil:
				return err
			case err != nil && took > interrupted:
				part.Torn++
				continue
			case err != nil:
				part.Missed++
				continue
			}
			whole = append(whole, milliseconds(r.at.Sub(zero)))
			inside = append(inside, milliseconds(r.report.SendTime.AsTime().Sub(r.report.TriggerTime.AsTime())))
		}
		return a.stop(ctx)
	})
	if err != nil {
		return err
	}
	part.PacketToController, part.KernelToStream = latencyOf(whole), latencyOf(inside)
	b.report.Trigger = part
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// burst sends the two parts and returns when the second began, and how long it took.
func (a *agent) burst(ctx context.Context, s *site, target netip.Addr) (zero time.Time, took time.Duration, err error) {
	t, err := flood.UDP(target, spoofed4, 4444, make([]byte, 32))
	if err != nil {
		return zero, 0, err
	}
	var parts [2]*flood.Flood
	for i, packets := range []uint64{level - unit, level + unit} {
		parts[i], err = s.hostOut.Flood(s.hostIn, flood.Options{Template: t, Packets: packets, Duration: time.Second, Pin: true, CPU: lab.FloodCPU()})
		if err != nil {
			return zero, 0, err
		}
	}
	if _, err := parts[0].Run(ctx); err != nil {
		return zero, 0, err
	}
	r, err := parts[1].Run(ctx)
	return r.Began, r.Ended.Sub(r.Began), err
}

// triggered waits for a report about the target; late ones about others are let go.
func (a *agent) triggered(ctx context.Context, target []byte) (arrival, error) {
	limit, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		select {
		case r := <-a.triggers:
			for _, g := range r.report.Aggregates {
				if slices.Equal(g.Target, target) {
					return r, nil
				}
			}
		case <-limit.Done():
			return arrival{}, fmt.Errorf("no report came: %w", limit.Err())
		}
	}
}
