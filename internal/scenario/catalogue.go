package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// All returns every scenario, attacks first, each kind in an order that stays.
func All() []Scenario {
	all := slices.Concat(floods(), shapes(), spreads(), outbound(), benign())
	for i := range all {
		s := &all[i]
		s.Seed = seedOf(s.Name)
		if s.Targets == nil {
			s.Targets = []netip.Prefix{four.ours(), six.ours()}
		}
		for j := range s.Attacks {
			s.Attacks[j].ID = j + 1
		}
	}
	return all
}

// Find returns the scenarios whose names contain the text.
func Find(text string) []Scenario {
	return slices.DeleteFunc(All(), func(s Scenario) bool { return !strings.Contains(s.Name, text) })
}

// webHost is the number of the host that most attacks are on.
const webHost = 10

// onSite is an attack on a web server that goes about its business. It begins after 600 ms.
func onSite(x family, name, says string, lasts time.Duration, a Attack) Scenario {
	us := x.host(webHost)
	a.Start, a.End = 600*ms, 600*ms+lasts
	if !a.Target.IsValid() {
		a.Target = us.host()
	}
	a.PPS = 0
	for i := range a.parts {
		p := &a.parts[i]
		p.from, p.to = a.Start, a.End
		a.PPS += p.pps
	}
	return Scenario{
		Name: name + "-" + x.String(), Says: says, Duration: a.End + 200*ms, Attacks: []Attack{a},
		benign: func(c *cast) { c.site(x, us) },
	}
}

// one is a single stream at so many packets a second.
func one(pps float64, b builder) []part { return []part{{tempo{pps: pps}, b}} }

// inseparable are the vectors whose flood looks like what a web server lives on.
var inseparable = map[vector.ID]bool{vector.ACK: true, vector.FIN: true, vector.QUIC: true, vector.Total: true}

// floods is one of every vector, in both families, at three times its limit and, where that is affordable, at ten times
// and at one and a half.
func floods() (all []Scenario) {
	for _, v := range vector.All() {
		switch v.ID {
		case vector.Total, vector.ReflectorAnswer, vector.OtherReflection:
			continue // see below, outbound, and only with a directive
		}
		limit := sizeOf(v.ID)
		for _, times := range []float64{1.5, 3, 10} {
			for _, x := range families {
				pps := times * limit.pps
				costly := limit.pps > 1e6
				if times == 1.5 && x.six && !costly || times == 10 && limit.pps > 60e3 {
					continue
				}
				s := onSite(x, fmt.Sprintf("flood-%s-%gx", v.Name, times), v.Says, limit.lasts(), Attack{
					Vectors: []vector.ID{v.ID}, Separable: !inseparable[v.ID],
					parts: one(pps, x.flood(v.ID, floodSource(x, v.ID), onto(x.host(webHost)), seedOf(v.Name))),
				})
				s.Long = pps > 2.3e6
				all = append(all, s)
			}
		}
	}
	return all
}

// floodSource is where floods of a vector usually come from.
func floodSource(x family, v vector.ID) source {
	switch v {
	case vector.QUIC, vector.UDPOther, vector.GRE, vector.ESP, vector.IPIP, vector.FIN, vector.TCPOther, vector.ICMPUnreachable:
		return from(x.clients(5000, 77)) // a botnet, mostly of devices that cannot spoof
	}
	return x.spoofed()
}
