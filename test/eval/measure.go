package main

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/replay"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/scenario"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// measurement runs a scenario a second time and counts what the signatures match, packet by packet and by their labels.
type measurement struct {
	scenario  scenario.Scenario
	incidents []incident
	of        [][]int // incidents of each attack
	matches   func(route.Match, *traffic.Sample) bool

	packets int
	counts  []count        // by attack
	sample  traffic.Sample // here because it would else be allocated for each packet
}

// count is what is known of one attack's packets, and of the benign ones of its target in the same direction.
type count struct {
	first             time.Time // of the attack's packets
	attack            int
	after, hit        int // the attack's packets since the decision, and those of them that match
	benign, benignHit int

	decided time.Time
	rules   []route.Match
}

func (m *measurement) run(ctx context.Context) error {
	m.counts = make([]count, len(m.scenario.Attacks))
	directed := [vector.Directions]bool{}
	for j, of := range m.of {
		directed[m.scenario.Attacks[j].Direction] = true
		c := &m.counts[j]
		for n, i := range of {
			if n == 0 {
				c.decided = m.incidents[i].decided
			}
			c.rules = append(c.rules, m.incidents[i].rules...)
		}
	}
	ports := classify.DefaultPorts()
	for src := m.scenario.Source(); ; m.packets++ {
		if m.packets&0xffff == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		p, err := src.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		direction, ok := m.direction(p.Data)
		if !ok || !directed[direction] {
			continue
		}
		const ethernet = 14 // scenarios have no VLANs
		if r := classify.PacketOf(direction, p.Data[ethernet:], p.Wire-ethernet, ports); r.Target.IsValid() {
			m.packet(p, &r, direction)
		}
	}
}

func (m *measurement) packet(p replay.Packet, r *classify.Result, direction vector.Direction) {
	for j := range m.scenario.Attacks {
		a, c := &m.scenario.Attacks[j], &m.counts[j]
		if a.Direction != direction || !a.Target.Contains(r.Target) || p.Label != a.ID && p.Label != replay.Benign {
			continue
		}
		hit := false
		if len(c.rules) > 0 {
			m.sample = r.Sample(p.Time, direction, 1)
			for i := 0; i < len(c.rules) && !hit; i++ {
				hit = m.matches(c.rules[i], &m.sample)
			}
		}
		if p.Label == replay.Benign {
			c.benign++
			c.benignHit += one(hit)
			continue
		}
		if c.attack == 0 {
			c.first = p.Time
		}
		c.attack++
		if len(m.of[j]) > 0 && !p.Time.Before(c.decided) {
			c.after++
			c.hit += one(hit)
		}
	}
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

// direction is outbound for packets whose source is protected; ok is false for frames that are not IP.
func (m *measurement) direction(b []byte) (d vector.Direction, ok bool) {
	var src netip.Addr
	switch {
	case len(b) >= 34 && binary.BigEndian.Uint16(b[12:]) == 0x0800:
		src = netip.AddrFrom4([4]byte(b[26:30]))
	case len(b) >= 54 && binary.BigEndian.Uint16(b[12:]) == 0x86dd:
		src = netip.AddrFrom16([16]byte(b[22:38]))
	default:
		return vector.Inbound, false
	}
	for _, t := range m.scenario.Targets {
		if t.Contains(src) {
			return vector.Outbound, true
		}
	}
	return vector.Inbound, true
}
