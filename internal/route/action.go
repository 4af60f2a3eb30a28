package route

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ActionKind says what is to be done with a matching packet.
type ActionKind uint8

// The actions. Blackhole and SourceBlackhole make the route a unicast route with the BLACKHOLE community instead of a
// FlowSpec rule.
const (
	Discard         ActionKind = iota + 1 // traffic-rate-bytes 0 (RFC 8955, section 7.1)
	RateBytes                             // traffic-rate-bytes (RFC 8955, section 7.1)
	RatePackets                           // traffic-rate-packets (RFC 8955, section 7.2)
	Blackhole                             // destination RTBH (RFC 7999, 65535:666)
	Accept                                // forwarded, with what the action says besides; nothing behind this rule is looked at
	SourceBlackhole                       // source RTBH (RFC 5635, section 4): works where routers check sources (uRPF)
)

// Action is what is to be done with a packet, with its values. Actions are compared with ==.
type Action struct {
	Kind ActionKind
	// Rate is octets per second for RateBytes, packets per second for RatePackets, else 0.
	Rate     uint64
	Sample   bool     // traffic-action S: sample and log what matches (RFC 8955, section 7.3)
	Continue bool     // traffic-action T: look at the rules behind this one, too; the bit is named "terminal" there
	Mark     Optional // traffic-marking: the DSCP packets get, 0–63 (RFC 8955, section 7.5)
	Redirect Redirect
	Attributes
}

// Redirect sends packets elsewhere: into a VRF, or to a next hop. The zero Redirect does neither.
type Redirect struct {
	Target  RouteTarget // into the VRF that imports it (RFC 8955, section 7.4)
	Address netip.Addr  // to the next hop, of the rule's family (draft-ietf-idr-flowspec-redirect-ip)
	Copy    bool        // packets go on as usual, and a copy of each to Address
}

// RouteTarget is a route target in one of the three forms it has on the wire, which routers tell apart.
type RouteTarget struct {
	Form   TargetForm
	Global uint32 // the AS, or the IPv4 address as a number
	Local  uint32 // 32 bits beside a 2-octet AS, else 16
}

// TargetForm is the form of a RouteTarget; 0 is no target.
type TargetForm uint8

// The forms, with the type octet of their redirect community.
const (
	TargetAS2  TargetForm = iota + 1 // 0x80
	TargetIPv4                       // 0x81
	TargetAS4                        // 0x82
)

// Attributes are path attributes of one route, beside those that all routes of a router get.
type Attributes struct {
	NextHop     netip.Addr       // of a blackhole, in place of the configured one
	Communities Communities      // besides the configured ones
	Large       LargeCommunities // RFC 8092
	LocalPref   Optional         // reaches routers of our own AS only
	MED         Optional
}

// Optional is a number of at most 32 bits, or none: the zero Optional.
type Optional uint64

// Some is the number v.
func Some(v uint32) Optional { return Optional(v) + 1 }

// Get returns the number, if there is one.
func (o Optional) Get() (v uint32, ok bool) { return uint32(o - 1), o > 0 }

// MaxCommunities bounds the communities, and the large communities, of one route: with the configured ones they fit an attribute
// of 255 octets.
const MaxCommunities = 16

// Communities is a set of communities (RFC 1997) in the octets of their attribute, sorted, so that it can be compared.
type Communities string

// CommunitiesOf returns the set of cs.
func CommunitiesOf(cs ...uint32) Communities {
	cs = slices.Compact(slices.Sorted(slices.Values(cs)))
	var b []byte
	for _, c := range cs {
		b = binary.BigEndian.AppendUint32(b, c)
	}
	return Communities(b)
}

// All returns the communities in order.
func (c Communities) All() []uint32 {
	var out []uint32
	for b := []byte(c); len(b) >= 4; b = b[4:] {
		out = append(out, binary.BigEndian.Uint32(b))
	}
	return out
}

// LargeCommunities is a set of large communities (RFC 8092) in the octets of their attribute, sorted.
type LargeCommunities string

// LargeCommunitiesOf returns the set of cs.
func LargeCommunitiesOf(cs ...[3]uint32) LargeCommunities {
	cs = slices.Clone(cs)
	slices.SortFunc(cs, func(a, b [3]uint32) int { return slices.Compare(a[:], b[:]) })
	var b []byte
	for _, c := range slices.Compact(cs) {
		for _, v := range c {
			b = binary.BigEndian.AppendUint32(b, v)
		}
	}
	return LargeCommunities(b)
}

// All returns the large communities in order.
func (c LargeCommunities) All() [][3]uint32 {
	var out [][3]uint32
	for b := []byte(c); len(b) >= 12; b = b[12:] {
		out = append(out, [3]uint32{binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])})
	}
	return out
}

