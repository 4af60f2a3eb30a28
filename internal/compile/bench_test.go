package compile

import (
	"fmt"
	"testing"
)

func BenchmarkCompile(b *testing.B) {
	var set []Entry
	for i := range 10_000 {
		set = append(set, Entry{Route: parse(b, fmt.Sprintf("destination 10.0.%d.%d/32 protocol udp source-port 53,123 length 1000-1500 then discard", i/250, i%250))})
	}
	for _, p := range []Profile{{}, {Name: "small", MaxRules: 5000, Cost: Cost{Expand: true}, Budget: Budget{Shared: 3000}, PortsNeedProtocol: true, Split: 8, Exclusive: [][2]string{{"port", "source-port"}}}} {
		b.Run("profile="+p.Name, func(b *testing.B) {
			for b.Loop() {
				Compile(set, p)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(set)), "ns/route")
		})
	}
}
