package main

// fabric: an attack on each rack, IPv4 and IPv6, each seen by a sensor of another kind, is answered at the border; a host
// is blackholed by hand; a spine is lost; all is withdrawn.
func fabric(n *network) {
	const (
		limited4 = "destination 203.0.113.10/32 protocol udp source-port 53 then rate-limit 1Mbps"
		limited6 = "destination 2001:db8:113:2::10/128 protocol udp source-port 53 then rate-limit 1Mbps"
		black    = "destination 203.0.113.77/32 then blackhole"
	)
	on4 := flood{from: "internet", to: "203.0.113.10", at: "rack1", kind: "dns"}
	on6 := flood{from: "internet", to: "2001:db8:113:2::10", at: "rack2", kind: "dns"}
	other := flood{from: "internet", to: "203.0.113.10", at: "rack1", kind: "udp9999", packets: 1000}
	onBlack := flood{from: "internet", to: "203.0.113.77", at: "rack1", kind: "udp9999", packets: 1000}
	routers := []string{"border1", "leaf1", "leaf2", "spine1", "spine2"}

	n.whole("ctl1", map[string]string{"rack1": "eth1 tcx", "tap2": "eth1 xdp_native"})
	n.reachable("internet", on4.to, on6.to)
	n.all(other)
	n.all(onBlack)

	n.attack(on4)
	n.desired("ctl1", 2, limited4)
	n.attack(on6)
	n.desired("ctl1", 2, limited4, limited6)
	n.hold(routers, limited4, limited6)
	n.limited(on4)
	n.limited(on6)
	n.all(other)

	n.announce("ctl1", black)
	n.blackholes(routers, "203.0.113.77")
	n.none(onBlack)

	n.kill("spine1")
	remaining := []string{"border1", "leaf1", "leaf2", "spine2"}
	n.peers("ctl1", "spine2")
	n.desired("ctl1", 1, limited4, limited6, black)
	n.hold(remaining, limited4, limited6)
	n.blackholes(remaining, "203.0.113.77")
	n.reachable("internet", on4.to, on6.to)
	n.limited(on4)
	n.limited(on6)
	n.none(onBlack)
	n.enforcedThroughout("border1", 2, 2, 2)

	n.withdraw("ctl1")
	n.desired("ctl1", 1)
	n.hold(remaining)
	n.blackholes(remaining)
	on4.packets, on6.packets = 4000, 4000
	n.all(on4)
	n.all(on6)
	n.all(onBlack)
}