// IsBlackhole reports whether the action makes its route a unicast route.
func (a Action) IsBlackhole() bool { return a.Kind == Blackhole || a.Kind == SourceBlackhole }

// Words names everything the action does, in the words of the text form, without values: what a limit on actions is said
// in. ActionWords lists them all.
func (a Action) Words() []string {
	out := []string{a.Kind.String()}
	add := func(word string, said bool) {
		if said {
			out = append(out, word)
		}
	}
	add("sample", a.Sample)
	add("continue", a.Continue)
	add("mark", a.Mark > 0)
	add("redirect", a.Redirect != Redirect{} && !a.Redirect.Copy)
	add("copy", a.Redirect.Copy)
	add("next-hop", a.NextHop.IsValid())
	add("communities", a.Communities != "")
	add("large-communities", a.Large != "")
	add("local-pref", a.LocalPref > 0)
	add("med", a.MED > 0)
	return out
}

// ActionWords returns every word that Words may return.
func ActionWords() []string {
	return []string{
		"discard", "rate-limit", "blackhole", "source-blackhole", "accept", "sample", "continue", "mark", "redirect", "copy",
		"next-hop", "communities", "large-communities", "local-pref", "med",
	}
}

// validate calls bad with everything that makes the action meaningless or impossible to encode for a route of family f.
func (a Action) validate(f Family, bad func(format string, args ...any)) {
	switch a.Kind {
	case Discard, Blackhole, Accept, SourceBlackhole:
		if a.Rate != 0 {
			bad("action %s carries a rate of %d: it takes none", a.Kind, a.Rate)
		}
	case RateBytes, RatePackets:
		if a.Rate == 0 || a.Rate > MaxRate {
			bad("rate %d is outside 1 to %d: use discard for zero", a.Rate, MaxRate)
		}
	default:
		bad("action %d is not known: use discard, rate-limit, accept, blackhole or source-blackhole", a.Kind)
	}

	d, marks := a.Mark.Get()
	redirects := a.Redirect != Redirect{}
	switch {
	case a.IsBlackhole() && (a.Sample || a.Continue || marks || redirects):
		bad("%s beside sample, continue, mark, redirect or copy: a blackhole is a route, not a rule", a.Kind)
	case a.Kind == Discard && (a.Continue || marks || redirects):
		bad("discard beside continue, mark, redirect or copy: nothing is left of the packet")
	case a.Kind == Accept && a.Continue && !a.Sample && !marks && !redirects:
		bad("accept and continue together do nothing")
	}
	if marks && d > 63 {
		bad("mark %d is above 63", d)
	}
	a.Redirect.validate(f, bad)

	if hop := a.NextHop; hop.IsValid() {
		if !a.IsBlackhole() {
			bad("next-hop %s: a FlowSpec rule has none; use redirect", hop)
		}
		checkAddress("next-hop", hop, f, bad)
	}
	if !sortedSet([]byte(a.Communities), 4) {
		bad("communities: more than %d, or not a sorted set", MaxCommunities)
	}
	if !sortedSet([]byte(a.Large), 12) {
		bad("large-communities: more than %d, or not a sorted set", MaxCommunities)
	}
	for _, n := range []struct {
		word  string
		value Optional
	}{{"mark", a.Mark}, {"local-pref", a.LocalPref}, {"med", a.MED}} {
		if n.value > 1<<32 {
			bad("%s %d takes more than 32 bits", n.word, n.value-1)
		}
	}
}

func (r Redirect) validate(f Family, bad func(format string, args ...any)) {
	t := r.Target
	switch {
	case t != RouteTarget{} && (r.Address.IsValid() || r.Copy):
		bad("redirect both to a route target and to an address: name one")
	case r.Copy && !r.Address.IsValid():
		bad("copy without an address")
	case r.Address.IsValid():
		checkAddress("redirect", r.Address, f, bad)
	}
	switch t.Form {
	case 0:
		if t != (RouteTarget{}) {
			bad("redirect: a route target without its form")
		}
	case TargetAS2:
		if t.Global > 0xffff {
			bad("redirect: AS %d does not fit two octets", t.Global)
		}
	case TargetIPv4, TargetAS4:
		if t.Local > 0xffff {
			bad("redirect %s: %d behind a 4-octet AS or an address is above 65535", t, t.Local)
		}
	default:
		bad("redirect: route targets have no form %d", t.Form)
	}
}

