package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// check reports what is well written and makes no sense, or is dangerous.
func (c *Controller) check(r *document.Report) {
	if c.Name == "" {
		r.Add("name", "is missing, and this host has no name that could stand in: write one")
	}
	if w := c.PolicyWatch; w > 0 && w < time.Second {
		r.Add("policy_watch", "%s is too often: at least 1s, or 0s for never", document.FormatDuration(w))
	}
	checkTLS(r, "tls", c.TLS)
	checkListen(r, "listen.sensors", c.Listen.Sensors, c.TLS)
	checkListen(r, "listen.console", c.Listen.Console, c.TLS)
	checkListen(r, "listen.telemetry", c.Listen.Telemetry, c.TLS)
	checkListen(r, "speaker.telemetry", c.Speaker.Telemetry, c.TLS)
	if a := c.Listen.ConsoleSocket; a != (Address{}) && a.Path == "" {
		r.Add("listen.console_socket", "%s is not a unix socket: write unix:///path", a)
	}
	checkDistinct(r, []place{
		{"listen.sensors", c.Listen.Sensors},
		{"listen.console", c.Listen.Console},
		{"listen.console_socket", c.Listen.ConsoleSocket},
		{"listen.telemetry", c.Listen.Telemetry},
		{"speaker.socket", Address{Path: c.Speaker.Socket}},
		{"speaker.telemetry", c.Speaker.Telemetry},
	})
	c.Network.check(r)
	c.Safety.check(r)
	c.Store.check(r)
	c.Speaker.check(r)
	c.checkKept(r)
	if s := c.Sensors; s.HotInterval > s.ReportInterval {
		r.Add("sensors.hot_interval", "%s is longer than report_interval, which is %s", document.FormatDuration(s.HotInterval), document.FormatDuration(s.ReportInterval))
	}
	if s := c.Sensors; s.StaleAfter < 2*s.ReportInterval {
		r.Add("sensors.stale_after", "%s is less than two report intervals of %s: every sensor would count as lost between two reports",
			document.FormatDuration(s.StaleAfter), document.FormatDuration(s.ReportInterval))
	}
	c.Breaker.check(r, c.Sensors.ReportInterval)
	twice(r, "sensors.allowed", c.Sensors.Allowed)
	ports, of := map[uint16]int{}, map[vector.ID]int{}
	for i, p := range c.Sensors.ReflectionPorts {
		if of[p.Vector]++; of[p.Vector] == mostPorts+1 {
			r.Add(fmt.Sprintf("sensors.reflection_ports[%d].vector", i), "%s has %d ports before this one, and a rule against it has room for no more: give this one another vector", p.Vector, mostPorts)
		}
		if j, ok := ports[p.Port]; ok && p.Port != 0 {
			r.Add(fmt.Sprintf("sensors.reflection_ports[%d].port", i), "%d is sensors.reflection_ports[%d] already", p.Port, j)
		}
		ports[p.Port] = i
	}
}

// mostPorts is how many ports may be added to a vector: a FlowSpec rule of 238 octets names 76.
const mostPorts = 64

type place struct {
	at      string
	address Address
}

// checkDistinct reports listeners that would get in one another's way. Port 0 is a port of its own each time.
func checkDistinct(r *document.Report, places []place) {
	for i, p := range places {
		for _, q := range places[:i] {
			if p.address == q.address && p.address != (Address{}) && (p.address.Path != "" || p.address.Port != 0) {
				r.Add(p.at, "%s is where %s listens already", p.address, q.at)
			}
		}
	}
}

// The shortest prefixes that can be one network's own.
const (
	minOwn4 = 8
	minOwn6 = 16
)

func (n *Network) check(r *document.Report) {
	if len(n.Own) == 0 {
		r.Add("network.own_prefixes", "is empty: name the prefixes you protect; no rule is announced for anything else")
	}
	for i, p := range n.Own {
		at := fmt.Sprintf("network.own_prefixes[%d]", i)
		least := minOwn4
		if p.Addr().Is6() {
			least = minOwn6
		}
		switch {
		case !p.IsValid(): // reported when it was read
		case p.Bits() < least:
			r.Add(at, "%s is shorter than /%d: name what is really yours", p, least)
		case p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast():
			r.Add(at, "%s is not a network that is routed to hosts of yours", p)
		}
	}
	twice(r, "network.own_prefixes", n.Own)
	twice(r, "network.never", n.Never)
	for i, p := range n.Never {
		covers := func(own netip.Prefix) bool {
			return p.IsValid() && own.IsValid() && own.Overlaps(p) && p.Bits() <= own.Bits()
		}
		if j := slices.IndexFunc(n.Own, covers); j >= 0 {
			r.Add(fmt.Sprintf("network.never[%d]", i), "%s covers all of own_prefixes[%d], %s: nothing of it could be protected", p, j, n.Own[j])
		}
	}
}

