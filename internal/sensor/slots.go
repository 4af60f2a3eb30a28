package sensor

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
)

// direct follows a directive: all of it, or nothing.
func (m *meter) direct(d *directive) error {
	table, prefixOf := bpf.Table{}, slices.Clone(m.prefixOf)
	for _, p := range d.protected {
		if n, ok := m.table[p]; ok {
			table[p] = n
		} else {
			table[p] = 0
		}
	}
	if err := m.sizes.Fits(table); err != nil {
		return err
	}
	for i, p := range prefixOf {
		if _, keep := table[p]; p.IsValid() && !keep {
			prefixOf[i] = netip.Prefix{}
		}
	}
	var fresh []uint32
	free := 0
	for _, p := range d.protected {
		if _, ok := m.table[p]; ok {
			continue
		}
		// A slot never used, or used longest ago, is not tracked: a stray packet of the prefix before may be counted
		// for the new one.
		for prefixOf[free].IsValid() {
			free++
		}
		prefixOf[free] = p
		table[p] = uint32(m.sizes.Hosts + free)
		fresh = append(fresh, table[p])
	}
	var levels [bpf.Columns]bpf.Level
	for c, l := range d.limits {
		levels[c] = bpf.Level{Packets: per(l.pps, m.window), Bytes: (per(l.bps, m.window) + 7) / 8}
	}
	if err := errors.Join(m.k.SetSampling(d.sampleOneIn), m.k.SetWatchedSampling(d.hotSampleOneIn), m.k.SetPorts(&d.ports), m.k.SetLevels(levels), m.k.SetTargets(table)); err != nil {
		return err
	}
	m.now, m.table, m.prefixOf = d, table, prefixOf
	for n := range uint32(m.sizes.Hosts) {
		if m.slots[n].addr.IsValid() {
			if err := m.place(n); err != nil {
				return err
			}
		}
	}
	for _, n := range fresh {
		m.slots[n].span.reset() // what the prefix before received
	}
	for n := range m.hot {
		if _, ok := m.target(n); !ok || slices.Contains(fresh, n) {
			if err := m.calm(n); err != nil {
				return err
			}
		}
	}
	return m.k.ClearExhausted()
}

// place finds the prefix of a host, and lets go of a host that is not protected.
func (m *meter) place(n uint32) error {
	s := &m.slots[n]
	prefix, ok := m.table.Lookup(s.addr)
	if ok {
		s.prefix = prefix
		return nil
	}
	return m.release(n, false)
}

func (m *meter) release(n uint32, protected bool) error {
	s := &m.slots[n]
	if s.leaving {
		return nil
	}
	if err := m.k.FreeHost(s.addr, n, s.prefix, protected); err != nil {
		return err
	}
	s.leaving = true
	m.limbo = append(m.limbo, n)
	return nil
}

// meet finds out who took a slot that was free.
func (m *meter) meet(n uint32, now time.Time) error {
	s := &m.slots[n]
	if int(n) >= m.sizes.Hosts || s.addr.IsValid() {
		return nil
	}
	addr, prefix, err := m.k.Holder(n)
	if err != nil {
		return err
	}
	if !addr.IsValid() {
		return nil // cannot be: holders are written before the first packet is counted
	}
	s.addr, s.prefix, s.changed = addr, prefix, now
	m.used++
	return m.place(n)
}

// recycle unlinks hosts that are silent, and gives back the slots of those that were unlinked before the scan before:
// by now no program counts for them any more. It follows a scan.
func (m *meter) recycle(now time.Time) error {
	limbo := m.limbo
	m.limbo = nil
	patience := m.idle
	if m.used > m.sizes.Hosts*3/4 {
		patience = min(patience, 5*time.Second) // targets that wait matter more than those that are silent
	}
	for n := range m.slots {
		s, n := &m.slots[n], uint32(n)
		if s.addr.IsValid() && !s.leaving && now.Sub(s.changed) >= patience && m.hot[n] == nil {
			if err := m.release(n, true); err != nil {
				return err
			}
		}
	}
	for _, n := range limbo {
		s := &m.slots[n]
		if len(s.span) > 0 { // what it counted last is not reported yet
			m.limbo = append(m.limbo, n)
			continue
		}
		if m.hot[n] != nil {
			if err := m.calm(n); err != nil {
				return err
			}
		}
		s.addr, s.leaving = netip.Addr{}, false
		m.used--
		if err := m.k.PushFree(n); err != nil {
			return err
		}
	}
	if len(limbo) > 0 || m.used < m.sizes.Hosts {
		return m.k.ClearExhausted()
	}
	return nil
}
