//go:build linux

package offline

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// kernel is the sensor's programs, told to protect the targets.
type kernel struct {
	*bpf.Kernel
	prefixes map[uint32]netip.Prefix // by slot
}

func (k *kernel) close() { k.Kernel.Close() }

// load loads the programs with room for all that is to be counted.
func load(o Options, targets []netip.Prefix, hosts int) (*kernel, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the CPUs: %w", err)
	}
	table := bpf.Table{}
	prefixes := map[uint32]netip.Prefix{}
	for _, p := range targets {
		if _, ok := table[p]; ok {
			continue
		}
		slot := uint32(hosts + len(table))
		table[p], prefixes[slot] = slot, p
	}
	// The table of IPv6 prefixes has eight nodes for each prefix there is room for, and a host by itself takes 29.
	six := 0
	for p := range table {
		if p.Addr().Is6() {
			six++
		}
	}
	networks := len(table.Networks4(1 << 20))
	s := bpf.Sizes{
		CPUs: cpus, Hosts: hosts, Prefixes: max(1, len(table), (29*six+7)/8), Networks4: max(1, networks), Blocks4: min(max(1, networks), 1<<16),
		Triggers: 4096, Samples: 4096, Decapsulate: o.Decapsulate, Outbound: len(o.Targets) > 0,
	}
	loaded, err := bpf.Load(s)
	if err != nil {
		return nil, err
	}
	k := &kernel{loaded, prefixes}
	var ports [65536]uint8
	for port, v := range o.Ports {
		ports[port] = uint8(v)
	}
	for _, err := range []error{k.SetPorts(&ports), k.SetTargets(table)} {
		if err != nil {
			k.close()
			return nil, err
		}
	}
	return k, nil
}

// scanEvery is how many packets lie between two readings of the counters, which are exact only so far.
const scanEvery = 1 << 20

// count runs every packet through the programs.
func (k *kernel) count(ctx context.Context, o Options, named bool) (*Result, error) {
	r := &Result{Engine: Kernel, Counts: map[Key]Tally{}}
	err := each(ctx, o, r, func(frame []byte) error {
		if r.Packets%scanEvery == 0 {
			if err := k.scan(r); err != nil {
				return err
			}
		}
		program := k.Ingress()
		if !takes(frame) {
			program = k.XDP() // counts the same, and is not asked for a whole IP header
		}
		if _, err := program.Run(&ebpf.RunOptions{Data: frame}); err != nil {
			r.NotRun++
			return nil
		}
		if named && takes(frame) {
			if _, err := k.Egress().Run(&ebpf.RunOptions{Data: frame}); err != nil {
				r.NotRun++
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := k.scan(r); err != nil {
		return nil, err
	}
	stats, err := k.Stats()
	if err != nil {
		return nil, err
	}
	r.NotIP, r.Headless, r.Unprotected = stats.NonIpPackets, stats.HeadlessPackets, stats.UnprotectedPackets[vector.Inbound]
	return r, nil
}

// scan adds what was counted since the last time.
func (k *kernel) scan(r *Result) error {
	var failed error
	err := k.Scan(func(slot uint32, c bpf.Column, n bpf.Count) {
		target, ok := k.prefixes[slot]
		if !ok {
			h, err := k.Holder(slot)
			if err != nil {
				failed = err
				return
			}
			target = h.Network
		}
		key := Key{target, c.Direction(), c.Vector()}
		t := r.Counts[key]
		t.add(n.Packets(), n.Bytes())
		r.Counts[key] = t
	})
	return errors.Join(err, failed)
}

// takes tells whether a test run of a program of the stack takes the frame: it wants a whole IP header, and a page.
func takes(frame []byte) bool {
	if len(frame) < 15 || len(frame) > 3500 {
		return false
	}
	return len(frame) >= map[uint16]int{0x0800: 34, 0x86dd: 54}[binary.BigEndian.Uint16(frame[12:])]
}
