package safety

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// checks lists the invariants of one route. "make mutate-safety" removes one line after the other and demands that the
// test of the same name goes red.
var checks = []struct {
	invariant Invariant
	broken    func(*kernel, *entry) (reason string)
}{
	{Malformed, malformed},
	{ValueRange, valueRange},
	{MatchAll, matchAll},
	{OutsideOwn, outsideOwn},
	{SourceOnly, sourceOnly},
	{Protected, protected},
	{BGP, cutsBGP},
	{BlackholeWidth, blackholeWidth},
	{AutomaticWidth, automaticWidth},
	{SourceBlackhole, sourceBlackhole},
	{RedirectTarget, redirectTarget},
	{AutomaticAction, automaticAction},
	{EncodedSize, encodedSize},
	{Encoding, encoding},
	{Deadline, deadline},
	{MaxAge, tooOld},
}

func malformed(_ *kernel, e *entry) string {
	if e.Made != nil && e.judged {
		return e.Made.malformed
	}
	if err := e.Route.Validate(); err != nil {
		return err.Error()
	}
	if c := e.Route.Canonical(); !c.Equal(e.Route) {
		return fmt.Sprintf("not in canonical form: write %q", c)
	}
	return ""
}

// valueRange repeats what route.Validate says about values, from the RFCs and not from its table: packet lengths nobody
// could receive once crashed every edge router of a large network.
func valueRange(_ *kernel, e *entry) string {
	m := e.Route.Match
	for _, f := range []struct {
		name   string
		ranges []route.Range
		max    uint32
	}{
		{"protocol", m.Protocol, 0xff},
		{"port", m.Port, 0xffff},
		{"destination-port", m.DestinationPort, 0xffff},
		{"source-port", m.SourcePort, 0xffff},
		{"icmp-type", m.ICMPType, 0xff},
		{"icmp-code", m.ICMPCode, 0xff},
		{"length", m.Length, 0xffff},
		{"dscp", m.DSCP, 0x3f},
		{"flow-label", m.FlowLabel, 0xfffff},
	} {
		for _, r := range f.ranges {
			if r.Lo > r.Hi || r.Hi > f.max {
				return fmt.Sprintf("%s %d-%d is not a range within 0-%d", f.name, r.Lo, r.Hi, f.max)
			}
		}
	}
	for _, b := range m.TCPFlags {
		if (b.Set|b.Clear)&^0xfff != 0 {
			return fmt.Sprintf("TCP flags 0x%04x do not exist: the header has 12 bits", b.Set|b.Clear)
		}
	}
	var known uint16 = route.DontFragment | route.IsFragment | route.FirstFragment | route.LastFragment
	if e.Route.Family() == route.IPv6 {
		known &^= route.DontFragment
	}
	for _, b := range m.Fragment {
		if (b.Set|b.Clear)&^known != 0 {
			return fmt.Sprintf("fragment bits 0x%02x do not exist in %s: allowed are 0x%02x", b.Set|b.Clear, e.Route.Family(), known)
		}
	}
	return ""
}

// narrow reports whether a prefix excludes any address of its family.
func narrow(p netip.Prefix) bool { return p.IsValid() && p.Bits() > 0 }

func matchAll(_ *kernel, e *entry) string {
	if narrow(e.destination()) || narrow(e.source()) {
		return ""
	}
	return "matches every address: name the destination that is attacked"
}

func outsideOwn(k *kernel, e *entry) string {
	d := e.destination()
	if !d.IsValid() {
		return "" // for SourceOnly to judge
	}
	if offset := e.Route.Match.DestinationOffset; offset > 0 {
		return fmt.Sprintf("destination with an offset of %d: it matches addresses far beyond our own prefixes; name the whole destination", offset)
	}
	if _, ok := k.own.covering(d); ok {
		return ""
	}
	if p, ok := k.own.overlapping(d); ok {
		return fmt.Sprintf("destination %s is wider than our prefix %s: name a part of it", d, p)
	}
	return fmt.Sprintf("destination %s is in none of our own prefixes: correct it, or add the prefix to the configuration if it is ours", d)
}

