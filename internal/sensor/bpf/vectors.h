/* Code generated from internal/vector; DO NOT EDIT. */
#pragma once

#define VECTOR_TOTAL 0 /* all packets to the target */
#define VECTOR_SYN 1 /* TCP SYN without ACK */
#define VECTOR_SYNACK 2 /* TCP SYN with ACK */
#define VECTOR_ACK 3 /* TCP ACK without SYN, RST or FIN */
#define VECTOR_RST 4 /* TCP RST */
#define VECTOR_TCP_INVALID 5 /* TCP flag sets no stack sends: none, SYN+FIN, SYN+RST, FIN without ACK (null and xmas scans among them) */
#define VECTOR_TCP_OTHER 6 /* other TCP: PSH or URG alone */
#define VECTOR_UDP_OTHER 7 /* UDP from and to no port that another vector names */
#define VECTOR_ICMP 8 /* ICMP and ICMPv6 of a type that has no vector of its own */
#define VECTOR_FRAGMENT 9 /* later fragments, which carry no ports */
#define VECTOR_GRE 10 /* GRE */
#define VECTOR_OTHER_PROTOCOL 11 /* any other IP protocol */
#define VECTOR_MALFORMED 12 /* packets whose headers are cut short or contradict themselves */
#define VECTOR_DNS 13 /* UDP from port 53, DNS answers */
#define VECTOR_NTP 14 /* UDP from port 123, NTP answers */
#define VECTOR_CLDAP 15 /* UDP from port 389, CLDAP answers */
#define VECTOR_MEMCACHED 16 /* UDP from port 11211, memcached answers */
#define VECTOR_SSDP 17 /* UDP from port 1900, SSDP answers */
#define VECTOR_CHARGEN 18 /* UDP from port 19, chargen answers */
#define VECTOR_SNMP 19 /* UDP from port 161, SNMP answers */
#define VECTOR_PORTMAP 20 /* UDP from port 111, portmapper answers */
#define VECTOR_WS_DISCOVERY 21 /* UDP from port 3702, WS-Discovery answers */
#define VECTOR_MDNS 22 /* UDP from port 5353, mDNS answers */
#define VECTOR_MSSQL 23 /* UDP from port 1434, SQL Server Browser answers */
#define VECTOR_NETBIOS 24 /* UDP from port 137, NetBIOS name service answers */
#define VECTOR_RIP 25 /* UDP from port 520, RIPv1 answers */
#define VECTOR_TFTP 26 /* UDP from port 69, TFTP answers */
#define VECTOR_QOTD 27 /* UDP from port 17, quote-of-the-day answers */
#define VECTOR_COAP 28 /* UDP from port 5683, CoAP answers */
#define VECTOR_ARMS 29 /* UDP from port 3283, Apple Remote Management answers */
#define VECTOR_FIN 30 /* TCP FIN with ACK */
#define VECTOR_ICMP_ECHO 31 /* ICMP and ICMPv6 echo requests */
#define VECTOR_ICMP_ECHO_REPLY 32 /* ICMP and ICMPv6 echo replies */
#define VECTOR_ICMP_UNREACHABLE 33 /* ICMP and ICMPv6 destination unreachable */
#define VECTOR_ICMP_TIME_EXCEEDED 34 /* ICMP and ICMPv6 time exceeded */
#define VECTOR_ICMP_NEIGHBOUR 35 /* router and neighbour discovery, redirects */
#define VECTOR_ESP 36 /* IPsec ESP */
#define VECTOR_IPIP 37 /* IPv4 or IPv6 inside of IP (protocols 4 and 41) */
#define VECTOR_FIRST_FRAGMENT 38 /* first fragments, but for UDP whose port another vector names */
#define VECTOR_DNS_QUERY 39 /* UDP to port 53, DNS queries */
#define VECTOR_QUIC 40 /* UDP to port 443, QUIC */
#define VECTOR_REFLECTOR_ANSWER 41 /* outbound only: UDP from a port of a reflection vector; one of our hosts answers, perhaps for an attacker */
#define VECTOR_OTHER_AMPLIFICATION 42 /* UDP from a source port that a directive added */
#define VECTOR_IPMI 43 /* UDP from port 623, IPMI answers */
#define VECTOR_BACNET 44 /* UDP from port 47808, BACnet answers */
#define VECTOR_STUN 45 /* UDP from port 3478, STUN answers and TURN */
#define VECTOR_L2TP 46 /* UDP from port 1701, L2TP */
#define VECTOR_IKE 47 /* UDP from port 500 or 4500, IKE and ESP in UDP */
#define VECTOR_OPENVPN 48 /* UDP from port 1194, OpenVPN */
#define VECTOR_DVR 49 /* UDP from port 37810, video recorders' discovery answers */
#define VECTOR_SIP 50 /* UDP from port 5060, SIP */
#define VECTOR_UBIQUITI 51 /* UDP from port 10001, Ubiquiti discovery answers */
#define VECTOR_SOURCE_ENGINE 52 /* UDP from port 27015, answers of Source engine game servers */
#define VECTOR_QUAKE 53 /* UDP from port 27960, answers of Quake engine game servers */
#define VECTOR_XDMCP 54 /* UDP from port 177, XDMCP answers */
#define VECTOR_SLP 55 /* UDP from port 427, SLP answers */
#define VECTOR_CITRIX 56 /* UDP from port 1604, Citrix ICA browser answers */
#define VECTOR_JENKINS 57 /* UDP from port 33848, Jenkins discovery answers */
#define VECTOR_PLEX 58 /* UDP from port 32410 or 32414, Plex media server answers */
#define VECTOR_RDP 59 /* UDP from port 3389, RDP over UDP */
#define VECTOR_TP240 60 /* UDP from port 10074, Mitel TP-240 driver answers */
#define VECTOR_SADP 61 /* UDP from port 37020, Hikvision SADP answers */
#define VECTOR_NAT_PMP 62 /* UDP from port 5351, NAT-PMP and PCP answers */

#define VECTOR_COUNT 64 /* counters per target and direction, a power of two */
