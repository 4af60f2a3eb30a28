//go:build linux

package bpf

// Use is how full a map is, as far as that is counted.
type Use struct {
	Used, Total uint64 // entries; 0 of 0 where they are not counted
	Lost        uint64 // packets or events that found no room
}

// Uses tells it of the maps that can be full, by name. Of a queue of free slots it is the slots that are not in it: those
// for the heavy are in use only when a heavy target has one.
func (k *Kernel) Uses(st *Stats) (map[string]Use, error) {
	taken, err := k.taken()
	if err != nil {
		return nil, err
	}
	hosts, networks, err := k.Free()
	if err != nil {
		return nil, err
	}
	heavy := func(kind int, lost uint64) Use {
		kept := k.free.kept[kind]
		return Use{kept - (k.free.put[kind][forHeavy] - taken[kind][forHeavy]), kept, lost}
	}
	s := k.Sizes
	return map[string]Use{
		"slot_infos":     {uint64(s.Hosts - hosts), uint64(s.Hosts), st.SlotExhausted},
		"heavy_hosts":    heavy(hostSlots, st.RefusedHosts),
		"free_networks":  {uint64(s.Networks6 - networks), uint64(s.Networks6), st.NetworkExhausted},
		"heavy_networks": heavy(networkSlots, st.RefusedNetworks),
		"targets6":       {Lost: st.Table6Overflows},
		"nodes6":         {uint64(k.nodesUsed), uint64(s.nodes6()), 0},
		"network_blocks": {uint64(s.Blocks4 - len(k.v4.freeNetworks)), uint64(s.Blocks4), 0},
		"host_blocks":    {uint64(s.Networks4 - len(k.v4.freeHosts)), uint64(s.Networks4), 0},
		"triggers":       {Lost: st.LostTriggers},
		"samples":        {Lost: st.LostSamples},
	}, nil
}
