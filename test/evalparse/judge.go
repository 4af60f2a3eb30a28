package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// verdict says what differs, or why the packet is left out.
type verdict struct{ differs, left string }

// transparent are the layers an IP header may stand behind for the sensor: links and VLAN tags.
var transparent = []string{"eth", "ethertype", "vlan", "ieee8021ad", "sll", "null", "loop", "raw", "ppp", "chdlc", "fddi", "radiotap", "ppi", "pcap_pktdata", "wlan_radio", "wlan", "nflog"}

// opinion is tshark's, of the header that counts.
type opinion struct {
	six       bool
	protocol  int
	later     bool // a fragment without the transport header
	first     bool
	transport bool // its fields are known
	source    int
	target    int
	flags     int
	kind      int // of ICMP
}

// judge compares.
func judge(ours classify.Result, d dissection) verdict {
	at := slices.IndexFunc(d.layers, func(l string) bool { return l == "ip" || l == "ipv6" })
	unhappy := unsound(d)
	hidden := ""
	if at >= 0 {
		tags := 0
		for _, l := range d.layers[:at] {
			if l == "vlan" || l == "ieee8021ad" {
				tags++
			}
			// Of links that have no type field of their own, and of no others, LLC is part of the header.
			snap := l == "llc" && (slices.Contains(d.layers[:at], "fddi") || slices.Contains(d.layers[:at], "wlan"))
			if !slices.Contains(transparent, l) && !snap && hidden == "" {
				hidden = l
			}
		}
		if tags > 2 && hidden == "" {
			hidden = "more than two VLAN tags"
		}
	}
	switch {
	case !ours.IP && at < 0:
		return verdict{}
	case !ours.IP && hidden != "":
		return verdict{left: "IP behind " + hidden + ", which the sensor counts as not IP"}
	case !ours.IP:
		return verdict{differs: "not IP"}
	case ours.Vector == vector.Malformed && unhappy:
		return verdict{}
	case ours.Vector == vector.Malformed && ours.Fragment && strings.Contains(strings.ToLower(d.expert), "unreassembled fragment"):
		return verdict{} // a first fragment that does not hold the transport header (RFC 1858), of which tshark shows a part
	case ours.Vector == vector.Malformed:
		return verdict{differs: fmt.Sprintf("malformed (%s), tshark has no complaint", ours.Reason)}
	case at < 0 || hidden != "":
		return verdict{differs: fmt.Sprintf("%s, tshark sees no IP there", ours.Vector)}
	}
	if ours.Tunnel != 0 {
		next := slices.IndexFunc(d.layers[at+1:], func(l string) bool { return l == "ip" || l == "ipv6" })
		if next < 0 {
			return verdict{differs: fmt.Sprintf("%s out of %s, tshark sees only one IP header", ours.Vector, ours.Tunnel)}
		}
		at += 1 + next
	}
	o := theirs(d, at)
	differs := func(what string, ours, theirs any) verdict {
		return verdict{differs: fmt.Sprintf("%s %v, tshark %v", what, ours, theirs)}
	}
	fragment := o.first || o.later
	switch {
	case ours.Source.Is6() != o.six:
		return differs("IPv6", ours.Source.Is6(), o.six)
	case int(ours.Protocol) != o.protocol:
		return differs("protocol", ours.Protocol, o.protocol)
	case ours.Fragment != fragment:
		return differs("fragment", ours.Fragment, fragment)
	case (ours.Vector == vector.Fragment) != o.later:
		return differs("later fragment", ours.Vector == vector.Fragment, o.later)
	case o.later:
		return verdict{}
	case !o.transport && unsound(d):
		return verdict{left: "tshark gave up before the transport header, at an option that is broken; the protocol agrees"}
	case !o.transport:
		return differs("transport header", "sound", "not seen")
	case ours.Ports && (int(ours.SourcePort) != o.source || int(ours.DestinationPort) != o.target):
		return differs("ports", fmt.Sprint(ours.SourcePort, " ", ours.DestinationPort), fmt.Sprint(o.source, " ", o.target))
	case o.protocol == 6 && int(ours.Flags) != o.flags&0xff:
		return differs("TCP flags", ours.Flags, o.flags)
	case ours.Vector != expected(o):
		return differs("vector", ours.Vector, expected(o))
	}
	return verdict{}
}

