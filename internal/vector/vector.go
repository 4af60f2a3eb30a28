// Package vector names the traffic classes ("vectors") every packet is counted under.
//
// The table below is the only one: the C program's header is generated from it (see gen), the policy language, the
// API and the documentation use its names. A vector's number is part of the wire format and of stored records: it is
// never reused, and a new vector takes a free number below [Count].
package vector

import (
	"fmt"
	"slices"
	"strings"
)

//go:generate go run ./gen ../sensor/bpf/vectors.h

// ID is the number of a vector, 0 ≤ ID < Count.
type ID uint8

// Count is the number of counters kept per target and direction; numbers not named below are reserved.
const Count = 64

// Direction says which way packets cross the edge of the protected network.
type Direction uint8

// The directions. The target of an inbound packet is its destination, that of an outbound one its source: always the
// address of ours.
const (
	Inbound  Direction = 0
	Outbound Direction = 1
	// Directions is how many there are.
	Directions = 2
)

// String returns the direction's name.
func (d Direction) String() string {
	switch d {
	case Inbound:
		return "inbound"
	case Outbound:
		return "outbound"
	}
	return fmt.Sprintf("direction-%d", uint8(d))
}

// The vectors. Total counts every packet of a target, whatever else it is counted under.
const (
	Total            ID = 0
	SYN              ID = 1
	SYNACK           ID = 2
	ACK              ID = 3
	RST              ID = 4
	TCPInvalid       ID = 5
	TCPOther         ID = 6
	UDPOther         ID = 7
	ICMP             ID = 8
	Fragment         ID = 9
	GRE              ID = 10
	OtherProto       ID = 11
	Malformed        ID = 12
	DNS              ID = 13
	NTP              ID = 14
	CLDAP            ID = 15
	Memcached        ID = 16
	SSDP             ID = 17
	Chargen          ID = 18
	SNMP             ID = 19
	Portmap          ID = 20
	WSDiscovery      ID = 21
	MDNS             ID = 22
	MSSQL            ID = 23
	NetBIOS          ID = 24
	RIP              ID = 25
	TFTP             ID = 26
	QOTD             ID = 27
	CoAP             ID = 28
	ARMS             ID = 29
	FIN              ID = 30
	ICMPEcho         ID = 31
	ICMPEchoReply    ID = 32
	ICMPUnreachable  ID = 33
	ICMPTimeExceeded ID = 34
	ICMPNeighbour    ID = 35
	ESP              ID = 36
	IPIP             ID = 37
	FirstFragment    ID = 38
	DNSQuery         ID = 39
	QUIC             ID = 40
	ReflectorAnswer  ID = 41
	OtherReflection  ID = 42
	IPMI             ID = 43
	BACnet           ID = 44
	STUN             ID = 45
	L2TP             ID = 46
	IKE              ID = 47
	OpenVPN          ID = 48
	DVR              ID = 49
	SIP              ID = 50
	Ubiquiti         ID = 51
	SourceEngine     ID = 52
	Quake            ID = 53
	XDMCP            ID = 54
	SLP              ID = 55
	Citrix           ID = 56
	Jenkins          ID = 57
	Plex             ID = 58
	RDP              ID = 59
	TP240            ID = 60
	SADP             ID = 61
	NATPMP           ID = 62
)

// Vector describes one traffic class.
type Vector struct {
	ID   ID
	Name string
	// Const is the name of the C constant.
	Const string
	// Protocol is the IP protocol number all packets of the vector share, or -1 where they do not.
	Protocol int
	// SourcePorts are the UDP source ports of a reflection vector.
	SourcePorts []uint16
	// DestinationPorts are the UDP destination ports of a vector told by them.
	DestinationPorts []uint16
	// ICMPTypes and ICMPv6Types are the types of an ICMP vector told by them.
	ICMPTypes, ICMPv6Types []uint8
	// Carries is set for a reflection vector whose ports also carry the bulk traffic of customers, such as VPN and games.
	Carries bool
	// Says is the class in words, for people.
	Says string
}

// Reflection tells whether the vector is one of answers that an attacker asks for in the target's name.
func (v Vector) Reflection() bool { return len(v.SourcePorts) > 0 || v.ID == OtherReflection }

// ICMP tells whether the vector is one of ICMP and ICMPv6.
func (v Vector) ICMP() bool { return v.ID == ICMP || len(v.ICMPTypes)+len(v.ICMPv6Types) > 0 }

func class(id ID, name, constant string, protocol int, says string) Vector {
	return Vector{ID: id, Name: name, Const: constant, Protocol: protocol, Says: says}
}

func icmp(id ID, name, constant string, v4, v6 []uint8, says string) Vector {
	return Vector{ID: id, Name: name, Const: constant, Protocol: -1, ICMPTypes: v4, ICMPv6Types: v6, Says: says}
}

func reflection(id ID, name, constant, says string, ports ...uint16) Vector {
	return Vector{ID: id, Name: name + "-amplification", Const: constant, Protocol: 17, SourcePorts: ports, Says: says}
}

