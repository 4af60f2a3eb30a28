package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf/floor"
)

const (
	capacityRuns    = 5
	capacityPackets = 1 << 21
)

// measureCapacity takes how many packets per second one processor generates and takes in, in mirror mode.
func measureCapacity(ctx context.Context, b *bench) error {
	part := &capacityPart{Stamp: measuredNow(), Mpps: map[string]spread{}, Clock: map[string]spread{}}
	err := onLink(b.sensor, func(s *site, _, mirror []watcher) error { return capacity(ctx, s, mirror, part) })
	if err == nil {
		b.report.Capacity = part
	}
	return err
}

func capacity(ctx context.Context, s *site, watchers []watcher, part *capacityPart) error {
	raw, clock := map[string][]float64{}, map[string][]float64{}
	for _, w := range watchers {
		if w.name == "nothing" {
			continue // live frames need XDP at the other end
		}
		at, err := w.start(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		before, err := received(s.mirrorIn)
		if err != nil {
			return errors.Join(err, at.stop())
		}
		for _, rotating := range []bool{false, true} {
			name := w.name
			if rotating {
				name += "_64k_targets"
			}
			for range capacityRuns {
				if err := ctx.Err(); err != nil {
					return errors.Join(err, at.stop())
				}
				pps, byClock, err := live(s, rotating)
				if err != nil {
					return errors.Join(fmt.Errorf("%s: %w", w.name, err), at.stop())
				}
				raw[name], clock[name] = append(raw[name], pps/1e6), append(clock[name], byClock/1e6)
			}
		}
		err = sawAll(ctx, s, at, before)
		if err := errors.Join(err, at.stop()); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	for name, values := range raw {
		part.Mpps[name], part.Clock[name] = spreadOf(values), spreadOf(clock[name])
	}
	return nil
}

// sawAll compares what the watcher says it counted with what the interface took in since before. The few packets that
// came between its start and ours make no difference.
func sawAll(ctx context.Context, s *site, at watching, before uint64) error {
	if at.counted == nil {
		return nil
	}
	after, err := received(s.mirrorIn)
	if err != nil {
		return err
	}
	counted, err := at.counted(ctx)
	if err != nil {
		return err
	}
	if arrived := after - before; counted < arrived || counted > arrived+100 {
		return fmt.Errorf("it says it counted %d packets, but %d arrived", counted, arrived)
	}
	return nil
}

// live sends live frames from a pinned thread and returns how many arrived per second of its processor's time that went
// into it, and by the clock.
func live(s *site, rotating bool) (pps, byClock float64, err error) {
	fail := s.source.Do(func() error {
		var set, was unix.CPUSet
		if err := unix.SchedGetaffinity(0, &was); err != nil {
			return err
		}
		set.Set(lab.FloodCPU())
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return err
		}
		defer func() { _ = unix.SchedSetaffinity(0, &was) }()
		g, err := floor.NewGenerator(s.mirrorOut.Index, rotating)
		if err != nil {
			return err
		}
		defer g.Close()
		if _, _, err := g.Send(1 << 16); err != nil { // warm
			return err
		}
		before, err := received(s.mirrorIn)
		if err != nil {
			return err
		}
		waiting, err := softirq()
		if err != nil {
			return err
		}
		took, clock, err := g.Send(capacityPackets)
		if err != nil {
			return err
		}
		all, err := softirq()
		if err != nil {
			return err
		}
		took += all - waiting
		after, err := received(s.mirrorIn)
		pps, byClock = float64(after-before)/took.Seconds(), float64(after-before)/clock.Seconds()
		return err
	})
	return pps, byClock, fail
}