// theirs reads tshark's opinion of the IP header at that position of its layers.
func theirs(d dissection, at int) (o opinion) {
	take := func(field, layer string, at int) int {
		v, _ := d.value(field, d.before(at, layer))
		return v
	}
	next := at + 1
	if d.layers[at] == "ip" {
		o.protocol = take("ip.proto", "ip", at)
		o.later = take("ip.frag_offset", "ip", at) != 0
		o.first = !o.later && take("ip.flags.mf", "ip", at) != 0
	} else {
		o.six = true
		o.protocol = take("ipv6.nxt", "ipv6", at)
		for ; next < len(d.layers); next++ {
			field, ok := map[int][2]string{
				0: {"ipv6.hopopts", "ipv6.hopopts.nxt"}, 43: {"ipv6.routing", "ipv6.routing.nxt"},
				60: {"ipv6.dstopts", "ipv6.dstopts.nxt"}, 44: {"ipv6.fraghdr", "ipv6.fraghdr.nxt"}, 51: {"ah", "ah.next_header"},
			}[o.protocol]
			if !ok || d.layers[next] != field[0] {
				break
			}
			if o.protocol == 44 {
				o.later = o.later || take("ipv6.fraghdr.offset", "ipv6.fraghdr", next) != 0
				o.first = o.first || take("ipv6.fraghdr.more", "ipv6.fraghdr", next) != 0
			}
			o.protocol = take(field[1], field[0], next)
			if o.later {
				break
			}
		}
		o.first = o.first && !o.later
	}
	layer := ""
	if next < len(d.layers) {
		layer = d.layers[next]
	}
	is := func(name string) bool { return layer == name }
	switch {
	case o.protocol == 6:
		o.transport = is("tcp")
		o.source, o.target, o.flags = take("tcp.srcport", "tcp", next), take("tcp.dstport", "tcp", next), take("tcp.flags", "tcp", next)
	case o.protocol == 17:
		o.transport = is("udp")
		o.source, o.target = take("udp.srcport", "udp", next), take("udp.dstport", "udp", next)
	case o.protocol == 1 && !o.six:
		o.transport = is("icmp")
		o.kind = take("icmp.type", "icmp", next)
	case o.protocol == 58 && o.six:
		o.transport = is("icmpv6")
		o.kind = take("icmpv6.type", "icmpv6", next)
	default:
		o.transport = true
	}
	return o
}

// expected is the vector that follows from tshark's opinion, by the vector table.
func expected(o opinion) vector.ID {
	named := vector.UDPOther
	for _, v := range vector.All() {
		switch {
		case o.protocol == 17 && slices.Contains(v.SourcePorts, uint16(o.source)):
			named = v.ID
		case o.protocol == 17 && named == vector.UDPOther && slices.Contains(v.DestinationPorts, uint16(o.target)):
			named = v.ID
		case o.protocol == 1 && !o.six && slices.Contains(v.ICMPTypes, uint8(o.kind)), o.protocol == 58 && o.six && slices.Contains(v.ICMPv6Types, uint8(o.kind)):
			if !o.first {
				return v.ID
			}
		}
	}
	if o.first && named == vector.UDPOther {
		return vector.FirstFragment
	}
	switch {
	case o.protocol == 17:
		return named
	case o.protocol == 6:
		return flags(o.flags)
	case o.protocol == 1 && !o.six, o.protocol == 58 && o.six:
		return vector.ICMP
	}
	if v, ok := map[int]vector.ID{47: vector.GRE, 50: vector.ESP, 4: vector.IPIP, 41: vector.IPIP}[o.protocol]; ok {
		return v
	}
	return vector.OtherProto
}

func flags(f int) vector.ID {
	has := func(bits int) bool { return f&bits == bits }
	const fin, syn, rst, ack = 1, 2, 4, 16
	switch {
	case f&0x3f == 0, has(syn | fin), has(syn | rst), has(fin) && !has(ack):
		return vector.TCPInvalid
	case has(syn | ack):
		return vector.SYNACK
	case has(syn):
		return vector.SYN
	case has(rst):
		return vector.RST
	case has(fin):
		return vector.FIN
	case has(ack):
		return vector.ACK
	}
	return vector.TCPOther
}

// unsound tells whether tshark finds fault with the headers we read, too, or could not see all of them.
func unsound(d dissection) bool {
	for _, l := range d.layers {
		if l == "_ws.malformed" || l == "_ws.short" || l == "_ws.unreassembled" {
			return true
		}
	}
	text := strings.ToLower(d.expert)
	for _, word := range []string{"bogus", "length", "short", "truncat", "malformed", "packet size limited"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}
