package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf/floor"
)

// rounds is how often each program is measured; they take turns.
const rounds = 15

// measurePackets takes the cost of every kind of packet by BPF_PROG_RUN.
func measurePackets(ctx context.Context, b *bench) error {
	// One processor: a round that moves to the other one finds cold caches.
	restore, err := lab.KeepFree(lab.FloodCPU())
	if err != nil {
		return err
	}
	defer func() { _ = restore() }()
	bench, err := floor.Open()
	if err != nil {
		return err
	}
	defer bench.Close()
	p := &packetPart{Stamp: measuredNow(), Kinds: map[string]packetCost{}}
	other := make([]byte, 64<<20)
	for _, k := range floor.Kinds() {
		for _, door := range k.Doors {
			if err := ctx.Err(); err != nil {
				return err
			}
			c, err := bench.Prepare(k, door)
			if err != nil {
				return fmt.Errorf("%s at %s: %w", k.Name, door, err)
			}
			cost, err := costOf(c)
			if err == nil && k.Cold() {
				var cold floor.Cost
				cold, err = c.Cold(other)
				cost.Cold = &coldCost{Ours: cold.Ours, Floor: cold.Floor, Empty: cold.Empty}
			}
			if err := errors.Join(err, c.Close()); err != nil {
				return fmt.Errorf("%s at %s: %w", k.Name, door, err)
			}
			cost.Says = k.Says
			name := string(door) + "/" + k.Name
			p.Kinds[name] = cost
			p.Order = append(p.Order, name)
		}
	}
	b.report.Packets = p
	return nil
}

func costOf(c *floor.Case) (packetCost, error) {
	if _, err := c.Round(); err != nil { // warm
		return packetCost{}, err
	}
	var ours, least, empty, ratio, net []float64
	for range rounds {
		cost, err := c.Round()
		if err != nil {
			return packetCost{}, err
		}
		ours, least, empty = append(ours, cost.Ours), append(least, cost.Floor), append(empty, cost.Empty)
		ratio, net = append(ratio, cost.Ratio()), append(net, cost.Net())
	}
	return packetCost{
		Ours: spreadOf(ours), Floor: spreadOf(least), Empty: spreadOf(empty),
		// Of the medians, not the median of the ratios: a disturbance hits one of the three programs.
		Ratio: floor.Median(ours) / floor.Median(least),
		Net:   (floor.Median(ours) - floor.Median(empty)) / (floor.Median(least) - floor.Median(empty)),
		// How much the rounds differ.
		RatioSpread: spreadOf(ratio), NetSpread: spreadOf(net),
	}, nil
}
