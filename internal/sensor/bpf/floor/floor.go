//go:build linux

package floor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// What is protected in the benchmarks, by the floor and by the sensor. Rotating packets go to all of 10.20.0.0/16 and to
// as many addresses of one /64.
var (
	own4  = netip.MustParsePrefix("10.20.0.0/16")
	own6  = netip.MustParsePrefix("2001:db8::/32")
	host4 = netip.MustParseAddr("10.20.3.7")
	host6 = netip.MustParseAddr("2001:db8:20::307")
)

// Rotating is the number of targets that rotating packets go to.
const Rotating = 1 << 16

const (
	hosts6Size = 2 * Rotating // an open table that is half full
	probes     = 64
	counters   = Rotating + hosts6Size
)

// openFloor loads the floor, with [Rotating] IPv4 and [Rotating] IPv6 targets in its tables.
func openFloor() (*floorObjects, error) {
	spec, err := floorSpec()
	if err != nil {
		return nil, err
	}
	var o floorObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		return nil, fmt.Errorf("load the floor: %+v", err)
	}
	if err := fillFloor(&o); err != nil {
		o.Close()
		return nil, err
	}
	return &o, nil
}

// seed of the floor's hash: any. Attackers do not know the sensor's, and nobody attacks the floor.
const seed = 0x1d8e4e27c47d124f

func floorSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadFloor()
	if err != nil {
		return nil, fmt.Errorf("read the floor: %w", err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the processors: %w", err)
	}
	spec.Maps["network_blocks"].MaxEntries = 2
	spec.Maps["host_blocks"].MaxEntries = 257
	spec.Maps["hosts6"].MaxEntries = hosts6Size
	spec.Maps["counters"].MaxEntries = uint32(cpus)
	spec.Maps["counters"].ValueSize = (counters + 2) * 8
	for name, v := range map[string]any{
		"cpus": uint32(cpus), "targets": uint32(counters), "counters6": uint32(Rotating), "hosts6_mask": uint32(hosts6Size - 1), "seed": uint64(seed),
	} {
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, fmt.Errorf("set constant %s: %w", name, err)
		}
	}
	return spec, nil
}

func fillFloor(o *floorObjects) error {
	networks := make([]uint32, 65536)
	a := own4.Addr().As4()
	networks[binary.BigEndian.Uint16(a[:])] = 1
	if err := o.Networks.Set(networks); err != nil {
		return err
	}
	var network floorBlock
	for third := range uint32(256) {
		network.Next[third] = third + 1
		var hosts floorBlock
		for fourth := range uint32(256) {
			hosts.Next[fourth] = third<<8 | fourth
		}
		if err := o.HostBlocks.Put(third+1, hosts); err != nil {
			return err
		}
	}
	if err := o.NetworkBlocks.Put(uint32(1), network); err != nil {
		return err
	}

	table := make([]floorHost6, hosts6Size)
	for n := range uint32(Rotating) {
		b := host6.As16()
		binary.BigEndian.PutUint16(b[14:], uint16(n))
		if err := insert6(table, b); err != nil {
			return err
		}
	}
	keys := make([]uint32, len(table))
	for i := range keys {
		keys[i] = uint32(i)
	}
	if _, err := o.Hosts6.BatchUpdate(keys, table, nil); err != nil {
		return fmt.Errorf("fill the floor's IPv6 table: %w", err)
	}
	return nil
}

// insert6 puts an address where floor.bpf.c looks for it, or as near as it can: programs give up after so many probes.
func insert6(table []floorHost6, b [16]byte) error {
	address := [2]uint64{binary.LittleEndian.Uint64(b[:8]), binary.LittleEndian.Uint64(b[8:])}
	hash := (address[0]^seed)*0x9e3779b97f4a7c15 ^ address[1]
	hash = (hash ^ hash>>32) * 0xbf58476d1ce4e5b9 >> 32
	for i := range uint64(len(table)) {
		e := &table[(hash+i)%uint64(len(table))]
		if e.Address[0] != 0 {
			continue
		}
		*e = floorHost6{Address: address}
		if i >= probes {
			return fmt.Errorf("the floor's IPv6 table has more than %d entries in a row: it needs another seed", probes)
		}
		return nil
	}
	return errors.New("the floor's IPv6 table is full")
}