func sourceOnly(k *kernel, e *entry) string {
	s := e.source()
	if e.destination().IsValid() {
		return ""
	}
	if !s.IsValid() {
		return "has neither destination nor source"
	}
	if offset := e.Route.Match.SourceOffset; offset > 0 {
		return fmt.Sprintf("no destination and a source with an offset of %d, which matches hosts in every network, also for an approver: name a destination", offset)
	}
	if !e.approved() {
		return "no destination, so it takes the traffic of all our networks: name a destination" + orApproval(e)
	}
	if least := floor(s, k.limits.SourceMinLength4, k.limits.SourceMinLength6, minSource4, minSource6); s.Bits() < least {
		return fmt.Sprintf("no destination and source %s is shorter than /%d, also for an approver: narrow the source or name a destination", s, least)
	}
	return ""
}

func protected(k *kernel, e *entry) string {
	p, what, ok := k.reachesNever(e)
	if !ok || e.approved() {
		return ""
	}
	return fmt.Sprintf("%s overlaps %s, which is on the never list: choose another match%s", what, p, orApproval(e))
}

// reachesNever returns the protected prefix that the destination or source of a rule overlaps.
func (k *kernel) reachesNever(e *entry) (p netip.Prefix, what string, ok bool) {
	if d := e.destination(); d.IsValid() {
		if p, ok := k.never.overlapping(d); ok {
			return p, "destination " + d.String(), true
		}
	}
	if s := e.source(); s.IsValid() {
		overlapping := k.never.overlapping
		if offset := e.Route.Match.SourceOffset; offset > 0 {
			overlapping = func(p netip.Prefix) (netip.Prefix, bool) { return k.never.alike(p, int(offset)) }
		}
		if p, ok := overlapping(s); ok {
			return p, "source " + s.String(), true
		}
	}
	return netip.Prefix{}, "", false
}

func orApproval(e *entry) string {
	if e.Manual {
		return ", or have an approver announce it"
	}
	return " (automation may not do this; an approver may, by hand)"
}

func blackholeWidth(k *kernel, e *entry) string {
	d := e.destination()
	if !e.Route.IsBlackhole() || !d.IsValid() || d.IsSingleIP() {
		return ""
	}
	if !e.approved() {
		return fmt.Sprintf("blackhole of %s, not of a host: blackhole /%d%s", d, d.Addr().BitLen(), orApproval(e))
	}
	if least := floor(d, k.limits.BlackholeMinLength4, k.limits.BlackholeMinLength6, minBlackhole4, minBlackhole6); d.Bits() < least {
		return fmt.Sprintf("blackhole of %s is shorter than /%d, also for an approver: blackhole less", d, least)
	}
	return ""
}

// automaticWidth keeps automation from rules for whole networks: what it measured there may be the sum of many hosts,
// each far below any limit, and the rule would hit them all.
func automaticWidth(_ *kernel, e *entry) string {
	d := e.destination()
	if e.Manual || !d.IsValid() || d.IsSingleIP() {
		return ""
	}
	return fmt.Sprintf("destination %s is a network: automation announces rules for single hosts; announce it by hand if it is meant", d)
}

func encodedSize(_ *kernel, e *entry) string {
	if errors.Is(e.nlriErr, route.ErrTooLong) {
		return e.nlriErr.Error()
	}
	return ""
}

func encoding(_ *kernel, e *entry) string {
	if e.judged {
		return e.encodedBad
	}
	if e.Route.IsBlackhole() || errors.Is(e.nlriErr, route.ErrTooLong) {
		return ""
	}
	err := e.nlriErr
	if err == nil {
		err = CheckWire(e.Route.Family(), e.Route.Match, e.nlri)
	}
	if err == nil {
		ec, ec6 := e.Route.Action.ExtendedCommunities()
		err = CheckAction(e.Route.Action, ec, ec6)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func deadline(k *kernel, e *entry) string {
	switch {
	case e.Deadline.IsZero():
		return "has no deadline: every route has an end from birth"
	case !e.Deadline.After(k.now):
		return fmt.Sprintf("its deadline %s has passed", stamp(e.Deadline))
	}
	return ""
}

func tooOld(k *kernel, e *entry) string {
	switch {
	case e.Created.IsZero():
		return "does not say when it was created: its age cannot be bounded"
	case e.Created.After(k.now.Add(clockSkew)):
		return fmt.Sprintf("created %s, in the future: are the clocks synchronised?", stamp(e.Created))
	case e.Deadline.Sub(e.Created) > k.limits.MaxAge:
		return fmt.Sprintf("ends %s, %s after it was created; at most %s are allowed: announce it anew when it is needed longer",
			stamp(e.Deadline), e.Deadline.Sub(e.Created), k.limits.MaxAge)
	}
	return ""
}
