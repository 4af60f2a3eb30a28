package scenario

import "github.com/amooglesoft/trafficmonitor/internal/vector"

// answers are the lengths of reflectors' answers as IPv4 packets, as measured in the field: least and largest. A reflector
// always gives the same.
var answers = map[vector.ID][2]int{
	vector.DNS: {1200, 1480}, vector.NTP: {468, 482}, vector.CLDAP: {1400, 1500}, vector.Memcached: {1428, 1428},
	vector.SSDP: {280, 360}, vector.Chargen: {540, 1052}, vector.SNMP: {900, 1500}, vector.Portmap: {96, 516},
	vector.WSDiscovery: {600, 1500}, vector.MDNS: {120, 420}, vector.MSSQL: {380, 660}, vector.NetBIOS: {210, 300},
	vector.RIP: {532, 532}, vector.TFTP: {544, 544}, vector.QOTD: {80, 540}, vector.CoAP: {320, 1060}, vector.ARMS: {1062, 1062},
	vector.IPMI: {58, 72}, vector.BACnet: {60, 260}, vector.STUN: {96, 140}, vector.L2TP: {92, 160}, vector.IKE: {300, 1200},
	vector.OpenVPN: {54, 90}, vector.DVR: {480, 760}, vector.SIP: {380, 900}, vector.Ubiquiti: {150, 220},
	vector.SourceEngine: {200, 1400}, vector.Quake: {700, 1400}, vector.XDMCP: {70, 110}, vector.SLP: {360, 1400},
	vector.Citrix: {300, 1200}, vector.Jenkins: {130, 220}, vector.Plex: {300, 420}, vector.RDP: {1258, 1260},
	vector.TP240: {380, 1100}, vector.SADP: {700, 1000}, vector.NATPMP: {40, 76},
}

// reflected is a flood of answers of a reflection vector from a pool of reflectors, to random ports.
func reflected(v vector.ID, reflectors *pool, to source) builder {
	info, _ := vector.Get(v)
	sizes := answers[v]
	return func(r *rng, f *frame, n uint64) {
		i := r.n(reflectors.n)
		h := arriving(r, reflectors.at(i), to(r, n))
		own := mix(reflectors.salt ^ uint64(i)*7)
		h.ttl = ttl(h.src)
		f.udp(&h, info.SourcePorts[own%uint64(len(info.SourcePorts))], unnamed(port(0, r.Uint64())), sizes[0]-28+int(own>>8%uint64(sizes[1]-sizes[0]+1)))
	}
}

// dnsAny is a flood of answers to ANY: one of four fits into a packet, the others are of up to 3,000 octets and come in
// two fragments. Its tempo's burst is 2, and its target one host.
func dnsAny(reflectors *pool, to source, salt uint64) builder {
	return func(r *rng, f *frame, n uint64) {
		pair := mix(salt ^ n/2)
		i := uint32(pair % uint64(reflectors.n))
		h := arriving(r, reflectors.at(i), to(r, n/2))
		own := mix(reflectors.salt ^ uint64(i)*7)
		h.ttl = ttl(h.src)
		dst := unnamed(port(0, pair>>32))
		if own&3 == 0 {
			f.udp(&h, 53, dst, 1340+int(own>>8%120))
			return
		}
		f.piece(&h, int(n&1), uint32(pair>>20), 53, dst, 1600+int(own>>8%1360))
	}
}

func namedPorts() (set [1024]uint64) {
	for _, v := range vector.All() {
		for _, ports := range [][]uint16{v.SourcePorts, v.DestinationPorts} {
			for _, p := range ports {
				set[p>>6] |= 1 << (p & 63)
			}
		}
	}
	return set
}
