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

// Count is the number of counters kept per target; numbers not named below are reserved.
const Count = 32

// The vectors. Total counts every packet of a target, whatever else it is counted under.
const (
	Total       ID = 0
	SYN         ID = 1
	SYNACK      ID = 2
	ACK         ID = 3
	RST         ID = 4
	TCPInvalid  ID = 5
	TCPOther    ID = 6
	UDPOther    ID = 7
	ICMP        ID = 8
	Fragment    ID = 9
	GRE         ID = 10
	OtherProto  ID = 11
	Malformed   ID = 12
	DNS         ID = 13
	NTP         ID = 14
	CLDAP       ID = 15
	Memcached   ID = 16
	SSDP        ID = 17
	Chargen     ID = 18
	SNMP        ID = 19
	Portmap     ID = 20
	WSDiscovery ID = 21
	MDNS        ID = 22
	MSSQL       ID = 23
	NetBIOS     ID = 24
	RIP         ID = 25
	TFTP        ID = 26
	QOTD        ID = 27
	CoAP        ID = 28
	ARMS        ID = 29
)

// Vector describes one traffic class.
type Vector struct {
	ID   ID
	Name string
	// Const is the name of the C constant.
	Const string
	// Protocol is the IP protocol number all packets of the vector share, or -1 where they do not.
	Protocol int
	// SourcePort is the UDP source port of a reflection vector, or 0.
	SourcePort uint16
	// Says is the class in words, for people.
	Says string
}

var table = []Vector{
	{Total, "total", "VECTOR_TOTAL", -1, 0, "all packets to the target"},
	{SYN, "syn", "VECTOR_SYN", 6, 0, "TCP SYN without ACK"},
	{SYNACK, "syn-ack", "VECTOR_SYNACK", 6, 0, "TCP SYN with ACK"},
	{ACK, "ack", "VECTOR_ACK", 6, 0, "TCP ACK without SYN, RST or FIN"},
	{RST, "rst", "VECTOR_RST", 6, 0, "TCP RST"},
	{TCPInvalid, "tcp-invalid", "VECTOR_TCP_INVALID", 6, 0, "TCP flag sets no stack sends: none, SYN+FIN, SYN+RST, FIN without ACK"},
	{TCPOther, "tcp-other", "VECTOR_TCP_OTHER", 6, 0, "other TCP, such as FIN with ACK"},
	{UDPOther, "udp-other", "VECTOR_UDP_OTHER", 17, 0, "UDP from no known reflection port"},
	{ICMP, "icmp", "VECTOR_ICMP", -1, 0, "ICMP and ICMPv6"},
	{Fragment, "fragment", "VECTOR_FRAGMENT", -1, 0, "later fragments, which carry no ports"},
	{GRE, "gre", "VECTOR_GRE", 47, 0, "GRE"},
	{OtherProto, "other-protocol", "VECTOR_OTHER_PROTOCOL", -1, 0, "any other IP protocol"},
	{Malformed, "malformed", "VECTOR_MALFORMED", -1, 0, "packets whose headers are cut short or contradict themselves"},
	{DNS, "dns-amplification", "VECTOR_DNS", 17, 53, "UDP from port 53, DNS answers"},
	{NTP, "ntp-amplification", "VECTOR_NTP", 17, 123, "UDP from port 123, NTP answers"},
	{CLDAP, "cldap-amplification", "VECTOR_CLDAP", 17, 389, "UDP from port 389, CLDAP answers"},
	{Memcached, "memcached-amplification", "VECTOR_MEMCACHED", 17, 11211, "UDP from port 11211, memcached answers"},
	{SSDP, "ssdp-amplification", "VECTOR_SSDP", 17, 1900, "UDP from port 1900, SSDP answers"},
	{Chargen, "chargen-amplification", "VECTOR_CHARGEN", 17, 19, "UDP from port 19, chargen answers"},
	{SNMP, "snmp-amplification", "VECTOR_SNMP", 17, 161, "UDP from port 161, SNMP answers"},
	{Portmap, "portmap-amplification", "VECTOR_PORTMAP", 17, 111, "UDP from port 111, portmapper answers"},
	{WSDiscovery, "ws-discovery-amplification", "VECTOR_WS_DISCOVERY", 17, 3702, "UDP from port 3702, WS-Discovery answers"},
	{MDNS, "mdns-amplification", "VECTOR_MDNS", 17, 5353, "UDP from port 5353, mDNS answers"},
	{MSSQL, "mssql-amplification", "VECTOR_MSSQL", 17, 1434, "UDP from port 1434, SQL Server Browser answers"},
	{NetBIOS, "netbios-amplification", "VECTOR_NETBIOS", 17, 137, "UDP from port 137, NetBIOS name service answers"},
	{RIP, "rip-amplification", "VECTOR_RIP", 17, 520, "UDP from port 520, RIPv1 answers"},
	{TFTP, "tftp-amplification", "VECTOR_TFTP", 17, 69, "UDP from port 69, TFTP answers"},
	{QOTD, "qotd-amplification", "VECTOR_QOTD", 17, 17, "UDP from port 17, quote-of-the-day answers"},
	{CoAP, "coap-amplification", "VECTOR_COAP", 17, 5683, "UDP from port 5683, CoAP answers"},
	{ARMS, "arms-amplification", "VECTOR_ARMS", 17, 3283, "UDP from port 3283, Apple Remote Management answers"},
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

// Reflections returns the vectors told by their UDP source port.
func Reflections() []Vector {
	return slices.DeleteFunc(All(), func(v Vector) bool { return v.SourcePort == 0 })
}