// Beyond these a limit is dangerous and needs its word besides.
const (
	wideBlackhole4, wideBlackhole6 = 24, 48
	wideSource4, wideSource6       = 16, 32
	longAge                        = 7 * day
	largeShare                     = 0.25
)

func (s *Safety) check(r *document.Report) {
	if !s.AllowWideBlackhole {
		for _, f := range []struct {
			key         string
			value, safe int
		}{
			{"blackhole_min_length_v4", s.BlackholeMinLength4, wideBlackhole4},
			{"blackhole_min_length_v6", s.BlackholeMinLength6, wideBlackhole6},
			{"source_min_length_v4", s.SourceMinLength4, wideSource4},
			{"source_min_length_v6", s.SourceMinLength6, wideSource6},
		} {
			if f.value < f.safe {
				r.Add("safety."+f.key, "%d is below %d, which is dangerous: set safety.allow_wide_blackhole: true besides if it is meant", f.value, f.safe)
			}
		}
	}
	if s.MaxAge > longAge && !s.AllowLongAge {
		r.Add("safety.max_age", "%s is above %s, which is dangerous: set safety.allow_long_age: true besides if it is meant",
			document.FormatDuration(s.MaxAge), document.FormatDuration(longAge))
	}
	if s.MaxOwnShare > largeShare && !s.AllowLargeShare {
		r.Add("safety.max_own_share", "%g%% is above %g%%, which is dangerous: set safety.allow_large_share: true besides if it is meant",
			s.MaxOwnShare*100, float64(largeShare)*100)
	}
	twice(r, "safety.automatic_actions", s.AutomaticActions)
	twice(r, "safety.redirect_targets", s.RedirectTargets)
	twice(r, "safety.redirect_addresses", s.RedirectAddresses)
	for _, f := range []struct {
		key   string
		value int
	}{
		{"max_rules_per_target", s.MaxRulesPerTarget},
		{"max_rules_per_owner", s.MaxRulesPerOwner},
		{"max_rules_per_response", s.MaxRulesPerResponse},
		{"max_rules_per_group", s.MaxRulesPerGroup},
	} {
		if f.value > s.MaxRules && r.Has("safety."+f.key) { // a default above max_rules does no harm
			r.Add("safety."+f.key, "%d is more than max_rules, which is %d", f.value, s.MaxRules)
		}
	}
}

func (b *Breaker) check(r *document.Report, interval time.Duration) {
	if b.Settle < 2*interval && r.Has("breaker.settle") { // a default is raised
		r.Add("breaker.settle", "%s is less than two report intervals of %s: other sensors have not spoken yet, and all would seem to disagree",
			document.FormatDuration(b.Settle), document.FormatDuration(interval))
	}
	if least := max(b.Settle, 2*interval); least > b.Span {
		r.Add("breaker.span", "%s is shorter than settle, which is %s: nothing would be judged in it", document.FormatDuration(b.Span), document.FormatDuration(least))
	}
}

func (s *Store) check(r *document.Report) {
	checkTLS(r, "store.tls", s.TLS)
	if len(s.Endpoints) == 0 && s.TLS.Enabled() {
		r.Add("store.tls", "means nothing without store.endpoints: the embedded etcd is not reachable from outside")
	}
	twice(r, "store.endpoints", s.Endpoints)
	for i, e := range s.Endpoints {
		u, err := url.Parse(e)
		if err != nil || e == "" {
			continue // reported when it was read
		}
		at := fmt.Sprintf("store.endpoints[%d]", i)
		switch {
		case u.Scheme == "https" && !s.TLS.Enabled():
			r.Add(at, "%s needs store.tls.ca, store.tls.cert and store.tls.key", e)
		case u.Scheme == "http" && s.TLS.Enabled():
			r.Suggest(at, "https://"+u.Host, "%s is not encrypted, although store.tls is set", e)
		case u.Scheme == "http" && !(Address{Host: u.Hostname()}).IsLocal():
			r.Suggest(at, "https://"+u.Host, "%s crosses the network unprotected, and who can write there can announce routes: use https and store.tls", e)
		}
	}
	if s.LeaseTTL%time.Second != 0 {
		r.Add("store.lease_ttl", "%s is not a whole number of seconds, which is what etcd counts in", s.LeaseTTL)
	}
}

