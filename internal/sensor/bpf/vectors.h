/* Code generated from internal/vector; DO NOT EDIT. */
#pragma once

#define VECTOR_TOTAL 0 /* all packets to the target */
#define VECTOR_SYN 1 /* TCP SYN without ACK */
#define VECTOR_SYNACK 2 /* TCP SYN with ACK */
#define VECTOR_ACK 3 /* TCP ACK without SYN, RST or FIN */
#define VECTOR_RST 4 /* TCP RST */
#define VECTOR_TCP_INVALID 5 /* TCP flag sets no stack sends: none, SYN+FIN, SYN+RST, FIN without ACK */
#define VECTOR_TCP_OTHER 6 /* other TCP, such as FIN with ACK */
#define VECTOR_UDP_OTHER 7 /* UDP from no known reflection port */
#define VECTOR_ICMP 8 /* ICMP and ICMPv6 */
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

#define VECTOR_COUNT 32 /* counters per target, a power of two */
