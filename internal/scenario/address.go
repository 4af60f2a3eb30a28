package scenario

import (
	"encoding/binary"
	"net/netip"
)

// addr is an address as numbers; IPv4 has hi 0, which no address of ours or of the world has in IPv6.
type addr struct{ hi, lo uint64 }

func (a addr) v6() bool { return a.hi != 0 }

func addrOf(s string) addr {
	ip := netip.MustParseAddr(s)
	if ip.Is4() {
		b := ip.As4()
		return addr{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := ip.As16()
	return addr{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (a addr) netip() netip.Addr {
	var b [16]byte
	if !a.v6() {
		binary.BigEndian.PutUint32(b[:4], uint32(a.lo))
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	binary.BigEndian.PutUint64(b[:8], a.hi)
	binary.BigEndian.PutUint64(b[8:], a.lo)
	return netip.AddrFrom16(b)
}

// host is the prefix of the address alone.
func (a addr) host() netip.Prefix {
	ip := a.netip()
	return netip.PrefixFrom(ip, ip.BitLen())
}

// family is IPv4 or IPv6, with addresses for everybody. Ours are of the documentation's prefixes (RFC 5737, RFC 3849);
// the world's are of those for benchmarks, carrier NAT and documentation (RFC 2544, RFC 6598, RFC 9637).
type family struct{ six bool }

var (
	four     = family{}
	six      = family{true}
	families = []family{four, six}
)

func (x family) String() string {
	if x.six {
		return "v6"
	}
	return "v4"
}

// ours is the protected prefix, lan the part of it in which hosts are.
func (x family) ours() netip.Prefix {
	if x.six {
		return netip.MustParsePrefix("2001:db8:113::/48")
	}
	return netip.MustParsePrefix("203.0.113.0/24")
}

func (x family) lan() netip.Prefix {
	if x.six {
		return netip.MustParsePrefix("2001:db8:113:5::/64")
	}
	return x.ours()
}

// host is one of ours, by number.
func (x family) host(n uint8) addr {
	if x.six {
		a := addrOf("2001:db8:113:5::")
		a.lo |= uint64(n)
		return a
	}
	a := addrOf("203.0.113.0")
	a.lo |= uint64(n)
	return a
}

// pool is n addresses that look random below a prefix.
type pool struct {
	base addr
	bits uint // that are free; of the upper half for IPv6
	n    uint32
	salt uint64
}

func (p *pool) at(i uint32) addr {
	a := p.base
	if p.bits == 0 {
		return a
	}
	h := mix(p.salt + uint64(i))
	if a.v6() {
		a.hi |= h & (1<<p.bits - 1)
		a.lo = mix(h)
		return a
	}
	a.lo |= h & (1<<p.bits - 1)
	return a
}

// some returns one of the pool.
func (p *pool) some(r *rng) addr { return p.at(r.n(p.n)) }

// clients are n of the world's eyeballs, bots among them; servers n of its servers, open reflectors among them.
func (x family) clients(n uint32, salt uint64) *pool {
	if x.six {
		return &pool{addrOf("3fff:0:0::"), 40, n, mix(salt)}
	}
	return &pool{addrOf("100.64.0.0"), 22, n, mix(salt)}
}

func (x family) servers(n uint32, salt uint64) *pool {
	if x.six {
		return &pool{addrOf("3fff:800::"), 40, n, mix(salt + 1)}
	}
	return &pool{addrOf("198.18.0.0"), 17, n, mix(salt + 1)}
}

// source gives the address a packet of an attack comes from; n is the packet's number.
type source func(r *rng, n uint64) addr

// spoofed is any unicast address but ours.
func (x family) spoofed() source {
	if x.six {
		return func(r *rng, _ uint64) addr {
			for {
				a := addr{r.Uint64()>>3 | 1<<61, r.Uint64()} // 2000::/3
				if a.hi>>32 != 0x20010db8 {
					return a
				}
			}
		}
	}
	return func(r *rng, _ uint64) addr {
		for {
			a := r.Uint64() >> 32
			if top := a >> 24; top > 0 && top < 224 && top != 10 && top != 127 && a>>8 != 203<<16|113 {
				return addr{lo: a}
			}
		}
	}
}

// from is one of a pool, at random.
func from(p *pool) source { return func(r *rng, _ uint64) addr { return p.some(r) } }

// onto gives the address a packet of an attack goes to.
func onto(a addr) source { return func(*rng, uint64) addr { return a } }

// across is every address of ours alike: of a /24, or of a /64.
func (x family) across() source {
	if x.six {
		net := addrOf("2001:db8:113:5::")
		return func(r *rng, _ uint64) addr { return addr{net.hi, r.Uint64()} }
	}
	return func(r *rng, _ uint64) addr { return x.host(uint8(r.n(256))) }
}

// hosts is the first n hosts of ours, which in IPv6 are few of a /64.
func (x family) hosts(n uint32) source {
	return func(r *rng, _ uint64) addr { return x.host(uint8(r.n(n))) }
}
