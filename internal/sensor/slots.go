package sensor

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
)

// Slots of hosts are the first, then those of protected prefixes, then those of IPv6 /64 networks. Programs give hosts
// and networks theirs; we find out by what is counted, and take them back when they are silent. A host belongs to its
// network or prefix, a network to its prefix: what is counted below a parent, and for it, is the parent's exact total.

// impatience is how long a target must be silent to lose its slot while others need one.
const impatience = 5 * time.Second

// pool is the slots of a kind that programs give away.
type pool struct {
	first, end uint32
	used       int
	retired    time.Time // when it was last looked through for who is silent
}

func (p *pool) has(n uint32) bool { return n >= p.first && n < p.end }

// poolOf returns the pool a slot is from; nil for a prefix's.
func (m *meter) poolOf(n uint32) *pool {
	switch {
	case m.hosts.has(n):
		return &m.hosts
	case m.networks.has(n):
		return &m.networks
	}
	return nil
}

// direct follows a directive: all of it, or nothing.
func (m *meter) direct(d *directive, now time.Time) error {
	table, fresh, err := m.assign(d.protected)
	if err != nil {
		return err
	}
	var levels [bpf.Columns]bpf.Level
	for c, l := range d.limits {
		levels[c] = bpf.Level{Packets: per(l.pps, m.window), Bytes: (per(l.bps, m.window) + 7) / 8}
	}
	if err := errors.Join(m.k.SetSampling(d.sampleOneIn), m.k.SetWatchedSampling(d.hotSampleOneIn), m.k.SetPorts(&d.ports), m.k.SetLevels(levels), m.k.SetTargets(table)); err != nil {
		return err
	}
	m.now = d
	m.protect(table)
	// Networks first: hosts belong to them.
	for n := m.networks.first; n < m.networks.end; n++ {
		if err := m.place(n); err != nil {
			return err
		}
	}
	for n := range m.hosts.end {
		if err := m.place(n); err != nil {
			return err
		}
	}
	if len(fresh) > 0 {
		// What the prefix before received, read by now or not.
		if err := m.read(now, m.k.Scan); err != nil {
			return err
		}
		for _, n := range fresh {
			m.slots[n].span.reset()
		}
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

// assign gives protected prefixes slots: the one it has to a prefix that stays.
func (m *meter) assign(protected []netip.Prefix) (table bpf.Table, fresh []uint32, err error) {
	table = bpf.Table{}
	for _, p := range protected {
		table[p] = m.table[p] // 0 for now if it is new
	}
	if err := m.sizes.Fits(table); err != nil {
		return nil, nil, err
	}
	// A slot never used, or used longest ago, is not tracked: a stray packet of the prefix before may be counted for
	// the new one.
	free := uint32(m.sizes.Hosts)
	for _, p := range protected {
		if _, ok := m.table[p]; ok {
			continue
		}
		for taken := true; taken; free++ {
			_, taken = table[m.slots[free].holder]
		}
		table[p] = free - 1
		fresh = append(fresh, table[p])
	}
	return table, fresh, nil
}

// protect remembers which prefixes are protected, and in which slots they are.
func (m *meter) protect(table bpf.Table) {
	m.table, m.deep = table, map[netip.Prefix]bool{}
	for n := m.sizes.Hosts; n < m.sizes.FirstNetwork(); n++ {
		m.slots[n].holder = netip.Prefix{}
	}
	for p, n := range table {
		m.slots[n].holder, m.slots[n].parent = p, table.Parent(p)
		if p.Addr().Is6() && p.Bits() > 64 {
			m.deep[network6(p)] = true
		}
	}
}

// network6 returns the /64 an IPv6 prefix lies in.
func network6(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), 64).Masked() }

// adopt takes over the slots that an earlier process left to their holders, and those it had unlinked.
func (m *meter) adopt(held, unlinked []uint32, now time.Time) error {
	table := bpf.Table{}
	for _, n := range held {
		if m.poolOf(n) == nil {
			h, err := m.k.Holder(n)
			if err != nil {
				return err
			}
			table[h.Network] = n
		}
	}
	m.protect(table)
	for _, n := range held {
		if err := m.meet(n, now); err != nil {
			return err
		}
	}
	for _, n := range unlinked {
		if err := m.meet(n, now); err != nil {
			return err
		}
		if err := m.release(n, true); err != nil {
			return err
		}
	}
	return nil
}

// place finds what a host or network belongs to, and lets go of what is not protected.
func (m *meter) place(n uint32) error {
	s := &m.slots[n]
	if !s.holder.IsValid() || s.leaving {
		return nil
	}
	prefix, ok := m.table.Longest(s.holder)
	if !ok {
		return m.release(n, false)
	}
	switch {
	case s.holder.Addr().Is4() || m.sizes.Networks6 == 0:
	case m.networks.has(n):
		// It has no slot where a prefix begins or ends in it: see other6() in target.h.
		if prefix.Bits() >= 64 || m.deep[s.holder] {
			return m.release(n, true)
		}
	case prefix.Bits() < 64 && !m.deep[network6(s.holder)]:
		if above := s.parent; m.networks.has(above) && !m.slots[above].leaving && m.slots[above].holder == network6(s.holder) {
			return nil
		}
		return m.release(n, true) // with its next packet it comes back, and its network with it
	}
	return m.belong(n, m.table[prefix])
}

