package scenario

import (
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// shapes are attacks on one host that differ from a plain flood in what they send, or when.
func shapes() (all []Scenario) {
	for _, x := range families {
		to := onto(x.host(webHost))
		add := func(name, says string, lasts time.Duration, a Attack) {
			all = append(all, onSite(x, name, says, lasts, a))
		}
		is := func(vs ...vector.ID) []vector.ID { return vs }
		bots := from(x.clients(3000, 71))
		single := onto(x.clients(1, 72).at(0))
		linux := segments{to: to, dst: 443, flags: syn, options: synLinux, window: 64240}

		// SYN: where they come from, and how they look.
		for _, k := range []struct {
			name, says string
			s          segments
			separable  bool
		}{
			{"syn-one-source", "SYNs of one host, as a tool sends them", segments{from: single, dst: 443, flags: syn, window: 512}, true},
			{"syn-one-source-as-linux", "SYNs of one host, like those of a real client", segments{from: single, dst: 443, flags: syn, options: synLinux, window: 64240}, true},
			{"syn-botnet", "SYNs of 3,000 real hosts, all of Linux, as our visitors are", segments{from: bots, dst: 443, flags: syn, options: synLinux, window: 64240}, false},
			{"syn-spoofed-as-linux", "spoofed SYNs with all of Linux's options", segments{from: x.spoofed(), dst: 443, flags: syn, options: synLinux, window: 64240}, false},
			{"syn-same-window", "spoofed SYNs of one length, window and source port", segments{from: x.spoofed(), src: 1234, dst: 443, flags: syn, window: 8192}, true},
			{"syn-random-length", "spoofed SYNs with a payload of random length", segments{from: x.spoofed(), dst: 443, flags: syn, payload: 100, most: 1000}, true},
			{"syn-random-ports", "spoofed SYNs to all ports", segments{from: x.spoofed(), flags: syn}, true},
		} {
			k.s.to = to
			add(k.name, k.says, 600*ms, Attack{Vectors: is(vector.SYN), Separable: k.separable, parts: one(80e3, k.s.builder())})
		}
		add("syn-ack-reflection", "SYN-ACKs of 20,000 web servers that were asked in the target's name", 600*ms, Attack{
			Vectors: is(vector.SYNACK), Separable: true,
			parts: one(90e3, segments{from: x.reflectors(20000, 73), to: to, src: 443, flags: syn | ack, options: synPlain, window: 65535}.builder()),
		})
		add("ack-large", "ACKs of full size at 12 Gbps, below the limit of packets", 1600*ms, Attack{
			Vectors: is(vector.Total), Beside: is(vector.ACK), Separable: true,
			parts: one(1e6, segments{from: bots, to: to, dst: 443, flags: ack, payload: 1460}.builder()),
		})

		// UDP.
		add("udp-one-port", "UDP to the port of a web server", 1200*ms, Attack{
			Vectors: is(vector.UDPOther), Separable: true, parts: one(500e3, messages{from: x.spoofed(), to: to, dst: 80, payload: 512}.builder()),
		})
		add("udp-port-0", "UDP from and to port 0", 1200*ms, Attack{
			Vectors: is(vector.UDPOther), Separable: true, parts: one(500e3, messages{from: x.spoofed(), to: to, zero: true, payload: 64}.builder()),
		})
		add("udp-large", "UDP of full size at 4.5 Gbps from a botnet", 1200*ms, Attack{
			Vectors: is(vector.UDPOther), Separable: true, parts: one(400e3, messages{from: bots, to: to, payload: 1372}.builder()),
		})
		dns := one(90e3, dnsAny(x.servers(900, 74), to, 74))
		dns[0].burst, dns[0].gap = 2, 1200
		add("dns-any", "answers to ANY of 900 resolvers, most of them in two fragments", 800*ms, Attack{
			Vectors: is(vector.DNS), Beside: is(vector.Fragment, vector.FirstFragment), Separable: true, parts: dns,
		})
		nurse := one(60e3, pings(single, to, 3, 3, 28))
		if x.six {
			nurse = one(60e3, pings(single, to, 1, 4, 48))
		}
		add("blacknurse", "port unreachable from one host", 800*ms, Attack{Vectors: is(vector.ICMPUnreachable), Separable: true, parts: nurse})

		// Several at once.
		add("multi-vector", "DNS, NTP and memcached reflection with a SYN flood", 800*ms, Attack{
			Vectors: is(vector.DNS, vector.NTP, vector.Memcached, vector.SYN), Separable: true,
			parts: []part{
				{tempo{pps: 60e3}, reflected(vector.DNS, x.servers(700, 81), to)},
				{tempo{pps: 60e3}, reflected(vector.NTP, x.servers(300, 82), to)},
				{tempo{pps: 60e3}, reflected(vector.Memcached, x.servers(60, 83), to)},
				{tempo{pps: 60e3}, segments{from: x.spoofed(), to: to, dst: 443, flags: syn}.builder()},
			},
		})
		add("multi-vector-ip", "UDP, fragments and pings of a botnet", 1200*ms, Attack{
			Vectors: is(vector.UDPOther, vector.Fragment, vector.ICMPEcho), Separable: true,
			parts: []part{
				{tempo{pps: 400e3}, x.flood(vector.UDPOther, bots, to, 84)},
				{tempo{pps: 120e3}, pieces(bots, to, true)},
				{tempo{pps: 90e3}, x.flood(vector.ICMPEcho, bots, to, 85)},
			},
		})

		// Shapes in time.
		ntp := func(pps float64) []part { return one(pps, reflected(vector.NTP, x.servers(400, 86), to)) }
		wave := ntp(100e3)
		wave[0].on, wave[0].off = time.Second, 3*time.Second
		add("pulse-wave", "NTP reflection, one second on and three off, three times", 9*time.Second, Attack{
			Vectors: is(vector.NTP), Separable: true, parts: wave,
		})
		rise := ntp(200e3)
		rise[0].ramp = true
		add("ramp", "NTP reflection that grows to ten times the limit", 2*time.Second, Attack{
			Vectors: is(vector.NTP), Separable: true, parts: rise,
		})
		grow := one(200e3, linux.with(x.spoofed()))
		grow[0].ramp = true
		add("ramp-syn", "a SYN flood that grows to ten times the limit, like real clients'", 2*time.Second, Attack{Vectors: is(vector.SYN), parts: grow})
		add("burst", "a tenth of a second of NTP reflection", 100*ms, Attack{Vectors: is(vector.NTP), Separable: true, parts: ntp(200e3)})
		add("low-and-slow", "200 spoofed SYNs a second, each from a source of its own", 12*time.Second, Attack{
			Vectors: is(vector.SYN), Separable: true, parts: one(200, segments{from: x.spoofed(), to: to, dst: 443, flags: syn, window: 512}.builder()),
		})
		add("below-limit", "NTP reflection at half the limit", 2*time.Second, Attack{
			Vectors: is(vector.NTP), Small: true, Separable: true, parts: ntp(10e3),
		})
	}
	return all
}

func (x segments) with(from source) builder {
	x.from = from
	return x.builder()
}

// spreads are attacks on many hosts, each of which alone is below its limit.
func spreads() (all []Scenario) {
	for _, x := range families {
		lan := x.lan()
		what := "all of a /24"
		if x.six {
			what = "random addresses of a /64"
		}
		add := func(name, says string, a Attack) {
			a.Target = lan
			s := onSite(x, "carpet-"+name, says+" to "+what, 3*time.Second, a)
			all = append(all, s)
		}
		is := func(vs ...vector.ID) []vector.ID { return vs }
		add("dns", "DNS answers", Attack{Vectors: is(vector.DNS), Separable: true, parts: one(300e3, reflected(vector.DNS, x.servers(900, 91), x.across()))})
		add("ntp", "NTP answers", Attack{Vectors: is(vector.NTP), Separable: true, parts: one(200e3, reflected(vector.NTP, x.servers(400, 92), x.across()))})
		add("syn", "spoofed SYNs", Attack{Vectors: is(vector.SYN), Separable: true, parts: one(300e3, segments{from: x.spoofed(), to: x.across(), dst: 80, flags: syn}.builder())})
		add("udp", "UDP of a botnet", Attack{
			Vectors: is(vector.UDPOther), Separable: true,
			parts: one(1.2e6, messages{from: from(x.clients(5000, 93)), to: x.across(), payload: 800}.builder()),
		})
		add("few", "CLDAP answers to sixteen hosts of a subnet, not", Attack{
			Vectors: is(vector.CLDAP), Separable: true, parts: one(200e3, reflected(vector.CLDAP, x.servers(500, 94), x.hosts(16))),
		})
	}
	return all
}

// outbound are attacks by a host of ours.
func outbound() (all []Scenario) {
	for _, x := range families {
		us := x.host(webHost)
		victim := onto(x.clients(1, 95).at(0))
		is := func(vs ...vector.ID) []vector.ID { return vs }
		add := func(name, says string, lasts time.Duration, a Attack) {
			a.Direction, a.Target = vector.Outbound, us.host()
			all = append(all, onSite(x, "outbound-"+name, says, lasts, a))
		}
		add("syn", "a host of ours floods another with SYNs", time.Second, Attack{
			Vectors: is(vector.SYN), Separable: true, parts: one(100e3, segments{from: onto(us), to: victim, dst: 80, flags: syn}.builder()),
		})
		add("udp", "a host of ours floods another with UDP", 1200*ms, Attack{
			Vectors: is(vector.UDPOther), Separable: true, parts: one(1.5e6, messages{from: onto(us), to: victim, dst: 80, payload: 1000}.builder()),
		})
		add("icmp-echo", "a host of ours floods another with pings", time.Second, Attack{
			Vectors: is(vector.ICMPEcho), Separable: true, parts: one(60e3, x.flood(vector.ICMPEcho, onto(us), victim, 97)),
		})
		dns, ask := reflected(vector.DNS, &pool{base: us, n: 1}, victim), messages{from: victim, to: onto(us), dst: 53, payload: 36}.builder()
		add("reflector", "a host of ours is an open resolver that attacks another", 1200*ms, Attack{
			Vectors: is(vector.ReflectorAnswer), Beside: is(vector.DNSQuery), Separable: true, parts: one(300e3, dns),
		})
		s := &all[len(all)-1]
		s.Attacks[0].parts = append(s.Attacks[0].parts, part{tempo{from: 600 * ms, to: 1800 * ms, pps: 300e3}, ask})
		add("dns-requests", "a host of ours asks resolvers in another's name", time.Second, Attack{
			Vectors: is(vector.DNS), Separable: true,
			parts: one(150e3, messages{from: onto(us), to: x.reflectors(900, 96), src: 4444, dst: 53, payload: 40}.builder()),
		})
	}
	return all
}
