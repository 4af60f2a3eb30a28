package bpf_test

import (
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf/floor"
)

// BenchmarkPacket reports what one packet costs in the sensor's programs, in the floor and in an empty program, which run
// by turns: medians, and how many times the floor we are, with the cost of running any program and without.
//
//	go test -run xxx -bench Packet/door=tcx/packet=dns ./internal/sensor/bpf
func BenchmarkPacket(b *testing.B) {
	lab.NeedRoot(b)
	bench, err := floor.Open()
	if err != nil {
		b.Fatal(err)
	}
	defer bench.Close()
	for _, k := range floor.Kinds() {
		for _, door := range k.Doors {
			b.Run("door="+string(door)+"/packet="+k.Name, func(b *testing.B) {
				c, err := bench.Prepare(k, door)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				if _, err := c.Round(); err != nil { // warm
					b.Fatal(err)
				}
				var ours, least, empty, ratio, net []float64
				for b.Loop() {
					cost, err := c.Round()
					if err != nil {
						b.Fatal(err)
					}
					ours, least, empty = append(ours, cost.Ours), append(least, cost.Floor), append(empty, cost.Empty)
					ratio, net = append(ratio, cost.Ratio()), append(net, cost.Net())
				}
				b.ReportMetric(floor.Median(ours), "ns/pkt")
				b.ReportMetric(floor.Median(least), "ns-floor")
				b.ReportMetric(floor.Median(empty), "ns-empty")
				b.ReportMetric(floor.Median(ratio), "×floor")
				b.ReportMetric(floor.Median(net), "×floor-net")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
