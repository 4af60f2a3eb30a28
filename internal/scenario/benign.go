package scenario

import "time"

// benign are busy days at which nothing must be found with the default settings.
func benign() (all []Scenario) {
	for _, x := range families {
		us, other := x.host(webHost), x.host(20)
		add := func(name, says string, play func(*cast)) {
			all = append(all, Scenario{
				Name: "benign-" + name + "-" + x.String(), Says: says, Duration: 2500 * ms,
				benign: plus(func(c *cast) { c.radiation(c.always(200), x) }, play),
			})
		}
		tcp := flow{us: us, peers: x.clients(16, 1), ourPort: 443, size: 1428, out: true}

		add("web", "a busy web server: 1,000 visits a second over TLS and QUIC", func(c *cast) { c.web(c.always(1000), x, us, 20000) })
		add("video", "a streaming server: 2 Gbps over TCP to 400 viewers", func(c *cast) {
			w := tcp
			w.peers = x.clients(400, 2)
			c.bulk(c.always(180e3).row(32), w)
		})
		add("rtp", "video over RTP: 5,000 datagrams a second in, and as many out", func(c *cast) {
			w := flow{us: us, peers: x.clients(5, 3), herPort: 30000, size: 1316}
			c.datagrams(c.always(5000), w)
			w.out, w.peers = true, x.clients(5, 4)
			c.datagrams(c.always(5000).row(4), w)
		})
		add("resolver", "a resolver with 8,000 questions of its own a second", func(c *cast) { c.resolver(c.always(8000), x, us) })
		add("name-server", "a name server with 60,000 questions a second", func(c *cast) { c.nameServer(c.always(60e3), x, us) })
		add("ntp-server", "a time server with 25,000 questions a second", func(c *cast) { c.timeServer(c.always(25e3), x, us) })
		add("ntp-clients", "500 questions a second to time servers, from all hosts behind one address", func(c *cast) { c.clock(c.always(500), x, us) })
		add("game", "game servers: 50,000 small datagrams a second each way", func(c *cast) {
			w := flow{us: us, peers: x.clients(1500, 5), ourPort: 7777, size: 180, least: 30}
			c.both(c.always(35e3), w)
			w.ourPort, w.peers, w.us = 27015, x.clients(600, 6), other
			c.both(c.always(15e3), w)
		})
		add("backup", "a backup: 4.6 Gbps of TCP in", func(c *cast) {
			w := tcp
			w.out, w.peers, w.ourPort = false, x.servers(3, 7), 8443
			c.bulk(c.always(400e3).row(44), w)
		})
		add("backup-merged", "a backup at 5 Gbps whose segments the network card merged", func(c *cast) {
			w := tcp
			w.out, w.peers, w.ourPort, w.size = false, x.servers(3, 7), 8443, 62000
			c.bulk(c.always(10e3), w)
		})
		add("nfs", "files over NFS and UDP: 330 Mbps of fragments", func(c *cast) { c.files(c.always(29e3), x, us) })
		add("speed-test", "speed tests: TCP at 1 Gbps down and up", func(c *cast) {
			w := tcp
			w.peers, w.ourPort = x.clients(1, 8), 8080
			c.bulk(c.always(86e3).row(44), w)
			w.out, w.peers = false, x.clients(1, 9)
			c.bulk(c.always(86e3).row(44), w)
		})
		add("speed-test-quic", "speed tests: QUIC at 1 Gbps down and up", func(c *cast) {
			w := flow{us: us, peers: x.clients(2, 10), ourPort: 443, size: 1252, out: true}
			c.datagrams(c.always(95e3).row(16), w)
			c.datagrams(c.always(95e3).row(16), flow{us: us, peers: x.clients(1, 11), ourPort: 443, size: 1252})
			c.both(c.always(12e3), flow{us: us, peers: x.clients(2, 10), ourPort: 443, size: 33})
		})
		add("iperf", "iperf: UDP at 1 Gbps in and out", func(c *cast) {
			c.both(c.always(85e3), flow{us: us, peers: x.clients(1, 12), ourPort: 5201, size: 1470})
		})
		add("flash-crowd", "a flash crowd that grows to 5,000 new connections a second", func(c *cast) {
			t := c.always(5500)
			t.ramp = true
			c.web(t, x, us, 60000)
		})
		add("port-scan", "a port scan: 1,000 SYNs a second to one host", func(c *cast) {
			c.site(x, us)
			c.scan(c.always(1000), x, onto(us), true)
		})
		add("sweep", "a scan of all our addresses: 8,000 SYNs a second", func(c *cast) {
			c.site(x, us)
			c.scan(c.always(8000), x, x.across(), false)
		})
		add("download", "own downloads: TCP at 3 Gbps and QUIC at 1 Gbps", func(c *cast) {
			w := flow{us: us, peers: x.servers(6, 13), herPort: 443, size: 1428}
			c.bulk(c.always(260e3).row(44), w)
			w.us, w.size, w.peers = other, 1252, x.servers(2, 14)
			c.datagrams(c.always(95e3).row(16), w)
			w.out, w.size = true, 36
			c.datagrams(c.always(12e3), w)
		})
		add("scanner", "our own scanner: 8,000 SYNs a second, and what comes back", func(c *cast) { c.scanner(c.always(8000), x, us) })
		for _, v := range []struct {
			name string
			port uint16
		}{{"wireguard", 51820}, {"openvpn", 1194}, {"ike", 4500}} {
			add(v.name, "a VPN: 50,000 datagrams a second each way over "+v.name, func(c *cast) {
				// Half of the peers keep their own port, as sites do.
				w := flow{us: us, peers: x.clients(40, 15), ourPort: v.port, herPort: v.port, size: 1420, least: 80}
				c.both(c.always(25e3).row(4), w)
				w.herPort, w.peers = 0, x.clients(300, 16)
				c.both(c.always(25e3).row(4), w)
			})
		}
		add("voip", "200 calls, and 500 SIP messages a second", func(c *cast) {
			c.both(c.always(10e3), flow{us: us, peers: x.clients(200, 17), ourPort: 16384, size: 172})
			c.both(c.always(500), flow{us: us, peers: x.clients(400, 18), ourPort: 5060, herPort: 5060, size: 900, least: 380})
		})
		add("bittorrent", "BitTorrent: 5,000 peers of the DHT, who answer, and 40,000 data packets a second", func(c *cast) {
			peers := x.clients(5000, 19)
			who := func(r *rng) call {
				h := r.Uint64()
				return call{us, peers.some(r), 6881, unnamed(1024 + uint16(h%64000)), h}
			}
			c.talk(c.always(3000), who, datagram(0, true, 90, 110), datagram(50*ms, false, 250, 480))
			c.talk(c.always(1000), who, datagram(0, false, 90, 110), datagram(1*ms, true, 250, 480))
			c.both(c.always(20e3), flow{us: us, peers: x.clients(90, 20), ourPort: 6881, size: 1400, least: 20})
			c.talk(c.always(60), asks(us, peers, 51413), tlsSession(stacks[0], 40*ms, 8, true)...)
		})
		add("monitoring", "pings and traces by fifty monitors", func(c *cast) {
			c.watched(c.always(500), x, us, 50)
			exceeded := uint8(11)
			if x.six {
				exceeded = 3
			}
			c.talk(c.always(300), visits(us, 33434, x.servers(60, 21)), datagram(0, true, 32, 32), icmpStep(8*ms, false, exceeded, 0, 36))
		})
		add("tunnels", "GRE, ESP and IP in IP: 50,000 packets a second each way", func(c *cast) {
			peer := x.servers(1, 22).at(0)
			in := uint8(protoIPIP)
			if x.six {
				in = protoIP6
			}
			c.tunnel(c.always(20e3), us, peer, protoGRE, 900)
			c.tunnel(c.always(20e3), us, peer, protoESP, 1100)
			c.tunnel(c.always(10e3), us, peer, in, 800)
		})
		add("radiation", "what every prefix hears, ten times over", func(c *cast) { c.radiation(c.always(3000), x) })
		add("reset-burst", "a load balancer restarts: 20,000 resets in 150 ms", func(c *cast) {
			c.site(x, us)
			peers := x.servers(12, 23)
			t := tempo{from: 400 * ms, to: 550 * ms, pps: 20e3 / 0.15}
			c.talk(t, asks(us, peers, 8080), tcpStep(0, false, rst|ack, "", 0))
		})
		add("cache-fill", "a CDN cache fills: bursts at line rate from four origins, and its visitors", func(c *cast) {
			w := flow{us: us, peers: x.servers(4, 24), herPort: 443, size: 1428}
			c.bulk(c.always(200e3).row(64), w)
			c.web(c.always(500), x, us, 10000)
		})
	}
	all = append(all, Scenario{
		Name: "benign-noise", Says: "ARP, neighbour discovery, multicast and broadcast", Duration: 2500 * ms,
		benign: func(c *cast) {
			c.noise(c.always(300))
			c.site(four, four.host(webHost))
			c.site(six, six.host(webHost))
		},
	}, Scenario{
		Name: "benign-transition", Says: "IPv6 in IPv4: 20,000 packets a second each way", Duration: 2500 * ms,
		benign: func(c *cast) {
			c.site(four, four.host(webHost))
			c.tunnel(c.always(20e3), four.host(webHost), four.servers(1, 25).at(0), protoIP6, 1200)
		},
	}, Scenario{
		Name: "benign-quiet", Says: "nothing but a web server of both families", Duration: 3 * time.Second,
		benign: func(c *cast) {
			c.site(four, four.host(webHost))
			c.site(six, six.host(webHost))
		},
	})
	return all
}