// belong makes a slot belong to another one.
func (m *meter) belong(n, parent uint32) error {
	s := &m.slots[n]
	if s.parent == parent {
		return nil
	}
	if err := m.k.SetParent(n, parent); err != nil {
		return err
	}
	m.child(s.parent, -1)
	m.child(parent, 1)
	s.parent = parent
	return nil
}

// child counts the hosts of networks.
func (m *meter) child(parent uint32, more int) {
	if m.networks.has(parent) {
		m.children[parent-m.networks.first] += more
	}
}

// hasHosts tells whether a network's hosts have slots.
func (m *meter) hasHosts(n uint32) bool {
	return m.networks.has(n) && m.children[n-m.networks.first] > 0
}

// release makes a slot impossible to find. It is given back when nothing is counted for it any more.
func (m *meter) release(n uint32, protected bool) error {
	s := &m.slots[n]
	if s.leaving {
		return nil
	}
	if err := m.k.Unlink(n, bpf.Holder{Network: s.holder, Parent: s.parent}, protected); err != nil {
		return err
	}
	s.leaving = true
	m.limbo = append(m.limbo, n)
	return nil
}

// meet finds out who took a slot that was free.
func (m *meter) meet(n uint32, now time.Time) error {
	s := &m.slots[n]
	if s.holder.IsValid() || m.poolOf(n) == nil {
		return nil
	}
	h, err := m.k.Holder(n)
	if err != nil || !h.Network.IsValid() { // the latter cannot be: holders are written before the first packet is counted
		return err
	}
	s.holder, s.parent, s.changed = h.Network, h.Parent, now
	m.poolOf(n).used++
	m.child(s.parent, 1)
	if m.networks.has(s.parent) { // counts nothing itself while its hosts have slots
		if err := m.meet(s.parent, now); err != nil {
			return err
		}
	}
	return m.place(n)
}

// recycle unlinks who is silent, and gives back the slots of those that were unlinked before the scan before: by now no
// program counts for them any more. It follows a scan.
func (m *meter) recycle(now time.Time) error {
	limbo := m.limbo
	m.limbo = nil
	if err := errors.Join(m.retire(&m.hosts, now), m.retire(&m.networks, now)); err != nil {
		return err
	}
	for _, n := range limbo {
		s := &m.slots[n]
		if len(s.span) > 0 { // what it counted last is not reported yet
			m.limbo = append(m.limbo, n)
			continue
		}
		if m.hasHosts(n) {
			// A host found it just before it was unlinked.
			if err := m.disown(n); err != nil {
				return err
			}
			m.limbo = append(m.limbo, n)
			continue
		}
		if m.hot[n] != nil {
			if err := m.calm(n); err != nil {
				return err
			}
		}
		m.child(s.parent, -1)
		s.holder, s.parent, s.leaving = netip.Prefix{}, bpf.NoSlot, false
		m.poolOf(n).used--
		if err := m.k.PushFree(n); err != nil {
			return err
		}
	}
	return m.k.ClearExhausted()
}

// retire unlinks who is silent for long. While more than half of the slots are in use the impatience of those that need
// one counts: then who is silent longest goes first, until half are free.
func (m *meter) retire(p *pool, now time.Time) error {
	over := p.used - int(p.end-p.first)/2
	if over <= 0 && now.Before(p.retired.Add(m.idle/32)) {
		return nil
	}
	p.retired = now
	var silent []uint32
	for n := p.first; n < p.end; n++ {
		s := &m.slots[n]
		if !s.holder.IsValid() {
			continue
		}
		if s.leaving {
			over--
			continue
		}
		if m.hasHosts(n) || m.hot[n] != nil {
			continue
		}
		if now.Sub(s.changed) >= min(m.idle, impatience) {
			silent = append(silent, n)
		}
	}
	slices.SortFunc(silent, func(a, b uint32) int {
		return cmp.Or(m.slots[a].changed.Compare(m.slots[b].changed), cmp.Compare(a, b))
	})
	for i, n := range silent {
		if i >= over && now.Sub(m.slots[n].changed) < m.idle {
			break
		}
		if err := m.release(n, true); err != nil {
			return err
		}
	}
	return nil
}

// disown releases the hosts of a network.
func (m *meter) disown(network uint32) error {
	for n := range m.hosts.end {
		if s := &m.slots[n]; s.holder.IsValid() && s.parent == network {
			if err := m.release(n, true); err != nil {
				return err
			}
		}
	}
	return nil
}
