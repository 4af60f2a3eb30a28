package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf/floor"
)

// The programs take turns, rounds times, and everything is loaded anew loads times: in which pages a table lies decides what many
// targets by turns cost.
const rounds, loads = 9, 5

// measurePackets takes the cost of every kind of packet by BPF_PROG_RUN.
func measurePackets(ctx context.Context, b *bench) error {
	// One processor: a round that moves to the other one finds cold caches.
	restore, err := lab.KeepFree(lab.FloodCPU())
	if err != nil {
		return err
	}
	defer func() { _ = restore() }()
	m := &packetMeasurement{warm: map[string][]floor.Cost{}, cold: map[string]floor.Cost{}, other: make([]byte, 64<<20)}
	p := &packetPart{Stamp: measuredNow(), Kinds: map[string]packetCost{}}
	for range loads {
		if err := m.load(ctx); err != nil {
			return err
		}
	}
	for _, k := range floor.Kinds() {
		for _, door := range k.Doors {
			name := string(door) + "/" + k.Name
			cost := costOf(m.warm[name])
			cost.Says = k.Says
			if cold, ok := m.cold[name]; ok {
				cost.Cold = &coldCost{Ours: cold.Ours, Floor: cold.Floor, Empty: cold.Empty}
			}
			p.Kinds[name] = cost
			p.Order = append(p.Order, name)
		}
	}
	b.report.Packets = p
	return nil
}

// packetMeasurement is what was measured so far, by door/kind.
type packetMeasurement struct {
	warm  map[string][]floor.Cost // by round
	cold  map[string]floor.Cost
	other []byte // what is read between two cold packets
}

// load loads everything and measures each kind.
func (m *packetMeasurement) load(ctx context.Context) error {
	bench, err := floor.Open()
	if err != nil {
		return err
	}
	defer bench.Close()
	for _, k := range floor.Kinds() {
		for _, door := range k.Doors {
			if err := ctx.Err(); err != nil {
				return err
			}
			c, err := bench.Prepare(k, door)
			if err != nil {
				return fmt.Errorf("%s at %s: %w", k.Name, door, err)
			}
			if err := errors.Join(m.measure(c, k, string(door)+"/"+k.Name), c.Close()); err != nil {
				return fmt.Errorf("%s at %s: %w", k.Name, door, err)
			}
		}
	}
	return nil
}

func (m *packetMeasurement) measure(c *floor.Case, k floor.Kind, name string) error {
	if _, err := c.Round(); err != nil { // warm
		return err
	}
	for range rounds {
		cost, err := c.Round()
		if err != nil {
			return err
		}
		m.warm[name] = append(m.warm[name], cost)
	}
	if _, ok := m.cold[name]; ok || !k.Cold() {
		return nil
	}
	cost, err := c.Cold(m.other)
	m.cold[name] = cost
	return err
}

// costOf sums the rounds up.
func costOf(all []floor.Cost) packetCost {
	of := func(f func(floor.Cost) float64) spread {
		var values []float64
		for _, cost := range all {
			values = append(values, f(cost))
		}
		return spreadOf(values)
	}
	return packetCost{
		Ours:  of(func(c floor.Cost) float64 { return c.Ours }),
		Floor: of(func(c floor.Cost) float64 { return c.Floor }),
		Empty: of(func(c floor.Cost) float64 { return c.Empty }),
		// Of what was measured within the same few milliseconds: the machine has more than one speed.
		Ratio: of(floor.Cost.Ratio),
		Net:   of(floor.Cost.Net),
	}
}