func endpointCodec() document.Codec[string] {
	return document.Codec[string]{
		Type: "URL",
		Parse: func(s string) (string, error) {
			u, err := url.Parse(s)
			if err != nil || u.Scheme != "http" && u.Scheme != "https" {
				if _, _, serr := net.SplitHostPort(s); serr == nil && !strings.Contains(s, "/") {
					return "", document.Wrong("https://"+s, "%q is not a URL", s)
				}
				return "", document.Wrong("", "%q is not a URL such as https://etcd1.example.net:2379", s)
			}
			bare := u.Scheme + "://" + u.Host
			switch {
			case u.Hostname() == "":
				return "", document.Wrong("", "%q has no host", s)
			case u.Port() == "":
				return "", document.Wrong(u.Scheme+"://"+net.JoinHostPort(u.Hostname(), "2379"), "%q has no port", s)
			case u.User != nil:
				return "", document.Wrong(bare, "a URL with a password in it: use certificates")
			case s != bare:
				return "", document.Wrong(bare, "%q has more than a host and a port", s)
			}
			return s, nil
		},
		Format: func(s string) string { return s },
	}
}

// checkKept bounds how long a rule outlives its deadline when nobody can withdraw it: a router knows of no deadlines, and
// begins to count when the last session is lost, which may be just before one.
func (c *Controller) checkKept(r *document.Report) {
	kept, most := c.Speaker.GracefulRestartTime+c.Speaker.LongLivedTime, c.Safety.MaxAge
	if len(c.Speaker.Peers) == 0 || kept <= most {
		return
	}
	key := "speaker.graceful_restart_time"
	if c.Speaker.LongLivedTime > 0 {
		key = "speaker.long_lived_time"
	}
	r.Add(key, "lets routers keep rules for %s (graceful_restart_time and long_lived_time together) while no speaker can withdraw them, which is more than safety.max_age: %s: shorten it, or raise max_age if rules may live that long",
		document.FormatDuration(kept), document.FormatDuration(most))
}

func (s *Speaker) check(r *document.Report) {
	if len(s.Peers) > 0 {
		if s.ASN == 0 {
			r.Add("speaker.asn", "is missing: with peers we need our autonomous system number")
		}
		if !s.RouterID.IsValid() {
			r.Add("speaker.router_id", "is missing: with peers we need a BGP identifier, an IPv4 address of this host")
		}
	}
	if s.ASN == 23456 || s.ASN == 65535 || s.ASN == 4294967295 {
		r.Add("speaker.asn", "%d is reserved (RFC 6793, RFC 7300)", s.ASN)
	}
	if id := s.RouterID; id.IsValid() && (!id.Is4() || id.IsUnspecified()) {
		r.Add("speaker.router_id", "%s is not an IPv4 address other than 0.0.0.0, which is how a BGP identifier is written", id)
	}
	seconds(r, "speaker.graceful_restart_time", s.GracefulRestartTime)
	seconds(r, "speaker.long_lived_time", s.LongLivedTime)
	if s.LongLivedTime > 0 && s.GracefulRestartTime == 0 {
		r.Add("speaker.long_lived_time", "begins when graceful_restart_time ends, and that is 0s: give it a time, or leave long_lived_time out")
	}
	checkHops(r, "speaker.blackhole.next_hop_v4", s.Blackhole.NextHop4, "speaker.blackhole.next_hop_v6", s.Blackhole.NextHop6)
	if n := len(s.Blackhole.Communities); n > maxCommunities {
		r.Add("speaker.blackhole.communities", "holds %d; at most %d are announced", n, maxCommunities)
	}
	if len(s.Socket) > maxSocket {
		r.Add("speaker.socket", "is %d octets long; the path of a socket has at most %d", len(s.Socket), maxSocket)
	}
	if len(s.ListenAddresses) > 0 && s.ListenPort <= 0 {
		r.Add("speaker.listen_addresses", "means nothing while speaker.listen_port is %d", s.ListenPort)
	}
	twice(r, "speaker.listen_addresses", s.ListenAddresses)
	twice(r, "speaker.blackhole.communities", s.Blackhole.Communities)

	s.checkGroups(r)
	names, addresses := map[string]int{}, map[netip.Addr]int{}
	for i := range s.Peers {
		p := &s.Peers[i]
		at := fmt.Sprintf("speaker.peers[%d]", i)
		if j, ok := names[p.Name]; ok && p.Name != "" {
			r.Add(at+".name", "%s is the name of peers[%d] already", p.Name, j)
		} else {
			names[p.Name] = i
		}
		if j, ok := addresses[p.Address]; ok && p.Address.IsValid() {
			r.Add(at+".address", "%s is the address of peers[%d] already", p.Address, j)
		} else {
			addresses[p.Address] = i
		}
		s.checkPeer(r, i)
	}
}