// checkAddress wants a unicast address of the family that can be announced.
func checkAddress(word string, a netip.Addr, f Family, bad func(format string, args ...any)) {
	switch {
	case a.Is4In6() || a.Zone() != "":
		bad("%s %s: an IPv4-mapped or zoned address cannot be announced", word, a)
	case a.Is4() != (f == IPv4):
		bad("%s %s: the rule is %s", word, a, f)
	case a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		bad("%s %s is no address of a host", word, a)
	}
}

// sortedSet reports whether b is made of at most MaxCommunities elements of the size, each above the one before.
func sortedSet(b []byte, size int) bool {
	if len(b)%size != 0 || len(b)/size > MaxCommunities {
		return false
	}
	for i := size; i < len(b); i += size {
		if slices.Compare(b[i-size:i], b[i:i+size]) >= 0 {
			return false
		}
	}
	return true
}

func (k ActionKind) String() string {
	switch k {
	case Discard:
		return "discard"
	case RateBytes, RatePackets:
		return "rate-limit"
	case Blackhole:
		return "blackhole"
	case Accept:
		return "accept"
	case SourceBlackhole:
		return "source-blackhole"
	}
	return fmt.Sprintf("action-%d", uint8(k))
}

// String returns the action in text form.
func (a Action) String() string {
	var parts []string
	switch a.Kind {
	case RateBytes:
		parts = append(parts, "rate-limit "+formatRate(a.Rate*8, "bps"))
	case RatePackets:
		parts = append(parts, "rate-limit "+formatRate(a.Rate, "pps"))
	case Accept: // goes without saying beside what else is done
		if !a.Sample && !a.Continue && a.Mark == 0 && a.Redirect == (Redirect{}) {
			parts = append(parts, "accept")
		}
	default:
		parts = append(parts, a.Kind.String())
	}
	if a.Sample {
		parts = append(parts, "sample")
	}
	if a.Continue {
		parts = append(parts, "continue")
	}
	number := func(word string, o Optional) {
		if v, ok := o.Get(); ok {
			parts = append(parts, fmt.Sprintf("%s %d", word, v))
		}
	}
	number("mark", a.Mark)
	if a.Redirect != (Redirect{}) {
		parts = append(parts, a.Redirect.String())
	}
	if a.NextHop.IsValid() {
		parts = append(parts, "next-hop "+a.NextHop.String())
	}
	if a.Communities != "" {
		parts = append(parts, "communities "+a.Communities.String())
	}
	if a.Large != "" {
		parts = append(parts, "large-communities "+a.Large.String())
	}
	number("local-pref", a.LocalPref)
	number("med", a.MED)
	return strings.Join(parts, " ")
}

// String returns the redirect in text form.
func (r Redirect) String() string {
	switch {
	case r.Copy:
		return "copy " + r.Address.String()
	case r.Address.IsValid():
		return "redirect " + r.Address.String()
	}
	return "redirect " + r.Target.String()
}

// String returns the route target in text form: 64500:100, 192.0.2.1:100 or, with a 4-octet AS, 4200000000:100. An AS of
// two octets that is written in four has an L behind it: 64500L:100.
func (t RouteTarget) String() string {
	switch t.Form {
	case TargetIPv4:
		return fmt.Sprintf("%s:%d", t.Address(), t.Local)
	case TargetAS4:
		if t.Global <= 0xffff {
			return fmt.Sprintf("%dL:%d", t.Global, t.Local)
		}
	}
	return fmt.Sprintf("%d:%d", t.Global, t.Local)
}

// Address is the address of a target of the form TargetIPv4.
func (t RouteTarget) Address() netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, t.Global)))
}

// communityWords are the well-known communities with a word of their own (IANA; RFC 1997, RFC 7999, RFC 8326).
var communityWords = map[string]uint32{
	"graceful-shutdown": 0xffff0000, "blackhole": 0xffff029a, "no-export": 0xffffff01, "no-advertise": 0xffffff02,
	"no-export-subconfed": 0xffffff03, "no-peer": 0xffffff04,
}

// String returns the communities in text form.
func (c Communities) String() string {
	var parts []string
	for _, v := range c.All() {
		word := fmt.Sprintf("%d:%d", v>>16, v&0xffff)
		for w, known := range communityWords {
			if known == v {
				word = w
			}
		}
		parts = append(parts, word)
	}
	return strings.Join(parts, ",")
}

// String returns the large communities in text form.
func (c LargeCommunities) String() string {
	var parts []string
	for _, v := range c.All() {
		parts = append(parts, fmt.Sprintf("%d:%d:%d", v[0], v[1], v[2]))
	}
	return strings.Join(parts, ",")
}

// Compare orders route targets.
func (t RouteTarget) Compare(o RouteTarget) int {
	return cmp.Or(cmp.Compare(t.Form, o.Form), cmp.Compare(t.Global, o.Global), cmp.Compare(t.Local, o.Local))
}