// carrier is a reflection vector whose ports carry bulk traffic too.
func carrier(id ID, name, constant, says string, ports ...uint16) Vector {
	v := reflection(id, name, constant, says, ports...)
	v.Carries = true
	return v
}

func service(id ID, name, constant, says string, ports ...uint16) Vector {
	return Vector{ID: id, Name: name, Const: constant, Protocol: 17, DestinationPorts: ports, Says: says}
}

var table = []Vector{
	class(Total, "total", "VECTOR_TOTAL", -1, "all packets to the target"),
	class(SYN, "syn", "VECTOR_SYN", 6, "TCP SYN without ACK"),
	class(SYNACK, "syn-ack", "VECTOR_SYNACK", 6, "TCP SYN with ACK"),
	class(ACK, "ack", "VECTOR_ACK", 6, "TCP ACK without SYN, RST or FIN"),
	class(RST, "rst", "VECTOR_RST", 6, "TCP RST"),
	class(TCPInvalid, "tcp-invalid", "VECTOR_TCP_INVALID", 6, "TCP flag sets no stack sends: none, SYN+FIN, SYN+RST, FIN without ACK (null and xmas scans among them)"),
	class(TCPOther, "tcp-other", "VECTOR_TCP_OTHER", 6, "other TCP: PSH or URG alone"),
	class(UDPOther, "udp-other", "VECTOR_UDP_OTHER", 17, "UDP from and to no port that another vector names"),
	class(ICMP, "icmp", "VECTOR_ICMP", -1, "ICMP and ICMPv6 of a type that has no vector of its own"),
	class(Fragment, "fragment", "VECTOR_FRAGMENT", -1, "later fragments, which carry no ports"),
	class(GRE, "gre", "VECTOR_GRE", 47, "GRE"),
	class(OtherProto, "other-protocol", "VECTOR_OTHER_PROTOCOL", -1, "any other IP protocol"),
	class(Malformed, "malformed", "VECTOR_MALFORMED", -1, "packets whose headers are cut short or contradict themselves"),
	reflection(DNS, "dns", "VECTOR_DNS", "UDP from port 53, DNS answers", 53),
	reflection(NTP, "ntp", "VECTOR_NTP", "UDP from port 123, NTP answers", 123),
	reflection(CLDAP, "cldap", "VECTOR_CLDAP", "UDP from port 389, CLDAP answers", 389),
	reflection(Memcached, "memcached", "VECTOR_MEMCACHED", "UDP from port 11211, memcached answers", 11211),
	reflection(SSDP, "ssdp", "VECTOR_SSDP", "UDP from port 1900, SSDP answers", 1900),
	reflection(Chargen, "chargen", "VECTOR_CHARGEN", "UDP from port 19, chargen answers", 19),
	reflection(SNMP, "snmp", "VECTOR_SNMP", "UDP from port 161, SNMP answers", 161),
	reflection(Portmap, "portmap", "VECTOR_PORTMAP", "UDP from port 111, portmapper answers", 111),
	reflection(WSDiscovery, "ws-discovery", "VECTOR_WS_DISCOVERY", "UDP from port 3702, WS-Discovery answers", 3702),
	reflection(MDNS, "mdns", "VECTOR_MDNS", "UDP from port 5353, mDNS answers", 5353),
	reflection(MSSQL, "mssql", "VECTOR_MSSQL", "UDP from port 1434, SQL Server Browser answers", 1434),
	reflection(NetBIOS, "netbios", "VECTOR_NETBIOS", "UDP from port 137, NetBIOS name service answers", 137),
	reflection(RIP, "rip", "VECTOR_RIP", "UDP from port 520, RIPv1 answers", 520),
	reflection(TFTP, "tftp", "VECTOR_TFTP", "UDP from port 69, TFTP answers", 69),
	reflection(QOTD, "qotd", "VECTOR_QOTD", "UDP from port 17, quote-of-the-day answers", 17),
	reflection(CoAP, "coap", "VECTOR_COAP", "UDP from port 5683, CoAP answers", 5683),
	reflection(ARMS, "arms", "VECTOR_ARMS", "UDP from port 3283, Apple Remote Management answers", 3283),
	class(FIN, "fin", "VECTOR_FIN", 6, "TCP FIN with ACK"),
	icmp(ICMPEcho, "icmp-echo", "VECTOR_ICMP_ECHO", []uint8{8}, []uint8{128}, "ICMP and ICMPv6 echo requests"),
	icmp(ICMPEchoReply, "icmp-echo-reply", "VECTOR_ICMP_ECHO_REPLY", []uint8{0}, []uint8{129}, "ICMP and ICMPv6 echo replies"),
	icmp(ICMPUnreachable, "icmp-unreachable", "VECTOR_ICMP_UNREACHABLE", []uint8{3}, []uint8{1}, "ICMP and ICMPv6 destination unreachable"),
	icmp(ICMPTimeExceeded, "icmp-time-exceeded", "VECTOR_ICMP_TIME_EXCEEDED", []uint8{11}, []uint8{3}, "ICMP and ICMPv6 time exceeded"),
	icmp(ICMPNeighbour, "icmp-neighbour", "VECTOR_ICMP_NEIGHBOUR", []uint8{5, 9, 10}, []uint8{133, 134, 135, 136, 137}, "router and neighbour discovery, redirects"),
	class(ESP, "esp", "VECTOR_ESP", 50, "IPsec ESP"),
	class(IPIP, "ipip", "VECTOR_IPIP", -1, "IPv4 or IPv6 inside of IP (protocols 4 and 41)"),
	class(FirstFragment, "first-fragment", "VECTOR_FIRST_FRAGMENT", -1, "first fragments, but for UDP whose port another vector names"),
	service(DNSQuery, "dns-query", "VECTOR_DNS_QUERY", "UDP to port 53, DNS queries", 53),
	service(QUIC, "quic", "VECTOR_QUIC", "UDP to port 443, QUIC", 443),
	class(ReflectorAnswer, "reflector-answer", "VECTOR_REFLECTOR_ANSWER", 17, "outbound only: UDP from a port of a reflection vector; one of our hosts answers, perhaps for an attacker"),
	class(OtherReflection, "other-amplification", "VECTOR_OTHER_AMPLIFICATION", 17, "UDP from a source port that a directive added"),
	reflection(IPMI, "ipmi", "VECTOR_IPMI", "UDP from port 623, IPMI answers", 623),
	reflection(BACnet, "bacnet", "VECTOR_BACNET", "UDP from port 47808, BACnet answers", 47808),
	carrier(STUN, "stun", "VECTOR_STUN", "UDP from port 3478, STUN answers and TURN", 3478),
	carrier(L2TP, "l2tp", "VECTOR_L2TP", "UDP from port 1701, L2TP", 1701),
	carrier(IKE, "ike", "VECTOR_IKE", "UDP from port 500 or 4500, IKE and ESP in UDP", 500, 4500),
	carrier(OpenVPN, "openvpn", "VECTOR_OPENVPN", "UDP from port 1194, OpenVPN", 1194),
	reflection(DVR, "dvr", "VECTOR_DVR", "UDP from port 37810, video recorders' discovery answers", 37810),
	carrier(SIP, "sip", "VECTOR_SIP", "UDP from port 5060, SIP", 5060),
	reflection(Ubiquiti, "ubiquiti", "VECTOR_UBIQUITI", "UDP from port 10001, Ubiquiti discovery answers", 10001),
	carrier(SourceEngine, "source-engine", "VECTOR_SOURCE_ENGINE", "UDP from port 27015, answers of Source engine game servers", 27015),
	carrier(Quake, "quake", "VECTOR_QUAKE", "UDP from port 27960, answers of Quake engine game servers", 27960),
	reflection(XDMCP, "xdmcp", "VECTOR_XDMCP", "UDP from port 177, XDMCP answers", 177),
	reflection(SLP, "slp", "VECTOR_SLP", "UDP from port 427, SLP answers", 427),
	reflection(Citrix, "citrix", "VECTOR_CITRIX", "UDP from port 1604, Citrix ICA browser answers", 1604),
	reflection(Jenkins, "jenkins", "VECTOR_JENKINS", "UDP from port 33848, Jenkins discovery answers", 33848),
	reflection(Plex, "plex", "VECTOR_PLEX", "UDP from port 32410 or 32414, Plex media server answers", 32410, 32414),
	carrier(RDP, "rdp", "VECTOR_RDP", "UDP from port 3389, RDP over UDP", 3389),
	reflection(TP240, "tp240", "VECTOR_TP240", "UDP from port 10074, Mitel TP-240 driver answers", 10074),
	reflection(SADP, "sadp", "VECTOR_SADP", "UDP from port 37020, Hikvision SADP answers", 37020),
	reflection(NATPMP, "nat-pmp", "VECTOR_NAT_PMP", "UDP from port 5351, NAT-PMP and PCP answers", 5351),
}

// All returns every vector in order of its number.
func All() []Vector { return slices.Clone(table) }

// Get describes id; ok is false for reserved numbers.
func Get(id ID) (v Vector, ok bool) {
	if int(id) >= len(table) {
		return Vector{}, false
	}
	return table[id], true
}

// String returns the vector's name, or "vector-N" for a reserved number.
func (id ID) String() string {
	if v, ok := Get(id); ok {
		return v.Name
	}
	return fmt.Sprintf("vector-%d", uint8(id))
}

// Parse returns the vector called name. The error lists every name there is.
func Parse(name string) (ID, error) {
	for _, v := range table {
		if v.Name == name {
			return v.ID, nil
		}
	}
	return 0, fmt.Errorf("vector %q is not known; known are %s", name, strings.Join(Names(), ", "))
}

// Names returns the names of all vectors in order of their number.
func Names() []string {
	names := make([]string, len(table))
	for i, v := range table {
		names[i] = v.Name
	}
	return names
}

// Reflections returns the reflection vectors.
func Reflections() []Vector {
	return slices.DeleteFunc(All(), func(v Vector) bool { return !v.Reflection() })
}