// checkGroups reports groups that cannot be told apart or that no router is in, and routers of groups there are not.
func (s *Speaker) checkGroups(r *document.Report) {
	var names []string
	for i, g := range s.PeerGroups {
		at := fmt.Sprintf("speaker.peer_groups[%d].name", i)
		if g.Name == "" {
			continue // reported when it was read
		}
		if j, _ := s.Group(g.Name); j < i {
			r.Add(at, "%s is the name of peer_groups[%d] already", g.Name, j)
			continue
		}
		if !slices.ContainsFunc(s.Peers, func(p Peer) bool { return p.Group == g.Name }) {
			r.Add(at, "no router is in %s: write group: %s into the entries of its routers in speaker.peers, or leave the group out", g.Name, g.Name)
		}
		if a := g.Of.Probe.Address; a.IsValid() {
			r.Add(fmt.Sprintf("speaker.peer_groups[%d].probe.address", i), "%s would be asked in the name of every router in %s: write it into the router's own entry", a, g.Name)
		}
		names = append(names, g.Name)
	}
	for i, p := range s.Peers {
		at := fmt.Sprintf("speaker.peers[%d].group", i)
		switch {
		case p.Group == "" || slices.Contains(names, p.Group):
		case len(names) == 0:
			r.Add(at, "%q is not a group: there are none in speaker.peer_groups", p.Group)
		default:
			r.Suggest(at, document.Nearest(p.Group, names), "%q is not a group of speaker.peer_groups; there are %s", p.Group, strings.Join(names, ", "))
		}
	}
}

// origin is where a value of the i-th router was written: the path of the key in the router's entry or in that of its
// group. A default is the router's.
func (s *Speaker) origin(r *document.Report, i int, key string) string {
	at := fmt.Sprintf("speaker.peers[%d].%s", i, key)
	if g, ok := s.Group(s.Peers[i].Group); ok && !r.Has(at) {
		if of := fmt.Sprintf("speaker.peer_groups[%d].%s", g, key); r.Has(of) {
			return of
		}
	}
	return at
}

// checkPeer reports what is wrong with a router, at the place where it was written: what a group says is told once.
func (s *Speaker) checkPeer(r *document.Report, i int) {
	p := &s.Peers[i]
	at := func(key string) string { return s.origin(r, i, key) }
	// other names a second key of a problem that is told at the first, with its place where that is not the same entry.
	other := func(first, key string) string {
		a, b := at(first), at(key)
		if strings.TrimSuffix(a, first) == strings.TrimSuffix(b, key) {
			return key
		}
		return strings.TrimPrefix(b, "speaker.")
	}
	if p.ASN == 0 && !r.Bad(at("group")) {
		r.Add(at("asn"), "is missing: the router's autonomous system number, here or in its group")
	}
	if a := p.Address; a.IsUnspecified() || a.IsMulticast() {
		r.Add(at("address"), "%s is not the address of a router", a)
	}
	if a := p.LocalAddress; a.IsValid() && p.Address.IsValid() && a.Is4() != p.Address.Is4() {
		r.Add(at("local_address"), "%s is of another family than %s, which is %s", a, other("local_address", "address"), p.Address)
	}
	if p.Passive && s.ListenPort <= 0 {
		r.Add(at("passive"), "waits for the router to connect, but speaker.listen_port is %d: set it to 179, or leave passive out", s.ListenPort)
	}
	if p.TTLSecurity && p.MultihopTTL > 0 {
		r.Add(at("ttl_security"), "takes packets from one hop away, but %s is %d: leave one of them out", other("ttl_security", "multihop_ttl"), p.MultihopTTL)
	}
	if p.MultihopTTL > 1 && p.ASN == s.ASN && s.ASN != 0 {
		r.Add(at("multihop_ttl"), "means nothing in iBGP, and %s %d is our own: leave it out", other("multihop_ttl", "asn"), p.ASN)
	}
	if len(p.Families) == 0 {
		r.Add(at("families"), "is empty: the session would carry nothing; leave the key out for all families")
	}
	twice(r, at("families"), p.Families)
	twice(r, at("widen"), p.Widen)
	checkHops(r, at("next_hop_v4"), p.NextHop4, at("next_hop_v6"), p.NextHop6)
	seconds(r, at("hold_time"), p.HoldTime)
	seconds(r, at("connect_retry"), p.ConnectRetry)
	p.Probe.check(r, at)
}

