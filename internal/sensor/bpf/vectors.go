//go:build linux

package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
)

// setVectors fills the programs' constant tables from the vector table.
func setVectors(spec *ebpf.CollectionSpec) error {
	var services [65536]uint8
	for port, v := range classify.Services() {
		services[port] = uint8(v)
	}
	var types [2][256]uint8
	v4, v6 := classify.ICMPTypes()
	for i := range v4 {
		types[0][i], types[1][i] = uint8(v4[i]), uint8(v6[i])
	}
	for name, table := range map[string]any{"service_vectors": services[:], "icmp_vectors": types} {
		if err := spec.Variables[name].Set(table); err != nil {
			return fmt.Errorf("set constant %s: %w", name, err)
		}
	}
	return nil
}

// tunnelBits is the set as the programs know it: IP in IP is one bit for IPv4 inside and the next for IPv6.
func tunnelBits(t classify.Tunnels) uint32 {
	bits := uint32(t)
	if t&classify.IPIP != 0 {
		bits |= uint32(classify.IPIP) << 1
	}
	return bits
}