// check reports what is wrong with how a router is asked.
func (p *Probe) check(r *document.Report, at func(string) string) {
	var ways []string
	for _, w := range []struct {
		on  bool
		key string
	}{{len(p.Run) > 0, "run"}, {p.SNMP.On(), "snmp"}, {p.GNMI.On(), "gnmi"}} {
		if w.on {
			ways = append(ways, w.key)
		}
	}
	if len(ways) > 1 {
		r.Add(at("probe."+ways[1]), "a router is asked in one way, and this is beside probe.%s: leave one out, or take a group's back with run: [] or user: \"\"", ways[0])
	}
	s, g := p.SNMP, p.GNMI
	switch {
	case s.User != "" && s.CommunityFile != "":
		r.Add(at("probe.snmp.community_file"), "is of version 2c, and user %s of version 3: leave one out", s.User)
	case s.CommunityFile != "" && !s.Cleartext:
		r.Add(at("probe.snmp.community_file"), "is of version 2c, which sends the community in the clear: use a user of version 3, or set probe.snmp.cleartext: true where nobody else is on the way")
	case s.User != "":
		for _, f := range [][2]string{{"auth_file", s.AuthFile}, {"privacy_file", s.PrivacyFile}} {
			if f[1] == "" {
				r.Add(at("probe.snmp."+f[0]), "is missing: user %s authenticates and encrypts, so both auth_file and privacy_file are needed", s.User)
			}
		}
	}
	if g.On() && g.CAFile == "" {
		r.Add(at("probe.gnmi.ca_file"), "is missing: without it nothing proves that the router is the router; name the PEM file of the authority that signed its certificate, or the certificate itself")
	}
	if (g.User == "") != (g.PasswordFile == "") {
		r.Add(at("probe.gnmi.password_file"), "goes with probe.gnmi.user: set both or neither")
	}
	if (g.CertFile == "") != (g.KeyFile == "") {
		r.Add(at("probe.gnmi.key_file"), "goes with probe.gnmi.cert_file: set both or neither")
	}
}

// maxCommunities leaves room for those the speaker adds.
const maxCommunities = 30

func checkHops(r *document.Report, at4 string, v4 netip.Addr, at6 string, v6 netip.Addr) {
	if v4.IsValid() && (!v4.Is4() || v4.IsUnspecified()) {
		r.Add(at4, "%s is not an IPv4 address packets could be sent to", v4)
	}
	if v6.IsValid() && (!v6.Is6() || v6.IsUnspecified()) {
		r.Add(at6, "%s is not an IPv6 address packets could be sent to", v6)
	}
}

func seconds(r *document.Report, at string, d time.Duration) {
	if d%time.Second != 0 {
		r.Add(at, "%s is not a whole number of seconds, which is what BGP counts in", d)
	}
}

// twice reports what stands in a list more than once.
func twice[T comparable](r *document.Report, at string, list []T) {
	var zero T
	first := map[T]int{}
	for i, v := range list {
		if j, ok := first[v]; ok && v != zero {
			r.Add(fmt.Sprintf("%s[%d]", at, i), "%v stands twice; the first is entry [%d]: keep one of them", v, j)
			continue
		}
		first[v] = i
	}
}
